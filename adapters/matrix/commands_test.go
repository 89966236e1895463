package matrix

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// asked is what was asked of the twin about people.
type asked struct{ log []string }

func (tw *twin) note(format string, args ...any) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	tw.asked.log = append(tw.asked.log, fmt.Sprintf(format, args...))
	tw.wake.Broadcast()
}

func (tw *twin) Consent(_ context.Context, local, other, room mimiuri.URI, action adapter.ConsentAction) error {
	if !room.IsZero() {
		tw.note("consent %s %s %d in %s", local.ID, other.ID, action, room.ID)
		return nil
	}
	tw.note("consent %s %s %d", local.ID, other.ID, action)
	return nil
}

func (tw *twin) Contacts(context.Context, mimiuri.URI) ([]adapter.Contact, error) {
	return []adapter.Contact{{User: mustURI(romeo), Grants: adapter.ConsentAsked, Granted: adapter.ConsentGranted}}, nil
}

func (tw *twin) Find(_ context.Context, _ mimiuri.URI, domain, field, value string) ([]adapter.Profile, error) {
	if domain == "xmpp.example" && field == "handle" && value == "romeo" {
		return []adapter.Profile{{User: mustURI(romeo), Name: "Romeo"}}, nil
	}
	return nil, nil
}

func (tw *twin) SetProfile(_ context.Context, local mimiuri.URI, p adapter.Profile) error {
	tw.note("profile %s %q %d", local.ID, p.Name, len(p.Fields))
	return nil
}

func (tw *twin) Block(_ context.Context, _ mimiuri.URI, target adapter.BlockTarget) error {
	tw.note("block %s", target)
	return nil
}

func (tw *twin) Unblock(_ context.Context, _ mimiuri.URI, target adapter.BlockTarget) error {
	tw.note("unblock %s", target)
	return nil
}

func (tw *twin) Report(_ context.Context, local, room mimiuri.URI, id content.MessageID, reason, note string) error {
	tw.note("report %s %s %s %s %s", local.ID, room.ID, id, reason, note)
	return nil
}

func (tw *twin) SafetyNumber(context.Context, mimiuri.URI, mimiuri.URI, mimiuri.URI) (string, error) {
	return "12345 67890", nil
}

func (tw *twin) Export(_ context.Context, local mimiuri.URI, w io.Writer) error {
	_, err := io.WriteString(w, `{"user":"`+local.ID+`"}`)
	return err
}

func (tw *twin) DeleteUser(_ context.Context, local mimiuri.URI) error {
	tw.note("delete %s", local.ID)
	return nil
}

// TestCommands gives each command to the bot, in its own room and in a MIMI room.
func TestCommands(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	s.tw.add(room, romeo, mercutio)
	msg := s.tw.say(room, romeo, "a villain")
	s.tw.settled(s.ctx)
	villain := s.stub.find(mx, "m.room.message")[0]["event_id"].(string)
	s.put(from(mx, "$note", "m.room.message", map[string]any{"msgtype": "m.text", "body": "not !mimi help"}))
	s.tw.intent(s.ctx, "no command", sends("not !mimi help"))

	// A room with the bot alone.
	b := s.a.(*Adapter).current.Load()
	own, err := b.management(s.ctx, id.UserID("@juliet:"+server))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	give := func(in, line string, more ...any) string {
		t.Helper()
		n++
		event := fmt.Sprint("$cmd", n)
		body := map[string]any{"msgtype": "m.text", "body": line}
		for i := 0; i+1 < len(more); i += 2 {
			body[more[i].(string)] = more[i+1]
		}
		s.put(from(in, event, "m.room.message", body))
		answer := ""
		s.until(in, "an answer to "+line, func() bool {
			for _, ev := range s.stub.find(in, "m.room.message") {
				c := ev["content"].(map[string]any)
				if fmt.Sprint(c["m.relates_to"]) == fmt.Sprint(answering(event)) {
					answer = c["body"].(string)
					return true
				}
			}
			return false
		})
		return answer
	}
	noted := func(what string) {
		t.Helper()
		s.tw.until(s.ctx, what, func() bool { return slices.Contains(s.tw.asked.log, what) })
	}
	for _, tc := range []struct{ line, want string }{
		{"help", helpText},
		{"nonsense", "There is no such command"},
		{"find xmpp.example handle romeo", "Romeo " + romeo + " – " + ghostOf(romeo)},
		{"find xmpp.example", "Say where"},
		{"find xmpp.example handle nobody", "Nobody is found"},
		{"consent", romeo + ": they may write to you: they ask; you to them: yes"},
		{"consent policy", "Who may write to you: ask"},
		{"ask " + romeo, "They are asked"},
		{"accept " + ghostOf(romeo), "They may write"},
		{"refuse nobody", noUser},
		{"block evil.example", "You hear no more"},
		{"unblock " + romeo, "is not blocked"},
		{"blocked", "You have blocked nobody."},
		{"safety " + romeo, "12345 67890"},
		{"receipts off", "do not see"},
		{"expire 1h", onlyHere},
		{"status", "in 1 MIMI rooms"},
		{"delete", "delete yes"},
		{"delete yes", "You are being removed"},
		{"profile off", "Nobody finds you"},
		{"chat " + mercutio, "invited to it"},
		{"create Garden", "You will be invited to mimi://" + twinDomain},
		{"plumb nonsense", noRoom},
		{"plumb " + room.String(), "You need power level 100"},
	} {
		if got := give(string(own), tc.line); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q", tc.line, got)
		}
	}
	noted("consent juliet romeo 1")
	noted("consent juliet romeo 2")
	noted("block mimi://evil.example")
	noted("unblock " + romeo)
	noted("delete juliet")
	noted("profile juliet \"\" 0")
	s.tw.intent(s.ctx, "a room", func(in adapter.Intent) bool { return in.Kind == adapter.CreateRoom && in.Name == "Garden" })
	s.put(from(string(own), "$export", "m.room.message", map[string]any{"msgtype": "m.text", "body": "export"}))
	s.until(string(own), "the export", func() bool {
		for _, ev := range s.stub.find(string(own), "m.room.message") {
			if c := ev["content"].(map[string]any); c["msgtype"] == "m.file" && c["body"] == "mimi-export.json" {
				return true
			}
		}
		return false
	})

	for _, tc := range []struct{ line, want string }{
		{"!mimi expire 2h", "2h0m0s after it was read"},
		{"!mimi expire soon", "Say how long"},
		{"!mimi status", "participants: 3"},
		{"!mimi relay on", notAdmin},
		{"!mimi destroy", "1 participants here and 2 elsewhere"},
		{"!mimi unplumb", notAdmin},
		{"!mimi report spam", "in reply"},
	} {
		if got := give(mx, tc.line); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q", tc.line, got)
		}
	}
	if got := give(mx, "!mimi report spam he lies", "m.relates_to", answering(villain)); !strings.Contains(got, "is reported") {
		t.Errorf("report: %q", got)
	}
	noted(fmt.Sprintf("report juliet balcony %s spam he lies", msg))
	s.put(from(mx, "$timed", "m.room.message", map[string]any{"msgtype": "m.text", "body": "timed"}))
	if in := s.tw.intent(s.ctx, "timed", sends("timed")); in.Content.Expires == nil || in.Content.Expires.Time != 7200 {
		t.Errorf("%+v", in.Content.Expires)
	}

	t.Run("relay", func(t *testing.T) {
		s.tw.setRole(room, local("juliet"), 4)
		s.tw.settled(s.ctx)
		if got := give(mx, "!mimi relay on"); !strings.Contains(got, "through you") {
			t.Fatal(got)
		}
		s.put(map[string]any{"event_id": "$relayed", "room_id": mx, "sender": "@tybalt:other.example", "type": "m.room.message", "content": map[string]any{"msgtype": "m.text", "body": "peace?"}})
		in := s.tw.intent(s.ctx, "relayed", sends("tybalt (other.example): peace?"))
		if in.Actor.String() != local("juliet") {
			t.Errorf("%+v", in)
		}
	})
	t.Run("consent is asked for", func(t *testing.T) {
		ev := adapter.ConsentEvent{Local: mustURI(local("juliet")), Contact: adapter.Contact{User: mustURI(romeo), Grants: adapter.ConsentAsked, Since: time.Unix(1, 0)}, Asked: true}
		for range 2 {
			if err := s.a.(adapter.ConsentAdapter).DeliverConsent(s.ctx, ev); err != nil {
				t.Fatal(err)
			}
		}
		asks := 0
		for _, m := range s.stub.messages(string(own)) {
			if strings.Contains(m, "accept "+romeo) {
				asks++
			}
		}
		if asks != 1 {
			t.Errorf("asked %d times", asks)
		}
	})
	t.Run("a policy list", func(t *testing.T) {
		if got := give(string(own), "policy follow "+string(own)); !strings.Contains(got, "Only an admin") {
			t.Errorf("%q", got)
		}
		s.tw.setLevel("@juliet:"+server, adapter.LevelAdmin)
		if got := give(string(own), "policy follow "+string(own)); !strings.Contains(got, "0 rules") {
			t.Errorf("%q", got)
		}
		ban := func(event, kind, entity string) {
			ev := from(string(own), event, "m.policy.rule."+kind, map[string]any{"entity": entity, "recommendation": "m.ban", "reason": "spam"})
			ev["state_key"] = entity
			s.put(ev)
		}
		ban("$rule1", "server", "xmpp.example.invalid")
		ban("$rule2", "user", "mercutio@xmpp.*")
		s.tw.until(s.ctx, "mercutio is out", func() bool { return !s.tw.isIn(room, mercutio) })
		s.tw.add(room, romeo, "mimi://spam.xmpp.example.invalid/u/x")
		ban("$rule3", "server", "*.invalid")
		s.tw.until(s.ctx, "x is out", func() bool { return !s.tw.isIn(room, "mimi://spam.xmpp.example.invalid/u/x") })
		s.tw.add(room, romeo, "mimi://spam2.invalid/u/y")
		s.tw.until(s.ctx, "y is out at once", func() bool { return !s.tw.isIn(room, "mimi://spam2.invalid/u/y") })
		if got := give(string(own), "policy unfollow "+string(own)); !strings.Contains(got, "not followed") {
			t.Errorf("%q", got)
		}
	})
	t.Run("the provisioning API", func(t *testing.T) {
		for body, want := range map[string]string{
			`{"user":"@juliet:matrix.example","command":"find xmpp.example handle romeo"}`: `"answer":"Romeo mimi://xmpp.example/u/romeo`,
			`{"user":"@tybalt:other.example","command":"help"}`:                            `may not use`,
			`{"user":"@juliet:matrix.example","command":"export"}`:                         `only the two of us`,
			`{"user":7}`: `the body is`,
		} {
			w := httptest.NewRecorder()
			s.a.(http.Handler).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: %d %s", body, w.Code, w.Body)
			}
		}
	})
	t.Run("unplumb", func(t *testing.T) {
		if got := give(mx, "!mimi unplumb dry"); !strings.Contains(got, "1 users here would leave") {
			t.Errorf("%q", got)
		}
		s.put(from(mx, "$unplumb", "m.room.message", map[string]any{"msgtype": "m.text", "body": "!mimi unplumb"}))
		s.tw.intent(s.ctx, "leaving", func(in adapter.Intent) bool { return in.Kind == adapter.LeaveRoom && in.Room == room })
		s.until(mx, "everybody of ours has left", func() bool {
			s.stub.mu.Lock()
			defer s.stub.mu.Unlock()
			m := s.stub.rooms[mx].members
			return m[s.stub.bot] == "leave" && m[ghostOf(romeo)] == "leave" && s.stub.aliases["#mimi_balcony=xmpp.example:"+server] == ""
		})
	})
}

// TestInvitationAsks: joining a room that somebody elsewhere has added one to is consent to that, declining is refusal.
func TestInvitationAsks(t *testing.T) {
	s := newService(t)
	_, mx := s.portal()
	hall := s.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", mercutio)
	s.tw.add(hall, mercutio, local("juliet"))
	s.tw.settled(s.ctx)
	p, _, err := s.a.(*Adapter).current.Load().st.portal(s.ctx, hall)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(room, event, membership string) {
		ev := from(room, event, "m.room.member", map[string]any{"membership": membership})
		ev["state_key"] = "@juliet:" + server
		s.put(ev)
	}
	noted := func(want string) {
		t.Helper()
		s.tw.until(s.ctx, want, func() bool { return slices.Contains(s.tw.asked.log, want) })
	}
	answer(mx, "$yes", "join")
	noted("consent juliet romeo 2 in balcony")
	answer(string(p.room), "$no", "leave")
	noted("consent juliet mercutio 3 in hall")
	s.tw.intent(s.ctx, "leaving", func(in adapter.Intent) bool { return in.Kind == adapter.LeaveRoom && in.Room == hall })
	answer(mx, "$again", "join")
	s.put(from(mx, "$after", "m.room.message", map[string]any{"msgtype": "m.text", "body": "after"}))
	s.tw.intent(s.ctx, "a message", sends("after"))
	s.tw.mu.Lock()
	defer s.tw.mu.Unlock()
	if len(s.tw.asked.log) != 2 {
		t.Errorf("%q", s.tw.asked.log)
	}
}

// TestStartIsQuiet: a start makes no accounts, joins and invites nobody, and sends nothing.
func TestStartIsQuiet(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	s.tw.add(room, romeo, mercutio)
	s.tw.say(room, romeo, "before")
	s.tw.settled(s.ctx)
	counts := func() (n [5]int) {
		for i, op := range []string{"join", "invite", "leave", "createRoom", "send"} {
			n[i] = s.stub.count(op)
		}
		return n
	}
	before := counts()
	s.stop()
	s.start()
	s.put(from(mx, "$after", "m.room.message", map[string]any{"msgtype": "m.text", "body": "after"}))
	s.tw.intent(s.ctx, "a message", sends("after"))
	if after := counts(); after[0] != before[0] || after[1] != before[1] || after[2] != before[2] || after[3] != before[3] {
		t.Errorf("joins, invitations, leaves, rooms, messages: %v became %v", before, after)
	}
}

// TestProfileInStep: a ghost is called as its user wants to be, from when they say so.
func TestProfileInStep(t *testing.T) {
	s := newService(t)
	room, _ := s.portal()
	s.tw.mu.Lock()
	s.tw.profiles[mustURI(romeo)] = adapter.Profile{User: mustURI(romeo), Name: "Romeo Montague"}
	s.tw.mu.Unlock()
	s.tw.send(room, romeo, &content.Message{Body: content.Part{Disposition: content.Profile, Cardinality: content.SinglePart, ContentType: "text/plain", Content: []byte("changed")}})
	s.tw.settled(s.ctx)
	s.stub.mu.Lock()
	defer s.stub.mu.Unlock()
	if got := s.stub.named[ghostOf(romeo)]; got != "Romeo Montague (xmpp.example)" {
		t.Errorf("called %q", got)
	}
}

// TestConsentEnds: the ghost leaves the direct room of somebody who does not want to be written to any more.
func TestConsentEnds(t *testing.T) {
	s := newService(t)
	uri, err := s.tw.DirectRoom(s.ctx, mustURI(local("juliet")), mustURI(romeo))
	if err != nil {
		t.Fatal(err)
	}
	s.tw.settled(s.ctx)
	p, ok, err := s.a.(*Adapter).current.Load().st.portal(s.ctx, uri)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	is := func(want string) {
		t.Helper()
		s.stub.mu.Lock()
		defer s.stub.mu.Unlock()
		if got := s.stub.rooms[string(p.room)].members[ghostOf(romeo)]; got != want {
			t.Errorf("the ghost is %q, not %q", got, want)
		}
	}
	is("join")
	ev := adapter.ConsentEvent{Local: mustURI(local("juliet")), Contact: adapter.Contact{User: mustURI(romeo), Granted: adapter.ConsentRefused, Since: time.Unix(2, 0)}, Answered: true}
	for range 2 {
		if err := s.a.(adapter.ConsentAdapter).DeliverConsent(s.ctx, ev); err != nil {
			t.Fatal(err)
		}
		is("leave")
	}
}
