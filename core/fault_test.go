package core_test

import "testing"

// TestFirstEpoch: a room's creator, alone, can speak in epoch 0.
func TestFirstEpoch(t *testing.T) {
	_, ps := newNetwork(t, "a.example")
	a := ps[0].start()
	room := open(t, a)
	a.say(room, "alice", "anybody here?")
	equal(t, "a", a.awaitTexts(room, 1), []string{"alice: anybody here?"})
}
