package xmpp

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/xml"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

const benchLine = "<message type='groupchat' from='romeo@xmpp.example/orchard' to='balcony@rooms.mimi.xmpp.example'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>"

// bareEcho is what a component costs that parses a stanza and sends it back, and does nothing else: the time of n of them.
func bareEcho(b *testing.B, n int) time.Duration {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		d := xml.NewDecoder(bufio.NewReader(c))
		var out []byte
		for {
			t, err := d.Token()
			if err != nil {
				return
			}
			if s, ok := t.(xml.StartElement); ok && s.Name.Local == "message" {
				e, err := readElement(d, s)
				if err != nil {
					return
				}
				if _, err := c.Write(e.appendXML(out[:0], "")); err != nil {
					return
				}
			}
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	fmt.Fprint(c, "<stream>")
	go func() {
		w := bufio.NewWriter(c)
		for range n {
			w.WriteString(benchLine)
		}
		w.Flush()
	}()
	d := xml.NewDecoder(bufio.NewReader(c))
	for i := 0; i < n; {
		t, err := d.Token()
		if err != nil {
			b.Fatal(err)
		}
		if s, ok := t.(xml.StartElement); ok && s.Name.Local == "message" {
			if _, err := readElement(d, s); err != nil {
				b.Fatal(err)
			}
			i++
		}
	}
	return time.Since(begin)
}

// BenchmarkStanzas is a stanza through the adapter that needs no provider: typing, from one occupant to the room's two, beside a
// bare echo in the same run.
func BenchmarkStanzas(b *testing.B) {
	s := newStub(b)
	tw := newTwin(b, testConfig(s.addr))
	tw.start()
	s.up()
	s.join(romeo, balcony, "Romeo")
	tw.must(tw.delivered(balconyURI))
	mark := s.mark()
	got := 0
	s.mu.Lock()
	s.received = func(e *element) {
		if e.child(nsStates, "composing") != nil {
			got++
		}
		if len(s.got) > mark+1000 {
			s.got = s.got[:mark]
		}
	}
	s.mu.Unlock()
	b.ResetTimer()
	for i := 0; i < b.N; {
		n := min(500, b.N-i) // fewer than a queue takes
		var text []byte
		for range n {
			text = append(text, benchLine...)
		}
		s.send(testRooms, string(text))
		i += n
		s.wait("all of them", func() bool { return got >= i })
	}
	b.StopTimer()
	bare := bareEcho(b, b.N)
	b.ReportMetric(float64(bare.Nanoseconds())/float64(b.N), "ns/bare")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(bare.Nanoseconds()), "x/bare")
	b.ReportMetric(1.5, "x/target")
}

// BenchmarkLargeRoom is one message to a room of 1,000 local occupants, until the server has handled all of it.
func BenchmarkLargeRoom(b *testing.B) {
	s, tw, rooms := crowd(b, 1, 1000)
	ev := adapter.Event{Kind: adapter.Message, Room: rooms[0], Sender: julietURI, Local: tw.rooms[rooms[0]].local(), Content: textMessage("But, soft! what light through yonder window breaks?")}
	mark := s.mark()
	s.mu.Lock()
	s.received = func(*element) {
		if len(s.got) > mark+5000 {
			s.got = s.got[:mark]
		}
	}
	s.mu.Unlock()
	b.ResetTimer()
	for i := range b.N {
		ev.Seq = uint64(5000 + i)
		ev.ID[0], ev.ID[1], ev.ID[2] = 1, byte(i), byte(i>>8)
		if err := tw.adapter.Deliver(context.Background(), ev); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOccupants is the memory of 10,000 occupants in 100 rooms.
func BenchmarkOccupants(b *testing.B) {
	for range b.N {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s, tw, rooms := crowd(b, 100, 100)
		svc := tw.adapter.cur.Load()
		n := 0
		for _, u := range rooms {
			r := svc.room(u)
			r.mu.Lock()
			n += len(r.sessions)
			r.mu.Unlock()
			svc.release(r)
		}
		if n != 10_000 {
			b.Fatalf("%d occupants", n)
		}
		s.mu.Lock()
		s.got = nil
		s.mu.Unlock()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc), "B/heap")
		b.ReportMetric(150e6, "B/target")
		tw.stop()
	}
}

// crowd is a number of rooms with local occupants each, who have been there since before a restart.
func crowd(b *testing.B, rooms, each int) (*stub, *twin, []mimiuri.URI) {
	s := newStub(b)
	tw := newTwin(b, testConfig(s.addr))
	db, err := openStore(context.Background(), tw.db)
	if err != nil {
		b.Fatal(err)
	}
	var list []mimiuri.URI
	for i := range rooms {
		u := mimiuri.URI{Domain: testDomain, Kind: mimiuri.Room, ID: fmt.Sprint("room", i)}
		list = append(list, u)
		r := &twinRoom{info: adapter.Room{URI: u, Roles: twinRoles}, known: true}
		tw.rooms[u] = r
		go tw.deliver(r)
		if err := db.write(func(tx *sql.Tx) error {
			for j := range each {
				name := fmt.Sprintf("user%d", j)
				p := mimiuri.URI{Domain: testDomain, Kind: mimiuri.User, ID: name}
				r.info.Participants = append(r.info.Participants, adapter.Participant{User: p, Role: 2, Send: true})
				if err := putNick(tx, u, nickRow{p, name, ""}); err != nil {
					return err
				}
				if err := putOccupant(tx, occupantRow{u, p, addr{name, testDomain, "x"}}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	db.close()
	tw.start()
	s.up()
	s.wait("everybody is asked", func() bool { return len(s.got) >= rooms*each })
	return s, tw, list
}
