package core_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// TestUpgrade takes the databases of two providers as the first version left them, in the middle of a conversation in a room at each:
// a's message "three" for b was in the hub's log, and dave's at a for the room at b had not been sent. What waited arrives, the rooms
// can be read, messages go on, and members come and go.
func TestUpgrade(t *testing.T) {
	for _, schema := range []int{1, 2} {
		t.Run(fmt.Sprint("schema ", schema), func(t *testing.T) { upgrade(t, schema) })
	}
}

func upgrade(t *testing.T, schema int) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	// The clock goes on from when it was: a KeyPackage from then is valid.
	start, began := time.Date(2026, 11, 25, 15, 30, 0, 0, time.UTC), time.Now()
	for i, p := range ps {
		p.tune = func(c *core.Config) { c.Now = func() time.Time { return start.Add(time.Since(began)) } }
		text, err := os.ReadFile(fmt.Sprintf("store/testdata/schema%d-%c.sql", schema, 'a'+i))
		if err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", "file:"+filepath.Join(p.dir, "mimi.db"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(string(text)); err != nil {
			t.Fatal(err)
		}
		db.Close()
		p.seq.Store(100) // other ids than those of then
		p.start()
	}
	balcony, garden := a.room("balcony"), b.room("garden")
	equal(t, "what waited at the hub", b.awaitTexts(balcony, 1), []string{"alice: three"})
	equal(t, "what waited at the follower", b.awaitTexts(garden, 1), []string{"dave: hello yourself"})
	for _, p := range ps {
		for uri, names := range map[mimiuri.URI][]string{balcony: {"alice", "bob", "carol"}, garden: {"carol", "dave"}} {
			r, ok, err := p.mem.host.Room(context.Background(), uri)
			if err != nil || !ok {
				t.Fatalf("%s does not know %s: %v", p.domain, uri, err)
			}
			if len(r.Participants) != len(names) || r.Name == "" {
				t.Errorf("%s: %s has the name %q and the participants %v", p.domain, uri, r.Name, r.Participants)
			}
		}
	}
	a.say(balcony, "alice", "four")
	b.awaitTexts(balcony, 2)
	b.say(balcony, "carol", "five")
	equal(t, "the room at the hub that went on", b.awaitTexts(balcony, 3), []string{"alice: three", "alice: four", "carol: five"})
	b.say(garden, "carol", "good evening")
	a.awaitTexts(garden, 1)
	b.awaitTexts(garden, 2)
	agree(t, balcony, a, b)
	agree(t, garden, a, b)
	b.intake(adapter.Intent{Kind: adapter.Invite, Room: garden, Actor: b.user("carol"), Target: a.user("erin")})
	a.awaitJoined(garden, a.user("erin"))
	a.say(garden, "erin", "here now")
	b.awaitTexts(garden, 3)
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: balcony, Actor: b.user("bob")})
	a.awaitLeft(balcony, b.user("bob"))
	agree(t, balcony, a, b)
	agree(t, garden, a, b)
	if resyncs(a)+resyncs(b) != 0 {
		t.Error("a group was joined anew: its state was not kept by the upgrade")
	}
}
