package xmpp

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// tell is a message of somebody elsewhere.
func (w *world) tell(u, sender mimiuri.URI, c *content.Message) (id content.MessageID) {
	w.t.Helper()
	w.tw.do(func() { id = w.tw.message(w.tw.room(u), sender, c, nil) })
	w.tw.must(w.tw.delivered(u))
	return id
}

// intent waits for the n-th message that the adapter hands in.
func (w *world) intent(n int) adapter.Intent {
	w.t.Helper()
	var in adapter.Intent
	w.tw.must(w.tw.until(fmt.Sprintf("message %d is handed in", n), func() bool {
		i := 0
		for _, x := range w.tw.intents {
			if x.Kind == adapter.SendMessage {
				if i++; i == n {
					in = x
					return true
				}
			}
		}
		return false
	}))
	return in
}

func (w *world) messages() int { return w.tw.count(adapter.SendMessage) }

// talks sends the children of a groupchat message by romeo, and returns what is handed in for it.
func (w *world) talks(id, kids string) adapter.Intent {
	w.t.Helper()
	n := w.messages()
	w.toRooms("<message type='groupchat' id='%s' from='%s' to='%s'>%s</message>", id, romeo, balcony, kids)
	return w.intent(n + 1)
}

// shown returns the first message to romeo from mark on that is not an error.
func (w *world) shown(mark int) *element {
	w.t.Helper()
	return w.expect(mark, "a message", func(e *element) bool {
		return e.Local == "message" && strings.HasPrefix(e.attr("to"), "romeo@") && e.attr("type") != "error" && !strings.HasPrefix(e.attr("id"), "probe-")
	})
}

func sid(e *element) string { return e.child(nsSID, "stanza-id").attr("id") }

// What XMPP says, as MIMI content.
func TestToContent(t *testing.T) {
	covers(t, "styling", "XEP-0393", "to MIMI", "stanzas")
	covers(t, "replies with a fallback", "XEP-0461, XEP-0428", "to MIMI", "stanzas")
	covers(t, "mentions, also by nick", "XEP-0372", "to MIMI", "stanzas")
	covers(t, "threads", "XEP-0201", "to MIMI", "stanzas")
	covers(t, "disappearing messages", "XEP-0466", "to MIMI", "stanzas")
	covers(t, "places", "XEP-0080", "to MIMI", "stanzas")
	covers(t, "/me", "XEP-0245", "to MIMI", "stanzas")
	w := newBalcony(t)
	hers := w.tell(balconyURI, julietURI, content.Text("Romeo, Romeo, wherefore art thou Romeo?"))
	for i, c := range []struct {
		clause, kids string
		check        func(m *content.Message, k content.Class) bool
	}{
		{"plain", "<body>hi</body>", func(m *content.Message, k content.Class) bool {
			return m.Body.ContentType == content.TypePlain && string(m.Body.Content) == "hi"
		}},
		{"several lines", "<body>a\n\nb</body>", func(m *content.Message, k content.Class) bool {
			return m.Body.ContentType == content.TypePlain && string(m.Body.Content) == "a\n\nb"
		}},
		{"XEP-0393 strong", "<body>so *bold* and _soft_ and ~gone~ and `code`</body>", func(m *content.Message, k content.Class) bool {
			return m.Body.ContentType == content.TypeMarkdown && strings.Contains(string(m.Body.Content), "**bold**") && strings.Contains(string(m.Body.Content), "~~gone~~")
		}},
		{"XEP-0393 quotation", "<body>&gt; he said\nI say</body>", func(m *content.Message, k content.Class) bool {
			return m.Body.ContentType == content.TypeMarkdown && strings.HasPrefix(string(m.Body.Content), "> he said\n")
		}},
		{"XEP-0393 unstyled", "<body>so *bold*</body><unstyled xmlns='urn:xmpp:styling:0'/>", func(m *content.Message, k content.Class) bool {
			return m.Body.ContentType == content.TypePlain && string(m.Body.Content) == "so *bold*"
		}},
		{"XEP-0461 with the fallback of XEP-0428", "<body>&gt; juliet:\n&gt; Romeo\nI take thee</body><reply xmlns='urn:xmpp:reply:0' id='" + hers.String() + "'/><fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='18'/></fallback>", func(m *content.Message, k content.Class) bool {
			return m.InReplyTo != nil && *m.InReplyTo == hers && string(m.Body.Content) == "I take thee"
		}},
		{"XEP-0461 to an unknown message keeps the quotation", "<body>&gt; x\nI take thee</body><reply xmlns='urn:xmpp:reply:0' id='nothing'/><fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'><body start='0' end='4'/></fallback>", func(m *content.Message, k content.Class) bool {
			return m.InReplyTo == nil && strings.Contains(string(m.Body.Content), "> x")
		}},
		{"XEP-0372 of an occupant", "<body>&#x1F600; Juliet!</body><reference xmlns='urn:xmpp:reference:0' type='mention' begin='2' end='8' uri='xmpp:" + balcony + "/juliet'/>", func(m *content.Message, k content.Class) bool {
			return len(k.Mentions) == 1 && k.Mentions[0] == julietURI
		}},
		{"XEP-0372 of a contact", "<body>Juliet!</body><reference xmlns='urn:xmpp:reference:0' type='mention' begin='0' end='6' uri='xmpp:juliet%25matrix.example@" + testUsers + "'/>", func(m *content.Message, k content.Class) bool {
			return len(k.Mentions) == 1 && k.Mentions[0] == julietURI
		}},
		{"a nick at the beginning", "<body>Juliet: hello</body>", func(m *content.Message, k content.Class) bool {
			return len(k.Mentions) == 1 && k.Mentions[0] == julietURI
		}},
		{"a nick behind an @", "<body>hello @juliet, how are you?</body>", func(m *content.Message, k content.Class) bool {
			return len(k.Mentions) == 1 && k.Mentions[0] == julietURI
		}},
		{"a nick in the middle is none", "<body>I wrote juliet: hello</body>", func(m *content.Message, k content.Class) bool { return len(k.Mentions) == 0 }},
		{"a thread", "<body>x</body><thread>topic one</thread>", func(m *content.Message, k content.Class) bool {
			return string(m.TopicID) == "topic one"
		}},
		{"XEP-0466", "<body>x</body><ephemeral xmlns='urn:xmpp:ephemeral:0' timer='60'/>", func(m *content.Message, k content.Class) bool {
			return m.Expires != nil && m.Expires.Relative && m.Expires.Time == 60
		}},
		{"XEP-0466 without a number", "<body>x</body><ephemeral xmlns='urn:xmpp:ephemeral:0' timer='soon'/>", func(m *content.Message, k content.Class) bool { return m.Expires == nil }},
		{"XEP-0080 alone", "<geoloc xmlns='http://jabber.org/protocol/geoloc'><lat>45.44</lat><lon>12.33</lon><text>Verona, nearly</text></geoloc>", func(m *content.Message, k content.Class) bool {
			return string(m.Body.Content) == "Verona, nearly geo:45.44,12.33"
		}},
		{"XEP-0245", "<body>/me sighs</body>", func(m *content.Message, k content.Class) bool { return string(m.Body.Content) == "/me sighs" }},
		{"XEP-0444", "<reactions xmlns='urn:xmpp:reactions:0' id='" + hers.String() + "'><reaction>\U0001F44D</reaction><reaction>\u2764</reaction><reaction>\u2764</reaction></reactions>", func(m *content.Message, k content.Class) bool {
			return k.Kind == content.KindReaction && k.Target == hers && len(k.Reactions) == 2
		}},
		{"XEP-0333", "<displayed xmlns='urn:xmpp:chat-markers:0' id='" + hers.String() + "'/>", func(m *content.Message, k content.Class) bool {
			r, ok := m.StatusReport()
			return ok && len(r) == 1 && r[0].ID == hers && r[0].Status == content.StatusRead
		}},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			in := w.talks(fmt.Sprintf("c%d", i), c.kids)
			if k := in.Content.Classify(); !c.check(in.Content, k) {
				t.Errorf("%+v\nbody %+v %q\nclass %+v", in.Content, in.Content.Body, in.Content.Body.Content, k)
			}
		})
	}
}

// What comes from elsewhere, as stanzas.
func TestFromContent(t *testing.T) {
	covers(t, "styling", "XEP-0393", "from MIMI", "stanzas")
	covers(t, "calls as a link", "–", "from MIMI", "stanzas")
	w := newBalcony(t)
	mine := w.talks("mine-1", "<body>But, soft!\nwhat light</body><origin-id xmlns='urn:xmpp:sid:0' id='o-1'/>")
	_ = mine
	w.tw.must(w.tw.delivered(balconyURI))
	first := w.expect(0, "the reflection", isMessage(romeo, "But, soft!\nwhat light"))
	firstID, err := content.ParseMessageID(sid(first))
	if err != nil || first.attr("id") != "mine-1" {
		t.Fatal(first)
	}
	hers := w.tell(balconyURI, julietURI, content.Text("Ay me!"))
	topic := content.Text("in a topic")
	topic.TopicID = []byte{0, 1, 2}
	for _, c := range []struct {
		clause string
		m      *content.Message
		check  func(e *element) bool
	}{
		{"plain", content.Text("hi"), func(e *element) bool { return bodyText(e) == "hi" && e.child(nsMarkers, "markable") != nil }},
		{"XEP-0393", content.Markdown("so **bold** and *soft*"), func(e *element) bool { return bodyText(e) == "so *bold* and _soft_" }},
		{"plain text with marks", content.Text("so *bold*"), func(e *element) bool {
			return bodyText(e) == "so *bold*" && e.child(nsStyling, "unstyled") != nil
		}},
		{"XEP-0461", content.Reply(firstID, content.TextPart("who is there?")), func(e *element) bool {
			r, f := e.child(nsReply, "reply"), e.child(nsFallback, "fallback").child(nsFallback, "body")
			return r.attr("id") == firstID.String() && r.attr("to") == balcony+"/Romeo" && bodyText(e) == "> Romeo:\n> But, soft!\n> what light\nwho is there?" &&
				f.attr("start") == "0" && f.attr("end") == "35"
		}},
		{"XEP-0372", content.Markdown("hey " + content.Mention(romeoURI, "Montague") + "!"), func(e *element) bool {
			r := e.child(nsReference, "reference")
			return bodyText(e) == "hey Romeo!" && r.attr("begin") == "4" && r.attr("end") == "9" && r.attr("uri") == "xmpp:romeo@xmpp.example"
		}},
		{"a thread of octets", topic, func(e *element) bool {
			return string(topicOf(e.text("", "thread"))) == "\x00\x01\x02"
		}},
		{"XEP-0466", content.Text("x").ExpireAfter(time.Minute), func(e *element) bool { return e.child(nsEphemeral, "ephemeral").attr("timer") == "60" }},
		{"XEP-0308", content.Edit(hers, nil, content.TextPart("Ay me indeed!")), func(e *element) bool {
			return bodyText(e) == "Ay me indeed!" && e.child(nsCorrect, "replace").attr("id") == hers.String()
		}},
		{"XEP-0444", content.React(firstID, "\U0001F44D"), func(e *element) bool {
			r := e.child(nsReactions, "reactions")
			return r.attr("id") == firstID.String() && r.text(nsReactions, "reaction") == "\U0001F44D" && e.child("", "body") == nil
		}},
		{"a call", content.Join("https://call.example/x", "the balcony"), func(e *element) bool {
			return bodyText(e) == "Join the call: the balcony\nhttps://call.example/x"
		}},
		{"XEP-0424", content.Delete(hers, nil), func(e *element) bool {
			return e.child(nsRetract, "retract").attr("id") == hers.String() && e.child(nsFasten, "apply-to").attr("id") == hers.String() && e.attr("from") == balcony+"/juliet"
		}},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			mark := w.mark()
			id := w.tell(balconyURI, julietURI, c.m)
			e := w.shown(mark)
			if !c.check(e) || sid(e) != id.String() || e.attr("id") != id.String() {
				t.Errorf("%s", e)
			}
		})
	}
	// What is not the sender's to change is not shown, and changes nothing.
	nurse := mimiuri.MustParse("mimi://matrix.example/u/nurse")
	w.tw.do(func() { w.tw.add(w.tw.room(balconyURI), nurse, julietURI, nil) })
	w.tw.must(w.tw.delivered(balconyURI))
	mark := w.mark()
	w.tell(balconyURI, nurse, content.Edit(firstID, nil, content.TextPart("SPOOFED")))
	w.tell(balconyURI, nurse, content.Delete(firstID, nil))
	w.tell(balconyURI, nurse, content.React(content.MessageID{1, 9}, "x"))
	w.tell(balconyURI, nurse, content.Unlike(firstID, firstID))
	if got := w.settled(mark, to(romeo)); len(got) != 0 {
		t.Errorf("shown: %s", got[0])
	}
}

// Both worlds know a message by their own ids, also after a restart of the daemon: a correction, a reaction, a reply and a
// retraction that refer to a message of before find it.
func TestIDsAfterRestart(t *testing.T) {
	covers(t, "ids of both worlds after a restart", "XEP-0359, XEP-0308", "both", "stanzas")
	w := newBalcony(t)
	w.talks("mine-1", "<body>first</body>")
	e := w.expect(0, "the reflection", isMessage(romeo, "first"))
	hers := w.tell(balconyURI, julietURI, content.Text("hers"))
	w.restart()
	if in := w.talks("r", "<reactions xmlns='urn:xmpp:reactions:0' id='"+hers.String()+"'><reaction>x</reaction></reactions>"); in.Content.Classify().Target != hers {
		t.Errorf("%+v", in.Content)
	}
	if in := w.talks("q", "<body>y</body><reply xmlns='urn:xmpp:reply:0' id='"+hers.String()+"'/>"); *in.Content.InReplyTo != hers {
		t.Errorf("%+v", in.Content)
	}
	in := w.talks("e", "<body>second</body><replace xmlns='urn:xmpp:message-correct:0' id='mine-1'/>")
	if k := in.Content.Classify(); k.Kind != content.KindEdit || k.Target.String() != sid(e) {
		t.Errorf("%+v", k)
	}
	mark := w.mark()
	// The correction of a correction is one of the first version.
	in = w.talks("e2", "<body>third</body><replace xmlns='urn:xmpp:message-correct:0' id='e'/>")
	if k := in.Content.Classify(); k.Kind != content.KindEdit || k.Target.String() != sid(e) {
		t.Errorf("%+v", k)
	}
	if e := w.expect(mark, "the correction", isMessage(romeo, "third")); e.child(nsCorrect, "replace").attr("id") != "mine-1" || e.attr("id") != "e2" {
		t.Error(e)
	}
	in = w.talks("d", "<retract xmlns='urn:xmpp:message-retract:1' id='"+sid(e)+"'/>")
	if k := in.Content.Classify(); k.Kind != content.KindDelete || k.Target.String() != sid(e) {
		t.Errorf("%+v", k)
	}
	// Who joins now is not shown what was retracted.
	w.tw.must(w.tw.delivered(balconyURI))
	w.restart()
	mark = w.mark()
	w.join("romeo@xmpp.example/new", balcony, "Romeo")
	for _, e := range w.since(mark, func(e *element) bool { return e.attr("to") == "romeo@xmpp.example/new" && bodyText(e) == "first" }) {
		t.Error(e)
	}
	w.expect(mark, "the past", isMessage("romeo@xmpp.example/new", "hers"))
}

// What refers to a message that has not been accepted yet is handed in at once, and so cannot be lost; also by a daemon that was
// started after that message.
func TestReferringToWhatIsUnderWay(t *testing.T) {
	covers(t, "corrections, reactions, replies and retractions of what is under way", "XEP-0308, XEP-0444, XEP-0461, XEP-0424", "to MIMI", "stanzas")
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			w := newBalcony(t)
			hers := w.tell(balconyURI, julietURI, content.Text("Ay me!"))
			w.tw.do(func() { w.tw.hold = true })
			w.talks("m1", "<body>frist</body>")
			react := func(list string) string {
				return "<reactions xmlns='urn:xmpp:reactions:0' id='" + hers.String() + "'>" + list + "</reactions>"
			}
			w.talks("r1", react("<reaction>a</reaction>"))
			if restart {
				w.restart()
			}
			id := func(n int) content.MessageID { // of the n-th of his messages
				var list []adapter.Pending
				list, _ = w.tw.Pending(context.Background(), balconyURI, romeoURI)
				return list[n].ID
			}
			m1, r1 := id(0), id(1)
			if k := w.talks("m2", "<body>first</body><replace xmlns='urn:xmpp:message-correct:0' id='m1'/>").Content.Classify(); k.Kind != content.KindEdit || k.Target != m1 {
				t.Errorf("a correction: %+v", k)
			}
			if k := w.talks("m3", "<body>First</body><replace xmlns='urn:xmpp:message-correct:0' id='m2'/>").Content.Classify(); k.Kind != content.KindEdit || k.Target != m1 {
				t.Errorf("a correction of the correction: %+v", k)
			}
			if k := w.talks("r2", react("<reaction>b</reaction>")).Content.Classify(); k.Kind != content.KindReact || k.Target != r1 {
				t.Errorf("a change of a reaction: %+v", k)
			}
			if k := w.talks("r3", react("")).Content.Classify(); k.Kind != content.KindUnlike || k.Target != r1 {
				t.Errorf("a reaction taken back: %+v", k)
			}
			if k := w.talks("r4", react("<reaction>c</reaction>")).Content.Classify(); k.Kind != content.KindReaction || k.Target != hers {
				t.Errorf("a reaction anew: %+v", k)
			}
			if c := w.talks("m4", "<body>and more</body><reply xmlns='urn:xmpp:reply:0' id='m1'/>").Content; c.InReplyTo == nil || *c.InReplyTo != m1 {
				t.Errorf("a reply: %+v", c)
			}
			if k := w.talks("m5", "<retract xmlns='urn:xmpp:message-retract:1' id='m1'/>").Content.Classify(); k.Kind != content.KindDelete || k.Target != m1 {
				t.Errorf("a retraction: %+v", k)
			}
			mark := w.mark()
			w.tw.release()
			w.tw.must(w.tw.delivered(balconyURI))
			w.expect(mark, "the retraction", func(e *element) bool { return to(romeo)(e) && e.attr("id") == "m5" })
		})
	}
}

// XEP-0444: all of somebody's reactions each time on XMPP, one message that is changed on MIMI.
func TestReactions(t *testing.T) {
	covers(t, "several reactions of one person", "XEP-0444", "both", "stanzas")
	w := newBalcony(t)
	hers := w.tell(balconyURI, julietURI, content.Text("Ay me!"))
	react := func(id, list string) adapter.Intent {
		in := w.talks(id, "<reactions xmlns='urn:xmpp:reactions:0' id='"+hers.String()+"'>"+list+"</reactions>")
		w.tw.must(w.tw.delivered(balconyURI))
		return in
	}
	if k := react("1", "<reaction>a</reaction>").Content.Classify(); k.Kind != content.KindReaction {
		t.Errorf("%+v", k)
	}
	if k := react("2", "<reaction>a</reaction><reaction>b</reaction>").Content.Classify(); k.Kind != content.KindReact || len(k.Reactions) != 2 {
		t.Errorf("%+v", k)
	}
	mark := w.mark()
	if k := react("3", "").Content.Classify(); k.Kind != content.KindUnlike {
		t.Errorf("%+v", k)
	}
	if e := w.shown(mark); len(e.child(nsReactions, "reactions").Kids) != 0 {
		t.Error(e)
	}
	// Taking back what is not there is nothing.
	n := w.messages()
	w.toRooms("<message type='groupchat' id='4' from='%s' to='%s'><reactions xmlns='urn:xmpp:reactions:0' id='%s'/></message>", romeo, balcony, hers)
	w.quiet(romeo)
	if w.messages() != n {
		t.Error("something was sent")
	}
	// Somebody elsewhere reacts by a message each, as Matrix does.
	w.talks("mine", "<body>mine</body>")
	mine, err := content.ParseMessageID(sid(w.expect(0, "mine", isMessage(romeo, "mine"))))
	if err != nil {
		t.Fatal(err)
	}
	texts := func() string {
		var out []string
		for _, k := range w.shown(mark).child(nsReactions, "reactions").Kids {
			out = append(out, k.Text)
		}
		return strings.Join(out, " ")
	}
	var ids []content.MessageID
	for i, want := range []string{"x", "x y"} {
		mark = w.mark()
		ids = append(ids, w.tell(balconyURI, julietURI, content.React(mine, string(rune('x'+i)))))
		if got := texts(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	mark = w.mark()
	w.tell(balconyURI, julietURI, content.Unlike(ids[0], mine))
	if got := texts(); got != "y" {
		t.Errorf("%q", got)
	}
	mark = w.mark()
	w.tell(balconyURI, julietURI, content.Delete(ids[1], &mine)) // a retraction of it means the same
	if got := texts(); got != "" {
		t.Errorf("%q", got)
	}
}

// Refusals of messages about messages.
func TestMessageRefusals(t *testing.T) {
	covers(t, "encryption between clients is refused", "XEP-0384, XEP-0373, XEP-0380", "to MIMI", "stanzas")
	w := newBalcony(t)
	hers := w.tell(balconyURI, julietURI, content.Text("Ay me!"))
	n := w.messages()
	for _, c := range []struct{ clause, kids, condition string }{
		{"XEP-0308 of another's", "<body>x</body><replace xmlns='urn:xmpp:message-correct:0' id='" + hers.String() + "'/>", "forbidden"},
		{"XEP-0308 of nothing", "<body>x</body><replace xmlns='urn:xmpp:message-correct:0' id='nothing'/>", "item-not-found"},
		{"XEP-0424 of another's", "<retract xmlns='urn:xmpp:message-retract:1' id='" + hers.String() + "'/>", "forbidden"},
		{"XEP-0424 of nothing", "<retract xmlns='urn:xmpp:message-retract:1' id='nothing'/>", "item-not-found"},
		{"XEP-0444 to nothing", "<reactions xmlns='urn:xmpp:reactions:0' id='nothing'><reaction>x</reaction></reactions>", "item-not-found"},
		{"XEP-0444 with a text", "<reactions xmlns='urn:xmpp:reactions:0' id='" + hers.String() + "'><reaction>" + strings.Repeat("x", 100) + "</reaction></reactions>", "not-acceptable"},
		{"XEP-0384", "<encrypted xmlns='urn:xmpp:omemo:2'/>", "not-acceptable"},
		{"XEP-0373", "<openpgp xmlns='urn:xmpp:openpgp:0'/>", "not-acceptable"},
		{"XEP-0380", "<body>x</body><encryption xmlns='urn:xmpp:eme:0' namespace='urn:xmpp:otr:0'/>", "not-acceptable"},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			mark := w.mark()
			w.toRooms("<message type='groupchat' id='e' from='%s' to='%s'>%s</message>", romeo, balcony, c.kids)
			wantError(t, w.expect(mark, "an error", isError(romeo, "e")), c.condition)
		})
	}
	if w.messages() != n {
		t.Error("something was sent")
	}
}

// XEP-0085 goes to the others in the room and no further; the setting turns it off.
func TestTyping(t *testing.T) {
	covers(t, "typing within the provider", "XEP-0085", "to MIMI", "stanzas")
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	mark := w.mark()
	composing := func() {
		w.toRooms("<message type='groupchat' id='t' from='%s' to='%s'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>", romeo, balcony)
		w.quiet(romeo)
	}
	isTyping := func(e *element) bool { return e.attr("to") == benvolio && e.child(nsStates, "composing") != nil }
	composing()
	if got := w.since(mark, isTyping); len(got) != 1 || got[0].attr("from") != balcony+"/Romeo" {
		t.Errorf("%v", got)
	}
	if err := w.tw.adapter.cur.Load().db.set(romeoURI, settingTyping, "off"); err != nil {
		t.Fatal(err)
	}
	mark = w.mark()
	composing()
	if got := w.since(mark, isTyping); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if w.messages() != 0 {
		t.Error("typing reached the provider")
	}
}

// XEP-0333 in a room: what was read is told once, in both directions, and not at all by who does not want it.
func TestMarkers(t *testing.T) {
	covers(t, "opting out of receipts", "XEP-0333", "to MIMI", "stanzas")
	w := newBalcony(t)
	hers := w.tell(balconyURI, julietURI, content.Text("one"))
	w.talks("d1", "<displayed xmlns='urn:xmpp:chat-markers:0' id='"+hers.String()+"'/>")
	n := w.messages()
	w.toRooms("<message type='groupchat' id='d2' from='%s' to='%s'><displayed xmlns='urn:xmpp:chat-markers:0' id='%s'/></message>", romeo, balcony, hers)
	if err := w.tw.adapter.cur.Load().db.set(romeoURI, settingReceipts, "off"); err != nil {
		t.Fatal(err)
	}
	more := w.tell(balconyURI, julietURI, content.Text("two"))
	w.toRooms("<message type='groupchat' id='d3' from='%s' to='%s'><displayed xmlns='urn:xmpp:chat-markers:0' id='%s'/></message>", romeo, balcony, more)
	w.quiet(romeo)
	if w.messages() != n {
		t.Error("told again, or against the person's will")
	}
	w.talks("mine", "<body>mine</body>")
	mine, _ := content.ParseMessageID(sid(w.expect(0, "mine", isMessage(romeo, "mine"))))
	report, err := content.StatusMessage(content.StatusReport{{ID: mine, Status: content.StatusRead}})
	if err != nil {
		t.Fatal(err)
	}
	mark := w.mark()
	w.tell(balconyURI, julietURI, report)
	if e := w.shown(mark); e.child(nsMarkers, "displayed").attr("id") != mine.String() || e.attr("from") != balcony+"/juliet" {
		t.Error(e)
	}
}

// XEP-0452: a mention reaches the bare JID of whoever is not in the room.
func TestMentionOfAbsent(t *testing.T) {
	covers(t, "mentions of who is not in the room", "XEP-0452", "from MIMI", "stanzas")
	w := newBalcony(t)
	w.addLocal(benURI)
	mark := w.mark()
	w.tell(balconyURI, julietURI, content.Markdown("where is "+content.Mention(benURI, "")+"?"))
	e := w.expect(mark, "the notice", func(e *element) bool {
		return e.attr("to") == "benvolio@xmpp.example" && e.child(nsMentions, "mentions") != nil
	})
	inner := e.child(nsMentions, "mentions").child(nsForward, "forwarded").child("", "message")
	if inner == nil || inner.text("", "body") != "where is benvolio?" {
		t.Error(e)
	}
	mark = w.mark()
	w.tell(balconyURI, julietURI, content.Text("no mention"))
	if got := w.settled(mark, to("benvolio@xmpp.example")); len(got) != 0 {
		t.Error(got[0])
	}
}

// XEP-0425, in its present and its first form: a moderator's request.
func TestModerate(t *testing.T) {
	covers(t, "moderation, both forms", "XEP-0425", "to MIMI", "stanzas")
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	for i, form := range []string{
		"<moderate xmlns='urn:xmpp:message-moderate:1' id='%s'><retract xmlns='urn:xmpp:message-retract:1'/><reason>rude</reason></moderate>",
		"<apply-to xmlns='urn:xmpp:fasten:0' id='%s'><moderate xmlns='urn:xmpp:message-moderate:0'><retract xmlns='urn:xmpp:message-retract:0'/></moderate></apply-to>",
	} {
		hers := w.tell(balconyURI, julietURI, content.Text("Ay me!"))
		wantError(t, w.ask(testRooms, benvolio, balcony, "set", fmt.Sprintf(form, hers)), "forbidden")
		mark := w.mark()
		if e := w.ask(testRooms, romeo, balcony, "set", fmt.Sprintf(form, hers)); e.attr("type") != "result" {
			t.Error(e)
		}
		if k := w.intent(i + 1).Content.Classify(); k.Kind != content.KindDelete || k.Target != hers {
			t.Errorf("%+v", k)
		}
		e := w.expect(mark, "the retraction", func(e *element) bool { return e.attr("to") == benvolio && e.child(nsRetract, "retract") != nil })
		if e.child(nsRetract, "retract").child(nsModerate, "moderated").attr("by") != balcony+"/Romeo" {
			t.Error(e)
		}
		wantError(t, w.ask(testRooms, romeo, balcony, "set", fmt.Sprintf(form, "nothing")), "item-not-found")
	}
}

// XEP-0425: a moderator's deletion is shown as one, from the room.
func TestModerated(t *testing.T) {
	w := newBalcony(t)
	w.talks("mine", "<body>mine</body>")
	mine, _ := content.ParseMessageID(sid(w.expect(0, "mine", isMessage(romeo, "mine"))))
	w.tw.do(func() { w.tw.room(balconyURI).info.Participants[1].Role = 3 })
	w.tw.do(func() { w.tw.emit(w.tw.room(balconyURI), adapter.Event{Kind: adapter.Metadata, Actor: romeoURI}) })
	w.tw.must(w.tw.delivered(balconyURI))
	mark := w.mark()
	w.tell(balconyURI, julietURI, content.Delete(mine, nil))
	e := w.shown(mark)
	if r := e.child(nsRetract, "retract"); r.attr("id") != mine.String() || r.child(nsModerate, "moderated").attr("by") != balcony+"/juliet" || e.attr("from") != balcony {
		t.Error(e)
	}
}

// XEP-0045 8.1: the subject is a part of the room's metadata.
func TestSubject(t *testing.T) {
	covers(t, "subject", "XEP-0045 8.1", "both", "stanzas")
	w := newBalcony(t)
	w.toRooms("<message type='groupchat' id='s' from='%s' to='%s'><subject>Love</subject></message>", romeo, balcony)
	w.tw.must(w.tw.until("the subject", func() bool {
		for _, in := range w.tw.intents {
			if in.Kind == adapter.SetMetadata && in.Metadata.Subject != nil && *in.Metadata.Subject == "Love" {
				return true
			}
		}
		return false
	}))
	e := w.expect(0, "the subject", func(e *element) bool { return e.attr("to") == romeo && e.text("", "subject") == "Love" })
	if e.attr("from") != balcony+"/Romeo" {
		t.Error(e)
	}
}

// A chat with one person elsewhere is the direct room with them.
func TestDirectChat(t *testing.T) {
	w := newWorld(t)
	n := 0
	chat := func(kids string) adapter.Intent {
		n++
		w.toUsers("<message type='chat' id='c%d' from='%s' to='%s'>%s</message>", n, romeo, juliet, kids)
		return w.intent(n)
	}
	in := chat("<body>hello</body>")
	u := in.Room
	var info adapter.Room
	w.tw.do(func() { info = w.tw.rooms[u].info })
	if !info.Direct {
		t.Fatalf("%+v", in)
	}
	w.tw.must(w.tw.delivered(u))
	mark := w.mark()
	hers := w.tell(u, julietURI, content.Text("hello you"))
	e := w.shown(mark)
	if e.attr("from") != juliet || e.attr("to") != "romeo@xmpp.example" || e.attr("type") != "chat" || bodyText(e) != "hello you" ||
		e.attr("id") != hers.String() || e.child(nsReceipts, "request") == nil || e.child(nsSID, "stanza-id") != nil {
		t.Error(e)
	}
	for _, c := range []struct {
		kids   string
		status content.Status
	}{
		{"<received xmlns='urn:xmpp:receipts' id='%s'/>", content.StatusDelivered},
		{"<displayed xmlns='urn:xmpp:chat-markers:0' id='%s'/>", content.StatusRead},
	} {
		if r, ok := chat(fmt.Sprintf(c.kids, hers)).Content.StatusReport(); !ok || r[0].ID != hers || r[0].Status != c.status {
			t.Errorf("%s: %+v", c.kids, r)
		}
	}
	mine, err := w.tw.adapter.cur.Load().db.findMessage(t.Context(), u, "c1", mimiuri.URI{})
	if err != nil || mine == nil {
		t.Fatal(mine, err)
	}
	report, _ := content.StatusMessage(content.StatusReport{{ID: mine.mimi, Status: content.StatusRead}})
	mark = w.mark()
	w.tell(u, julietURI, report)
	if e := w.shown(mark); e.child(nsReceipts, "received").attr("id") != "c1" || e.child(nsMarkers, "displayed").attr("id") != "c1" {
		t.Error(e)
	}
	mark = w.mark()
	w.tell(u, julietURI, content.Reply(mine.mimi, content.TextPart("what?")))
	if e := w.shown(mark); e.child(nsReply, "reply").attr("id") != "c1" || bodyText(e) != "> romeo:\n> hello\nwhat?" {
		t.Error(e)
	}
	if k := chat("<body>hello!</body><replace xmlns='urn:xmpp:message-correct:0' id='c1'/>").Content.Classify(); k.Kind != content.KindEdit || k.Target != mine.mimi {
		t.Errorf("%+v", k)
	}
	// Nothing of it is a room to join.
	if got := w.settled(0, func(e *element) bool {
		return strings.Contains(e.attr("from"), testRooms) && strings.HasPrefix(e.attr("to"), "romeo") && e.Local != "iq"
	}); len(got) != 0 {
		t.Error(got[0])
	}
	w.tw.do(func() {
		w.tw.refuseDirect = fault.New(fault.Forbidden, "they have not agreed to hear from you; ask first")
	})
	mark = w.mark()
	w.toUsers("<message type='chat' id='x' from='%s' to='%s'><body>x</body></message>", romeo, juliet)
	wantError(t, w.expect(mark, "an error", isError(romeo, "x")), "forbidden")
}

// XEP-0045 7.5: what is said to one occupant reaches only them, by the direct room if they are elsewhere.
func TestPrivateMessages(t *testing.T) {
	covers(t, "private messages as direct rooms", "XEP-0045 7.5", "to MIMI", "stanzas")
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	mark := w.mark()
	w.toRooms("<message type='chat' id='p' from='%s' to='%s/Ben'><body>psst</body><x xmlns='http://jabber.org/protocol/muc#user'/></message>", romeo, balcony)
	if e := w.expect(mark, "the message", isMessage(benvolio, "psst")); e.attr("from") != balcony+"/Romeo" || e.attr("type") != "chat" {
		t.Error(e)
	}
	w.toRooms("<message type='chat' id='q' from='%s' to='%s/juliet'><body>psst</body></message>", romeo, balcony)
	if in := w.intent(1); in.Room == balconyURI || in.Actor != romeoURI {
		t.Errorf("%+v", in)
	}
	for _, c := range []struct{ from, to, condition string }{
		{romeo, "nobody", "item-not-found"},
		{"romeo@xmpp.example/elsewhere", "Ben", "not-acceptable"},
	} {
		mark := w.mark()
		w.toRooms("<message type='chat' id='e' from='%s' to='%s/%s'><body>x</body></message>", c.from, balcony, c.to)
		wantError(t, w.expect(mark, "an error", isError(c.from, "e")), c.condition)
	}
}
