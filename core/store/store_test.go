package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, store.KeySize) }

// options are those for a database at a path: a SQLite file, or a PostgreSQL database if the tests run with one.
func options(t *testing.T, path string, k byte) store.Options {
	t.Helper()
	dsn, err := testnet.PostgresAt(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	return store.Options{Path: path, Postgres: dsn, Key: key(k), Domain: "a.example"}
}

func openAt(t *testing.T, path string, k byte) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), options(t, path, k))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

const room = "mimi://a.example/r/x"

func addRoom(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.Update(context.Background(), func(tx *store.Tx) error { return tx.EnsureClientRoom(room, 1) }); err != nil {
		t.Fatal(err)
	}
}

func TestOneFailsAlone(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "db"), 1)
	ctx := context.Background()
	addRoom(t, s)
	bad := errors.New("no")
	var wg sync.WaitGroup
	errs := make([]error, 30)
	for i := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = s.Update(ctx, func(tx *store.Tx) error {
				if _, err := tx.MarkSeen(room, []byte{byte(i)}, 1); err != nil {
					return err
				}
				switch i % 3 {
				case 1:
					return bad
				case 2:
					panic("on purpose")
				}
				return nil
			})
		}()
	}
	wg.Wait()
	for i, err := range errs {
		if want := i%3 == 0; (err == nil) != want {
			t.Errorf("update %d: %v", i, err)
		}
		if i%3 == 1 && !errors.Is(err, bad) {
			t.Errorf("update %d lost its error: %v", i, err)
		}
		var fresh bool
		if err := s.Update(ctx, func(tx *store.Tx) (err error) {
			fresh, err = tx.MarkSeen(room, []byte{byte(i)}, 1)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if fresh != (i%3 != 0) {
			t.Errorf("after update %d its row is there: %v", i, !fresh)
		}
	}
}

func TestSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := openAt(t, path, 1)
	addRoom(t, s)
	ctx := context.Background()
	in := &store.Intent{Room: room, Adapter: "x", Actor: "u", Origin: "1", Payload: []byte("secret words"), Created: 5}
	for want := range 2 {
		var fresh bool
		if err := s.Update(ctx, func(tx *store.Tx) (err error) { fresh, err = tx.InsertIntent(in); return err }); err != nil {
			t.Fatal(err)
		}
		if fresh != (want == 0) {
			t.Errorf("insertion %d is fresh: %v", want, fresh)
		}
	}
	s.Close()
	if err := s.Update(ctx, func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("update after close: %v", err)
	}
	s = openAt(t, path, 1)
	var open []store.Intent
	if err := s.View(ctx, func(tx *store.Tx) (err error) { open, err = tx.OpenIntents(room, 10); return err }); err != nil {
		t.Fatal(err)
	}
	if len(open) != 1 || string(open[0].Payload) != "secret words" || open[0].Seq != 1 {
		t.Fatalf("after reopening: %+v", open)
	}
	s.Close()
	var sealed []byte
	if o := options(t, path, 1); o.Postgres != "" {
		db, err := sql.Open("pgx", o.Postgres)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.QueryRow("SELECT payload FROM intent").Scan(&sealed); err != nil || len(sealed) == 0 || bytes.Contains(sealed, []byte("secret words")) {
			t.Errorf("an intent's payload is stored as %x, %v", sealed, err)
		}
		return
	}
	for _, f := range []string{path, path + "-wal"} {
		b, err := os.ReadFile(f)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("secret words")) {
			t.Errorf("%s holds an intent's payload unsealed", filepath.Base(f))
		}
		if st, err := os.Stat(f); err == nil && st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", filepath.Base(f), st.Mode())
		}
	}
}

func TestRefusesToOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := openAt(t, path, 1)
	try := func(name, want string, o store.Options) {
		t.Run(name, func(t *testing.T) {
			other, err := store.Open(context.Background(), o)
			if err == nil {
				other.Close()
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error %q does not say %q", err, want)
			}
		})
	}
	o := options(t, path, 1)
	if o.Postgres == "" { // where nodes share a database, the second is one more
		try("twice", "another mimibridge", o)
	}
	s.Close()
	try("with another key", "key file", options(t, path, 2))
	other := o
	other.Domain = "b.example"
	try("for another domain", "belongs to the provider", other)
	short := o
	short.Key = key(1)[:5]
	try("with a short key", "sealing key", short)
	openAt(t, path, 1)
}

// TestLogAndCursors: a follower's batch is the same after a crash until it is acknowledged, and holds only what is for it.
func TestLogAndCursors(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "db"), 1)
	ctx := context.Background()
	update := func(fn func(*store.Tx) error) {
		t.Helper()
		if err := s.Update(ctx, fn); err != nil {
			t.Fatal(err)
		}
	}
	put := func(from, to uint64) {
		update(func(tx *store.Tx) error {
			for i := from; i <= to; i++ {
				peers := []string{"b.example"}
				if i%2 == 0 {
					peers = append(peers, "c.example")
				}
				if _, err := tx.AppendLog(room, &store.LogEntry{Seq: i, TS: int64(i), Audience: peers, Body: []byte{byte(i)}}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	batch := func(peer string, n int) (got string, hi uint64, fresh bool) {
		if err := s.View(ctx, func(tx *store.Tx) error {
			entries, h, f, err := tx.NextBatch(store.Queue{Room: room, Peer: peer}, n, 1000)
			for _, e := range entries {
				got += fmt.Sprint(e.Body[0])
			}
			hi, fresh = h, f
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return
	}
	end := func(q store.Queue, hi uint64, want bool) {
		t.Helper()
		update(func(tx *store.Tx) error {
			more, err := tx.EndBatch(q, hi)
			if err == nil && more != want {
				t.Errorf("after %d there is more for %s: %v", hi, q.Peer, more)
			}
			return err
		})
	}
	put(1, 4)
	b := store.Queue{Room: room, Peer: "b.example"}
	got, hi, fresh := batch("b.example", 2)
	if got != "1" || hi != 1 || fresh { // nothing waited when it came
		t.Fatalf("first batch of b: %s to %d, fresh %v", got, hi, fresh)
	}
	end(b, hi, true)
	if got, hi, fresh = batch("b.example", 2); got != "23" || hi != 3 || !fresh {
		t.Fatalf("second batch of b: %s to %d, fresh %v", got, hi, fresh)
	}
	update(func(tx *store.Tx) error { return tx.StartBatch(b, hi) })
	put(5, 6)
	if got, hi, fresh = batch("b.example", 2); got != "23" || hi != 3 || fresh {
		t.Fatalf("the batch under way: %s to %d, fresh %v", got, hi, fresh)
	}
	end(b, hi, true)
	if got, _, _ = batch("b.example", 10); got != "456" {
		t.Errorf("third batch of b: %s", got)
	}
	if got, hi, _ = batch("c.example", 10); got != "2" {
		t.Errorf("batch of c: %s", got)
	}
	end(store.Queue{Room: room, Peer: "c.example"}, hi, true)
	if got, _, _ = batch("c.example", 10); got != "46" {
		t.Errorf("second batch of c: %s", got)
	}
	var qs []store.Queue
	end(b, 6, false)
	if err := s.View(ctx, func(tx *store.Tx) (err error) { qs, err = tx.Queues(); return err }); err != nil {
		t.Fatal(err)
	}
	if len(qs) != 1 || qs[0].Peer != "c.example" {
		t.Errorf("queues with work: %v", qs)
	}
	update(func(tx *store.Tx) error { return tx.TrimLog(100) })
	if got, _, _ = batch("c.example", 10); got != "46" {
		t.Errorf("trimming took what c waits for: %s", got)
	}
}

func TestSealer(t *testing.T) {
	s, err := store.NewSealer(key(1))
	if err != nil {
		t.Fatal(err)
	}
	sealed := s.Seal("t", "k", "c", []byte("x"))
	if b, err := s.Open("t", "k", "c", sealed); err != nil || string(b) != "x" {
		t.Errorf("open: %q, %v", b, err)
	}
	if b, err := s.Open("t", "k", "c", s.Seal("t", "k", "c", nil)); b != nil || err != nil {
		t.Errorf("nil comes back as %v, %v", b, err)
	}
	for _, place := range [][3]string{{"u", "k", "c"}, {"t", "l", "c"}, {"t", "k", "d"}} {
		if _, err := s.Open(place[0], place[1], place[2], sealed); !errors.Is(err, store.ErrUnseal) {
			t.Errorf("a value moved to %v opens: %v", place, err)
		}
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := s.Open("t", "k", "c", sealed); !errors.Is(err, store.ErrUnseal) {
		t.Errorf("a changed value opens: %v", err)
	}
	if _, err := s.Open("t", "k", "c", sealed[:3]); !errors.Is(err, store.ErrUnseal) {
		t.Errorf("a short value opens: %v", err)
	}
}

// TestCleaning: what is kept, is kept for as long as somebody needs it, and then goes.
func TestCleaning(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "db"), 1)
	ctx := context.Background()
	addRoom(t, s)
	update := func(fn func(*store.Tx) error) {
		t.Helper()
		if err := s.Update(ctx, fn); err != nil {
			t.Fatal(err)
		}
	}
	events := func(adapter string) (n int) {
		update(func(tx *store.Tx) error {
			es, err := tx.Undelivered(room, adapter, 100)
			n = len(es)
			return err
		})
		return n
	}
	add := func(ts int64) {
		update(func(tx *store.Tx) error {
			_, err := tx.AppendEvent(room, ts, func(uint64) ([]byte, error) { return []byte("x"), nil })
			return err
		})
	}
	t.Run("an event goes when all adapters have shown it and it is old", func(t *testing.T) {
		add(1)
		add(2)
		add(50)
		update(func(tx *store.Tx) error { return tx.Delivered(room, "x", 3) })
		update(func(tx *store.Tx) error { return tx.Delivered(room, "y", 1) })
		update(func(tx *store.Tx) error { return tx.TrimEvents([]string{"x", "y"}, 10) })
		if n := events("z"); n != 2 {
			t.Errorf("%d events are left, not those that y waits for", n)
		}
		update(func(tx *store.Tx) error { return tx.TrimEvents([]string{"x"}, 10) })
		if n := events("z"); n != 1 {
			t.Errorf("%d events are left, not the one that is not old", n)
		}
		update(func(tx *store.Tx) error { return tx.TrimEvents(nil, 100) })
		if n := events("z"); n != 0 {
			t.Errorf("%d events are left without any adapter", n)
		}
	})
	t.Run("an intent that has ended and a message are forgotten when they are old", func(t *testing.T) {
		for i, created := range []int64{1, 1, 100} {
			update(func(tx *store.Tx) error {
				in := &store.Intent{Room: room, Adapter: "x", Actor: "u", Origin: fmt.Sprint(i), Created: created}
				if _, err := tx.InsertIntent(in); err != nil || i == 1 {
					return err
				}
				return tx.EndIntent(room, in.Seq, store.IntentDone)
			})
			update(func(tx *store.Tx) error {
				_, err := tx.AddMessage(room, []byte{byte(i)}, "u", created)
				return err
			})
		}
		update(func(tx *store.Tx) error { return tx.TrimHistory(50) })
		for i, want := range []bool{true, false, false} {
			update(func(tx *store.Tx) error {
				fresh, err := tx.InsertIntent(&store.Intent{Room: room, Adapter: "x", Actor: "u", Origin: fmt.Sprint(i)})
				if fresh != want {
					t.Errorf("intent %d is new again: %v", i, fresh)
				}
				return err
			})
			if i == 1 {
				continue
			}
			update(func(tx *store.Tx) error {
				fresh, err := tx.AddMessage(room, []byte{byte(i)}, "u", 100)
				if fresh != want {
					t.Errorf("message %d is new again: %v", i, fresh)
				}
				return err
			})
		}
	})
	t.Run("what came for a room that nobody is joining", func(t *testing.T) {
		other := room + "2"
		size := func() (n int) {
			update(func(tx *store.Tx) (err error) { n, _, err = tx.SizeInbox(other); return err })
			return n
		}
		update(func(tx *store.Tx) error {
			return errors.Join(tx.EnsureClientRoom(other, 1), tx.AppendInbox(other, []byte("abc")),
				tx.InsertKeyPackage(&store.KeyPackage{Ref: []byte("r"), User: "u", Room: other, Peer: "p", Package: []byte("k"), Secret: []byte("s"), Expires: 10}))
		})
		update((*store.Tx).TrimStray)
		if size() != 1 {
			t.Error("it went while a Welcome was awaited")
		}
		update(func(tx *store.Tx) error { return errors.Join(tx.ExpireKeyPackages(11), tx.TrimStray()) })
		if size() != 0 {
			t.Error("it stays though no Welcome can come any more")
		}
	})
	t.Run("a follower that takes nothing", func(t *testing.T) {
		for i := range uint64(3) {
			update(func(tx *store.Tx) error {
				_, err := tx.AppendLog(room, &store.LogEntry{Seq: i + 1, TS: int64(10 * i), Audience: []string{"b.example"}, Body: []byte{byte(i + 1)}})
				return err
			})
		}
		q := store.Queue{Room: room, Peer: "b.example"}
		update(func(tx *store.Tx) error { return tx.StartBatch(q, 3) })
		var given []store.Queue
		update(func(tx *store.Tx) (err error) { given, err = tx.GiveUpQueues(15); return err })
		if len(given) != 1 || given[0] != q {
			t.Errorf("given up: %v", given)
		}
		update(func(tx *store.Tx) error { return tx.TrimLog(100) })
		update(func(tx *store.Tx) error {
			entries, hi, fresh, err := tx.NextBatch(q, 10, 1000)
			if len(entries) != 1 || entries[0].Seq != 3 || hi != 3 || !fresh {
				t.Errorf("after giving up the old ones: %v to %d, fresh %v", entries, hi, fresh)
			}
			return err
		})
		update(func(tx *store.Tx) (err error) { given, err = tx.GiveUpQueues(15); return err })
		if len(given) != 0 {
			t.Errorf("given up again: %v", given)
		}
		for ts, want := range map[int64]bool{20: false, 21: true} {
			update(func(tx *store.Tx) error {
				behind, err := tx.HubBehind(q, ts)
				if behind != want {
					t.Errorf("something from before %d waits: %v", ts, behind)
				}
				return err
			})
		}
	})
}

// snapshot copies a database that is not open; what it returns puts the copy in its place.
func snapshot(t *testing.T, path string) (back func()) {
	t.Helper()
	ctx := context.Background()
	if options(t, path, 1).Postgres != "" {
		copied := path + "-copy"
		if err := testnet.CopyPostgres(ctx, path, copied); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := testnet.CopyPostgres(ctx, copied, path); err != nil {
				t.Fatal(err)
			}
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestoredCopy: a copy from earlier is known by the number of commits, or because it is said so; its group states are gone.
func TestRestoredCopy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	ctx := context.Background()
	state := func(s *store.Store) (state []byte) {
		t.Helper()
		if err := s.View(ctx, func(tx *store.Tx) error {
			r, err := tx.ClientRoom(room)
			if r != nil {
				state = r.State
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return state
	}
	s := openAt(t, path, 1)
	addRoom(t, s)
	if err := s.Update(ctx, func(tx *store.Tx) error {
		return tx.PutClientState(&store.ClientRoom{Room: room, Status: store.ClientJoined, State: []byte("secrets")})
	}); err != nil {
		t.Fatal(err)
	}
	was := s.Incarnation()
	s.Close()
	back := snapshot(t, path)
	s = openAt(t, path, 1)
	if s.Restored() || state(s) == nil || !bytes.Equal(s.Incarnation(), was) {
		t.Error("opened again as it was, it is taken for a copy")
	}
	addRoom(t, s)
	s.Close()
	back()
	s = openAt(t, path, 1)
	if !s.Restored() || state(s) != nil || bytes.Equal(s.Incarnation(), was) {
		t.Error("a copy from earlier is not known as one")
	}
	s.Close()
	s = openAt(t, path, 1)
	if s.Restored() {
		t.Error("a copy is taken for one a second time")
	}
	s.Close()
	o := options(t, path, 1)
	o.Restored = true
	s, err := store.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.Restored() {
		t.Error("what is declared a copy is not taken for one")
	}
}

// TestViewsAt: the rooms that a provider keeps are not those of one whose name begins or ends as its.
func TestViewsAt(t *testing.T) {
	s, ctx := openAt(t, filepath.Join(t.TempDir(), "db"), 1), context.Background()
	if err := s.Update(ctx, func(tx *store.Tx) error {
		for _, room := range []string{"mimi://a.example/r/1", "mimi://a.example/r/z", "mimi://a.example:1/r/1", "mimi://a.example.org/r/1", "mimi://b.example/r/1", "mimi://aa.example/r/1", "mimi://a.exampl/r/1"} {
			if err := tx.EnsureClientRoom(room, 1); err != nil {
				return err
			}
			if err := tx.PutClientView(&store.ClientRoom{Room: room, Status: store.ClientJoined, View: []byte(room)}); err != nil {
				return err
			}
		}
		return tx.EnsureClientRoom("mimi://a.example/r/new", 1)
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := s.View(ctx, func(tx *store.Tx) error {
		return tx.ClientViewsAt("a.example", func(room string, view []byte) error { got = append(got, string(view)); return nil })
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"mimi://a.example/r/1", "mimi://a.example/r/z"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
