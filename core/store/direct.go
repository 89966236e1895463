package store

import "strings"

// DirectRooms lists the direct rooms of a pair of users, in order.
func (tx *Tx) DirectRooms(users string) (rooms []string, err error) {
	return tx.texts(`SELECT room_id FROM direct_room WHERE users=? ORDER BY room_id`, users)
}

// PutDirectRoom notes a direct room.
func (tx *Tx) PutDirectRoom(users, room string) error {
	return tx.do(`INSERT INTO direct_room (users, room_id) VALUES (?, ?) ON CONFLICT (users, room_id) DO NOTHING`, users, room)
}

// DropDirectRoom forgets one that is over.
func (tx *Tx) DropDirectRoom(room string) error {
	return tx.do(`DELETE FROM direct_room WHERE room_id=?`, room)
}

// DirectPair gives the two users of a direct room; none if it is not one.
func (tx *Tx) DirectPair(room string) (a, b string, err error) {
	var users string
	if _, err = tx.one([]any{&users}, `SELECT users FROM direct_room WHERE room_id=?`, room); err != nil {
		return "", "", err
	}
	a, b, _ = strings.Cut(users, " ")
	return a, b, nil
}
