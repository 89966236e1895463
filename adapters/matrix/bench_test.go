package matrix

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// The adapter in front of a stub homeserver: what it costs apart from a real one, database included.

func BenchmarkDeliver(b *testing.B) {
	s := newService(b)
	room, _ := s.portal()
	msg := content.Text("parting is such sweet sorrow")
	if err := msg.Stamp(zeroReader{1}, mustURI(romeo), room); err != nil {
		b.Fatal(err)
	}
	seq := uint64(1000)
	for b.Loop() {
		seq++
		ev := adapter.Event{Kind: adapter.Message, Room: room, Seq: seq, Sender: mustURI(romeo), Content: msg}
		for i := range 8 {
			ev.ID[i] = byte(seq >> (8 * i))
		}
		if err := s.a.Deliver(s.ctx, ev); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTransaction(b *testing.B) {
	s := newService(b)
	_, mx := s.portal()
	n := 0
	for b.Loop() {
		n++
		if status, answer := s.do(http.MethodPut, fmt.Sprint(txnPath, n), transaction(text(mx, fmt.Sprint("$", n), strings.Repeat("x", 100))), nil); status != 200 {
			b.Fatal(status, answer)
		}
	}
	last := fmt.Sprint("$", n)
	s.tw.intent(s.ctx, "the last", func(in adapter.Intent) bool { return in.OriginID == last })
}

// BenchmarkDeliverBare is the same loop with mautrix alone: what a message costs without a database, exactly-once and order.
func BenchmarkDeliverBare(b *testing.B) {
	s := newService(b)
	_, mx := s.portal()
	hs := s.a.(*Adapter).hs
	client := hs.as(id.UserID(ghostOf(romeo)))
	n := 0
	for b.Loop() {
		n++
		_, err := client.SendMessageEvent(s.ctx, id.RoomID(mx), event.EventMessage, map[string]any{"msgtype": "m.text", "body": "parting is such sweet sorrow"}, mautrix.ReqSendEvent{TransactionID: fmt.Sprint("bare", n)})
		if err != nil {
			b.Fatal(err)
		}
	}
}

const (
	benchRooms = 32
	benchBatch = 50
)

// portals makes rooms with juliet here and romeo elsewhere.
func (s *service) portals(n int) (rooms []mimiuri.URI, on []string) {
	s.t.Helper()
	for i := range n {
		room := s.tw.newRoom(fmt.Sprintf("mimi://xmpp.example/r/hall%d", i), "Hall", romeo)
		s.tw.add(room, romeo, local("juliet"))
		rooms = append(rooms, room)
	}
	s.tw.settled(s.ctx)
	for _, r := range rooms {
		p, ok, err := s.a.(*Adapter).current.Load().st.portal(s.ctx, r)
		if err != nil || !ok {
			s.t.Fatalf("no portal: %v", err)
		}
		on = append(on, string(p.room))
	}
	return rooms, on
}

// inRooms does n things, those of each room one after the other and the rooms at once.
func inRooms(b *testing.B, n int, do func(room, i int) error) {
	var wg sync.WaitGroup
	for r := range benchRooms {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := r; i < n; i += benchRooms {
				if err := do(r, i); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
}

func reportBare(b *testing.B, bare time.Duration) {
	b.ReportMetric(float64(bare.Nanoseconds())/float64(b.N), "ns/bare")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(bare.Nanoseconds()), "x/bare")
	b.ReportMetric(1.5, "x/target")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkEvents is events in 32 rooms at once, beside what mautrix alone needs for the same requests in the same run: sent to the
// homeserver, and taken from it in transactions of 50.
func BenchmarkEvents(b *testing.B) {
	b.Run("sent", func(b *testing.B) {
		s := newService(b)
		rooms, on := s.portals(benchRooms)
		hs := s.a.(*Adapter).hs
		client := hs.as(id.UserID(ghostOf(romeo)))
		begin := time.Now()
		inRooms(b, b.N, func(r, i int) error {
			_, err := client.SendMessageEvent(s.ctx, id.RoomID(on[r]), event.EventMessage, map[string]any{"msgtype": "m.text", "body": "parting is such sweet sorrow"}, mautrix.ReqSendEvent{TransactionID: fmt.Sprint("bare", i)})
			return err
		})
		bare := time.Since(begin)
		msgs := make([]*content.Message, benchRooms)
		for r := range msgs {
			msgs[r] = content.Text("parting is such sweet sorrow")
			if err := msgs[r].Stamp(zeroReader{1}, mustURI(romeo), rooms[r]); err != nil {
				b.Fatal(err)
			}
		}
		b.ResetTimer()
		inRooms(b, b.N, func(r, i int) error {
			ev := adapter.Event{Kind: adapter.Message, Room: rooms[r], Seq: uint64(1000 + i), Sender: mustURI(romeo), Content: msgs[r]}
			binary.BigEndian.PutUint64(ev.ID[:], uint64(i+1))
			return s.a.Deliver(s.ctx, ev)
		})
		b.StopTimer()
		reportBare(b, bare)
	})
	b.Run("taken", func(b *testing.B) {
		s := newService(b)
		_, on := s.portals(benchRooms)
		var bodies []string
		for i := 0; i < b.N; i += benchBatch {
			var list []any
			for j := i; j < min(i+benchBatch, b.N); j++ {
				list = append(list, text(on[j%benchRooms], fmt.Sprint("$taken", j), strings.Repeat("x", 100)))
			}
			bodies = append(bodies, transaction(list...))
		}
		as := appservice.Create()
		as.Registration = &appservice.Registration{ServerToken: s.reg.HSToken}
		web := httptest.NewServer(as.Router)
		defer web.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range b.N {
				<-as.Events
			}
		}()
		put := func(base, body string, i int) {
			req, err := http.NewRequestWithContext(s.ctx, http.MethodPut, base+txnPath+fmt.Sprint("many", i), strings.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+s.reg.HSToken)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				b.Fatal(res.Status)
			}
		}
		begin := time.Now()
		for i, body := range bodies {
			put(web.URL, body, i)
		}
		<-done
		bare := time.Since(begin)
		b.ResetTimer()
		for i, body := range bodies {
			put("http://"+s.cfg.Listen, body, i)
		}
		s.tw.until(s.ctx, "all of them", func() bool {
			n := 0
			for _, in := range s.tw.intents {
				if in.Kind == adapter.SendMessage {
					n++
				}
			}
			return n >= b.N
		})
		b.StopTimer()
		reportBare(b, bare)
	})
}

// BenchmarkGhosts is the memory of an adapter with 10,000 ghosts in 100 rooms.
func BenchmarkGhosts(b *testing.B) {
	const rooms, each = 100, 100
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for range b.N {
		s := newService(b)
		before := heap()
		for i := range rooms {
			var users []string
			for j := range each {
				users = append(users, fmt.Sprintf("mimi://xmpp.example/u/user%d-%d", i, j))
			}
			room := s.tw.newRoom(fmt.Sprintf("mimi://xmpp.example/r/hall%d", i), "Hall", users...)
			s.tw.add(room, users[0], local("juliet"))
		}
		s.tw.settled(s.ctx)
		if n := len(s.stub.registered()); n < rooms*each {
			b.Fatalf("%d ghosts", n)
		}
		// The stub's and the twin's share is in it, too.
		b.ReportMetric(float64(heap()-before), "B/heap")
		b.ReportMetric(150e6, "B/target")
		s.stop()
	}
}
