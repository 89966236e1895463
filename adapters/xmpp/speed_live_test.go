//go:build live

package xmpp

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// BenchmarkLive is messages of somebody elsewhere through a real server to a room with one real client: the time of each by itself,
// until the server is known to have handled it, and how long it was until the client had all of them.
func BenchmarkLive(b *testing.B) {
	for _, kind := range []string{prosody, ejabberd} {
		b.Run(kind, func(b *testing.B) {
			if err := testnet.CheckSlix(context.Background()); err != nil {
				b.Fatal(err)
			}
			l := newLive(b, kind, false)
			romeo := l.login("romeo@xmpp.example/orchard")
			l.join(romeo, balcony, "Romeo")
			l.must(romeo.Instant(l.ctx, balcony))
			l.must(romeo.Invite(l.ctx, balcony, juliet, ""))
			l.wait(romeo, 0, "juliet", func(e testnet.SlixEvent) bool { return e.From == balcony+"/juliet" && e.Type == "" })
			l.tw.must(l.tw.delivered(balconyURI))
			ev := adapter.Event{Kind: adapter.Message, Room: balconyURI, Sender: julietURI, Local: l.tw.rooms[balconyURI].local()}
			b.ResetTimer()
			begin := time.Now()
			for i := range b.N {
				ev.Seq, ev.Content = uint64(1000+i), textMessage(fmt.Sprintf("line %d of %d", i, b.N))
				ev.ID[0], ev.ID[1], ev.ID[2] = byte(i), byte(i>>8), byte(b.N)
				if err := l.tw.adapter.Deliver(l.ctx, ev); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			l.wait(romeo, 0, "the last", saying(fmt.Sprintf("line %d of %d", b.N-1, b.N)))
			b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "msg/s")
		})
	}
}
