//go:build live

package matrix

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestMessages carries every kind of message through a real homeserver, each from and to a real client.
func TestMessages(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	room := w.tw.newRoom("mimi://xmpp.example/r/orchard", "Orchard", romeo)
	w.tw.add(room, romeo, local("juliet"))
	portal := w.accept(juliet)

	send := func(typ string, body map[string]any) string {
		t.Helper()
		ev, err := juliet.Send(w.ctx, portal, typ, body, "")
		w.must(err)
		return ev
	}
	arrives := func(what, event string) (adapter.Intent, content.Class) {
		t.Helper()
		in := w.tw.intent(w.ctx, what, func(in adapter.Intent) bool { return in.OriginID == event })
		return in, in.Content.Classify()
	}
	shown := func(what string, match func(testnet.MatrixEvent) bool) testnet.MatrixEvent {
		t.Helper()
		ev, err := juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool { return e.Sender == ghostOf(romeo) && match(e) })
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return ev
	}
	relation := func(e testnet.MatrixEvent) map[string]any {
		r, _ := e.Content["m.relates_to"].(map[string]any)
		return r
	}

	feature(t, "formatted text and mentions", "m.room.message", "from Matrix", "matrix-nio")
	mine := send("m.room.message", map[string]any{"msgtype": "m.text", "body": "Romeo, wherefore", "format": "org.matrix.custom.html",
		"formatted_body": `<a href="https://matrix.to/#/` + ghostOf(romeo) + `">Romeo</a>, <strong>wherefore</strong>`, "m.mentions": map[string]any{"user_ids": []string{ghostOf(romeo)}}})
	if in, c := arrives("formatted text", mine); len(c.Mentions) != 1 || c.Mentions[0].String() != romeo || !strings.Contains(string(in.Content.Body.Content), "**wherefore**") {
		t.Errorf("%q", in.Content.Body.Content)
	}
	w.tw.settled(w.ctx)
	var mineID content.MessageID
	w.tw.until(w.ctx, "it is taken", func() bool {
		for _, ev := range w.tw.events[room] {
			if ev.Origin != nil && ev.Origin.ID == mine {
				mineID = ev.ID
				return true
			}
		}
		return false
	})
	feature(t, "message status", "com.beeper.message_send_status", "to Matrix", "matrix-nio")
	_, err := juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
		return e.Type == "com.beeper.message_send_status" && relation(e)["event_id"] == mine && e.String("status") == "SUCCESS"
	})
	w.must(err)

	feature(t, "formatted text and mentions", "m.room.message", "to Matrix", "matrix-nio")
	his := w.tw.send(room, romeo, content.Markdown("**Call** me but love, "+content.Mention(mustURI(local("juliet")), "Juliet")))
	hisEvent := shown("formatted text", func(e testnet.MatrixEvent) bool { return strings.Contains(e.Text(), "but love") })
	mentioned, _ := hisEvent.Content["m.mentions"].(map[string]any)
	if list, _ := mentioned["user_ids"].([]any); !strings.HasPrefix(hisEvent.String("formatted_body"), "<strong>Call</strong> me") || len(list) != 1 || list[0] != juliet.UserID {
		t.Errorf("%v", hisEvent.Content)
	}

	feature(t, "replies", "m.room.message", "both", "matrix-nio")
	reply := send("m.room.message", map[string]any{"msgtype": "m.text", "body": "what man art thou", "m.relates_to": map[string]any{"m.in_reply_to": map[string]any{"event_id": hisEvent.ID}}})
	if _, c := arrives("a reply", reply); c.InReplyTo == nil || *c.InReplyTo != his {
		t.Errorf("in reply to %v", c.InReplyTo)
	}
	w.tw.send(room, romeo, content.Reply(mineID, content.TextPart("by a name")))
	if ev := shown("a reply", func(e testnet.MatrixEvent) bool { return e.Text() == "by a name" }); repliesTo(ev) != mine {
		t.Errorf("%v", ev.Content)
	}

	feature(t, "threads", "m.room.message", "both", "matrix-nio")
	thread := send("m.room.message", map[string]any{"msgtype": "m.text", "body": "aside", "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": hisEvent.ID, "is_falling_back": true, "m.in_reply_to": map[string]any{"event_id": hisEvent.ID}}})
	if in, _ := arrives("a thread", thread); !bytes.Equal(in.Content.TopicID, his[:]) {
		t.Errorf("topic %x", in.Content.TopicID)
	}
	inTopic := content.Text("also aside")
	inTopic.TopicID = his[:]
	w.tw.send(room, romeo, inTopic)
	if ev := shown("a thread", func(e testnet.MatrixEvent) bool { return e.Text() == "also aside" }); relation(ev)["rel_type"] != "m.thread" || relation(ev)["event_id"] != hisEvent.ID {
		t.Errorf("%v", ev.Content)
	}

	feature(t, "edits", "m.replace", "both", "matrix-nio")
	edit := send("m.room.message", map[string]any{"msgtype": "m.text", "body": "* O Romeo", "m.new_content": map[string]any{"msgtype": "m.text", "body": "O Romeo"}, "m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": mine}})
	if _, c := arrives("an edit", edit); c.Kind != content.KindEdit || c.Target != mineID {
		t.Errorf("%+v", c)
	}
	w.tw.send(room, romeo, content.Edit(his, nil, content.TextPart("Call me love")))
	shown("an edit", func(e testnet.MatrixEvent) bool {
		return relation(e)["rel_type"] == "m.replace" && relation(e)["event_id"] == hisEvent.ID
	})

	feature(t, "reactions", "m.reaction", "both", "matrix-nio")
	reaction := send("m.reaction", map[string]any{"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": hisEvent.ID, "key": "❤️"}})
	if _, c := arrives("a reaction", reaction); c.Kind != content.KindReaction || !slices.Equal(c.Reactions, []string{"❤️"}) {
		t.Errorf("%+v", c)
	}
	hisReaction := w.tw.send(room, romeo, content.React(mineID, "🌹"))
	hisReactionEvent := shown("a reaction", func(e testnet.MatrixEvent) bool { return e.Type == "m.reaction" && relation(e)["key"] == "🌹" })

	feature(t, "redactions", "m.room.redaction", "both", "matrix-nio")
	w.must(juliet.Do(w.ctx, "redact", map[string]any{"room": portal, "event_id": reaction}, nil))
	w.tw.sent(w.ctx, "taking a reaction back", func(_ *content.Message, c content.Class) bool { return c.Kind == content.KindUnlike })
	w.must(juliet.Do(w.ctx, "redact", map[string]any{"room": portal, "event_id": reply}, nil))
	w.tw.sent(w.ctx, "deleting", func(_ *content.Message, c content.Class) bool { return c.Kind == content.KindDelete })
	redacted := func(what, event string) {
		t.Helper()
		_, err := juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
			return e.Type == "m.room.redaction" && (e.String("redacts") == event || e.Redacts == event)
		})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	w.tw.send(room, romeo, content.Unlike(hisReaction, mineID))
	redacted("taking a reaction back", hisReactionEvent.ID)
	w.tw.send(room, romeo, content.Delete(his, nil))
	redacted("deleting", hisEvent.ID)
	feature(t, "redactions by moderators", "m.room.redaction", "to Matrix", "matrix-nio")
	w.tw.send(room, romeo, content.Delete(mineID, nil))
	redacted("deleting as a moderator", mine)

	feature(t, "read receipts", "m.receipt", "both", "matrix-nio")
	late := w.tw.say(room, romeo, "stay but a little")
	lateEvent := shown("a message", func(e testnet.MatrixEvent) bool { return e.Text() == "stay but a little" })
	w.must(juliet.Do(w.ctx, "read", map[string]any{"room": portal, "event_id": lateEvent.ID}, nil))
	w.tw.sent(w.ctx, "reading", func(m *content.Message, _ content.Class) bool {
		r, ok := m.StatusReport()
		return ok && slices.Contains(r, content.MessageStatus{ID: late, Status: content.StatusRead})
	})
	report, err := content.StatusMessage(content.StatusReport{{ID: mineID, Status: content.StatusRead}})
	w.must(err)
	w.tw.send(room, romeo, report)
	_, err = juliet.Wait(w.ctx, func(e testnet.NioEvent) bool {
		return e.Kind == "ephemeral" && strings.Contains(string(e.Data), mine) && strings.Contains(string(e.Data), ghostOf(romeo))
	})
	w.must(err)

	feature(t, "files", "m.file", "both", "matrix-nio")
	data := make([]byte, 300_000)
	rand.Read(data)
	var upload struct {
		MXC string `json:"mxc"`
	}
	w.must(juliet.Do(w.ctx, "upload", map[string]any{"data": base64.StdEncoding.EncodeToString(data), "type": "application/pdf", "name": "letter.pdf"}, &upload))
	file := send("m.room.message", map[string]any{"msgtype": "m.file", "body": "a letter", "filename": "letter.pdf", "url": upload.MXC, "info": map[string]any{"mimetype": "application/pdf", "size": len(data)}})
	in, c := arrives("a file", file)
	if len(c.Files) != 1 || !bytes.Equal(w.tw.files[c.Files[0].Part.External.URL].data, data) {
		t.Errorf("%+v", in.Content)
	}
	w.tw.send(room, romeo, content.New(w.tw.attach("image/jpeg", "rose.jpg", data)))
	picture := shown("a picture", func(e testnet.MatrixEvent) bool { return e.String("msgtype") == "m.image" })
	if !bytes.Equal(w.downloaded(juliet, picture.String("url")), data) {
		t.Error("the picture is another")
	}
	for _, kind := range []struct{ msgtype, mime, name string }{
		{"m.image", "image/png", "rose.png"}, {"m.audio", "audio/ogg", "voice.ogg"}, {"m.video", "video/mp4", "dance.mp4"},
	} {
		ev := send("m.room.message", map[string]any{"msgtype": kind.msgtype, "body": "see " + kind.name, "filename": kind.name, "url": upload.MXC, "info": map[string]any{"mimetype": kind.mime, "size": len(data)}})
		if in, c := arrives(kind.msgtype, ev); len(c.Files) != 1 || c.Files[0].Part.External == nil || c.Files[0].Part.External.Filename != kind.name {
			t.Errorf("%s: %+v", kind.msgtype, in.Content)
		}
		w.tw.send(room, romeo, content.New(w.tw.attach(kind.mime, "his-"+kind.name, data)))
		shown(kind.msgtype, func(e testnet.MatrixEvent) bool {
			return e.String("msgtype") == kind.msgtype && strings.HasSuffix(e.Text(), "his-"+kind.name)
		})
	}
	feature(t, "images, audio, video", "m.image, m.audio, m.video", "both", "matrix-nio")
	feature(t, "stickers", "m.sticker", "to Matrix", "matrix-nio")
	sticker := content.New(w.tw.attach("image/jpeg", "sticker.jpg", data))
	setStyle(sticker, "sticker")
	w.tw.send(room, romeo, sticker)
	shown("a sticker", func(e testnet.MatrixEvent) bool { return e.Type == "m.sticker" })

	feature(t, "locations", "m.location", "both", "matrix-nio")
	geo := send("m.room.message", map[string]any{"msgtype": "m.location", "body": "balcony", "geo_uri": "geo:45.4,10.9"})
	if in, _ := arrives("a location", geo); string(in.Content.Body.Content) != "balcony\ngeo:45.4,10.9" {
		t.Errorf("%q", in.Content.Body.Content)
	}
	w.tw.say(room, romeo, "wall\ngeo:45.4,10.9")
	shown("a location", func(e testnet.MatrixEvent) bool { return e.String("geo_uri") == "geo:45.4,10.9" && e.Text() == "wall" })

	feature(t, "polls", "org.matrix.msc3381.poll.start", "both", "matrix-nio")
	poll := send("org.matrix.msc3381.poll.start", map[string]any{"org.matrix.msc3381.poll.start": map[string]any{"kind": "org.matrix.msc3381.poll.disclosed", "question": map[string]any{"org.matrix.msc1767.text": "Lark?"}, "answers": []any{map[string]any{"id": "a", "org.matrix.msc1767.text": "no"}}}})
	in, _ = arrives("a poll", poll)
	if text, _, _ := in.Content.ReadableText(nil); text != "Poll: Lark?\n1. no" {
		t.Errorf("%q", text)
	}
	vote := send("org.matrix.msc3381.poll.response", map[string]any{"org.matrix.msc3381.poll.response": map[string]any{"answers": []string{"a"}}, "m.relates_to": map[string]any{"rel_type": "m.reference", "event_id": poll}})
	if in, c := arrives("a vote", vote); c.InReplyTo == nil || string(in.Content.Body.Content) != "Voted: no" {
		t.Errorf("%+v %q", c, in.Content.Body.Content)
	}

	feature(t, "disappearing messages", "m.room.redaction", "both", "matrix-nio")
	w.tw.send(room, romeo, content.Text("read me").ExpireAfter(1e9))
	burning := shown("a message that disappears", func(e testnet.MatrixEvent) bool { return e.Text() == "read me" })
	w.must(juliet.Do(w.ctx, "read", map[string]any{"room": portal, "event_id": burning.ID}, nil))
	redacted("it disappears", burning.ID)
	gone := send("m.room.message", map[string]any{"msgtype": "m.text", "body": "and me", "com.beeper.disappearing_timer": map[string]any{"type": "after_send", "timer": 1000}})
	if in, _ := arrives("a message that disappears", gone); in.Content.Expires == nil || in.Content.Expires.Relative {
		t.Errorf("%+v", in.Content.Expires)
	}
	redacted("it disappears", gone)

	t.Run("what was redacted while the adapter was away", func(t *testing.T) {
		ev := send("m.room.message", map[string]any{"msgtype": "m.text", "body": "regret"})
		w.tw.intent(w.ctx, "regret", sends("regret"))
		w.tw.settled(w.ctx)
		w.stop()
		w.must(juliet.Do(w.ctx, "redact", map[string]any{"room": portal, "event_id": ev}, nil))
		w.start()
		before := w.tw.count(func(in adapter.Intent) bool {
			return in.Kind == adapter.SendMessage && in.Content.Classify().Kind == content.KindDelete
		})
		w.tw.until(w.ctx, "the redaction is caught up with", func() bool {
			n := 0
			for _, in := range w.tw.intents {
				if in.Kind == adapter.SendMessage && in.Content.Classify().Kind == content.KindDelete {
					n++
				}
			}
			return n == max(before, 2)
		})
	})
	w.tw.settled(w.ctx)
	w.quiet()
}

// feature notes a row of the table in docs/matrix.md: what the test that runs holds.
func feature(t *testing.T, name, event, direction, client string) {
	row, err := json.Marshal([]string{name, event, direction, client})
	if err == nil {
		t.Log("feature: " + string(row))
	}
}
