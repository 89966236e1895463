//go:build live

package xmpp

import (
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// What a real server and real clients have of the bridge ends when it is uninstalled. Prosody grants privileges here, ejabberd none.
func TestLiveUninstall(t *testing.T) {
	for _, kind := range []string{prosody, ejabberd} {
		t.Run(kind, func(t *testing.T) {
			liveUninstall(t, newLiveWith(t, kind, false, func(l *live, _ *Config) {
				l.prosody = func(o *testnet.ProsodyOptions) {
					o.Modules, o.CompLines = []string{"privilege"}, []string{`modules_enabled = { "privilege" }`}
					o.HostLines = []string{`privileged_entities = { ["` + testUsers + `"] = { roster = "both", iq = { ["http://jabber.org/protocol/pubsub"] = "both" } } }`}
				}
			}))
		})
	}
}

func liveUninstall(t *testing.T, l *live) {
	romeo := l.login("romeo@xmpp.example/orchard")
	benvolio := l.login("benvolio@xmpp.example/street")
	l.balconyOf(julietURI)
	l.chatroom(romeo, square, "Romeo")
	l.join(benvolio, square, "Ben")
	l.plumb(romeo)
	l.tw.must(l.tw.until("ben takes part", func() bool { _, in := participant(l.tw.rooms[balconyURI].info, benURI); return in }))
	mark := benvolio.Mark()
	l.tw.say(balconyURI, julietURI, "Ay me!")
	l.wait(benvolio, mark, "her puppet speaks", func(e testnet.SlixEvent) bool { return e.Kind == "message" && e.Body == "Ay me!" })
	tower := "tower@" + testRooms
	l.join(romeo, tower, "Romeo")
	mark = romeo.Mark()
	l.must(romeo.Do(l.ctx, "presence", map[string]any{"to": juliet, "type": "subscribe"}, nil))
	l.tw.must(l.tw.until("she is asked", func() bool { return len(l.tw.people.did) > 0 }))
	c := adapter.Contact{User: julietURI, Granted: adapter.ConsentGranted}
	l.tw.do(func() { l.tw.people.contacts = []adapter.Contact{c} })
	l.must(l.tw.adapter.DeliverConsent(l.ctx, adapter.ConsentEvent{Local: romeoURI, Answered: true, Contact: c}))
	l.wait(romeo, mark, "she is there", func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && e.From == juliet+"/mimi" && e.Type == ""
	})
	if l.kind == prosody {
		l.must(waitLog(l.tw, "grants privileges"))
		l.must(l.tw.soon("the tower is among his bookmarks", func() bool {
			t, err := l.tw.adapter.cur.Load().db.tracesOf(l.ctx, romeoURI)
			return err == nil && slices.Contains(t.bookmarks, tower)
		}))
	}
	bookmarks := func() string {
		r, err := romeo.IQ(l.ctx, "get", "romeo@"+testDomain, `<pubsub xmlns="http://jabber.org/protocol/pubsub"><items node="urn:xmpp:bookmarks:1"/></pubsub>`)
		l.must(err)
		return r
	}
	roster := func() string {
		r, err := romeo.IQ(l.ctx, "get", "romeo@"+testDomain, `<query xmlns="jabber:iq:roster"/>`)
		l.must(err)
		return r
	}
	if r := roster(); !strings.Contains(r, juliet) || !strings.Contains(r, `subscription="to"`) {
		t.Fatalf("%s", r)
	}

	if l.kind == prosody && !strings.Contains(bookmarks(), tower) {
		t.Errorf("%s", bookmarks())
	}

	covers(t, "uninstalling", "XEP-0045 10.9, RFC 6121, XEP-0356", "from MIMI", "slixmpp")
	mark, markBen := romeo.Mark(), benvolio.Mark()
	steps, err := l.tw.uninstalled()
	if err != nil {
		t.Fatal(err)
	}
	l.wait(benvolio, markBen, "the chat room is told", func(e testnet.SlixEvent) bool { return e.Kind == "message" && e.Body == textUninstalled })
	l.wait(benvolio, markBen, "the bridge has gone", hasLeft(square, "MIMI"))
	l.wait(benvolio, markBen, "her puppet has gone", func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && strings.HasPrefix(e.From, square+"/juliet") && e.Type == "unavailable"
	})
	l.wait(romeo, mark, "the room is destroyed", func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && e.From == tower+"/Romeo" && e.Type == "unavailable" && strings.Contains(e.XML, "<destroy")
	})
	l.wait(romeo, mark, "she is not there any more", func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && e.From == juliet+"/mimi" && e.Type == "unavailable"
	})
	r, told := roster(), strings.Contains(strings.Join(steps, "\n"), "1 contacts and bookmarks could not be taken back")
	if l.kind == prosody {
		if b := bookmarks(); strings.Contains(r, juliet) || strings.Contains(b, tower) || told {
			t.Errorf("in his account there is still: %s, %s; %q", r, b, steps)
		}
	} else if !strings.Contains(r, juliet) || !strings.Contains(r, `subscription="none"`) || !told {
		t.Errorf("he is still subscribed to her, or what stays is not said: %s; %q", r, steps)
	}
	if got := l.tw.left(); len(got) > 0 {
		t.Errorf("left in the database: %q", got)
	}
}
