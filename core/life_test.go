package core_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

func ptr[T any](v T) *T { return &v }

// view is the room as a provider's adapter sees it.
func (p *provider) view(room mimiuri.URI) adapter.Room {
	p.t.Helper()
	r, ok, err := p.mem.host.Room(context.Background(), room)
	if err != nil || !ok {
		p.t.Fatalf("%s does not know the room: %v", p.domain, err)
	}
	return r
}

func (p *provider) awaitKind(room mimiuri.URI, kind adapter.EventKind, user mimiuri.URI) adapter.Event {
	p.t.Helper()
	return p.await(room, "an event", func(e adapter.Event) bool { return e.Kind == kind && (user.IsZero() || e.User == user) })
}

// create makes a room of a preset.
func create(a *provider, name string, preset adapter.Preset) mimiuri.URI {
	a.t.Helper()
	room := a.room(name)
	a.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: a.user("alice"), Name: name, Preset: preset})
	a.awaitJoined(room, a.user("alice"))
	return room
}

func own(e adapter.Event, id string) bool { return e.Origin != nil && e.Origin.ID == id }

func TestRoles(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"), b.user("ben"))

	refused := b.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: b.user("bob"), Target: b.user("ben"), Role: policy.RoleGroupAdmin})
	if e := b.awaitRefused(room, refused); !fault.Is(e.Err, fault.Forbidden) || e.Intent != adapter.ChangeRole || e.Target != b.user("ben") {
		t.Errorf("an ordinary user's change of a role is refused with %+v", e)
	}
	o := a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: b.user("bob"), Role: policy.RoleGroupAdmin})
	if e := a.awaitKind(room, adapter.RoleChanged, b.user("bob")); !own(e, o) || e.Role != policy.RoleGroupAdmin {
		t.Errorf("alice is told %+v", e)
	}
	if e := b.awaitKind(room, adapter.RoleChanged, b.user("bob")); e.Actor != a.user("alice") || e.Origin != nil || e.Role != policy.RoleGroupAdmin {
		t.Errorf("bob is told %+v", e)
	}
	r := b.view(room)
	if role, ok := r.RoleOf(b.user("bob")); !ok || !role.Can(policy.CanBan) || role.Name != "group_admin" {
		t.Errorf("bob's role is %+v", role)
	}
	b.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: b.user("bob"), Target: b.user("ben"), Role: policy.RoleGroupAdmin})
	a.awaitKind(room, adapter.RoleChanged, b.user("ben"))
	// The last of the group admins stays one.
	a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: b.user("ben"), Role: policy.RoleOrdinaryUser})
	a.await(room, "ben's demotion", func(e adapter.Event) bool {
		return e.Kind == adapter.RoleChanged && e.User == b.user("ben") && e.Role == policy.RoleOrdinaryUser
	})
	refused = a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: b.user("bob"), Role: policy.RoleOrdinaryUser})
	a.awaitRefused(room, refused)
	for _, in := range []adapter.Intent{
		{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: b.user("nobody"), Role: policy.RoleGroupAdmin},
		{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: b.user("bob"), Role: 77},
	} {
		if e := a.awaitRefused(room, a.intake(in)); !fault.Is(e.Err, fault.NotFound) {
			t.Errorf("%+v is refused with %v", in, e.Err)
		}
	}
	same := a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: b.user("bob"), Role: policy.RoleGroupAdmin})
	a.await(room, "a role that is there already to be confirmed", func(e adapter.Event) bool { return e.Kind == adapter.RoleChanged && own(e, same) })
}

func TestBan(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"), c.user("carol"))
	a.intake(adapter.Intent{Kind: adapter.SetPolicy, Room: room, Actor: a.user("alice"), Policy: &adapter.PolicyChange{Open: ptr(true)}})
	b.awaitKind(room, adapter.Policy, mimiuri.URI{})

	o := a.intake(adapter.Intent{Kind: adapter.Ban, Room: room, Actor: a.user("alice"), Target: b.user("bob"), Reason: "spam"})
	if e := a.awaitLeft(room, b.user("bob")); !e.Banned || e.Reason != "spam" || e.Actor != a.user("alice") {
		t.Errorf("alice sees %+v", e)
	}
	if e := a.awaitKind(room, adapter.Banned, b.user("bob")); !own(e, o) || e.Reason != "spam" {
		t.Errorf("the ban is told as %+v", e)
	}
	if e := b.awaitLeft(room, b.user("bob")); !e.Banned || e.Reason != "" || !slices.Contains(e.Local, b.user("bob")) {
		t.Errorf("bob sees %+v", e)
	}
	b.awaitKind(room, adapter.Banned, b.user("bob"))
	c.awaitKind(room, adapter.Banned, b.user("bob"))
	if r := c.view(room); !slices.Equal(r.Banned, []mimiuri.URI{b.user("bob")}) || len(r.Participants) != 2 {
		t.Errorf("carol's provider has %+v banned, %+v in the room", r.Banned, r.Participants)
	}
	// He comes back neither on his own, though the room is open, nor by others.
	if e := b.awaitRefused(room, b.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: b.user("bob")})); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("coming back: %v", e.Err)
	}
	if e := a.awaitRefused(room, a.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("alice"), Target: b.user("bob")})); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("being invited: %v", e.Err)
	}
	c.awaitRefused(room, c.intake(adapter.Intent{Kind: adapter.Unban, Room: room, Actor: c.user("carol"), Target: b.user("bob")}))

	// Somebody who was never there.
	o = a.intake(adapter.Intent{Kind: adapter.Ban, Room: room, Actor: a.user("alice"), Target: b.user("mallory")})
	if e := c.awaitKind(room, adapter.Banned, b.user("mallory")); e.Actor != a.user("alice") {
		t.Errorf("a stranger's ban is told as %+v", e)
	}
	a.await(room, "the own ban", func(e adapter.Event) bool { return e.Kind == adapter.Banned && own(e, o) })

	o = a.intake(adapter.Intent{Kind: adapter.Unban, Room: room, Actor: a.user("alice"), Target: b.user("bob")})
	if e := a.awaitKind(room, adapter.Unbanned, b.user("bob")); !own(e, o) {
		t.Errorf("the end of the ban is told as %+v", e)
	}
	c.awaitKind(room, adapter.Unbanned, b.user("bob"))
	b.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: b.user("bob")})
	b.mem.wait(t, "bob to be back", func() bool {
		return count(b.mem.events[room], func(e adapter.Event) bool { return e.Kind == adapter.Joined && e.User == b.user("bob") }) == 2
	})
	b.say(room, "bob", "sorry")
	equal(t, "c", c.awaitTexts(room, 1), []string{"bob: sorry"})
}

func count(es []adapter.Event, ok func(adapter.Event) bool) (n int) {
	for _, e := range es {
		if ok(e) {
			n++
		}
	}
	return n
}

func TestMetadata(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	o := b.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: b.user("bob"), Metadata: &adapter.MetadataChange{Subject: ptr("Tonight"), Avatar: ptr("https://b.example/x.png"), Mood: ptr("moonlit")}})
	if e := b.awaitKind(room, adapter.Metadata, mimiuri.URI{}); !own(e, o) || e.Actor != b.user("bob") {
		t.Errorf("bob is told %+v", e)
	}
	if e := a.awaitKind(room, adapter.Metadata, mimiuri.URI{}); e.Actor != b.user("bob") || e.Origin != nil {
		t.Errorf("alice is told %+v", e)
	}
	r := a.view(room)
	if r.Name != "Balcony" || r.Subject != "Tonight" || r.Mood != "moonlit" || r.Avatar != "https://b.example/x.png" {
		t.Errorf("the room is %+v", r)
	}
	refused := b.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: b.user("bob"), Metadata: &adapter.MetadataChange{Name: ptr("Crypt"), Description: ptr("An ordinary user may not")}})
	b.awaitRefused(room, refused)
	if r := b.view(room); r.Name != "Balcony" || r.Description != "" { // what the adapter has to put back
		t.Errorf("after the refusal the room is %q, %q", r.Name, r.Description)
	}
	a.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: a.user("alice"), Metadata: &adapter.MetadataChange{Description: ptr("Where we meet")}})
	b.await(room, "the description", func(e adapter.Event) bool { return e.Kind == adapter.Metadata && e.Actor == a.user("alice") })
	if r := b.view(room); r.Description != "Where we meet" || r.Subject != "Tonight" {
		t.Errorf("the room is %+v", r)
	}
	// Both change something at once: neither is lost.
	a.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: a.user("alice"), Metadata: &adapter.MetadataChange{Name: ptr("Garden")}})
	b.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: b.user("bob"), Metadata: &adapter.MetadataChange{Mood: ptr("sunny")}})
	for _, p := range ps {
		p.mem.wait(t, "both changes", func() bool {
			return count(p.mem.events[room], func(e adapter.Event) bool { return e.Kind == adapter.Metadata }) == 4
		})
		if r := p.view(room); r.Name != "Garden" || r.Mood != "sunny" {
			t.Errorf("%s: the room is %+v", p.domain, r)
		}
	}
}

func TestPolicyAndOpenJoin(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"))
	c.awaitRefused(room, c.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: c.user("carol")}))
	b.awaitRefused(room, b.intake(adapter.Intent{Kind: adapter.SetPolicy, Room: room, Actor: b.user("bob"), Policy: &adapter.PolicyChange{Open: ptr(true)}}))

	o := a.intake(adapter.Intent{Kind: adapter.SetPolicy, Room: room, Actor: a.user("alice"), Policy: &adapter.PolicyChange{Open: ptr(true), History: ptr(true), Discoverable: ptr(true), MaxUsers: ptr(uint32(3))}})
	if e := a.awaitKind(room, adapter.Policy, mimiuri.URI{}); !own(e, o) {
		t.Errorf("alice is told %+v", e)
	}
	b.awaitKind(room, adapter.Policy, mimiuri.URI{})
	if r := b.view(room); !r.Open || !r.History || !r.Discoverable || r.MaxUsers != 3 {
		t.Errorf("the room is %+v", r)
	}
	o = c.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: c.user("carol")})
	if e := c.awaitJoined(room, c.user("carol")); !own(e, o) || e.Actor != c.user("carol") || e.Role != policy.RoleOrdinaryUser {
		t.Errorf("carol is told %+v", e)
	}
	if e := b.awaitJoined(room, c.user("carol")); e.Actor != c.user("carol") {
		t.Errorf("bob is told %+v", e)
	}
	c.say(room, "carol", "hello")
	equal(t, "b", b.awaitTexts(room, 1), []string{"carol: hello"})
	if e := c.awaitRefused(room, c.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: c.user("cora")})); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("a fourth in a room for three: %v", e.Err)
	}
	a.intake(adapter.Intent{Kind: adapter.SetPolicy, Room: room, Actor: a.user("alice"), Policy: &adapter.PolicyChange{Open: ptr(false), History: ptr(false), Discoverable: ptr(false), MaxUsers: ptr(uint32(0))}})
	c.awaitKind(room, adapter.Policy, mimiuri.URI{})
	if r := c.view(room); r.Open || r.History || r.Discoverable || r.MaxUsers != 0 {
		t.Errorf("the room is %+v", r)
	}
	c.awaitRefused(room, c.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: c.user("cora")}))
	same := a.intake(adapter.Intent{Kind: adapter.SetPolicy, Room: room, Actor: a.user("alice"), Policy: &adapter.PolicyChange{Open: ptr(false)}})
	a.await(room, "nothing to be changed", func(e adapter.Event) bool { return e.Kind == adapter.Policy && own(e, same) })
}

func TestDestroy(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"), c.user("carol"), a.user("amy"))
	a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: c.user("carol"), Role: policy.RoleGroupAdmin})
	c.awaitKind(room, adapter.RoleChanged, c.user("carol"))
	c.awaitRefused(room, c.intake(adapter.Intent{Kind: adapter.DestroyRoom, Room: room, Actor: c.user("carol")}))
	b.awaitRefused(room, b.intake(adapter.Intent{Kind: adapter.DestroyRoom, Room: room, Actor: b.user("bob")}))
	b.say(room, "bob", "still here")
	a.awaitTexts(room, 1)

	o := a.intake(adapter.Intent{Kind: adapter.DestroyRoom, Room: room, Actor: a.user("alice")})
	for _, p := range ps {
		e := p.awaitKind(room, adapter.Closed, mimiuri.URI{})
		if e.Actor != a.user("alice") || (p == a) != own(e, o) {
			t.Errorf("%s is told %+v", p.domain, e)
		}
		if r := p.view(room); !r.Gone {
			t.Errorf("%s has the room as %+v", p.domain, r)
		}
	}
	for p, u := range map[*provider]mimiuri.URI{a: a.user("amy"), b: b.user("bob"), c: c.user("carol")} {
		p.awaitLeft(room, u)
	}
	a.awaitLeft(room, a.user("alice"))
	b.awaitRefused(room, b.say(room, "bob", "anybody?"))
	c.awaitRefused(room, c.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: c.user("carol")}))
}

func TestPresets(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	strict := create(a, "strict", adapter.Strict)
	a.intake(adapter.Intent{Kind: adapter.Invite, Room: strict, Actor: a.user("alice"), Target: b.user("bob")})
	b.awaitJoined(strict, b.user("bob"))
	if e := b.awaitRefused(strict, b.intake(adapter.Intent{Kind: adapter.Invite, Room: strict, Actor: b.user("bob"), Target: b.user("ben")})); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("in a strict room an ordinary user's invitation gives %v", e.Err)
	}

	moderated := create(a, "moderated", adapter.Moderated)
	a.intake(adapter.Intent{Kind: adapter.Invite, Room: moderated, Actor: a.user("alice"), Target: b.user("bob")})
	a.intake(adapter.Intent{Kind: adapter.Invite, Room: moderated, Actor: a.user("alice"), Target: b.user("ben"), Role: policy.RoleSpeaker})
	if e := b.awaitJoined(moderated, b.user("bob")); e.Role != policy.RoleAttendee {
		t.Errorf("bob's role is %d", e.Role)
	}
	if e := b.awaitJoined(moderated, b.user("ben")); e.Role != policy.RoleSpeaker {
		t.Errorf("ben's role is %d", e.Role)
	}
	b.awaitRefused(moderated, b.say(moderated, "bob", "may I?"))
	b.say(moderated, "ben", "I may")
	equal(t, "a", a.awaitTexts(moderated, 1), []string{"ben: I may"})
	a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: moderated, Actor: a.user("alice"), Target: b.user("bob"), Role: policy.RoleSpeaker})
	b.awaitKind(moderated, adapter.RoleChanged, b.user("bob"))
	b.say(moderated, "bob", "now I may")
	equal(t, "a", a.awaitTexts(moderated, 2), []string{"ben: I may", "bob: now I may"})

	for _, p := range []adapter.Preset{adapter.Direct, "other"} {
		err := a.mem.host.Intake(context.Background(), adapter.Intent{Kind: adapter.CreateRoom, Room: a.room("x"), Actor: a.user("alice"), OriginID: "x", Preset: p})
		if !fault.Is(err, fault.Malformed) {
			t.Errorf("preset %q: %v", p, err)
		}
	}
}

func (p *provider) direct(local string, other mimiuri.URI) mimiuri.URI {
	p.t.Helper()
	room, err := p.mem.host.DirectRoom(context.Background(), p.user(local), other)
	if err != nil {
		p.t.Fatalf("%s: the direct room of %s and %s: %v", p.domain, local, other, err)
	}
	return room
}

func TestDirectRoom(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	alice, bob := a.user("alice"), b.user("bob")
	room := a.direct("alice", bob)
	if again := a.direct("alice", bob); again != room {
		t.Errorf("asked again it is %s instead of %s", again, room)
	}
	a.say(room, "alice", "one") // before bob can be there
	a.awaitJoined(room, bob)
	b.awaitJoined(room, bob)
	equal(t, "b", b.awaitTexts(room, 1), []string{"alice: one"})
	if got := b.direct("bob", alice); got != room {
		t.Errorf("bob's direct room with alice is %s instead of %s", got, room)
	}
	for _, p := range ps {
		if r := p.view(room); !r.Direct || len(r.Participants) != 2 {
			t.Errorf("%s sees %+v", p.domain, r)
		}
	}
	b.say(room, "bob", "two")
	equal(t, "a", a.awaitTexts(room, 2), []string{"alice: one", "bob: two"})
	// It is for two.
	a.awaitRefused(room, a.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: alice, Target: b.user("ben")}))
	a.awaitRefused(room, a.intake(adapter.Intent{Kind: adapter.Remove, Room: room, Actor: alice, Target: bob}))
	a.awaitRefused(room, a.intake(adapter.Intent{Kind: adapter.Ban, Room: room, Actor: alice, Target: bob}))

	// Who leaves stays listed, is written to no more, and comes back when either wants to go on.
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: bob})
	b.awaitLeft(room, bob)
	a.awaitLeft(room, bob)
	if e := a.awaitRefused(room, a.say(room, "alice", "are you there?")); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("a message to who has left: %v", e.Err)
	}
	joined := func(p *provider, n int) {
		t.Helper()
		p.mem.wait(t, "bob to be back at "+p.domain, func() bool {
			return count(p.mem.events[room], func(e adapter.Event) bool { return e.Kind == adapter.Joined && e.User == bob }) == n
		})
	}
	if got := a.direct("alice", bob); got != room {
		t.Errorf("then the room is %s", got)
	}
	a.say(room, "alice", "three")
	joined(a, 2)
	joined(b, 2)
	b.awaitTexts(room, 3)
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: bob})
	left := func(n int) {
		t.Helper()
		for _, p := range ps {
			p.mem.wait(t, "bob to leave again, at "+p.domain, func() bool {
				return count(p.mem.events[room], func(e adapter.Event) bool { return e.Kind == adapter.Left && e.User == bob }) == n
			})
		}
	}
	left(2)
	if got := b.direct("bob", alice); got != room {
		t.Errorf("bob comes back to %s", got)
	}
	joined(b, 3)
	b.say(room, "bob", "four")
	a.awaitTexts(room, 4)

	// When both have left it is over, and the next one is another.
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: bob})
	left(3)
	a.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: alice})
	a.awaitLeft(room, alice)
	next := a.direct("alice", bob)
	if next == room {
		t.Error("a room that is over is used again")
	}
	b.awaitJoined(next, bob)

	for _, other := range []mimiuri.URI{alice, room} {
		if _, err := a.mem.host.DirectRoom(context.Background(), alice, other); !fault.Is(err, fault.Malformed) {
			t.Errorf("a direct room with %s: %v", other, err)
		}
	}
	if _, err := a.mem.host.DirectRoom(context.Background(), bob, alice); !fault.Is(err, fault.Forbidden) {
		t.Errorf("for a user of another provider: %v", err)
	}
}

// TestTwoDirectRooms: both sides make one at once. Both rooms are read, and both sides come to send in the same one.
func TestTwoDirectRooms(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	alice, bob := a.user("alice"), b.user("bob")
	ra, rb := a.direct("alice", bob), b.direct("bob", alice)
	if ra == rb {
		t.Fatal("one room already")
	}
	a.say(ra, "alice", "from a")
	b.say(rb, "bob", "from b")
	for _, p := range ps {
		equal(t, p.domain, p.awaitTexts(ra, 1), []string{"alice: from a"})
		equal(t, p.domain, p.awaitTexts(rb, 1), []string{"bob: from b"})
	}
	first := ra
	if rb.String() < ra.String() {
		first = rb
	}
	if x, y := a.direct("alice", bob), b.direct("bob", alice); x != first || y != first {
		t.Errorf("a sends in %s, b in %s, want %s", x, y, first)
	}
}

// TestDirectRoomRefused: whom nobody knows, or who does not want to, is told about; the next attempt is a fresh one.
func TestDirectRoomRefused(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	b.mem.users = map[string]bool{}
	room := a.direct("alice", b.user("nobody"))
	id := a.say(room, "alice", "hello?")
	if e := a.await(room, "the invitation to be refused", func(e adapter.Event) bool { return e.Kind == adapter.Refused && e.Intent == adapter.Invite }); e.Target != b.user("nobody") || !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("refused with %+v", e)
	}
	if e := a.awaitRefused(room, id); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("the message is refused with %v", e.Err)
	}
	b.mem.mu.Lock()
	b.mem.users = nil
	b.mem.mu.Unlock()
	if again := a.direct("alice", b.user("nobody")); again != room {
		t.Errorf("the second attempt is in %s", again)
	}
	a.say(room, "alice", "hello!")
	equal(t, "b", b.awaitTexts(room, 1), []string{"alice: hello!"})
}

// TestHubGone: a room whose hub cannot be reached is shown as such and can be read; what is written waits.
func TestHubGone(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1]
	b.gone = 50 * time.Millisecond
	b.start()
	room := open(t, a, b.user("bob"))
	a.say(room, "alice", "before")
	b.awaitTexts(room, 1)
	a.stop()
	b.say(room, "bob", "meanwhile")
	e := b.awaitKind(room, adapter.Notice, mimiuri.URI{})
	if !slices.Equal(e.Local, []mimiuri.URI{b.user("bob")}) || e.Notice == "" {
		t.Errorf("the notice is %+v", e)
	}
	if r := b.view(room); !r.Offline || r.Gone || len(r.Participants) != 2 {
		t.Errorf("the room is %+v", r)
	}
	b.stop()
	b.start()
	if r := b.view(room); !r.Offline {
		t.Error("after a restart the room is not offline any more")
	}
	a.start()
	equal(t, "a", a.awaitTexts(room, 2), []string{"alice: before", "bob: meanwhile"})
	b.mem.wait(t, "a second notice", func() bool {
		return count(b.mem.events[room], func(e adapter.Event) bool { return e.Kind == adapter.Notice }) == 2
	})
	if r := b.view(room); r.Offline {
		t.Error("the room is still offline")
	}
}

// TestHubGoneIdle: a hub that is gone is shown as gone in rooms in which nobody says anything, and when it is back as well; all rooms
// of a hub are, and only those.
func TestHubGoneIdle(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1], ps[2].start()
	b.gone = 50 * time.Millisecond
	b.start()
	room := open(t, a, b.user("bob"))
	second := a.room("second")
	a.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: second, Actor: a.user("alice")})
	a.awaitJoined(second, a.user("alice"))
	a.intake(adapter.Intent{Kind: adapter.Invite, Room: second, Actor: a.user("alice"), Target: b.user("ben")})
	b.awaitJoined(second, b.user("ben"))
	other := open(t, c, b.user("bob"))
	notices := func(room mimiuri.URI, n int) {
		t.Helper()
		b.mem.wait(t, fmt.Sprintf("%d notices", n), func() bool {
			return count(b.mem.events[room], func(e adapter.Event) bool { return e.Kind == adapter.Notice }) == n
		})
	}
	a.stop()
	notices(room, 1)
	notices(second, 1)
	if !b.view(room).Offline || !b.view(second).Offline {
		t.Error("the rooms are not offline")
	}
	b.stop()
	b.start() // they are told after it, too
	a.start()
	notices(room, 2)
	notices(second, 2)
	if b.view(room).Offline || b.view(second).Offline {
		t.Error("the rooms are still offline")
	}
	if b.view(other).Offline || count(b.mem.events[other], func(e adapter.Event) bool { return e.Kind == adapter.Notice }) != 0 {
		t.Error("a room of another hub was told something")
	}
}

// awaitView waits until a room is shown as ok wants it.
func (p *provider) awaitView(room mimiuri.URI, what string, ok func(adapter.Room) bool) {
	p.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(p.view(room)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: waited in vain for the room to be %s", p.domain, what)
		}
	}
}

// awaitCounter waits for a counter of the provider.
func (p *provider) awaitCounter(what string, c *atomic.Uint64, n uint64) {
	p.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); c.Load() < n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: %d instead of %d %s", p.domain, c.Load(), n, what)
		}
	}
}

// TestKeysAreChanged: by time and by the number of messages, one local client after the other, and the talk goes on.
func TestKeysAreChanged(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	a.tune = func(c *core.Config) { c.RefreshEvery = 150 * time.Millisecond }
	b.tune = func(c *core.Config) { c.RefreshMessages = 3 }
	a.start()
	b.start()
	room := open(t, a, b.user("bob"), b.user("ben"))
	a.awaitCounter("changes of keys", &a.core.Client.Counters.Refreshes, 6) // the commits of the invitations are some of them
	var want []string
	for i := range 9 {
		b.say(room, "bob", fmt.Sprint(i))
		want = append(want, fmt.Sprintf("bob: %d", i))
	}
	equal(t, "a", a.awaitTexts(room, 9), want)
	b.awaitCounter("changes of keys", &b.core.Client.Counters.Refreshes, 2)
	b.say(room, "ben", "end")
	a.say(room, "alice", "end")
	a.awaitTexts(room, 11)
	b.awaitTexts(room, 11)
	if n := b.core.Client.Counters.Resyncs.Load() + a.core.Client.Counters.Resyncs.Load(); n != 0 {
		t.Errorf("%d times the group was joined anew", n)
	}
}

// TestLastLeaves: with its last client a room ends at its hub, which keeps nothing of the group.
func TestLastLeaves(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	b.say(room, "bob", "bye")
	a.awaitTexts(room, 1)
	a.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: a.user("alice")})
	b.awaitLeft(room, a.user("alice"))
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: b.user("bob")})
	b.awaitLeft(room, b.user("bob"))
	var status, routes int
	var state, info []byte
	a.sql(t, func(db *sql.DB) error {
		if err := db.QueryRow("SELECT count(*) FROM hub_route").Scan(&routes); err != nil {
			return err
		}
		return db.QueryRow("SELECT status, state, info FROM hub_room").Scan(&status, &state, &info)
	})
	if status != int(store.HubClosed) || state != nil || info != nil || routes != 0 {
		t.Errorf("the hub keeps status %d, %d octets of state, %d of info, %d routes", status, len(state), len(info), routes)
	}
	b.awaitRefused(room, b.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: b.user("bob")}))
}

// TestNameAgain: a room that all have left leaves its name, whose next room is another one; while it is kept for others, or by whoever
// made it anew, the name is taken. Reports about what was said in the first are still proven.
func TestNameAgain(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	a.say(room, "alice", "of the first")
	first := b.await(room, "the message", isText("of the first"))
	a.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: a.user("alice")})
	b.awaitLeft(room, a.user("alice"))
	create := func(user string) adapter.Intent {
		return adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: a.user(user), Name: "Attic"}
	}
	a.awaitView(room, "gone", func(r adapter.Room) bool { return r.Gone })
	if a.view(room).Free {
		t.Error("the name of a room that is kept for others is free")
	}
	a.awaitRefused(room, a.intake(create("alice")))
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: b.user("bob")})
	b.awaitLeft(room, b.user("bob"))
	a.awaitView(room, "over", func(r adapter.Room) bool { return r.Gone && r.Free })
	before := len(a.mem.events[room])
	a.intake(create("anna"))
	a.awaitJoined(room, a.user("anna"))
	a.awaitRefused(room, a.intake(create("arno")))
	for _, e := range a.mem.events[room][before:] {
		if e.Kind != adapter.Refused && e.User != a.user("anna") {
			t.Errorf("of a new room with one member %s shows %+v", a.domain, e)
		}
	}
	a.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("anna"), Target: b.user("ben")})
	b.awaitJoined(room, b.user("ben"))
	a.say(room, "anna", "of the second")
	b.awaitTexts(room, 2)
	b.say(room, "ben", "yes")
	a.awaitTexts(room, 3)
	equal(t, "b", b.awaitTexts(room, 3), []string{"alice: of the first", "anna: of the second", "ben: yes"})
	if r := b.view(room); r.Gone || r.Name != "Attic" || len(r.Participants) != 2 {
		t.Errorf("the new room is %+v", r)
	}
	if err := b.mem.host.Report(context.Background(), b.user("bob"), room, first.ID, "", ""); err != nil {
		t.Errorf("what was said in the first room cannot be reported any more: %v", err)
	}
	if n := a.core.Client.Counters.Resyncs.Load() + b.core.Client.Counters.Resyncs.Load(); n != 0 {
		t.Errorf("%d times the group was joined anew", n)
	}
}

// TestRoomOverIsForgotten: of a room that is over the hub keeps its keys as long as reports are kept, and then nothing.
func TestRoomOverIsForgotten(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	clock := &movable{}
	a.now = clock.now
	a.start()
	b.start()
	room := open(t, a, b.user("bob"))
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: b.user("bob")})
	a.awaitLeft(room, b.user("bob"))
	a.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: a.user("alice")})
	a.awaitLeft(room, a.user("alice"))
	hub := func() (n int) {
		for _, table := range []string{"hub_room", "hub_cursor", "hub_answer", "hub_log", "hub_route"} {
			n += a.rows("SELECT count(*) FROM " + table)
		}
		return n
	}
	clock.move(89 * 24 * time.Hour)
	if err := a.core.Clean(context.Background()); err != nil || a.rows("SELECT count(*) FROM hub_room") != 1 {
		t.Errorf("after 89 days the keys are gone, %v", err)
	}
	clock.move(2 * 24 * time.Hour)
	if err := a.core.Clean(context.Background()); err != nil || hub() != 0 {
		t.Errorf("after 91 days the hub keeps %d rows of a room that is over, %v", hub(), err)
	}
	a.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: a.user("alice")})
	a.await(room, "the second room", func(e adapter.Event) bool {
		return e.Kind == adapter.Joined && e.User == a.user("alice") && e.Time.After(time.Now().Add(90*24*time.Hour))
	})
}

// TestHubDestroys: whoever runs the hub closes a room; all providers are told, also of more clients than go into one message.
func TestHubDestroys(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	ps[0].tune = func(c *core.Config) { c.HubBundle = 2 }
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"), c.user("carol"), c.user("cora"))
	if err := a.core.DestroyRoom(context.Background(), room); err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		p.awaitKind(room, adapter.Closed, mimiuri.URI{})
	}
	c.awaitLeft(room, c.user("cora"))
	c.awaitRefused(room, c.say(room, "carol", "hello?"))
	if err := a.core.DestroyRoom(context.Background(), room); !fault.Is(err, fault.NotFound) {
		t.Errorf("a second time: %v", err)
	}
	if err := a.core.DestroyRoom(context.Background(), b.room("x")); !fault.Is(err, fault.NotFound) {
		t.Errorf("a room elsewhere: %v", err)
	}
}

// TestReconcile: what an adapter was told wrongly, or not at all, is told at the next start.
func TestReconcile(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"), b.user("ben"))
	a.intake(adapter.Intent{Kind: adapter.Ban, Room: room, Actor: a.user("alice"), Target: b.user("mallory")})
	b.awaitKind(room, adapter.Banned, b.user("mallory"))
	if n, err := b.core.Reconcile(context.Background()); n != 0 || err != nil {
		t.Errorf("%d repaired in a room that is as it should be, %v", n, err)
	}
	b.stop()
	b.sql(t, func(db *sql.DB) error {
		var text []byte
		if err := db.QueryRow("SELECT view FROM client_room").Scan(&text); err != nil {
			return err
		}
		var v map[string]any
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		members := v["members"].([]any)
		v["name"], v["banned"] = "Attic", nil
		v["members"] = slices.DeleteFunc(members, func(m any) bool { return m.(map[string]any)["user"] == b.user("ben").String() })
		members[0].(map[string]any)["role"] = 2
		text, _ = json.Marshal(v)
		_, err := db.Exec("UPDATE client_room SET view=?", text)
		return err
	})
	b.mem.events[room] = nil
	b.start()
	b.awaitJoined(room, b.user("ben"))
	b.awaitKind(room, adapter.Metadata, mimiuri.URI{})
	b.awaitKind(room, adapter.Banned, b.user("mallory"))
	b.awaitKind(room, adapter.RoleChanged, a.user("alice"))
	if n := b.core.Client.Counters.Repaired.Load(); n != 1 {
		t.Errorf("%d rooms were repaired", n)
	}
	if r := b.view(room); r.Name != "Balcony" || len(r.Participants) != 3 || len(r.Banned) != 1 {
		t.Errorf("the room is %+v", r)
	}
	if n, err := b.core.Reconcile(context.Background()); n != 0 || err != nil {
		t.Errorf("%d repaired once more, %v", n, err)
	}
	b.say(room, "ben", "hello")
	a.awaitTexts(room, 1)
}

// TestReconcileKeys: a client whose Welcome was lost is in the group without its keys; it joins anew.
func TestReconcileKeys(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	var lose atomic.Bool
	var lost atomic.Uint64
	b.guard().in = singly(func(m *wire.FanoutMessage, let func([]byte) error) error {
		if m.Message.Welcome != nil && lose.Load() {
			lost.Add(1)
			return nil
		}
		return let(m.Marshal())
	})
	a.start()
	b.start()
	room := open(t, a, b.user("bob"))
	lose.Store(true)
	a.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("alice"), Target: b.user("ben")})
	b.awaitJoined(room, b.user("ben"))
	b.awaitCounter("Welcomes lost", &lost, 1)
	lose.Store(false)
	a.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: a.user("alice"), Metadata: &adapter.MetadataChange{Subject: ptr("x")}})
	b.awaitKind(room, adapter.Metadata, mimiuri.URI{})
	if n, err := b.core.Reconcile(context.Background()); n != 1 || err != nil {
		t.Errorf("%d repaired, %v", n, err)
	}
	b.say(room, "ben", "here I am")
	equal(t, "a", a.awaitTexts(room, 1), []string{"ben: here I am"})
	if n := count(a.mem.events[room], func(e adapter.Event) bool { return e.Kind == adapter.Left }); n != 0 {
		t.Errorf("%d left", n)
	}
}

// TestDayAway: a follower that was down for a day finds everything in its order.
func TestDayAway(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0], ps[1], ps[2]
	var ahead atomic.Int64
	for _, p := range ps {
		p.tune = func(c *core.Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } }
		p.start()
	}
	room := open(t, a, b.user("bob"), c.user("carol"))
	talk(t, room, "before", map[*provider]string{a: "alice", b: "bob", c: "carol"})
	b.stop()
	var want []string
	for hour := range 8 {
		ahead.Add(int64(3 * time.Hour))
		p, who := ps[2*(hour%2)], []string{"alice", "carol"}[hour%2]
		p.say(room, who, fmt.Sprint(hour))
		want = append(want, fmt.Sprintf("%s: %d", who, hour))
		a.awaitTexts(room, 3+hour+1)
		switch hour {
		case 1:
			a.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: a.user("alice"), Metadata: &adapter.MetadataChange{Subject: ptr("night")}})
		case 3:
			c.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: c.user("carol"), Target: a.user("amy")})
			a.awaitJoined(room, a.user("amy"))
		case 5:
			a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: b.user("bob"), Role: policy.RoleGroupAdmin})
		case 6:
			a.intake(adapter.Intent{Kind: adapter.Remove, Room: room, Actor: a.user("alice"), Target: a.user("amy")})
			c.awaitLeft(room, a.user("amy"))
		}
	}
	b.start()
	equal(t, "b", b.awaitTexts(room, 11)[3:], want)
	b.awaitLeft(room, a.user("amy"))
	b.mem.mu.Lock()
	var kinds []adapter.EventKind
	for _, e := range b.mem.events[room] {
		if e.Kind != adapter.Message {
			kinds = append(kinds, e.Kind)
		}
	}
	b.mem.mu.Unlock()
	if want := []adapter.EventKind{adapter.Joined, adapter.Joined, adapter.Metadata, adapter.Joined, adapter.RoleChanged, adapter.Left}; !slices.Equal(kinds, want) {
		t.Errorf("bob's provider shows %v, want %v", kinds, want)
	}
	if n := b.core.Client.Counters.Resyncs.Load(); n != 0 {
		t.Errorf("%d times the group was joined anew", n)
	}
	b.say(room, "bob", "good morning")
	c.awaitTexts(room, 12)
}

// TestRacingChanges: three providers change everything at once. One commit an epoch wins, and nobody's intent is lost.
func TestRacingChanges(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"), c.user("carol"), c.user("chris"), b.user("ben"))
	for _, u := range []mimiuri.URI{b.user("bob"), c.user("carol")} {
		a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: u, Role: policy.RoleSuperAdmin})
		b.awaitKind(room, adapter.RoleChanged, u)
		c.awaitKind(room, adapter.RoleChanged, u)
	}
	do := func(p *provider, who string, in adapter.Intent) {
		in.Room, in.Actor = room, p.user(who)
		p.intake(in)
	}
	do(a, "alice", adapter.Intent{Kind: adapter.SetMetadata, Metadata: &adapter.MetadataChange{Name: ptr("A")}})
	do(b, "bob", adapter.Intent{Kind: adapter.SetMetadata, Metadata: &adapter.MetadataChange{Subject: ptr("B")}})
	do(c, "carol", adapter.Intent{Kind: adapter.SetMetadata, Metadata: &adapter.MetadataChange{Mood: ptr("C")}})
	do(a, "alice", adapter.Intent{Kind: adapter.SetPolicy, Policy: &adapter.PolicyChange{Open: ptr(true)}})
	do(b, "bob", adapter.Intent{Kind: adapter.SetPolicy, Policy: &adapter.PolicyChange{Discoverable: ptr(true)}})
	do(c, "carol", adapter.Intent{Kind: adapter.SetPolicy, Policy: &adapter.PolicyChange{History: ptr(true)}})
	do(a, "alice", adapter.Intent{Kind: adapter.Ban, Target: c.user("chris")})
	do(b, "bob", adapter.Intent{Kind: adapter.ChangeRole, Target: b.user("ben"), Role: policy.RoleGroupAdmin})
	do(c, "carol", adapter.Intent{Kind: adapter.Invite, Target: a.user("amy")})
	do(b, "ben", adapter.Intent{Kind: adapter.SendMessage, Content: content.Text("meanwhile")})
	for _, p := range ps {
		p.awaitKind(room, adapter.Banned, c.user("chris"))
		p.awaitKind(room, adapter.RoleChanged, b.user("ben"))
		p.awaitJoined(room, a.user("amy"))
		p.mem.wait(t, "all changes of metadata and policy", func() bool {
			of := func(k adapter.EventKind) int {
				return count(p.mem.events[room], func(e adapter.Event) bool { return e.Kind == k })
			}
			return of(adapter.Metadata) == 3 && of(adapter.Policy) == 3
		})
		p.awaitTexts(room, 1)
		r := p.view(room)
		if r.Name != "A" || r.Subject != "B" || r.Mood != "C" || !r.Open || !r.Discoverable || !r.History {
			t.Errorf("%s has the room as %+v", p.domain, r)
		}
		if n := count(p.mem.events[room], func(e adapter.Event) bool { return e.Kind == adapter.Refused }); n != 0 {
			t.Errorf("%s: %d refused", p.domain, n)
		}
	}
}

// TestHubThatWantsEverything: commits carry only what the hub cannot know, and all of it for one that refuses that.
func TestHubThatWantsEverything(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	var brief, bulky atomic.Int64
	way := b.stand()
	way.update = func(body []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
		q, err := wire.ParseUpdateRequest(body)
		if err != nil {
			return nil, err
		}
		if q.IsCommit() && q.GroupInfo.Partial != nil {
			brief.Add(1)
			return (&wire.UpdateRoomResponse{Code: wire.NotAllowed, Description: "a full GroupInfo is needed"}).Marshal(), nil
		}
		if q.IsCommit() {
			bulky.Add(1)
		}
		return next(body)
	}
	a.start()
	b.start()
	room := open(t, a, b.user("bob"))
	for i := range 3 {
		u := b.user(fmt.Sprintf("ben%d", i))
		b.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: b.user("bob"), Target: u})
		b.awaitJoined(room, u)
	}
	if brief.Load() != 1 || bulky.Load() != 3 {
		t.Errorf("%d brief commits and %d bulky ones", brief.Load(), bulky.Load())
	}
	b.awaitRefused(room, b.intake(adapter.Intent{Kind: adapter.Ban, Room: room, Actor: b.user("bob"), Target: a.user("alice")}))
	b.say(room, "ben2", "hello")
	a.awaitTexts(room, 1)
}

// TestLastResort: a peer that takes key packages without using them is given the same one again and again, which works.
func TestLastResort(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	peer := n.speak(t, "a.example")
	key, err := mls.GenerateSignatureKey(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() *mls.KeyPackage {
		t.Helper()
		q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: a.user("mallory"), TargetUser: b.user("bob"), RoomID: a.room("x"), Suites: []mls.CipherSuite{1},
			SignatureKey: key.Public(), Credential: mls.BasicCredential([]byte(policy.ClientURI(a.user("mallory"), "x").String()))}
		if err := q.Sign(key); err != nil {
			t.Fatal(err)
		}
		res, err := peer.Keys().KeyMaterial(context.Background(), "", b.user("bob"), q.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		r, err := wire.ParseKeyMaterialResponse(res)
		if err != nil || r.UserStatus != wire.KeyMaterialSuccess {
			t.Fatalf("%+v, %v", r, err)
		}
		return r.Clients[0].KeyPackage
	}
	seen := map[string]bool{}
	ref := func(kp *mls.KeyPackage) string {
		r, err := kp.Ref(1)
		if err != nil {
			t.Fatal(err)
		}
		return string(r)
	}
	for range 100 {
		kp := ask()
		if seen[ref(kp)] || kp.LastResort() {
			t.Fatal("one of the first is no fresh one")
		}
		seen[ref(kp)] = true
	}
	last := ask()
	if !last.LastResort() || seen[ref(last)] || ref(ask()) != ref(last) {
		t.Error("above the limit it is not one of last resort, the same each time")
	}
	// Invitations still work, with that one; then there is another.
	room := open(t, a, b.user("bob"))
	b.say(room, "bob", "hello")
	a.awaitTexts(room, 1)
	if next := ask(); !next.LastResort() || ref(next) == ref(last) {
		t.Error("the one of last resort is handed out after it was used")
	}
	if b.core.Client.Counters.LastResort.Load() < 4 {
		t.Error("it was not counted")
	}
}

// TestDeaf: messages are kept from users whose role lacks canReceiveMessage, also where others of their provider have it; they see
// what they send themselves, and everything once they have a role that hears.
func TestDeaf(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	ps[0].tune = func(c *core.Config) {
		c.NewRoom = func(_ mimiuri.URI, dict *mls.AppDataDictionary) {
			b, _ := dict.Get(policy.ComponentRolesList)
			roles, err := policy.ParseRoleData(b)
			if err != nil {
				t.Error(err)
			}
			for i := range roles {
				if roles[i].Index == policy.RoleGroupAdmin {
					roles[i].MinParticipants = 0
					roles[i].Capabilities = slices.DeleteFunc(roles[i].Capabilities, func(c policy.Capability) bool { return c == policy.CanReceiveMessage })
				}
			}
			dict.Set(policy.ComponentRolesList, roles.Marshal())
		}
	}
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"), b.user("ben"))
	role := func(role uint32) {
		a.intake(adapter.Intent{Kind: adapter.ChangeRole, Room: room, Actor: a.user("alice"), Target: b.user("ben"), Role: role})
		b.await(room, "ben's role", func(e adapter.Event) bool {
			return e.Kind == adapter.RoleChanged && e.User == b.user("ben") && e.Role == role
		})
	}
	role(policy.RoleGroupAdmin)
	a.say(room, "alice", "not for ben")
	b.awaitTexts(room, 1)
	b.say(room, "ben", "mine")
	b.awaitTexts(room, 2)
	role(policy.RoleOrdinaryUser)
	a.say(room, "alice", "for all")
	b.awaitTexts(room, 3)
	for text, want := range map[string][]mimiuri.URI{"not for ben": {b.user("bob")}, "mine": {b.user("ben"), b.user("bob")}, "for all": {b.user("ben"), b.user("bob")}} {
		e := b.await(room, text, isText(text))
		slices.SortFunc(e.Local, func(x, y mimiuri.URI) int { return strings.Compare(x.ID, y.ID) })
		if !slices.Equal(e.Local, want) {
			t.Errorf("%q is shown to %v", text, e.Local)
		}
	}
}
