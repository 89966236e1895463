package matrix

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
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
