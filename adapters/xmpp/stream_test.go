package xmpp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"gosrc.io/xmpp/stanza"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

const (
	romeo    = "romeo@xmpp.example/orchard"
	benvolio = "benvolio@xmpp.example/street"
)

// A stream that ends, in whatever way, is made anew; what was asked of it meanwhile happens afterwards.
func TestReconnect(t *testing.T) {
	closes := map[string]func(*stub, *stubConn){
		"the server closes the connection": func(_ *stub, c *stubConn) { c.Close() },
		"the server closes the stream":     func(_ *stub, c *stubConn) { io.WriteString(c, "</stream:stream>") },
		"conflict": func(_ *stub, c *stubConn) {
			io.WriteString(c, "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>Replaced</text><a xmlns='b'><c/></a></stream:error></stream:stream>")
			c.Close()
		},
		"garbage":                    func(_ *stub, c *stubConn) { io.WriteString(c, "<<<>>&&& not XML") },
		"an entity nobody knows":     func(_ *stub, c *stubConn) { io.WriteString(c, "<message><body>&foo;</body></message>") },
		"half a stanza and the end":  func(_ *stub, c *stubConn) { io.WriteString(c, "<message from='a@b'"); c.Close() },
		"a stanza beyond all limits": func(_ *stub, c *stubConn) { io.WriteString(c, "<message>"+strings.Repeat("x", 10<<20)) },
	}
	for clause, f := range closes {
		t.Run(clause, func(t *testing.T) {
			s := newStub(t)
			tw := newTwin(t, testConfig(s.addr))
			tw.start()
			s.up()
			s.join(romeo, balcony, "Romeo")
			tw.must(tw.delivered(balconyURI))
			s.mu.Lock()
			c, before := s.conns[testRooms], s.count[testRooms]
			s.mu.Unlock()
			mark := s.mark()
			f(s, c)
			s.wait("another stream", func() bool { return s.count[testRooms] > before })
			tw.say(balconyURI, julietURI, "Ay me!")
			s.expect(mark, "what was said meanwhile", isMessage(romeo, "Ay me!"))
			s.toRooms("<message type='groupchat' id='after' from='%s' to='%s'><body>still here</body></message>", romeo, balcony)
			s.expect(mark, "what is said afterwards", isMessage(romeo, "still here"))
		})
	}
}

// A server that refuses is asked again until it does not.
func TestHandshake(t *testing.T) {
	for clause, greet := range map[string]func(net.Conn) bool{
		"host-unknown": func(c net.Conn) bool {
			fmt.Fprint(c, "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'><stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
			return false
		},
		"not a stream":   func(c net.Conn) bool { fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); return false },
		"nothing at all": func(c net.Conn) bool { return false },
		"something else than a handshake": func(c net.Conn) bool {
			fmt.Fprint(c, "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='x'><message/>")
			return false
		},
	} {
		t.Run(clause, func(t *testing.T) {
			s := newStub(t)
			refusals := make(chan bool, 100)
			s.greet = func(c net.Conn) bool { refusals <- true; return greet(c) }
			tw := newTwin(t, testConfig(s.addr))
			tw.start()
			for range 4 {
				<-refusals
			}
			s.mu.Lock()
			s.greet = nil
			s.mu.Unlock()
			s.up()
			s.join(romeo, balcony, "Romeo")
		})
	}
	t.Run("wrong secret", func(t *testing.T) {
		s := newStub(t)
		cfg := testConfig(s.addr)
		cfg.Secret = "wrong"
		tw := newTwin(t, cfg)
		tw.start()
		tw.must(waitLog(tw, "not-authorized"))
	})
}

// waitLog waits for a text in the adapter's log.
func waitLog(tw *twin, text string) error {
	for range 3000 {
		if strings.Contains(tw.logs.String(), text) {
			return nil
		}
		select {
		case <-tw.t.Context().Done():
		case <-tick():
		}
	}
	return errors.New("the log does not say " + text)
}

// Deliver returns nil only once the server has answered a ping behind the stanzas.
func TestDeliverWaitsForTheServer(t *testing.T) {
	s := newStub(t)
	tw := newTwin(t, testConfig(s.addr))
	tw.start()
	s.up()
	s.join(romeo, balcony, "Romeo")
	tw.must(tw.delivered(balconyURI))
	s.mu.Lock()
	s.deaf = true
	s.mu.Unlock()
	mark := s.mark()
	id := tw.say(balconyURI, julietURI, "Ay me!")
	s.expect(mark, "the message", isMessage(romeo, "Ay me!"))
	pending := func() (p bool) {
		tw.do(func() { p = tw.rooms[balconyURI].next < len(tw.rooms[balconyURI].events) })
		return p
	}
	s.quiet(romeo) // far longer than Deliver would take to return
	if !pending() {
		t.Fatal("delivered without an answer of the server")
	}
	// The stream is lost: the server may not have handled the stanza, so that it comes again, the same.
	mark = s.mark()
	s.mu.Lock()
	s.deaf = false
	s.conns[testRooms].Close()
	s.mu.Unlock()
	again := s.expect(mark, "the message again", isMessage(romeo, "Ay me!"))
	if again.attr("id") != id.String() || again.child(nsSID, "stanza-id").attr("id") != id.String() {
		t.Errorf("another id: %s", again)
	}
	tw.must(tw.delivered(balconyURI))
}

// Without a stream Deliver fails for now if somebody is there to be shown the event, and not otherwise.
func TestDeliverWithoutStream(t *testing.T) {
	s := newStub(t)
	tw := newTwin(t, testConfig(s.addr))
	a, err := New(tw.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ev := adapter.Event{Kind: adapter.Joined, Room: balconyURI, Seq: 1, User: romeoURI, Actor: romeoURI}
	if err := a.Deliver(context.Background(), ev); err == nil || !fault.Temporary(err) {
		t.Errorf("before Run: %v", err)
	}
	if _, err := a.LocalUser(context.Background(), romeoURI); err == nil || !fault.Temporary(err) {
		t.Errorf("before Run: %v", err)
	}
	tw.start()
	s.up()
	s.join(romeo, balcony, "Romeo")
	tw.must(tw.delivered(balconyURI))
	tw.stop()
	s.l.Close()
	tw.start()
	tw.must(waitLog(tw, "connection refused"))
	b := tw.adapter
	msg := adapter.Event{Kind: adapter.Message, Room: balconyURI, Seq: 50, Sender: julietURI, Local: nil}
	if err := b.Deliver(context.Background(), msg); err != nil {
		t.Errorf("a message that nobody here may see: %v", err)
	}
	ev = adapter.Event{Kind: adapter.Joined, Room: balconyURI, Seq: 51, User: julietURI, Actor: romeoURI}
	if err := b.Deliver(context.Background(), ev); err == nil || !fault.Temporary(err) {
		t.Errorf("a change with an occupant here: %v", err)
	}
	if err := b.Deliver(context.Background(), adapter.Event{Kind: 99, Room: balconyURI}); err == nil || fault.Temporary(err) {
		t.Errorf("an unknown kind: %v", err)
	}
	if err := b.Deliver(context.Background(), adapter.Event{Kind: adapter.Message}); err == nil || fault.Temporary(err) {
		t.Errorf("no room: %v", err)
	}
}

// Several events take one round trip; the count is that of those the server has handled.
func TestDeliverBatch(t *testing.T) {
	s := newStub(t)
	tw := newTwin(t, testConfig(s.addr))
	tw.start()
	s.up()
	s.join(romeo, balcony, "Romeo")
	tw.must(tw.delivered(balconyURI))
	a := tw.adapter
	var events []adapter.Event
	for i := range 100 {
		events = append(events, adapter.Event{
			Kind: adapter.Message, Room: balconyURI, Seq: uint64(100 + i), Sender: romeoURI, Local: tw.rooms[balconyURI].local(),
			Content: textMessage(fmt.Sprint("line ", i)),
		})
		events[i].ID[0] = byte(i)
	}
	s.mu.Lock()
	before := s.pings
	s.mu.Unlock()
	n, err := a.DeliverBatch(context.Background(), events)
	if n != 100 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	s.mu.Lock()
	after := s.pings
	s.mu.Unlock()
	if after-before > 10 {
		t.Errorf("%d pings for one batch", after-before)
	}
	got := s.since(0, func(e *element) bool { return strings.HasPrefix(bodyText(e), "line ") })
	for i, e := range got {
		if bodyText(e) != fmt.Sprint("line ", i) {
			t.Fatalf("message %d is %s", i, e)
		}
	}
	if len(got) != 100 {
		t.Errorf("%d messages", len(got))
	}
	events[1].Kind = 99
	if n, err := a.DeliverBatch(context.Background(), events[:3]); n != 1 || err == nil {
		t.Errorf("with an impossible second: %d, %v", n, err)
	}
}

// TLS from the first octet on, with a certificate that is checked.
func TestTLS(t *testing.T) {
	ca, err := testnet.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Certificate("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s := newStub(t)
	front, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	go func() {
		for {
			c, err := front.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	cfg := testConfig(front.Addr().String())
	cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
	tw := newTwin(t, cfg)
	tw.start()
	tw.must(waitLog(tw, "unknown authority"))
	tw.stop()
	tw.cfg.TLS = &tls.Config{RootCAs: ca.Pool()}
	tw.start()
	s.up()
	s.join(romeo, balcony, "Romeo")
}

func TestConfig(t *testing.T) {
	for clause, change := range map[string]func(*Config){
		"server without port":  func(c *Config) { c.Server = "127.0.0.1" },
		"no secret":            func(c *Config) { c.Secret = "" },
		"no local domain":      func(c *Config) { c.LocalDomain = "" },
		"users is no domain":   func(c *Config) { c.Users = "a@b" },
		"rooms is no domain":   func(c *Config) { c.Rooms = "a/b" },
		"users and rooms same": func(c *Config) { c.Rooms = c.Users },
		"users and local same": func(c *Config) { c.Users = strings.ToUpper(c.LocalDomain) },
		"limit too low":        func(c *Config) { c.MaxStanza = 10 },
	} {
		t.Run(clause, func(t *testing.T) {
			cfg := testConfig("127.0.0.1:5347")
			change(&cfg)
			if _, err := New(cfg); err == nil {
				t.Error("taken")
			} else if strings.Contains(err.Error(), testSecret) {
				t.Error("the error tells the secret")
			}
		})
	}
	if _, err := New(testConfig("127.0.0.1:5347")); err != nil {
		t.Error(err)
	}
}

// A stanza on which the reader panics ends the stream, not the process; the next one is made, and the log does not have what the panic says.
func TestPanicOfTheReader(t *testing.T) {
	s := newStub(t)
	logs := new(lockedBuffer)
	handled := make(chan string, 10)
	st := &stream{
		domain: testRooms, addr: s.addr, secret: testSecret, server: testDomain, max: 1 << 20, log: zerolog.New(logs),
		handle: func(p stanza.Packet, _ cutoff) {
			if m, ok := p.(stanza.Message); ok && m.Id == "evil" {
				panic("what somebody wrote")
			}
			handled <- p.Name()
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); st.run(ctx) }()
	defer func() { cancel(); <-ended }()
	for n := 1; n <= 2; n++ {
		s.toRooms("<message id='evil' from='%s' to='%s'><body>x</body></message>", romeo, balcony)
		s.wait("another stream", func() bool { return s.count[testRooms] > n && s.conns[testRooms] != nil })
	}
	s.toRooms("<message id='good' from='%s' to='%s'><body>x</body></message>", romeo, balcony)
	if got := <-handled; got != "message" {
		t.Errorf("%q", got)
	}
	if n := st.panics.Load(); n != 2 {
		t.Errorf("%d panics", n)
	}
	if got := logs.String(); strings.Count(got, "a stream panicked") != 2 || strings.Contains(got, "somebody") {
		t.Errorf("%s", got)
	}
}
