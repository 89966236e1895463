package store_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/mimibridge/mimibridge/core/store"
)

// sealSomething writes a value into every place that is sealed.
func sealSomething(t *testing.T, s *store.Store) {
	t.Helper()
	err := s.Update(context.Background(), func(tx *store.Tx) error {
		if err := tx.EnsureClientRoom(room, 1); err != nil {
			return err
		}
		steps := []error{
			tx.InsertHubRoom(&store.HubRoom{Room: room, Keys: []byte("hub keys")}),
			tx.InsertIdentity(&store.Identity{User: "u", Device: "d", Suite: 1, Secret: []byte("identity")}),
			tx.InsertKeyPackage(&store.KeyPackage{Ref: []byte{1, 0, 255}, User: "u", Package: []byte("p"), Secret: []byte("key package"), Expires: 9}),
			tx.PutClientState(&store.ClientRoom{Room: room, Status: store.ClientJoined, State: []byte("state")}),
			tx.PutPending(room, &store.Pending{Request: []byte("r"), Next: []byte("next")}),
			tx.InsertReport(&store.Report{Hash: []byte{7, 8}, Room: room, TS: 1, Body: []byte("report")}),
		}
		for i := range 700 { // several batches
			steps = append(steps, tx.PutRatchet(room, &store.Ratchet{Epoch: uint64(i), Leaf: 1, Kind: 2, Data: []byte("ratchet")}))
			_, err := tx.AppendEvent(room, int64(i), func(uint64) ([]byte, error) { return []byte("event"), nil })
			steps = append(steps, err)
		}
		_, err := tx.InsertIntent(&store.Intent{Room: room, Adapter: "x", Actor: "u", Origin: "o", Payload: []byte("intent")})
		return errors.Join(append(steps, err)...)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readAll reads it all back.
func readAll(t *testing.T, s *store.Store) {
	t.Helper()
	err := s.View(context.Background(), func(tx *store.Tx) error {
		h, err := tx.HubRoom(room)
		if err != nil || string(h.Keys) != "hub keys" {
			t.Errorf("hub room: %v", err)
		}
		if id, err := tx.Identity("u"); err != nil || string(id.Secret) != "identity" {
			t.Errorf("identity: %v", err)
		}
		if k, err := tx.KeyPackage([]byte{1, 0, 255}); err != nil || string(k.Secret) != "key package" {
			t.Errorf("key package: %v", err)
		}
		if r, err := tx.ClientRoom(room); err != nil || r.Damaged != nil || string(r.State) != "state" {
			t.Errorf("client room: %v %v", err, r.Damaged)
		}
		if p, err := tx.Pending(room); err != nil || string(p.Next) != "next" {
			t.Errorf("pending: %v", err)
		}
		if rs, err := tx.Ratchets(room); err != nil || len(rs) != 700 || string(rs[699].Data) != "ratchet" {
			t.Errorf("ratchets: %d %v", len(rs), err)
		}
		if es, err := tx.Undelivered(room, "x", 1000); err != nil || len(es) != 700 || string(es[0].Payload) != "event" {
			t.Errorf("events: %d %v", len(es), err)
		}
		if is, err := tx.OpenIntents(room, 10); err != nil || len(is) != 1 || string(is[0].Payload) != "intent" {
			t.Errorf("intents: %v", err)
		}
		if rs, err := tx.Reports(10); err != nil || len(rs) != 1 || string(rs[0].Body) != "report" {
			t.Errorf("reports: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReseal: after it the new key reads everything and the old one nothing; interrupted at any step, both keys read
// everything and it can go on.
func TestReseal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	both := options(t, path, 1)
	both.NextKey = key(2)
	open := func(o store.Options) *store.Store {
		t.Helper()
		s, err := store.Open(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(options(t, path, 1))
	sealSomething(t, s)
	s.Close()

	stop := errors.New("power cut")
	seen := map[string]bool{}
	steps := 0
	for at := 1; ; at++ {
		s := open(both)
		n := 0
		err := s.Reseal(context.Background(), func(table string, _ int) error {
			seen[table] = true
			if n++; n == at {
				return stop
			}
			return nil
		})
		readAll(t, s)
		s.Close()
		if err == nil {
			steps = at
			break
		}
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
		s = open(both)
		readAll(t, s)
		s.Close()
	}
	if steps < 10 || len(seen) < 9 {
		t.Errorf("%d steps, %d tables", steps, len(seen))
	}
	s = open(options(t, path, 2))
	readAll(t, s)
	s.Close()
	if _, err := store.Open(context.Background(), options(t, path, 1)); !errors.Is(err, store.ErrUnseal) {
		t.Errorf("with the old key: %v", err)
	}
	if both.Postgres != "" {
		return
	}
	// Not even what is left in the file: every value carries the id of its key, and the old one's is not there.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old, err := store.NewSealer(key(1))
	if err != nil {
		t.Fatal(err)
	}
	id := old.Seal("t", "k", "c", []byte("x"))[:4]
	if bytes.Contains(b, id) {
		t.Error("the file still has values under the old key")
	}
}
