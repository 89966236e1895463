//go:build live && goolm

package matrix

import (
	"fmt"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// js creates a local user and logs matrix-js-sdk in, with encryption.
func (w *world) js(name string) *testnet.JSClient {
	w.t.Helper()
	w.must(w.hs.CreateUser(w.ctx, name, "secret-of-"+name))
	c, err := testnet.StartJS(w.ctx, w.hs.URL, name, "secret-of-"+name)
	w.must(err)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("%s has seen: %+v", name, c.Events())
		}
		c.Stop()
	})
	w.must(c.Do(w.ctx, "sign", nil, nil))
	return c
}

// TestEncrypted: in a room that a person has encrypted everything is encrypted, both ways, and no message has a shield.
func TestEncrypted(t *testing.T) {
	w := newWorld(t)
	juliet := w.js("juliet")
	var created struct {
		Room string `json:"room"`
	}
	w.must(juliet.Do(w.ctx, "create_room", map[string]any{"name": "Tomb", "encrypted": true, "invite": []string{ghostOf(romeo)}}, &created))
	room := created.Room
	create := w.tw.intent(w.ctx, "create", func(in adapter.Intent) bool { return in.Kind == adapter.CreateRoom })
	w.waitFor("the bot is there", func() bool {
		p, ok, err := w.bridge().st.portal(w.ctx, create.Room)
		w.must(err)
		return ok && p.admitted
	})
	arrives := func(what string, match func(testnet.JSEvent) bool) testnet.JSEvent {
		t.Helper()
		ev, err := juliet.WaitMessage(w.ctx, room, func(e testnet.JSEvent) bool { return match(e) })
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if !ev.Data.Encrypted && ev.Data.Type != "m.reaction" || ev.Data.Shield != "none" {
			t.Errorf("%s: encrypted %v, shield %s (%s)", what, ev.Data.Encrypted, ev.Data.Shield, ev.Data.Reason)
		}
		return ev
	}
	feature(t, "encrypted rooms: no shields", "m.room.encrypted", "to Matrix", "matrix-js-sdk")
	arrives("the bot's word", func(e testnet.JSEvent) bool { return e.Data.Sender == w.bot() && e.Data.Text() != "" })
	his := w.tw.say(create.Room, romeo, "here will I remain")
	ev := arrives("a ghost's message", func(e testnet.JSEvent) bool { return e.Data.Text() == "here will I remain" })
	if ev.Data.Sender != ghostOf(romeo) {
		t.Errorf("by %s", ev.Data.Sender)
	}

	feature(t, "encrypted rooms", "m.room.encrypted", "from Matrix", "matrix-js-sdk")
	send := func(typ string, body map[string]any) string {
		t.Helper()
		var resp struct {
			EventID string `json:"event_id"`
		}
		w.must(juliet.Do(w.ctx, "send", map[string]any{"room": room, "type": typ, "content": body}, &resp))
		return resp.EventID
	}
	send("m.room.message", map[string]any{"msgtype": "m.text", "body": "O happy dagger"})
	w.tw.intent(w.ctx, "an encrypted message", sends("O happy dagger"))
	w.must(juliet.Do(w.ctx, "reply", map[string]any{"room": room, "event_id": ev.Data.ID, "body": "drunk all?"}, nil))
	if in := w.tw.intent(w.ctx, "an encrypted reply", sends("drunk all?")); in.Content.InReplyTo == nil || *in.Content.InReplyTo != his {
		t.Errorf("%+v", in.Content)
	}
	w.must(juliet.Do(w.ctx, "react", map[string]any{"room": room, "event_id": ev.Data.ID, "key": "🌹"}, nil))
	w.tw.sent(w.ctx, "a reaction", func(_ *content.Message, c content.Class) bool {
		return c.Kind == content.KindReaction && c.Target == his
	})

	feature(t, "files in encrypted rooms", "m.file", "to Matrix", "matrix-js-sdk")
	w.tw.send(create.Room, romeo, content.New(w.tw.attach("text/plain", "vow.txt", []byte("till death"))))
	file := arrives("a file", func(e testnet.JSEvent) bool { return e.Data.String("msgtype") == "m.file" })
	if key, _ := file.Data.Content["file"].(map[string]any); key["key"] == nil || file.Data.Content["url"] != nil {
		t.Errorf("not encrypted: %v", file.Data.Content)
	}

	t.Run("after a restart", func(t *testing.T) {
		w.stop()
		w.reopen()
		w.start()
		w.tw.say(create.Room, romeo, "still I")
		arrives("a ghost's message", func(e testnet.JSEvent) bool { return e.Data.Text() == "still I" })
		send("m.room.message", map[string]any{"msgtype": "m.text", "body": "and I"})
		w.tw.intent(w.ctx, "an encrypted message", sends("and I"))
	})
	t.Run("somebody else comes", func(t *testing.T) {
		nurse := w.js("nurse")
		w.must(juliet.Do(w.ctx, "send", map[string]any{"room": room, "type": "m.room.message", "content": map[string]any{"msgtype": "m.text", "body": "before the nurse"}}, nil))
		w.must(juliet.Do(w.ctx, "invite", map[string]any{"room": room, "user": nurse.UserID}, nil))
		w.must(nurse.Do(w.ctx, "join", map[string]any{"room": room}, nil))
		w.tw.until(w.ctx, "nurse is in", func() bool { return w.tw.isIn(create.Room, local("nurse")) })
		w.tw.settled(w.ctx)
		w.tw.say(create.Room, romeo, "for her as well")
		got, err := nurse.WaitMessage(w.ctx, room, func(e testnet.JSEvent) bool { return e.Data.Text() == "for her as well" })
		w.must(err)
		if got.Data.Shield != "none" {
			t.Errorf("shield %s (%s)", got.Data.Shield, got.Data.Reason)
		}
	})
	w.tw.settled(w.ctx)
	w.quiet()
}

// TestEncryptedPortal: the bot's portals are encrypted where the deployment wants it. What ghosts with devices cost the human's
// client is printed.
func TestEncryptedPortal(t *testing.T) {
	w := newWorldWith(t, func(c *Config) { c.Encryption = encryptionDefault })
	juliet := w.js("juliet")
	room := w.tw.newRoom("mimi://xmpp.example/r/vault", "Vault", romeo)
	w.tw.add(room, romeo, local("juliet"))
	invite, err := juliet.Wait(w.ctx, func(e testnet.JSEvent) bool { return e.Kind == "invite" })
	w.must(err)
	w.must(juliet.Do(w.ctx, "join", map[string]any{"room": invite.Room}, nil))
	w.tw.settled(w.ctx)
	w.tw.say(room, romeo, "in the dark")
	ev, err := juliet.WaitMessage(w.ctx, invite.Room, func(e testnet.JSEvent) bool { return e.Data.Text() == "in the dark" })
	w.must(err)
	if !ev.Data.Encrypted || ev.Data.Shield != "none" {
		t.Errorf("%+v", ev)
	}
	for _, n := range []int{5, 20} {
		for i := range n {
			name := fmt.Sprintf("mimi://xmpp.example/u/guest%d-%d", n, i)
			w.tw.add(room, romeo, name)
			w.tw.say(room, name, "here")
		}
		w.tw.settled(w.ctx)
		var resp struct {
			MS float64 `json:"ms"`
		}
		w.must(juliet.Do(w.ctx, "send", map[string]any{"room": invite.Room, "type": "m.room.message", "content": map[string]any{"msgtype": "m.text", "body": fmt.Sprint("all ", n)}}, &resp))
		w.tw.intent(w.ctx, "a message", sends(fmt.Sprint("all ", n)))
		t.Logf("the first message after %d more ghost devices took the client %.0f ms", n, resp.MS)
	}
	w.tw.settled(w.ctx)
}
