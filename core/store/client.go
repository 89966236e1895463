package store

import (
	"slices"

	"encoding/json"
	"fmt"
)

// Identity is the MLS client of a local user. Secret is sealed on its way to disk.
type Identity struct {
	User   string
	Device string
	Suite  uint16
	Secret []byte
}

// Identity reads a user's identity; nil if there is none yet.
func (tx *Tx) Identity(user string) (*Identity, error) {
	id := Identity{User: user}
	var secret []byte
	ok, err := tx.one([]any{&id.Device, &id.Suite, &secret}, `SELECT device, suite, secret FROM identity WHERE user=?`, user)
	if err != nil || !ok {
		return nil, err
	}
	id.Secret, err = tx.s.sealer.Open("identity", user, "secret", secret)
	return &id, err
}

// InsertIdentity adds an identity; an existing one stays as it is.
func (tx *Tx) InsertIdentity(id *Identity) error {
	return tx.do(`INSERT INTO identity (user, device, suite, secret) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		id.User, id.Device, id.Suite, tx.s.sealer.Seal("identity", id.User, "secret", id.Secret))
}

// KeyPackage is one that was handed out. Secret is sealed on its way to disk.
type KeyPackage struct {
	Ref     []byte
	User    string
	Room    string
	Peer    string
	Package []byte
	Secret  []byte
	Expires int64
}

// InsertKeyPackage stores a KeyPackage before it is handed out.
func (tx *Tx) InsertKeyPackage(k *KeyPackage) error {
	return tx.do(`INSERT INTO key_package (ref, user, room_id, peer, package, secret, expires) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		k.Ref, k.User, k.Room, k.Peer, k.Package, tx.s.sealer.Seal("key_package", string(k.Ref), "secret", k.Secret), k.Expires)
}

// KeyPackage reads one; nil if there is none.
func (tx *Tx) KeyPackage(ref []byte) (*KeyPackage, error) {
	k := KeyPackage{Ref: ref}
	var secret []byte
	ok, err := tx.one([]any{&k.User, &k.Room, &k.Peer, &k.Package, &secret, &k.Expires},
		`SELECT user, room_id, peer, package, secret, expires FROM key_package WHERE ref=?`, ref)
	if err != nil || !ok {
		return nil, err
	}
	k.Secret, err = tx.s.sealer.Open("key_package", string(ref), "secret", secret)
	return &k, err
}

// PeerLastResort stands in KeyPackage.Peer of the one that is handed out again and again where a user's others are
// used up, PeerLastUsed of one that was used and is not handed out any more.
const (
	PeerLastResort = "*last resort"
	PeerLastUsed   = "*last resort, used"
)

// LastResort reads a user's KeyPackage of last resort; nil if there is none.
func (tx *Tx) LastResort(user string) (*KeyPackage, error) {
	k := KeyPackage{User: user, Peer: PeerLastResort}
	ok, err := tx.one([]any{&k.Ref, &k.Room, &k.Package, &k.Expires}, `SELECT ref, room_id, package, expires FROM key_package WHERE peer=? AND user=?`, PeerLastResort, user)
	if err != nil || !ok {
		return nil, err
	}
	return &k, nil
}

// DeleteKeyPackage forgets one that was used. One of last resort stays until then (ms), since others may have it, too, but is
// not handed out any more.
func (tx *Tx) DeleteKeyPackage(ref []byte, then int64) error {
	if err := tx.do(`DELETE FROM key_package WHERE ref=? AND peer NOT IN (?, ?)`, ref, PeerLastResort, PeerLastUsed); err != nil {
		return err
	}
	return tx.do(`UPDATE key_package SET peer=?, expires=? WHERE ref=? AND peer=?`, PeerLastUsed, then, ref, PeerLastResort)
}

// ExpireKeyPackages forgets those that are no longer valid.
func (tx *Tx) ExpireKeyPackages(now int64) error {
	return tx.do(`DELETE FROM key_package WHERE expires<?`, now)
}

// CountKeyPackages says how many of a user's KeyPackages a peer holds, and how many are out for a room.
func (tx *Tx) CountKeyPackages(peer, user string) (n int, err error) {
	_, err = tx.one([]any{&n}, `SELECT count(*) FROM key_package WHERE peer=? AND user=?`, peer, user)
	return n, err
}

// AwaitsWelcome reports whether KeyPackages are out for the room.
func (tx *Tx) AwaitsWelcome(room string) (bool, error) {
	var n int
	_, err := tx.one([]any{&n}, `SELECT count(*) FROM key_package WHERE room_id=?`, room)
	return n > 0, err
}

// ClientRoom is a room that has, had or is getting local users. State is sealed on its way to disk.
type ClientRoom struct {
	Room    string
	Status  ClientStatus
	Epoch   uint64
	State   []byte
	View    []byte
	Damaged error // State is there and does not open: it is lost
}

// ClientStatus is the life of a room at a provider with users in it.
type ClientStatus int

const (
	ClientNew    ClientStatus = iota // intents or messages wait, no group yet
	ClientJoined                     // a group state is held
	ClientOut                        // no local user is in it any more
)

// ClientRoom reads a room; nil if there is no row.
func (tx *Tx) ClientRoom(room string) (*ClientRoom, error) {
	r := ClientRoom{Room: room}
	var state []byte
	ok, err := tx.one([]any{&r.Status, &r.Epoch, &state, &r.View},
		`SELECT status, epoch, state, view FROM client_room WHERE room_id=?`, room)
	if err != nil || !ok {
		return nil, err
	}
	r.State, r.Damaged = tx.s.sealer.Open("client_room", room, "state", state)
	return &r, nil
}

// ClientView reads only a room's status and view; ok is false if there is no row.
func (tx *Tx) ClientView(room string) (status ClientStatus, view []byte, ok bool, err error) {
	ok, err = tx.one([]any{&status, &view}, `SELECT status, view FROM client_room WHERE room_id=?`, room)
	return status, view, ok, err
}

// ClientEpoch reads only a room's status and epoch; ok is false if there is no row.
func (tx *Tx) ClientEpoch(room string) (status ClientStatus, epoch uint64, ok bool, err error) {
	ok, err = tx.one([]any{&status, &epoch}, `SELECT status, epoch FROM client_room WHERE room_id=?`, room)
	return status, epoch, ok, err
}

// ClientRooms lists the rooms of a status.
func (tx *Tx) ClientRooms(status ClientStatus) (rooms []string, err error) {
	return tx.texts(`SELECT room_id FROM client_room WHERE status=? ORDER BY room_id`, status)
}

// EnsureClientRoom makes the row if it is not there.
func (tx *Tx) EnsureClientRoom(room string, now int64) error {
	if err := tx.EnsureRoom(room, now); err != nil {
		return err
	}
	if err := tx.do(`INSERT INTO client_count (room_id) VALUES (?) ON CONFLICT DO NOTHING`, room); err != nil {
		return err
	}
	return tx.do(`INSERT INTO client_room (room_id, status) VALUES (?, ?) ON CONFLICT DO NOTHING`, room, ClientNew)
}

// PutClientState writes status, epoch, group state and view; not the counters, which are advanced where rows are
// added.
func (tx *Tx) PutClientState(r *ClientRoom) error {
	return tx.do(`UPDATE client_room SET status=?, epoch=?, state=?, view=? WHERE room_id=?`,
		r.Status, r.Epoch, tx.s.sealer.Seal("client_room", r.Room, "state", r.State), r.View, r.Room)
}

// PutClientView writes status, epoch and view only: the group state that is stored stays.
func (tx *Tx) PutClientView(r *ClientRoom) error {
	return tx.do(`UPDATE client_room SET status=?, epoch=?, view=? WHERE room_id=?`, r.Status, r.Epoch, r.View, r.Room)
}

// Ratchet is a small row of a group's state: of one ratchet or, with a kind of its own, of what is pending within
// the epoch. Data is sealed on its way to disk.
type Ratchet struct {
	Epoch uint64
	Leaf  uint32
	Kind  uint8
	Data  []byte
}

func ratchetKey(room string, r *Ratchet) string {
	return fmt.Sprintf("%s/%d/%d/%d", room, r.Epoch, r.Leaf, r.Kind)
}

// PutRatchet writes a row, or deletes it if Data is nil.
func (tx *Tx) PutRatchet(room string, r *Ratchet) error {
	if r.Data == nil {
		return tx.do(`DELETE FROM client_ratchet WHERE room_id=? AND epoch=? AND leaf=? AND kind=?`, room, r.Epoch, r.Leaf, r.Kind)
	}
	return tx.do(`INSERT INTO client_ratchet (room_id, epoch, leaf, kind, data) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (room_id, epoch, leaf, kind) DO UPDATE SET data=excluded.data`,
		room, r.Epoch, r.Leaf, r.Kind, tx.s.sealer.Seal("client_ratchet", ratchetKey(room, r), "data", r.Data))
}

// Ratchets reads all rows of a room.
func (tx *Tx) Ratchets(room string) (rs []Ratchet, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var r Ratchet
		var sealed []byte
		if err := scan(&r.Epoch, &r.Leaf, &r.Kind, &sealed); err != nil {
			return err
		}
		var err error
		if r.Data, err = tx.s.sealer.Open("client_ratchet", ratchetKey(room, &r), "data", sealed); err != nil {
			return err
		}
		rs = append(rs, r)
		return nil
	}, `SELECT epoch, leaf, kind, data FROM client_ratchet WHERE room_id=?`, room)
	return rs, err
}

// DeleteRatchets forgets all rows of a room.
func (tx *Tx) DeleteRatchets(room string) error {
	return tx.do(`DELETE FROM client_ratchet WHERE room_id=?`, room)
}

// Pending is the request under way that changes a room's group. Next is sealed on its way to disk.
type Pending struct {
	Kind    int
	Request []byte
	Next    []byte
	Tag     []byte
	Hash    []byte
	Intents []uint64
	Created int64
}

// Pending reads the room's pending request; nil if there is none.
func (tx *Tx) Pending(room string) (*Pending, error) {
	var p Pending
	var next []byte
	var intents string
	ok, err := tx.one([]any{&p.Kind, &p.Request, &next, &p.Tag, &p.Hash, &intents, &p.Created},
		`SELECT kind, request, next, tag, hash, intents, created FROM client_pending WHERE room_id=?`, room)
	if err != nil || !ok {
		return nil, err
	}
	if err := json.Unmarshal([]byte(intents), &p.Intents); err != nil {
		return nil, fmt.Errorf("store: client_pending: %w", err)
	}
	p.Next, err = tx.s.sealer.Open("client_pending", room, "next", next)
	return &p, err
}

// PutPending stores the request before it is sent first. There is at most one a room.
func (tx *Tx) PutPending(room string, p *Pending) error {
	intents, _ := json.Marshal(p.Intents)
	return tx.do(`INSERT INTO client_pending (room_id, kind, request, next, tag, hash, intents, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		room, p.Kind, p.Request, tx.s.sealer.Seal("client_pending", room, "next", p.Next), p.Tag, p.Hash, string(intents), p.Created)
}

// DropPending forgets the request.
func (tx *Tx) DropPending(room string) error {
	return tx.do(`DELETE FROM client_pending WHERE room_id=?`, room)
}

// InboxItem is a FanoutMessage that was acknowledged and is not processed yet.
type InboxItem struct {
	Seq  uint64
	Held int64 // the epoch it waits for, -1 if it does not wait
	Body []byte
}

// AppendInbox adds an item.
func (tx *Tx) AppendInbox(room string, body []byte) error {
	var seq uint64
	if _, err := tx.one([]any{&seq}, `UPDATE client_count SET last_inbox=last_inbox+1 WHERE room_id=? RETURNING last_inbox`, room); err != nil {
		return err
	}
	return tx.do(`INSERT INTO inbox (room_id, seq, body) VALUES (?, ?, ?)`, room, seq, body)
}

// Inbox reads up to limit items in order: those that wait for no epoch beyond epoch.
func (tx *Tx) Inbox(room string, epoch uint64, limit int) (items []InboxItem, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var i InboxItem
		if err := scan(&i.Seq, &i.Held, &i.Body); err != nil {
			return err
		}
		items = append(items, i)
		return nil
	}, `SELECT seq, held, body FROM inbox WHERE room_id=? AND held<=? ORDER BY seq LIMIT 0+?`, room, int64(epoch), limit)
	return items, err
}

// HoldInbox keeps an item until the group has reached the epoch.
func (tx *Tx) HoldInbox(room string, seq uint64, epoch int64) error {
	return tx.do(`UPDATE inbox SET held=? WHERE room_id=? AND seq=?`, epoch, room, seq)
}

// SizeInbox says how many items wait, held ones included, and of how many octets.
func (tx *Tx) SizeInbox(room string) (n int, octets int64, err error) {
	_, err = tx.one([]any{&n, &octets}, `SELECT count(*), coalesce(sum(length(body)), 0) FROM inbox WHERE room_id=?`, room)
	return n, octets, err
}

// HeldInbox reads up to limit items that wait for an epoch beyond epoch, in order.
func (tx *Tx) HeldInbox(room string, epoch uint64, limit int) (items []InboxItem, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var i InboxItem
		if err := scan(&i.Seq, &i.Held, &i.Body); err != nil {
			return err
		}
		items = append(items, i)
		return nil
	}, `SELECT seq, held, body FROM inbox WHERE room_id=? AND held>? ORDER BY seq LIMIT 0+?`, room, int64(epoch), limit)
	return items, err
}

// DropHeld forgets the items that wait for an epoch beyond epoch.
func (tx *Tx) DropHeld(room string, epoch uint64) error {
	return tx.do(`DELETE FROM inbox WHERE room_id=? AND held>?`, room, int64(epoch))
}

// DropInbox forgets all items of a room.
func (tx *Tx) DropInbox(room string) error { return tx.do(`DELETE FROM inbox WHERE room_id=?`, room) }

// DeleteInbox forgets a processed item.
func (tx *Tx) DeleteInbox(room string, seq uint64) error {
	return tx.do(`DELETE FROM inbox WHERE room_id=? AND seq=?`, room, seq)
}

// MarkSeen notes a hash; fresh is false if it was there.
func (tx *Tx) MarkSeen(room string, hash []byte, epoch uint64) (fresh bool, err error) {
	n, err := tx.exec(`INSERT INTO seen (room_id, hash, epoch) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, room, hash, int64(epoch))
	return n > 0, err
}

// ForgetSeen deletes the hashes of epochs before epoch, whose messages can no longer be decrypted.
func (tx *Tx) ForgetSeen(room string, epoch uint64) error {
	return tx.do(`DELETE FROM seen WHERE room_id=? AND epoch<?`, room, int64(epoch))
}

// Intent is what a local user wants done. Payload is sealed on its way to disk.
type Intent struct {
	Room      string
	Seq       uint64
	Adapter   string
	Actor     string
	Origin    string
	Status    IntentStatus
	Payload   []byte
	MessageID []byte
	Request   []byte
	Epoch     uint64
	Created   int64
}

// IntentStatus says how far an intent is.
type IntentStatus int

const (
	IntentWaiting IntentStatus = iota
	IntentSent                 // its request is stored and under way
	IntentDone
	IntentRefused
)

func intentKey(i *Intent) string {
	return i.Room + "\x00" + i.Adapter + "\x00" + i.Actor + "\x00" + i.Origin
}

// InsertIntent adds an intent with the next sequence number; fresh is false if (room, adapter, actor, origin) is there
// already, and then nothing is written.
func (tx *Tx) InsertIntent(i *Intent) (fresh bool, err error) {
	var n int
	ok, err := tx.one([]any{&n}, `SELECT 1 FROM intent WHERE room_id=? AND adapter=? AND actor=? AND origin=?`, i.Room, i.Adapter, i.Actor, i.Origin)
	if err != nil || ok {
		return false, err
	}
	if _, err := tx.one([]any{&i.Seq}, `UPDATE client_count SET last_intent=last_intent+1 WHERE room_id=? RETURNING last_intent`, i.Room); err != nil {
		return false, err
	}
	return true, tx.do(`INSERT INTO intent (room_id, seq, adapter, actor, origin, status, payload, message_id, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		i.Room, i.Seq, i.Adapter, i.Actor, i.Origin, IntentWaiting, tx.s.sealer.Seal("intent", intentKey(i), "payload", i.Payload), i.MessageID, i.Created)
}

// OpenIntent reads one intent; nil if there is none that is not ended.
func (tx *Tx) OpenIntent(room string, seq uint64) (*Intent, error) {
	i := Intent{Room: room, Seq: seq}
	var sealed []byte
	ok, err := tx.one([]any{&i.Adapter, &i.Actor, &i.Origin, &i.Status, &sealed, &i.MessageID, &i.Request, &i.Epoch, &i.Created},
		`SELECT adapter, actor, origin, status, payload, message_id, request, epoch, created FROM intent WHERE room_id=? AND seq=? AND status<2`, room, seq)
	if err != nil || !ok {
		return nil, err
	}
	i.Payload, err = tx.s.sealer.Open("intent", intentKey(&i), "payload", sealed)
	return &i, err
}

// SentIntent reads the first message whose request is under way; nil if there is none.
func (tx *Tx) SentIntent(room string) (*Intent, error) {
	var seq uint64
	ok, err := tx.one([]any{&seq}, `SELECT seq FROM intent WHERE room_id=? AND status=? AND request IS NOT NULL ORDER BY seq LIMIT 1`, room, IntentSent)
	if err != nil || !ok {
		return nil, err
	}
	return tx.OpenIntent(room, seq)
}

// OpenIntents reads up to limit intents of a room that are not ended, in order.
func (tx *Tx) OpenIntents(room string, limit int) (is []Intent, err error) {
	return tx.openIntents(room, ``, nil, limit)
}

// OpenMessages reads those of them that are messages of one user.
func (tx *Tx) OpenMessages(room, adapter, actor string, limit int) (is []Intent, err error) {
	return tx.openIntents(room, ` AND adapter=? AND actor=? AND message_id IS NOT NULL`, []any{adapter, actor}, limit)
}

func (tx *Tx) openIntents(room, where string, args []any, limit int) (is []Intent, err error) {
	err = tx.each(func(scan func(...any) error) error {
		i := Intent{Room: room}
		var sealed []byte
		if err := scan(&i.Seq, &i.Adapter, &i.Actor, &i.Origin, &i.Status, &sealed, &i.MessageID, &i.Request, &i.Epoch, &i.Created); err != nil {
			return err
		}
		var err error
		if i.Payload, err = tx.s.sealer.Open("intent", intentKey(&i), "payload", sealed); err != nil {
			return err
		}
		is = append(is, i)
		return nil
	}, `SELECT seq, adapter, actor, origin, status, payload, message_id, request, epoch, created FROM intent WHERE room_id=? AND status<2`+where+` ORDER BY seq LIMIT 0+?`,
		append(append([]any{room}, args...), limit)...)
	return is, err
}

// SetIntent writes an intent's status, request and epoch.
func (tx *Tx) SetIntent(i *Intent) error {
	return tx.do(`UPDATE intent SET status=?, request=?, epoch=? WHERE room_id=? AND seq=?`, i.Status, i.Request, i.Epoch, i.Room, i.Seq)
}

// EndIntent sets a final status and forgets payload and request; the origin stays, so that a repetition is known.
func (tx *Tx) EndIntent(room string, seq uint64, status IntentStatus) error {
	return tx.do(`UPDATE intent SET status=?, payload=NULL, request=NULL WHERE room_id=? AND seq=?`, status, room, seq)
}

// RoomsWithWork lists the rooms that have open intents, a pending request or an inbox, or have lost their state.
func (tx *Tx) RoomsWithWork() (rooms []string, err error) {
	return tx.texts(`SELECT room_id FROM intent WHERE status<2 UNION SELECT room_id FROM client_pending UNION SELECT room_id FROM inbox
		UNION SELECT room_id FROM client_room WHERE status=1 AND state IS NULL`)
}

// Event is one thing an adapter is to show. Payload is sealed on its way to disk.
type Event struct {
	Seq     uint64
	TS      int64
	Payload []byte
}

func eventKey(room string, seq uint64) string { return fmt.Sprintf("%s/%d", room, seq) }

// AppendEvent adds an event; payload is called with its sequence number.
func (tx *Tx) AppendEvent(room string, ts int64, payload func(seq uint64) ([]byte, error)) (seq uint64, err error) {
	if _, err := tx.one([]any{&seq}, `UPDATE client_count SET last_event=last_event+1 WHERE room_id=? RETURNING last_event`, room); err != nil {
		return 0, err
	}
	p, err := payload(seq)
	if err != nil {
		return 0, err
	}
	return seq, tx.do(`INSERT INTO event (room_id, seq, ts, payload) VALUES (?, ?, ?, ?)`,
		room, seq, ts, tx.s.sealer.Seal("event", eventKey(room, seq), "payload", p))
}

// Undelivered reads up to limit events of a room that the adapter has not shown, in order.
func (tx *Tx) Undelivered(room, adapter string, limit int) (es []Event, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var e Event
		var sealed []byte
		if err := scan(&e.Seq, &e.TS, &sealed); err != nil {
			return err
		}
		var err error
		if e.Payload, err = tx.s.sealer.Open("event", eventKey(room, e.Seq), "payload", sealed); err != nil {
			return err
		}
		es = append(es, e)
		return nil
	}, `SELECT seq, ts, payload FROM event WHERE room_id=? AND seq>coalesce((SELECT done FROM delivery WHERE room_id=? AND adapter=?), 0) ORDER BY seq LIMIT 0+?`,
		room, room, adapter, limit)
	return es, err
}

// EventsAt reads the events of a room with these sequence numbers, as far as they are there, in order.
func (tx *Tx) EventsAt(room string, seqs []uint64) (es []Event, err error) {
	list := slices.Clone(seqs)
	slices.Sort(list)
	for _, seq := range slices.Compact(list) {
		e := Event{Seq: seq}
		var sealed []byte
		ok, err := tx.one([]any{&e.TS, &sealed}, `SELECT ts, payload FROM event WHERE room_id=? AND seq=?`, room, seq)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if e.Payload, err = tx.s.sealer.Open("event", eventKey(room, seq), "payload", sealed); err != nil {
			return nil, err
		}
		es = append(es, e)
	}
	return es, nil
}

// Delivered notes how far an adapter is.
func (tx *Tx) Delivered(room, adapter string, seq uint64) error {
	return tx.do(`INSERT INTO delivery (room_id, adapter, done) VALUES (?, ?, ?) ON CONFLICT (room_id, adapter) DO UPDATE SET done=excluded.done`, room, adapter, seq)
}

// RoomsToDeliver lists the rooms with events that the adapter has not shown.
func (tx *Tx) RoomsToDeliver(adapter string) (rooms []string, err error) {
	return tx.texts(`SELECT room_id FROM client_count c WHERE last_event>coalesce((SELECT done FROM delivery d WHERE d.room_id=c.room_id AND d.adapter=?), 0)`, adapter)
}

// TrimEvents deletes events older than before (ms) that all the adapters have shown; without adapters, all older ones.
func (tx *Tx) TrimEvents(adapters []string, before int64) error {
	q, args := `DELETE FROM event WHERE ts<?`, []any{before}
	for _, a := range adapters {
		q += ` AND EXISTS (SELECT 1 FROM delivery d WHERE d.room_id=event.room_id AND d.adapter=? AND d.done>=event.seq)`
		args = append(args, a)
	}
	return tx.do(q, args...)
}

// TrimHistory deletes what tells repetitions from before (ms): message IDs, and intents that are ended.
func (tx *Tx) TrimHistory(before int64) error {
	if err := tx.do(`DELETE FROM message WHERE ts<?`, before); err != nil {
		return err
	}
	return tx.do(`DELETE FROM intent WHERE created<? AND status>=2`, before)
}

// TrimViews forgets who was in the rooms that all local users have left, once nothing of them is kept any more.
func (tx *Tx) TrimViews() error {
	return tx.do(`UPDATE client_room SET view=NULL, state=NULL WHERE status=? AND view IS NOT NULL
		AND NOT EXISTS (SELECT 1 FROM event e WHERE e.room_id=client_room.room_id)
		AND NOT EXISTS (SELECT 1 FROM intent i WHERE i.room_id=client_room.room_id AND i.status<2)
		AND NOT EXISTS (SELECT 1 FROM client_pending p WHERE p.room_id=client_room.room_id)`, ClientOut)
}

// TrimStray deletes what came for rooms that nobody here is joining any more.
func (tx *Tx) TrimStray() error {
	return tx.do(`DELETE FROM inbox WHERE room_id IN (SELECT room_id FROM client_room c WHERE status<>?
		AND NOT EXISTS (SELECT 1 FROM key_package k WHERE k.room_id IN (c.room_id, ''))
		AND NOT EXISTS (SELECT 1 FROM client_pending p WHERE p.room_id=c.room_id)
		AND NOT EXISTS (SELECT 1 FROM intent i WHERE i.room_id=c.room_id AND i.status<2))`, ClientJoined)
}

// AddMessage notes a message that the room's next event shows; fresh is false if the sender's message ID was there.
func (tx *Tx) AddMessage(room string, id []byte, sender string, ts int64) (fresh bool, err error) {
	n, err := tx.exec(`INSERT INTO message (room_id, message_id, sender, ts, event) VALUES (?, ?, ?, ?, coalesce((SELECT last_event FROM client_count WHERE room_id=?), 0)+1)
		ON CONFLICT DO NOTHING`, room, id, sender, ts, room)
	return n > 0, err
}

// HasMessage reports whether the sender's message was shown.
func (tx *Tx) HasMessage(room string, id []byte, sender string) (bool, error) {
	var n int
	return tx.one([]any{&n}, `SELECT 1 FROM message WHERE room_id=? AND message_id=? AND sender=?`, room, id, sender)
}

// ClientViews calls fn for every room with users here and its view.
func (tx *Tx) ClientViews(fn func(room string, view []byte) error) error {
	return tx.views(fn, `SELECT room_id, view FROM client_room WHERE status=? ORDER BY room_id`, ClientJoined)
}

// ClientViewsAt is ClientViews for the rooms that a provider keeps.
func (tx *Tx) ClientViewsAt(domain string, fn func(room string, view []byte) error) error {
	return tx.views(fn, `SELECT room_id, view FROM client_room WHERE status=? AND room_id>=? AND room_id<? ORDER BY room_id`,
		ClientJoined, "mimi://"+domain+"/", "mimi://"+domain+"0") // what comes next after the slash
}

func (tx *Tx) views(fn func(room string, view []byte) error, query string, args ...any) error {
	return tx.each(func(scan func(...any) error) error {
		var room string
		var view []byte
		if err := scan(&room, &view); err != nil {
			return err
		}
		return fn(room, view)
	}, query, args...)
}
