//go:build live

package xmpp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

const (
	square = "square@muc." + testDomain
	botJID = botLocal + "@" + testUsers
)

var laurenceURI = mimiuri.MustParse("mimi://matrix.example/u/laurence")

// withMUC is a server whose conference service has what most have: archives, moderation, occupant ids.
func withMUC(l *live, _ *Config) {
	l.prosody = func(o *testnet.ProsodyOptions) {
		o.MUCLines = []string{`modules_enabled = { "muc_mam", "muc_moderation" }`, `muc_log_by_default = true`}
	}
	l.ejabberd = func(o *testnet.EjabberdOptions) {
		o.Modules = []string{"mod_mam: {default: always}"}
	}
}

// chatroom lets a client open a chat room of the server's own service, which everybody sees the addresses in, and make the bridge its admin.
func (l *live) chatroom(c *testnet.SlixClient, room, nick string, fields ...string) {
	l.t.Helper()
	l.join(c, room, nick)
	form := ""
	for _, f := range append([]string{"muc#roomconfig_whois=anyone", "muc#roomconfig_persistentroom=1"}, fields...) {
		name, value, _ := strings.Cut(f, "=")
		form += fmt.Sprintf(`<field var="%s"><value>%s</value></field>`, name, value)
	}
	_, err := c.IQ(l.ctx, "set", room, `<query xmlns="http://jabber.org/protocol/muc#owner"><x xmlns="jabber:x:data" type="submit"><field var="FORM_TYPE" type="hidden"><value>http://jabber.org/protocol/muc#roomconfig</value></field>`+form+`</x></query>`)
	l.must(err)
	l.affiliate(c, room, botJID, "admin")
}

func (l *live) affiliate(c *testnet.SlixClient, room, jid, affiliation string) {
	l.t.Helper()
	_, err := c.IQ(l.ctx, "set", room, fmt.Sprintf(`<query xmlns="http://jabber.org/protocol/muc#admin"><item affiliation="%s" jid="%s"/></query>`, affiliation, jid))
	l.must(err)
}

func (l *live) role(c *testnet.SlixClient, room, nick, role, reason string) {
	l.t.Helper()
	_, err := c.IQ(l.ctx, "set", room, fmt.Sprintf(`<query xmlns="http://jabber.org/protocol/muc#admin"><item role="%s" nick="%s"><reason>%s</reason></item></query>`, role, nick, reason))
	l.must(err)
}

// balconyOf is a MIMI room of which romeo is the owner, with people elsewhere in it.
func (l *live) balconyOf(others ...mimiuri.URI) {
	l.tw.do(func() {
		r := l.tw.room(balconyURI)
		l.tw.add(r, romeoURI, romeoURI, nil)
		l.tw.setRole(r, romeoURI, 4)
		for _, u := range others {
			l.tw.add(r, u, romeoURI, nil)
		}
	})
	l.tw.must(l.tw.delivered(balconyURI))
}

func (l *live) plumb(c *testnet.SlixClient, fields ...string) testnet.CommandResult {
	l.t.Helper()
	v := map[string]string{"muc": square, "room": balconyURI.String()}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		v[name] = value
	}
	r, err := c.Command(l.ctx, testUsers, "plumb", v)
	l.must(err)
	return r
}

// isOccupant accepts the presence of somebody in a room.
func isOccupant(room, nick string) func(testnet.SlixEvent) bool {
	return func(e testnet.SlixEvent) bool { return e.Kind == "presence" && e.From == room+"/"+nick && e.Type == "" }
}

func hasLeft(room, nick string) func(testnet.SlixEvent) bool {
	return func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && e.From == room+"/"+nick && e.Type == "unavailable"
	}
}

func (l *live) participates(u mimiuri.URI) (in bool) {
	l.tw.do(func() { _, in = participant(l.tw.rooms[balconyURI].info, u) })
	return in
}

// A chat room of the server is connected with a MIMI room by its owner, and everything is kept in step.
func TestLivePlumb(t *testing.T) {
	for _, kind := range []string{prosody, ejabberd} {
		t.Run(kind, func(t *testing.T) { livePlumb(t, newLiveWith(t, kind, kind == prosody, withMUC)) })
	}
}

func livePlumb(t *testing.T, l *live) {
	romeo := l.login("romeo@xmpp.example/orchard")
	benvolio := l.login("benvolio@xmpp.example/street")
	l.balconyOf(julietURI, laurenceURI)
	l.join(romeo, balcony, "Romeo")
	l.chatroom(romeo, square, "Romeo")
	l.join(benvolio, square, "Ben")

	covers(t, "connecting a chat room of the server with a MIMI room, by its owner", "XEP-0045, XEP-0050", "both", "slixmpp")
	// Not by somebody who is neither.
	if r := l.plumb(benvolio); !strings.Contains(strings.Join(r.Notes, ""), "Join it first") {
		t.Errorf("%+v", r)
	}
	mark := romeo.Mark()
	if r := l.plumb(romeo); !strings.Contains(strings.Join(r.Notes, ""), square+" is ") || strings.Contains(strings.Join(r.Notes, ""), "admin") {
		t.Fatalf("%+v", r)
	}
	l.wait(romeo, mark, "the room is elsewhere", func(e testnet.SlixEvent) bool {
		return e.From == balcony+"/Romeo" && e.Type == "unavailable" && strings.Contains(e.XML, `jid="`+square+`"`)
	})
	if _, err := romeo.Join(l.ctx, balcony, "Romeo"); code(err) != "gone" {
		t.Errorf("%v", err)
	}
	l.wait(benvolio, 0, "the announcement", func(e testnet.SlixEvent) bool {
		return e.From == square+"/MIMI" && strings.Contains(e.Body, balconyURI.String())
	})

	covers(t, "members of a connected chat room take part", "XEP-0045", "both", "slixmpp")
	l.tw.must(l.tw.until("ben takes part", func() bool { _, in := participant(l.tw.rooms[balconyURI].info, benURI); return in }))

	covers(t, "messages of a connected chat room, by puppets of those who speak", "XEP-0045, XEP-0359", "both", "slixmpp")
	n := l.tw.count(adapter.SendMessage)
	l.must(benvolio.Say(l.ctx, square, "good morrow, *cousin*", "b1"))
	in := l.sent(n)
	if in.Actor != benURI || string(in.Content.Body.Content) != "good morrow, **cousin**" {
		t.Errorf("%+v", in)
	}
	l.tw.must(l.tw.delivered(balconyURI))
	mark = benvolio.Mark()
	hers := l.tell(content.Text("Ay me!"))
	l.wait(benvolio, mark, "juliet comes", isOccupant(square, "juliet"))
	if ev := l.wait(benvolio, mark, "her line", saying("Ay me!")); ev.From != square+"/juliet" || ev.ID != hers.String() {
		t.Errorf("%s", ev.XML)
	}
	l.tw.must(l.tw.delivered(balconyURI))
	hersSID := l.wait(benvolio, mark, "her line", saying("Ay me!")).StanzaID
	if hersSID == "" {
		hersSID = hers.String()
	}
	benSID := l.wait(benvolio, 0, "his line", saying("good morrow, *cousin*")).StanzaID
	var bens content.MessageID
	l.tw.do(func() {
		for _, ev := range l.tw.rooms[balconyURI].events {
			if ev.Kind == adapter.Message && ev.Sender == benURI {
				bens = ev.ID
			}
		}
	})

	covers(t, "replies, reactions, corrections and retractions of a connected chat room", "XEP-0461, XEP-0444, XEP-0308, XEP-0424", "both", "slixmpp")
	do := func(cmd string, args map[string]any) adapter.Intent {
		t.Helper()
		n := l.tw.count(adapter.SendMessage)
		args["to"] = square
		l.must(benvolio.Do(l.ctx, cmd, args, nil))
		in := l.sent(n)
		l.tw.must(l.tw.delivered(balconyURI))
		return in
	}
	if in := do("reply", map[string]any{"body": "she speaks", "author": square + "/juliet", "ref": hersSID}); in.Content.InReplyTo == nil || *in.Content.InReplyTo != hers {
		t.Errorf("%+v", in.Content)
	}
	if k := do("react", map[string]any{"ref": hersSID, "reactions": []string{"\U0001F339"}}).Content.Classify(); k.Kind != content.KindReaction || k.Target != hers {
		t.Errorf("%+v", k)
	}
	if k := do("correct", map[string]any{"body": "good morrow", "ref": "b1", "mid": "b2"}).Content.Classify(); k.Kind != content.KindEdit || k.Target != bens {
		t.Errorf("%+v", k)
	}
	mark = benvolio.Mark()
	ref := benSID
	if ref == "" {
		ref = "b1"
	}
	l.tell(content.React(bens, "\U0001F44D"))
	l.understood(benvolio, mark, "reactions", ref, "\U0001F44D")
	l.tell(content.Reply(bens, content.TextPart("who is there?")))
	l.understood(benvolio, mark, "reply", ref, "who is there?")
	l.tell(content.Edit(hers, nil, content.TextPart("Ay me, again!")))
	l.understood(benvolio, mark, "correction", hers.String(), "Ay me, again!")
	l.tell(content.Delete(hers, nil))
	l.understood(benvolio, mark, "retraction", hersSID, "")

	covers(t, "moderation of a connected chat room: kicks, bans, voice", "XEP-0045 8, 9", "both", "slixmpp")
	// A puppet is kicked: that is a removal, and the puppet does not come again.
	mark = romeo.Mark()
	l.role(romeo, square, "juliet", "none", "enough")
	l.wait(romeo, mark, "juliet is out", hasLeft(square, "juliet"))
	l.tw.must(l.tw.until("juliet is removed", func() bool { _, in := participant(l.tw.rooms[balconyURI].info, julietURI); return !in }))
	l.tw.must(l.tw.delivered(balconyURI))
	// Somebody elsewhere bans a local one; unbanned and invited, he is asked into the room.
	mark = benvolio.Mark()
	l.tw.do(func() {
		l.tw.carryOut(adapter.Intent{Kind: adapter.Ban, Room: balconyURI, Actor: laurenceURI, Target: benURI, OriginID: "there", Reason: "a brawl"})
	})
	l.wait(benvolio, mark, "he is banned", func(e testnet.SlixEvent) bool {
		return e.From == square+"/Ben" && e.Type == "unavailable" && e.HasStatus(301)
	})
	l.tw.must(l.tw.delivered(balconyURI))
	mark = benvolio.Mark()
	l.tw.do(func() {
		l.tw.carryOut(adapter.Intent{Kind: adapter.Unban, Room: balconyURI, Actor: romeoURI, Target: benURI, OriginID: "there2"})
		l.tw.add(l.tw.room(balconyURI), benURI, romeoURI, nil)
	})
	l.wait(benvolio, mark, "he is asked", func(e testnet.SlixEvent) bool {
		return e.From == testUsers && strings.Contains(e.XML, `jid="`+square+`"`)
	})
	l.join(benvolio, square, "Ben")
	// A kick here is a removal there.
	l.role(romeo, square, "Ben", "none", "again")
	l.tw.must(l.tw.until("ben is removed", func() bool { _, in := participant(l.tw.rooms[balconyURI].info, benURI); return !in }))
	l.tw.must(l.tw.delivered(balconyURI))
	var kick adapter.Intent
	l.tw.do(func() { kick = l.tw.intents[len(l.tw.intents)-1] })
	if kick.Kind != adapter.Remove || kick.Actor != romeoURI || kick.Target != benURI || kick.Reason != "again" {
		t.Errorf("%+v", kick)
	}
	l.join(benvolio, square, "Ben")
	l.tw.must(l.tw.until("ben takes part again", func() bool { _, in := participant(l.tw.rooms[balconyURI].info, benURI); return in }))
	l.tw.must(l.tw.delivered(balconyURI))

	if l.kind == prosody { // ejabberd 23.01 has no XEP-0425
		covers(t, "moderated messages of a connected chat room", "XEP-0425", "both", "slixmpp")
		rude := func() (id content.MessageID) {
			l.tw.do(func() { id = l.tw.message(l.tw.room(balconyURI), laurenceURI, content.Text("something rude"), nil) })
			return id
		}()
		sid := l.wait(benvolio, 0, "it", saying("something rude")).StanzaID
		l.tw.must(l.tw.delivered(balconyURI))
		n := l.tw.count(adapter.SendMessage)
		l.must(romeo.Do(l.ctx, "moderate", map[string]any{"to": square, "ref": sid}, nil))
		if in := l.sent(n); in.Content.Classify().Kind != content.KindDelete || in.Content.Classify().Target != rude || in.Actor != romeoURI {
			t.Errorf("%+v", in)
		}
		l.must(benvolio.Say(l.ctx, square, "rude myself", "b9"))
		sid = l.wait(romeo, 0, "it", saying("rude myself")).StanzaID
		in := l.sent(n + 1)
		l.tw.must(l.tw.delivered(balconyURI))
		var id content.MessageID
		l.tw.do(func() {
			for _, ev := range l.tw.rooms[balconyURI].events {
				if ev.Origin != nil && ev.Origin.ID == in.OriginID {
					id = ev.ID
				}
			}
			r := l.tw.room(balconyURI)
			l.tw.setRole(r, laurenceURI, 3)
			l.tw.message(r, laurenceURI, content.Delete(id, nil), nil)
		})
		mark = romeo.Mark()
		l.understood(romeo, 0, "moderation", sid, square+"/MIMI")
	}

	covers(t, "taking the connection away", "XEP-0050", "to MIMI", "slixmpp")
	mark = romeo.Mark()
	r, err := romeo.Command(l.ctx, testUsers, "unplumb", map[string]string{"room": square})
	if err != nil || !strings.Contains(strings.Join(r.Notes, ""), "connected no more") {
		t.Errorf("%+v %v", r, err)
	}
	l.wait(romeo, mark, "the bridge has gone", hasLeft(square, "MIMI"))
	l.tw.must(l.tw.until("ben leaves, who took part by the chat room only", func() bool { _, in := participant(l.tw.rooms[balconyURI].info, benURI); return !in }))
	if !l.participates(romeoURI) {
		t.Error("romeo has left")
	}
	l.join(romeo, balcony, "Romeo")
	if strings.Contains(l.tw.logs.String(), "is down") && l.kind == prosody {
		t.Errorf("a stream was lost:\n%s", l.tw.logs)
	}
}
