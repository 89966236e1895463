//go:build live

package xmpp

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// crowdClient does what a chat client does by itself: it connects again when its connection ends, joins its room again, reads
// what it has missed from the archive, and sends again what was not reflected.
type crowdClient struct {
	addr, user, password string

	mu        sync.Mutex
	seen      map[string]string // bodies by stanza-id
	last      string            // stanza-id
	unsent    []string          // bodies; the first is under way
	refused   int               // joins that were answered with an error
	caughtUp  bool
	connected int
	sending   bool
	conn      net.Conn
}

var errCrowd = errors.New("the stream was not as expected")

func (c *crowdClient) jid() string { return c.user + "@" + testDomain + "/crowd" }

func (c *crowdClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = c.once(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// once is one connection: RFC 6120 with SASL PLAIN, without TLS.
func (c *crowdClient) once(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	d := xml.NewDecoder(conn)
	open := func() error {
		fmt.Fprintf(conn, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='%s' version='1.0'>", testDomain)
		for {
			t, err := d.Token()
			if err != nil {
				return err
			}
			if _, ok := t.(xml.StartElement); ok {
				break
			}
		}
		_, err := next(d) // features
		return err
	}
	if err := open(); err != nil {
		return err
	}
	fmt.Fprintf(conn, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>", base64.StdEncoding.EncodeToString([]byte("\x00"+c.user+"\x00"+c.password)))
	if e, err := next(d); err != nil || e == nil || e.Local != "success" {
		return errors.Join(errCrowd, err)
	}
	if err := open(); err != nil {
		return err
	}
	fmt.Fprint(conn, "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>crowd</resource></bind></iq>")
	if e, err := next(d); err != nil || e == nil || e.attr("type") != "result" {
		return errors.Join(errCrowd, err)
	}
	c.mu.Lock()
	c.conn, c.caughtUp, c.sending = conn, false, false
	c.connected++
	c.mu.Unlock()
	fmt.Fprint(conn, "<presence/>")
	c.join()
	for {
		e, err := next(d)
		if err != nil || e == nil {
			return err
		}
		c.got(e)
	}
}

func (c *crowdClient) join() {
	fmt.Fprintf(c.conn, "<presence to='%s/%s'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>", balcony, c.user)
}

// archive asks for what comes behind the last message seen.
func (c *crowdClient) archive() {
	after := ""
	if c.last != "" {
		after = "<after>" + c.last + "</after>"
	}
	fmt.Fprintf(c.conn, "<iq type='set' id='archive' to='%s'><query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>200</max>%s</set></query></iq>", balcony, after)
}

// talk sends the first message that is not known to be in the room. c.mu is held.
func (c *crowdClient) talk() {
	if len(c.unsent) > 0 && !c.sending && c.caughtUp {
		c.sending = true
		fmt.Fprintf(c.conn, "<message type='groupchat' id='%s' to='%s'><body>%[1]s</body><origin-id xmlns='urn:xmpp:sid:0' id='%[1]s'/></message>", c.unsent[0], balcony)
	}
}

func (c *crowdClient) later(f func()) {
	conn := c.conn
	time.AfterFunc(200*time.Millisecond, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.conn == conn {
			f()
		}
	})
}

func (c *crowdClient) got(e *element) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case e.Local == "presence" && e.attr("type") == "error": // the component is not there yet
		c.refused++
		c.later(c.join)
	case e.Local == "presence" && hasCode(e, "110") && e.attr("type") == "":
		if !c.caughtUp {
			c.archive()
		}
	case e.Local == "iq" && e.attr("id") == "archive":
		if e.attr("type") == "error" {
			c.later(c.archive)
			return
		}
		if e.child(nsMAM, "fin").attr("complete") != "true" {
			c.archive()
			return
		}
		c.caughtUp = true
		c.talk()
	case e.Local == "message" && e.attr("type") == "error":
		c.sending = false
		c.later(c.talk)
	case e.Local == "message" && e.child(nsMAM, "result") != nil:
		r := e.child(nsMAM, "result")
		c.saw(r.attr("id"), r.child(nsForward, "forwarded").Kids)
	case e.Local == "message":
		if id := e.child(nsSID, "stanza-id").attr("id"); id != "" {
			c.saw(id, []*element{e})
		}
	}
}

func (c *crowdClient) saw(id string, list []*element) {
	for _, e := range list {
		body := ""
		for _, k := range e.Kids {
			if k.Local == "body" {
				body = k.Text
			}
		}
		if body == "" {
			continue
		}
		c.seen[id], c.last = body, id
		if len(c.unsent) > 0 && c.unsent[0] == body {
			c.unsent, c.sending = c.unsent[1:], false
			c.talk()
		}
	}
}

// The server is started again while 100 users chat, and the daemon after it: all that was said is seen by everybody, each message is
// handed in once, and no one's participation begins or ends by it. What a client does here it does by itself.
func TestLiveCrowd(t *testing.T) {
	covers(t, "a server and a daemon that are started again while 100 users chat", "XEP-0045, XEP-0313, XEP-0359", "both", "a client of the test")
	const people, before, after = 100, 1, 1
	users := map[string]string{}
	for i := range people {
		users[fmt.Sprintf("u%d", i)] = "pass"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	o := testnet.ProsodyOptions{Dir: t.TempDir(), Domain: testDomain, Components: []string{testUsers, testRooms}, Secret: testSecret, Users: users, Plain: true}
	server, err := testnet.StartProsody(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { server.Stop() }()
	t.Log("testtable: server " + server.Version)
	o.Ports = server.Ports
	tw := newTwin(t, testConfig(server.ComponentAddr))
	tw.do(func() {
		r := tw.room(balconyURI)
		tw.add(r, julietURI, julietURI, nil)
		for i := range people {
			tw.add(r, mimiuri.MustParse(fmt.Sprintf("mimi://%s/u/u%d", testDomain, i)), julietURI, nil)
		}
	})
	tw.start()
	tw.must(tw.delivered(balconyURI))

	var running sync.WaitGroup
	clients := make([]*crowdClient, people)
	for i := range clients {
		c := &crowdClient{addr: server.C2S, user: fmt.Sprintf("u%d", i), password: "pass", seen: map[string]string{}}
		clients[i] = c
		running.Add(1)
		go func() { defer running.Done(); c.run(ctx) }()
	}
	defer running.Wait()
	defer cancel()
	all := func(what string, ok func(c *crowdClient) bool) {
		t.Helper()
		for {
			n, some := 0, ""
			for _, c := range clients {
				c.mu.Lock()
				if ok(c) {
					n++
				} else {
					some = fmt.Sprintf("%s: connected %d times, %d joins refused, caught up %v, %d seen, %d unsent", c.user, c.connected, c.refused, c.caughtUp, len(c.seen), len(c.unsent))
				}
				c.mu.Unlock()
			}
			if n == people {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s: %d of %d; %s", what, n, people, some)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	say := func(round, n int) {
		for _, c := range clients {
			c.mu.Lock()
			for i := range n {
				c.unsent = append(c.unsent, fmt.Sprintf("%s-%d-%d", c.user, round, i))
			}
			c.talk()
			c.mu.Unlock()
		}
	}
	all("everybody is in the room", func(c *crowdClient) bool { return c.caughtUp })
	say(1, before)
	tw.must(tw.until("they are in the middle of it", func() bool { return len(tw.intents) >= people/2 }))
	server.Stop()
	for range 3 {
		tw.say(balconyURI, julietURI, "nobody can hear this now")
	}
	if server, err = testnet.StartProsody(ctx, o); err != nil {
		t.Fatal(err)
	}
	say(2, after)
	tw.must(tw.until("they are in the middle of it again", func() bool { return len(tw.intents) >= people*before+people/2 }))
	tw.stop()
	tw.start()
	total := people*(before+after) + 3
	all("everybody has said everything", func(c *crowdClient) bool { return len(c.unsent) == 0 })
	tw.must(tw.delivered(balconyURI))
	// What came while they were catching up is in the archive as well: what a client asks for when it is idle.
	for _, c := range clients {
		c.mu.Lock()
		if len(c.seen) < total && c.caughtUp {
			c.last = ""
			c.archive()
		}
		c.mu.Unlock()
	}
	all("everybody has seen everything", func(c *crowdClient) bool { return len(c.seen) == total })
	var said []string
	tw.do(func() {
		for _, in := range tw.intents {
			if in.Kind == adapter.SendMessage {
				text, _ := in.Content.PlainText()
				said = append(said, text)
			}
		}
	})
	slices.Sort(said)
	if n := len(said); n != people*(before+after) || len(slices.Compact(said)) != n {
		t.Errorf("%d messages were handed in, %d different ones", n, len(slices.Compact(said)))
	}
	if n := tw.count(adapter.JoinRoom) + tw.count(adapter.CreateRoom) + tw.count(adapter.LeaveRoom); n != 0 {
		t.Errorf("%d intents to join or leave, for nothing but restarts", n)
	}
	for _, c := range clients {
		c.mu.Lock()
		if c.connected != 2 {
			t.Errorf("%s has connected %d times", c.user, c.connected)
		}
		c.mu.Unlock()
	}
}
