//go:build live

package xmpp

import (
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// tell is a message of somebody elsewhere.
func (l *live) tell(c *content.Message) (id content.MessageID) {
	l.tw.do(func() { id = l.tw.message(l.tw.room(balconyURI), julietURI, c, nil) })
	return id
}

// sent waits for the next message that is handed in after n.
func (l *live) sent(n int) (in adapter.Intent) {
	l.t.Helper()
	l.tw.must(l.tw.until("a message is handed in", func() bool {
		i := 0
		for _, x := range l.tw.intents {
			if x.Kind == adapter.SendMessage {
				if i++; i == n+1 {
					in = x
					return true
				}
			}
		}
		return false
	}))
	return in
}

// understood waits until the client itself has understood a message.
func (l *live) understood(c *testnet.SlixClient, mark int, what, ref, value string) testnet.SlixEvent {
	l.t.Helper()
	return l.wait(c, mark, what, func(e testnet.SlixEvent) bool {
		return e.Kind == "understood" && e.What == what && e.Ref == ref && e.Value == value
	})
}

// Every kind of message between a real client, a real server and somebody elsewhere: what slixmpp sends by its own
// means, and what it makes of what comes.
func TestLiveMessages(t *testing.T) { liveServers(t, liveMessages) }

func liveMessages(t *testing.T, l *live) {
	romeo := l.login("romeo@xmpp.example/orchard")
	l.join(romeo, balcony, "Romeo")
	l.tw.do(func() { l.tw.add(l.tw.room(balconyURI), julietURI, romeoURI, nil) })
	l.tw.must(l.tw.delivered(balconyURI))
	do := func(cmd string, args map[string]any) adapter.Intent {
		t.Helper()
		n := l.tw.count(adapter.SendMessage)
		args["to"] = balcony
		l.must(romeo.Do(l.ctx, cmd, args, nil))
		in := l.sent(n)
		l.tw.must(l.tw.delivered(balconyURI))
		return in
	}
	hers := l.tell(content.Text("Ay me!"))
	l.wait(romeo, 0, "her line", saying("Ay me!"))
	mine := do("message", map[string]any{"type": "groupchat", "body": "so *bold*", "mid": "m1"})
	if string(mine.Content.Body.Content) != "so **bold**" {
		t.Errorf("XEP-0393: %q", mine.Content.Body.Content)
	}
	reflection := l.wait(romeo, 0, "the reflection", saying("so *bold*"))
	mineID, err := content.ParseMessageID(reflection.StanzaID)
	l.must(err)

	covers(t, "replies", "XEP-0461, XEP-0428", "both", "slixmpp")
	if in := do("reply", map[string]any{"body": "speak again", "author": balcony + "/juliet", "ref": hers.String()}); in.Content.InReplyTo == nil || *in.Content.InReplyTo != hers {
		t.Errorf("%+v", in.Content)
	}
	mark := romeo.Mark()
	l.tell(content.Reply(mineID, content.TextPart("who is there?")))
	l.understood(romeo, mark, "reply", mineID.String(), "who is there?")

	covers(t, "reactions", "XEP-0444", "both", "slixmpp")
	if k := do("react", map[string]any{"ref": hers.String(), "reactions": []string{"\U0001F339"}}).Content.Classify(); k.Kind != content.KindReaction || k.Target != hers {
		t.Errorf("%+v", k)
	}
	if k := do("react", map[string]any{"ref": hers.String(), "reactions": []string{}}).Content.Classify(); k.Kind != content.KindUnlike {
		t.Errorf("%+v", k)
	}
	mark = romeo.Mark()
	l.tell(content.React(mineID, "\U0001F44D"))
	l.understood(romeo, mark, "reactions", mineID.String(), "\U0001F44D")

	covers(t, "corrections", "XEP-0308", "both", "slixmpp")
	if k := do("correct", map[string]any{"body": "so bold indeed", "ref": "m1", "mid": "m2"}).Content.Classify(); k.Kind != content.KindEdit || k.Target != mineID {
		t.Errorf("%+v", k)
	}
	mark = romeo.Mark()
	l.tell(content.Edit(hers, nil, content.TextPart("Ay me, again!")))
	l.understood(romeo, mark, "correction", hers.String(), "Ay me, again!")

	covers(t, "markers", "XEP-0333", "both", "slixmpp")
	if r, ok := do("displayed", map[string]any{"ref": hers.String()}).Content.StatusReport(); !ok || r[0].ID != hers {
		t.Errorf("%+v", r)
	}
	report, err := content.StatusMessage(content.StatusReport{{ID: mineID, Status: content.StatusRead}})
	l.must(err)
	mark = romeo.Mark()
	l.tell(report)
	l.understood(romeo, mark, "displayed", mineID.String(), "")

	covers(t, "retractions", "XEP-0424", "both", "slixmpp")
	mark = romeo.Mark()
	l.tell(content.Delete(hers, nil))
	l.understood(romeo, mark, "retraction", hers.String(), "")
	if k := do("retract", map[string]any{"ref": mineID.String()}).Content.Classify(); k.Kind != content.KindDelete || k.Target != mineID {
		t.Errorf("%+v", k)
	}

	covers(t, "moderation", "XEP-0425", "both", "slixmpp")
	rude := l.tell(content.Text("something rude"))
	l.wait(romeo, 0, "it", saying("something rude"))
	mark = romeo.Mark()
	if k := do("moderate", map[string]any{"ref": rude.String()}).Content.Classify(); k.Kind != content.KindDelete || k.Target != rude {
		t.Errorf("%+v", k)
	}
	l.understood(romeo, mark, "moderation", rude.String(), balcony+"/Romeo")

	covers(t, "mentions, threads, disappearing", "XEP-0372, XEP-0201, XEP-0466", "from MIMI", "slixmpp")
	mark = romeo.Mark()
	m := content.Markdown("hey " + content.Mention(romeoURI, "") + "!").ExpireAfter(60e9)
	m.TopicID = []byte("love")
	l.tell(m)
	ev := l.wait(romeo, mark, "the mention", saying("hey Romeo!"))
	for _, want := range []string{"xmpp:romeo@xmpp.example", "<thread>love</thread>", `timer="60"`} {
		if !strings.Contains(ev.XML, want) {
			t.Errorf("%s is missing in %s", want, ev.XML)
		}
	}

	covers(t, "archive", "XEP-0313", "both", "slixmpp")
	var page struct {
		XML string `json:"xml"`
	}
	l.must(romeo.Do(l.ctx, "archive", map[string]any{"to": balcony, "page": 3}, &page))
	for _, want := range []string{"hey Romeo!", "retracted", rude.String()} {
		if !strings.Contains(page.XML, want) {
			t.Errorf("%s is missing in the archive:\n%s", want, page.XML)
		}
	}

	covers(t, "conversations with one person, receipts", "XEP-0184", "both", "slixmpp")
	n := l.tw.count(adapter.SendMessage)
	l.must(romeo.Chat(l.ctx, juliet, "in private", "c1"))
	direct := l.sent(n).Room
	l.tw.must(l.tw.delivered(direct))
	var id content.MessageID
	l.tw.do(func() { id = l.tw.message(l.tw.room(direct), julietURI, content.Text("yes?"), nil) })
	l.wait(romeo, 0, "her answer", func(e testnet.SlixEvent) bool {
		return e.Type == "chat" && e.Bare() == juliet && e.Body == "yes?"
	})
	if r, ok := l.sent(n + 1).Content.StatusReport(); !ok || r[0].ID != id || r[0].Status != content.StatusDelivered { // slixmpp answers by itself
		t.Errorf("%+v", r)
	}

	covers(t, "contacts", "RFC 6121", "both", "slixmpp")
	mark = romeo.Mark()
	l.must(romeo.Do(l.ctx, "presence", map[string]any{"to": juliet, "type": "subscribe"}, nil))
	l.tw.must(l.tw.until("she is asked", func() bool { return len(l.tw.people.did) > 0 }))
	l.must(l.tw.adapter.DeliverConsent(l.ctx, adapter.ConsentEvent{Local: romeoURI, Answered: true, Contact: adapter.Contact{User: julietURI, Granted: adapter.ConsentGranted}}))
	l.wait(romeo, mark, "she is there", func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && e.From == juliet+"/mimi" && e.Type == ""
	})

	covers(t, "roles, bans, configuration", "XEP-0045", "to MIMI", "slixmpp")
	mark = romeo.Mark()
	_, err = romeo.IQ(l.ctx, "set", balcony, `<query xmlns="http://jabber.org/protocol/muc#owner"><x xmlns="jabber:x:data" type="submit"><field var="muc#roomconfig_roomname"><value>The Balcony</value></field></x></query>`)
	l.must(err)
	_, err = romeo.IQ(l.ctx, "set", balcony, `<query xmlns="http://jabber.org/protocol/muc#admin"><item affiliation="outcast" jid="`+juliet+`"/></query>`)
	l.must(err)
	l.wait(romeo, mark, "she is banned", func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && e.Nick() == "juliet" && e.HasStatus(301)
	})

	covers(t, "settings by command", "XEP-0050", "to MIMI", "slixmpp")
	r, err := romeo.Command(l.ctx, testUsers, "settings", map[string]string{"receipts": "off"})
	if err != nil || r.Status != "completed" || !strings.Contains(strings.Join(r.Notes, ""), "receipts: off") {
		t.Errorf("%+v %v", r, err)
	}
	if strings.Contains(l.tw.logs.String(), "is down") && l.kind == prosody {
		t.Errorf("a stream was lost:\n%s", l.tw.logs)
	}
}
