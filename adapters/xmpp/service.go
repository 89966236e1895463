package xmpp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	gosrc "gosrc.io/xmpp"
	"gosrc.io/xmpp/stanza"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// hostTimeout bounds a question to the provider.
const hostTimeout = 30 * time.Second

// queueMax is how many stanzas may wait for one room, or from one user at the gateway.
const queueMax = 2000

// service is one run of the adapter.
type service struct {
	addresses
	cfg    Config
	ctx    context.Context
	host   adapter.Host
	log    zerolog.Logger
	db     *store
	work   *queues
	toRoom *stream // the rooms domain
	toUser *stream // the users domain

	roomRoutes, userRoutes *gosrc.Router

	mu      sync.Mutex
	byURI   map[mimiuri.URI]*room
	waiting map[string]chan adapter.Event // by origin id: commands that wait for what becomes of their intent
	asked   map[string]asked              // by id: own requests
	asks    uint64

	pictures avatars
	files    *uploads
	plumbs   plumbs
	lists    blocklists
	rights   privileges

	// working is held for reading while something is shown or taken; whoever has set gone waits for those to end.
	working   sync.RWMutex
	gone      atomic.Bool // Uninstall has begun: nothing is shown or taken any more
	uninstall sync.Mutex  // one at a time
}

func newService(ctx context.Context, cfg Config, host adapter.Host) (*service, error) {
	db, err := openStore(ctx, host.DB())
	if err != nil {
		return nil, err
	}
	s := &service{
		addresses: addresses{domain: host.Domain(), users: cfg.Users, rooms: cfg.Rooms, local: cfg.LocalDomain, db: db},
		cfg:       cfg,
		ctx:       ctx,
		host:      host,
		log:       host.Log(),
		db:        db,
		byURI:     make(map[mimiuri.URI]*room),
		waiting:   make(map[string]chan adapter.Event),
		asked:     make(map[string]asked),
		files:     newUploads(cfg.TLS),
		pictures:  avatars{byURI: make(map[string]*avatar), users: make(map[mimiuri.URI]string)},
		plumbs:    plumbs{byMUC: make(map[addr]*plumb), byRoom: make(map[mimiuri.URI]*plumb)},
	}
	s.work = newQueues(queueMax, s.log)
	s.roomRoutes, s.userRoutes = gosrc.NewRouter(), gosrc.NewRouter()
	s.routeRooms()
	s.routeUsers()
	for _, x := range []struct {
		st     **stream
		domain string
		up     func(previous, now mark)
	}{{&s.toRoom, cfg.Rooms, s.roomsUp}, {&s.toUser, cfg.Users, func(mark, mark) { s.usersUp() }}} {
		st := &stream{
			domain: x.domain, addr: cfg.Server, secret: cfg.Secret, tls: cfg.TLS,
			server: cfg.LocalDomain, max: int64(cfg.MaxStanza), log: s.log, up: x.up,
		}
		st.handle = func(p stanza.Packet, cut cutoff) { s.received(st, p, cut) }
		*x.st = st
	}
	s.toRoom.other, s.toUser.other = s.toUser, s.toRoom
	s.toUser.first = streamNumbers
	// The occupants of before: they are still there as far as they know.
	rows, err := db.occupants(ctx, mimiuri.URI{})
	if err != nil {
		db.close()
		return nil, err
	}
	for _, o := range rows {
		s.room(o.room) // never released
	}
	if err := errors.Join(s.loadPlumbs(ctx), s.loadLists(), s.loadGone(ctx)); err != nil {
		db.close()
		return nil, err
	}
	return s, nil
}

// serve runs both streams until the context is done.
func (s *service) serve() {
	var running sync.WaitGroup
	for _, st := range []*stream{s.toRoom, s.toUser} {
		running.Add(1)
		go func() { defer running.Done(); st.run(s.ctx) }()
	}
	for _, f := range []func(){func() { s.tidy(s.cfg.Keep) }, s.tendPlumbs, s.tendLists} {
		running.Add(1)
		go func() { defer running.Done(); f() }()
	}
	running.Wait()
	s.work.close()
	s.db.close()
}

// room returns the state of a room, made if need be; the caller calls release when done with it. What Host
// knows of it is read on first use.
func (s *service) room(u mimiuri.URI) *room {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.byURI[u]
	if r == nil {
		r = newRoom(s, u)
		s.byURI[u] = r
	}
	r.users++
	return r
}

// release drops the state of a room that nobody uses and nobody is in.
func (s *service) release(r *room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.users--
	if r.users == 0 && r.empty() {
		delete(s.byURI, r.uri)
	}
}

// roomsUp is called when the stream of the rooms domain has come up: whoever occupied a room is asked whether they are
// still there, and shown again what may have been lost with the stream before.
func (s *service) roomsUp(previous, now mark) {
	if s.gone.Load() {
		return
	}
	s.mu.Lock()
	list := make(map[string]mimiuri.URI, len(s.byURI))
	for u, r := range s.byURI {
		list[r.jid.String()] = u
	}
	s.mu.Unlock()
	for key, u := range list {
		s.work.post(key, func() {
			r := s.room(u)
			defer s.release(r)
			r.resume(previous, now)
		})
	}
}

// packet is a stanza on its way in.
type packet struct {
	st       *stream
	kind     string // message, presence, iq
	typ      string
	id       string
	lang     string
	from, to addr
	kids     []*element
}

// readPacket takes from a stanza what is needed here. ok is false for what has no usable sender or receiver.
func readPacket(st *stream, p stanza.Packet) (in *packet, ok bool) {
	in = &packet{st: st, kids: payloadOf(p)}
	var at stanza.Attrs
	switch p := p.(type) {
	case stanza.Message:
		in.kind, at = "message", p.Attrs
	case stanza.Presence:
		in.kind, at = "presence", p.Attrs
	case *stanza.IQ:
		in.kind, at = "iq", p.Attrs
	default:
		return nil, false
	}
	in.typ, in.id, in.lang = string(at.Type), at.Id, at.Lang
	var err1, err2 error
	in.from, err1 = parseAddr(at.From)
	in.to, err2 = parseAddr(at.To)
	return in, err1 == nil && err2 == nil
}

// noReply tells whether a stanza must not be answered with an error (RFC 6120 section 8.3.1).
func (in *packet) noReply() bool {
	return in.typ == "error" || in.kind == "iq" && in.typ == "result" ||
		in.kind == "presence" && in.typ != "" && in.typ != "subscribe"
}

// received is called by the readers for every stanza; it only sorts it into a queue.
func (s *service) received(st *stream, p stanza.Packet, cut cutoff) {
	in, ok := readPacket(st, p)
	if !ok {
		s.log.Debug().Str("stanza", p.Name()).Msg("a stanza without usable addresses was dropped")
		return
	}
	if in.from.domain == s.users || in.from.domain == s.rooms {
		return // our own, come back
	}
	to := s.toUser
	switch in.to.domain {
	case s.rooms:
		to = s.toRoom
	case s.users:
	default:
		return
	}
	if to != st {
		st.merge()
		st, in.st = to, to
	}
	if cut != cutNone {
		s.log.Warn().Str("from", in.from.bare().String()).Str("stanza", in.kind).Stringer("why", cut).Msg("a stanza was refused")
		s.refuse(in, errCut(cut))
		return
	}
	routes, key := s.userRoutes, "user "+in.from.bare().String()
	if st == s.toRoom {
		routes = s.roomRoutes
		if in.to.local != "" {
			key = foldASCII(in.to.bare().String())
		}
	}
	ok = s.work.post(key, func() {
		if !s.stillTaken(in) {
			s.working.RLock()
			defer s.working.RUnlock()
			if s.gone.Load() {
				if s.plumbAt(in.from.bare()) == nil { // a chat room that is about to be left is told nothing
					s.refuse(in, errUninstalled)
				}
				return
			}
		}
		var m gosrc.RouteMatch
		if routes.Match(p, &m) {
			m.Handler.HandlePacket(nil, p)
			return
		}
		if in.kind == "iq" {
			s.refuse(in, errService)
		}
	})
	if !ok {
		s.refuse(in, errQueueFull)
	}
}

// on makes a route's handler of f. Answers go through the packet's stream, so the library's Sender is not used.
func (s *service) on(st func() *stream, f func(*packet)) gosrc.HandlerFunc {
	return func(_ gosrc.Sender, p stanza.Packet) {
		if in, ok := readPacket(st(), p); ok {
			f(in)
		}
	}
}

// onIQ makes a route's handler of f for requests, which are answered in any case: with what f returns as the
// result's payload (nil for an empty result), or with the error.
func (s *service) onIQ(st func() *stream, f func(*packet, *element) (*element, error)) gosrc.HandlerFunc {
	return s.on(st, func(in *packet) {
		if len(in.kids) != 1 || in.id == "" {
			s.refuse(in, errIQShape)
			return
		}
		result, err := f(in, in.kids[0])
		switch {
		case err == errLater:
		case err != nil:
			s.refuse(in, err)
		default:
			s.answer(in, result)
		}
	})
}

// errLater is returned by a request's handler that answers on its own.
var errLater = errors.New("xmpp: answered later")

// answer sends the result of a request.
func (s *service) answer(in *packet, result *element) {
	e := el("", "iq", "type", "result", "id", in.id, "from", in.to.String(), "to", in.from.String()).add(result)
	s.reply(in.st, e)
}

// refuse answers a stanza with an error, if it may be answered.
func (s *service) refuse(in *packet, err error) {
	if in.noReply() {
		return
	}
	e := el("", in.kind, "type", "error", "id", in.id, "from", in.to.String(), "to", in.from.String())
	if in.kind == "presence" && in.st == s.toRoom {
		e.add(el(nsMUC, "x"))
	}
	s.reply(in.st, e.add(toStanzaError(err).element(in.to.bare().String())))
}

// reply sends what is lost if the stream is down: answers to people, who will ask again.
func (s *service) reply(st *stream, list ...*element) {
	if _, err := st.send(list...); err != nil {
		s.log.Debug().Err(err).Str("domain", st.domain).Msg("an answer was dropped")
	}
}

// user gives the user behind a stanza, or why they may do nothing here.
func (s *service) sender(in *packet) (mimiuri.URI, error) {
	u, ok := s.person(in.from.bare())
	if !ok || s.host.Level(in.from.bare().String()) == adapter.LevelNone {
		return mimiuri.URI{}, errLevel
	}
	return u, nil
}

// timeout is the context for a question to the provider.
func (s *service) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.ctx, hostTimeout)
}

// intake hands an intent to the provider.
func (s *service) intake(in adapter.Intent) error {
	ctx, cancel := s.timeout()
	defer cancel()
	return s.host.Intake(ctx, in)
}

// lookup asks the provider about a room; ok is false if it is not in it, or not any more.
func (s *service) lookup(u mimiuri.URI) (info adapter.Room, ok bool, err error) {
	ctx, cancel := s.timeout()
	defer cancel()
	info, ok, err = s.view(ctx, u)
	return info, ok && !info.Gone, err
}

// view is Host.Room. Of a room that the provider has left nobody is a participant.
func (s *service) view(ctx context.Context, u mimiuri.URI) (adapter.Room, bool, error) {
	info, ok, err := s.host.Room(ctx, u)
	if info.Gone {
		info.Participants = nil
	}
	return info, ok, err
}

// participant finds a user in a room.
func participant(r adapter.Room, u mimiuri.URI) (adapter.Participant, bool) {
	for _, p := range r.Participants {
		if p.User == u {
			return p, true
		}
	}
	return adapter.Participant{}, false
}

// roomsOf lists the rooms a user takes part in, but for the conversations with one person.
func (s *service) roomsOf(u mimiuri.URI) ([]adapter.Room, error) {
	return s.roomsWhere(func(r *adapter.Room) bool {
		_, in := participant(*r, u)
		return in
	})
}

// listedFor lists them and those that are to be found by everybody.
func (s *service) listedFor(u mimiuri.URI) ([]adapter.Room, error) {
	return s.roomsWhere(func(r *adapter.Room) bool {
		_, in := participant(*r, u)
		return in || r.Discoverable
	})
}

func (s *service) roomsWhere(wanted func(*adapter.Room) bool) ([]adapter.Room, error) {
	ctx, cancel := s.timeout()
	defer cancel()
	all, err := s.host.Rooms(ctx)
	if err != nil {
		return nil, err
	}
	var out []adapter.Room
	for _, uri := range all {
		r, ok, err := s.host.Room(ctx, uri)
		if err != nil {
			return nil, err
		}
		if !ok || r.Gone || r.Direct {
			continue
		}
		if wanted(&r) {
			out = append(out, r)
		}
	}
	return out, nil
}

// hint is what an intent carries to its event, so that the answer finds its way after a restart, too. It is
// JSON of at most 1,024 octets.
type hint struct {
	Kind   string `json:"k"`           // hint… below
	JID    string `json:"j,omitempty"` // full JID to answer
	ID     string `json:"i,omitempty"` // id of the stanza to answer
	Origin string `json:"o,omitempty"` // XEP-0359 origin-id of a message
	Nick   string `json:"n,omitempty"` // nick of a join
	To     string `json:"t,omitempty"` // the address the stanza had been sent to
	Reason string `json:"r,omitempty"` // of an invitation; at most maxReason octets
	Kick   bool   `json:"q,omitempty"` // of a removal: asked for as a kick (XEP-0045 section 8.2)
}

const (
	hintMessage  = "m" // groupchat message
	hintJoin     = "j" // presence to a room; a CreateRoom or JoinRoom
	hintInvite   = "i" // invitation in a stanza
	hintChat     = "c" // a line to the gateway
	hintCommand  = "x" // ad-hoc command, or another IQ that waits
	hintPlumb    = "p" // said in a plumbed room, see plumb.go; To is its stanza-id there
	hintPlumbDo  = "d" // done by the plumbing
	maxHint      = 1024
	maxReason    = 300
	maxStanzaID  = 256
	maxOriginLen = 512
)

// encode gives the hint; ok is false if it is too long.
func (h hint) encode() (string, bool) {
	b, err := json.Marshal(h)
	return string(b), err == nil && len(b) <= maxHint
}

// readHint reads the hint of an event; anything unreadable is an empty one.
func readHint(o *adapter.Origin) hint {
	var h hint
	if o != nil && o.Adapter == Name {
		if json.Unmarshal([]byte(o.Hint), &h) != nil {
			h = hint{}
		}
	}
	return h
}

// originID names an intent by who made it and by what distinguishes it from their others.
func originID(from addr, parts ...string) string {
	id := from.bare().String() + "|" + strings.Join(parts, "|")
	if len(id) > maxOriginLen {
		sum := sha256.Sum256([]byte(id))
		id = "#" + hex.EncodeToString(sum[:])
	}
	return id
}

// shortHash is enough to tell a few strings of one person apart.
func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// await returns a channel with the event that an intent leads to. The caller calls stop when it waits no more.
func (s *service) await(origin string) (ch <-chan adapter.Event, stop func(), err error) {
	c := make(chan adapter.Event, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxWaiting {
		return nil, nil, fault.New(fault.Limited, "too many requests are waiting; please try again in a little while")
	}
	s.waiting[origin] = c
	return c, func() {
		s.mu.Lock()
		if s.waiting[origin] == c {
			delete(s.waiting, origin)
		}
		s.mu.Unlock()
	}, nil
}

// maxWaiting is how many requests may wait for their intents at once.
const maxWaiting = 1000

// settle tells whoever waits for an intent what became of it.
func (s *service) settle(ev adapter.Event) {
	if ev.Origin == nil {
		return
	}
	s.mu.Lock()
	c := s.waiting[ev.Origin.ID]
	delete(s.waiting, ev.Origin.ID)
	s.mu.Unlock()
	if c != nil {
		c <- ev
	}
}
