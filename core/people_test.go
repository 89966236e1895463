package core_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/people"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// asker is a memory whose network shows questions before invitations.
type asker struct {
	*memory
	log *asked
}

// asked is what an asker was shown. It outlives the provider.
type asked struct {
	mem   *memory
	shown []adapter.ConsentEvent // under mem.mu
	fail  func(adapter.ConsentEvent) error
	calls int // of LocalUser

	invites bool // InvitationAsks
}

func (a *asker) DeliverConsent(_ context.Context, ev adapter.ConsentEvent) error {
	a.mu.Lock()
	fail := a.log.fail
	a.mu.Unlock()
	if fail != nil {
		if err := fail(ev); err != nil {
			return err
		}
	}
	a.mu.Lock()
	a.log.shown = append(a.log.shown, ev)
	a.mu.Unlock()
	a.signal()
	return nil
}

func (a *asker) InvitationAsks() bool { return a.log.invites }

func (a *asker) LocalUser(ctx context.Context, u mimiuri.URI) (bool, error) {
	a.mu.Lock()
	a.log.calls++
	a.mu.Unlock()
	return a.memory.LocalUser(ctx, u)
}

// asks makes the provider one that asks first. Before start.
func (p *provider) asks() *asked {
	log := &asked{mem: p.mem}
	p.as = func(m *memory) adapter.Adapter { return &asker{m, log} }
	return log
}

func (l *asked) await(t *testing.T, what string, ok func(adapter.ConsentEvent) bool) adapter.ConsentEvent {
	t.Helper()
	var found adapter.ConsentEvent
	l.mem.wait(t, what, func() bool {
		i := slices.IndexFunc(l.shown, ok)
		if i >= 0 {
			found = l.shown[i]
		}
		return i >= 0
	})
	return found
}

func (l *asked) count(ok func(adapter.ConsentEvent) bool) (n int) {
	l.mem.mu.Lock()
	defer l.mem.mu.Unlock()
	for _, e := range l.shown {
		if ok(e) {
			n++
		}
	}
	return n
}

func (p *provider) consent(local, other, room mimiuri.URI, action adapter.ConsentAction) {
	p.t.Helper()
	if err := p.mem.host.Consent(context.Background(), local, other, room, action); err != nil {
		p.t.Fatalf("%s: consent: %v", p.domain, err)
	}
}

func (p *provider) contact(local, other, room mimiuri.URI) adapter.Contact {
	p.t.Helper()
	list, err := p.mem.host.Contacts(context.Background(), local)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, c := range list {
		if c.User == other && c.Room == room {
			return c
		}
	}
	return adapter.Contact{}
}

// awaitContact waits until the other's word has come.
func (p *provider) awaitContact(local, other, room mimiuri.URI, ok func(adapter.Contact) bool) adapter.Contact {
	p.t.Helper()
	for range 6000 {
		if c := p.contact(local, other, room); ok(c) {
			return c
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("%s: waited in vain for the contact %s of %s, which is %+v", p.domain, other, local, p.contact(local, other, room))
	return adapter.Contact{}
}

// peer is another provider of which there is only a client: what it sends is up to the test.
func (n *network) peer(domain string) *federation.Client {
	n.t.Helper()
	cert, err := n.certificate(domain)
	if err != nil {
		n.t.Fatal(err)
	}
	c := federation.NewClient(federation.Config{Domain: domain, Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Roots: n.roots, Resolve: n.resolve, Log: zerolog.Nop()})
	n.t.Cleanup(c.CloseIdle)
	return c
}

// keyRequest is a signed request for key material.
func keyRequest(t *testing.T, by, target, room mimiuri.URI) []byte {
	t.Helper()
	key, err := mls.GenerateSignatureKey(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: by, TargetUser: target, RoomID: room, Suites: []mls.CipherSuite{1},
		Credential: mls.BasicCredential([]byte(policy.ClientURI(by, "x").String()))}
	if err := q.Sign(key); err != nil {
		t.Fatal(err)
	}
	return q.Marshal()
}

func (p *provider) openRoom(user, name string) mimiuri.URI {
	p.t.Helper()
	room := p.room(name)
	p.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: p.user(user), Name: name})
	p.awaitJoined(room, p.user(user))
	return room
}

func (p *provider) invite(room mimiuri.URI, by string, target mimiuri.URI) string {
	p.t.Helper()
	return p.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: p.user(by), Target: target})
}

// TestConsent: where the network asks first, a stranger's invitation waits for the answer, and then goes through by itself, at
// either provider and within one.
func TestConsent(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	la, lb := a.asks(), b.asks()
	a.start()
	b.start()
	alice, bob, amy := a.user("alice"), b.user("bob"), a.user("amy")
	room := a.openRoom("alice", "garden")
	id := a.invite(room, "alice", bob)
	ev := lb.await(t, "the question", func(e adapter.ConsentEvent) bool { return e.Asked })
	if ev.Local != bob || ev.Contact.User != alice || ev.Contact.Room != room || ev.Contact.Grants != adapter.ConsentAsked {
		t.Errorf("bob is asked %+v", ev)
	}
	n := a.await(room, "a notice", func(e adapter.Event) bool { return e.Kind == adapter.Notice })
	if !slices.Equal(n.Local, []mimiuri.URI{alice}) || !strings.Contains(n.Notice, "bob") {
		t.Errorf("notice %+v", n)
	}
	if c := a.contact(alice, bob, room); c.Granted != adapter.ConsentAsking {
		t.Errorf("alice's contact is %+v", c)
	}
	// The question is open: it is not asked again by another invitation, nor by another start.
	room2 := a.openRoom("alice", "garden 2")
	a.say(room, "alice", "nobody hears this")
	a.stop()
	a.start()
	a.awaitTexts(room, 1)
	b.consent(bob, alice, mimiuri.URI{}, adapter.GrantConsent)
	j := a.awaitJoined(room, bob)
	if j.Actor != alice || j.Origin == nil || j.Origin.ID != id {
		t.Errorf("bob joined by %+v", j)
	}
	b.awaitJoined(room, bob)
	la.await(t, "the answer", func(e adapter.ConsentEvent) bool {
		return e.Answered && e.Local == alice && e.Contact.User == bob && e.Contact.Granted == adapter.ConsentGranted
	})
	if n := lb.count(func(e adapter.ConsentEvent) bool { return e.Asked }); n != 1 {
		t.Errorf("bob was asked %d times", n)
	}
	// Granted for all rooms: the next one goes through at once.
	a.invite(room2, "alice", bob)
	b.awaitJoined(room2, bob)

	// Alice has asked bob, so he may add her without asking; amy has not.
	roomB := b.openRoom("bob", "roof")
	b.consent(bob, alice, roomB, adapter.AskConsent) // no news to anybody: she has granted it by asking
	b.awaitContact(bob, alice, roomB, func(c adapter.Contact) bool {
		return c.Granted == adapter.ConsentAsking || c.Granted == adapter.ConsentGranted
	})
	b.invite(room, "bob", amy)
	la.await(t, "amy's question", func(e adapter.ConsentEvent) bool { return e.Asked && e.Local == amy && e.Contact.User == bob })
	a.consent(amy, bob, room, adapter.GrantConsent)
	b.awaitJoined(room, amy)
	// Users of one provider ask each other in the same way.
	ann := a.user("ann")
	a.invite(room, "alice", ann)
	la.await(t, "ann's question", func(e adapter.ConsentEvent) bool { return e.Asked && e.Local == ann && e.Contact.User == alice })
	a.consent(ann, alice, mimiuri.URI{}, adapter.GrantConsent)
	b.awaitJoined(room, ann)

	// What is over is forgotten.
	waits := func() (n int) {
		o := storeOptions(b.dir)
		o.Domain = b.domain
		st, err := store.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		if err := st.View(t.Context(), func(tx *store.Tx) error {
			ws, err := tx.WaitsFor(bob.String(), amy.String())
			n = len(ws)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := b.core.People.Clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.stop()
	if n := waits(); n != 0 {
		t.Errorf("%d invitations wait that do not", n)
	}
	b.start()

	// A grant that is taken back is told, and holds.
	b.consent(bob, alice, mimiuri.URI{}, adapter.RefuseConsent)
	a.awaitContact(alice, bob, mimiuri.URI{}, func(c adapter.Contact) bool { return c.Granted == adapter.ConsentRefused })
	room3 := a.openRoom("alice", "garden 3")
	if e := a.awaitRefused(room3, a.invite(room3, "alice", bob)); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("refused with %v", e.Err)
	}
}

// TestConsentPolicies: who may add whom, by the target's policy.
func TestConsentPolicies(t *testing.T) {
	n, ps := newNetwork(t, "a.example")
	a := ps[0]
	a.asks()
	a.start()
	c := n.peer("c.example")
	ctx := t.Context()
	friend, stranger := mimiuri.MustParse("mimi://c.example/u/friend"), mimiuri.MustParse("mimi://c.example/u/stranger")
	room, other := mimiuri.MustParse("mimi://c.example/r/room"), mimiuri.MustParse("mimi://c.example/r/other")
	may := func(user string, by, room mimiuri.URI) bool {
		t.Helper()
		b, err := c.Keys().KeyMaterial(ctx, "", a.user(user), keyRequest(t, by, a.user(user), room))
		if err != nil {
			t.Fatal(err)
		}
		res, err := wire.ParseKeyMaterialResponse(b)
		if err != nil {
			t.Fatal(err)
		}
		if res.UserStatus != wire.KeyMaterialSuccess && res.UserStatus != wire.NoConsent {
			t.Fatalf("status %v", res.UserStatus)
		}
		return res.UserStatus == wire.KeyMaterialSuccess
	}
	for user, want := range map[string]struct{ stranger, friend bool }{
		"ask": {false, true}, "contacts": {false, true}, "everyone": {true, true}, "nobody": {false, true}, "default": {false, true},
	} {
		u := a.user(user)
		if user != "default" {
			if err := a.mem.host.SetConsentPolicy(ctx, u, user); err != nil {
				t.Fatal(err)
			}
		}
		if p, err := a.mem.host.ConsentPolicy(ctx, u); err != nil || p != user && user != "default" || user == "default" && p != "ask" {
			t.Errorf("%s: the policy is %q, %v", user, p, err)
		}
		a.consent(u, friend, mimiuri.URI{}, adapter.GrantConsent)
		if s, f := may(user, stranger, room), may(user, friend, room); s != want.stranger || f != want.friend {
			t.Errorf("%s: stranger %v, friend %v, want %v", user, s, f, want)
		}
		// For one room only; and a room's refusal goes before a grant for all.
		a.consent(u, stranger, room, adapter.GrantConsent)
		a.consent(u, friend, other, adapter.RefuseConsent)
		if !may(user, stranger, room) || may(user, stranger, other) != want.stranger || may(user, friend, other) || !may(user, friend, room) {
			t.Errorf("%s: rooms are not told apart", user)
		}
		if err := a.mem.host.Block(ctx, u, mimiuri.MustParse("mimi://c.example")); err != nil {
			t.Fatal(err)
		}
		if may(user, stranger, room) || may(user, friend, room) {
			t.Errorf("%s: a blocked domain is let in", user)
		}
		if err := a.mem.host.Unblock(ctx, u, mimiuri.MustParse("mimi://c.example")); err != nil {
			t.Fatal(err)
		}
		if !may(user, friend, room) {
			t.Errorf("%s: unblocking has no effect", user)
		}
	}
	if err := a.mem.host.SetConsentPolicy(ctx, a.user("x"), "perhaps"); !fault.Is(err, fault.Malformed) {
		t.Errorf("an unknown policy: %v", err)
	}
}

// TestNoOracle: from outside, users who do not exist and users who do not want to are the same: the octets of the answer, what
// the adapter is asked, and the statements that run.
func TestNoOracle(t *testing.T) {
	n, ps := newNetwork(t, "a.example")
	a := ps[0]
	log := a.asks()
	var mu sync.Mutex
	var statements []string
	a.trace = func(q string) { mu.Lock(); statements = append(statements, q); mu.Unlock() }
	a.mem.users = map[string]bool{"nobody--": true, "refused-": true, "blocked-": true, "full----": true, "asked---": true}
	a.people.Limits = people.Limits{Invites: -1, ConsentRequests: -1, Rooms: 1, RoomsADay: -1, Lookups: -1}
	a.start()
	ctx := t.Context()
	c := n.peer("c.example")
	by, room := mimiuri.MustParse("mimi://c.example/u/eve"), mimiuri.MustParse("mimi://c.example/r/room")
	if err := a.mem.host.SetConsentPolicy(ctx, a.user("nobody--"), people.PolicyNobody); err != nil {
		t.Fatal(err)
	}
	a.consent(a.user("refused-"), by, mimiuri.URI{}, adapter.RefuseConsent)
	if err := a.mem.host.Block(ctx, a.user("blocked-"), by); err != nil {
		t.Fatal(err)
	}
	a.openRoom("full----", "only one")
	a.consent(a.user("full----"), by, mimiuri.URI{}, adapter.GrantConsent)

	type seen struct {
		answer string
		asked  int
		work   []string
	}
	watch := func(do func() string) seen {
		mu.Lock()
		statements = nil
		mu.Unlock()
		a.mem.mu.Lock()
		was := log.calls
		a.mem.mu.Unlock()
		s := seen{answer: do()}
		a.mem.mu.Lock()
		s.asked = log.calls - was
		a.mem.mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		for _, q := range statements {
			// What runs beside and after the answer: the looks at what is to be shown and told, trying again to tell it, and at which rooms there is
			// something to do, which nodes that share a database take each second.
			if !strings.HasPrefix(q, "SELECT room_id FROM") && !strings.Contains(q, "FROM consent_") && !strings.HasPrefix(q, "UPDATE consent_out SET due") && !strings.Contains(q, "blocks") && !strings.Contains(q, "FROM block") && !strings.Contains(q, "FROM peer_rule") {
				s.work = append(s.work, q)
			}
		}
		return s
	}
	keys := func(user string) seen {
		return watch(func() string {
			b, err := c.Keys().KeyMaterial(ctx, "", a.user(user), keyRequest(t, by, a.user(user), room))
			return strings.ReplaceAll(fmt.Sprintf("%x %v", b, err), fmt.Sprintf("%x", user), "USER")
		})
	}
	keys("unknown-") // the statements are prepared
	want := keys("unknown-")
	if len(want.work) < 5 || want.asked != 1 {
		t.Fatalf("an unknown user: asked %d times, %d statements", want.asked, len(want.work))
	}
	for _, user := range []string{"nobody--", "refused-", "blocked-", "full----", "asked---", "unknown2"} {
		got := keys(user)
		if got.answer != want.answer || got.asked != want.asked || !slices.Equal(got.work, want.work) {
			t.Errorf("keyMaterial of %s: %+v\nof nobody: %+v", user, got, want)
		}
	}
	// The last one is asked, which nobody can see from outside either.
	request := func(user string) seen {
		return watch(func() string {
			return fmt.Sprint(c.RequestConsent(ctx, "", "a.example", (&wire.ConsentEntry{Operation: wire.ConsentRequest, Requester: by, Target: a.user(user), RoomID: room}).Marshal()))
		})
	}
	want = request("unknown-")
	if want.answer != "<nil>" || len(want.work) < 8 || want.asked != 1 {
		t.Fatalf("an unknown user: %+v", want)
	}
	a.mem.mu.Lock()
	log.fail = func(adapter.ConsentEvent) error { return fault.New(fault.Unavailable, "not now") } // so that showing runs no statements beside
	a.mem.mu.Unlock()
	for _, user := range []string{"nobody--", "refused-", "blocked-", "unknown2", "asked---"} {
		got := request(user)
		if user == "asked---" { // then showing it reads it again, after the answer
			got.work = got.work[:min(len(got.work), len(want.work))]
		}
		if got.answer != want.answer || got.asked != want.asked || !slices.Equal(got.work, want.work) {
			t.Errorf("requestConsent of %s: %+v\nof nobody: %+v", user, got, want)
		}
	}
	if c := a.contact(a.user("asked---"), by, room); c.Grants != adapter.ConsentAsked {
		t.Errorf("who can be asked was not: %+v", c)
	}
	for _, user := range []string{"nobody--", "blocked-", "unknown-", "unknown2"} {
		if list, err := a.mem.host.Contacts(ctx, a.user(user)); err != nil || len(list) > 0 {
			t.Errorf("%s has %+v, %v", user, list, err)
		}
	}
}

// TestNobodyToAsk: where invitations are the asking, whoever cannot be added is told at once, alike for all reasons.
func TestNobodyToAsk(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	b.mem.users = map[string]bool{"hermit": true, "bob": true}
	if err := b.mem.host.SetConsentPolicy(t.Context(), b.user("hermit"), people.PolicyNobody); err != nil {
		t.Fatal(err)
	}
	room := a.openRoom("alice", "garden")
	var texts []string
	for _, u := range []string{"hermit", "unknown"} {
		e := a.awaitRefused(room, a.invite(room, "alice", b.user(u)))
		texts = append(texts, fault.Public(e.Err))
		if !fault.Is(e.Err, fault.Forbidden) {
			t.Errorf("%s: %v", u, e.Err)
		}
	}
	if texts[0] != texts[1] {
		t.Errorf("they are told apart: %q", texts)
	}
	a.invite(room, "alice", b.user("bob")) // an ordinary invitation works as ever
	b.awaitJoined(room, b.user("bob"))
}

// TestContactsAreAsked: also where invitations are the asking, a network that can show contacts is shown who wants to be one.
func TestContactsAreAsked(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	la, lb := a.asks(), b.asks()
	la.invites, lb.invites = true, true
	b.mem.users = map[string]bool{"bob": true, "hermit": true}
	a.start()
	b.start()
	alice, bob := a.user("alice"), b.user("bob")
	if err := b.mem.host.SetConsentPolicy(t.Context(), b.user("hermit"), people.PolicyNobody); err != nil {
		t.Fatal(err)
	}
	a.consent(alice, bob, mimiuri.URI{}, adapter.AskConsent)
	lb.await(t, "the question", func(e adapter.ConsentEvent) bool { return e.Asked && e.Local == bob && e.Contact.User == alice })
	room := a.openRoom("alice", "garden") // the question is open, and the invitation is one of its own
	a.invite(room, "alice", bob)
	b.awaitJoined(room, bob)
	if c := a.contact(alice, bob, mimiuri.URI{}); c.Granted != adapter.ConsentAsking {
		t.Errorf("alice's contact is %+v", c)
	}
	b.consent(bob, alice, mimiuri.URI{}, adapter.GrantConsent)
	la.await(t, "the answer", func(e adapter.ConsentEvent) bool { return e.Answered && e.Contact.Granted == adapter.ConsentGranted })
	// Requests about no room are received, whoever they are for; requests about a room are not, whoever does not grant them.
	c := n.peer("c.example")
	eve := mimiuri.MustParse("mimi://c.example/u/eve")
	for _, u := range []string{"hermit", "unknown", "bob"} {
		entry := &wire.ConsentEntry{Operation: wire.ConsentRequest, Requester: eve, Target: b.user(u)}
		if err := c.RequestConsent(t.Context(), "", "b.example", entry.Marshal()); err != nil {
			t.Errorf("%s: %v", u, err)
		}
		entry.RoomID = mimiuri.MustParse("mimi://c.example/r/r")
		if err := c.RequestConsent(t.Context(), "", "b.example", entry.Marshal()); fault.Is(err, fault.NotFound) != (u != "bob") {
			t.Errorf("%s, for a room: %v", u, err)
		}
	}
}

// TestInvitationAnswered: where being added is the question, accepting an invitation grants consent for the room to whoever added one,
// and declining refuses it: they are not added to it again. Others' rooms and the same one's other rooms are as before.
func TestInvitationAnswered(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	ctx := t.Context()
	alice, bob, ben := a.user("alice"), b.user("bob"), b.user("ben")
	room := open(t, a, bob, ben)
	answer := func(user mimiuri.URI, accept bool) {
		t.Helper()
		if err := b.mem.host.AnswerInvitation(ctx, user, room, accept); err != nil {
			t.Fatal(err)
		}
	}
	if c := b.contact(bob, alice, room); c.Grants != adapter.ConsentNone {
		t.Errorf("before the answer: %+v", c)
	}
	answer(bob, true)
	if c := b.contact(bob, alice, room); c.Grants != adapter.ConsentGranted {
		t.Errorf("after accepting: %+v", c)
	}
	a.awaitContact(alice, bob, room, func(c adapter.Contact) bool { return c.Granted == adapter.ConsentGranted })
	// It is answered once: what they say later by hand stays.
	b.consent(bob, alice, room, adapter.RefuseConsent)
	answer(bob, true)
	if c := b.contact(bob, alice, room); c.Grants != adapter.ConsentRefused {
		t.Errorf("after taking it back: %+v", c)
	}
	answer(ben, false)
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: ben})
	a.awaitLeft(room, ben)
	a.awaitRefused(room, a.invite(room, "alice", ben))
	other := a.openRoom("alice", "other")
	a.invite(other, "alice", ben)
	b.awaitJoined(other, ben)
	if err := b.mem.host.AnswerInvitation(ctx, b.user("nobody"), room, true); err != nil {
		t.Errorf("without an invitation: %v", err)
	}
}

// TestConsentDurable: a question outlives restarts on both sides, reaches a peer that was down, is shown until it was taken, and
// is over after 30 days, without a second one.
func TestConsentDurable(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	la, lb := a.asks(), b.asks()
	var mu sync.Mutex
	var ahead time.Duration
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	a.now, b.now = now, now
	a.start()
	alice, bob := a.user("alice"), b.user("bob")
	a.consent(alice, bob, mimiuri.URI{}, adapter.AskConsent) // b is down
	a.stop()
	var tries int
	lb.fail = func(adapter.ConsentEvent) error {
		mu.Lock()
		defer mu.Unlock()
		tries++
		return fault.New(fault.Unavailable, "the server is down")
	}
	b.start()
	a.start()
	b.awaitContact(bob, alice, mimiuri.URI{}, func(c adapter.Contact) bool { return c.Grants == adapter.ConsentAsked })
	a.consent(alice, bob, mimiuri.URI{}, adapter.AskConsent) // no second question
	for {
		mu.Lock()
		n := tries
		mu.Unlock()
		if n > 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.stop()
	b.mem.mu.Lock()
	lb.fail = nil
	b.mem.mu.Unlock()
	b.start()
	isQuestion := func(e adapter.ConsentEvent) bool { return e.Asked && e.Contact.User == alice }
	lb.await(t, "the question", isQuestion)

	mu.Lock()
	ahead = 30*24*time.Hour + time.Minute
	mu.Unlock()
	for _, p := range ps {
		if err := p.core.People.Expire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	over := func(e adapter.ConsentEvent) bool {
		return !e.Asked && !e.Answered && e.Contact.Grants != adapter.ConsentAsked && e.Contact.Granted != adapter.ConsentAsking
	}
	lb.await(t, "the end of the question at b", over)
	la.await(t, "the end of the question at a", over)
	if c := b.contact(bob, alice, mimiuri.URI{}); c.Grants != adapter.ConsentNone {
		t.Errorf("bob still has %+v", c)
	}
	if c := a.contact(alice, bob, mimiuri.URI{}); c.Granted != adapter.ConsentNone {
		t.Errorf("alice still has %+v", c)
	}
	if n := lb.count(isQuestion); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestConsentExpires: an invitation that waited 30 days in vain is refused, and taking the question back does the same.
func TestConsentExpires(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	a.asks()
	lb := b.asks()
	var mu sync.Mutex
	var ahead time.Duration
	a.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	a.start()
	b.start()
	alice, bob := a.user("alice"), b.user("bob")
	room := a.openRoom("alice", "garden")
	first := a.invite(room, "alice", bob)
	lb.await(t, "the question", func(e adapter.ConsentEvent) bool { return e.Asked })
	b.consent(bob, alice, room, adapter.RefuseConsent) // nobody is told
	mu.Lock()
	ahead = 30*24*time.Hour + time.Minute
	mu.Unlock()
	if err := a.core.People.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := a.awaitRefused(room, first); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("refused with %v", e.Err)
	}
	second := a.invite(room, "alice", bob)
	a.awaitContact(alice, bob, room, func(c adapter.Contact) bool { return c.Granted == adapter.ConsentAsking })
	a.consent(alice, bob, room, adapter.ForgetConsent)
	a.awaitRefused(room, second)
	if n := lb.count(func(e adapter.ConsentEvent) bool { return e.Asked }); n != 1 {
		t.Errorf("who has refused is asked again: %d", n)
	}
}

// TestFind: people are found by what they opted in to, and known by name to who knows their URI.
func TestFind(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	ctx := t.Context()
	alice, bob, hidden := a.user("alice"), b.user("bob"), b.user("hidden")
	if err := b.mem.host.SetProfile(ctx, bob, adapter.Profile{Name: "Bob ☕", Avatar: "https://b.example/a/1",
		Fields: map[string]string{"email": "Bob@B.example", "nick": "bobby", "fullName": "Bob Builder", "partialName": "Bob Builder", "vcard-org": "B Ltd"}}); err != nil {
		t.Fatal(err)
	}
	if err := b.mem.host.SetProfile(ctx, hidden, adapter.Profile{Fields: map[string]string{"nick": "bobby"}}); err != nil {
		t.Fatal(err)
	}
	find := func(p *provider, domain, field, value string) []string {
		t.Helper()
		list, err := p.mem.host.Find(ctx, p.user("alice"), domain, field, value)
		if err != nil {
			t.Errorf("%s %q: %v", field, value, err)
		}
		var got []string
		for _, x := range list {
			got = append(got, x.User.ID+"/"+x.Name+"/"+x.Avatar)
		}
		return got
	}
	full := []string{"bob/Bob ☕/https://b.example/a/1"}
	for _, c := range []struct {
		field, value string
		want         []string
	}{
		{"email", "bob@b.example", full},
		{"email", "bob", nil},
		{"nick", "bobby", append(full, "hidden//")},
		{"fullName", "Bob Builder", full},
		{"oidc-name", "bob builder", full},
		{"fullName", "Bob", nil},
		{"partialName", "BUILD", full},
		{"vcard-ORG", "B Ltd", full},
		{"phone", "+12125551212", nil},
		{"handle", bob.String(), full},
		{"handle", hidden.String(), nil}, // has no name to show
		{"handle", b.user("unknown").String(), nil},
		{"wholeProfile", "bobby", nil}, // not opted in
	} {
		equal(t, c.field+" "+c.value, find(a, "b.example", c.field, c.value), c.want)
	}
	equal(t, "one's own", find(b, "", "nick", "bobby"), append(full, "hidden//"))
	if _, err := a.mem.host.Find(ctx, alice, "b.example", "partialName", "bo"); !fault.Is(err, fault.Malformed) {
		t.Errorf("too little of a name: %v", err)
	}
	if _, err := a.mem.host.Find(ctx, alice, "b.example", "shoe size", "44"); !fault.Is(err, fault.Malformed) {
		t.Errorf("an unknown field: %v", err)
	}
	// Whom bob has blocked does not find him.
	if err := b.mem.host.Block(ctx, bob, mimiuri.MustParse("mimi://a.example")); err != nil {
		t.Fatal(err)
	}
	equal(t, "blocked", find(a, "b.example", "email", "bob@b.example"), nil)
	if err := b.mem.host.Unblock(ctx, bob, mimiuri.MustParse("mimi://a.example")); err != nil {
		t.Fatal(err)
	}

	// Names come by the URI, and are kept.
	p, ok, err := a.mem.host.Profile(ctx, bob)
	if err != nil || !ok || p.Name != "Bob ☕" || p.Avatar != "https://b.example/a/1" || p.User != bob {
		t.Errorf("bob is %+v, %v, %v", p, ok, err)
	}
	if p, ok, err := a.mem.host.Profile(ctx, hidden); err != nil || ok || p.Name != "" {
		t.Errorf("hidden is %+v, %v, %v", p, ok, err)
	}
	if p, ok, err := b.mem.host.Profile(ctx, bob); err != nil || !ok || p.Fields["email"] != "Bob@B.example" {
		t.Errorf("bob is %+v to himself, %v, %v", p, ok, err)
	}
	before := a.core.Counters()["federation_client.requests.identifierQuery"]
	b.stop()
	if p, ok, err := a.mem.host.Profile(ctx, bob); err != nil || !ok || p.Name != "Bob ☕" {
		t.Errorf("b is down, bob is %+v, %v, %v", p, ok, err)
	}
	if after := a.core.Counters()["federation_client.requests.identifierQuery"]; after != before {
		t.Error("what is known was asked again")
	}
	if p, ok, err := a.mem.host.Profile(ctx, b.user("new")); err != nil || ok {
		t.Errorf("of a peer that is down: %+v, %v, %v", p, ok, err)
	}
	b.start()

	// A taken back profile is gone; a query can have several conditions.
	c := n.peer("c.example")
	query := func(es ...wire.QueryElement) *wire.IdentifierResponse {
		t.Helper()
		body, err := c.IdentifierQuery(ctx, "", "b.example", (&wire.IdentifierRequest{Elements: es}).Marshal())
		if err != nil {
			t.Fatal(err)
		}
		res, err := wire.ParseIdentifierResponse(body)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	nick := wire.QueryElement{Type: wire.SearchNick, Value: "bobby"}
	if r := query(nick, wire.QueryElement{Type: wire.SearchEmail, Value: "bob@b.example"}); len(r.Users) != 1 || r.Code != wire.IdentifierSuccess {
		t.Errorf("two conditions: %+v", r)
	}
	if r := query(nick, wire.QueryElement{Type: wire.SearchPhone, Value: "1"}); len(r.Users) != 0 || r.Code != wire.IdentifierNotFound {
		t.Errorf("two conditions, one of which fails: %+v", r)
	}
	if err := b.mem.host.SetProfile(ctx, bob, adapter.Profile{}); err != nil {
		t.Fatal(err)
	}
	if r := query(wire.QueryElement{Type: wire.SearchEmail, Value: "bob@b.example"}); r.Code != wire.IdentifierNotFound {
		t.Errorf("taken back: %+v", r)
	}
	for _, bad := range []adapter.Profile{{Avatar: "http://b.example/a"}, {Name: strings.Repeat("x", 300)}, {Fields: map[string]string{"x": "y"}}} {
		if err := b.mem.host.SetProfile(ctx, bob, bad); !fault.Is(err, fault.Malformed) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestLimits: every limit gives a clear error, is counted, and told to the admin once.
func TestLimits(t *testing.T) {
	n, ps := newNetwork(t, "a.example")
	a := ps[0]
	a.asks()
	var mu sync.Mutex
	told := map[string]int{}
	a.people.Notice = func(n people.Notice) { mu.Lock(); told[n.Who+" "+n.What]++; mu.Unlock() }
	a.tune = func(c *core.Config) { c.Assets.MaxFile, c.Assets.Quota = 1000, 1000 }
	a.people.Limits = people.Limits{ConsentRequests: 2, RoomsADay: 3, Invites: 2, Lookups: 2, Rooms: 4, Pending: 3, PeerFactor: 2, Blocks: 2, Contacts: 20}
	a.start()
	ctx, h := t.Context(), a.mem.host
	alice, amy := a.user("alice"), a.user("amy")
	limited := func(what string, do func(i int) error, allowed int) {
		t.Helper()
		for i := range allowed {
			if err := do(i); err != nil {
				t.Errorf("%s, %d: %v", what, i, err)
			}
		}
		for i := range 2 {
			err := do(allowed + i)
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind != fault.Limited || f.RetryAfter <= 0 || fault.Public(err) == fault.Public(fault.New(fault.Limited, "")) {
				t.Errorf("%s over the limit: %v", what, err)
			}
		}
	}
	c := mimiuri.MustParse("mimi://c.example/u/c0")
	many := func(i int) mimiuri.URI { return mimiuri.MustParse(fmt.Sprintf("mimi://c.example/u/c%d", i)) }
	limited("rooms a day", func(i int) error {
		return h.Intake(ctx, adapter.Intent{Kind: adapter.CreateRoom, Room: a.room(fmt.Sprint("r", i)), Actor: alice, OriginID: fmt.Sprint("r", i)})
	}, 3)
	for i := range 3 {
		a.awaitJoined(a.room(fmt.Sprint("r", i)), alice)
	}
	// The same intent again is the same, and not one more.
	if err := h.Intake(ctx, adapter.Intent{Kind: adapter.CreateRoom, Room: a.room("r0"), Actor: alice, OriginID: "r0"}); err != nil {
		t.Errorf("a repetition: %v", err)
	}
	limited("rooms at a time", func(i int) error {
		return h.Intake(ctx, adapter.Intent{Kind: adapter.JoinRoom, Room: a.room("unknown"), Actor: amy, OriginID: fmt.Sprint("j", i)})
	}, func() int { // amy is in as many as allowed
		for i := range 3 {
			a.openRoom("amy", fmt.Sprint("amy", i))
		}
		a.consent(amy, a.user("ada"), mimiuri.URI{}, adapter.GrantConsent)
		a.openRoom("ada", "fourth")
		a.invite(a.room("fourth"), "ada", amy)
		a.awaitJoined(a.room("fourth"), amy)
		return 0
	}())
	limited("invites", func(i int) error {
		return h.Intake(ctx, adapter.Intent{Kind: adapter.Invite, Room: a.room("r0"), Actor: alice, Target: a.user(fmt.Sprint("u", i)), OriginID: fmt.Sprint("i", i)})
	}, 2)
	limited("lookups", func(i int) error {
		_, err := h.Find(ctx, alice, "", "nick", "x")
		return err
	}, 2)
	limited("consent", func(i int) error { return h.Consent(ctx, a.user("adam"), many(i), mimiuri.URI{}, adapter.AskConsent) }, 2)
	limited("blocks", func(i int) error { return h.Block(ctx, alice, many(i)) }, 2)

	// Of peers: each user, and all of them together.
	p := n.peer("c.example")
	entry := func(by, target mimiuri.URI) []byte {
		return (&wire.ConsentEntry{Operation: wire.ConsentRequest, Requester: by, Target: target}).Marshal()
	}
	peerLimited := func(what string, do func(i int) error, allowed int) {
		t.Helper()
		for i := range allowed {
			if err := do(i); err != nil {
				t.Errorf("%s, %d: %v", what, i, err)
			}
		}
		err := do(allowed)
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != fault.Limited || f.RetryAfter <= 0 {
			t.Errorf("%s over the limit: %v", what, err)
		}
	}
	peerLimited("a peer's user asks", func(int) error { return p.RequestConsent(ctx, "", "a.example", entry(c, a.user("x"))) }, 2)
	peerLimited("a peer asks", func(i int) error { return p.RequestConsent(ctx, "", "a.example", entry(many(i+1), a.user("y"))) }, 2)
	peerLimited("a peer's user invites", func(int) error {
		_, err := p.Keys().KeyMaterial(ctx, "", a.user("x"), keyRequest(t, c, a.user("x"), mimiuri.MustParse("mimi://c.example/r/r")))
		return err
	}, 2)
	peerLimited("a peer looks up", func(int) error {
		_, err := p.IdentifierQuery(ctx, "", "a.example", (&wire.IdentifierRequest{Elements: []wire.QueryElement{{Type: wire.SearchNick, Value: "x"}}}).Marshal())
		return err
	}, 4)

	// Questions that wait for one user: no more of them, and nobody sees a difference.
	for i := range 5 {
		d := fmt.Sprintf("d%d.example", i)
		if err := n.peer(d).RequestConsent(ctx, "", "a.example", entry(mimiuri.MustParse("mimi://"+d+"/u/d"), a.user("popular"))); err != nil {
			t.Errorf("question %d: %v", i, err)
		}
	}
	if list, err := h.Contacts(ctx, a.user("popular")); err != nil || len(list) != 3 {
		t.Errorf("%d questions wait, %v", len(list), err)
	}
	// Too much at once.
	if err := h.Intake(ctx, adapter.Intent{Kind: adapter.SendMessage, Room: a.room("r0"), Actor: alice, OriginID: "large", Content: content.Text(strings.Repeat("x", 1<<20))}); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a message that is too large: %v", err)
	}
	for i, size := range []int{1001, 600, 600} { // a file, and all files together
		if _, err := h.Upload(ctx, a.user("adam"), bytes.NewReader(make([]byte, size)), -1, "", ""); fault.Is(err, fault.TooLarge) != (i != 1) {
			t.Errorf("file %d: %v", i, err)
		}
	}
	if err := n.speak(t, "c.example").Notify(ctx, "a.example", mimiuri.MustParse("mimi://c.example/r/r"), make([]byte, 17<<20)); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a peer's request that is too large: %v", err)
	}
	popular := func() int {
		mu.Lock()
		defer mu.Unlock()
		return told[a.user("popular").String()+" questions that wait"]
	}
	for range 1000 {
		if popular() > 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}

	mu.Lock()
	defer mu.Unlock()
	for _, who := range []string{alice.String() + " rooms", alice.String() + " message size", a.user("adam").String() + " file size", a.user("adam").String() + " upload quota",
		a.user("popular").String() + " questions that wait", "mimi://c.example request size", alice.String() + " invites", alice.String() + " lookups", a.user("adam").String() + " consent",
		amy.String() + " rooms at a time", c.String() + " consent", "mimi://c.example consent", c.String() + " invites", "mimi://c.example lookups"} {
		if told[who] != 1 {
			t.Errorf("the admin was told %d times of %s", told[who], who)
		}
	}
	if a.core.Counters()["people.limited"] < 10 {
		t.Errorf("counted %d", a.core.Counters()["people.limited"])
	}
}

// TestRoomLimitsOfPeers: users elsewhere may bring as many rooms a day to users here as those may make, and be in as many rooms that are
// kept here; all users of a provider together in a multiple of that.
func TestRoomLimitsOfPeers(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	var mu sync.Mutex
	told := map[string]int{}
	a.people.Notice = func(n people.Notice) { mu.Lock(); told[n.Who+" "+n.What]++; mu.Unlock() }
	a.people.Limits = people.Limits{RoomsADay: 2, Rooms: 2, Invites: 100, PeerFactor: 2}
	a.start()
	b.start()
	ctx := t.Context()

	peer := n.peer("c.example")
	brings := func(user string, room int) bool {
		t.Helper()
		by := mimiuri.MustParse("mimi://c.example/u/" + user)
		_, err := peer.Keys().KeyMaterial(ctx, "", a.user("x"), keyRequest(t, by, a.user("x"), mimiuri.MustParse(fmt.Sprintf("mimi://c.example/r/%s%d", user, room))))
		var f *fault.Error
		if err != nil && (!errors.As(err, &f) || f.Kind != fault.Limited || f.RetryAfter <= 0) {
			t.Errorf("%s, room %d: %v", user, room, err)
		}
		return err == nil
	}
	for _, c := range []struct {
		user string
		room int
		ok   bool
	}{
		{"carol", 1, true}, {"carol", 1, true}, {"carol", 2, true}, {"carol", 3, false}, {"carol", 3, false}, {"carol", 2, true},
		{"cora", 1, true}, {"cora", 2, true}, {"cyd", 1, false}, {"cora", 1, true},
	} {
		if got := brings(c.user, c.room); got != c.ok {
			t.Errorf("%s may bring room %d: %v", c.user, c.room, got)
		}
	}

	rooms := []mimiuri.URI{a.openRoom("alice", "r0"), a.openRoom("alice", "r1"), a.openRoom("amy", "r2")}
	makers := []string{"alice", "alice", "amy"}
	for i := range 2 {
		a.invite(rooms[i], makers[i], b.user("bob"))
		b.awaitJoined(rooms[i], b.user("bob"))
	}
	e := a.awaitRefused(rooms[2], a.invite(rooms[2], "amy", b.user("bob")))
	if !fault.Is(e.Err, fault.Forbidden) || !strings.Contains(fault.Public(e.Err), "more rooms") {
		t.Errorf("one room too many: %v", e.Err)
	}
	yes := true
	a.intake(adapter.Intent{Kind: adapter.SetPolicy, Room: rooms[2], Actor: a.user("amy"), Policy: &adapter.PolicyChange{Open: &yes}})
	a.awaitKind(rooms[2], adapter.Policy, mimiuri.URI{})
	if e := b.awaitRefused(rooms[2], b.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: rooms[2], Actor: b.user("bob")})); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("by joining: %v", e.Err)
	}
	// Another user of that provider may, until all of them are in as many as all may be.
	for i := range 2 {
		a.invite(rooms[i], makers[i], b.user("ben"))
		b.awaitJoined(rooms[i], b.user("ben"))
	}
	a.awaitRefused(rooms[2], a.invite(rooms[2], "amy", b.user("bill")))
	// Who leaves one may join another.
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: rooms[0], Actor: b.user("bob")})
	a.awaitLeft(rooms[0], b.user("bob"))
	for range 1000 { // the hub counts once the leaving is committed
		if a.rows("SELECT count(*) FROM member WHERE local_user=?", b.user("bob").String()) == 1 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	a.invite(rooms[2], "amy", b.user("bob"))
	b.awaitJoined(rooms[2], b.user("bob"))

	mu.Lock()
	defer mu.Unlock()
	for _, who := range []string{"mimi://c.example/u/carol rooms", "mimi://c.example rooms", b.user("bob").String() + " rooms at a time", "mimi://b.example rooms at a time"} {
		if told[who] != 1 {
			t.Errorf("the admin was told %d times of %s", told[who], who)
		}
	}
}

// TestMessageSizeOfPeers: a message larger than the hub's limit is refused, whoever sends it, and the admin is told.
func TestMessageSizeOfPeers(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	var mu sync.Mutex
	told := map[string]int{}
	a.people.Notice = func(n people.Notice) { mu.Lock(); told[n.Who+" "+n.What]++; mu.Unlock() }
	a.people.Limits.Message = 10_000
	a.start()
	b.start()
	room := open(t, a, b.user("bob"))
	if e := b.awaitRefused(room, b.say(room, "bob", strings.Repeat("x", 20_000))); !fault.Is(e.Err, fault.TooLarge) {
		t.Errorf("a large message: %v", e.Err)
	}
	b.say(room, "bob", strings.Repeat("y", 9_000))
	a.awaitTexts(room, 1)
	mu.Lock()
	defer mu.Unlock()
	if told[b.user("bob").String()+" message size"] != 1 {
		t.Errorf("the admin was told of %v", told)
	}
}

// TestBlocks: what somebody has blocked they do not see, whatever others see; what the admin has blocked nobody sees.
func TestBlocks(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	ctx := t.Context()
	alice, amy, bob, ben := a.user("alice"), a.user("amy"), b.user("bob"), b.user("ben")
	room := open(t, a, amy, bob, ben)
	if err := a.mem.host.Block(ctx, alice, bob); err != nil {
		t.Fatal(err)
	}
	sees := func(text string) []mimiuri.URI {
		t.Helper()
		e := a.await(room, text, func(e adapter.Event) bool {
			if e.Kind != adapter.Message {
				return false
			}
			s, _ := e.Content.PlainText()
			return s == text
		})
		slices.SortFunc(e.Local, func(x, y mimiuri.URI) int { return strings.Compare(x.ID, y.ID) })
		return e.Local
	}
	b.say(room, "bob", "from bob")
	b.say(room, "ben", "from ben")
	if l := sees("from bob"); !slices.Equal(l, []mimiuri.URI{amy}) {
		t.Errorf("bob is seen by %v", l)
	}
	if l := sees("from ben"); !slices.Equal(l, []mimiuri.URI{alice, amy}) {
		t.Errorf("ben is seen by %v", l)
	}
	if l, err := a.mem.host.Blocked(ctx, alice); err != nil || !slices.Equal(l, []mimiuri.URI{bob}) {
		t.Errorf("alice has blocked %v, %v", l, err)
	}
	// It outlives a restart. Blocking a room hides what all say in it, but not what one says oneself.
	a.stop()
	a.start()
	if err := a.mem.host.Block(ctx, amy, room); err != nil {
		t.Fatal(err)
	}
	b.say(room, "bob", "nobody sees this")
	b.say(room, "ben", "alice sees this")
	if l := sees("alice sees this"); !slices.Equal(l, []mimiuri.URI{alice}) {
		t.Errorf("seen by %v", l)
	}
	a.say(room, "amy", "from amy")
	if l := sees("from amy"); !slices.Equal(l, []mimiuri.URI{alice, amy}) {
		t.Errorf("amy is seen by %v", l)
	}
	for _, s := range a.texts(room) {
		if strings.Contains(s, "nobody sees this") {
			t.Error("what all have blocked was shown")
		}
	}
	if err := errors.Join(a.mem.host.Unblock(ctx, amy, room), a.mem.host.Unblock(ctx, alice, bob)); err != nil {
		t.Fatal(err)
	}
	b.say(room, "bob", "again")
	if l := sees("again"); !slices.Equal(l, []mimiuri.URI{alice, amy}) {
		t.Errorf("seen by %v", l)
	}
	for _, bad := range []mimiuri.URI{{}, alice, mimiuri.MustParse("mimi://b.example/g/x")} {
		if err := a.mem.host.Block(ctx, alice, bad); !fault.Is(err, fault.Malformed) {
			t.Errorf("block %q: %v", bad, err)
		}
	}

	// The admin's. A user elsewhere: their messages are not accepted in rooms kept here.
	if err := a.core.Block(ctx, bob); err != nil {
		t.Fatal(err)
	}
	if e := b.awaitRefused(room, b.say(room, "bob", "blocked")); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("refused with %v", e.Err)
	}
	if err := a.mem.host.Intake(ctx, adapter.Intent{Kind: adapter.Invite, Room: room, Actor: alice, Target: bob, OriginID: "x"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("inviting the blocked: %v", err)
	}
	if e := b.awaitRefused(room, b.invite(room, "bob", b.user("bea"))); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("the blocked invites: %v", e.Err)
	}
	b.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: bob, OriginID: "name", Metadata: &adapter.MetadataChange{Name: new(string)}})
	b.awaitRefused(room, "name")
	if l, err := a.core.Blocked(ctx, mimiuri.URI{}); err != nil || !slices.Equal(l, []mimiuri.URI{bob}) {
		t.Errorf("the admin has blocked %v, %v", l, err)
	}
	if err := a.core.Unblock(ctx, bob); err != nil {
		t.Fatal(err)
	}
	// A local user: what they do is stopped.
	if err := a.core.Block(ctx, amy); err != nil {
		t.Fatal(err)
	}
	if err := a.mem.host.Intake(ctx, adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: amy, Content: content.Text("x"), OriginID: "y"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("the blocked sends: %v", err)
	}
	if err := a.core.Unblock(ctx, amy); err != nil {
		t.Fatal(err)
	}
	// A room.
	if err := a.core.Block(ctx, room); err != nil {
		t.Fatal(err)
	}
	b.awaitRefused(room, b.say(room, "bob", "blocked"))
	if err := a.core.Unblock(ctx, room); err != nil {
		t.Fatal(err)
	}
	b.say(room, "bob", "at last")
	sees("at last")
}

// TestPeers: a peer that is denied is neither served nor asked, at once and after a restart; with a list of allowed ones all others
// are denied.
func TestPeers(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0], ps[1].start(), ps[2].start()
	a.people.Allow, a.people.Deny = []string{"b.example"}, []string{"*.evil.example"}
	a.start()
	ctx := t.Context()
	room := open(t, a, b.user("bob"))
	invited := func(u mimiuri.URI) error {
		return a.mem.host.Intake(ctx, adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("alice"), Target: u, OriginID: fmt.Sprint(a.seq.Add(1))})
	}
	if err := invited(c.user("carol")); !fault.Is(err, fault.Forbidden) {
		t.Errorf("inviting from a peer that is not allowed: %v", err)
	}
	if err := a.core.AllowPeer(ctx, "C.example"); err != nil {
		t.Fatal(err)
	}
	if err := invited(c.user("carol")); err != nil {
		t.Fatal(err)
	}
	c.awaitJoined(room, c.user("carol"))
	if err := a.core.DenyPeer(ctx, "b.example"); err != nil {
		t.Fatal(err)
	}
	a.stop()
	a.start()
	if e := b.awaitRefused(room, b.say(room, "bob", "hello?")); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("refused with %v", e.Err)
	}
	rules, err := a.core.PeerRules(ctx)
	var got []string
	for _, r := range rules {
		got = append(got, fmt.Sprint(r.Domain, " ", r.Allow, " ", r.Config))
	}
	if want := []string{"*.evil.example false true", "b.example true true", "b.example false false", "c.example true false"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("rules %v, %v", got, err)
	}
	if err := a.core.ForgetPeer(ctx, "b.example"); err != nil {
		t.Fatal(err)
	}
	b.say(room, "bob", "hello!")
	a.await(room, "hello!", func(e adapter.Event) bool { return e.Kind == adapter.Message && e.Sender == b.user("bob") })
	for domain, want := range map[string]bool{"x.evil.example": false, "evil.example": false, "d.example": false, "b.example": true} {
		if err := a.core.People.Peer(domain); (err == nil) != want {
			t.Errorf("%s: %v", domain, err)
		}
	}
	if err := a.core.DenyPeer(ctx, "a.example"); !fault.Is(err, fault.Malformed) {
		t.Errorf("denying oneself: %v", err)
	}
}

// TestBanRetracts: with a ban goes, if the admin wants that, what the banned have sent, and it shows on all sides.
func TestBanRetracts(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"), c.user("carol"))
	b.say(room, "bob", "spam")
	a.awaitTexts(room, 1)
	c.say(room, "carol", "please stop")
	b.awaitTexts(room, 2)
	b.say(room, "bob", "more spam")
	ids := map[content.MessageID]bool{}
	for _, p := range ps {
		p.awaitTexts(room, 3)
	}
	a.mem.mu.Lock()
	for _, e := range a.mem.events[room] {
		if e.Kind == adapter.Message && e.Sender == b.user("bob") {
			ids[e.ID] = true
		}
	}
	a.mem.mu.Unlock()
	// Carol may not.
	if e := c.awaitRefused(room, c.intake(adapter.Intent{Kind: adapter.Ban, Room: room, Actor: c.user("carol"), Target: b.user("bob"), Retract: true})); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("carol is refused with %v", e.Err)
	}
	a.intake(adapter.Intent{Kind: adapter.Ban, Room: room, Actor: a.user("alice"), Target: b.user("bob"), Retract: true})
	b.awaitLeft(room, b.user("bob"))
	for _, p := range []*provider{a, c} {
		p.await(room, "the ban", func(e adapter.Event) bool { return e.Kind == adapter.Banned && e.User == b.user("bob") })
		gone := map[content.MessageID]bool{}
		p.mem.wait(t, p.domain+": the retractions", func() bool {
			for _, e := range p.mem.events[room] {
				if e.Kind == adapter.Message && e.Sender == a.user("alice") && e.Content.Classify().Kind == content.KindDelete && e.Content.Replaces != nil {
					if e.Origin != nil {
						t.Errorf("a retraction is said to be the network's own: %+v", e.Origin)
					}
					gone[*e.Content.Replaces] = true
				}
			}
			return len(gone) >= len(ids)
		})
		for id := range gone {
			if !ids[id] {
				t.Errorf("%s: %s was retracted", p.domain, id)
			}
		}
	}
}

// TestRefusalClosesDirectRoom: who is refused writes no more to the direct room; what is under way is not shown.
func TestRefusalClosesDirectRoom(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	alice, bob := a.user("alice"), b.user("bob")
	b.consent(bob, alice, mimiuri.URI{}, adapter.GrantConsent)
	room := a.direct("alice", bob)
	a.say(room, "alice", "one")
	equal(t, "b", b.awaitTexts(room, 1), []string{"alice: one"})
	b.consent(bob, alice, mimiuri.URI{}, adapter.RefuseConsent)
	a.awaitContact(alice, bob, mimiuri.URI{}, func(c adapter.Contact) bool { return c.Granted == adapter.ConsentRefused })
	err := a.mem.host.Intake(t.Context(), adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: alice, OriginID: "x", Content: content.Text("two")})
	if !fault.Is(err, fault.Forbidden) || !strings.Contains(fault.Public(err), "do not want") {
		t.Errorf("alice writes on: %v", err)
	}
	// A provider that does not keep to it: as if the word had not come.
	a.consent(alice, bob, mimiuri.URI{}, adapter.AskConsent)
	a.say(room, "alice", "three")
	a.awaitTexts(room, 2)
	b.say(room, "bob", "leave me")
	equal(t, "b", b.awaitTexts(room, 2), []string{"alice: one", "bob: leave me"})
	b.consent(bob, alice, mimiuri.URI{}, adapter.GrantConsent)
	a.say(room, "alice", "four")
	equal(t, "b", b.awaitTexts(room, 3), []string{"alice: one", "bob: leave me", "alice: four"})
}
