//go:build live

package testnet

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// TestDendriteAndNio holds what the Matrix tests and the demo stand on: a homeserver that keeps its data over a
// crash, and a client that sees everything once.
func TestDendriteAndNio(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	hs, err := StartDendrite(ctx, DendriteOptions{ServerName: "matrix.example", Progress: &Progress{W: os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	defer hs.Stop()
	t.Log("testtable: server Dendrite " + DendriteVersion)
	for _, u := range []string{"juliet", "nurse"} {
		if err := hs.CreateUser(ctx, u, "secret-of-"+u); err != nil {
			t.Fatal(err)
		}
	}
	juliet, err := StartNio(ctx, hs.URL, "juliet", "secret-of-juliet")
	if err != nil {
		t.Fatal(err)
	}
	defer juliet.Stop()
	nurse, err := StartNio(ctx, hs.URL, "@nurse:matrix.example", "secret-of-nurse")
	if err != nil {
		t.Fatal(err)
	}
	defer nurse.Stop()
	if juliet.UserID != "@juliet:matrix.example" {
		t.Fatalf("logged in as %s", juliet.UserID)
	}

	room, err := juliet.CreateRoom(ctx, "Balcony", false, nurse.UserID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nurse.WaitInvite(ctx, room); err != nil {
		t.Fatal(err)
	}
	if err := nurse.Join(ctx, room); err != nil {
		t.Fatal(err)
	}
	first, err := juliet.SendText(ctx, room, "what's in a name", "t1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := juliet.SendText(ctx, room, "what's in a name", "t1")
	if err != nil || again != first {
		t.Fatalf("the same transaction gave %s then %s (%v)", first, again, err)
	}
	if _, err := nurse.WaitText(ctx, room, "what's in a name"); err != nil {
		t.Fatal(err)
	}

	hs.Kill()
	if err := hs.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := nurse.SendText(ctx, room, "anon, good nurse", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := juliet.WaitText(ctx, room, "anon, good nurse"); err != nil {
		t.Fatal(err)
	}
	var refused *ScriptError
	if err := juliet.Join(ctx, "!nowhere:matrix.example"); !errors.As(err, &refused) {
		t.Fatalf("joining a room that is not there: %v", err)
	}
	all, err := nurse.Messages(ctx, room)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]int{}
	for _, ev := range all {
		if ev.Text() != "" {
			texts[ev.Text()]++
		}
	}
	if len(texts) != 2 || texts["what's in a name"] != 1 || texts["anon, good nurse"] != 1 {
		t.Fatalf("the timeline holds %v", texts)
	}
	if m, err := nurse.Members(ctx, room); err != nil || m[juliet.UserID] != "join" || m[nurse.UserID] != "join" {
		t.Fatalf("members %v, %v", m, err)
	}
}
