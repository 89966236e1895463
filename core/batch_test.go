package core_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
)

// batches is the memory adapter taking several events at once.
type batches struct {
	*memory
	most  atomic.Int64
	stuck atomic.Bool // nothing is taken

	refused atomic.Int64
}

func (b *batches) Deliver(ctx context.Context, ev adapter.Event) error {
	if b.stuck.Load() {
		b.refused.Add(1)
		b.signal()
		return fault.New(fault.Unavailable, "")
	}
	return b.memory.Deliver(ctx, ev)
}

func (b *batches) DeliverBatch(ctx context.Context, events []adapter.Event) (int, error) {
	if n := int64(len(events)); n > b.most.Load() {
		b.most.Store(n)
	}
	for i, ev := range events {
		if err := b.Deliver(ctx, ev); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

// An adapter that takes several events at once is given what waits, in order, each once; what it refuses for good is left
// out, and what it cannot take now comes again from there on.
func TestBatches(t *testing.T) {
	_, ps := newNetwork(t, "a.example")
	p := ps[0]
	b := &batches{memory: p.mem}
	p.as = func(*memory) adapter.Adapter { return b }
	tries := 0
	p.mem.fail = func(ev adapter.Event) error {
		if ev.Kind != adapter.Message {
			return nil
		}
		switch s, _ := ev.Content.PlainText(); s {
		case "4":
			return fault.New(fault.Malformed, "never")
		case "7":
			if tries++; tries < 3 {
				return fault.New(fault.Unavailable, "not now")
			}
		}
		return nil
	}
	p.start()
	room := p.room("club")
	p.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: p.user("al")})
	p.awaitJoined(room, p.user("al"))
	b.stuck.Store(true)
	for i := range 10 {
		p.say(room, "al", fmt.Sprint(i))
	}
	p.mem.wait(t, "the first to be tried", func() bool { return b.refused.Load() > 0 })
	b.stuck.Store(false)
	want := []string{"al: 0", "al: 1", "al: 2", "al: 3", "al: 5", "al: 6", "al: 7", "al: 8", "al: 9"}
	if got := p.awaitTexts(room, len(want)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if b.most.Load() < 2 {
		t.Error("nothing was given in a batch")
	}
}
