package store

// Due says when a joined room has to be looked at though nothing happens in it. Times are ms.
type Due struct {
	At      int64  // 0: at each start
	Refresh int64  // when a local client's keys are to be changed, 0 if not set yet
	Leaf    uint32 // whose were changed last
}

// Due reads a room's; zero if there is no row.
func (tx *Tx) Due(room string) (d Due, err error) {
	_, err = tx.one([]any{&d.At, &d.Refresh, &d.Leaf}, `SELECT due, refresh, leaf FROM room_due WHERE room_id=?`, room)
	return d, err
}

// PutDue writes a room's.
func (tx *Tx) PutDue(room string, d Due) error {
	return tx.do(`INSERT INTO room_due (room_id, due, refresh, leaf) VALUES (?, ?, ?, ?)
		ON CONFLICT (room_id) DO UPDATE SET due=excluded.due, refresh=excluded.refresh, leaf=excluded.leaf`, room, d.At, d.Refresh, d.Leaf)
}

// DropDue forgets a room that was left.
func (tx *Tx) DropDue(room string) error { return tx.do(`DELETE FROM room_due WHERE room_id=?`, room) }

// RoomsDue lists the rooms that are to be looked at by now (ms).
func (tx *Tx) RoomsDue(now int64) (rooms []string, err error) {
	return tx.texts(`SELECT room_id FROM room_due WHERE due<=?`, now)
}
