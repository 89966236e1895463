package matrix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
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

// twin is a provider in memory: it keeps adapter.Host's promises (idempotent intake, events in order, delivered until
// acknowledged) and plays the people elsewhere. It outlives the adapter, as the provider's database would.
type twin struct {
	adapter.Unavailable // what a test does not need

	t      testing.TB
	domain string
	db     *sql.DB
	path   string
	logs   *logBuffer

	mu      sync.Mutex
	levels  map[string]adapter.Level // by Matrix ID; others by defaultLevel
	rooms   map[mimiuri.URI]*twinRoom
	seen    map[string]bool // intents, by their key
	intents []adapter.Intent
	refuse  func(adapter.Intent) error      // later, by an event
	reject  func(adapter.Intent) error      // at once, by Intake
	events  map[mimiuri.URI][]adapter.Event // all, by room
	tries   map[string]int                  // deliveries attempted, by room and seq
	adapter adapter.Adapter                 // nil while none runs
	wake    *sync.Cond
	stop    bool
	hold    bool             // nothing is delivered
	failed  map[string]error // events given up, by room and seq
	hook    func(adapter.Event, error)
	files   map[string]twinFile // assets, by URL

	profiles map[mimiuri.URI]adapter.Profile
	asked    asked
}

type twinFile struct {
	data []byte
	typ  string
}

// Upload keeps the file as it is: the twin has no secrets.
func (tw *twin) Upload(_ context.Context, _ mimiuri.URI, r io.Reader, _ int64, typ, name string) (content.Part, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return content.Part{}, err
	}
	if len(b) > 1<<22 {
		return content.Part{}, fault.New(fault.TooLarge, "it is larger than 4 MB")
	}
	sum := sha256.Sum256(b)
	tw.mu.Lock()
	defer tw.mu.Unlock()
	url := fmt.Sprintf("https://files.%s/%d", tw.domain, len(tw.files))
	tw.files[url] = twinFile{b, typ}
	return content.ExternalBody(content.Attachment, typ, content.External{URL: url, Size: uint64(len(b)), HashAlg: content.HashSHA256, ContentHash: sum[:], Filename: name}), nil
}

func (tw *twin) Download(_ context.Context, _, _ mimiuri.URI, part *content.External) (io.ReadCloser, int64, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	f, ok := tw.files[part.URL]
	if !ok {
		return nil, 0, fault.New(fault.NotFound, "it is not there any more")
	}
	return io.NopCloser(bytes.NewReader(f.data)), int64(len(f.data)), nil
}

func (tw *twin) Publish(_ context.Context, _ mimiuri.URI, r io.Reader, typ string) (string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	tw.mu.Lock()
	defer tw.mu.Unlock()
	url := fmt.Sprintf("https://files.%s/public/%d", tw.domain, len(tw.files))
	tw.files[url] = twinFile{b, typ}
	return url, nil
}

func (tw *twin) FetchPublic(_ context.Context, url string) (io.ReadCloser, string, int64, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	f, ok := tw.files[url]
	if !ok {
		return nil, "", 0, fault.New(fault.NotFound, "it is not there any more")
	}
	return io.NopCloser(bytes.NewReader(f.data)), f.typ, int64(len(f.data)), nil
}

// attach is a file of somebody elsewhere.
func (tw *twin) attach(typ, name string, data []byte) content.Part {
	part, err := tw.Upload(context.Background(), mimiuri.URI{}, bytes.NewReader(data), int64(len(data)), typ, name)
	if err != nil {
		tw.t.Error(err)
	}
	return part
}

// sent waits for a message of a local user and returns it.
func (tw *twin) sent(ctx context.Context, what string, match func(*content.Message, content.Class) bool) adapter.Intent {
	tw.t.Helper()
	return tw.intent(ctx, what, func(in adapter.Intent) bool {
		return in.Kind == adapter.SendMessage && match(in.Content, in.Content.Classify())
	})
}

type twinRoom struct {
	room      adapter.Room
	open      bool // JoinRoom is allowed
	next      int  // index of the event to deliver
	delivered int
}

const twinDomain = "matrix.example"

// twinRoles are the roles of the twin's rooms, after core/policy's cooperative ones.
var twinRoles = func() []adapter.Role {
	user := []policy.Capability{policy.CanAddParticipant, policy.CanRemoveSelf, policy.CanSendMessage, policy.CanReceiveMessage, policy.CanEditOwnMessage, policy.CanDeleteOwnMessage, policy.CanChangeRoomName}
	admin := append(slices.Clone(user), policy.CanRemoveParticipant, policy.CanKick, policy.CanBan, policy.CanUnban, policy.CanChangeUserRole, policy.CanDeleteOtherMessage, policy.CanDeleteOtherReaction, policy.CanChangeRoomAvatar, policy.CanChangeRoomDescription, policy.CanChangeRoomSubject)
	super := append(slices.Clone(admin), policy.CanChangePreauthorizedUserList, policy.CanChangeRoomMembershipStyle, policy.CanDestroyRoom)
	to := func(from uint32, to ...uint32) policy.RoleChanges { return policy.RoleChanges{From: from, To: to} }
	admins := []policy.RoleChanges{to(0, 1, 2, 3), to(1, 0, 2, 3), to(2, 0, 1, 3), to(3, 0, 1, 2)}
	return []adapter.Role{
		{Index: 1, Name: "banned"},
		{Index: 2, Name: "ordinary_user", Capabilities: user, Changes: []policy.RoleChanges{to(0, 2), to(2, 0)}},
		{Index: 3, Name: "group_admin", Capabilities: admin, Changes: admins},
		{Index: 4, Name: "super_admin", Capabilities: super, Changes: []policy.RoleChanges{to(0, 1, 2, 3, 4), to(1, 0, 2, 3, 4), to(2, 0, 1, 3, 4), to(3, 0, 1, 2, 4), to(4, 0, 1, 2, 3)}},
		{Index: 6, Name: "guest", Capabilities: []policy.Capability{policy.CanRemoveSelf, policy.CanReceiveMessage}},
	}
}()

func newTwin(t testing.TB) *twin {
	tw := &twin{
		t: t, domain: twinDomain, logs: &logBuffer{}, levels: map[string]adapter.Level{},
		rooms: map[mimiuri.URI]*twinRoom{}, seen: map[string]bool{}, events: map[mimiuri.URI][]adapter.Event{}, tries: map[string]int{}, failed: map[string]error{}, files: map[string]twinFile{}, profiles: map[mimiuri.URI]adapter.Profile{},
	}
	tw.wake = sync.NewCond(&tw.mu)
	tw.path = filepath.Join(t.TempDir(), "adapter.db")
	tw.openDB(tw.path)
	t.Cleanup(func() {
		tw.mu.Lock()
		tw.stop = true
		tw.wake.Broadcast()
		tw.mu.Unlock()
		tw.db.Close()
	})
	return tw
}

func (tw *twin) openDB(path string) {
	o := corestore.Options{Path: path}
	var err error
	if o.Postgres, err = testnet.PostgresAt(context.Background(), path); err != nil {
		tw.t.Fatal(err)
	}
	db, err := corestore.AdapterDB(context.Background(), o, "matrix")
	if err != nil {
		tw.t.Fatal(err)
	}
	tw.db = db
}

func (tw *twin) Domain() string      { return tw.domain }
func (tw *twin) DB() *sql.DB         { return tw.db }
func (tw *twin) Log() zerolog.Logger { return zerolog.New(tw.logs) }

func (tw *twin) Level(id string) adapter.Level {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if l, ok := tw.levels[id]; ok {
		return l
	}
	if strings.HasSuffix(id, ":"+server) {
		return adapter.LevelUser
	}
	return adapter.LevelNone
}

func (tw *twin) Room(_ context.Context, room mimiuri.URI) (adapter.Room, bool, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	r, ok := tw.rooms[room]
	if !ok {
		return adapter.Room{}, false, nil
	}
	out := r.room
	out.Participants = slices.Clone(out.Participants)
	return out, true, nil
}

func (tw *twin) Rooms(context.Context) ([]mimiuri.URI, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	var out []mimiuri.URI
	for u := range tw.rooms {
		out = append(out, u)
	}
	return out, nil
}

func (tw *twin) Intake(_ context.Context, in adapter.Intent) error {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if in.OriginID == "" || len(in.OriginID) > 512 || len(in.Hint) > 1024 || in.Room.Kind != mimiuri.Room || in.Actor.Kind != mimiuri.User || in.Actor.Domain != tw.domain {
		tw.t.Errorf("an intent against the contract: %+v", in)
	}
	if tw.reject != nil {
		if err := tw.reject(in); err != nil {
			return err
		}
	}
	key := fmt.Sprint(in.Room, "|", in.Actor, "|", in.OriginID)
	if tw.seen[key] {
		return nil
	}
	tw.seen[key] = true
	tw.intents = append(tw.intents, in)
	origin := &adapter.Origin{Adapter: Name, ID: in.OriginID, Hint: in.Hint}
	r := tw.rooms[in.Room]
	var err error
	if tw.refuse != nil {
		err = tw.refuse(in)
	}
	role := func(u mimiuri.URI) (p adapter.Participant, ok bool) {
		if r == nil {
			return p, false
		}
		i := slices.IndexFunc(r.room.Participants, func(p adapter.Participant) bool { return p.User == u })
		if i < 0 {
			return p, false
		}
		return r.room.Participants[i], true
	}
	actor, isIn := role(in.Actor)
	_, targetIn := role(in.Target)
	switch {
	case err != nil:
	case in.Kind == adapter.CreateRoom:
		if r != nil {
			err = fault.New(fault.Conflict, "there is such a room already")
		}
	case r == nil:
		err = fault.New(fault.NotFound, "there is no such room")
	case in.Kind == adapter.JoinRoom:
		if isIn || !r.open && !r.room.Open {
			err = fault.New(fault.Forbidden, "this room is not open")
		}
	case !isIn:
		err = fault.New(fault.Forbidden, "you are not in the room")
	case in.Kind == adapter.Invite && targetIn:
		err = fault.New(fault.Conflict, "they are in the room already")
	case (in.Kind == adapter.Ban || in.Kind == adapter.Unban || in.Kind == adapter.ChangeRole || in.Kind == adapter.SetPolicy || in.Kind == adapter.DestroyRoom) && !actor.Admin:
		err = fault.New(fault.Forbidden, "you may not do this here")
	case in.Kind == adapter.Remove && !actor.Admin:
		err = fault.New(fault.Forbidden, "you may not remove anybody")
	case in.Kind == adapter.Remove && !targetIn:
		err = fault.New(fault.Conflict, "they are not in the room")
	}
	if err != nil {
		tw.emit(adapter.Event{Kind: adapter.Refused, Room: in.Room, Origin: origin, Intent: in.Kind, Actor: in.Actor, Target: in.Target, Err: err, Local: []mimiuri.URI{in.Actor}})
		return nil
	}
	switch in.Kind {
	case adapter.CreateRoom:
		tw.rooms[in.Room] = &twinRoom{room: adapter.Room{URI: in.Room, Name: in.Name, Roles: twinRoles}}
		tw.join(in.Room, in.Actor, in.Actor, true, origin)
	case adapter.Invite:
		tw.join(in.Room, in.Target, in.Actor, false, origin)
	case adapter.JoinRoom:
		tw.join(in.Room, in.Actor, in.Actor, false, origin)
	case adapter.LeaveRoom:
		tw.leave(in.Room, in.Actor, in.Actor, origin)
	case adapter.DestroyRoom:
		local := tw.locals(in.Room)
		r.room.Participants, r.room.Gone = nil, true
		tw.emit(adapter.Event{Kind: adapter.Closed, Room: in.Room, Origin: origin, Local: local})
	case adapter.Remove:
		tw.leave(in.Room, in.Target, in.Actor, origin)
	case adapter.Ban:
		r.room.Banned = append(r.room.Banned, in.Target)
		if targetIn {
			tw.leave(in.Room, in.Target, in.Actor, origin)
		}
		tw.emit(adapter.Event{Kind: adapter.Banned, Room: in.Room, User: in.Target, Actor: in.Actor, Origin: origin, Local: tw.locals(in.Room)})
	case adapter.Unban:
		r.room.Banned = slices.DeleteFunc(r.room.Banned, func(u mimiuri.URI) bool { return u == in.Target })
		tw.emit(adapter.Event{Kind: adapter.Unbanned, Room: in.Room, User: in.Target, Actor: in.Actor, Origin: origin, Local: tw.locals(in.Room)})
	case adapter.ChangeRole:
		tw.role(in.Room, in.Target, in.Actor, in.Role, origin)
	case adapter.SetMetadata:
		m := in.Metadata
		for to, v := range map[*string]*string{&r.room.Name: m.Name, &r.room.Subject: m.Subject, &r.room.Description: m.Description, &r.room.Avatar: m.Avatar} {
			if v != nil {
				*to = *v
			}
		}
		tw.emit(adapter.Event{Kind: adapter.Metadata, Room: in.Room, Actor: in.Actor, Origin: origin, Local: tw.locals(in.Room)})
	case adapter.SetPolicy:
		if in.Policy.Open != nil {
			r.room.Open = *in.Policy.Open
		}
		if in.Policy.History != nil {
			r.room.History = *in.Policy.History
		}
		tw.emit(adapter.Event{Kind: adapter.Policy, Room: in.Room, Actor: in.Actor, Origin: origin, Local: tw.locals(in.Room)})
	case adapter.SendMessage:
		in.Content.SetSenderTimestamp(in.OriginTime)
		tw.message(in.Room, in.Actor, in.Content, origin)
	}
	return nil
}

// The rest is called with tw.mu held.

func (tw *twin) locals(room mimiuri.URI) []mimiuri.URI {
	var out []mimiuri.URI
	for _, p := range tw.rooms[room].room.Participants {
		if p.User.Domain == tw.domain {
			out = append(out, p.User)
		}
	}
	return out
}

func (tw *twin) emit(ev adapter.Event) {
	ev.Seq = uint64(len(tw.events[ev.Room]) + 1)
	ev.Time = time.Now().Truncate(time.Millisecond)
	if tw.rooms[ev.Room] == nil && ev.Kind != adapter.Refused {
		tw.t.Errorf("event of a room that is not there: %+v", ev)
	}
	if tw.events[ev.Room] == nil {
		go tw.deliver(ev.Room)
	}
	tw.events[ev.Room] = append(tw.events[ev.Room], ev)
	tw.wake.Broadcast()
}

func (tw *twin) join(room, user, actor mimiuri.URI, admin bool, origin *adapter.Origin) {
	r := tw.rooms[room]
	role := uint32(2)
	if admin {
		role = 4
	}
	r.room.Participants = append(r.room.Participants, adapter.Participant{User: user, Role: role, RoleName: "x", Send: true, Admin: admin})
	if len(tw.locals(room)) == 0 {
		return // none of our business
	}
	tw.emit(adapter.Event{Kind: adapter.Joined, Room: room, User: user, Actor: actor, Origin: origin, Local: tw.locals(room)})
}

func (tw *twin) leave(room, user, actor mimiuri.URI, origin *adapter.Origin) {
	local := tw.locals(room)
	r := tw.rooms[room]
	r.room.Participants = slices.DeleteFunc(r.room.Participants, func(p adapter.Participant) bool { return p.User == user })
	if len(local) > 0 {
		tw.emit(adapter.Event{Kind: adapter.Left, Room: room, User: user, Actor: actor, Origin: origin, Local: local})
	}
}

func (tw *twin) role(room, user, actor mimiuri.URI, role uint32, origin *adapter.Origin) {
	list := tw.rooms[room].room.Participants
	for i := range list {
		if list[i].User == user {
			list[i].Role, list[i].Admin, list[i].Send = role, role == 3 || role == 4, role != 6
		}
	}
	tw.emit(adapter.Event{Kind: adapter.RoleChanged, Room: room, User: user, Actor: actor, Role: role, Origin: origin, Local: tw.locals(room)})
}

// change applies a change to a room by somebody elsewhere and tells of it.
func (tw *twin) change(room mimiuri.URI, kind adapter.EventKind, f func(*adapter.Room)) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	f(&tw.rooms[room].room)
	tw.emit(adapter.Event{Kind: kind, Room: room, Actor: mimiuri.MustParse(romeo), Local: tw.locals(room)})
}

// setRole is a change of role by somebody elsewhere.
func (tw *twin) setRole(room mimiuri.URI, user string, role uint32) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.role(room, mimiuri.MustParse(user), mimiuri.MustParse(romeo), role, nil)
}

// DirectRoom makes a direct room at once, with both in it.
func (tw *twin) DirectRoom(_ context.Context, local, other mimiuri.URI) (mimiuri.URI, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	if other.ID == "shy" {
		return mimiuri.URI{}, fault.New(fault.Forbidden, "they do not want to hear from you")
	}
	uri := mimiuri.MustParse("mimi://" + tw.domain + "/r/direct-" + local.ID + "-" + other.ID)
	if r := tw.rooms[uri]; r == nil {
		tw.rooms[uri] = &twinRoom{room: adapter.Room{URI: uri, Direct: true, Roles: twinRoles[1:2]}}
		tw.join(uri, local, local, false, nil)
		tw.join(uri, other, local, false, nil)
	}
	return uri, nil
}

func (tw *twin) Profile(_ context.Context, user mimiuri.URI) (adapter.Profile, bool, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	p, ok := tw.profiles[user]
	return p, ok, nil
}

func (tw *twin) message(room, sender mimiuri.URI, m *content.Message, origin *adapter.Origin) content.MessageID {
	if err := m.Stamp(zeroReader{byte(len(tw.events[room]) + 1)}, sender, room); err != nil {
		tw.t.Error(err)
	}
	b, err := m.Encode()
	if err != nil {
		tw.t.Error(err)
	}
	id := content.ID(b, sender, room, m.Salt)
	if len(tw.locals(room)) > 0 {
		tw.emit(adapter.Event{Kind: adapter.Message, Room: room, Sender: sender, Content: m, ID: id, Origin: origin, Local: tw.locals(room)})
	}
	return id
}

type zeroReader struct{ b byte }

func (z zeroReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = z.b
	}
	return len(p), nil
}

// deliver delivers a room's events, one at a time, for ever.
func (tw *twin) deliver(room mimiuri.URI) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	next := 0
	for {
		for !tw.stop && (tw.hold || tw.adapter == nil || next >= len(tw.events[room])) {
			tw.wake.Wait()
		}
		if tw.stop {
			return
		}
		ev, a, hook := tw.events[room][next], tw.adapter, tw.hook
		key := fmt.Sprintf("%s#%d", room, ev.Seq)
		tw.tries[key]++
		tw.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := a.Deliver(ctx, ev)
		cancel()
		if hook != nil {
			hook(ev, err)
		}
		var f *fault.Error
		if err != nil && fault.Temporary(err) {
			pause := 20 * time.Millisecond
			if errors.As(err, &f) && f.RetryAfter > 0 {
				pause = f.RetryAfter
			}
			time.Sleep(pause)
		}
		tw.mu.Lock()
		switch {
		case err == nil:
			next++
		case !fault.Temporary(err):
			tw.failed[key] = err
			next++
		}
		if r := tw.rooms[room]; r != nil {
			r.delivered = next
		}
		tw.wake.Broadcast()
	}
}

// People elsewhere.

func (tw *twin) newRoom(uri, name string, users ...string) mimiuri.URI {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	u := mimiuri.MustParse(uri)
	tw.rooms[u] = &twinRoom{room: adapter.Room{URI: u, Name: name, Roles: twinRoles}}
	for i, user := range users {
		tw.join(u, mimiuri.MustParse(user), mimiuri.MustParse(users[0]), i == 0, nil)
	}
	return u
}

func (tw *twin) add(room mimiuri.URI, actor, user string) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.join(room, mimiuri.MustParse(user), mimiuri.MustParse(actor), false, nil)
}

func (tw *twin) addAdmin(room mimiuri.URI, actor, user string) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.join(room, mimiuri.MustParse(user), mimiuri.MustParse(actor), true, nil)
}

func (tw *twin) remove(room mimiuri.URI, actor, user string) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.leave(room, mimiuri.MustParse(user), mimiuri.MustParse(actor), nil)
}

func (tw *twin) say(room mimiuri.URI, user, text string) content.MessageID {
	return tw.send(room, user, content.Text(text))
}

func (tw *twin) send(room mimiuri.URI, user string, m *content.Message) content.MessageID {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	return tw.message(room, mimiuri.MustParse(user), m, nil)
}

func (tw *twin) rename(room mimiuri.URI, actor, name string) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.rooms[room].room.Name = name
	tw.emit(adapter.Event{Kind: adapter.Metadata, Room: room, Actor: mimiuri.MustParse(actor), Local: tw.locals(room)})
}

func (tw *twin) closeRoom(room mimiuri.URI) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.rooms[room].room.Gone = true
	tw.emit(adapter.Event{Kind: adapter.Closed, Room: room, Local: tw.locals(room)})
}

// Waiting.

// until waits until cond, which is called with tw.mu held, is true.
func (tw *twin) until(ctx context.Context, what string, cond func() bool) {
	tw.t.Helper()
	defer context.AfterFunc(ctx, func() {
		tw.mu.Lock()
		tw.wake.Broadcast()
		tw.mu.Unlock()
	})()
	tw.mu.Lock()
	defer tw.mu.Unlock()
	for !cond() {
		if ctx.Err() != nil {
			tw.t.Fatalf("%s: %v\nintents: %v\nlog:\n%s", what, ctx.Err(), describe(tw.intents), tw.logs.String())
		}
		tw.wake.Wait()
	}
}

func describe(list []adapter.Intent) string {
	var b strings.Builder
	for _, in := range list {
		fmt.Fprintf(&b, "\n  %s %s %s → %s", kindName(in.Kind), in.Room, in.Actor, in.Target)
	}
	return b.String()
}

func kindName(k adapter.IntentKind) string {
	return [...]string{"?", "create", "invite", "join", "leave", "remove", "send", "ban", "unban", "role", "metadata", "policy", "destroy"}[k]
}

// intent waits for an intent of which match is true.
func (tw *twin) intent(ctx context.Context, what string, match func(adapter.Intent) bool) (found adapter.Intent) {
	tw.t.Helper()
	tw.until(ctx, "waiting for the intent: "+what, func() bool {
		for _, in := range tw.intents {
			if match(in) {
				found = in
				return true
			}
		}
		return false
	})
	return found
}

// settled waits until all events so far have been delivered, and returns those that were given up.
func (tw *twin) settled(ctx context.Context) {
	tw.t.Helper()
	tw.until(ctx, "waiting for deliveries", func() bool {
		for uri, evs := range tw.events {
			if r := tw.rooms[uri]; r != nil && r.delivered < len(evs) {
				return false
			}
		}
		return true
	})
	tw.mu.Lock()
	defer tw.mu.Unlock()
	for key, err := range tw.failed {
		tw.t.Errorf("delivery of %s was given up: %v", key, err)
	}
}

func (tw *twin) isIn(room mimiuri.URI, user string) bool {
	return slices.ContainsFunc(tw.rooms[room].room.Participants, func(p adapter.Participant) bool { return p.User.String() == user })
}

// count of intents of which match is true.
func (tw *twin) count(match func(adapter.Intent) bool) (n int) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	for _, in := range tw.intents {
		if match(in) {
			n++
		}
	}
	return n
}

// textsOf is what the messages in a room said, in order, with their senders' names.
func (tw *twin) textsOf(room mimiuri.URI) (out []string) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	for _, ev := range tw.events[room] {
		if ev.Kind == adapter.Message && ev.Content.Classify().Kind != content.KindStatus {
			text, _ := ev.Content.PlainText()
			out = append(out, ev.Sender.ID+": "+text)
		}
	}
	return out
}

type logBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (tw *twin) setRefuse(f func(adapter.Intent) error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.refuse = f
}

func (tw *twin) setReject(f func(adapter.Intent) error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.reject = f
}

func (tw *twin) setHold(v bool) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.hold = v
	tw.wake.Broadcast()
}

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

func (tw *twin) setLevel(user string, level adapter.Level) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.levels[user] = level
}

func (tw *twin) isInLocked(room mimiuri.URI, user string) bool {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	return tw.isIn(room, user)
}

// Names that the tests share.

// patience bounds every test; nothing waits for it unless something is broken.
const patience = 3 * time.Minute

const (
	romeo    = "mimi://xmpp.example/u/romeo"
	mercutio = "mimi://xmpp.example/u/mercutio"
)

func ghostOf(uri string) string {
	g, _ := ghostID(mimiuri.MustParse(uri), server)
	return string(g)
}

func local(name string) string { return "mimi://" + twinDomain + "/u/" + name }

func sends(text string) func(adapter.Intent) bool {
	return func(in adapter.Intent) bool {
		if in.Kind != adapter.SendMessage {
			return false
		}
		got, _ := in.Content.PlainText()
		return got == text
	}
}

func mustURI(s string) mimiuri.URI { return mimiuri.MustParse(s) }
