//go:build live

package xmpp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// live is the adapter between a real server with real clients and a twin of the provider.
type live struct {
	t      testing.TB
	ctx    context.Context
	dir    string
	kind   string
	tls    bool
	users  map[string]string
	cert   string
	key    string
	server liveServer
	ca     *testnet.CA
	tw     *twin

	prosody  func(*testnet.ProsodyOptions) // changes what is started; may be nil
	ejabberd func(*testnet.EjabberdOptions)
}

// liveServer is a server of either kind.
type liveServer struct {
	c2s, component, componentTLS, version, log string
	ports                                      any
	stop                                       func()
}

const (
	prosody  = "Prosody"
	ejabberd = "ejabberd"
)

// liveServers runs a test with each server.
func liveServers(t *testing.T, f func(t *testing.T, l *live)) {
	for _, kind := range []string{prosody, ejabberd} {
		t.Run(kind, func(t *testing.T) { f(t, newLive(t, kind, kind == prosody)) })
	}
}

func newLive(t testing.TB, kind string, overTLS bool) *live {
	return newLiveWith(t, kind, overTLS, func(*live, *Config) {})
}

// newLiveWith is newLive with something changed: it is called before the server is started, and again, with the adapter's
// configuration, before the adapter is.
func newLiveWith(t testing.TB, kind string, overTLS bool, change func(*live, *Config)) *live {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	ca, err := testnet.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("server", testDomain, testUsers, testRooms)
	if err != nil {
		t.Fatal(err)
	}
	l := &live{t: t, ctx: ctx, ca: ca, dir: t.TempDir(), kind: kind, tls: overTLS, cert: cert, key: key,
		users: map[string]string{"romeo": "pass romeo", "benvolio": "pass benvolio"}}
	change(l, new(Config))
	l.start()
	t.Cleanup(func() { l.server.stop() })
	t.Log("testtable: server " + l.server.version)
	cfg := testConfig(l.server.component)
	if overTLS {
		cfg.Server = l.server.componentTLS
		cfg.TLS = &tls.Config{RootCAs: ca.Pool(), ServerName: testDomain}
	}
	change(l, &cfg)
	l.tw = newTwin(t, cfg)
	l.tw.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log:\n%s", testnet.Tail(l.server.log, 30))
		}
	})
	return l
}

// start starts the server, on the same ports when it is started again.
func (l *live) start() {
	l.t.Helper()
	components := []string{testUsers, testRooms}
	if l.kind == ejabberd {
		ports, _ := l.server.ports.(testnet.EjabberdPorts)
		o := testnet.EjabberdOptions{Dir: l.dir, Domain: testDomain, MUC: "muc." + testDomain,
			CertFile: l.cert, KeyFile: l.key, Components: components, Secret: testSecret, Users: l.users, Ports: ports}
		if l.ejabberd != nil {
			l.ejabberd(&o)
		}
		s, err := testnet.StartEjabberd(l.ctx, o)
		if err != nil {
			l.t.Fatal(err)
		}
		l.server = liveServer{c2s: s.C2S, component: s.ComponentAddr, version: s.Version, log: s.ServerLog, ports: s.Ports, stop: s.Stop}
		return
	}
	ports, _ := l.server.ports.(testnet.ProsodyPorts)
	o := testnet.ProsodyOptions{Dir: l.dir, Domain: testDomain, MUC: "muc." + testDomain,
		CertFile: l.cert, KeyFile: l.key, Components: components, Secret: testSecret, Users: l.users, Ports: ports}
	if l.prosody != nil {
		l.prosody(&o)
	}
	s, err := testnet.StartProsody(l.ctx, o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.server = liveServer{c2s: s.C2S, component: s.ComponentAddr, componentTLS: s.ComponentTLS, version: s.Version, log: s.ServerLog, ports: s.Ports, stop: s.Stop}
}

// login starts a client; it answers once the component does.
func (l *live) login(jid string) *testnet.SlixClient {
	l.t.Helper()
	user, _, _ := strings.Cut(jid, "@")
	c, err := testnet.StartSlix(l.ctx, l.server.c2s, jid, "pass "+user, l.ca.File())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.Stop)
	l.reachable(c)
	return c
}

// reachable waits until both components are connected.
func (l *live) reachable(c *testnet.SlixClient) {
	l.t.Helper()
	for _, domain := range []string{testUsers, testRooms} {
		for {
			_, err := c.IQ(l.ctx, "get", domain, `<ping xmlns="urn:xmpp:ping"/>`)
			if err == nil {
				break
			}
			if l.ctx.Err() != nil {
				l.t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func (l *live) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *live) join(c *testnet.SlixClient, room, nick string) testnet.SlixEvent {
	l.t.Helper()
	mark := c.Mark()
	ev, err := c.Join(l.ctx, room, nick)
	l.must(err)
	_, err = c.WaitSince(l.ctx, mark, func(e testnet.SlixEvent) bool { return e.Subject != nil && e.Bare() == room })
	l.must(err)
	return ev
}

func (l *live) wait(c *testnet.SlixClient, mark int, what string, match func(testnet.SlixEvent) bool) testnet.SlixEvent {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, 40*time.Second) // hangs, not slow
	defer cancel()
	ev, err := c.WaitSince(ctx, mark, match)
	if err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
	return ev
}

func saying(body string) func(testnet.SlixEvent) bool {
	return func(e testnet.SlixEvent) bool { return e.Kind == "message" && e.Type == "groupchat" && e.Body == body }
}

func code(err error) string {
	var e *testnet.ScriptError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// A conversation between real clients and somebody elsewhere, from the room's creation to its end; over TLS.
func TestLiveConversation(t *testing.T) { liveServers(t, liveConversation) }

func liveConversation(t *testing.T, l *live) {
	covers(t, "rooms, invitations, presence, leaving", "XEP-0045, XEP-0410, XEP-0421, XEP-0359", "both", "slixmpp")
	romeo := l.login("romeo@xmpp.example/orchard")
	if ev := l.join(romeo, balcony, "Romeo"); !ev.HasStatus(201) || !ev.HasStatus(110) || ev.Item["affiliation"] != "owner" {
		t.Errorf("%s", ev.XML)
	}
	l.must(romeo.Instant(l.ctx, balcony))
	mark := romeo.Mark()
	l.must(romeo.Invite(l.ctx, balcony, juliet, "come"))
	l.wait(romeo, mark, "juliet", func(e testnet.SlixEvent) bool { return e.From == balcony+"/juliet" && e.Type == "" })
	l.must(romeo.Invite(l.ctx, balcony, "benvolio@xmpp.example", "you too"))

	benvolio := l.login("benvolio@xmpp.example/street")
	l.tw.must(l.tw.delivered(balconyURI))
	l.must(romeo.Invite(l.ctx, balcony, "benvolio@xmpp.example", "again, as he was not online"))
	inv := l.wait(benvolio, 0, "an invitation", func(e testnet.SlixEvent) bool { return e.Invite != nil })
	if inv.From != balcony || inv.Invite.From != "romeo@xmpp.example" {
		t.Errorf("%s", inv.XML)
	}
	l.join(benvolio, balcony, "Ben")

	id := l.tw.say(balconyURI, julietURI, "O Romeo, Romeo! wherefore art thou Romeo? \U0001F339 <&>")
	for _, c := range []*testnet.SlixClient{romeo, benvolio} {
		ev := l.wait(c, 0, "juliet's line", saying("O Romeo, Romeo! wherefore art thou Romeo? \U0001F339 <&>"))
		if ev.ID != id.String() || ev.StanzaID != id.String() || ev.Nick() != "juliet" {
			t.Errorf("%s", ev.XML)
		}
	}
	l.must(romeo.Say(l.ctx, balcony, "Shall I hear more?", "line-2"))
	for _, c := range []*testnet.SlixClient{romeo, benvolio} {
		ev := l.wait(c, 0, "romeo's line", saying("Shall I hear more?"))
		if ev.ID != "line-2" || ev.OriginID != "line-2" || len(ev.StanzaID) != 64 || ev.Nick() != "Romeo" {
			t.Errorf("%s", ev.XML)
		}
	}
	// 200 lines from both sides, each in its order.
	for i := range 100 {
		l.must(romeo.Say(l.ctx, balcony, fmt.Sprintf("romeo %d", i), fmt.Sprintf("r%d", i)))
		l.tw.say(balconyURI, julietURI, fmt.Sprintf("juliet %d", i))
	}
	l.wait(benvolio, 0, "romeo's last", saying("romeo 99"))
	l.wait(benvolio, 0, "juliet's last", saying("juliet 99"))
	next := map[string]int{}
	for _, e := range benvolio.Events() {
		who, n, ok := strings.Cut(e.Body, " ")
		if e.Kind != "message" || !ok || who != "romeo" && who != "juliet" {
			continue
		}
		if n != fmt.Sprint(next[who]) {
			t.Fatalf("%s where %d was to come", e.Body, next[who])
		}
		next[who]++
	}
	if next["romeo"] != 100 || next["juliet"] != 100 {
		t.Errorf("%v", next)
	}

	// Ben's connection is lost: he takes part as before.
	mark = romeo.Mark()
	l.must(benvolio.Do(l.ctx, "abort", nil, nil))
	l.wait(romeo, mark, "Ben is away", func(e testnet.SlixEvent) bool {
		return e.From == balcony+"/Ben" && e.Type == "" && strings.Contains(e.XML, "xa")
	})
	if n := l.tw.count(adapter.LeaveRoom); n != 0 {
		t.Error("a lost connection was taken for leaving")
	}
	if _, err := romeo.IQ(l.ctx, "get", balcony+"/Romeo", `<ping xmlns="urn:xmpp:ping"/>`); err != nil {
		t.Error(err)
	}
	// Leaving, by the gateway's command.
	mark = romeo.Mark()
	r, err := romeo.Command(l.ctx, testUsers, "leave", map[string]string{"room": balcony})
	if err != nil || r.Status != "completed" {
		t.Fatalf("%+v %v", r, err)
	}
	l.wait(romeo, mark, "he is out", func(e testnet.SlixEvent) bool {
		return e.From == balcony+"/Romeo" && e.Type == "unavailable" && e.HasStatus(110)
	})
	if n := l.tw.count(adapter.LeaveRoom); n != 1 {
		t.Errorf("%d intents to leave", n)
	}
	if c := code(romeo.Say(l.ctx, balcony, "not there", "x")); c != "" {
		t.Error(c)
	}
	l.wait(romeo, mark, "an error", func(e testnet.SlixEvent) bool { return e.ID == "x" && e.Condition == "not-acceptable" })
}

// What has broken gateways before: each gets a clear answer or none, and the streams stay up.
func TestLiveEvil(t *testing.T) { liveServers(t, liveEvil) }

func liveEvil(t *testing.T, l *live) {
	covers(t, "what has broken gateways", "XEP-0114", "to MIMI", "slixmpp")
	romeo := l.login("romeo@xmpp.example/orchard")
	l.join(romeo, balcony, "Romeo")
	l.tw.do(func() { l.tw.add(l.tw.room(balconyURI), julietURI, romeoURI, nil) })
	l.tw.must(l.tw.delivered(balconyURI))
	many := strings.Repeat("<a/>", 5000)
	for _, c := range []struct {
		clause, stanza string
		want           string // "": nothing, else an error's condition, or "=" and the text that is shown
	}{
		{"priority out of range", `<presence to='` + balcony + `/Romeo'><priority>999</priority></presence>`, ""},
		{"history that is no number", `<presence to='` + balcony + `/Romeo'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='abc'/></x></presence>`, ""},
		{"a stanza of the stream's own namespace inside", `<message id='e' type='groupchat' to='` + balcony + `'><x xmlns='a'><message xmlns='jabber:component:accept' from='` + juliet + `' to='` + balcony + `'><body>SPOOFED</body></message></x><body>inner</body></message>`, "=inner"},
		{"an inner message", `<message id='e' type='groupchat' to='` + balcony + `'><message xmlns='jabber:component:accept'/><body>inner message</body></message>`, "=inner message"},
		{"RSM that is no number", `<iq type='get' id='e' to='` + balcony + `'><query xmlns='http://jabber.org/protocol/disco#items'><set xmlns='http://jabber.org/protocol/rsm'><max>z</max></set></query></iq>`, ""},
		{"fallback", `<message id='e' type='groupchat' to='` + balcony + `'><fallback xmlns='urn:xmpp:fallback:0' for='x'><body start='0' end='2'/></fallback><body>with fallback</body></message>`, "=with fallback"},
		{"body of another namespace", `<message id='e' type='groupchat' to='` + balcony + `'><body>true</body><x xmlns='foo'><body>SPOOFED</body></x></message>`, "=true"},
		{"several languages", `<message id='e' type='groupchat' xml:lang='en' to='` + balcony + `'><body>own language</body><body xml:lang='de'>andere</body></message>`, "=own language"},
		{"thread with a parent", `<message id='e' type='groupchat' to='` + balcony + `'><thread parent='p'>t</thread><body>threaded</body></message>`, "=threaded"},
		{"status codes that are none", `<message id='e' type='groupchat' to='` + balcony + `'><x xmlns='http://jabber.org/protocol/muc#user'><status code='abc'/></x><body>codes</body></message>`, "=codes"},
		{"an error code that is none", `<message id='e' type='error' to='` + balcony + `'><error code='abc' type='x'/></message>`, ""},
		{"an IQ result nobody waits for", `<iq type='result' id='e' to='` + testRooms + `'/>`, ""},
		{"an IQ with nothing in it", `<iq type='get' id='e' to='` + balcony + `'><x xmlns='unknown'/></iq>`, "service-unavailable"},
		{"too many elements", `<message id='e' type='groupchat' to='` + balcony + `'><body>x</body><x xmlns='y'>` + many + `</x></message>`, "not-acceptable"},
		{"nested deep", `<message id='e' type='groupchat' to='` + balcony + `'><body>x</body><x xmlns='y'>` + strings.Repeat("<a>", 500) + strings.Repeat("</a>", 500) + `</x></message>`, "not-acceptable"},
		{"large", `<message id='e' type='groupchat' to='` + balcony + `'><body>` + strings.Repeat("x", 3_000_000) + `</body></message>`, "not-acceptable"},
		{"a nick of emoji", `<presence id='e' to='` + balcony + "/\U0001F600" + `'><x xmlns='http://jabber.org/protocol/muc'/></presence>`, "not-acceptable"},
		{"a room of capital letters", `<message id='e' type='groupchat' to='BALCONY@` + testRooms + `'><body>folded</body></message>`, "=folded"},
		{"a room of other letters", `<presence id='e' to='straße@` + testRooms + `/Romeo'><priority>x</priority></presence>`, "item-not-found"},
		{"an address nobody has", `<message id='e' type='chat' to='~~~%%%@` + testUsers + `'><body>x</body></message>`, "item-not-found"},
		{"spoofed ids", `<message id='e' type='groupchat' to='` + balcony + `'><body>ids</body><stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='` + balcony + `'/></message>`, "=ids"},
		{"all that Unicode has", "<message id='e' type='groupchat' to='" + balcony + "'><body>&#x9;&#xA;&#xD;&#xFFFD;&#x10FFFF;&#xFDD0;&#x1FFFE;\u202e</body></message>", "=\t\n\r\ufffd\U0010ffff\ufdd0\U0001fffe\u202e"},
	} {
		t.Run(c.clause, func(t *testing.T) {
			l.t = t
			if l.kind == ejabberd && strings.HasPrefix(c.stanza, "<presence id='e'") {
				c.want = "bad-request" // by the server itself
			}
			mark := romeo.Mark()
			l.must(romeo.Raw(l.ctx, c.stanza))
			switch {
			case strings.HasPrefix(c.want, "="):
				l.wait(romeo, mark, "the reflection", func(e testnet.SlixEvent) bool {
					// Prosody writes a carriage return as it is, which XML reads as a line feed.
					return e.ID == "e" && e.Type == "groupchat" && e.Body == strings.ReplaceAll(c.want[1:], "\r", "\n")
				})
			case c.want != "" && !strings.HasPrefix(c.stanza, "<iq"):
				ev := l.wait(romeo, mark, "an error", func(e testnet.SlixEvent) bool { return e.ID == "e" && e.Type == "error" })
				if ev.Condition != c.want {
					t.Errorf("%s", ev.XML)
				}
			}
			// Both answer, on the same streams as before.
			for _, domain := range []string{testUsers, testRooms} {
				if _, err := romeo.IQ(l.ctx, "get", domain, `<ping xmlns="urn:xmpp:ping"/>`); err != nil {
					t.Errorf("%s: %v", domain, err)
				}
			}
		})
	}
	l.t = t
	if strings.Contains(l.tw.logs.String(), "is down") {
		t.Errorf("a stream was lost:\n%s", l.tw.logs)
	}
	for _, e := range romeo.Events() {
		if strings.Contains(e.Body, "SPOOFED") {
			t.Errorf("%s", e.XML)
		}
	}
	// What is said elsewhere cannot break a stream either.
	mark := romeo.Mark()
	l.tw.say(balconyURI, julietURI, "\x00\x01\x1b]]>\ufffe\uffff&#1;")
	l.tw.say(balconyURI, julietURI, strings.Repeat("<&>", 100_000))
	l.tw.say(balconyURI, julietURI, "and on")
	l.wait(romeo, mark, "the next line", saying("and on"))
	if strings.Contains(l.tw.logs.String(), "is down") {
		t.Errorf("a stream was lost:\n%s", l.tw.logs)
	}
}

// The daemon is started again, the server is started again: nobody has to do anything that their client does not do.
func TestLiveRestart(t *testing.T) { liveServers(t, liveRestart) }

func liveRestart(t *testing.T, l *live) {
	covers(t, "daemon and server are started again", "XEP-0045, XEP-0410", "both", "slixmpp")
	romeo := l.login("romeo@xmpp.example/orchard")
	benvolio := l.login("benvolio@xmpp.example/street")
	l.join(romeo, balcony, "Romeo")
	l.tw.do(func() {
		l.tw.add(l.tw.room(balconyURI), julietURI, romeoURI, nil)
		l.tw.add(l.tw.room(balconyURI), benURI, romeoURI, nil)
	})
	l.join(benvolio, balcony, "Ben")

	// The daemon. Ben's client goes away while nobody is there to be told.
	l.tw.stop()
	l.must(benvolio.Do(l.ctx, "abort", nil, nil))
	l.wait(benvolio, 0, "he is gone", func(e testnet.SlixEvent) bool { return e.Kind == "disconnected" })
	mark := romeo.Mark()
	l.must(romeo.Say(l.ctx, balcony, "is anybody there?", "lost-1"))
	l.wait(romeo, mark, "an error", func(e testnet.SlixEvent) bool { return e.ID == "lost-1" && e.Type == "error" })
	l.tw.say(balconyURI, julietURI, "while you were away")
	mark = romeo.Mark()
	l.tw.start()
	l.wait(romeo, mark, "the missed line", saying("while you were away"))
	l.must(romeo.Say(l.ctx, balcony, "is anybody there?", "lost-1"))
	l.wait(romeo, mark, "the reflection", func(e testnet.SlixEvent) bool {
		return e.ID == "lost-1" && e.Type == "groupchat" && e.Body == "is anybody there?"
	})
	l.wait(romeo, mark, "Ben is away", func(e testnet.SlixEvent) bool {
		return e.From == balcony+"/Ben" && e.Type == "" && strings.Contains(e.XML, "xa")
	})
	if _, err := romeo.IQ(l.ctx, "get", balcony+"/Romeo", `<ping xmlns="urn:xmpp:ping"/>`); err != nil {
		t.Error(err)
	}

	// The server: its clients are gone, too.
	l.server.stop()
	id := l.tw.say(balconyURI, julietURI, "nobody can hear this now")
	l.start()
	again := l.login("romeo@xmpp.example/orchard")
	l.tw.must(l.tw.delivered(balconyURI))
	mark = again.Mark()
	l.join(again, balcony, "Romeo")
	ev := l.wait(again, 0, "what was said", saying("nobody can hear this now"))
	if ev.StanzaID != id.String() {
		t.Errorf("%s", ev.XML)
	}
	if n := l.tw.count(adapter.JoinRoom) + l.tw.count(adapter.LeaveRoom); n != 0 {
		t.Errorf("%d intents for nothing but restarts", n)
	}
}
