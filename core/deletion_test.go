package core_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// erasing is a memory adapter that keeps something of users.
type erasing struct {
	*memory
	mu     sync.Mutex
	erased []mimiuri.URI
}

func (e *erasing) EraseUser(_ context.Context, u mimiuri.URI) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.erased = append(e.erased, u)
	return nil
}

func (p *provider) export(user mimiuri.URI) (doc map[string]any, text string) {
	p.t.Helper()
	var b bytes.Buffer
	if err := p.core.Export(context.Background(), user, &b); err != nil {
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		p.t.Fatalf("%v in %s", err, b.String())
	}
	return doc, b.String()
}

// awaitDeleted waits until no user is being deleted.
func (p *provider) awaitDeleted() {
	p.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		us, err := p.core.Deleting(context.Background())
		if err != nil {
			p.t.Fatal(err)
		}
		if len(us) == 0 {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("waited in vain for %v to be deleted", us)
		}
	}
}

// TestDeleteUser: a user is exported, deleted (over a restart), and somebody else registers their name.
func TestDeleteUser(t *testing.T) {
	_, ps := newNetwork(t, "hub.test", "b.test")
	hub, b := ps[0], ps[1]
	var er *erasing
	b.as = func(m *memory) adapter.Adapter {
		if er == nil {
			er = &erasing{}
		}
		er.memory = m
		return er
	}
	hub.start()
	b.start()
	room := sharedRoom(t, hub, b)
	alice, bob := b.user("u1"), b.user("u2")
	b.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: alice, Target: bob})
	b.awaitJoined(room, bob)
	hub.awaitJoined(room, bob)
	own := b.room("alone")
	b.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: own, Actor: alice, Name: "my own"})
	b.awaitJoined(own, alice)
	b.say(own, "u1", "to myself")
	b.awaitTexts(own, 1)
	b.say(room, "u1", "what alice said")
	b.awaitTexts(room, 1)
	hub.awaitTexts(room, 1)
	part := upload(t, b, "u1", []byte("a file of alice's"))
	ctx := context.Background()
	if err := b.mem.host.SetProfile(ctx, alice, adapter.Profile{User: alice, Name: "Alice A.", Fields: map[string]string{"nick": "ally"}}); err != nil {
		t.Fatal(err)
	}
	if err := b.mem.host.Consent(ctx, alice, hub.user("u0"), mimiuri.URI{}, adapter.GrantConsent); err != nil {
		t.Fatal(err)
	}
	if err := b.mem.host.Block(ctx, alice, hub.user("u7")); err != nil {
		t.Fatal(err)
	}
	b.awaitDelivered(room)

	_, text := b.export(alice)
	for _, want := range []string{"what alice said", "to myself", "Alice A.", "ally", room.String(), own.String(), "my own", hub.user("u0").String(), hub.user("u7").String(), part.External.URL, "/d/u1/"} {
		if !strings.Contains(text, want) {
			t.Errorf("the export has no %q", want)
		}
	}
	if _, text := b.export(b.user("u9")); strings.Contains(text, "alice") {
		t.Error("the export of somebody else has something of alice's")
	}
	if err := b.core.Export(ctx, hub.user("u0"), &bytes.Buffer{}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("another provider's user: %v", err)
	}
	was, _ := b.export(alice)

	// Deleted, while the hub is away, with a restart between.
	hub.stop()
	if err := b.mem.host.DeleteUser(ctx, alice); err != nil {
		t.Fatal(err)
	}
	if err := b.mem.host.Intake(ctx, adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: alice, OriginID: "again"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("somebody acts as a user who is being deleted: %v", err)
	}
	b.stop()
	b.start()
	if us, err := b.core.Deleting(ctx); err != nil || !slices.Equal(us, []mimiuri.URI{alice}) {
		t.Errorf("after a restart: %v, %v", us, err)
	}
	hub.start()
	hub.awaitLeft(room, alice)
	b.awaitLeft(room, alice)
	b.awaitDeleted()

	er.mu.Lock()
	if !slices.Equal(er.erased, []mimiuri.URI{alice}) {
		t.Errorf("the adapter erased %v", er.erased)
	}
	er.mu.Unlock()
	for _, q := range []string{
		`SELECT count(*) FROM identity WHERE user=?`, `SELECT count(*) FROM key_package WHERE user=?`, `SELECT count(*) FROM intent WHERE actor=?`,
		`SELECT count(*) FROM message WHERE sender=?`, `SELECT count(*) FROM consent WHERE local_user=?`, `SELECT count(*) FROM person WHERE local_user=?`,
		`SELECT count(*) FROM person_field WHERE local_user=?`, `SELECT count(*) FROM block WHERE owner=?`, `SELECT count(*) FROM asset WHERE user=?`,
		`SELECT count(*) FROM member WHERE local_user=?`, `SELECT count(*) FROM deletion_room WHERE local_user=?`, `SELECT count(*) FROM usage WHERE who=?`,
	} {
		if n := b.rows(q, alice.String()); n != 0 {
			t.Errorf("%s: %d", q, n)
		}
	}
	if n := assetFiles(t, b); n != 0 {
		t.Errorf("%d files are left", n)
	}
	if n := b.rows(`SELECT count(*) FROM event WHERE room_id=?`, own.String()); n != 0 {
		t.Errorf("%d events of a room that only alice was in", n)
	}
	// Bob keeps what he was told.
	if _, text := b.export(bob); !strings.Contains(text, "what alice said") {
		t.Error("bob has lost what alice said")
	}

	// Somebody registers the name.
	doc, text := b.export(alice)
	if doc["client"] != nil || strings.Contains(text, "said") || strings.Contains(text, "to myself") || strings.Contains(text, "Alice A.") || len(doc["rooms"].([]any)) != 0 {
		t.Errorf("the new one has inherited: %s", text)
	}
	hub.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: hub.user("u0"), Target: alice})
	b.await(room, "alice to be back", func(e adapter.Event) bool {
		return e.Kind == adapter.Joined && e.User == alice && e.Actor == hub.user("u0") && e.Seq > 4
	})
	doc, text = b.export(alice)
	before, after := was["client"].(map[string]any), doc["client"].(map[string]any)
	if before["uri"] == after["uri"] || before["signature_key"] == after["signature_key"] {
		t.Errorf("the same client: %v and %v", before, after)
	}
	if strings.Contains(text, "what alice said") || len(doc["rooms"].([]any)) != 1 {
		t.Errorf("the new one sees the past: %s", text)
	}
	b.say(room, "u1", "hello, I am new")
	hub.await(room, "the new one's message", isText("hello, I am new"))
}

// TestDeletePatience: a hub that is gone keeps nobody for longer than 30 days.
func TestDeletePatience(t *testing.T) {
	_, ps := newNetwork(t, "hub.test", "b.test")
	clock := &movable{}
	ps[1].now = clock.now
	hub, b := ps[0].start(), ps[1].start()
	room := sharedRoom(t, hub, b)
	b.say(room, "u1", "before")
	b.awaitTexts(room, 1)
	hub.stop()
	if err := b.mem.host.DeleteUser(context.Background(), b.user("u1")); err != nil {
		t.Fatal(err)
	}
	b.stop()
	clock.move(29 * 24 * time.Hour)
	b.start()
	time.Sleep(100 * time.Millisecond)
	if us, err := b.core.Deleting(context.Background()); err != nil || len(us) != 1 {
		t.Errorf("after 29 days: %v %v", us, err)
	}
	b.stop()
	clock.move(2 * 24 * time.Hour)
	b.start()
	b.awaitDeleted()
	if doc, text := b.export(b.user("u1")); doc["client"] != nil || strings.Contains(text, "before") {
		t.Errorf("%s", text)
	}
	if n := b.rows(`SELECT count(*) FROM identity`); n != 0 {
		t.Errorf("%d identities", n)
	}
}
