//go:build live

package matrix

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
)

// TestKilledBetweenStoreAndIntake: what the homeserver was told is stored is carried out by the next process, once.
func TestKilledBetweenStoreAndIntake(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	room := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
	w.tw.add(room, romeo, local("juliet"))
	portal := w.accept(juliet)
	w.tw.settled(w.ctx)

	var asked atomic.Int32
	w.tw.setReject(func(adapter.Intent) error {
		asked.Add(1)
		return fault.New(fault.Unavailable, "the provider is not there")
	})
	var want []string
	for i := range 5 {
		text := fmt.Sprintf("line %d", i)
		w.must2(juliet.SendText(w.ctx, portal, text, ""))
		want = append(want, "juliet: "+text)
	}
	w.waitFor("the events are stored and one was tried", func() bool {
		var n int
		w.must(w.tw.db.QueryRow(`SELECT COUNT(*) FROM matrix_event WHERE done = 0`).Scan(&n))
		return n == 5 && asked.Load() > 0
	})
	w.stop()
	w.reopen()
	w.tw.setReject(nil)
	w.start()
	w.tw.intent(w.ctx, "the last line", sends("line 4"))
	w.tw.settled(w.ctx)
	if got := w.tw.textsOf(room); !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	var bodies int
	w.must(w.tw.db.QueryRow(`SELECT COUNT(*) FROM matrix_event WHERE body IS NOT NULL`).Scan(&bodies))
	if bodies != 0 {
		t.Errorf("%d bodies are kept", bodies)
	}
}

// TestKilledBetweenSendAndMark: a message is sent, and neither the adapter remembers it nor, after its own restart, the
// homeserver the transaction ID. It is shown once all the same.
func TestKilledBetweenSendAndMark(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	room := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
	w.tw.add(room, romeo, local("juliet"))
	portal := w.accept(juliet)
	w.tw.say(room, romeo, "one")
	first, err := juliet.WaitText(w.ctx, portal, "one")
	w.must(err)
	w.tw.settled(w.ctx)
	w.tw.mu.Lock()
	var ev adapter.Event
	for _, e := range w.tw.events[room] {
		if e.Kind == adapter.Message && e.Sender.String() == romeo {
			ev = e
		}
	}
	w.tw.mu.Unlock()
	again := func(what string) {
		t.Helper()
		if _, err := w.tw.db.Exec(`DELETE FROM matrix_message`); err != nil {
			t.Fatal(err)
		}
		w.must(w.adapter().Deliver(w.ctx, ev))
		parts, err := w.bridge().st.parts(w.ctx, room, ev.ID)
		if err != nil || string(parts[0]) != first.ID {
			t.Errorf("%s: %v, %v; want %s", what, parts, err, first.ID)
		}
		if got := w.texts(juliet, portal); len(got) != 1 {
			t.Errorf("%s: %q", what, got)
		}
	}
	again("the homeserver knows the transaction")
	w.stop()
	w.reopen()
	w.hs.Kill()
	w.must(w.hs.Start(w.ctx))
	w.start()
	again("nobody knows it")
	w.tw.say(room, romeo, "two")
	_, err = juliet.WaitText(w.ctx, portal, "two")
	w.must(err)
}

// TestKilledWhileMakingThePortal: the homeserver has made the room and nobody has written that down.
func TestKilledWhileMakingThePortal(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	room := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
	w.tw.add(room, romeo, local("juliet"))
	portal := w.accept(juliet)
	w.tw.settled(w.ctx)
	w.stop()
	for _, table := range []string{"matrix_portal", "matrix_member", "matrix_ghost"} {
		if _, err := w.tw.db.Exec(`DELETE FROM ` + table); err != nil {
			t.Fatal(err)
		}
	}
	w.reopen()
	w.start()
	w.tw.mu.Lock()
	joined := w.tw.events[room][0]
	w.tw.mu.Unlock()
	w.must(w.adapter().Deliver(w.ctx, joined))
	w.tw.say(room, romeo, "here still")
	_, err := juliet.WaitText(w.ctx, portal, "here still")
	w.must(err)
	rooms := map[string]bool{}
	for _, ev := range juliet.Events() {
		if ev.Kind == "invite" {
			rooms[ev.Room] = true
		}
	}
	if len(rooms) != 1 {
		t.Errorf("invited to %v", rooms)
	}
}

// TestOutages: either side is away for a while; afterwards everything has come, once and in order.
func TestOutages(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	room := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
	w.tw.add(room, romeo, local("juliet"))
	portal := w.accept(juliet)
	w.tw.settled(w.ctx)
	var want, wantMatrix []string
	both := func(user, sender, text string) {
		want = append(want, user+": "+text)
		wantMatrix = append(wantMatrix, sender+": "+text)
	}

	w.hs.Kill()
	for i := range 5 {
		text := fmt.Sprintf("while the homeserver was away %d", i)
		w.tw.say(room, romeo, text)
		both("romeo", ghostOf(romeo), text)
	}
	w.must(w.hs.Start(w.ctx))
	_, err := juliet.WaitText(w.ctx, portal, "while the homeserver was away 4")
	w.must(err)

	w.stop()
	for i := range 5 {
		text := fmt.Sprintf("while the bridge was away %d", i)
		w.must2(juliet.SendText(w.ctx, portal, text, ""))
		both("juliet", juliet.UserID, text)
	}
	w.reopen()
	w.start()
	w.tw.intent(w.ctx, "the last line", sends("while the bridge was away 4"))
	w.tw.settled(w.ctx)
	if got := w.tw.textsOf(room); !slices.Equal(got, want) {
		t.Errorf("MIMI heard %q, want %q", got, want)
	}
	if got := w.texts(juliet, portal); !slices.Equal(got, wantMatrix) {
		t.Errorf("Matrix shows %q, want %q", got, wantMatrix)
	}
}

// TestKilledAtRandom: a conversation in which the adapter ends at random moments and a new one takes over.
func TestKilledAtRandom(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	room := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
	w.tw.add(room, romeo, local("juliet"))
	portal := w.accept(juliet)
	const lines, kills = 60, 12
	spoken := make(chan error, 1)
	go func() {
		for i := range lines {
			if _, err := juliet.SendText(w.ctx, portal, fmt.Sprintf("juliet %d", i), fmt.Sprintf("txn%d", i)); err != nil {
				spoken <- err
				return
			}
			w.tw.say(room, romeo, fmt.Sprintf("romeo %d", i))
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		}
		spoken <- nil
	}()
	for range kills {
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		w.stop()
		w.start()
	}
	w.must(<-spoken)
	w.tw.intent(w.ctx, "the last line", sends(fmt.Sprintf("juliet %d", lines-1)))
	w.tw.settled(w.ctx)
	var mimi, matrix [2][]string
	for _, line := range w.tw.textsOf(room) {
		_, text, _ := strings.Cut(line, ": ")
		i := 0
		if strings.HasPrefix(text, "romeo") {
			i = 1
		}
		mimi[i] = append(mimi[i], text)
	}
	// By what her client was sent: Dendrite's /messages has been seen to leave out an event of hers under load.
	for _, who := range []string{"juliet", "romeo"} {
		_, err := juliet.WaitText(w.ctx, portal, fmt.Sprintf("%s %d", who, lines-1))
		w.must(err)
	}
	shown := map[string]bool{}
	for _, e := range juliet.Events() {
		ev := e.Event()
		if e.Kind != "timeline" || e.Room != portal || ev.Type != "m.room.message" || ev.String("msgtype") == "m.notice" || shown[ev.ID] {
			continue
		}
		shown[ev.ID] = true
		i := 0
		if ev.Sender == ghostOf(romeo) {
			i = 1
		}
		matrix[i] = append(matrix[i], ev.Text())
	}
	for i, who := range []string{"juliet", "romeo"} {
		var want []string
		for n := range lines {
			want = append(want, fmt.Sprintf("%s %d", who, n))
		}
		if !slices.Equal(mimi[i], want) {
			t.Errorf("MIMI heard of %s %q", who, mimi[i])
		}
		if !slices.Equal(matrix[i], want) {
			t.Errorf("Matrix shows of %s %q", who, matrix[i])
		}
	}
}

// TestKilledWhileAdmitting: the ghost has joined a user's room, and nobody has written that down or read what was said.
func TestKilledWhileAdmitting(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	w.tw.setHold(true)
	room, err := juliet.CreateRoom(w.ctx, "Orchard", false, ghostOf(romeo))
	w.must(err)
	w.must2(juliet.SendText(w.ctx, room, "first", ""))
	w.tw.intent(w.ctx, "invite", func(in adapter.Intent) bool { return in.Kind == adapter.Invite })
	// The crash: the ghost joins, and that is all.
	b := w.bridge()
	ghost, err := b.ensureGhost(w.ctx, mustURI(romeo))
	w.must(err)
	w.must(b.hs.join(w.ctx, ghost, id.RoomID(room)))
	w.must2(juliet.SendText(w.ctx, room, "second", ""))
	w.waitFor("the second line waits for the first", func() bool {
		var n int
		w.must(w.tw.db.QueryRow(`SELECT COUNT(*) FROM matrix_event WHERE done = $1`, stateParked).Scan(&n))
		return n == 1
	})
	w.stop()
	w.reopen()
	w.start()
	w.tw.setHold(false)
	w.tw.intent(w.ctx, "second", sends("second"))
	w.tw.settled(w.ctx)
	for uri := range w.tw.rooms {
		if got := w.tw.textsOf(uri); !slices.Equal(got, []string{"juliet: first", "juliet: second"}) {
			t.Errorf("heard %q", got)
		}
	}
	w.membership(juliet, room, w.bot(), "join")
}
