package core_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

// leaving is a memory adapter with something on its network to take back. It fails the first time.
type leaving struct {
	*memory
	mu    sync.Mutex
	calls []string
}

func (l *leaving) Uninstall(_ context.Context, dry bool, progress func(string)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if dry {
		progress("remove a ghost")
		return nil
	}
	l.calls = append(l.calls, "real")
	if len(l.calls) == 1 {
		return fault.New(fault.Unavailable, "the network is down")
	}
	progress("removing a ghost")
	return nil
}

// awaitSteps waits until a step with the text was taken, or something is waited for that has it in its name.
func (p *provider) awaitUninstall(what string, ok func(core.UninstallState) bool) core.UninstallState {
	p.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		s := p.core.Uninstalling(0)
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			p.t.Fatalf("waited in vain for %s: %+v", what, s)
		}
	}
}

func says(list []string, want string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, want) })
}

// TestUninstall: a provider with a room of its own and a user in a room elsewhere goes, while the other provider is away at first, and
// over a restart; the other one is told everything.
func TestUninstall(t *testing.T) {
	_, ps := newNetwork(t, "a.test", "b.test")
	a, b := ps[0], ps[1]
	net := &leaving{}
	a.as = func(m *memory) adapter.Adapter {
		net.memory = m
		return net
	}
	a.start()
	b.start()
	theirs := sharedRoom(t, b, a)
	alice, bob := a.user("u1"), b.user("u0")
	own := a.room("own")
	a.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: own, Actor: alice})
	a.awaitJoined(own, alice)
	a.intake(adapter.Intent{Kind: adapter.Invite, Room: own, Actor: alice, Target: bob})
	b.awaitJoined(own, bob)
	a.awaitJoined(own, bob)
	ctx := context.Background()
	if err := a.mem.host.Consent(ctx, a.user("loner"), bob, mimiuri.URI{}, adapter.GrantConsent); err != nil {
		t.Fatal(err)
	}

	plan, err := a.core.UninstallPlan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"close the room " + own.String() + ", telling b.test", "leave the room " + theirs.String(), "remove the user " + alice.String(), "loner", "memory: remove a ghost"} {
		if !says(plan, want) {
			t.Errorf("the plan %q has no %q", plan, want)
		}
	}
	if s := a.core.Uninstalling(0); s.Running || len(s.Steps) > 0 {
		t.Errorf("the plan has begun something: %+v", s)
	}

	b.stop()
	if err := a.core.Uninstall(ctx, false); err != nil {
		t.Fatal(err)
	}
	if err := a.mem.host.Intake(ctx, adapter.Intent{Kind: adapter.CreateRoom, Room: a.room("new"), Actor: a.user("u5"), OriginID: "new"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("somebody opens a room meanwhile: %v", err)
	}
	s := a.awaitUninstall("the room to be closed", func(s core.UninstallState) bool { return says(s.Waits, "b.test") })
	if !s.Running || s.Done || !says(s.Steps, "closing the room "+own.String()) {
		t.Errorf("%+v", s)
	}
	a.stop()
	a.start()
	if s := a.core.Uninstalling(0); !s.Running || s.Done {
		t.Errorf("after a restart: %+v", s)
	}
	if err := a.mem.host.Intake(ctx, adapter.Intent{Kind: adapter.CreateRoom, Room: a.room("new"), Actor: a.user("u5"), OriginID: "new"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("somebody opens a room after a restart: %v", err)
	}
	b.start()
	b.awaitLeft(theirs, alice)
	b.await(own, "the end of the room", func(e adapter.Event) bool { return e.Kind == adapter.Closed || e.Kind == adapter.Left && e.User == bob })
	s = a.awaitUninstall("the end", func(s core.UninstallState) bool { return s.Done })
	if !says(s.Steps, "removing a ghost") || len(s.Waits) > 0 {
		t.Errorf("%+v", s)
	}
	net.mu.Lock()
	if len(net.calls) != 2 {
		t.Errorf("the adapter was called %d times", len(net.calls))
	}
	net.mu.Unlock()
	for _, q := range []string{`SELECT count(*) FROM identity`, `SELECT count(*) FROM consent`, `SELECT count(*) FROM member`, `SELECT count(*) FROM deletion`} {
		if n := a.rows(q); n != 0 {
			t.Errorf("%s: %d", q, n)
		}
	}
	a.stop()
	if _, err := core.New(core.Config{Domain: a.domain, Store: storeOptions(a.dir)}); !errors.Is(err, store.ErrUninstalled) {
		t.Errorf("it starts again: %v", err)
	}
}

// TestForgetUser: who is forgotten waits a minute for a hub that is gone, not 30 days, also if their deletion began as one that waits.
func TestForgetUser(t *testing.T) {
	_, ps := newNetwork(t, "hub.test", "b.test")
	clock := &movable{}
	ps[1].now = clock.now
	hub, b := ps[0].start(), ps[1].start()
	room := sharedRoom(t, hub, b)
	b.say(room, "u1", "before")
	b.awaitTexts(room, 1)
	hub.stop()
	ctx := context.Background()
	if err := b.core.DeleteUser(ctx, b.user("u1")); err != nil {
		t.Fatal(err)
	}
	clock.move(20 * time.Second)
	if err := b.core.ForgetUser(ctx, b.user("u1")); err != nil {
		t.Fatal(err)
	}
	if us, err := b.core.Deleting(ctx); err != nil || len(us) != 1 {
		t.Errorf("the hub has no time: %v %v", us, err)
	}
	clock.move(time.Minute)
	b.awaitDeleted()
	if doc, text := b.export(b.user("u1")); doc["client"] != nil || strings.Contains(text, "before") {
		t.Errorf("%s", text)
	}
}

// TestUninstallInAHurry: who cannot be reached has a minute.
func TestUninstallInAHurry(t *testing.T) {
	_, ps := newNetwork(t, "hub.test", "b.test")
	clock := &movable{}
	ps[1].now = clock.now
	hub, b := ps[0].start(), ps[1].start()
	sharedRoom(t, hub, b)
	hub.stop()
	ctx := context.Background()
	if err := b.core.Uninstall(ctx, false); err != nil {
		t.Fatal(err)
	}
	b.awaitUninstall("the user to leave", func(s core.UninstallState) bool { return says(s.Waits, "users to be out") })
	clock.move(2 * time.Minute)
	if s := b.core.Uninstalling(0); s.Done {
		t.Errorf("it has not waited: %+v", s)
	}
	if err := b.core.Uninstall(ctx, true); err != nil {
		t.Fatal(err)
	}
	b.awaitUninstall("the end", func(s core.UninstallState) bool { return s.Done })
}
