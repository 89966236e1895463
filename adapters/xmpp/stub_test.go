package xmpp

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
)

// stub is the component port of an XMPP server, for what a real one does not do on demand: it plays every user, and it
// can fail in all the ways a stream can.
type stub struct {
	t    testing.TB
	addr string
	l    net.Listener

	mu       sync.Mutex
	changed  *sync.Cond
	conns    map[string]*stubConn // by domain
	count    map[string]int       // handshakes
	got      []*element           // stanzas received, pings left out
	pings    int
	deaf     bool                // pings are not answered
	greet    func(net.Conn) bool // instead of the handshake; true: goes on with it
	received func(*element)      // for each stanza; called with mu held
	stopped  bool
}

type stubConn struct {
	net.Conn
	domain string
}

func newStub(t testing.TB) *stub {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stub{t: t, l: l, addr: l.Addr().String(), conns: map[string]*stubConn{}, count: map[string]int{}}
	s.changed = sync.NewCond(&s.mu)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	t.Cleanup(func() {
		s.mu.Lock()
		s.stopped = true
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		l.Close()
	})
	return s
}

func testConfig(server string) Config {
	return Config{Server: server, Secret: testSecret, LocalDomain: testDomain, Users: testUsers, Rooms: testRooms}
}

func (s *stub) serve(c net.Conn) {
	defer c.Close()
	d := xml.NewDecoder(c)
	t, err := d.Token()
	for ; err == nil; t, err = d.Token() {
		if _, ok := t.(xml.StartElement); ok {
			break
		}
	}
	if err != nil {
		return
	}
	domain := ""
	for _, a := range t.(xml.StartElement).Attr {
		if a.Name.Local == "to" {
			domain = a.Value
		}
	}
	s.mu.Lock()
	greet := s.greet
	s.mu.Unlock()
	if greet != nil && !greet(c) {
		return
	}
	fmt.Fprintf(c, "<?xml version='1.0'?><stream:stream xmlns='%s' xmlns:stream='http://etherx.jabber.org/streams' from='%s' id='stream-1'>", nsComponent, domain)
	sum := sha1.Sum([]byte("stream-1" + testSecret))
	e, err := next(d)
	if err != nil || e == nil || e.Text != hex.EncodeToString(sum[:]) {
		fmt.Fprint(c, "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
		return
	}
	fmt.Fprint(c, "<handshake/>")
	conn := &stubConn{c, domain}
	s.mu.Lock()
	s.conns[domain] = conn
	s.count[domain]++
	s.changed.Broadcast()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		if s.conns[domain] == conn {
			delete(s.conns, domain)
		}
		s.changed.Broadcast()
		s.mu.Unlock()
	}()
	for {
		e, err := next(d)
		if err != nil {
			return
		}
		if e == nil {
			fmt.Fprint(c, "</stream:stream>")
			return
		}
		s.mu.Lock()
		if e.Local == "iq" && e.attr("to") == testDomain && e.child(nsPing, "ping") != nil {
			s.pings++
			if !s.deaf {
				fmt.Fprintf(c, "<iq type='result' id='%s' from='%s' to='%s'/>", e.attr("id"), testDomain, e.attr("from"))
			}
		} else {
			if from, err := parseAddr(e.attr("from")); err != nil || from.domain != domain {
				s.t.Errorf("a stanza that would end the stream: %s", e)
			}
			s.got = append(s.got, e)
			switch {
			case s.received != nil:
				s.received(e)
			case e.Local == "iq" && e.attr("type") == "get" && e.attr("to") == testDomain: // a server without services
				fmt.Fprintf(c, "<iq type='error' id='%s' from='%s' to='%s'><error type='cancel'><service-unavailable xmlns='%s'/></error></iq>", e.attr("id"), testDomain, e.attr("from"), nsStanzas)
			}
		}
		s.changed.Broadcast()
		s.mu.Unlock()
	}
}

// next reads a stanza; nil is the end of the stream.
func next(d *xml.Decoder) (*element, error) {
	for {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			return readElement(d, t)
		case xml.EndElement:
			return nil, nil
		}
	}
}

// wait waits until cond holds; it is called with the lock held.
func (s *stub) wait(what string, cond func() bool) {
	s.t.Helper()
	timer := time.AfterFunc(30*time.Second, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer timer.Stop()
	begin := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !cond() {
		if time.Since(begin) > 30*time.Second {
			var list []string
			for _, e := range s.got {
				list = append(list, e.String())
			}
			s.t.Fatalf("still not: %s; received:\n%s", what, strings.Join(list, "\n"))
		}
		s.changed.Wait()
	}
}

// up waits until both streams are there.
func (s *stub) up() {
	s.t.Helper()
	s.wait("both streams are up", func() bool { return s.conns[testUsers] != nil && s.conns[testRooms] != nil })
}

// send lets the server hand stanzas to a domain.
func (s *stub) send(domain, text string) {
	s.t.Helper()
	s.wait("the stream of "+domain, func() bool { return s.conns[domain] != nil })
	s.mu.Lock()
	c := s.conns[domain]
	s.mu.Unlock()
	if c == nil {
		s.t.Fatal("the stream has gone again")
	}
	if _, err := io.WriteString(c, text); err != nil {
		s.t.Logf("write to %s: %v", domain, err)
	}
}

// toRooms and toUsers send as a server does.
func (s *stub) toRooms(format string, args ...any) {
	s.t.Helper()
	s.send(testRooms, fmt.Sprintf(format, args...))
}

func (s *stub) toUsers(format string, args ...any) {
	s.t.Helper()
	s.send(testUsers, fmt.Sprintf(format, args...))
}

// mark is how many stanzas there are.
func (s *stub) mark() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

// expect returns the first stanza from mark on that match accepts.
func (s *stub) expect(mark int, what string, match func(*element) bool) *element {
	s.t.Helper()
	var found *element
	s.wait(what, func() bool {
		for ; mark < len(s.got); mark++ {
			if match(s.got[mark]) {
				found = s.got[mark]
				return true
			}
		}
		return false
	})
	return found
}

// since returns the stanzas from mark on that match accepts.
func (s *stub) since(mark int, match func(*element) bool) []*element {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*element
	for _, e := range s.got[mark:] {
		if match(e) {
			out = append(out, e)
		}
	}
	return out
}

// ask sends a request and returns the answer.
func (s *stub) ask(domain, from, to, typ, payload string) *element {
	s.t.Helper()
	mark := s.mark()
	id := fmt.Sprintf("ask-%d", mark)
	s.send(domain, fmt.Sprintf("<iq type='%s' id='%s' from='%s' to='%s'>%s</iq>", typ, id, from, to, payload))
	return s.expect(mark, "the answer to "+payload, func(e *element) bool { return e.Local == "iq" && e.attr("id") == id })
}

// quiet waits until everything sent to the domains before has been handled: a ping of the server goes through
// the same queues.
func (s *stub) quiet(user string) {
	s.t.Helper()
	s.ask(testRooms, user, balcony, "get", "<ping xmlns='urn:xmpp:ping'/>")
	s.ask(testUsers, user, testUsers, "get", "<ping xmlns='urn:xmpp:ping'/>")
}

// join lets somebody join, to the end, and returns their self-presence, or the error.
func (s *stub) join(who, room, nick string) *element {
	s.t.Helper()
	mark := s.mark()
	s.toRooms("<presence from='%s' to='%s/%s' id='join-%d'><x xmlns='http://jabber.org/protocol/muc'/></presence>", who, room, nick, mark)
	e := s.expect(mark, who+" is in "+room, func(e *element) bool {
		return e.Local == "presence" && e.attr("to") == who && (e.attr("type") == "error" || hasCode(e, "110"))
	})
	if e.attr("type") == "" {
		s.expect(mark, "the subject, which ends the join", isSubject(who))
	}
	return e
}

func hasCode(e *element, code string) bool { return strings.Contains(" "+codesOf(e)+" ", " "+code+" ") }

// codesOf gives the status codes of a presence.
func codesOf(e *element) string {
	var out []string
	if x := e.child(nsMUCUser, "x"); x != nil {
		for _, k := range x.Kids {
			if k.Local == "status" {
				out = append(out, k.attr("code"))
			}
		}
	}
	return strings.Join(out, " ")
}

func bodyText(e *element) string { return e.text("", "body") }

func isMessage(to, body string) func(*element) bool {
	return func(e *element) bool {
		return e.Local == "message" && e.attr("to") == to && bodyText(e) == body
	}
}

func isError(to, id string) func(*element) bool {
	return func(e *element) bool {
		return e.attr("type") == "error" && e.attr("to") == to && e.attr("id") == id
	}
}

func tick() <-chan time.Time { return time.After(10 * time.Millisecond) }

func textMessage(s string) *content.Message { return content.Text(s) }
