package core_test

import (
	"context"
	"reflect"
	"sync/atomic"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
)

// What was delivered can be read again, in order, also after a restart; what never was is left out.
func TestHistory(t *testing.T) {
	_, ps := newNetwork(t, "a.example")
	p := ps[0].start()
	room := p.room("club")
	p.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: p.user("al")})
	p.awaitJoined(room, p.user("al"))
	p.say(room, "al", "one")
	p.say(room, "al", "two")
	p.awaitTexts(room, 2)
	p.mem.mu.Lock()
	want := append([]adapter.Event(nil), p.mem.events[room]...)
	p.mem.mu.Unlock()
	p.stop()
	p.start()
	got, err := p.mem.host.History(context.Background(), room, []uint64{want[2].Seq, want[1].Seq, want[1].Seq, 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want[1:3]) {
		t.Errorf("%+v, want %+v", got, want[1:3])
	}
	if _, err := p.mem.host.History(context.Background(), room, make([]uint64, 501)); err == nil {
		t.Error("more than 500 were read at once")
	}
}

// A message is pending from its intake until the adapter has been shown it, over restarts, and has its final ID all that time.
func TestPending(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	b.awaitJoined(room, b.user("bob"))
	a.stop()
	origin := b.intake(adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: b.user("bob"), Content: content.Text("waits"), Hint: "a hint"})
	pending := func() []adapter.Pending {
		t.Helper()
		list, err := b.mem.host.Pending(context.Background(), room, b.user("bob"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	list := pending()
	if len(list) != 1 || list[0].Origin.ID != origin || list[0].Origin.Hint != "a hint" {
		t.Fatalf("%+v", list)
	}
	if text, _ := list[0].Content.PlainText(); text != "waits" {
		t.Errorf("%+v", list[0].Content)
	}
	b.stop()
	b.start()
	if again := pending(); len(again) != 1 || again[0].ID != list[0].ID {
		t.Errorf("after a restart: %+v", again)
	}
	if others, err := b.mem.host.Pending(context.Background(), room, b.user("bea")); err != nil || len(others) != 0 {
		t.Errorf("of somebody else: %v, %v", others, err)
	}
	var tries atomic.Int64
	var down atomic.Bool
	down.Store(true)
	b.mem.mu.Lock()
	b.mem.fail = func(e adapter.Event) error {
		if down.Load() && e.Kind == adapter.Message {
			tries.Add(1)
			b.mem.signal()
			return fault.New(fault.Unavailable, "server down")
		}
		return nil
	}
	b.mem.mu.Unlock()
	a.start()
	b.mem.wait(t, "it is accepted", func() bool { return tries.Load() > 0 })
	if again := pending(); len(again) != 1 || again[0].ID != list[0].ID || again[0].Origin.ID != origin {
		t.Errorf("accepted, but not shown: %+v", again)
	}
	down.Store(false)
	if ev := b.await(room, "it is shown", func(e adapter.Event) bool { return e.Kind == adapter.Message }); ev.ID != list[0].ID {
		t.Errorf("shown as %s, not %s", ev.ID, list[0].ID)
	}
	b.awaitDelivered(room)
	if again := pending(); len(again) != 0 {
		t.Errorf("%+v", again)
	}
}
