package store

import "strings"

// HubRoom is a room that is kept here. State and Info are public; Keys is sealed on its way to disk.
type HubRoom struct {
	Room     string
	Status   HubStatus
	Epoch    uint64
	State    []byte
	Info     []byte
	Keys     []byte
	Creation []byte
	LastSeq  uint64 // of the log
	LastTS   int64  // ms, of the log
}

// HubStatus is the life of a room at its hub.
type HubStatus int

const (
	HubPrepared HubStatus = iota // keys exist, no group yet
	HubOpen
	HubClosed
)

// HubRoom reads a room; nil if it is not kept here.
func (tx *Tx) HubRoom(room string) (*HubRoom, error) {
	r := HubRoom{Room: room}
	var keys []byte
	ok, err := tx.one([]any{&r.Status, &r.Epoch, &r.State, &r.Info, &keys, &r.Creation, &r.LastSeq, &r.LastTS},
		`SELECT status, epoch, state, info, keys, creation, last_seq, last_ts FROM hub_room h JOIN hub_end e ON e.room_id=h.room_id WHERE h.room_id=?`, room)
	if err != nil || !ok {
		return nil, err
	}
	if r.Keys, err = tx.s.sealer.Open("hub_room", room, "keys", keys); err != nil {
		return nil, err
	}
	return &r, nil
}

// InsertHubRoom adds a prepared room; one that is there stays as it is.
func (tx *Tx) InsertHubRoom(r *HubRoom) error {
	if err := tx.do(`INSERT INTO hub_end (room_id) VALUES (?) ON CONFLICT DO NOTHING`, r.Room); err != nil {
		return err
	}
	return tx.do(`INSERT INTO hub_room (room_id, status, keys) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		r.Room, HubPrepared, tx.s.sealer.Seal("hub_room", r.Room, "keys", r.Keys))
}

// UpdateHubRoom writes everything but the keys.
func (tx *Tx) UpdateHubRoom(r *HubRoom) error {
	if err := tx.AdvanceHubLog(r); err != nil {
		return err
	}
	return tx.do(`UPDATE hub_room SET status=?, epoch=?, state=?, info=?, creation=? WHERE room_id=?`,
		r.Status, r.Epoch, r.State, r.Info, r.Creation, r.Room)
}

// AdvanceHubLog writes only the end of the log.
func (tx *Tx) AdvanceHubLog(r *HubRoom) error {
	return tx.do(`UPDATE hub_end SET last_seq=?, last_ts=? WHERE room_id=?`, r.LastSeq, r.LastTS, r.Room)
}

// LogEntry is one FanoutMessage of a room's log.
type LogEntry struct {
	Seq      uint64
	TS       int64
	Audience []string // provider domains
	Body     []byte
}

// AppendLog adds an entry and moves the end of each follower's queue. alone are the followers for whom it is a batch of its own, which
// is under way from now on, since nothing waited for them.
func (tx *Tx) AppendLog(room string, e *LogEntry) (alone []string, err error) {
	if err := tx.do(`INSERT INTO hub_log (room_id, seq, ts, audience, body) VALUES (?, ?, ?, ?, ?)`,
		room, e.Seq, e.TS, " "+strings.Join(e.Audience, " ")+" ", e.Body); err != nil {
		return nil, err
	}
	for _, peer := range e.Audience {
		var batch uint64
		if _, err := tx.one([]any{&batch}, `INSERT INTO hub_cursor (room_id, peer, done, last, batch) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (room_id, peer) DO UPDATE SET last=excluded.last,
				batch=CASE WHEN hub_cursor.batch=0 AND hub_cursor.done=hub_cursor.last THEN excluded.last ELSE hub_cursor.batch END
			RETURNING batch`,
			room, peer, e.Seq-1, e.Seq, e.Seq); err != nil {
			return nil, err
		}
		if batch == e.Seq {
			alone = append(alone, peer)
		}
	}
	return alone, nil
}

// Queue names a follower's queue that is not empty.
type Queue struct{ Room, Peer string }

// Queues lists the queues that have something to deliver.
func (tx *Tx) Queues() (qs []Queue, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var q Queue
		if err := scan(&q.Room, &q.Peer); err != nil {
			return err
		}
		qs = append(qs, q)
		return nil
	}, `SELECT room_id, peer FROM hub_cursor WHERE done < last`)
	return qs, err
}

// RoomQueues lists the peers of a room that something waits for.
func (tx *Tx) RoomQueues(room string) (peers []string, err error) {
	return tx.texts(`SELECT peer FROM hub_cursor WHERE room_id=? AND done < last`, room)
}

// HubBehind reports whether entries from before ts (ms) still wait for the peer.
func (tx *Tx) HubBehind(q Queue, ts int64) (bool, error) {
	var n int
	return tx.one([]any{&n}, `SELECT 1 FROM hub_cursor c JOIN hub_log l ON l.room_id=c.room_id AND l.seq>c.done AND l.seq<=c.last
		WHERE c.room_id=? AND c.peer=? AND l.ts<? AND instr(l.audience, ' '||c.peer||' ')>0 LIMIT 1`, q.Room, q.Peer, ts)
}

// NextBatch returns the entries that are to be sent to the peer next, in order: those of the batch under way if there
// is one, otherwise up to maxCount entries and about maxBytes octets (at least one entry). hi is the
// batch's upper end; fresh says that StartBatch has to store it before the first attempt.
func (tx *Tx) NextBatch(q Queue, maxCount, maxBytes int) (entries []LogEntry, hi uint64, fresh bool, err error) {
	var done, batch uint64
	ok, err := tx.one([]any{&done, &batch}, `SELECT done, batch FROM hub_cursor WHERE room_id=? AND peer=?`, q.Room, q.Peer)
	if err != nil || !ok {
		return nil, 0, false, err
	}
	fresh = batch == 0
	upper := batch
	if fresh {
		upper = 1<<63 - 1
	}
	size := 0
	stop := false
	err = tx.each(func(scan func(...any) error) error {
		if stop {
			return nil
		}
		var e LogEntry
		if err := scan(&e.Seq, &e.TS, &e.Body); err != nil {
			return err
		}
		if fresh && len(entries) > 0 && size+len(e.Body) > maxBytes {
			stop = true
			return nil
		}
		size += len(e.Body)
		entries = append(entries, e)
		hi = e.Seq
		return nil
	}, `SELECT seq, ts, body FROM hub_log WHERE room_id=? AND seq>? AND seq<=? AND instr(audience, ?)>0 ORDER BY seq LIMIT 0+?`,
		q.Room, done, upper, " "+q.Peer+" ", maxCount)
	return entries, hi, fresh, err
}

// StartBatch stores the upper end of a batch before its first attempt.
func (tx *Tx) StartBatch(q Queue, hi uint64) error {
	return tx.do(`UPDATE hub_cursor SET batch=? WHERE room_id=? AND peer=?`, hi, q.Room, q.Peer)
}

// EndBatch moves the cursor behind what the follower has acknowledged; more says that there may be more for it.
func (tx *Tx) EndBatch(q Queue, hi uint64) (more bool, err error) {
	var last uint64
	ok, err := tx.one([]any{&last}, `UPDATE hub_cursor SET done=?, batch=0 WHERE room_id=? AND peer=? AND done<? RETURNING last`, hi, q.Room, q.Peer, hi)
	return !ok || last > hi, err
}

// Answer returns the stored response to the same octets, nil if there is none.
func (tx *Tx) Answer(room, peer string, hash []byte) (response []byte, err error) {
	_, err = tx.one([]any{&response}, `SELECT response FROM hub_answer WHERE room_id=? AND peer=? AND hash=?`, room, peer, hash)
	return response, err
}

// PutAnswer stores a response.
func (tx *Tx) PutAnswer(room, peer string, hash, response []byte, now int64) error {
	return tx.do(`INSERT INTO hub_answer (room_id, peer, hash, response, ts) VALUES (?, ?, ?, ?, ?)`, room, peer, hash, response, now)
}

// ForgetAnswers deletes responses older than before (ms).
func (tx *Tx) ForgetAnswers(before int64) error {
	return tx.do(`DELETE FROM hub_answer WHERE ts<?`, before)
}

// GiveUpQueues moves the cursors of followers beyond entries older than before (ms), and says whose.
func (tx *Tx) GiveUpQueues(before int64) (qs []Queue, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var q Queue
		if err := scan(&q.Room, &q.Peer); err != nil {
			return err
		}
		qs = append(qs, q)
		return nil
	}, `UPDATE hub_cursor SET batch=0, done=(SELECT max(seq) FROM hub_log l WHERE l.room_id=hub_cursor.room_id AND l.ts<?1 AND l.seq<=hub_cursor.last)
		WHERE done<last AND EXISTS (SELECT 1 FROM hub_log l WHERE l.room_id=hub_cursor.room_id AND l.seq>hub_cursor.done AND l.seq<=hub_cursor.last
			AND l.ts<?1 AND instr(l.audience, ' '||hub_cursor.peer||' ')>0)
		RETURNING room_id, peer`, before)
	return qs, err
}

// TrimLog deletes entries older than before (ms) that no follower still waits for.
func (tx *Tx) TrimLog(before int64) error {
	return tx.do(`DELETE FROM hub_log WHERE ts<? AND NOT EXISTS (
		SELECT 1 FROM hub_cursor c WHERE c.room_id=hub_log.room_id AND c.done<hub_log.seq AND c.last>=hub_log.seq)`, before)
}

// TrimHubRooms deletes the rooms that ended before (ms) and of which nothing is kept any more but keys and an empty queue.
func (tx *Tx) TrimHubRooms(before int64) error {
	const over = ` room_id IN (SELECT e.room_id FROM hub_end e JOIN hub_room r ON r.room_id=e.room_id WHERE r.status=2 AND e.last_ts<?
		AND NOT EXISTS (SELECT 1 FROM hub_log l WHERE l.room_id=r.room_id)
		AND NOT EXISTS (SELECT 1 FROM abuse_report a WHERE a.room_id=r.room_id))`
	for _, table := range []string{"hub_cursor", "hub_answer", "hub_route", "hub_room"} { // the last decides what the others are
		if err := tx.do(`DELETE FROM `+table+` WHERE`+over, before); err != nil {
			return err
		}
	}
	return tx.do(`DELETE FROM hub_end WHERE NOT EXISTS (SELECT 1 FROM hub_room r WHERE r.room_id=hub_end.room_id)`)
}

// HubStatus reads only how far a room is; ok is false if it is not kept here.
func (tx *Tx) HubStatus(room string) (status HubStatus, ok bool, err error) {
	ok, err = tx.one([]any{&status}, `SELECT status FROM hub_room WHERE room_id=?`, room)
	return status, ok, err
}

// PutRoute remembers which provider a claimed KeyPackage came from.
func (tx *Tx) PutRoute(room string, ref []byte, peer string, expires int64) error {
	return tx.do(`INSERT INTO hub_route (room_id, ref, peer, expires) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, room, ref, peer, expires)
}

// Route returns the provider of a claimed KeyPackage, "" if unknown.
func (tx *Tx) Route(room string, ref []byte) (peer string, err error) {
	_, err = tx.one([]any{&peer}, `SELECT peer FROM hub_route WHERE room_id=? AND ref=?`, room, ref)
	return peer, err
}

// DropRoute forgets a route once its Welcome is in the log.
func (tx *Tx) DropRoute(room string, ref []byte) error {
	return tx.do(`DELETE FROM hub_route WHERE room_id=? AND ref=?`, room, ref)
}

// DropRoutes forgets all routes of a room.
func (tx *Tx) DropRoutes(room string) error {
	return tx.do(`DELETE FROM hub_route WHERE room_id=?`, room)
}

// ExpireRoutes deletes routes of KeyPackages that are no longer valid.
func (tx *Tx) ExpireRoutes(now int64) error {
	return tx.do(`DELETE FROM hub_route WHERE expires<?`, now)
}
