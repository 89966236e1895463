package store

// Use counts one more of what somebody does in the window of time that began then, unless it is limit already; ok says
// whether it was counted.
func (tx *Tx) Use(who, what string, began, limit int64) (ok bool, err error) {
	n, err := tx.exec(`INSERT INTO usage (who, what, began, n) VALUES (?, ?, ?, 1)
		ON CONFLICT (who, what, began) DO UPDATE SET n=usage.n+1 WHERE usage.n<?`, who, what, began, limit)
	return n > 0, err
}

// Used says how often somebody did that in the window of time that began then.
func (tx *Tx) Used(who, what string, began int64) (n int64, err error) {
	_, err = tx.one([]any{&n}, `SELECT n FROM usage WHERE who=? AND what=? AND began=?`, who, what, began)
	return n, err
}

// TrimUsage forgets windows that began before.
func (tx *Tx) TrimUsage(before int64) error { return tx.do(`DELETE FROM usage WHERE began<?`, before) }

// Consent is how a local user and another stand to each other. Grants and Granted are states as the caller numbers them;
// the zero value is what holds if there is no row.
type Consent struct {
	User, Other, Room       string // Room: empty is for all
	Grants, Granted         uint8
	Since                   int64
	AskedUntil, AskingUntil int64
}

const consentColumns = `local_user, other, room_id, grants, granted, since, asked_until, asking_until`

func (c *Consent) dest() []any {
	return []any{&c.User, &c.Other, &c.Room, &c.Grants, &c.Granted, &c.Since, &c.AskedUntil, &c.AskingUntil}
}

// Consent reads one row; without one, a Consent with the key only.
func (tx *Tx) Consent(user, other, room string) (*Consent, error) {
	c := &Consent{User: user, Other: other, Room: room}
	_, err := tx.one(c.dest(), `SELECT `+consentColumns+` FROM consent WHERE local_user=? AND other=? AND room_id=?`, user, other, room)
	return c, err
}

func (tx *Tx) consents(where string, args ...any) (cs []Consent, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var c Consent
		if err := scan(c.dest()...); err != nil {
			return err
		}
		cs = append(cs, c)
		return nil
	}, `SELECT `+consentColumns+` FROM consent WHERE `+where, args...)
	return cs, err
}

// ConsentsBetween reads all rows of a pair, ConsentsOf those of a local user in the order of the others.
func (tx *Tx) ConsentsBetween(user, other string) ([]Consent, error) {
	return tx.consents(`local_user=? AND other=?`, user, other)
}

func (tx *Tx) ConsentsOf(user string) ([]Consent, error) {
	return tx.consents(`local_user=? ORDER BY other, room_id`, user)
}

// ConsentsOver reads rows with a question that ended before now.
func (tx *Tx) ConsentsOver(now int64, limit int) ([]Consent, error) {
	return tx.consents(`local_user<>'' AND (asked_until>0 AND asked_until<? OR asking_until>0 AND asking_until<?) ORDER BY local_user, other, room_id LIMIT 0+?`, now, now, limit)
}

// CountAsked says how many questions to a local user are open.
func (tx *Tx) CountAsked(user string) (n int, err error) {
	_, err = tx.one([]any{&n}, `SELECT count(*) FROM consent WHERE local_user=? AND asked_until>0`, user)
	return n, err
}

// CountConsents says how many rows a local user has.
func (tx *Tx) CountConsents(user string) (n int, err error) {
	_, err = tx.one([]any{&n}, `SELECT count(*) FROM consent WHERE local_user=?`, user)
	return n, err
}

// CountUnsolicited says how many rows a local user has had no part in.
func (tx *Tx) CountUnsolicited(user string) (n int, err error) {
	_, err = tx.one([]any{&n}, `SELECT count(*) FROM consent WHERE local_user=? AND grants=0 AND asking_until=0`, user)
	return n, err
}

// EndAsking gives all of a pair's rows in which granted is was the state is, and says how many; EndAsked those in which grants is was: one answer
// for several questions.
func (tx *Tx) EndAsking(user, other string, was, is uint8) (int64, error) {
	return tx.exec(`UPDATE consent SET granted=?, asking_until=0 WHERE local_user=? AND other=? AND granted=?`, is, user, other, was)
}

// EndAsked is EndAsking for the other's questions.
func (tx *Tx) EndAsked(user, other string, was, is uint8) error {
	return tx.do(`UPDATE consent SET grants=?, asked_until=0 WHERE local_user=? AND other=? AND grants=?`, is, user, other, was)
}

// PutConsent writes a row.
func (tx *Tx) PutConsent(c *Consent) error {
	return tx.do(`INSERT INTO consent (`+consentColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (local_user, other, room_id) DO UPDATE SET grants=excluded.grants, granted=excluded.granted, since=excluded.since,
		asked_until=excluded.asked_until, asking_until=excluded.asking_until`,
		c.User, c.Other, c.Room, c.Grants, c.Granted, c.Since, c.AskedUntil, c.AskingUntil)
}

// DeleteConsent forgets a row that says nothing any more.
func (tx *Tx) DeleteConsent(user, other, room string) error {
	return tx.do(`DELETE FROM consent WHERE local_user=? AND other=? AND room_id=?`, user, other, room)
}

// ConsentOut is something that another provider has to be told.
type ConsentOut struct {
	Peer, User, Other, Room string
	Kind, Op                uint8
	Version, Created, Tries int64
}

// PutConsentOut queues it for now; what was queued of the same kind about the same is replaced.
func (tx *Tx) PutConsentOut(o *ConsentOut, now int64) error {
	return tx.do(`INSERT INTO consent_out (peer, local_user, other, room_id, kind, op, version, created, due, tries) VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, 0)
		ON CONFLICT (peer, local_user, other, room_id, kind) DO UPDATE SET op=excluded.op, version=consent_out.version+1, created=excluded.created`,
		o.Peer, o.User, o.Other, o.Room, o.Kind, o.Op, now, now)
}

// ConsentDue lists peers for which something is due, and when the next is, 0 if nothing waits.
func (tx *Tx) ConsentDue(now int64) (peers []string, next int64, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var p string
		if err := scan(&p); err != nil {
			return err
		}
		peers = append(peers, p)
		return nil
	}, `SELECT DISTINCT peer FROM consent_out WHERE peer<>'' AND due<=? ORDER BY peer`, now)
	if err != nil {
		return nil, 0, err
	}
	_, err = tx.one([]any{&next}, `SELECT coalesce(min(due), 0) FROM consent_out WHERE peer<>'' AND due>?`, now)
	return peers, next, err
}

// ConsentOutFor reads what a peer has to be told, oldest first.
func (tx *Tx) ConsentOutFor(peer string, limit int) (os []ConsentOut, err error) {
	err = tx.each(func(scan func(...any) error) error {
		o := ConsentOut{Peer: peer}
		if err := scan(&o.User, &o.Other, &o.Room, &o.Kind, &o.Op, &o.Version, &o.Created, &o.Tries); err != nil {
			return err
		}
		os = append(os, o)
		return nil
	}, `SELECT local_user, other, room_id, kind, op, version, created, tries FROM consent_out WHERE peer=? ORDER BY created, kind LIMIT 0+?`, peer, limit)
	return os, err
}

// EndConsentOut forgets what was told, unless it has been replaced meanwhile.
func (tx *Tx) EndConsentOut(o *ConsentOut) error {
	return tx.do(`DELETE FROM consent_out WHERE peer=? AND local_user=? AND other=? AND room_id=? AND kind=? AND version=?`, o.Peer, o.User, o.Other, o.Room, o.Kind, o.Version)
}

// DelayConsentOut puts everything for a peer off.
func (tx *Tx) DelayConsentOut(peer string, due int64) error {
	return tx.do(`UPDATE consent_out SET due=?, tries=tries+1 WHERE peer=?`, due, peer)
}

// TrimConsentOut gives up what was queued before.
func (tx *Tx) TrimConsentOut(before int64) error {
	return tx.do(`DELETE FROM consent_out WHERE created<?`, before)
}

// ConsentEvent is a change that an adapter has still to show.
type ConsentEvent struct {
	Adapter, User, Other, Room string
	Flags                      uint8
	Version                    int64
}

// PutConsentEvent queues it; what waits about the same contact becomes one with it.
func (tx *Tx) PutConsentEvent(e *ConsentEvent, now int64) error {
	return tx.do(`INSERT INTO consent_event (adapter, local_user, other, room_id, flags, version, created) VALUES (?, ?, ?, ?, ?, 1, ?)
		ON CONFLICT (adapter, local_user, other, room_id) DO UPDATE SET flags=excluded.flags, version=consent_event.version+1`,
		e.Adapter, e.User, e.Other, e.Room, e.Flags, now)
}

// ConsentEvents reads what an adapter has to show, oldest first.
func (tx *Tx) ConsentEvents(adapter string, limit int) (es []ConsentEvent, err error) {
	err = tx.each(func(scan func(...any) error) error {
		e := ConsentEvent{Adapter: adapter}
		if err := scan(&e.User, &e.Other, &e.Room, &e.Flags, &e.Version); err != nil {
			return err
		}
		es = append(es, e)
		return nil
	}, `SELECT local_user, other, room_id, flags, version FROM consent_event WHERE adapter=? AND local_user<>'' ORDER BY created, local_user, other, room_id LIMIT 0+?`, adapter, limit)
	return es, err
}

// EndConsentEvent forgets what was shown, unless it has changed meanwhile.
func (tx *Tx) EndConsentEvent(e *ConsentEvent) error {
	return tx.do(`DELETE FROM consent_event WHERE adapter=? AND local_user=? AND other=? AND room_id=? AND version=?`, e.Adapter, e.User, e.Other, e.Room, e.Version)
}

// PutWait notes that an intent of the room waits for somebody's consent; Waits reads and EndWait forgets it.
func (tx *Tx) PutWait(user, other, room string, seq uint64) error {
	return tx.do(`INSERT INTO consent_wait (local_user, other, room_id, seq) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, user, other, room, int64(seq))
}

// Waits reports whether an intent waits for consent.
func (tx *Tx) Waits(user, other, room string, seq uint64) (bool, error) {
	var n int
	return tx.one([]any{&n}, `SELECT 1 FROM consent_wait WHERE local_user=? AND other=? AND room_id=? AND seq=?`, user, other, room, int64(seq))
}

// EndWait forgets that an intent waits.
func (tx *Tx) EndWait(user, other, room string, seq uint64) error {
	return tx.do(`DELETE FROM consent_wait WHERE local_user=? AND other=? AND room_id=? AND seq=?`, user, other, room, int64(seq))
}

// TrimConsent forgets who waits for consent although their intent has ended, and contacts of which nothing is left.
func (tx *Tx) TrimConsent() error {
	if err := tx.do(`DELETE FROM consent_wait WHERE NOT EXISTS (SELECT 1 FROM intent WHERE intent.room_id=consent_wait.room_id AND intent.seq=consent_wait.seq AND intent.status<2)`); err != nil {
		return err
	}
	return tx.do(`DELETE FROM consent WHERE local_user<>'' AND grants=0 AND granted=0`)
}

// Wait is an intent that waits.
type Wait struct {
	Room string
	Seq  uint64
}

// WaitsFor lists the intents of a user that wait for another's consent.
func (tx *Tx) WaitsFor(user, other string) (ws []Wait, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var w Wait
		var seq int64
		if err := scan(&w.Room, &seq); err != nil {
			return err
		}
		w.Seq = uint64(seq)
		ws = append(ws, w)
		return nil
	}, `SELECT room_id, seq FROM consent_wait WHERE local_user=? AND other=? ORDER BY room_id, seq`, user, other)
	return ws, err
}

// Person is what a local user has set.
type Person struct {
	User, Policy, Name, Avatar string
}

// Person reads what a user has set; nothing if there is no row.
func (tx *Tx) Person(user string) (p Person, found bool, err error) {
	p.User = user
	found, err = tx.one([]any{&p.Policy, &p.Name, &p.Avatar}, `SELECT policy, name, avatar FROM person WHERE local_user=?`, user)
	return p, found, err
}

// PutPerson writes it.
func (tx *Tx) PutPerson(p *Person) error {
	return tx.do(`INSERT INTO person (local_user, policy, name, avatar) VALUES (?, ?, ?, ?)
		ON CONFLICT (local_user) DO UPDATE SET policy=excluded.policy, name=excluded.name, avatar=excluded.avatar`, p.User, p.Policy, p.Name, p.Avatar)
}

// Field is something by which a local user may be found.
type Field struct{ Name, Value, Folded string }

// Fields reads those of a user.
func (tx *Tx) Fields(user string) (fs []Field, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var f Field
		if err := scan(&f.Name, &f.Value, &f.Folded); err != nil {
			return err
		}
		fs = append(fs, f)
		return nil
	}, `SELECT field, value, folded FROM person_field WHERE local_user=? ORDER BY field`, user)
	return fs, err
}

// SetFields replaces those of a user.
func (tx *Tx) SetFields(user string, fs []Field) error {
	if err := tx.do(`DELETE FROM person_field WHERE local_user=?`, user); err != nil {
		return err
	}
	for _, f := range fs {
		if err := tx.do(`INSERT INTO person_field (local_user, field, value, folded) VALUES (?, ?, ?, ?)`, user, f.Name, f.Value, f.Folded); err != nil {
			return err
		}
	}
	return nil
}

// FindPeople lists local users whose field has the value or, if part, contains it.
func (tx *Tx) FindPeople(field, folded string, part bool, limit int) (users []string, err error) {
	q := `SELECT local_user FROM person_field WHERE field=? AND folded=? ORDER BY local_user LIMIT 0+?`
	if part {
		q = `SELECT local_user FROM person_field WHERE field=? AND replace(folded, ?, '')<>folded ORDER BY local_user LIMIT 0+?`
	}
	return tx.texts(q, field, folded, limit)
}

// Profile is what another provider said of its user.
type Profile struct {
	User         string
	Found        bool
	Name, Avatar string
	Expires      int64
}

// Profile reads what is known; ok is false if nothing is.
func (tx *Tx) Profile(user string) (p Profile, ok bool, err error) {
	p.User = user
	ok, err = tx.one([]any{&p.Found, &p.Name, &p.Avatar, &p.Expires}, `SELECT found, name, avatar, expires FROM profile WHERE user_uri=?`, user)
	return p, ok, err
}

// PutProfile writes it.
func (tx *Tx) PutProfile(p *Profile) error {
	found := 0
	if p.Found {
		found = 1
	}
	return tx.do(`INSERT INTO profile (user_uri, found, name, avatar, expires) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (user_uri) DO UPDATE SET found=excluded.found, name=excluded.name, avatar=excluded.avatar, expires=excluded.expires`,
		p.User, found, p.Name, p.Avatar, p.Expires)
}

// TrimProfiles forgets what expired before.
func (tx *Tx) TrimProfiles(before int64) error {
	return tx.do(`DELETE FROM profile WHERE expires<?`, before)
}

// Block is something that a local user, or with an empty Owner the admin, does not want to hear of.
type Block struct {
	Owner, Target string
	Created       int64
}

// Blocks reads all of them.
func (tx *Tx) Blocks() (bs []Block, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var b Block
		if err := scan(&b.Owner, &b.Target, &b.Created); err != nil {
			return err
		}
		bs = append(bs, b)
		return nil
	}, `SELECT owner, target, created FROM block ORDER BY owner, target`)
	return bs, err
}

// CountBlocks says how many an owner has.
func (tx *Tx) CountBlocks(owner string) (n int, err error) {
	_, err = tx.one([]any{&n}, `SELECT count(*) FROM block WHERE owner=?`, owner)
	return n, err
}

// PutBlock adds one, DeleteBlock takes it away; either again is no error.
func (tx *Tx) PutBlock(b *Block) error {
	return tx.do(`INSERT INTO block (owner, target, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, b.Owner, b.Target, b.Created)
}

// DeleteBlock takes a block away.
func (tx *Tx) DeleteBlock(owner, target string) error {
	return tx.do(`DELETE FROM block WHERE owner=? AND target=?`, owner, target)
}

// PeerRule is what the admin decided about a peer.
type PeerRule struct {
	Domain  string
	Allow   bool
	Created int64
}

// PeerRules reads all of them.
func (tx *Tx) PeerRules() (rs []PeerRule, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var r PeerRule
		if err := scan(&r.Domain, &r.Allow, &r.Created); err != nil {
			return err
		}
		rs = append(rs, r)
		return nil
	}, `SELECT domain, allow, created FROM peer_rule ORDER BY domain`)
	return rs, err
}

// PutPeerRule writes one.
func (tx *Tx) PutPeerRule(r *PeerRule) error {
	allow := 0
	if r.Allow {
		allow = 1
	}
	return tx.do(`INSERT INTO peer_rule (domain, allow, created) VALUES (?, ?, ?)
		ON CONFLICT (domain) DO UPDATE SET allow=excluded.allow, created=excluded.created`, r.Domain, allow, r.Created)
}

// DeletePeerRule forgets one.
func (tx *Tx) DeletePeerRule(domain string) error {
	return tx.do(`DELETE FROM peer_rule WHERE domain=?`, domain)
}

// PutMember notes that a local user is in a room, or a user elsewhere in one that is kept here; DeleteMember that they are not.
func (tx *Tx) PutMember(user, room string) error {
	return tx.do(`INSERT INTO member (local_user, room_id) VALUES (?, ?) ON CONFLICT DO NOTHING`, user, room)
}

// DeleteMember notes that somebody is not in a room; an empty user is everybody.
func (tx *Tx) DeleteMember(user, room string) error {
	if user == "" {
		return tx.do(`DELETE FROM member WHERE room_id=?`, room)
	}
	return tx.do(`DELETE FROM member WHERE local_user=? AND room_id=?`, user, room)
}

// CountMembers says in how many rooms the users of a host are, with whatever port, one after the other.
func (tx *Tx) CountMembers(host string) (n int, err error) {
	u := "mimi://" + host // '0' comes after '/', ';' after ':'
	_, err = tx.one([]any{&n}, `SELECT count(*) FROM member WHERE local_user>=? AND local_user<? OR local_user>=? AND local_user<?`, u+"/", u+"0", u+":", u+";")
	return n, err
}

// RoomMembers lists who is noted to be in a room.
func (tx *Tx) RoomMembers(room string) (users []string, err error) {
	return tx.texts(`SELECT local_user FROM member WHERE room_id=? ORDER BY local_user`, room)
}

// CountMember says in how many rooms a user is.
func (tx *Tx) CountMember(user string) (n int, err error) {
	_, err = tx.one([]any{&n}, `SELECT count(*) FROM member WHERE local_user=?`, user)
	return n, err
}

// MemberRooms lists the rooms a local user is in.
func (tx *Tx) MemberRooms(user string) (rooms []string, err error) {
	return tx.texts(`SELECT room_id FROM member WHERE local_user=? ORDER BY room_id`, user)
}

// MessagesOf lists the ids of what somebody has sent to a room, the latest first.
func (tx *Tx) MessagesOf(room, sender string, limit int) (ids [][]byte, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var id []byte
		if err := scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
		return nil
	}, `SELECT message_id FROM message WHERE room_id=? AND sender=? ORDER BY event DESC LIMIT 0+?`, room, sender, limit)
	return ids, err
}
