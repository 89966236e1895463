package xmpp

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	_ "modernc.org/sqlite"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
	corestore "github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// The names that all tests use.
const (
	testDomain = "xmpp.example"
	testUsers  = "mimi.xmpp.example"
	testRooms  = "rooms.mimi.xmpp.example"
	testSecret = "s3cr3t-of-the-component"

	balcony = "balcony@" + testRooms
	juliet  = "juliet%matrix.example@" + testUsers
)

var (
	balconyURI = mimiuri.MustParse("mimi://xmpp.example/r/balcony")
	romeoURI   = mimiuri.MustParse("mimi://xmpp.example/u/romeo")
	benURI     = mimiuri.MustParse("mimi://xmpp.example/u/benvolio")
	julietURI  = mimiuri.MustParse("mimi://matrix.example/u/juliet")
)

// twin is a provider in memory: it keeps the promises of adapter.Host (intake once per origin id, events in order, again
// until they are taken) and plays the people elsewhere. It outlives the adapter, as the provider's database
// does.
type twin struct {
	adapter.Unavailable // what a test does not need

	t    testing.TB
	db   *sql.DB
	logs *lockedBuffer

	mu      sync.Mutex
	changed *sync.Cond
	levels  map[string]adapter.Level // by bare JID; else local users may
	rooms   map[mimiuri.URI]*twinRoom
	seen    map[string]bool
	intents []adapter.Intent
	// refuse says which intents become a Refused event; reject which Intake does not take. Both may be nil.
	refuse, reject func(adapter.Intent) error
	held           []adapter.Intent // while hold is set
	hold           bool
	tries          int // calls of Deliver
	fixed          map[string]fixed
	refuseDirect   error
	people         people

	adapter *Adapter
	cancel  context.CancelFunc
	ended   chan struct{}
	cfg     Config
	stopped bool
}

// fixed is a message whose ID has been fixed by Intake.
type fixed struct {
	id content.MessageID
	c  *content.Message
}

type twinRoom struct {
	info   adapter.Room
	known  bool
	closed bool // nobody may join on their own
	events []adapter.Event
	next   int
	gaveUp []error

	forgotten uint64 // events up to here are not kept any more
}

// twinRoles are the roles of the provider's usual rooms.
var twinRoles = []adapter.Role{
	{Index: 1, Name: "banned"},
	{Index: 2, Name: "member", Capabilities: []policy.Capability{policy.CanSendMessage, policy.CanAddParticipant, policy.CanChangeRoomName, policy.CanChangeRoomSubject}},
	{Index: 5, Name: "guest", Capabilities: []policy.Capability{policy.CanReceiveMessage}},
	{Index: 3, Name: "admin", Capabilities: adminCaps, Changes: []policy.RoleChanges{{From: 2, To: []uint32{0, 1, 3, 5}}, {From: 3, To: []uint32{0, 1, 2}}, {From: 0, To: []uint32{1, 2, 3}}, {From: 1, To: []uint32{0, 2}}}},
	{Index: 4, Name: "super_admin", Capabilities: append(adminCaps, policy.CanDestroyRoom, policy.CanChangeRoomMembershipStyle, policy.CanChangePreauthorizedUserList),
		Changes: []policy.RoleChanges{{From: 0, To: []uint32{1, 2, 3, 4}}, {From: 1, To: []uint32{0, 2, 3, 4}}, {From: 2, To: []uint32{0, 1, 3, 4, 5}}, {From: 5, To: []uint32{0, 1, 2, 3, 4}}, {From: 3, To: []uint32{0, 1, 2, 4}}, {From: 4, To: []uint32{0, 1, 2, 3}}}},
}

var adminCaps = []policy.Capability{policy.CanSendMessage, policy.CanAddParticipant, policy.CanRemoveParticipant, policy.CanKick, policy.CanBan, policy.CanUnban,
	policy.CanChangeUserRole, policy.CanDeleteOtherMessage, policy.CanChangeRoomName, policy.CanChangeRoomSubject, policy.CanChangeRoomDescription, policy.CanChangeRoomAvatar}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testDB(t testing.TB) *sql.DB {
	o := corestore.Options{Path: filepath.Join(t.TempDir(), "mimi.db")}
	var err error
	if o.Postgres, err = testnet.PostgresAt(context.Background(), o.Path); err != nil {
		t.Fatal(err)
	}
	db, err := corestore.AdapterDB(context.Background(), o, "xmpp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func newTwin(t testing.TB, cfg Config) *twin {
	tw := &twin{
		t: t, db: testDB(t), logs: new(lockedBuffer), cfg: cfg,
		levels: map[string]adapter.Level{}, rooms: map[mimiuri.URI]*twinRoom{}, seen: map[string]bool{}, fixed: map[string]fixed{},
	}
	tw.changed = sync.NewCond(&tw.mu)
	t.Cleanup(func() {
		tw.stop()
		tw.mu.Lock()
		tw.stopped = true
		tw.changed.Broadcast()
		tw.mu.Unlock()
		if t.Failed() {
			t.Logf("the adapter's log:\n%s", tw.logs)
		}
		if strings.Contains(tw.logs.String(), testSecret) {
			t.Error("the secret stands in the log")
		}
	})
	return tw
}

// start runs the adapter; stop ends it as a daemon that is stopped does.
func (tw *twin) start() {
	a, err := New(tw.cfg)
	if err != nil {
		tw.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tw.mu.Lock()
	tw.adapter, tw.cancel, tw.ended = a.(*Adapter), cancel, make(chan struct{})
	ended := tw.ended
	tw.changed.Broadcast()
	tw.mu.Unlock()
	go func() {
		defer close(ended)
		if err := a.Run(ctx, tw); err != nil {
			tw.t.Errorf("Run: %v", err)
		}
	}()
}

func (tw *twin) stop() {
	tw.mu.Lock()
	cancel, ended := tw.cancel, tw.ended
	tw.adapter, tw.cancel = nil, nil
	tw.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
}

func (tw *twin) Domain() string      { return testDomain }
func (tw *twin) DB() *sql.DB         { return tw.db }
func (tw *twin) Log() zerolog.Logger { return zerolog.New(tw.logs).Level(zerolog.DebugLevel) }

func (tw *twin) Level(id string) adapter.Level {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if l, ok := tw.levels[id]; ok {
		return l
	}
	if strings.HasSuffix(id, "@"+testDomain) {
		return adapter.LevelUser
	}
	return adapter.LevelNone
}

func (tw *twin) Room(_ context.Context, u mimiuri.URI) (adapter.Room, bool, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	r := tw.rooms[u]
	if r == nil || !r.known {
		return adapter.Room{}, false, nil
	}
	info := r.info
	info.Participants = slices.Clone(info.Participants)
	return info, true, nil
}

func (tw *twin) History(_ context.Context, u mimiuri.URI, seqs []uint64) ([]adapter.Event, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	r := tw.rooms[u]
	if r == nil || len(seqs) > 500 {
		return nil, nil
	}
	list := slices.Clone(seqs)
	slices.Sort(list)
	var out []adapter.Event
	for _, n := range slices.Compact(list) {
		if n >= 1 && n <= uint64(len(r.events)) && n > r.forgotten {
			out = append(out, r.events[n-1])
		}
	}
	return out, nil
}

// DirectRoom is there at once, if somebody elsewhere has not refused it.
func (tw *twin) DirectRoom(_ context.Context, local, other mimiuri.URI) (mimiuri.URI, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if tw.refuseDirect != nil {
		return mimiuri.URI{}, tw.refuseDirect
	}
	u := mimiuri.URI{Domain: testDomain, Kind: mimiuri.Room, ID: "direct " + local.ID + " " + other.String()}
	r := tw.room(u)
	if !r.known {
		r.info.Direct = true
		tw.add(r, local, local, nil)
		tw.add(r, other, local, nil)
	}
	return u, nil
}

func (tw *twin) Rooms(context.Context) ([]mimiuri.URI, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	var out []mimiuri.URI
	for u, r := range tw.rooms {
		if r.known && !r.info.Gone {
			out = append(out, u)
		}
	}
	return out, nil
}

func (tw *twin) Intake(_ context.Context, in adapter.Intent) error {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if in.OriginID == "" || len(in.OriginID) > 512 || len(in.Hint) > 1024 || in.Room.Kind != mimiuri.Room || in.Actor.Kind != mimiuri.User || in.Actor.Domain != testDomain {
		tw.t.Errorf("an intent against the contract: %+v", in)
	}
	targeted := in.Kind == adapter.Invite || in.Kind == adapter.Remove || in.Kind == adapter.Ban || in.Kind == adapter.Unban || in.Kind == adapter.ChangeRole
	if targeted != (in.Target.Kind == mimiuri.User) || (in.Kind == adapter.SendMessage) != (in.Content != nil) {
		tw.t.Errorf("an intent against the contract: %+v", in)
	}
	if tw.reject != nil {
		if err := tw.reject(in); err != nil {
			return err
		}
	}
	key := in.Room.String() + " " + in.Actor.String() + " " + in.OriginID
	if tw.seen[key] {
		return nil
	}
	tw.seen[key] = true
	if in.Content != nil {
		tw.fixed[key] = tw.fix(in.Room, in.Actor, in.Content)
	}
	tw.intents = append(tw.intents, in)
	tw.changed.Broadcast()
	if tw.hold {
		tw.held = append(tw.held, in)
		return nil
	}
	tw.carryOut(in)
	return nil
}

// release carries out what was held.
func (tw *twin) release() {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.hold = false
	for _, in := range tw.held {
		tw.carryOut(in)
	}
	tw.held = nil
}

// room returns a room's state, made if need be. tw.mu is held.
func (tw *twin) room(u mimiuri.URI) *twinRoom {
	r := tw.rooms[u]
	if r == nil {
		r = &twinRoom{info: adapter.Room{URI: u, Roles: twinRoles}}
		tw.rooms[u] = r
		go tw.deliver(r)
	}
	return r
}

// carryOut does what an intent asks for, as the hub would. tw.mu is held.
func (tw *twin) carryOut(in adapter.Intent) {
	r := tw.room(in.Room)
	origin := &adapter.Origin{Adapter: Name, ID: in.OriginID, Hint: in.Hint}
	refused := func(err error) {
		tw.emit(r, adapter.Event{Kind: adapter.Refused, Origin: origin, Intent: in.Kind, Actor: in.Actor, Target: in.Target, Err: err})
	}
	if tw.refuse != nil {
		if err := tw.refuse(in); err != nil {
			refused(err)
			return
		}
	}
	in1 := func(u mimiuri.URI) bool {
		return slices.ContainsFunc(r.info.Participants, func(p adapter.Participant) bool { return p.User == u })
	}
	switch in.Kind {
	case adapter.CreateRoom:
		if r.known {
			refused(fault.New(fault.Conflict, "this room exists already"))
			return
		}
		r.known = true
		r.info.Name = in.Name
		r.info.Participants = []adapter.Participant{{User: in.Actor, Role: 4, RoleName: "super_admin", Send: true, Admin: true}}
		tw.emit(r, adapter.Event{Kind: adapter.Joined, Origin: origin, User: in.Actor, Actor: in.Actor, Role: 4})
	case adapter.Invite:
		if !in1(in.Actor) || in1(in.Target) {
			refused(fault.New(fault.Forbidden, "they are in the room already, or you are not"))
			return
		}
		tw.add(r, in.Target, in.Actor, origin)
	case adapter.JoinRoom:
		switch {
		case !r.known:
			refused(fault.New(fault.NotFound, "there is no such room"))
		case r.closed:
			refused(fault.New(fault.Forbidden, "this room is by invitation only"))
		default:
			tw.add(r, in.Actor, in.Actor, origin)
		}
	case adapter.LeaveRoom, adapter.Remove:
		who := in.Actor
		if in.Kind == adapter.Remove {
			who = in.Target
		}
		if !in1(who) {
			refused(fault.New(fault.NotFound, "they are not in the room"))
			return
		}
		tw.removeUser(r, who, in.Actor, origin, in.Reason)
	case adapter.Ban:
		if in1(in.Target) {
			local := r.local()
			r.info.Participants = slices.DeleteFunc(r.info.Participants, func(p adapter.Participant) bool { return p.User == in.Target })
			r.info.Banned = append(r.info.Banned, in.Target)
			tw.emitTo(r, adapter.Event{Kind: adapter.Left, Origin: origin, User: in.Target, Actor: in.Actor, Banned: true, Reason: in.Reason}, local)
		} else {
			r.info.Banned = append(r.info.Banned, in.Target)
		}
		tw.emit(r, adapter.Event{Kind: adapter.Banned, Origin: origin, User: in.Target, Actor: in.Actor, Reason: in.Reason})
	case adapter.Unban:
		r.info.Banned = slices.DeleteFunc(r.info.Banned, func(u mimiuri.URI) bool { return u == in.Target })
		tw.emit(r, adapter.Event{Kind: adapter.Unbanned, Origin: origin, User: in.Target, Actor: in.Actor})
	case adapter.ChangeRole:
		tw.setRole(r, in.Target, in.Role)
		tw.emit(r, adapter.Event{Kind: adapter.RoleChanged, Origin: origin, User: in.Target, Actor: in.Actor, Role: in.Role})
	case adapter.SetPolicy:
		if x := in.Policy.Open; x != nil {
			r.info.Open = *x
		}
		if x := in.Policy.History; x != nil {
			r.info.History = *x
		}
		if x := in.Policy.Discoverable; x != nil {
			r.info.Discoverable = *x
		}
		if x := in.Policy.MaxUsers; x != nil {
			r.info.MaxUsers = *x
		}
		tw.emit(r, adapter.Event{Kind: adapter.Policy, Origin: origin, Actor: in.Actor})
	case adapter.DestroyRoom:
		local, all := r.local(), r.info.Participants
		r.info.Participants, r.info.Gone = nil, true
		for _, p := range all { // as the provider does: everybody is taken out, the actor last
			if p.User != in.Actor {
				tw.emitTo(r, adapter.Event{Kind: adapter.Left, User: p.User, Actor: in.Actor, Closing: true, Reason: in.Reason}, local)
			}
		}
		tw.emitTo(r, adapter.Event{Kind: adapter.Left, User: in.Actor, Actor: in.Actor, Closing: true, Reason: in.Reason}, local)
		tw.emitTo(r, adapter.Event{Kind: adapter.Closed, Origin: origin, Actor: in.Actor, Reason: in.Reason}, local)
	case adapter.SetMetadata:
		if x := in.Metadata.Subject; x != nil {
			r.info.Subject = *x
		}
		if x := in.Metadata.Name; x != nil {
			r.info.Name = *x
		}
		if x := in.Metadata.Description; x != nil {
			r.info.Description = *x
		}
		if x := in.Metadata.Avatar; x != nil {
			r.info.Avatar = *x
		}
		tw.emit(r, adapter.Event{Kind: adapter.Metadata, Origin: origin, Actor: in.Actor})
	case adapter.SendMessage:
		if !in1(in.Actor) {
			refused(fault.New(fault.Forbidden, "you are not in the room"))
			return
		}
		m := tw.fixed[in.Room.String()+" "+in.Actor.String()+" "+in.OriginID]
		tw.emit(r, adapter.Event{Kind: adapter.Message, Origin: origin, ID: m.id, Sender: in.Actor, Content: m.c})
	}
}

// setRole gives a participant a role. tw.mu is held.
func (tw *twin) setRole(r *twinRoom, u mimiuri.URI, index uint32) {
	for i := range r.info.Participants {
		if p := &r.info.Participants[i]; p.User == u {
			for _, role := range r.info.Roles {
				if role.Index == index {
					p.Role, p.RoleName, p.Send, p.Admin = index, role.Name, role.Can(policy.CanSendMessage), role.Can(policy.CanChangeUserRole)
				}
			}
		}
	}
}

// add, removeUser and message are what happens in a room. tw.mu is held.
func (tw *twin) add(r *twinRoom, user, actor mimiuri.URI, origin *adapter.Origin) {
	r.known = true
	r.info.Gone = false
	r.info.Participants = append(r.info.Participants, adapter.Participant{User: user, Role: 2, RoleName: "member", Send: true})
	tw.emit(r, adapter.Event{Kind: adapter.Joined, Origin: origin, User: user, Actor: actor, Role: 2})
}

func (tw *twin) removeUser(r *twinRoom, user, actor mimiuri.URI, origin *adapter.Origin, reason ...string) {
	local := r.local()
	r.info.Participants = slices.DeleteFunc(r.info.Participants, func(p adapter.Participant) bool { return p.User == user })
	r.info.Gone = len(r.local()) == 0
	tw.emitTo(r, adapter.Event{Kind: adapter.Left, Origin: origin, User: user, Actor: actor, Reason: strings.Join(reason, "")}, local)
}

func (tw *twin) message(r *twinRoom, sender mimiuri.URI, c *content.Message, origin *adapter.Origin) content.MessageID {
	m := tw.fix(r.info.URI, sender, c)
	tw.emit(r, adapter.Event{Kind: adapter.Message, Origin: origin, ID: m.id, Sender: sender, Content: m.c})
	return m.id
}

// fix gives a message its salt and with that its ID.
func (tw *twin) fix(room, sender mimiuri.URI, c *content.Message) fixed {
	m := *c
	if err := m.Stamp(rand.Reader, sender, room); err != nil {
		tw.t.Error(err)
	}
	b, err := m.Encode()
	if err != nil {
		tw.t.Error(err)
	}
	back, err := content.Decode(b)
	if err != nil {
		tw.t.Error(err)
	}
	return fixed{content.ID(b, sender, room, m.Salt), back}
}

// Pending has what is held, and what the adapter has not taken.
func (tw *twin) Pending(_ context.Context, room, actor mimiuri.URI) (out []adapter.Pending, err error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if r := tw.rooms[room]; r != nil {
		for _, ev := range r.events[r.next:] {
			if ev.Kind == adapter.Message && ev.Sender == actor && ev.Origin != nil {
				out = append(out, adapter.Pending{ID: ev.ID, Origin: *ev.Origin, Content: ev.Content})
			}
		}
	}
	for _, in := range tw.held {
		if in.Kind == adapter.SendMessage && in.Room == room && in.Actor == actor {
			m := tw.fixed[in.Room.String()+" "+in.Actor.String()+" "+in.OriginID]
			out = append(out, adapter.Pending{ID: m.id, Origin: adapter.Origin{Adapter: Name, ID: in.OriginID, Hint: in.Hint}, Content: m.c})
		}
	}
	return out, nil
}

func (r *twinRoom) local() []mimiuri.URI {
	var out []mimiuri.URI
	for _, p := range r.info.Participants {
		if p.User.Domain == testDomain {
			out = append(out, p.User)
		}
	}
	return out
}

func (tw *twin) emit(r *twinRoom, ev adapter.Event) { tw.emitTo(r, ev, r.local()) }

func (tw *twin) emitTo(r *twinRoom, ev adapter.Event, local []mimiuri.URI) {
	ev.Room = r.info.URI
	ev.Seq = uint64(len(r.events) + 1)
	ev.Time = time.Now().Truncate(time.Millisecond)
	ev.Local = local
	r.events = append(r.events, ev)
	tw.changed.Broadcast()
}

// deliver hands a room's events to the adapter, one after the other, again while the error is temporary.
func (tw *twin) deliver(r *twinRoom) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	for {
		for !tw.stopped && (r.next >= len(r.events) || tw.adapter == nil) {
			tw.changed.Wait()
		}
		if tw.stopped {
			return
		}
		ev, a := r.events[r.next], tw.adapter
		tw.tries++
		tw.mu.Unlock()
		err := a.Deliver(context.Background(), ev)
		if err != nil && fault.Temporary(err) {
			time.Sleep(20 * time.Millisecond)
		}
		tw.mu.Lock()
		if err != nil && fault.Temporary(err) {
			continue
		}
		if err != nil {
			r.gaveUp = append(r.gaveUp, err)
		}
		r.next++
		tw.changed.Broadcast()
	}
}

// do runs f with the twin locked: what happens elsewhere.
func (tw *twin) do(f func()) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	f()
}

// say is a message of somebody elsewhere.
func (tw *twin) say(u, sender mimiuri.URI, text string) (id content.MessageID) {
	tw.do(func() { id = tw.message(tw.room(u), sender, content.Text(text), nil) })
	return id
}

// delivered waits until the adapter has taken every event of a room.
func (tw *twin) delivered(u mimiuri.URI) error {
	return tw.until("the events of "+u.String()+" are delivered", func() bool {
		r := tw.rooms[u]
		return r != nil && r.next == len(r.events)
	})
}

// until waits until cond holds; it is called with the twin locked.
func (tw *twin) until(what string, cond func() bool) error {
	late := time.AfterFunc(time.Minute, func() {
		tw.mu.Lock()
		defer tw.mu.Unlock()
		tw.changed.Broadcast()
	})
	defer late.Stop()
	begin := time.Now()
	tw.mu.Lock()
	defer tw.mu.Unlock()
	for !cond() {
		if time.Since(begin) > time.Minute {
			return errors.New("still not: " + what)
		}
		tw.changed.Wait()
	}
	return nil
}

// count tells how many intents of a kind have been taken.
func (tw *twin) count(kind adapter.IntentKind) (n int) {
	tw.do(func() {
		for _, in := range tw.intents {
			if in.Kind == kind {
				n++
			}
		}
	})
	return n
}

func (tw *twin) must(err error) {
	tw.t.Helper()
	if err != nil {
		tw.t.Fatal(fmt.Errorf("%w\n%s", err, tw.logs))
	}
}
