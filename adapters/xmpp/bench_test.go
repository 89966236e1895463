package xmpp

import (
	"context"
	"fmt"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
)

// BenchmarkDeliver shows a message to a room's occupants and waits for the server each time, as the provider does; the
// server is a stub that answers at once.
func BenchmarkDeliver(b *testing.B) {
	for _, occupants := range []int{1, 100} {
		b.Run(fmt.Sprintf("occupants=%d", occupants), func(b *testing.B) {
			s := newStub(b)
			tw := newTwin(b, testConfig(s.addr))
			tw.start()
			s.up()
			for i := range occupants {
				s.join(fmt.Sprintf("romeo@xmpp.example/%d", i), balcony, "Romeo")
			}
			tw.must(tw.delivered(balconyURI))
			ev := adapter.Event{Kind: adapter.Message, Room: balconyURI, Sender: romeoURI, Local: tw.rooms[balconyURI].local(), Content: textMessage("But, soft! what light through yonder window breaks?")}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				ev.Seq = uint64(1000 + i)
				ev.ID[0], ev.ID[1], ev.ID[2] = byte(i), byte(i>>8), byte(i>>16)
				if err := tw.adapter.Deliver(context.Background(), ev); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIntake is the way of a message from the socket to the provider and back to its sender.
func BenchmarkIntake(b *testing.B) {
	s := newStub(b)
	tw := newTwin(b, testConfig(s.addr))
	tw.start()
	s.up()
	s.join(romeo, balcony, "Romeo")
	mark := s.mark()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		s.toRooms("<message type='groupchat' id='b%d' from='%s' to='%s'><body>line %d</body></message>", i, romeo, balcony, i)
		if i%500 == 499 { // fewer than a queue takes
			s.expect(mark, "the last", isMessage(romeo, fmt.Sprintf("line %d", i)))
			mark = s.mark()
		}
	}
	s.expect(mark, "the last", isMessage(romeo, fmt.Sprintf("line %d", b.N-1)))
}
