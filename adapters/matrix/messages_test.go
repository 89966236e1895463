package matrix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/attachment"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// put gives the adapter a transaction.
func (s *service) put(events ...any) {
	s.t.Helper()
	s.txns++
	if status, answer := s.do(http.MethodPut, fmt.Sprint(txnPath, "m", s.txns), transaction(events...), nil); status != 200 {
		s.t.Fatal(status, answer)
	}
}

// from is an event of juliet's.
func from(room, id, typ string, body map[string]any) map[string]any {
	return map[string]any{"event_id": id, "room_id": room, "sender": "@juliet:" + server, "type": typ, "origin_server_ts": 1700000000000, "content": body}
}

func formatted(plain, rich string) map[string]any {
	return map[string]any{"msgtype": "m.text", "body": plain, "format": "org.matrix.custom.html", "formatted_body": rich}
}

func rel(kind, event string, more ...any) map[string]any {
	r := map[string]any{"rel_type": kind, "event_id": event}
	for i := 0; i+1 < len(more); i += 2 {
		r[more[i].(string)] = more[i+1]
	}
	return r
}

func answering(event string) map[string]any {
	return map[string]any{"m.in_reply_to": map[string]any{"event_id": event}}
}

func plus(body map[string]any, key string, v any) map[string]any {
	out := maps.Clone(body)
	out[key] = v
	return out
}

// idOf waits until the event's message has been taken, and is its ID.
func (s *service) idOf(room mimiuri.URI, event string) content.MessageID {
	s.t.Helper()
	var id content.MessageID
	s.tw.until(s.ctx, "the message "+event+" is delivered", func() bool {
		for _, ev := range s.tw.events[room] {
			if ev.Kind == adapter.Message && ev.Origin != nil && ev.Origin.ID == event && s.tw.rooms[room].delivered >= int(ev.Seq) {
				id = ev.ID
				return true
			}
		}
		return false
	})
	return id
}

// TestFromMatrix: each kind of event becomes the MIMI content that it should.
func TestFromMatrix(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	pill := fmt.Sprintf(`<a href="https://matrix.to/#/%s">Romeo</a>`, strings.ReplaceAll(ghostOf(romeo), "=", "%3D"))
	first := s.tw.say(room, romeo, "But soft")
	s.tw.settled(s.ctx)
	said := s.stub.find(mx, "m.room.message")[0]["event_id"].(string)

	s.put(from(mx, "$mine", "m.room.message", text("", "", "O Romeo")["content"].(map[string]any)))
	mine := s.idOf(room, "$mine")

	for _, tc := range []struct {
		name string
		ev   map[string]any
		want func(m *content.Message, c content.Class) bool
	}{
		{"html", from(mx, "$html", "m.room.message", formatted("bold", "<strong>bold</strong> and <em>it</em>")),
			func(m *content.Message, c content.Class) bool { return string(m.Body.Content) == "**bold** and _it_" }},
		{"html without markup", from(mx, "$plain", "m.room.message", formatted("a*b", "a*b")),
			func(m *content.Message, c content.Class) bool {
				return string(m.Body.Content) == "a*b" && m.Body.ContentType == content.TypePlain
			}},
		{"a mention", from(mx, "$pill", "m.room.message", formatted("Romeo!", pill+"!")),
			func(m *content.Message, c content.Class) bool {
				return len(c.Mentions) == 1 && c.Mentions[0].String() == romeo && strings.HasPrefix(string(m.Body.Content), "[Romeo](")
			}},
		{"a mention in plain text", from(mx, "$plainpill", "m.room.message", map[string]any{"msgtype": "m.text", "body": "hey " + ghostOf(romeo) + " <3", "m.mentions": map[string]any{"user_ids": []string{ghostOf(romeo)}}}),
			func(m *content.Message, c content.Class) bool {
				return len(c.Mentions) == 1 && c.Mentions[0].String() == romeo
			}},
		{"a notice", from(mx, "$notice", "m.room.message", map[string]any{"msgtype": "m.notice", "body": "beep"}),
			func(m *content.Message, c content.Class) bool {
				return styleOf(m) == "notice" && string(m.Body.Content) == "beep"
			}},
		{"an emote", from(mx, "$emote", "m.room.message", map[string]any{"msgtype": "m.emote", "body": "sighs"}),
			func(m *content.Message, c content.Class) bool {
				return styleOf(m) == "emote" && string(m.Body.Content) == "* juliet sighs"
			}},
		{"a reply with a fallback", from(mx, "$reply", "m.room.message", map[string]any{"msgtype": "m.text", "body": "> <@x:y> But soft\n> more\n\nwhat light?", "m.relates_to": answering(said)}),
			func(m *content.Message, c content.Class) bool {
				return c.InReplyTo != nil && *c.InReplyTo == first && string(m.Body.Content) == "what light?"
			}},
		{"a thread", from(mx, "$thread", "m.room.message", map[string]any{"msgtype": "m.text", "body": "aside", "m.relates_to": rel("m.thread", said, "is_falling_back", true, "m.in_reply_to", map[string]any{"event_id": said})}),
			func(m *content.Message, c content.Class) bool {
				return bytes.Equal(m.TopicID, first[:]) && c.InReplyTo == nil
			}},
		{"a reply in a thread", from(mx, "$threadreply", "m.room.message", map[string]any{"msgtype": "m.text", "body": "aside 2", "m.relates_to": rel("m.thread", said, "is_falling_back", false, "m.in_reply_to", map[string]any{"event_id": "$mine"})}),
			func(m *content.Message, c content.Class) bool {
				return bytes.Equal(m.TopicID, first[:]) && c.InReplyTo != nil && *c.InReplyTo == mine
			}},
		{"an edit", from(mx, "$edit", "m.room.message", map[string]any{"msgtype": "m.text", "body": "* O Romeo, Romeo", "m.new_content": map[string]any{"msgtype": "m.text", "body": "O Romeo, Romeo"}, "m.relates_to": rel("m.replace", "$mine")}),
			func(m *content.Message, c content.Class) bool {
				return c.Kind == content.KindEdit && c.Target == mine && string(m.Body.Content) == "O Romeo, Romeo"
			}},
		{"a reaction", from(mx, "$react", "m.reaction", map[string]any{"m.relates_to": rel("m.annotation", said, "key", "❤️")}),
			func(m *content.Message, c content.Class) bool {
				return c.Kind == content.KindReaction && c.Target == first && slices.Equal(c.Reactions, []string{"❤️"})
			}},
		{"a reaction that is a picture", from(mx, "$emoji", "m.reaction", map[string]any{"shortcode": "rose", "m.relates_to": rel("m.annotation", said, "key", "mxc://x/y")}),
			func(m *content.Message, c content.Class) bool {
				return c.Kind == content.KindReaction && slices.Equal(c.Reactions, []string{":rose:"})
			}},
		{"a location", from(mx, "$geo", "m.room.message", map[string]any{"msgtype": "m.location", "body": "the balcony", "geo_uri": "geo:45.4419,10.9986;u=10"}),
			func(m *content.Message, c content.Class) bool {
				return string(m.Body.Content) == "the balcony\ngeo:45.4419,10.9986;u=10"
			}},
		{"a poll", from(mx, "$poll", "org.matrix.msc3381.poll.start", map[string]any{"org.matrix.msc3381.poll.start": map[string]any{"kind": "org.matrix.msc3381.poll.disclosed", "question": map[string]any{"org.matrix.msc1767.text": "Nightingale or lark?"}, "answers": []any{map[string]any{"id": "a", "org.matrix.msc1767.text": "nightingale"}, map[string]any{"id": "b", "org.matrix.msc1767.text": "lark"}}}}),
			func(m *content.Message, c content.Class) bool {
				readable, _, _ := m.ReadableText(nil)
				return readable == "Poll: Nightingale or lark?\n1. nightingale\n2. lark" && pollContent(m) != nil
			}},
		{"a message that disappears", from(mx, "$gone", "m.room.message", map[string]any{"msgtype": "m.text", "body": "burn this", "com.beeper.disappearing_timer": map[string]any{"type": "after_read", "timer": 60000}}),
			func(m *content.Message, c content.Class) bool {
				return m.Expires != nil && m.Expires.Relative && m.Expires.Time == 60
			}},
		{"taking a reaction back", map[string]any{"event_id": "$unreact", "room_id": mx, "sender": "@juliet:" + server, "type": "m.room.redaction", "redacts": "$react", "content": map[string]any{}},
			func(m *content.Message, c content.Class) bool { return c.Kind == content.KindUnlike }},
		{"taking an edit back", from(mx, "$unedit", "m.room.redaction", map[string]any{"redacts": "$edit"}),
			func(m *content.Message, c content.Class) bool {
				return c.Kind == content.KindEdit && c.Target == mine && string(m.Body.Content) == "O Romeo"
			}},
		{"deleting, as since room version 11", from(mx, "$delete", "m.room.redaction", map[string]any{"redacts": "$mine"}),
			func(m *content.Message, c content.Class) bool {
				return c.Kind == content.KindDelete && c.Target == mine
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// The homeserver has it.
			s.stub.mu.Lock()
			stubRoom := s.stub.rooms[mx]
			if !slices.ContainsFunc(stubRoom.events, func(ev map[string]any) bool { return ev["event_id"] == "$mine" }) {
				stubRoom.events = append(stubRoom.events, from(mx, "$mine", "m.room.message", map[string]any{"msgtype": "m.text", "body": "O Romeo"}))
			}
			s.stub.mu.Unlock()
			s.put(tc.ev)
			origin := tc.ev["event_id"].(string)
			in := s.tw.intent(s.ctx, tc.name, func(in adapter.Intent) bool { return in.OriginID == origin })
			if c := in.Content.Classify(); !tc.want(in.Content, c) {
				t.Errorf("%+v\n%+v %q", c, in.Content, in.Content.Body.Content)
			}
			if ext, ok := in.Content.ExternalMessageID(); !ok || string(ext.ID) != origin || ext.Scope != server {
				t.Errorf("external ID %+v", ext)
			}
		})
	}
	s.put(from(mx, "$other", "m.room.redaction", map[string]any{"redacts": said}))
	s.until(mx, "the redaction of somebody else's message", func() bool {
		return slices.ContainsFunc(s.stub.messages(mx), func(m string) bool { return strings.Contains(m, "your role there may not delete") })
	})
	// Nothing to say.
	s.put(from(mx, "$redacted", "m.room.message", map[string]any{}),
		from(mx, "$unknown", "m.reaction", map[string]any{"m.relates_to": rel("m.annotation", "$nobody", "key", "x")}),
		from(mx, "$verify", "m.room.message", map[string]any{"msgtype": "m.key.verification.request", "body": "x"}),
		from(mx, "$last", "m.room.message", map[string]any{"msgtype": "m.text", "body": "last"}))
	s.tw.intent(s.ctx, "last", sends("last"))
	if n := s.tw.count(func(in adapter.Intent) bool {
		return slices.Contains([]string{"$redacted", "$unknown", "$verify", "$other"}, in.OriginID)
	}); n != 0 {
		t.Errorf("%d intents about nothing", n)
	}
	if got := s.stub.find(mx, "com.beeper.message_send_status"); len(got) == 0 {
		t.Error("nobody was told what became of a message")
	}
}

// until looks again until cond is true.
func (s *service) until(mx, what string, cond func() bool) {
	s.t.Helper()
	for !cond() {
		if !pause(s.ctx, 5*time.Millisecond) {
			s.t.Fatalf("%s: %v\n%s", what, s.ctx.Err(), strings.Join(s.stub.messages(mx), "\n"))
		}
	}
}

// TestToMatrix: each kind of MIMI content becomes the events that it should.
func TestToMatrix(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	s.put(from(mx, "$mine", "m.room.message", map[string]any{"msgtype": "m.text", "body": "O Romeo"}))
	mine := s.idOf(room, "$mine")
	// last shows a message and is the events that show it.
	last := func(m *content.Message) (out []map[string]any, id content.MessageID) {
		t.Helper()
		s.stub.mu.Lock()
		before := len(s.stub.rooms[mx].events)
		s.stub.mu.Unlock()
		id = s.tw.send(room, romeo, m)
		s.tw.settled(s.ctx)
		s.stub.mu.Lock()
		defer s.stub.mu.Unlock()
		for _, ev := range s.stub.rooms[mx].events[before:] {
			if ev["sender"] == ghostOf(romeo) {
				out = append(out, ev)
			}
		}
		return out, id
	}
	check := func(name string, m *content.Message, typ string, want map[string]any) (string, content.MessageID) {
		t.Helper()
		var event string
		out, id := last(m)
		if len(out) != 1 || out[0]["type"] != typ {
			t.Fatalf("%s: %v", name, out)
		}
		event, _ = out[0]["event_id"].(string)
		body := out[0]["content"].(map[string]any)
		for key, v := range want {
			var same any
			if err := json.Unmarshal(mustJSON(v), &same); err != nil || !reflect.DeepEqual(body[key], same) {
				t.Errorf("%s: %s is %s, want %s", name, key, mustJSON(body[key]), mustJSON(v))
			}
		}
		return event, id
	}
	plain, plainID := check("text", content.Text("a <b> & c"), "m.room.message", map[string]any{"msgtype": "m.text", "body": "a <b> & c", "formatted_body": nil, "m.mentions": map[string]any{}})
	check("markdown", content.Markdown("**a** `b`"), "m.room.message", map[string]any{"format": "org.matrix.custom.html", "formatted_body": "<strong>a</strong> <code>b</code>"})
	check("a mention", content.Markdown(content.Mention(mustURI(local("juliet")), "Jule")+", look"), "m.room.message", map[string]any{
		"formatted_body": fmt.Sprintf(`<a href="https://matrix.to/#/@juliet:%s">Jule</a>, look`, server), "body": "Jule, look", "m.mentions": map[string]any{"user_ids": []string{"@juliet:" + server}}})
	check("a mention without a name", content.Markdown(content.Mention(mustURI(mercutio), "")), "m.room.message", map[string]any{
		"body": "mercutio (xmpp.example)", "m.mentions": map[string]any{"user_ids": []string{ghostOf(mercutio)}}})
	check("a reply", content.Reply(mine, content.TextPart("yes?")), "m.room.message", map[string]any{"body": "yes?", "m.relates_to": answering("$mine"), "m.mentions": map[string]any{"user_ids": []string{"@juliet:" + server}}})
	check("an edit", content.Edit(plainID, nil, content.TextPart("d")), "m.room.message", map[string]any{"body": "* d", "m.relates_to": rel("m.replace", plain), "m.new_content": map[string]any{"msgtype": "m.text", "body": "d", "m.mentions": map[string]any{}}})
	reaction, reactionID := check("a reaction", content.React(mine, "❤️"), "m.reaction", map[string]any{"m.relates_to": rel("m.annotation", "$mine", "key", "❤️")})
	inTopic := content.Text("an aside")
	inTopic.TopicID = []byte("asides")
	root, _ := check("a topic's first message", inTopic, "m.room.message", map[string]any{"m.relates_to": nil})
	more := content.Text("another")
	more.TopicID = []byte("asides")
	check("a topic's second message", more, "m.room.message", map[string]any{"m.relates_to": rel("m.thread", root, "is_falling_back", true, "m.in_reply_to", map[string]any{"event_id": root})})
	onMine := content.Text("about that")
	onMine.TopicID = mine[:]
	check("a topic about a message", onMine, "m.room.message", map[string]any{"m.relates_to": rel("m.thread", "$mine", "is_falling_back", true, "m.in_reply_to", map[string]any{"event_id": "$mine"})})
	check("a location", content.Text("here\ngeo:1.5,-2"), "m.room.message", map[string]any{"msgtype": "m.location", "body": "here", "geo_uri": "geo:1.5,-2"})
	emote := content.Text("* romeo climbs")
	setStyle(emote, "emote")
	check("an emote", emote, "m.room.message", map[string]any{"msgtype": "m.emote", "body": "climbs"})
	check("an emote as XMPP says it", content.Markdown("/me climbs **higher**"), "m.room.message", map[string]any{"msgtype": "m.emote", "formatted_body": "climbs <strong>higher</strong>"})
	check("no emote", content.Text("/mend it"), "m.room.message", map[string]any{"msgtype": "m.text", "body": "/mend it"})
	check("a call", content.Join("https://meet.example/x", "supper"), "m.room.message", map[string]any{"body": "supper\nJoin the call: https://meet.example/x"})

	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 3, 2))); err != nil {
		t.Fatal(err)
	}
	event, _ := check("a picture with a caption", content.New(content.Together(content.MarkdownPart("*look*"), s.tw.attach("image/png", "../rose.png", picture.Bytes()))), "m.room.message", map[string]any{
		"msgtype": "m.image", "body": "_look_", "filename": "rose.png", "formatted_body": "<em>look</em>", "info": map[string]any{"mimetype": "image/png", "size": picture.Len(), "w": 3, "h": 2}})
	url := s.stub.event(mx, event)["content"].(map[string]any)["url"].(string)
	if !bytes.Equal(s.stub.media[url[strings.LastIndex(url, "/")+1:]], picture.Bytes()) {
		t.Error("the picture is another")
	}
	sticker := content.New(s.tw.attach("image/png", "s.png", picture.Bytes()))
	setStyle(sticker, "sticker")
	check("a sticker", sticker, "m.sticker", map[string]any{"body": "s.png"})
	check("a file that is gone", content.Attach("application/pdf", content.External{URL: "https://files.example/none", Filename: "x.pdf"}), "m.room.message", map[string]any{
		"msgtype": "m.notice", "body": `(The file "x.pdf" cannot be shown here: it is not there any more.)`})
	check("a file that is too large", content.New(s.tw.attach("application/pdf", "big.pdf", make([]byte, 2<<20))), "m.room.message", map[string]any{
		"msgtype": "m.notice", "body": `(The file "big.pdf" cannot be shown here: it has 2 MB, and this homeserver takes 0 MB.)`})
	long, _ := last(content.Text(strings.Repeat("parting ", 10000)))
	if len(long) != 2 || long[1]["content"].(map[string]any)["filename"] != nil || long[1]["content"].(map[string]any)["msgtype"] != "m.file" {
		t.Errorf("a long text: %.300v", long)
	}
	if none, _ := last(content.Edit(mine, nil, content.TextPart("forged"))); len(none) != 0 {
		t.Errorf("an edit of somebody else's message: %v", none)
	}

	redacts := func() []string {
		s.stub.mu.Lock()
		defer s.stub.mu.Unlock()
		return slices.Clone(s.stub.rooms[mx].redacts)
	}
	last(content.Unlike(reactionID, mine))
	if got := redacts(); !slices.Equal(got, []string{reaction}) {
		t.Errorf("taking a reaction back: %v", got)
	}
	last(content.Delete(plainID, nil))
	if got := redacts(); len(got) != 3 || !slices.Contains(got, plain) {
		t.Errorf("deleting a message and its edit: %v", got)
	}
	last(content.Delete(mine, nil)) // romeo made the room and may
	if got := redacts(); len(got) != 4 || got[3] != "$mine" {
		t.Errorf("deleting as a moderator: %v", got)
	}
	s.tw.add(room, romeo, mercutio)
	s.tw.settled(s.ctx)
	s.tw.send(room, mercutio, content.Delete(mine, nil))
	s.tw.settled(s.ctx)
	if got := redacts(); len(got) != 4 {
		t.Errorf("deleting as nobody: %v", got)
	}
}

// TestFilesFromMatrix: files are taken from the homeserver, also encrypted ones.
func TestFilesFromMatrix(t *testing.T) {
	s := newService(t)
	_, mx := s.portal()
	data := []byte("a rose by any other name")
	key := attachment.NewEncryptedFile()
	s.stub.mu.Lock()
	s.stub.media["rose"], s.stub.media["secret"] = data, key.Encrypt(data)
	s.stub.mu.Unlock()
	var file map[string]any
	if err := json.Unmarshal(mustJSON(key), &file); err != nil {
		t.Fatal(err)
	}
	file["url"] = "mxc://" + server + "/secret"
	forged := plus(file, "url", "mxc://"+server+"/rose")
	for name, body := range map[string]map[string]any{
		"plain":     {"msgtype": "m.image", "body": "look", "filename": "rose.png", "url": "mxc://" + server + "/rose", "info": map[string]any{"mimetype": "image/png", "thumbnail_url": "mxc://" + server + "/rose"}},
		"encrypted": {"msgtype": "m.file", "body": "rose.png", "file": file, "info": map[string]any{"mimetype": "image/png"}},
	} {
		s.put(from(mx, "$"+name, "m.room.message", body))
		in := s.tw.intent(s.ctx, name, func(in adapter.Intent) bool { return in.OriginID == "$"+name })
		c := in.Content.Classify()
		files, previews := filesOf(c)
		if len(files) != 1 || files[0].Part.External.Filename != "rose.png" || files[0].Part.ContentType != "image/png" || !bytes.Equal(s.tw.files[files[0].Part.External.URL].data, data) {
			t.Errorf("%s: %+v", name, c)
		}
		if caption, _ := in.Content.PlainText(); name == "plain" && (caption != "look" || len(previews) != 1) {
			t.Errorf("caption %q, %d thumbnails", caption, len(previews))
		}
	}
	for name, tc := range map[string]struct {
		body map[string]any
		want string
	}{
		"forged":  {map[string]any{"msgtype": "m.file", "body": "x", "file": forged}, "it is not what its message says"},
		"missing": {map[string]any{"msgtype": "m.file", "body": "x", "url": "mxc://" + server + "/none"}, "the homeserver does not have it"},
		"no URL":  {map[string]any{"msgtype": "m.audio", "body": "x"}, "its address is none"},
	} {
		s.put(from(mx, "$"+name, "m.room.message", tc.body))
		s.until(mx, name, func() bool {
			return slices.ContainsFunc(s.stub.messages(mx), func(m string) bool { return strings.Contains(m, tc.want) })
		})
		if n := s.tw.count(func(in adapter.Intent) bool { return in.OriginID == "$"+name }); n != 0 {
			t.Errorf("%s was sent", name)
		}
	}
}

// TestReceipts: reading and arrival are reported both ways, but for those who do not want it.
func TestReceipts(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	ids := []content.MessageID{s.tw.say(room, romeo, "one"), s.tw.say(room, romeo, "two"), s.tw.say(room, romeo, "three")}
	s.tw.settled(s.ctx)
	delivered := 0
	s.tw.until(s.ctx, "arrival is reported", func() bool {
		delivered = 0
		for _, in := range s.tw.intents {
			if r, ok := in.Content.StatusReport(); ok && len(r) == 1 && r[0].Status == content.StatusDelivered {
				delivered++
			}
		}
		return delivered == 3
	})
	events := s.stub.find(mx, "m.room.message")
	receipt := func(event any, user string) string {
		return fmt.Sprintf(`{"events":[],"de.sorunome.msc2409.ephemeral":[{"type":"m.receipt","room_id":%q,"content":{%q:{"m.read":{%q:{"ts":1700000000000}}}}}]}`, mx, event, user)
	}
	put := func(n int, body string) {
		t.Helper()
		if status, answer := s.do(http.MethodPut, fmt.Sprint(txnPath, "r", n), body, nil); status != 200 {
			t.Fatal(status, answer)
		}
	}
	put(1, receipt(events[1]["event_id"], "@juliet:"+server))
	in := s.tw.sent(s.ctx, "reading two", func(m *content.Message, c content.Class) bool {
		r, ok := m.StatusReport()
		return ok && r[0].Status == content.StatusRead
	})
	want := content.StatusReport{{ID: ids[0], Status: content.StatusRead}, {ID: ids[1], Status: content.StatusRead}}
	if r, _ := in.Content.StatusReport(); !slices.Equal(r, want) || in.Actor.String() != local("juliet") {
		t.Errorf("%v", r)
	}
	if err := s.a.(*Adapter).current.Load().st.set("receipts @juliet:"+server, "off"); err != nil {
		t.Fatal(err)
	}
	put(2, receipt(events[2]["event_id"], "@juliet:"+server))
	put(3, receipt(events[2]["event_id"], ghostOf(romeo)))
	s.put(from(mx, "$mine", "m.room.message", map[string]any{"msgtype": "m.text", "body": "I heard"}))
	mine := s.idOf(room, "$mine")
	if n := s.tw.count(func(in adapter.Intent) bool {
		r, ok := in.Content.StatusReport()
		return ok && r[0].Status == content.StatusRead
	}); n != 1 {
		t.Errorf("%d reports of reading", n)
	}
	for _, status := range []content.Status{content.StatusDelivered, content.StatusRead} {
		m, err := content.StatusMessage(content.StatusReport{{ID: mine, Status: status}})
		if err != nil {
			t.Fatal(err)
		}
		s.tw.send(room, romeo, m)
	}
	s.tw.settled(s.ctx)
	s.stub.mu.Lock()
	read := slices.Clone(s.stub.rooms[mx].read)
	s.stub.mu.Unlock()
	if !slices.Equal(read, []string{ghostOf(romeo) + " $mine"}) {
		t.Errorf("receipts %v", read)
	}
	told := s.stub.find(mx, "com.beeper.message_send_status")
	if len(told) != 2 || fmt.Sprint(told[1]["content"].(map[string]any)["delivered_to_users"]) != "["+ghostOf(romeo)+"]" {
		t.Errorf("%v", told)
	}
}

// TestExpiry: what has expired is redacted, also after a restart.
func TestExpiry(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	s.tw.send(room, romeo, content.Text("soon gone").ExpireAt(time.Now().Add(time.Second)))
	s.tw.send(room, romeo, content.Text("gone before").ExpireAt(time.Now().Add(-time.Hour)))
	s.tw.send(room, romeo, content.Text("gone when read").ExpireAfter(time.Second))
	s.tw.settled(s.ctx)
	if got := s.stub.messages(mx); len(got) != 2 {
		t.Fatalf("%v", got)
	}
	s.stop()
	s.start()
	events := s.stub.find(mx, "m.room.message")
	redacted := func() []string {
		s.stub.mu.Lock()
		defer s.stub.mu.Unlock()
		return slices.Clone(s.stub.rooms[mx].redacts)
	}
	s.until(mx, "the first is redacted", func() bool { return len(redacted()) == 1 })
	body := fmt.Sprintf(`{"events":[],"ephemeral":[{"type":"m.receipt","room_id":%q,"content":{%q:{"m.read":{"@juliet:%s":{"ts":%d}}}}}]}`, mx, events[1]["event_id"], server, time.Now().UnixMilli())
	if status, answer := s.do(http.MethodPut, txnPath+"e", body, nil); status != 200 {
		t.Fatal(status, answer)
	}
	s.until(mx, "the second is redacted", func() bool { return len(redacted()) == 2 })
	if got := redacted(); got[0] != events[0]["event_id"] || got[1] != events[1]["event_id"] {
		t.Errorf("%v of %v", got, events)
	}
}

// TestRefusedMessage: the author is told why, by a notice and by a status event, and what refers to it waits for nobody.
func TestRefusedMessage(t *testing.T) {
	s := newService(t)
	_, mx := s.portal()
	s.tw.setRefuse(func(in adapter.Intent) error {
		if text, _ := in.Content.PlainText(); text == "loud" {
			return fault.New(fault.Forbidden, "you have no voice here")
		}
		return nil
	})
	s.put(from(mx, "$loud", "m.room.message", map[string]any{"msgtype": "m.text", "body": "loud"}))
	s.put(from(mx, "$about", "m.reaction", map[string]any{"m.relates_to": rel("m.annotation", "$loud", "key", "x")}),
		from(mx, "$quiet", "m.room.message", map[string]any{"msgtype": "m.text", "body": "quiet", "m.relates_to": answering("$loud")}))
	in := s.tw.intent(s.ctx, "quiet", sends("quiet"))
	if in.Content.InReplyTo != nil {
		t.Error("a reply to what is no message")
	}
	s.until(mx, "the notice", func() bool {
		return slices.Contains(s.stub.messages(mx), s.stub.bot+": Not delivered: you have no voice here.")
	})
	s.until(mx, "the status", func() bool { return len(s.stub.find(mx, "com.beeper.message_send_status")) > 0 })
	status := s.stub.find(mx, "com.beeper.message_send_status")[0]["content"].(map[string]any)
	if status["status"] != "FAIL_PERMANENT" || status["reason"] != "m.no_permission" || status["message"] != "you have no voice here" {
		t.Errorf("%v", status)
	}
	if n := s.tw.count(func(in adapter.Intent) bool { return in.OriginID == "$about" }); n != 0 {
		t.Error("a reaction to what is no message was sent")
	}
}
