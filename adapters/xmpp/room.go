package xmpp

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"sort"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// maxHistory is how many messages a room keeps in memory for those who join. They are read from the provider's sealed
// store when they are needed first.
const maxHistory = 50

// maxShown is up to how many members all of them are shown as occupants. Of those who come later only the ones who have
// spoken are: presence of everybody to everybody is what large rooms break servers with. Everybody is in
// the member list (muc#admin) and in disco#items.
const maxShown = 200

// room is a MIMI room as a MUC (XEP-0045).
//
// Its members are the room's participants. A member may have sessions: the resources with which a local user
// occupies the room. The bridge stands in for every member as one more session, so a member is an occupant to
// others as long as they are a participant: somebody elsewhere is shown as present, a local user without a
// session of their own as being away for long (xa). The end of a session is therefore the end of a presence, never of
// the participation.
//
// The state is guarded by mu, which is never held while the provider is asked anything. What is sent to the
// room's occupants is sent with mu held, so that all of them see one order.
type room struct {
	s   *service
	uri mimiuri.URI
	jid addr

	users int // of this struct; guarded by service.mu

	mu       sync.Mutex
	loaded   bool
	gen      uint64       // counts events, to notice one between a question to the provider and its answer
	info     adapter.Room // as it was applied last
	name     string
	subject  string
	gone     bool
	members  map[mimiuri.URI]*member
	nicks    map[string]*member      // by nickKey
	sessions map[string]*session     // by full JID
	order    []*session              // the same, as ordered gives them; nil: to be made
	saved    map[mimiuri.URI]nickRow // nicks of people who are no members now
	joining  map[string]*joining     // by origin id
	history  []shownMessage
	filled   bool // history has been read
	last     mark // of what was sent last
	before   mark // of what was sent last on the stream before that
	// unconfirmed are the stanzas of events that have been sent, by the event's Seq, until the server is known to have
	// handled them. An event that comes again meanwhile is shown by the same stanzas: the state has changed
	// with the first time.
	unconfirmed map[uint64][]*element
}

// member is a participant.
type member struct {
	user     mimiuri.URI
	role     adapter.Participant
	is       standing
	jid      addr // bare
	nick     string
	name     string     // XEP-0172, if it is more than the nick
	sessions []*session // in the order they came; the last is the one shown
	shown    bool       // to others; see maxShown

	reason string // of their removal
	banned bool   // by their removal
	over   bool   // the room is destroyed
}

// session is one resource of a local user in the room.
type session struct {
	jid    addr   // full
	full   string // jid
	m      *member
	show   string
	status string
}

// joining is a join that waits for the provider.
type joining struct {
	joinRequest
	cancelled bool
}

// shownMessage is a message as it was shown, for the history of those who join.
type shownMessage struct {
	id       content.MessageID
	at       time.Time
	expires  time.Time // zero: never
	gone     bool      // retracted
	audience map[mimiuri.URI]bool
	stanzas  []*element // without to
}

func newRoom(s *service, u mimiuri.URI) *room {
	return &room{
		s: s, uri: u, jid: s.roomJID(u),
		members:  make(map[mimiuri.URI]*member),
		nicks:    make(map[string]*member),
		sessions: make(map[string]*session),
		saved:    make(map[mimiuri.URI]nickRow),
		joining:  make(map[string]*joining),

		unconfirmed: make(map[uint64][]*element),
	}
}

// empty reports whether the room has nothing that would be missed.
func (r *room) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions) == 0 && len(r.joining) == 0 && len(r.unconfirmed) == 0
}

// send sends to occupants. r.mu is held.
func (r *room) send(list ...*element) error {
	if len(list) == 0 {
		return nil
	}
	m, err := r.s.toRoom.send(list...)
	if err != nil {
		return err
	}
	if m.stream != r.last.stream {
		r.before = r.last
	}
	r.last = m
	return nil
}

// refresh asks the provider who is in the room and shows what has changed. ok is false if the provider
// is not in the room.
func (r *room) refresh(ctx context.Context) (ok bool, err error) {
	for try := 0; ; try++ {
		r.mu.Lock()
		gen := r.gen
		r.mu.Unlock()
		info, ok, err := r.s.view(ctx, r.uri)
		if err != nil {
			return false, err
		}
		r.mu.Lock()
		if r.gen != gen && try < 5 {
			r.mu.Unlock()
			continue
		}
		out, removed, err := r.apply(ctx, info, nil)
		if err == nil {
			// With the stream down these are lost; resume shows everything again.
			_ = r.send(out...)
		}
		r.mu.Unlock()
		for _, u := range removed {
			r.dropped(u)
		}
		return ok && !info.Gone, err
	}
}

// dropped forgets a former member on disk, unless they are one again.
func (r *room) dropped(u mimiuri.URI) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members[u] != nil {
		return
	}
	if err := r.s.db.dropUser(r.uri, u); err != nil {
		r.s.log.Warn().Err(err).Msg("a former member could not be forgotten")
	}
}

// withEvent is the snapshot with what the event says: the snapshot may be of before it, or after it.
func withEvent(info adapter.Room, ev adapter.Event) adapter.Room {
	list := make([]adapter.Participant, 0, len(info.Participants)+1)
	found := false
	for _, p := range info.Participants {
		if p.User == ev.User && ev.Kind == adapter.Left {
			continue
		}
		found = found || p.User == ev.User
		if p.User == ev.User && ev.Kind == adapter.RoleChanged {
			p.Role = ev.Role
			for _, role := range info.Roles {
				if role.Index == ev.Role {
					p.RoleName, p.Send, p.Admin = role.Name, role.Can(policy.CanSendMessage), role.Can(policy.CanChangeUserRole)
				}
			}
		}
		list = append(list, p)
	}
	if ev.Kind == adapter.Joined && !found {
		list = append(list, adapter.Participant{User: ev.User, Role: ev.Role, Send: true})
	}
	info.Participants = list
	return info
}

// apply makes the members those of info. It returns what shows the difference to the occupants, and who is a member no
// more. ev is the event that is being delivered, or nil. r.mu is held.
func (r *room) apply(ctx context.Context, info adapter.Room, ev *adapter.Event) (out []*element, removed []mimiuri.URI, err error) {
	var occupants []occupantRow
	saved := r.saved
	if !r.loaded {
		saved = make(map[mimiuri.URI]nickRow)
		nicks, err := r.s.db.nicks(ctx, r.uri)
		if err != nil {
			return nil, nil, err
		}
		for _, n := range nicks {
			saved[n.user] = n
		}
		if occupants, err = r.s.db.occupants(ctx, r.uri); err != nil {
			return nil, nil, err
		}
	}

	// New members get their nicks first: that is the only thing that can fail. Those with a nick of their own
	// come before, so that nobody new takes it.
	taken := make(map[string]bool)
	isTaken := func(key string) bool { return taken[key] || r.nicks[key] != nil }
	var fresh []*member
	var rows []nickRow
	entering, nick := enteringNick(ev)
	for _, known := range []bool{true, false} {
		for _, p := range info.Participants {
			row, ok := saved[p.User]
			if r.members[p.User] != nil || ok != known {
				continue
			}
			switch {
			case p.User == entering && nick != "" && !isTaken(nickKey(nick)):
				row = nickRow{user: p.User, nick: nick}
				rows = append(rows, row)
			case !ok || isTaken(nickKey(row.nick)):
				row = nickRow{user: p.User, nick: defaultNick(p.User, r.s.domain, isTaken)}
				if full := fullName(p.User); full != row.nick {
					row.name = cut(full, maxNick)
				}
				rows = append(rows, row)
			}
			taken[nickKey(row.nick)] = true
			shadow := room{info: info}
			standing := shadow.standing(p)
			fresh = append(fresh, &member{user: p.User, role: p, is: standing, jid: r.s.userJID(p.User), nick: row.nick, name: row.name})
		}
	}
	if len(rows) > 0 {
		// The same nick after a restart.
		if err := r.s.db.write(func(tx *sql.Tx) error {
			for _, row := range rows {
				if err := putNick(tx, r.uri, row); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return nil, nil, err
		}
	}

	r.saved = saved
	r.info = info
	r.name, r.subject, r.gone = info.Name, info.Subject, info.Gone
	now := make(map[mimiuri.URI]bool, len(info.Participants))
	for _, p := range info.Participants {
		now[p.User] = true
	}
	if ev != nil && ev.Kind == adapter.Left {
		if m := r.members[ev.User]; m != nil {
			actor, codes := r.members[ev.Actor], []string{"321"}
			m.reason, m.banned, m.over = ev.Reason, ev.Banned, ev.Closing
			switch h := readHint(ev.Origin); {
			case ev.Closing:
				actor, codes = nil, nil // XEP-0045 section 10.9
			case ev.Actor == ev.User:
				actor, codes = nil, nil
			case ev.Banned:
				codes = []string{"301"}
			case h.Kick:
				codes = []string{"307"}
			}
			out = append(out, r.remove(m, actor, codes...)...)
			removed = append(removed, m.user)
		}
	}
	for _, m := range r.list() {
		if !now[m.user] {
			codes := []string{"321"}
			if ev != nil && ev.Closing {
				m.over, m.reason, codes = true, ev.Reason, nil
			}
			out = append(out, r.remove(m, nil, codes...)...)
			removed = append(removed, m.user)
		}
	}
	for _, p := range info.Participants {
		m := r.members[p.User]
		if m == nil {
			continue
		}
		changed := r.standing(p) != m.is || p.Send != m.role.Send
		m.role, m.is = p, r.standing(p)
		if changed {
			for _, se := range m.sessions {
				out = append(out, r.presence(m, "110").with(se.full))
			}
			out = append(out, r.toOthers(r.presence(m), m)...)
		}
	}
	for _, m := range fresh {
		delete(r.saved, m.user)
		r.members[m.user] = m
		r.nicks[nickKey(m.nick)] = m
		m.shown = len(r.members) <= maxShown
		if m.user != entering { // who enters is shown by that
			out = append(out, r.toSeers(r.presence(m), m)...)
		}
	}

	if !r.loaded {
		r.loaded = true
		for _, o := range occupants {
			m := r.members[o.user]
			if m != nil && !r.gone {
				se := &session{jid: o.jid, full: o.jid.String(), m: m}
				m.sessions = append(m.sessions, se)
				r.occupy(se)
				continue
			}
			// The participation ended, and nobody could be told then.
			former := &member{user: o.user, jid: o.jid.bare(), nick: saved[o.user].nick}
			if former.nick == "" {
				former.nick = defaultNick(o.user, r.s.domain, isTaken)
			}
			out = append(out, r.unavailable(former, nil, "110", "321").with(o.jid.String()))
			removed = append(removed, o.user)
		}
		// Who has come by this very event is not known yet to those who have been here since before.
		if m := r.members[eventUser(ev)]; m != nil && m.user != entering {
			out = append(out, r.toOthers(r.presence(m), m)...)
		}
	}
	return out, removed, nil
}

// enteringNick tells who becomes an occupant by the event that is being delivered, as they asked to join, and under
// which nick they would like to.
func enteringNick(ev *adapter.Event) (mimiuri.URI, string) {
	if ev == nil || ev.Kind != adapter.Joined {
		return mimiuri.URI{}, ""
	}
	h := readHint(ev.Origin)
	if h.Kind != hintJoin {
		return mimiuri.URI{}, ""
	}
	return ev.User, cleanNick(h.Nick)
}

// eventUser is who has come by an event.
func eventUser(ev *adapter.Event) mimiuri.URI {
	if ev == nil || ev.Kind != adapter.Joined {
		return mimiuri.URI{}
	}
	return ev.User
}

// remove takes a member out of the room and returns what tells everybody, the member's own sessions
// included. r.mu is held.
func (r *room) remove(m *member, actor *member, codes ...string) []*element {
	delete(r.members, m.user)
	delete(r.nicks, nickKey(m.nick))
	r.saved[m.user] = nickRow{user: m.user, nick: m.nick, name: m.name}
	var out []*element
	others := r.unavailable(m, actor, codes...)
	for _, se := range m.sessions {
		r.vacate(se)
		e := r.unavailable(m, actor, append([]string{"110"}, codes...)...)
		e.child(nsMUCUser, "x").child(nsMUCUser, "item").set("jid", se.full)
		out = append(out, e.with(se.full))
	}
	m.sessions = nil
	return append(out, r.toSeers(others, m)...)
}

// toAll addresses a stanza to every session. r.mu is held.
func (r *room) toAll(e *element) []*element {
	out := make([]*element, 0, len(r.sessions))
	for _, se := range r.ordered() {
		out = append(out, e.with(se.full))
	}
	return out
}

// toSeers addresses a member's presence to every session that is shown it: their own, and the others' if the
// member is shown at all. r.mu is held.
func (r *room) toSeers(e *element, m *member) []*element {
	var out []*element
	for _, se := range r.ordered() {
		if m.shown || se.m == m {
			out = append(out, e.with(se.full))
		}
	}
	return out
}

// ordered lists the sessions, always in the same order. r.mu is held; the caller does not change the list.
func (r *room) ordered() []*session {
	if r.order == nil {
		r.order = make([]*session, 0, len(r.sessions))
		for _, se := range r.sessions {
			r.order = append(r.order, se)
		}
		sort.Slice(r.order, func(i, j int) bool { return r.order[i].full < r.order[j].full })
	}
	return r.order
}

// occupy and vacate add a session to the room, and take it out. r.mu is held.
func (r *room) occupy(se *session) {
	r.sessions[se.full] = se
	r.order = nil
}

func (r *room) vacate(se *session) {
	delete(r.sessions, se.full)
	r.order = nil
}

// occupantID is XEP-0421: the same for a user in a room for ever, and nothing else can be told from it.
func (r *room) occupantID(u mimiuri.URI) *element {
	sum := sha256.Sum256([]byte(r.s.db.salt + "\x00" + r.uri.String() + "\x00" + u.String()))
	return el(nsOccupant, "occupant-id", "id", base32hex.EncodeToString(sum[:20]))
}

// presence is a member's presence as others see it, with status codes; without to. Rooms hide no JIDs: a MIMI
// URI says as much. r.mu is held.
func (r *room) presence(m *member, codes ...string) *element {
	e := el("", "presence", "from", r.jid.with(m.nick).String())
	item := el(nsMUCUser, "item", "affiliation", m.is.affiliation, "role", m.is.role)
	switch {
	case len(m.sessions) > 0:
		se := m.sessions[len(m.sessions)-1]
		item.set("jid", se.full)
		if se.show != "" {
			e.add(textEl("", "show", se.show))
		}
		if se.status != "" {
			e.add(textEl("", "status", se.status))
		}
	case m.user.Domain == r.s.domain:
		item.set("jid", m.jid.String())
		e.add(textEl("", "show", "xa"))
	default:
		item.set("jid", m.jid.String())
	}
	return e.add(mucUser(item, codes), r.occupantID(m.user), m.nickElement())
}

// unavailable tells that somebody is neither occupant nor participant any more, and who did it if that was somebody
// else; without to. r.mu is held.
func (r *room) unavailable(m *member, actor *member, codes ...string) *element {
	item := el(nsMUCUser, "item", "affiliation", "none", "role", "none", "jid", m.jid.String())
	if n := len(m.sessions); n > 0 {
		item.set("jid", m.sessions[n-1].full)
	}
	if m.over {
		d := el(nsMUCUser, "destroy")
		if m.reason != "" {
			d.add(textEl(nsMUCUser, "reason", m.reason))
		}
		return el("", "presence", "type", "unavailable", "from", r.jid.with(m.nick).String()).
			add(mucUser(item, codes).add(d), r.occupantID(m.user))
	}
	if m.banned {
		item.set("affiliation", "outcast")
	}
	if m.reason != "" {
		item.add(textEl(nsMUCUser, "reason", m.reason))
	}
	if actor != nil && actor != m {
		item.add(el(nsMUCUser, "actor", "nick", actor.nick, "jid", actor.jid.String()))
	}
	return el("", "presence", "type", "unavailable", "from", r.jid.with(m.nick).String()).
		add(mucUser(item, codes), r.occupantID(m.user))
}

func mucUser(item *element, codes []string) *element {
	x := el(nsMUCUser, "x").add(item)
	for _, c := range codes {
		x.add(el(nsMUCUser, "status", "code", c))
	}
	return x
}

// nickElement is XEP-0172 for a name that is more than what fits into a nick.
func (m *member) nickElement() *element {
	if m.name == "" || m.name == m.nick {
		return nil
	}
	return textEl(nsNick, "nick", m.name)
}

// endSession ends the occupancy of one resource; the member stays. id is that of the stanza that asked for it. answer is false if nobody is there to be told.
// r.mu is held.
func (r *room) endSession(se *session, answer bool, id, status string) {
	m := se.m
	r.vacate(se)
	shown := m.sessions[len(m.sessions)-1] == se
	for i, x := range m.sessions {
		if x == se {
			m.sessions = append(m.sessions[:i:i], m.sessions[i+1:]...)
			break
		}
	}
	if err := r.s.db.dropOccupant(r.uri, se.jid); err != nil {
		r.s.log.Warn().Err(err).Msg("an occupant could not be forgotten")
	}
	var out []*element
	if answer {
		e := el("", "presence", "type", "unavailable", "id", id, "from", r.jid.with(m.nick).String(), "to", se.full)
		if status != "" {
			e.add(textEl("", "status", status))
		}
		item := el(nsMUCUser, "item", "affiliation", m.is.affiliation, "role", "none", "jid", se.full)
		out = append(out, e.add(mucUser(item, []string{"110"}), r.occupantID(m.user)))
	}
	if shown {
		out = append(out, r.toOthers(r.presence(m), m)...)
	}
	_ = r.send(out...)
}

// toOthers addresses a member's presence to the sessions of others, if the member is shown. r.mu is held.
func (r *room) toOthers(e *element, m *member) []*element {
	var out []*element
	for _, se := range r.ordered() {
		if m.shown && se.m != m {
			out = append(out, e.with(se.full))
		}
	}
	return out
}

// resume is run when the stream of the rooms has come up. A resource that has gone meanwhile is found out by a
// message without content: servers answer a groupchat message to a resource that is not there with an
// error (RFC 6121 section 8.5.3.2.3), clients show nothing. If stanzas of this room may have been lost with the
// stream before (previous is what of that was confirmed, now is the new one), everybody is shown everybody again.
func (r *room) resume(previous, now mark) {
	r.mu.Lock()
	loaded := r.loaded
	r.mu.Unlock()
	if !loaded {
		ctx, cancel := r.s.timeout()
		defer cancel()
		if _, err := r.refresh(ctx); err != nil {
			r.s.log.Warn().Err(err).Msg("a room's occupants could not be read; they are when the room is used")
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*element
	for _, se := range r.ordered() {
		probe := el("", "message", "type", "groupchat", "id", "probe-"+shortHash(se.full), "from", r.jid.String(), "to", se.full)
		out = append(out, probe.add(el(nsHints, "no-store")))
	}
	last := r.last
	if last.stream == now.stream { // somebody was faster
		last = r.before
	}
	if last.stream > previous.stream || last.stream == previous.stream && last.pos > previous.pos {
		for _, se := range r.ordered() {
			for _, m := range r.list() {
				if m != se.m && m.shown {
					out = append(out, r.presence(m).with(se.full))
				}
			}
			out = append(out, r.presence(se.m, "110", "100").with(se.full))
		}
	}
	_ = r.send(out...)
}

// list gives the members in a fixed order. r.mu is held.
func (r *room) list() []*member {
	out := make([]*member, 0, len(r.members))
	for _, m := range r.members {
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].nick < out[j].nick })
	return out
}
