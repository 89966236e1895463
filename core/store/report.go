package store

import "encoding/hex"

// Report is a report of abuse in a room kept here. Body, the AbuseReport as it came, is sealed on its way to disk.
type Report struct {
	Hash     []byte // SHA-256 of room and body: its name
	Room     string
	TS       int64 // ms, when it came
	Peer     string
	Reporter string // may be empty
	Abuser   string
	Body     []byte
}

// InsertReport adds a report; one that is there already stays as it is.
func (tx *Tx) InsertReport(r *Report) error {
	return tx.do(`INSERT INTO abuse_report (hash, room_id, ts, peer, reporter, abuser, body) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		r.Hash, r.Room, r.TS, r.Peer, r.Reporter, r.Abuser, tx.s.sealer.Seal("abuse_report", hex.EncodeToString(r.Hash), "body", r.Body))
}

// HasReport reports whether it has been taken before.
func (tx *Tx) HasReport(hash []byte) (bool, error) {
	var n int
	return tx.one([]any{&n}, `SELECT 1 FROM abuse_report WHERE hash=?`, hash)
}

// Reports reads up to limit reports, the newest first.
func (tx *Tx) Reports(limit int) (rs []Report, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var r Report
		var sealed []byte
		if err := scan(&r.Hash, &r.Room, &r.TS, &r.Peer, &r.Reporter, &r.Abuser, &sealed); err != nil {
			return err
		}
		var err error
		if r.Body, err = tx.s.sealer.Open("abuse_report", hex.EncodeToString(r.Hash), "body", sealed); err != nil {
			return err
		}
		rs = append(rs, r)
		return nil
	}, `SELECT hash, room_id, ts, peer, reporter, abuser, body FROM abuse_report ORDER BY ts DESC, hash LIMIT 0+?`, limit)
	return rs, err
}

// DeleteReport forgets a report; found is false if there was none.
func (tx *Tx) DeleteReport(hash []byte) (found bool, err error) {
	n, err := tx.exec(`DELETE FROM abuse_report WHERE hash=?`, hash)
	return n > 0, err
}

// TrimReports forgets those from before (ms).
func (tx *Tx) TrimReports(before int64) error {
	return tx.do(`DELETE FROM abuse_report WHERE ts<?`, before)
}

// IsFollower reports whether a provider has, or had, users in a room kept here.
func (tx *Tx) IsFollower(room, peer string) (bool, error) {
	var n int
	return tx.one([]any{&n}, `SELECT 1 FROM hub_cursor WHERE room_id=? AND peer=?`, room, peer)
}

// MessageEvent reads the event that showed a message, whoever sent it; nil if it is not kept any more.
func (tx *Tx) MessageEvent(room string, id []byte) (*Event, error) {
	var seq uint64
	ok, err := tx.one([]any{&seq}, `SELECT event FROM message WHERE room_id=? AND message_id=? ORDER BY event LIMIT 1`, room, id)
	if err != nil || !ok {
		return nil, err
	}
	es, err := tx.EventsAt(room, []uint64{seq})
	if err != nil || len(es) == 0 {
		return nil, err
	}
	return &es[0], nil
}
