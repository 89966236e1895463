package core_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/store"
)

// movable is a clock that can be moved ahead.
type movable struct{ ahead atomic.Int64 }

func (m *movable) now() time.Time { return time.Now().Add(time.Duration(m.ahead.Load())) }

func (m *movable) move(d time.Duration) { m.ahead.Add(int64(d)) }

// rows counts what is in tables of a provider's database.
func (p *provider) rows(query string, args ...any) (n int) {
	p.t.Helper()
	db, err := store.Database(storeOptions(p.dir))
	if err != nil {
		p.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query, args...).Scan(&n); err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
	return n
}

func assetFiles(t *testing.T, p *provider) (n int) {
	t.Helper()
	es, err := os.ReadDir(filepath.Join(p.dir, "mimi-assets"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if !e.IsDir() {
			n++
		}
	}
	return n
}

// TestRetention: each thing is there for as long as docs/data.md says by default, and then it is gone; the room goes on.
func TestRetention(t *testing.T) {
	_, ps := newNetwork(t, "a.test")
	p := ps[0]
	clock := &movable{}
	p.now = clock.now
	p.start()
	room := p.room("team")
	p.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: p.user("u0")})
	p.awaitJoined(room, p.user("u0"))
	p.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: p.user("u0"), Target: p.user("u1")})
	p.awaitJoined(room, p.user("u1"))
	p.say(room, "u0", "hello")
	p.awaitTexts(room, 1)
	upload(t, p, "u0", []byte("a file"))
	ctx := context.Background()
	ev := p.await(room, "the message", isText("hello"))
	if err := p.mem.host.Report(ctx, p.user("u1"), room, ev.ID, "", ""); err != nil {
		t.Fatal(err)
	}
	p.awaitDelivered(room)

	kept := map[string]string{
		"events":   `SELECT count(*) FROM event`,
		"messages": `SELECT count(*) FROM message`,
		"intents":  `SELECT count(*) FROM intent`,
		"log":      `SELECT count(*) FROM hub_log`,
		"answers":  `SELECT count(*) FROM hub_answer`,
		"assets":   `SELECT count(*) FROM asset`,
		"reports":  `SELECT count(*) FROM abuse_report`,
	}
	check := func(day int, gone ...string) {
		t.Helper()
		if err := p.core.Clean(ctx); err != nil {
			t.Fatal(err)
		}
		for name, q := range kept {
			is := p.rows(q) == 0
			if want := strings.Contains(fmt.Sprint(gone), name); is != want {
				t.Errorf("day %d: %s gone: %v, want %v", day, name, is, want)
			}
		}
		if n := assetFiles(t, p); (n == 0) != strings.Contains(fmt.Sprint(gone), "assets") {
			t.Errorf("day %d: %d files", day, n)
		}
	}
	const day = 24 * time.Hour
	check(0)
	clock.move(6 * day)
	check(6)
	clock.move(2 * day)
	check(8, "log", "answers")
	clock.move(21 * day)
	check(29, "log", "answers")
	clock.move(2 * day)
	check(31, "log", "answers", "events", "assets")
	if err := p.mem.host.Report(ctx, p.user("u1"), room, ev.ID, "again", ""); err == nil {
		t.Error("a message that is not kept could be reported")
	}
	clock.move(58 * day)
	check(89, "log", "answers", "events", "assets")
	clock.move(2 * day)
	check(91, "log", "answers", "events", "assets", "messages", "intents", "reports")

	p.say(room, "u1", "still here")
	p.awaitTexts(room, 2)
}

// awaitDelivered waits until the adapter is known to have shown all events of a room.
func (p *provider) awaitDelivered(room interface{ String() string }) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if p.rows(`SELECT count(*) FROM client_count c WHERE room_id=? AND last_event>coalesce((SELECT done FROM delivery d WHERE d.room_id=c.room_id), 0)`, room.String()) == 0 {
			return
		}
		if time.Now().After(end) {
			p.t.Fatal("waited in vain for the events to be delivered")
		}
	}
}
