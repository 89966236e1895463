package xmpp

import (
	"context"
	"crypto/rand"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// routeRooms says what is handled at the rooms domain.
func (s *service) routeRooms() {
	st := func() *stream { return s.toRoom }
	rt := s.roomRoutes
	rt.NewRoute().Packet("message").HandlerFunc(s.on(st, s.roomMessage))
	rt.NewRoute().Packet("presence").HandlerFunc(s.on(st, s.roomPresence))
	iq := func(ns string, f func(*packet, *element) (*element, error)) {
		rt.NewRoute().Packet("iq").StanzaType("get", "set").IQNamespaces(ns).HandlerFunc(s.onIQ(st, f))
	}
	iq(nsPing, s.roomPing)
	iq(nsDiscoInfo, s.roomInfo)
	iq(nsDiscoItem, s.roomItems)
	iq(nsMUCOwner, s.roomOwner)
	iq(nsMUCAdmin, s.roomAdmin)
	iq(nsRegister, s.roomRegister)
	iq(nsMAM, s.roomArchive)
	iq(nsVCard, s.roomVCard)
	iq(nsModerate, s.roomModerate)
	iq(nsFasten, s.roomModerate)
	iq(nsCommands, s.command)
	iq(nsVersion, s.version)
	s.routeRest(rt, st)
}

// roomAt gives the room that a stanza is addressed to.
func (s *service) roomAt(in *packet) (mimiuri.URI, error) {
	u, ok := s.addresses.room(in.to.local)
	if !ok {
		return mimiuri.URI{}, errNoRoom
	}
	return u, nil
}

// at returns the room's state, with its members read; the caller releases it, also with an error. ok is false
// if the provider is not in the room.
func (s *service) at(u mimiuri.URI) (r *room, ok bool, err error) {
	r = s.room(u)
	r.mu.Lock()
	loaded := r.loaded && !r.gone && len(r.members) > 0
	r.mu.Unlock()
	if loaded {
		return r, true, nil
	}
	ctx, cancel := s.timeout()
	defer cancel()
	ok, err = r.refresh(ctx)
	return r, ok, err
}

// roomPresence handles presence at the rooms domain: joining, leaving, changing nick or availability.
func (s *service) roomPresence(in *packet) {
	switch in.typ {
	case "":
		if err := s.available(in); err != nil {
			s.refuse(in, err)
		}
	case "unavailable":
		s.endOf(in.to, in.from, true, in.id, textOf(in.kids, "status"))
	case "error":
		// Errors about the presence of others; some servers put the whole room's address into it.
		if gone(conditionOf(in.kids)) {
			s.endOf(in.to, in.from, false, "", "")
		}
	case "subscribe":
		s.reply(in.st, el("", "presence", "type", "unsubscribed", "from", in.to.bare().String(), "to", in.from.bare().String()))
	case "probe":
		// Presence of rooms is for their occupants.
	}
}

// endOf ends the occupancy of a resource, as far as it has one, and takes back a join that is under way.
func (s *service) endOf(room, from addr, answer bool, id, status string) {
	u, ok := s.addresses.room(room.local)
	if !ok {
		return
	}
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		s.log.Warn().Err(err).Msg("a room could not be read")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range r.joining {
		if j.from == from {
			j.cancelled = true
		}
	}
	if se := r.sessions[from.String()]; se != nil {
		r.endSession(se, answer, cut(id, maxStanzaID), cut(status, 1024))
	}
}

// notLetIn says why somebody was not let into a room. One that its owner has not configured yet is locked (XEP-0045 section 10.1.1).
func (s *service) notLetIn(u, user mimiuri.URI, why error) *stanzaError {
	if !fault.Is(why, fault.Forbidden) {
		return toJoinError(why)
	}
	if fresh, err := s.isNew(u); err == nil && fresh {
		return errLocked
	}
	ctx, cancel := s.timeout()
	defer cancel()
	info, known, err := s.view(ctx, u)
	switch {
	case err != nil || !known:
	case slices.Contains(info.Banned, user):
		return errBanned
	case info.Open && info.MaxUsers > 0 && len(info.Participants) >= int(info.MaxUsers):
		return errFull
	}
	return toJoinError(why)
}

// isNew tells whether somebody has made a room by joining it, and has not configured it yet.
func (s *service) isNew(u mimiuri.URI) (bool, error) {
	ctx, cancel := s.timeout()
	defer cancel()
	v, err := s.db.setting(ctx, u, settingNew)
	return v == "1", err
}

// joinRequest is a presence that asks to be let in.
type joinRequest struct {
	from    addr
	user    mimiuri.URI
	nick    string // as asked for
	name    string // XEP-0172
	id      string
	show    string
	status  string
	history historyRequest
	created bool
}

func (s *service) available(in *packet) error {
	user, err := s.sender(in)
	if err != nil {
		return err
	}
	if s.listed(in.from.bare()) {
		return errListed
	}
	u, err := s.roomAt(in)
	if err != nil {
		return err
	}
	if p := s.plumbOf(u); p != nil {
		s.goneTo(in, p)
		return nil
	}
	x := find(in.kids, nsMUC, "x")
	req := joinRequest{
		from: in.from, user: user, nick: in.to.resource, id: in.id,
		show: showOf(in.kids), status: cut(textOf(in.kids, "status"), 1024),
	}
	if n := find(in.kids, nsNick, "nick"); n != nil {
		req.name = cut(strings.TrimSpace(n.Text), maxNick)
	}
	if len(in.id) > maxStanzaID {
		req.id = ""
	}
	if in.to.resource == "" {
		return errNickMissing
	}
	if cleanNick(req.nick) == "" {
		return errNick
	}
	ctx, cancel := s.timeout()
	defer cancel()
	s.avatarSeen(ctx, user, in.kids)
	r, known, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	se := r.sessions[in.from.String()]
	if x == nil {
		if se == nil {
			return errNotIn404
		}
		return r.changed(se, req)
	}
	req.history = readHistory(x.child(nsMUC, "history"))
	if m := r.members[user]; known && m != nil {
		if len(m.sessions) == 0 {
			s.work.post("answer "+user.String(), func() { s.answerInvite(user, u, true) })
		}
		out, err := r.enter(req)
		if err != nil {
			return err
		}
		return r.send(out...)
	}
	for _, j := range r.joining {
		if j.from == in.from {
			j.joinRequest, j.cancelled = req, false // the same again; the answer comes
			return nil
		}
	}
	kind := adapter.JoinRoom
	if u.Domain == s.domain && (!known && !r.gone || r.info.Free) { // a room that is over leaves its name
		kind = adapter.CreateRoom
	}
	return r.ask(req, kind)
}

// ask asks the provider to create or join the room for somebody. What becomes of it comes as an event, which
// carries the hint: also to a program that was started after this one. r.mu is held, and released meanwhile.
func (r *room) ask(req joinRequest, kind adapter.IntentKind) error {
	h, ok := hint{Kind: hintJoin, JID: req.from.String(), ID: req.id, Nick: req.nick}.encode()
	if !ok {
		return errLongNick
	}
	origin := originID(req.from, "join", rand.Text())
	in := adapter.Intent{Kind: kind, Room: r.uri, Actor: req.user, OriginID: origin, Hint: h}
	if kind == adapter.CreateRoom {
		in.Name = cut(r.uri.ID, 200)
	}
	r.joining[origin] = &joining{joinRequest: req}
	r.mu.Unlock()
	err := r.s.intake(in)
	if err != nil {
		err = r.s.notLetIn(r.uri, req.user, err)
	}
	r.mu.Lock()
	if err != nil {
		delete(r.joining, origin)
	}
	return err
}

// enter makes a resource of a member an occupant, in the order of XEP-0045 section 7.2.2: the others, then oneself,
// then messages of before, then the subject. It returns the stanzas. r.mu is held.
func (r *room) enter(req joinRequest) ([]*element, error) {
	m := r.members[req.user]
	if m == nil {
		return nil, errNotIn
	}
	nick := cleanNick(req.nick)
	if nick == "" {
		return nil, errNick
	}
	se := r.sessions[req.from.String()]
	first := len(m.sessions) == 0 || len(m.sessions) == 1 && se != nil
	if !first && nickKey(nick) != nickKey(m.nick) {
		nick = m.nick // the other resources' nick: a participant has one
	}
	if other := r.nicks[nickKey(nick)]; other != nil && other != m {
		return nil, errNickTaken
	}
	name := req.name
	if name == "" && nick != req.nick {
		name = cut(req.nick, maxNick)
	}
	fresh := se == nil
	if fresh {
		se = &session{jid: req.from, full: req.from.String(), m: m}
	}
	row := nickRow{m.user, nick, name}
	if err := r.s.db.write(func(tx *sql.Tx) error {
		if err := putNick(tx, r.uri, row); err != nil {
			return err
		}
		if req.created {
			if _, err := tx.Exec(`INSERT INTO xmpp_setting (person, name, value) VALUES ($1, $2, '1') ON CONFLICT (person, name) DO NOTHING`, r.uri.String(), settingNew); err != nil {
				return err
			}
		}
		return putOccupant(tx, occupantRow{r.uri, m.user, req.from})
	}); err != nil {
		return nil, err
	}
	if req.created {
		r.s.db.forgetSettings()
	}
	var out []*element
	if nick != m.nick {
		out = append(out, r.renamed(m, nick, se)...)
	}
	m.name = name
	se.show, se.status = req.show, req.status
	if fresh {
		m.sessions = append(m.sessions, se)
		r.occupy(se)
	}
	to := req.from.String()
	for _, other := range r.list() {
		if other != m && other.shown {
			out = append(out, r.presence(other).with(to))
		}
	}
	for _, x := range r.ordered() {
		switch {
		case x == se || x.m == m && !fresh || x.m != m && !m.shown:
		case x.m == m:
			out = append(out, r.presence(m, "110").with(x.full))
		default:
			out = append(out, r.presence(m).with(x.full))
		}
	}
	codes := []string{"100", "110"}
	if req.created {
		codes = append(codes, "201")
	}
	if nick != req.nick {
		codes = append(codes, "210")
	}
	out = append(out, r.presence(m, codes...).with(to).set("id", req.id))
	past, err := r.past(m.user, to, req.history)
	if err != nil {
		// Entering is more than what was said before; the archive has it.
		r.s.log.Warn().Err(err).Msg("a room's past could not be read")
	}
	out = append(out, past...)
	return append(out, r.subjectMessage().with(to)), nil
}

// renamed changes a member's nick and returns what tells the sessions, but for one that is told apart. r.mu is held.
func (r *room) renamed(m *member, nick string, not *session) []*element {
	old := m.nick
	item := el(nsMUCUser, "item", "affiliation", m.is.affiliation, "role", m.is.role, "nick", nick, "jid", m.jid.String())
	delete(r.nicks, nickKey(old))
	m.nick = nick
	r.nicks[nickKey(nick)] = m
	var out []*element
	for _, se := range r.ordered() {
		if se == not || se.m != m && !m.shown {
			continue
		}
		codes := []string{"303"}
		if se.m == m {
			codes = append(codes, "110")
		}
		e := el("", "presence", "type", "unavailable", "from", r.jid.with(old).String(), "to", se.full)
		out = append(out, e.add(mucUser(item, codes), r.occupantID(m.user)))
	}
	return out
}

// changed handles presence of an occupant: another nick, or another availability. r.mu is held.
func (r *room) changed(se *session, req joinRequest) error {
	m := se.m
	nick := cleanNick(req.nick)
	if other := r.nicks[nickKey(nick)]; other != nil && other != m {
		return errNickTaken
	}
	name := ""
	if nick != req.nick {
		name = cut(req.nick, maxNick)
	}
	var out []*element
	if nick != m.nick {
		if err := r.s.db.write(func(tx *sql.Tx) error {
			return putNick(tx, r.uri, nickRow{m.user, nick, name})
		}); err != nil {
			return err
		}
		out = r.renamed(m, nick, nil)
		m.name = name
	}
	se.show, se.status = req.show, req.status
	for i, x := range m.sessions { // the one that spoke last is shown
		if x == se {
			m.sessions = append(append(m.sessions[:i:i], m.sessions[i+1:]...), se)
			break
		}
	}
	for _, x := range r.ordered() {
		if x.m != m {
			if m.shown {
				out = append(out, r.presence(m).with(x.full))
			}
			continue
		}
		codes := []string{"100", "110"}
		if nick != req.nick {
			codes = append(codes, "210")
		}
		e := r.presence(m, codes...).with(x.full)
		if x == se {
			e.set("id", req.id)
		}
		out = append(out, e)
	}
	return r.send(out...)
}

// subjectMessage is the room's subject (XEP-0045 section 7.2.15), which ends a join even when it is empty.
func (r *room) subjectMessage() *element {
	return el("", "message", "type", "groupchat", "from", r.jid.String()).add(textEl("", "subject", r.subject))
}

// historyRequest is what of the past a joiner wants (XEP-0045 section 7.2.14). Numbers that are none are left
// out of account.
type historyRequest struct {
	max   int // messages, -1 for no limit
	chars int // -1 for no limit
	since time.Time
}

func readHistory(e *element) historyRequest {
	h := historyRequest{max: -1, chars: -1}
	if e == nil {
		return h
	}
	number := func(name string) (int, bool) {
		n, err := strconv.ParseUint(strings.TrimSpace(e.attr(name)), 10, 31)
		return int(n), err == nil
	}
	if n, ok := number("maxstanzas"); ok {
		h.max = n
	}
	if n, ok := number("maxchars"); ok {
		h.chars = n
	}
	if n, ok := number("seconds"); ok {
		h.since = time.Now().Add(-time.Duration(n) * time.Second)
	}
	if t, err := time.Parse(time.RFC3339, e.attr("since")); err == nil && t.After(h.since) {
		h.since = t
	}
	return h
}

// past gives the messages of before that a joiner may see and wants: those they were a participant for, or all that the
// room's history policy gives. r.mu is held.
func (r *room) past(user mimiuri.URI, to string, h historyRequest) ([]*element, error) {
	if err := r.fill(); err != nil {
		return nil, err
	}
	var out []*element
	count, now := 0, time.Now()
	for i := len(r.history) - 1; i >= 0; i-- {
		msg := r.history[i]
		if !msg.audience[user] && !r.info.History || msg.gone || !msg.expires.IsZero() && now.After(msg.expires) {
			continue
		}
		if h.max >= 0 && count >= h.max || msg.at.Before(h.since) {
			break
		}
		var list []*element
		size := 0
		for _, e := range msg.stanzas {
			c := delayed(e, r.jid, msg.at).with(to)
			size += len(c.String())
			list = append(list, c)
		}
		if h.chars >= 0 {
			if h.chars -= size; h.chars < 0 {
				break
			}
		}
		count++
		out = append(list, out...)
	}
	return out, nil
}

// roomMessage handles messages at the rooms domain.
func (s *service) roomMessage(in *packet) {
	if in.typ == "error" {
		if gone(conditionOf(in.kids)) {
			s.endOf(in.to, in.from, false, "", "")
		}
		return
	}
	if err := s.roomMessageIn(in); err != nil {
		s.refuse(in, err)
	}
}

func (s *service) roomMessageIn(in *packet) error {
	if in.to.local == "" {
		if find(in.kids, "", "body") == nil {
			return nil
		}
		return errService
	}
	user, err := s.sender(in)
	if err != nil {
		return err
	}
	if s.listed(in.from.bare()) {
		return errListed
	}
	u, err := s.roomAt(in)
	if err != nil {
		return err
	}
	if x := find(in.kids, nsMUCUser, "x"); x != nil && in.to.resource == "" && in.typ != "groupchat" {
		if x.child(nsMUCUser, "invite") != nil {
			return s.mediatedInvite(in, user, u, x)
		}
		if d := x.child(nsMUCUser, "decline"); d != nil {
			return s.decline(in, user, u, d)
		}
	}
	switch {
	case in.typ == "groupchat" && in.to.resource == "":
		return s.groupchat(in, user, u)
	case in.typ == "groupchat":
		return errGroupchatToNick
	case in.to.resource != "":
		return s.privateMessage(in, user, u)
	case find(in.kids, "", "body") == nil:
		return nil // receipts and the like
	}
	return errNotGroupchat
}

// groupchat takes in a message to the room. It is shown to nobody, its sender included, before the room's hub
// has accepted it: then it comes back as an event, and its place in the room is known. Typing is shown at once, within this
// provider only.
func (s *service) groupchat(in *packet, user mimiuri.URI, u mimiuri.URI) error {
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return err
	}
	r.mu.Lock()
	se := r.sessions[in.from.String()]
	send := se != nil && se.m.role.Send
	direct := r.info.Direct
	r.mu.Unlock()
	switch {
	case se == nil:
		return errNotIn
	case direct:
		return errDirectRoom
	}
	if find(in.kids, "", "subject") != nil && find(in.kids, "", "body") == nil && find(in.kids, "", "thread") == nil {
		return s.setSubject(in, r, user)
	}
	if state := stateOf(in.kids); state != nil && find(in.kids, "", "body") == nil {
		return s.typing(r, se, state)
	}
	return s.take(in, talk{room: u, user: user, r: r}, send, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.sessions[in.from.String()] != se {
			return errNotIn
		}
		return nil
	})
}

// take hands in a message, or shows one again that was shown before: the sender has missed that, the others have not.
func (s *service) take(in *packet, t talk, send bool, still func() error) error {
	to := ""
	if t.direct {
		to = in.to.String()
	}
	origin, h, err := messageNames(in, to)
	if err != nil {
		return err
	}
	id := messageOrigin(in, origin)
	ctx, cancel := s.timeout()
	defer cancel()
	mimi, at, known, err := s.db.sent(ctx, t.room, t.user, id)
	if err != nil {
		return err
	}
	if known {
		if t.direct {
			return nil
		}
		return s.showAgain(ctx, t, in.from, mimi, at, still)
	}
	c, err := s.compose(ctx, in, t)
	if err != nil || c == nil {
		return err
	}
	if !send {
		return errVoice
	}
	if in.id != "" {
		c.SetExternalMessageID([]byte(in.id), s.local)
	}
	return s.intake(adapter.Intent{Kind: adapter.SendMessage, Room: t.room, Actor: t.user, OriginID: id, Content: c, Hint: h})
}

// showAgain shows a message of before to one resource.
func (s *service) showAgain(ctx context.Context, t talk, to addr, mimi content.MessageID, at time.Time, still func() error) error {
	m, err := s.db.message(ctx, t.room, mimi)
	if err != nil || m == nil || m.body == bodyGone {
		return err
	}
	ev, ok, err := s.event(ctx, t.room, int64(m.seq))
	if err != nil || !ok {
		return err
	}
	t.r.mu.Lock()
	list, err := t.r.renderEvent(ctx, ev)
	t.r.mu.Unlock()
	if err != nil {
		return err
	}
	if err := still(); err != nil {
		return err
	}
	for i, e := range list {
		list[i] = delayed(e, t.r.jid, at).with(to.String())
	}
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	return t.r.send(list...)
}

// delayed is a stanza with the time it is from (XEP-0203).
func delayed(e *element, by addr, at time.Time) *element {
	c := *e
	c.Kids = append(append([]*element(nil), e.Kids...), el(nsDelay, "delay", "from", by.String(), "stamp", stamp(at)))
	return &c
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// setSubject changes the room's subject (XEP-0045 section 8.1). That it has changed comes as an event.
func (s *service) setSubject(in *packet, r *room, user mimiuri.URI) error {
	subject := textOf(in.kids, "subject")
	if len(subject) > maxSubject {
		return errSubjectLong
	}
	r.mu.Lock()
	may := can(r.info, user, policy.CanChangeRoomSubject)
	r.mu.Unlock()
	if !may {
		return errSubject
	}
	origin, h, err := messageNames(in, "")
	if err != nil {
		return err
	}
	return s.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: r.uri, Actor: user, OriginID: messageOrigin(in, origin), Hint: h,
		Metadata: &adapter.MetadataChange{Subject: &subject}})
}

// maxSubject is the longest subject in octets.
const maxSubject = 2048

// stateOf gives a chat state (XEP-0085).
func stateOf(kids []*element) *element {
	for _, k := range kids {
		if k.Space == nsStates {
			switch k.Local {
			case "active", "composing", "paused", "inactive", "gone":
				return k
			}
		}
	}
	return nil
}

// typing shows a chat state to the other local occupants; it is kept nowhere.
func (s *service) typing(r *room, se *session, state *element) error {
	ctx, cancel := s.timeout()
	defer cancel()
	if off, err := s.db.setting(ctx, se.m.user, settingTyping); err != nil || off == "off" {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !se.m.role.Send || len(r.sessions) > maxTyping {
		return nil
	}
	e := el("", "message", "type", "groupchat", "from", r.jid.with(se.m.nick).String()).
		add(el(nsStates, state.Local), el(nsHints, "no-store"), r.occupantID(se.m.user))
	return r.send(r.toAll(e)...)
}

// maxTyping is up to how many occupants are shown who is typing.
const maxTyping = 100

// bodyOf chooses one of a message's bodies: that in the message's own language, or the first.
func bodyOf(in *packet) (body, lang string) {
	found := false
	for _, k := range in.kids {
		if k.Space != "" || k.Local != "body" {
			continue
		}
		l := k.attr("xml:lang")
		own := l == "" || l == in.lang
		if !found || own {
			body, lang = k.Text, l
			if l == "" {
				lang = in.lang
			}
			found = true
		}
		if own {
			break
		}
	}
	if !isLang(lang) {
		lang = ""
	}
	return body, lang
}

// isLang reports whether s has the form of an RFC 5646 language tag.
func isLang(s string) bool {
	if s == "" || len(s) > 35 {
		return false
	}
	for i, part := range strings.Split(s, "-") {
		if part == "" || len(part) > 8 {
			return false
		}
		for _, c := range []byte(part) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
				return false
			}
		}
	}
	return true
}

// mediatedInvite is XEP-0045 section 7.8.2: somebody in the room asks it to invite others.
func (s *service) mediatedInvite(in *packet, user, u mimiuri.URI, x *element) error {
	n := 0
	for _, i := range x.Kids {
		if i.Space != nsMUCUser || i.Local != "invite" {
			continue
		}
		if n++; n > 20 {
			return errInviteMany
		}
		a, err := prepare(i.attr("to"))
		if err != nil {
			return errAddress
		}
		if err := s.invite(in, hintInvite, user, u, a.bare(), strconv.Itoa(n), i.text(nsMUCUser, "reason")); err != nil {
			return err
		}
	}
	return nil
}

// invite makes somebody a participant of a room. What becomes of it comes as an event. A reason is told to local people; MIMI has
// none for invitations.
func (s *service) invite(in *packet, how string, user, u mimiuri.URI, a addr, nth, reason string) error {
	target, ok := s.user(a)
	if !ok {
		return s.errNobody()
	}
	if target.Domain == s.domain && s.host.Level(a.String()) == adapter.LevelNone {
		return errTheirLevel
	}
	info, ok, err := s.lookup(u)
	if err != nil {
		return err
	}
	if _, isIn := participant(info, user); !ok || !isIn {
		return errInviteOutside
	}
	if _, isIn := participant(info, target); isIn {
		if target.Domain == s.domain { // only not in the room just now
			s.reply(s.toRoom, s.invitation(u, info.Name, target, user, cut(strings.TrimSpace(reason), maxReason), "again-"+shortHash(in.id+a.String())))
		}
		return nil
	}
	say := hint{Kind: how, JID: in.from.String(), ID: in.id, To: in.to.String(), Reason: cut(strings.TrimSpace(reason), maxReason)}
	h, ok := say.encode()
	if !ok { // the addresses are more than the reason
		say.Reason = ""
		h, ok = say.encode()
	}
	if !ok {
		return errLongID
	}
	id := in.id
	if id == "" {
		id = rand.Text()
	}
	return s.intake(adapter.Intent{
		Kind: adapter.Invite, Room: u, Actor: user, Target: target,
		OriginID: originID(in.from, "invite", id, shortHash(target.String()), nth), Hint: h,
	})
}

// invitation is what the room sends to a local user who has become a participant but is not there: as mediated
// invitation, and as XEP-0249 for clients that know only that.
func (s *service) invitation(u mimiuri.URI, name string, target, by mimiuri.URI, reason, id string) *element {
	j := s.roomJID(u).String()
	inviter := s.userJID(by).String()
	text := inviter + " invited you to the room " + j
	if name != "" && name != u.ID {
		text += " (" + cut(name, 200) + ")"
	}
	invite := el(nsMUCUser, "invite", "from", inviter)
	if reason != "" {
		text += ": " + reason
		invite.add(textEl(nsMUCUser, "reason", reason))
	}
	return el("", "message", "id", id, "from", j, "to", s.userJID(target).String()).add(
		textEl("", "body", text),
		el(nsMUCUser, "x").add(invite),
		el(nsDirect, "x", "jid", j, "reason", reason),
	)
}

// decline is XEP-0045 section 7.8.2: an invitation is not taken. The invited are participants already, so
// declining is leaving; whoever invited them is told, if they are of this server.
func (s *service) decline(in *packet, user, u mimiuri.URI, d *element) error {
	info, ok, err := s.lookup(u)
	if err != nil {
		return err
	}
	if _, isIn := participant(info, user); !ok || !isIn {
		return errNoRoom
	}
	if a, err := prepare(d.attr("to")); err == nil {
		if inviter, ok := s.person(a.bare()); ok {
			if _, isIn := participant(info, inviter); isIn {
				s.reply(s.toRoom, el("", "message", "from", s.roomJID(u).String(), "to", a.bare().String()).add(
					el(nsMUCUser, "x").add(el(nsMUCUser, "decline", "from", in.from.bare().String()).add(textEl(nsMUCUser, "reason", cut(d.text(nsMUCUser, "reason"), 1024))))))
			}
		}
	}
	s.answerInvite(user, u, false)
	id := in.id
	if id == "" {
		id = rand.Text()
	}
	h, _ := hint{Kind: hintInvite, JID: in.from.String(), ID: in.id, To: in.to.String()}.encode()
	return s.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: u, Actor: user, OriginID: originID(in.from, "decline", id), Hint: h})
}

// answerInvite tells the provider what somebody says to an invitation. That it cannot be noted (the contacts are as many as allowed) is no
// reason not to let them in or out.
func (s *service) answerInvite(user, room mimiuri.URI, accept bool) {
	ctx, cancel := s.timeout()
	defer cancel()
	if err := s.host.AnswerInvitation(ctx, user, room, accept); err != nil {
		s.log.Warn().Err(err).Str("room", room.String()).Msg("the answer to an invitation could not be noted")
	}
}

func textOf(kids []*element, local string) string {
	if e := find(kids, "", local); e != nil {
		return e.Text
	}
	return ""
}

// showOf reads the availability; what is none of RFC 6121's values is plain availability.
func showOf(kids []*element) string {
	switch v := strings.TrimSpace(textOf(kids, "show")); v {
	case "away", "chat", "dnd", "xa":
		return v
	}
	return ""
}

// cut shortens s to at most n octets, at the end of a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
