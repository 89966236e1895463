//go:build live

package matrix

import (
	"slices"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestAddedFromElsewhere is the way of the demo: somebody elsewhere adds a local user to a room.
func TestAddedFromElsewhere(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	room := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo, mercutio)
	w.tw.add(room, romeo, local("juliet"))
	w.tw.say(room, romeo, "before you joined")
	w.tw.settled(w.ctx)
	matrixRoom := w.accept(juliet)

	t.Run("the portal", func(t *testing.T) {
		state, err := juliet.State(w.ctx, matrixRoom)
		w.must(err)
		got := map[string]testnet.MatrixEvent{}
		for _, ev := range state {
			key := ev.Type
			if ev.StateKey != nil && *ev.StateKey != "" {
				key += " " + *ev.StateKey
			}
			got[key] = ev
		}
		for key, want := range map[string][2]string{
			"m.room.name":                        {"name", "Balcony"},
			"m.room.history_visibility":          {"history_visibility", "joined"},
			"m.room.canonical_alias":             {"alias", "#mimi_balcony=xmpp.example:" + server},
			"m.room.join_rules":                  {"join_rule", "invite"},
			"m.room.member " + ghostOf(romeo):    {"displayname", "romeo (xmpp.example)"},
			"m.room.member " + ghostOf(mercutio): {"membership", "join"},
			"m.room.member " + juliet.UserID:     {"membership", "join"},
		} {
			if ev := got[key]; ev.String(want[0]) != want[1] {
				t.Errorf("%s: %v, want %v", key, ev.Content, want)
			}
		}
		for _, typ := range []string{"m.bridge", "uk.half-shot.bridge"} {
			ev := got[typ+" io.github.mimibridge://mimi://xmpp.example/r/balcony"]
			channel, _ := ev.Content["channel"].(map[string]any)
			if channel["id"] != "mimi://xmpp.example/r/balcony" {
				t.Errorf("%s: %v", typ, ev.Content)
			}
		}
	})

	w.tw.settled(w.ctx)
	first, err := juliet.SendText(w.ctx, matrixRoom, "O Romeo", "")
	w.must(err)
	in := w.tw.intent(w.ctx, "O Romeo", sends("O Romeo"))
	if in.OriginID != first || in.Actor.String() != local("juliet") || in.Room != room || in.OriginTime.IsZero() {
		t.Errorf("intent %+v", in)
	}
	id := w.tw.say(room, romeo, "shall I hear more?")
	got, err := juliet.WaitText(w.ctx, matrixRoom, "shall I hear more?")
	w.must(err)
	if got.Sender != ghostOf(romeo) || got.String("msgtype") != "m.text" {
		t.Errorf("%+v", got)
	}
	if seen := w.texts(juliet, matrixRoom); slices.Contains(seen, ghostOf(romeo)+": before you joined") || !slices.Contains(seen, ghostOf(romeo)+": shall I hear more?") {
		t.Errorf("from before she came in she sees %q", seen)
	}
	w.must2(juliet.Send(w.ctx, matrixRoom, "m.room.message", map[string]any{"msgtype": "m.emote", "body": "sighs"}, ""))
	w.tw.intent(w.ctx, "an emote", sends("* juliet sighs"))
	w.must2(juliet.Send(w.ctx, matrixRoom, "m.room.message", map[string]any{"msgtype": "m.notice", "body": "I am a robot"}, ""))
	w.tw.intent(w.ctx, "a notice", sends("I am a robot"))
	picture, err := juliet.Send(w.ctx, matrixRoom, "m.room.message", map[string]any{"msgtype": "m.image", "body": "rose.png", "url": "mxc://x/y"}, "")
	w.must(err)
	w.notice(juliet, matrixRoom, picture, "could not be sent")
	encrypted, err := juliet.Send(w.ctx, matrixRoom, "m.room.encrypted", map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}, "")
	w.must(err)
	w.notice(juliet, matrixRoom, encrypted, "could not be decrypted")
	w.tw.settled(w.ctx)

	t.Run("which event is which message", func(t *testing.T) {
		st := &store{sql: w.tw.db}
		parts, err := st.parts(w.ctx, room, id)
		if err != nil || string(parts[0]) != got.ID {
			t.Errorf("%v, %v; want %s", parts, err, got.ID)
		}
		w.tw.mu.Lock()
		var mine adapter.Event
		for _, ev := range w.tw.events[room] {
			if ev.Origin != nil && ev.Origin.ID == first {
				mine = ev
			}
		}
		w.tw.mu.Unlock()
		parts, err = st.parts(w.ctx, room, mine.ID)
		if err != nil || string(parts[0]) != first {
			t.Errorf("%v, %v; want %s", parts, err, first)
		}
	})

	t.Run("somebody else joins and leaves", func(t *testing.T) {
		benvolio := "mimi://other.example/u/Ben_Volio"
		w.tw.add(room, romeo, benvolio)
		w.membership(juliet, matrixRoom, ghostOf(benvolio), "join")
		w.tw.remove(room, romeo, benvolio)
		w.membership(juliet, matrixRoom, ghostOf(benvolio), "leave")
	})
	t.Run("a new name", func(t *testing.T) {
		w.tw.rename(room, romeo, "Orchard")
		_, err := juliet.WaitEvent(w.ctx, matrixRoom, func(e testnet.MatrixEvent) bool { return e.Type == "m.room.name" && e.String("name") == "Orchard" })
		w.must(err)
	})

	w.must(juliet.Leave(w.ctx, matrixRoom))
	w.tw.intent(w.ctx, "leaving", func(in adapter.Intent) bool {
		return in.Kind == adapter.LeaveRoom && in.Room == room && in.Actor.String() == local("juliet")
	})
	w.tw.settled(w.ctx)
	want := []string{"romeo: before you joined", "juliet: O Romeo", "romeo: shall I hear more?", "juliet: * juliet sighs", "juliet: I am a robot"}
	if got := w.tw.textsOf(room); !slices.Equal(got, want) {
		t.Errorf("the MIMI room heard %q, want %q", got, want)
	}
	w.quiet()

	t.Run("added again", func(t *testing.T) {
		w.tw.add(room, romeo, local("juliet"))
		again, err := juliet.Wait(w.ctx, func(e testnet.NioEvent) bool { return e.Kind == "invite" && e.Room != matrixRoom })
		w.must(err)
		w.must(juliet.Leave(w.ctx, again.Room)) // declines
		w.tw.until(w.ctx, "declining is leaving", func() bool { return !w.tw.isIn(room, local("juliet")) })
		w.tw.settled(w.ctx)
	})
}

// quiet checks that the adapter's log has neither errors nor what anybody said.
func (w *world) quiet() {
	w.t.Helper()
	logged := w.tw.logs.String()
	for _, bad := range []string{`"level":"error"`, `"level":"panic"`, "O Romeo", "hear more", w.reg.ASToken, w.reg.HSToken} {
		if containsFold(logged, bad) {
			w.t.Errorf("the log has %q:\n%s", bad, logged)
		}
	}
}
