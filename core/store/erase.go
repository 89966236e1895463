package store

import "strings"

// Deletion is the removal of a local user that is under way.
type Deletion struct {
	User    string
	Started int64 // ms
	Hurried bool  // what waits for hubs that cannot be reached is not waited for
}

// InsertDeletion begins one; one that is under way stays as it is.
func (tx *Tx) InsertDeletion(d *Deletion) error {
	return tx.do(`INSERT INTO deletion (local_user, started) VALUES (?, ?) ON CONFLICT DO NOTHING`, d.User, d.Started)
}

// HurryDeletion marks one that is under way. It stands in the sign of its time.
func (tx *Tx) HurryDeletion(user string) error {
	return tx.do(`UPDATE deletion SET started=-started WHERE local_user=? AND started>0`, user)
}

// Deletions lists those under way, the oldest first.
func (tx *Tx) Deletions() (ds []Deletion, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var d Deletion
		if err := scan(&d.User, &d.Started); err != nil {
			return err
		}
		if d.Started < 0 {
			d.Started, d.Hurried = -d.Started, true
		}
		ds = append(ds, d)
		return nil
	}, `SELECT local_user, started FROM deletion ORDER BY abs(started), local_user`)
	return ds, err
}

// PutDeletionRoom notes a room that the user has still to be out of; DeletionRooms lists them and EndDeletionRoom forgets one.
func (tx *Tx) PutDeletionRoom(user, room string) error {
	return tx.do(`INSERT INTO deletion_room (local_user, room_id, done) VALUES (?, ?, 0) ON CONFLICT DO NOTHING`, user, room)
}

// DeletionRooms lists the rooms that the user was in and, with open, only those they are not out of.
func (tx *Tx) DeletionRooms(user string, open bool) (rooms []string, err error) {
	q := `SELECT room_id FROM deletion_room WHERE local_user=? ORDER BY room_id`
	if open {
		q = `SELECT room_id FROM deletion_room WHERE local_user=? AND done=0 ORDER BY room_id`
	}
	return tx.texts(q, user)
}

// EndDeletionRoom notes that the user is out of a room.
func (tx *Tx) EndDeletionRoom(user, room string) error {
	return tx.do(`UPDATE deletion_room SET done=1 WHERE local_user=? AND room_id=?`, user, room)
}

// CancelIntents ends what a user wanted and what has not been begun, but for what one adapter handed in.
func (tx *Tx) CancelIntents(user, but string) error {
	return tx.do(`UPDATE intent SET status=3, payload=NULL, request=NULL WHERE actor=? AND adapter<>? AND status=0`, user, but)
}

// DeleteKeyPackages forgets all KeyPackages of a user: nobody can add them by one any more.
func (tx *Tx) DeleteKeyPackages(user string) error {
	return tx.do(`DELETE FROM key_package WHERE user=?`, user)
}

// RoomEvents calls fn for every event of a room that is kept.
func (tx *Tx) RoomEvents(room string, fn func(e Event) error) error {
	return tx.each(func(scan func(...any) error) error {
		var e Event
		var sealed []byte
		if err := scan(&e.Seq, &e.TS, &sealed); err != nil {
			return err
		}
		var err error
		if e.Payload, err = tx.s.sealer.Open("event", eventKey(room, e.Seq), "payload", sealed); err != nil {
			return err
		}
		return fn(e)
	}, `SELECT seq, ts, payload FROM event WHERE room_id=? ORDER BY seq`, room)
}

// RewriteEvent changes an event that stays, or deletes it if payload is nil.
func (tx *Tx) RewriteEvent(room string, seq uint64, payload []byte) error {
	if payload == nil {
		return tx.do(`DELETE FROM event WHERE room_id=? AND seq=?`, room, seq)
	}
	return tx.do(`UPDATE event SET payload=? WHERE room_id=? AND seq=?`, tx.s.sealer.Seal("event", eventKey(room, seq), "payload", payload), room, seq)
}

// EventRooms lists the rooms of which events are kept.
func (tx *Tx) EventRooms() (rooms []string, err error) {
	return tx.texts(`SELECT DISTINCT room_id FROM event ORDER BY room_id`)
}

// EraseUser deletes every row that is of a local user alone. What they said in rooms stays with those who were there.
func (tx *Tx) EraseUser(user string) error {
	for _, q := range []string{
		`DELETE FROM identity WHERE user=?`,
		`DELETE FROM key_package WHERE user=?`,
		`DELETE FROM intent WHERE actor=?`,
		`DELETE FROM message WHERE sender=?`,
		`DELETE FROM consent WHERE local_user=?`,
		`DELETE FROM consent_event WHERE local_user=?`,
		`DELETE FROM consent_wait WHERE local_user=?`,
		`DELETE FROM person WHERE local_user=?`,
		`DELETE FROM person_field WHERE local_user=?`,
		`DELETE FROM block WHERE owner=?`,
		`DELETE FROM usage WHERE who=?`,
		`DELETE FROM member WHERE local_user=?`,
		`DELETE FROM deletion_room WHERE local_user=?`,
		`DELETE FROM deletion WHERE local_user=?`,
	} {
		if err := tx.do(q, user); err != nil {
			return err
		}
	}
	type pair struct{ users, room string }
	var direct []pair
	if err := tx.each(func(scan func(...any) error) error {
		var p pair
		if err := scan(&p.users, &p.room); err != nil {
			return err
		}
		for _, u := range strings.Fields(p.users) {
			if u == user {
				direct = append(direct, p)
				break
			}
		}
		return nil
	}, `SELECT users, room_id FROM direct_room`); err != nil {
		return err
	}
	for _, p := range direct {
		if err := tx.do(`DELETE FROM direct_room WHERE users=? AND room_id=?`, p.users, p.room); err != nil {
			return err
		}
	}
	return nil
}
