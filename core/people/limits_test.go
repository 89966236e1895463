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
	port := 0
	invites := func(user string) bool {
		t.Helper()
		peer := "b.example"
		if port++; user != "eager" { // whoever has the host's certificate may call themselves that
			peer += fmt.Sprint(":", port)
		}
		err := p.Invited(ctx, mimiuri.MustParse("mimi://"+peer+"/u/"+user), mimiuri.URI{}, peer)
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

// TestPorts: a host that is denied or blocked does not come in under a port of it, unless that has a rule of its own.
func TestPorts(t *testing.T) {
	ctx := context.Background()
	st, err := store.Open(ctx, store.Options{Path: filepath.Join(t.TempDir(), "x.db"), Key: make([]byte, store.KeySize), Domain: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	p, err := people.New(people.Config{Domain: "a.example", Store: st, Now: time.Now, Log: zerolog.Nop(), Deny: []string{"b.example", "*.c.example", "d.example:1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetPeer(ctx, "e.example", false); err != nil {
		t.Fatal(err)
	}
	if err := p.SetPeer(ctx, "e.example:7", true); err != nil {
		t.Fatal(err)
	}
	if err := p.BlockForAll(ctx, mimiuri.MustParse("mimi://f.example")); err != nil {
		t.Fatal(err)
	}
	for domain, want := range map[string]bool{"b.example": false, "b.example:443": false, "x.c.example:8443": false, "c.example:8443": true, "d.example": true, "d.example:1": false, "d.example:2": true,
		"e.example": false, "e.example:6": false, "e.example:7": true, "f.example": false, "f.example:9": false, "g.example:1": true} {
		if err := p.Peer(domain); (err == nil) != want {
			t.Errorf("%s: %v", domain, err)
		}
	}
	if !p.BlockedByAdmin(mimiuri.MustParse("mimi://f.example:9/u/x")) {
		t.Error("a user of a blocked host is not blocked under a port of it")
	}
}
