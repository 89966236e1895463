package people_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/people"
	"github.com/mimibridge/mimibridge/core/store"
)

// TestInventedUsers: a peer over its limit costs no rows, however many users it thinks up; and one of its users who is over theirs
// takes nothing from the others.
func TestInventedUsers(t *testing.T) {
	ctx, file := context.Background(), filepath.Join(t.TempDir(), "x.db")
	st, err := store.Open(ctx, store.Options{Path: file, Key: make([]byte, store.KeySize), Domain: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	p, err := people.New(people.Config{Domain: "a.example", Store: st, Now: func() time.Time { return now }, Log: zerolog.Nop(), Limits: people.Limits{Invites: 2, PeerFactor: 2}})
	if err != nil {
		t.Fatal(err)
	}
	invites := func(user string) bool {
		t.Helper()
		err := p.Invited(ctx, mimiuri.MustParse("mimi://b.example/u/"+user), "b.example")
		if err != nil && !fault.Is(err, fault.Limited) {
			t.Fatal(err)
		}
		return err == nil
	}
	for i := range 5 {
		if got := invites("eager"); got != (i < 2) {
			t.Errorf("invitation %d of one user: %v", i+1, got)
		}
	}
	for i := range 20 {
		if got := invites(fmt.Sprint("invented", i)); got != (i < 2) {
			t.Errorf("invitation %d of the others: %v", i+1, got)
		}
	}
	st.Close()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	n := 0
	if err := db.QueryRow("SELECT count(*) FROM usage").Scan(&n); err != nil || n != 4 { // three users, and the peer
		t.Errorf("%d rows, %v", n, err)
	}
}
