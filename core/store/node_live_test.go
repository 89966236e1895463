//go:build live

package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestBeatInACrowd: that all connections are in use does not make a node seem gone.
func TestBeatInACrowd(t *testing.T) {
	pg, err := testnet.StartPostgres(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	t.Setenv(testnet.PostgresEnv, pg.URL("postgres"))
	s, err := store.Open(context.Background(), options(t, filepath.Join(t.TempDir(), "db"), 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var reading, done sync.WaitGroup
	end := make(chan struct{})
	for range 8 {
		reading.Add(1)
		done.Go(func() {
			if err := s.View(context.Background(), func(*store.Tx) error {
				reading.Done()
				<-end
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	reading.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Beat(ctx); err != nil {
		t.Error(err)
	}
	close(end)
	done.Wait()
}

// TestNodes: what a node may do to a room that another keeps, and what it may not do any more once it has lost it.
func TestNodes(t *testing.T) {
	pg, err := testnet.StartPostgres(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	t.Setenv(testnet.PostgresEnv, pg.URL("postgres"))
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	open := func(name string) *store.Store {
		o := options(t, path, 1)
		o.Node, o.Lease = name, 4*time.Second
		s, err := store.Open(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	change := func(s *store.Store) error {
		return s.Update(ctx, func(tx *store.Tx) error {
			return tx.PutClientState(&store.ClientRoom{Room: room, Status: store.ClientJoined, State: []byte(s.NodeID())})
		})
	}
	live := func(s *store.Store) (stop func()) {
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-end:
					return
				case <-time.After(200 * time.Millisecond):
					s.Beat(ctx)
				}
			}
		}()
		return sync.OnceFunc(func() { close(end); <-ended })
	}
	a, b := open("a"), open("b")
	stopA, stopB := live(a), live(b)
	defer stopA()
	defer stopB()
	addRoom(t, a)
	if err := change(a); err != nil {
		t.Fatal(err)
	}
	if owner, taken, err := b.Own(ctx, room); owner != a.NodeID() || taken || err != nil {
		t.Errorf("the owner is %q, %v, %v", owner, taken, err)
	}
	if err := change(b); !errors.Is(err, store.ErrNotOwner) {
		t.Errorf("a node changes another's room: %v", err)
	}
	// Both add to the room, and b to one of its own in the same transactions.
	done := make(chan error)
	for _, s := range []*store.Store{a, b} {
		go func() {
			for i := range 40 {
				if err := s.Update(ctx, func(tx *store.Tx) error {
					own := room + "/" + s.NodeID()
					if err := tx.EnsureClientRoom(own, 1); err != nil {
						return err
					}
					if err := tx.AppendInbox(room, []byte{byte(i)}); err != nil {
						return err
					}
					_, err := tx.InsertIntent(&store.Intent{Room: room, Adapter: s.NodeID(), Actor: "u", Origin: string(rune('a' + i)), Payload: []byte("x")})
					return err
				}); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := a.View(ctx, func(tx *store.Tx) error {
		in, err := tx.OpenIntents(room, 100)
		if err != nil {
			return err
		}
		for i, x := range in {
			if x.Seq != uint64(i+1) {
				t.Errorf("intent %d has the number %d", i+1, x.Seq)
			}
		}
		if n, _, err := tx.SizeInbox(room); len(in) != 80 || n != 80 || err != nil {
			t.Errorf("%d intents, %d items, %v", len(in), n, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	// One lease for one node; a request and its answer.
	if ok, err := a.Hold(ctx, "link x"); !ok || err != nil {
		t.Errorf("the lease: %v, %v", ok, err)
	}
	if ok, err := b.Hold(ctx, "link x"); ok || err != nil || b.Holds("link x") {
		t.Errorf("the lease a second time: %v, %v", ok, err)
	}
	if node, err := b.Holder(ctx, "link x"); node != a.NodeID() || err != nil {
		t.Errorf("the lease is held by %q, %v", node, err)
	}
	go func() {
		for {
			rs, err := a.Requests(ctx)
			if err != nil || len(rs) > 0 {
				if err == nil {
					err = a.AnswerRequest(ctx, rs[0].ID, append([]byte("answer to "), rs[0].Args...))
				}
				done <- err
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if got, err := b.Ask(ctx, a.NodeID(), []byte("a question")); string(got) != "answer to a question" || err != nil {
		t.Errorf("asked: %q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}

	// a hangs.
	stopA()
	if got, err := b.Ask(ctx, a.NodeID(), []byte("nobody listens")); !errors.Is(err, store.ErrNodeGone) {
		t.Errorf("a node that is gone answered %q, %v", got, err)
	}
	if owner, taken, err := b.Own(ctx, room); owner != b.NodeID() || !taken || err != nil {
		t.Errorf("the owner is %q, %v, %v", owner, taken, err)
	}
	if rooms, err := b.Adopt(ctx); len(rooms) != 1 || err != nil {
		t.Errorf("taken over: %v, %v", rooms, err)
	}
	if ok, err := b.Hold(ctx, "link x"); !ok || err != nil {
		t.Errorf("the lease of a node that is gone: %v, %v", ok, err)
	}
	if err := change(a); !errors.Is(err, store.ErrNotOwner) {
		t.Errorf("a node that has lost its rooms changes one: %v", err)
	}
	if err := change(b); err != nil {
		t.Error(err)
	}
	if err := a.Beat(ctx); !errors.Is(err, store.ErrLapsed) {
		t.Errorf("a node that was gone lives on: %v", err)
	}

	// A node that is started again under its name ends its former life at once.
	again := open("b")
	if owner, taken, err := again.Own(ctx, room); owner != again.NodeID() || !taken || err != nil {
		t.Errorf("the owner is %q, %v, %v", owner, taken, err)
	}
	if err := change(b); !errors.Is(err, store.ErrNotOwner) {
		t.Errorf("the former life of a node changes its room: %v", err)
	}
}

// TestDumpLoaded: a database is marked as a copy only while nobody uses it; one that a dump was loaded into elsewhere is known as one. What
// is in PostgreSQL can be verified as what is in SQLite.
func TestDumpLoaded(t *testing.T) {
	pg, err := testnet.StartPostgres(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	t.Setenv(testnet.PostgresEnv, pg.URL("postgres"))
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	if err := store.MarkRestored(ctx, options(t, path, 1)); err == nil {
		t.Error("an empty database was marked as restored")
	}
	s := openAt(t, path, 1)
	addRoom(t, s)
	put := func(s *store.Store) {
		t.Helper()
		if _, _, err := s.Own(ctx, room); err != nil {
			t.Fatal(err)
		}
		if err := s.Update(ctx, func(tx *store.Tx) error {
			return tx.PutClientState(&store.ClientRoom{Room: room, Status: store.ClientJoined, State: []byte("secrets")})
		}); err != nil {
			t.Fatal(err)
		}
	}
	put(s)
	was := s.Incarnation()
	if v := verify(t, options(t, path, 1)); len(v.Problems) > 0 || v.Sealed != 1 {
		t.Errorf("%+v", v)
	}
	if err := store.MarkRestored(ctx, options(t, path, 1)); err == nil {
		t.Error("a database in use was marked as restored")
	}
	if _, err := store.Upgrade(ctx, options(t, path, 1), true); err == nil {
		t.Error("a database in use was upgraded")
	}
	s.Close()
	if err := store.MarkRestored(ctx, options(t, path, 1)); err != nil {
		t.Fatal(err)
	}
	gone := func(path string) *store.Store {
		t.Helper()
		s := openAt(t, path, 1)
		if err := s.View(ctx, func(tx *store.Tx) error {
			r, err := tx.ClientRoom(room)
			if err == nil && r.State != nil {
				t.Error("a group state of the copy is there")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(s.Incarnation(), was) {
			t.Error("the copy is the same incarnation")
		}
		was = s.Incarnation()
		return s
	}
	s = gone(path)
	put(s)
	s.Close()
	options(t, path+"-elsewhere", 1) // makes it
	if err := testnet.CopyPostgres(ctx, path, path+"-elsewhere"); err != nil {
		t.Fatal(err)
	}
	if s = gone(path + "-elsewhere"); !s.Restored() {
		t.Error("a copy elsewhere is not known as one")
	}
}

// TestServerCrashes kills the PostgreSQL server under a store that writes. What was acknowledged is there, and the store goes on by itself.
func TestServerCrashes(t *testing.T) {
	ctx := context.Background()
	pg, err := testnet.StartPostgres(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Stop() })
	t.Setenv(testnet.PostgresEnv, pg.URL("postgres"))
	o := options(t, filepath.Join(t.TempDir(), "db"), 1)
	o.Lease = 2 * time.Minute
	s, err := store.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	addRoom(t, s)
	var next, acknowledged, failed int
	write := func() error {
		next++
		err := s.Update(ctx, func(tx *store.Tx) error {
			return tx.AppendInbox(room, fmt.Appendf(nil, "%d", next))
		})
		if err == nil {
			acknowledged++
		} else {
			failed++
		}
		return err
	}
	for range 2 {
		crashed := make(chan error, 1)
		go func() {
			time.Sleep(200 * time.Millisecond)
			crashed <- pg.Crash(ctx)
		}()
		for running := true; running; {
			write()
			select {
			case err := <-crashed:
				if err != nil {
					t.Fatal(err)
				}
				running = false
			default:
			}
		}
		for try := 0; write() != nil; try++ {
			if try > 200 {
				t.Fatal("the store does not connect again")
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	if err := s.View(ctx, func(tx *store.Tx) error {
		n, _, err := tx.SizeInbox(room)
		// One whose answer was lost may have been written.
		if n < acknowledged || n > acknowledged+failed {
			t.Errorf("%d are there, %d were acknowledged, %d failed", n, acknowledged, failed)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if failed == 0 {
		t.Error("no write failed: the server was never away")
	}
	if err := s.Beat(ctx); err != nil {
		t.Error(err)
	}
}
