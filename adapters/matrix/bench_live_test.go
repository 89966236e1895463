//go:build live

package matrix

import (
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
)

// BenchmarkLive is messages of somebody elsewhere through a real homeserver, whose data lies in memory where there is such a folder, beside
// the same requests by mautrix alone in the same run.
func BenchmarkLive(b *testing.B) {
	for _, kind := range []string{"Dendrite", "Synapse"} {
		b.Run(kind, func(b *testing.B) {
			w := newWorldWith(b, func(*Config) {})
			room := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
			w.must(w.hs.CreateUser(w.ctx, "juliet", "secret-of-juliet"))
			w.tw.add(room, romeo, local("juliet"))
			w.tw.settled(w.ctx)
			w.tw.mu.Lock()
			a := w.tw.adapter.(*Adapter)
			w.tw.mu.Unlock()
			p, ok, err := a.current.Load().st.portal(w.ctx, room)
			if err != nil || !ok {
				b.Fatalf("no portal: %v", err)
			}
			msg := content.Text("parting is such sweet sorrow")
			w.must(msg.Stamp(zeroReader{1}, mustURI(romeo), room))
			b.ResetTimer()
			for i := range b.N {
				ev := adapter.Event{Kind: adapter.Message, Room: room, Seq: uint64(1000 + i), Sender: mustURI(romeo), Content: msg}
				ev.ID[0], ev.ID[1], ev.ID[2] = byte(i), byte(i>>8), byte(b.N)
				if err := a.Deliver(w.ctx, ev); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			client := a.hs.as(id.UserID(ghostOf(romeo)))
			begin := time.Now()
			for i := range b.N {
				_, err := client.SendMessageEvent(w.ctx, id.RoomID(p.room), event.EventMessage, map[string]any{"msgtype": "m.text", "body": "parting is such sweet sorrow"},
					mautrix.ReqSendEvent{TransactionID: fmt.Sprint("bare", b.N, "-", i)})
				if err != nil {
					b.Fatal(err)
				}
			}
			bare := time.Since(begin)
			b.ReportMetric(float64(bare.Nanoseconds())/float64(b.N), "ns/bare")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(bare.Nanoseconds()), "x/bare")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
