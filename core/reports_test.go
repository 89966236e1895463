package core_test

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/wire"
)

// listening notes the reports that go to hubs.
type listening struct {
	port.Hub
	*heard
}

type heard struct {
	mu     sync.Mutex
	bodies [][]byte
}

func (l listening) ReportAbuse(ctx context.Context, from string, room mimiuri.URI, body []byte) error {
	l.mu.Lock()
	l.bodies = append(l.bodies, bytes.Clone(body))
	l.mu.Unlock()
	return l.Hub.ReportAbuse(ctx, from, room, body)
}

func isText(text string) func(adapter.Event) bool {
	return func(e adapter.Event) bool {
		if e.Kind != adapter.Message {
			return false
		}
		s, _ := e.Content.PlainText()
		return s == text
	}
}

// TestReport: "Report abuse", from the button in an app to the admin of the hub, and what an adversary cannot do.
func TestReport(t *testing.T) {
	_, ps := newNetwork(t, "hub.test", "b.test", "c.test")
	hub, b, c := ps[0], ps[1], ps[2]
	way := &heard{}
	b.wrap = func(h port.Hub) port.Hub { return listening{h, way} }
	for _, p := range ps {
		p.start()
	}
	room := sharedRoom(t, hub, b)
	b.say(room, "u1", "first")
	hub.awaitTexts(room, 1)
	hub.say(room, "u0", "insult")
	ev := b.await(room, "the message", isText("insult"))
	ctx := context.Background()
	report := func(p *provider, user string, id content.MessageID) error {
		return p.mem.host.Report(ctx, p.user(user), room, id, "harassment", "again and again")
	}
	reports := func() []core.Report {
		t.Helper()
		rs, err := hub.core.Reports(ctx, 10)
		if err != nil {
			t.Fatal(err)
		}
		return rs
	}
	if err := report(b, "u1", ev.ID); err != nil {
		t.Fatal(err)
	}
	if err := report(b, "u1", ev.ID); err != nil { // the same again
		t.Fatal(err)
	}
	rs := reports()
	if len(rs) != 1 {
		t.Fatalf("%d reports", len(rs))
	}
	r := rs[0]
	text, _ := r.Messages[0].Content.PlainText()
	if r.Room != room || r.Peer != "b.test" || r.Reporter != b.user("u1") || r.Abuser != hub.user("u0") || r.Note != "harassment: again and again" ||
		len(r.Messages) != 1 || text != "insult" || r.Messages[0].ID != ev.ID || !r.Messages[0].Time.Equal(ev.Time) {
		t.Errorf("%+v", r)
	}

	t.Run("what was not shown cannot be reported", func(t *testing.T) {
		for name, err := range map[string]error{
			"unknown message":          report(b, "u1", content.MessageID{1}),
			"somebody not in the room": report(b, "u9", ev.ID),
			"another's user":           b.mem.host.Report(ctx, hub.user("u0"), room, ev.ID, "", ""),
			"another room":             b.mem.host.Report(ctx, b.user("u1"), b.room("other"), ev.ID, "", ""),
		} {
			if err == nil || fault.Temporary(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})

	way.mu.Lock()
	proof := way.bodies[0]
	way.mu.Unlock()
	other := hub.room("other")
	hub.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: other, Actor: hub.user("u0")})
	hub.awaitJoined(other, hub.user("u0"))
	hub.intake(adapter.Intent{Kind: adapter.Invite, Room: other, Actor: hub.user("u0"), Target: b.user("u1")})
	b.awaitJoined(other, b.user("u1"))
	hub.say(other, "u0", "elsewhere")
	evOther := b.await(other, "the message", isText("elsewhere"))
	if err := b.mem.host.Report(ctx, b.user("u1"), other, evOther.ID, "", ""); err != nil {
		t.Fatal(err)
	}
	way.mu.Lock()
	proofOther := way.bodies[len(way.bodies)-1]
	way.mu.Unlock()
	before := len(reports())
	parse := func(b []byte) *wire.AbuseReport {
		a, err := wire.ParseAbuseReport(b)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for name, tc := range map[string]struct {
		from   string
		room   mimiuri.URI
		change func(a *wire.AbuseReport)
		want   fault.Kind
	}{
		"forged server frank": {"b.test", room, func(a *wire.AbuseReport) { a.Messages[0].Frank.ServerFrank[0] ^= 1 }, fault.Forbidden},
		"forged signature":    {"b.test", room, func(a *wire.AbuseReport) { a.Messages[0].Frank.IntegritySignature[5] ^= 1 }, fault.Forbidden},
		"another suite":       {"b.test", room, func(a *wire.AbuseReport) { a.Messages[0].Frank.Suite = 2 }, fault.Forbidden},
		"another time":        {"b.test", room, func(a *wire.AbuseReport) { a.Messages[0].AcceptedTimestamp++ }, fault.Forbidden},
		"another text": {"b.test", room, func(a *wire.AbuseReport) {
			a.Messages[0].Content = bytes.Replace(a.Messages[0].Content, []byte("insult"), []byte("friend"), 1)
		}, fault.Forbidden},
		"another abuser":       {"b.test", room, func(a *wire.AbuseReport) { a.Abuser = b.user("u1") }, fault.Forbidden},
		"other room's frank":   {"b.test", room, func(a *wire.AbuseReport) { a.Messages[0].Frank = parse(proofOther).Messages[0].Frank }, fault.Forbidden},
		"other room's message": {"b.test", room, func(a *wire.AbuseReport) { a.Messages[0] = parse(proofOther).Messages[0] }, fault.Forbidden},
		"one true, one forged": {"b.test", room, func(a *wire.AbuseReport) {
			a.Messages = append(a.Messages, a.Messages[0])
			a.Messages[1].AcceptedTimestamp--
		}, fault.Forbidden},
		"in the name of another's": {"b.test", room, func(a *wire.AbuseReport) { a.Reporter = c.user("u2") }, fault.Forbidden},
		"a stranger, true":         {"c.test", room, func(a *wire.AbuseReport) { a.Reporter = c.user("u2") }, fault.NotFound},
		"a room that is not there": {"b.test", hub.room("nowhere"), func(a *wire.AbuseReport) {}, fault.NotFound},
		"no content":               {"b.test", room, func(a *wire.AbuseReport) { a.Messages[0].Content = nil }, fault.Forbidden},
	} {
		a := parse(proof)
		tc.change(a)
		if err := hub.core.Hub.ReportAbuse(ctx, tc.from, tc.room, a.Marshal()); !fault.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := hub.core.Hub.ReportAbuse(ctx, "b.test", room, []byte("x")); !fault.Is(err, fault.Malformed) {
		t.Errorf("malformed: %v", err)
	}
	if n := len(reports()); n != before {
		t.Errorf("%d reports, there were %d", n, before)
	}

	// The proof holds after all have left, and after a restart.
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: b.user("u1")})
	hub.awaitLeft(room, b.user("u1"))
	hub.stop()
	hub.start()
	a := parse(proof)
	a.Note, a.Reporter = "anonymous", mimiuri.URI{}
	if err := hub.core.Hub.ReportAbuse(ctx, "b.test", room, a.Marshal()); err != nil {
		t.Errorf("later: %v", err)
	}
	rs = reports()
	if len(rs) != before+1 || !strings.Contains(rs[0].Note+rs[1].Note+rs[2].Note, "anonymous") {
		t.Errorf("%d reports", len(rs))
	}
	if err := hub.core.DropReport(ctx, rs[0].ID); err != nil {
		t.Error(err)
	}
	if err := hub.core.DropReport(ctx, rs[0].ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("again: %v", err)
	}
}

// TestSafetyNumber: both sides see the same digits; another client of one of them gives others.
func TestSafetyNumber(t *testing.T) {
	_, ps := newNetwork(t, "a.test", "b.test")
	a, b := ps[0].start(), ps[1].start()
	room := sharedRoom(t, a, b)
	ctx := context.Background()
	number := func(p *provider, local, other mimiuri.URI) string {
		t.Helper()
		n, err := p.mem.host.SafetyNumber(ctx, local, other, room)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := number(a, a.user("u0"), b.user("u1"))
	if !regexp.MustCompile(`^\d{5}( \d{5}){11}$`).MatchString(n) {
		t.Errorf("%q", n)
	}
	if m := number(b, b.user("u1"), a.user("u0")); m != n {
		t.Errorf("%q and %q", n, m)
	}
	b.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: b.user("u1"), Target: b.user("u2")})
	b.awaitJoined(room, b.user("u2"))
	if m := number(b, b.user("u2"), a.user("u0")); m == n {
		t.Error("two users have one number")
	}
	for _, other := range []mimiuri.URI{b.user("u9"), ps[0].user("u9")} {
		if _, err := a.mem.host.SafetyNumber(ctx, a.user("u0"), other, room); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", other, err)
		}
	}
	if _, err := a.mem.host.SafetyNumber(ctx, b.user("u1"), a.user("u0"), room); !fault.Is(err, fault.Forbidden) {
		t.Errorf("as somebody else: %v", err)
	}
}
