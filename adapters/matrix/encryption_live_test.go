//go:build live && goolm

package matrix

import (
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// js creates a local user and logs matrix-js-sdk in, with encryption and a device that is cross-signed.
func (w *world) js(name string) *testnet.JSClient {
	w.t.Helper()
	c := w.unsigned(name)
	w.must(c.Do(w.ctx, "sign", nil, nil))
	return c
}

// unsigned is js for somebody who has not verified their device.
func (w *world) unsigned(name string) *testnet.JSClient {
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

// TestKeys: which devices are believed, which keys are deleted, how often they change, and that the admin is told of many devices.
func TestKeys(t *testing.T) {
	w := newWorldWith(t, func(c *Config) {
		c.Encryption = encryptionDefault
		c.Keys = Keys{Receive: "cross-signed-tofu", DeleteFullyUsedOnDecrypt: true, RatchetOnDecrypt: true, RotateMessages: 1, WarnDevices: 1}
	})
	juliet, nurse := w.js("juliet"), w.unsigned("nurse")
	w.tw.setLevel(juliet.UserID, adapter.LevelAdmin)
	own, err := w.bridge().management(w.ctx, id.UserID(juliet.UserID))
	w.must(err)
	w.must(juliet.Do(w.ctx, "join", map[string]any{"room": string(own)}, nil))
	uri := w.tw.newRoom("mimi://xmpp.example/r/vault", "Vault", romeo, mercutio)
	w.tw.add(uri, romeo, local("juliet"))
	w.tw.add(uri, romeo, local("nurse"))
	w.tw.settled(w.ctx)
	p, _, err := w.bridge().st.portal(w.ctx, uri)
	w.must(err)
	room := string(p.room)
	for _, c := range []*testnet.JSClient{juliet, nurse} {
		w.must(c.Do(w.ctx, "join", map[string]any{"room": room}, nil))
	}
	w.tw.say(uri, romeo, "welcome")
	for _, c := range []*testnet.JSClient{juliet, nurse} { // by then they know that the room is encrypted
		_, err := c.WaitMessage(w.ctx, room, func(e testnet.JSEvent) bool { return e.Data.Text() == "welcome" })
		w.must(err)
	}
	send := func(c *testnet.JSClient, text string) {
		t.Helper()
		w.must(c.Do(w.ctx, "send", map[string]any{"room": room, "type": "m.room.message", "content": map[string]any{"msgtype": "m.text", "body": text}}, nil))
	}

	feature(t, "encrypted rooms: verification levels", "m.room.encrypted", "from Matrix", "matrix-js-sdk")
	send(nurse, "I have no papers")
	_, err = nurse.WaitMessage(w.ctx, room, func(e testnet.JSEvent) bool { return containsFold(e.Data.Text(), "this device is not verified") })
	w.must(err)
	send(juliet, "I have")
	w.tw.intent(w.ctx, "from a verified device", sends("I have"))
	if n := w.tw.count(sends("I have no papers")); n != 0 {
		t.Error("a device that is not verified was believed")
	}

	feature(t, "encrypted rooms: rotation", "m.room.encryption", "to Matrix", "matrix-js-sdk")
	var enc map[string]any
	w.must(w.bridge().hs.state(w.ctx, w.bridge().hs.bot, p.room, "m.room.encryption", "", &enc))
	if enc["rotation_period_msgs"] != 1.0 {
		t.Errorf("%v", enc)
	}
	feature(t, "encrypted rooms: keys that are deleted", "m.room.encrypted", "from Matrix", "matrix-js-sdk")
	var kept, all int
	w.must(w.tw.db.QueryRow(`SELECT COUNT(session), COUNT(*) FROM crypto_megolm_inbound_session
		WHERE sender_key IN (SELECT identity_key FROM crypto_device WHERE user_id = $1)`, juliet.UserID).Scan(&kept, &all))
	if kept != 0 || all == 0 {
		t.Errorf("of %d sessions %d can still be read", all, kept)
	}

	feature(t, "encrypted rooms: the admin is told of many devices", "m.room.message", "to Matrix", "matrix-js-sdk")
	w.tw.say(uri, mercutio, "and so do I")
	_, err = juliet.WaitMessage(w.ctx, string(own), func(e testnet.JSEvent) bool {
		return containsFold(e.Data.Text(), "devices of users from elsewhere")
	})
	w.must(err)
	w.tw.settled(w.ctx)
}

// BenchmarkFirstSend measures what devices of ghosts cost the client of a person: its first message after they have come, in milliseconds.
// Use -benchtime 1x: each number is a homeserver of its own, filled with ghosts that have spoken.
func BenchmarkFirstSend(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := newWorldWith(b, func(c *Config) { c.Encryption, c.InitialGhosts, c.Keys.WarnDevices = encryptionDefault, 2000, 5000 })
			juliet := w.js("juliet")
			names := []string{romeo}
			for i := range n - 1 {
				names = append(names, fmt.Sprintf("mimi://xmpp.example/u/guest%d", i))
			}
			room := w.tw.newRoom("mimi://xmpp.example/r/vault", "Vault", names...)
			w.tw.add(room, romeo, local("juliet"))
			invite, err := juliet.Wait(w.ctx, func(e testnet.JSEvent) bool { return e.Kind == "invite" })
			w.must(err)
			w.must(juliet.Do(w.ctx, "join", map[string]any{"room": invite.Room}, nil))
			for _, name := range names {
				w.tw.say(room, name, "here")
			}
			w.tw.say(room, names[n-1], "all here")
			w.tw.until(w.ctx, "all ghosts have spoken", func() bool {
				return w.tw.rooms[room].delivered == len(w.tw.events[room])
			})
			_, err = juliet.WaitMessage(w.ctx, invite.Room, func(e testnet.JSEvent) bool { return e.Data.Text() == "all here" })
			w.must(err)
			send := func(text string) float64 {
				var resp struct {
					MS float64 `json:"ms"`
				}
				w.must(juliet.Do(w.ctx, "send", map[string]any{"room": invite.Room, "type": "m.room.message", "content": map[string]any{"msgtype": "m.text", "body": text}}, &resp))
				w.tw.intent(w.ctx, "a message", sends(text))
				return resp.MS
			}
			first := send("to all")
			b.ReportMetric(first, "ms/first")
			b.ReportMetric(send("again"), "ms/second")
			b.ReportMetric(0, "ns/op")
			for b.Loop() {
			}
		})
	}
}
