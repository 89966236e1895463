package core_test

import (
	"context"
	"reflect"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
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
