//go:build live

package xmpp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

const lists = "pubsub." + testDomain

// A list of banned addresses that romeo keeps at the server's pubsub service.
func TestLiveBlocklist(t *testing.T) {
	for _, kind := range []string{prosody, ejabberd} {
		t.Run(kind, func(t *testing.T) {
			liveBlocklist(t, newLiveWith(t, kind, kind == prosody, func(l *live, c *Config) {
				c.Blocklists = []string{lists + "/muc_bans_sha256"}
				l.prosody = func(o *testnet.ProsodyOptions) {
					o.More = []string{`Component "` + lists + `" "pubsub"`, `	admins = { "romeo@` + testDomain + `" }`}
				}
			}))
		})
	}
}

func liveBlocklist(t *testing.T, l *live) {
	covers(t, "lists of banned addresses in real time (RTBL)", "XEP-0060", "both", "slixmpp")
	romeo := l.login("romeo@xmpp.example/orchard")
	pubsub := func(payload string) {
		t.Helper()
		_, err := romeo.IQ(l.ctx, "set", lists, `<pubsub xmlns="http://jabber.org/protocol/pubsub">`+payload+`</pubsub>`)
		l.must(err)
	}
	publish := func(jid string) {
		pubsub(`<publish node="muc_bans_sha256"><item id="` + hashOf(jid) + `"><report xmlns="urn:xmpp:reporting:1" reason="urn:xmpp:reporting:spam"/></item></publish>`)
	}
	// The list is there before the adapter is: it reads what is on it.
	l.tw.stop()
	pubsub(`<create node="muc_bans_sha256"/><configure><x xmlns="jabber:x:data" type="submit"><field var="FORM_TYPE" type="hidden"><value>http://jabber.org/protocol/pubsub#node_config</value></field>` +
		`<field var="pubsub#persist_items"><value>1</value></field><field var="pubsub#max_items"><value>100</value></field><field var="pubsub#notify_retract"><value>1</value></field></x></configure>`)
	publish("benvolio@xmpp.example")
	l.tw.start()
	l.reachable(romeo)
	benvolio := l.login("benvolio@xmpp.example/street")
	listed := func(jid string, want bool) {
		t.Helper()
		a, err := parseAddr(jid)
		l.must(err)
		for l.tw.adapter.cur.Load().listed(a) != want {
			if l.ctx.Err() != nil {
				t.Fatalf("%s is listed: %v\n%s", jid, !want, l.tw.logs)
			}
			<-tick()
		}
	}
	listed("benvolio@xmpp.example", true)
	l.join(romeo, balcony, "Romeo")
	l.tw.do(func() {
		l.tw.add(l.tw.room(balconyURI), julietURI, romeoURI, nil)
		l.tw.add(l.tw.room(balconyURI), benURI, romeoURI, nil)
	})
	if _, err := benvolio.Join(l.ctx, balcony, "Ben"); code(err) != "forbidden" || !strings.Contains(fmt.Sprint(err), "banned addresses") {
		t.Errorf("%v", err)
	}
	mark := benvolio.Mark()
	l.must(benvolio.Chat(l.ctx, juliet, "good morrow", "b1"))
	l.wait(benvolio, mark, "it is refused", func(e testnet.SlixEvent) bool { return e.ID == "b1" && e.Condition == "forbidden" })
	// Taken back, in real time.
	pubsub(`<retract node="muc_bans_sha256" notify="true"><item id="` + hashOf("benvolio@xmpp.example") + `"/></retract>`)
	listed("benvolio@xmpp.example", false)
	l.join(benvolio, balcony, "Ben")
	// Somebody elsewhere, by the provider's domain.
	publish("matrix.example")
	listed(juliet, true)
	l.tell(content.Text("while listed"))
	pubsub(`<retract node="muc_bans_sha256" notify="true"><item id="` + hashOf("matrix.example") + `"/></retract>`)
	listed(juliet, false)
	l.tell(content.Text("and after"))
	l.wait(benvolio, 0, "her line", saying("and after"))
	for _, e := range benvolio.Events() {
		if e.Body == "while listed" {
			t.Errorf("%s", e.XML)
		}
	}
	if n := l.tw.count(adapter.SendMessage); n != 0 {
		t.Errorf("%d messages were handed in", n)
	}
}

// What the server lets the component do for its users.
func TestLivePrivileges(t *testing.T) {
	for _, kind := range []string{prosody, ejabberd} {
		t.Run(kind, func(t *testing.T) {
			livePrivileges(t, newLiveWith(t, kind, kind == prosody, func(l *live, _ *Config) {
				l.prosody = func(o *testnet.ProsodyOptions) {
					o.Modules, o.CompLines = []string{"privilege"}, []string{`modules_enabled = { "privilege" }`}
					o.HostLines = []string{`privileged_entities = { ["` + testUsers + `"] = { roster = "both", iq = { ["http://jabber.org/protocol/pubsub"] = "both" } } }`}
				}
				l.ejabberd = func(o *testnet.EjabberdOptions) { // 23.01 has rosters only, and fails when one is to be changed
					o.Modules = []string{"mod_privilege: {roster: {both: components}}"}
				}
			}))
		})
	}
}

func livePrivileges(t *testing.T, l *live) {
	covers(t, "rosters and bookmarks where the server grants it (Prosody), and without (ejabberd 23.01)", "XEP-0356, XEP-0402", "from MIMI", "slixmpp")
	romeo := l.login("romeo@xmpp.example/orchard")
	for !strings.Contains(l.tw.logs.String(), "grants privileges") {
		if l.ctx.Err() != nil {
			t.Fatalf("the server grants nothing:\n%s", l.tw.logs)
		}
		<-tick()
	}
	roster := func() string {
		t.Helper()
		xml, err := romeo.IQ(l.ctx, "get", "", `<query xmlns="jabber:iq:roster"/>`)
		l.must(err)
		return xml
	}
	if xml := roster(); strings.Contains(xml, juliet) {
		t.Errorf("%s", xml)
	}
	// Both agree by other ways than subscriptions: she is in his roster all the same.
	c := adapter.Contact{User: julietURI, Granted: adapter.ConsentGranted, Grants: adapter.ConsentGranted}
	l.tw.do(func() { l.tw.people.contacts = []adapter.Contact{c} })
	mark := romeo.Mark()
	l.must(l.tw.adapter.DeliverConsent(l.ctx, adapter.ConsentEvent{Local: romeoURI, Answered: true, Contact: c}))
	if l.kind != prosody {
		l.wait(romeo, mark, "she is there all the same", func(e testnet.SlixEvent) bool {
			return e.Kind == "presence" && e.From == juliet+"/mimi" && e.Type == ""
		})
		return
	}
	for !strings.Contains(roster(), `jid="`+juliet+`"`) {
		if l.ctx.Err() != nil {
			t.Fatal(roster())
		}
		<-tick()
	}
	if xml := roster(); !strings.Contains(xml, `subscription="both"`) {
		t.Errorf("%s", xml)
	}
	bookmarks := func() string {
		t.Helper()
		xml, err := romeo.IQ(l.ctx, "get", "romeo@xmpp.example", `<pubsub xmlns="http://jabber.org/protocol/pubsub"><items node="urn:xmpp:bookmarks:1"/></pubsub>`)
		if err != nil {
			return "none: " + code(err)
		}
		return xml
	}
	l.join(romeo, balcony, "Romeo")
	for !strings.Contains(bookmarks(), balcony) {
		if l.ctx.Err() != nil {
			t.Fatal(bookmarks())
		}
		<-tick()
	}
	if xml := bookmarks(); !strings.Contains(xml, `autojoin="true"`) || !strings.Contains(xml, ">Romeo<") {
		t.Errorf("%s", xml)
	}
	if _, err := romeo.Command(l.ctx, testUsers, "leave", map[string]string{"room": balcony}); err != nil {
		t.Error(err)
	}
	for strings.Contains(bookmarks(), balcony) {
		if l.ctx.Err() != nil {
			t.Fatal(bookmarks())
		}
		<-tick()
	}
}
