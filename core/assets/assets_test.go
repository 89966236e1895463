package assets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/assets"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func open(t *testing.T, change func(*assets.Config)) (*assets.Store, string, *clock) {
	t.Helper()
	dir := t.TempDir()
	o := store.Options{Path: filepath.Join(dir, "a.db"), Key: make([]byte, store.KeySize), Domain: "a.example"}
	var err error
	if o.Postgres, err = testnet.PostgresAt(context.Background(), o.Path); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	ck := &clock{t: time.Now()}
	cfg := assets.Config{Folder: filepath.Join(dir, "files"), Store: st, MaxFile: 1000, Quota: 2500, Now: ck.now}
	if change != nil {
		change(&cfg)
	}
	s, err := assets.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, cfg.Folder, ck
}

func put(t *testing.T, s *assets.Store, user string, n int, expires time.Time) (string, error) {
	t.Helper()
	w, err := s.Create(t.Context(), user, "", -1, expires)
	if err != nil {
		return "", err
	}
	defer w.Discard()
	for range n / 10 {
		if _, err := w.Write([]byte("0123456789")); err != nil {
			return "", err
		}
	}
	return w.Commit(t.Context())
}

func mustPut(t *testing.T, s *assets.Store, user string, n int, expires time.Time) string {
	t.Helper()
	name, err := put(t, s, user, n, expires)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

func TestStore(t *testing.T) {
	s, dir, ck := open(t, nil)
	name := mustPut(t, s, "alice", 100, ck.now().Add(time.Hour))
	if !assets.ValidName(name) {
		t.Errorf("name %q", name)
	}
	if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", fi, err)
	}
	a, err := s.Asset(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(a.Body)
	a.Body.Close()
	if string(b) != strings.Repeat("0123456789", 10) || a.Size != 100 {
		t.Errorf("%d octets, size %d", len(b), a.Size)
	}
	for _, bad := range []string{"", "..", "../a.db", strings.Repeat("0", 40), strings.ToUpper(name), name + ".part", name[:39], "cache-1"} {
		if _, err := s.Asset(t.Context(), bad); !fault.Is(err, fault.NotFound) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	other := mustPut(t, s, "alice", 100, time.Time{})
	if other == name {
		t.Error("two files of one name")
	}

	ck.add(time.Hour)
	if _, err := s.Asset(t.Context(), name); !fault.Is(err, fault.NotFound) {
		t.Errorf("after its time: %v", err)
	}
	if n, err := s.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if got := files(t, dir); len(got) != 1 || got[0] != other {
		t.Errorf("left over: %v", got)
	}
	if err := s.DeleteUser(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

func TestLimits(t *testing.T) {
	s, dir, ck := open(t, nil)
	if _, err := put(t, s, "alice", 1010, time.Time{}); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a file that is too large: %v", err)
	}
	if _, err := s.Create(t.Context(), "alice", "", 1001, time.Time{}); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a file that says so: %v", err)
	}
	mustPut(t, s, "alice", 1000, ck.now().Add(time.Hour))
	mustPut(t, s, "alice", 1000, time.Time{})
	if _, err := put(t, s, "alice", 510, time.Time{}); !fault.Is(err, fault.TooLarge) || !strings.Contains(fault.Public(err), "in all") {
		t.Errorf("over the quota: %v", err)
	}
	mustPut(t, s, "bob", 1000, time.Time{}) // it is alice's quota

	// Two at the same time share what is left.
	w, err := s.Create(t.Context(), "alice", "", -1, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 400)); err != nil {
		t.Fatal(err)
	}
	if _, err := put(t, s, "alice", 110, time.Time{}); !fault.Is(err, fault.TooLarge) {
		t.Errorf("beside a file under way: %v", err)
	}
	w.Discard()
	w.Discard()
	mustPut(t, s, "alice", 110, time.Time{})
	if got := files(t, dir); len(got) != 4 {
		t.Errorf("left over: %v", got)
	}
	ck.add(time.Hour)
	if _, err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "alice", 1000, time.Time{}) // the time of the first is over
}

// TestCrash: what a crash leaves behind goes away, and nothing else does.
func TestCrash(t *testing.T) {
	s, dir, ck := open(t, nil)
	keep := mustPut(t, s, "alice", 100, time.Time{})
	stray := strings.Repeat("ab", 20)
	for _, n := range []string{stray, stray + ".part", "README"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Asset(t.Context(), stray); !fault.Is(err, fault.NotFound) {
		t.Errorf("a file without a row: %v", err)
	}
	if n, err := s.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("swept %d at once, %v", n, err)
	}
	ck.add(25 * time.Hour)
	if n, err := s.Sweep(t.Context()); n != 2 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if got := fmt.Sprint(files(t, dir)); !strings.Contains(got, keep) || !strings.Contains(got, "README") || strings.Contains(got, stray) {
		t.Errorf("left over: %v", got)
	}
	// And a row without a file.
	if err := os.Remove(filepath.Join(dir, keep)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Asset(t.Context(), keep); !fault.Is(err, fault.NotFound) {
		t.Errorf("a row without a file: %v", err)
	}
}

func cache(t *testing.T, change func(*assets.CacheConfig)) (*assets.Cache, *clock) {
	t.Helper()
	ck := &clock{t: time.Now()}
	cfg := assets.CacheConfig{Folder: filepath.Join(t.TempDir(), "cache"), Max: 2500, Each: 1000, Now: ck.now}
	if change != nil {
		change(&cfg)
	}
	c, err := assets.OpenCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, ck
}

type source struct {
	mu    sync.Mutex
	asked map[string]int
}

func (s *source) count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[key]
}

func (s *source) of(key string, size int64, r io.Reader) func(context.Context) (*port.Asset, error) {
	return func(context.Context) (*port.Asset, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.asked == nil {
			s.asked = map[string]int{}
		}
		s.asked[key]++
		return &port.Asset{Body: io.NopCloser(r), Size: size, Type: "image/png"}, nil
	}
}

func read(t *testing.T, a *port.Asset) string {
	t.Helper()
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCache(t *testing.T) {
	c, ck := cache(t, nil)
	src := &source{}
	get := func(key string, n int) string {
		t.Helper()
		a, err := c.Get(t.Context(), key, src.of(key, int64(n), bytes.NewReader(bytes.Repeat([]byte(key), n))))
		if err != nil {
			t.Fatal(err)
		}
		if a.Type != "image/png" {
			t.Errorf("type %q", a.Type)
		}
		return read(t, a)
	}
	for range 3 {
		if got := get("a", 1000); got != strings.Repeat("a", 1000) {
			t.Errorf("%d octets", len(got))
		}
	}
	if src.count("a") != 1 {
		t.Errorf("fetched %d times", src.count("a"))
	}
	ck.add(time.Minute)
	get("b", 1000)
	ck.add(time.Minute)
	get("a", 1000)
	ck.add(time.Minute)
	get("c", 1000) // in place of b, which was used longest ago
	get("a", 1000)
	if src.count("a") != 1 {
		t.Errorf("what was used last was dropped")
	}
	get("b", 1000)
	if src.count("b") != 2 {
		t.Errorf("b was fetched %d times", src.count("b"))
	}
	ck.add(2 * time.Hour)
	get("a", 1000)
	if src.count("a") != 2 {
		t.Errorf("after its time: fetched %d times", src.count("a"))
	}
}

func TestCacheFailures(t *testing.T) {
	c, _ := cache(t, nil)
	src := &source{}
	long := func() io.Reader { return io.LimitReader(zeros{}, 1001) }
	for _, tc := range []struct {
		name string
		size int64
		r    func() io.Reader
		want fault.Kind
	}{
		{"announced too large", 1001, long, fault.TooLarge},
		{"turns out too large", -1, long, fault.TooLarge},
		{"shorter than announced", 500, func() io.Reader { return strings.NewReader("x") }, fault.Unavailable},
		{"longer than announced", 3, func() io.Reader { return strings.NewReader("four") }, fault.Unavailable},
		{"breaks off", -1, func() io.Reader { return io.MultiReader(strings.NewReader("x"), broken{}) }, fault.Unavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for range 2 { // a failure is not kept
				a, err := c.Get(t.Context(), tc.name, src.of(tc.name, tc.size, tc.r()))
				if err == nil {
					_, err = a.Body.(*assets.Copy).Wait()
					if _, rerr := io.ReadAll(a.Body); rerr == nil {
						t.Error("it can be read to its end")
					}
					a.Body.Close()
				}
				if !fault.Is(err, tc.want) {
					t.Errorf("%v", err)
				}
			}
			if src.count(tc.name) != 2 {
				t.Errorf("asked %d times", src.count(tc.name))
			}
		})
	}
	t.Run("no answer", func(t *testing.T) {
		want := fault.New(fault.Forbidden, "no")
		if _, err := c.Get(t.Context(), "x", func(context.Context) (*port.Asset, error) { return nil, want }); !errors.Is(err, want) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a panic", func(t *testing.T) {
		if _, err := c.Get(t.Context(), "y", func(context.Context) (*port.Asset, error) { panic("oh") }); err == nil {
			t.Error("no error")
		}
	})
	t.Run("full of what is being read", func(t *testing.T) {
		var open []*port.Asset
		for i := range 3 {
			key := fmt.Sprint("full ", i)
			a, err := c.Get(t.Context(), key, src.of(key, 1000, io.LimitReader(zeros{}, 1000)))
			if err == nil {
				_, err = a.Body.(*assets.Copy).Wait()
				open = append(open, a)
			}
			if i < 2 != (err == nil) || i == 2 && !fault.Is(err, fault.Limited) {
				t.Errorf("%d: %v", i, err)
			}
		}
		for _, a := range open {
			a.Body.Close()
		}
		a, err := c.Get(t.Context(), "full 2", src.of("full 2", 1000, io.LimitReader(zeros{}, 1000)))
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, a); len(got) != 1000 {
			t.Errorf("%d octets", len(got))
		}
	})
}

// TestCacheShares: who comes while a file is arriving reads along, and does not wait for its end.
func TestCacheShares(t *testing.T) {
	c, _ := cache(t, nil)
	src := &source{}
	r, w := io.Pipe()
	fetch := src.of("k", -1, r)
	ctx, cancel := context.WithCancel(t.Context())
	first, err := c.Get(ctx, "k", fetch)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Get(t.Context(), "k", fetch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("hello ")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	for _, a := range []*port.Asset{first, second} {
		if _, err := io.ReadFull(a.Body, b); err != nil || string(b) != "hello " {
			t.Errorf("%q %v", b, err)
		}
	}
	cancel() // the first goes; the second has its file all the same
	if _, err := first.Body.Read(b); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	first.Body.Close()
	if _, err := w.Write([]byte("world")); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got := read(t, second); got != "world" {
		t.Errorf("%q", got)
	}
	if src.count("k") != 1 {
		t.Errorf("fetched %d times", src.count("k"))
	}
}

// TestCacheCopies: small files cost an open file each, so their number is bounded, too.
func TestCacheCopies(t *testing.T) {
	c, ck := cache(t, func(c *assets.CacheConfig) { c.Copies = 3 })
	src := &source{}
	get := func(key string) *port.Asset {
		t.Helper()
		a, err := c.Get(t.Context(), key, src.of(key, 0, strings.NewReader("")))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Body.(*assets.Copy).Wait(); err != nil {
			t.Fatal(err)
		}
		ck.add(time.Second)
		return a
	}
	for _, key := range []string{"a", "b", "c", "d", "b", "a"} {
		get(key).Body.Close()
	}
	if src.count("a") != 2 || src.count("b") != 1 {
		t.Errorf("a was fetched %d times, b %d times: not the oldest was dropped", src.count("a"), src.count("b"))
	}
	for _, key := range []string{"x", "y", "z"} {
		defer get(key).Body.Close()
	}
	if _, err := c.Get(t.Context(), "more", src.of("more", 0, strings.NewReader(""))); !fault.Is(err, fault.Limited) {
		t.Errorf("while all are being read: %v", err)
	}
}

// TestCacheAbandoned: a download that nobody waits for any more ends, and is begun anew for who comes later.
func TestCacheAbandoned(t *testing.T) {
	c, _ := cache(t, nil)
	ended := make(chan error, 1)
	a, err := c.Get(t.Context(), "k", func(ctx context.Context) (*port.Asset, error) {
		r, w := io.Pipe()
		go func() {
			<-ctx.Done()
			ended <- ctx.Err()
			w.CloseWithError(ctx.Err())
		}()
		return &port.Asset{Body: r, Size: -1}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended by %v", err)
	}
	src := &source{}
	if a, err = c.Get(t.Context(), "k", src.of("k", 3, strings.NewReader("new"))); err != nil {
		t.Fatal(err)
	}
	if got := read(t, a); got != "new" {
		t.Errorf("%q", got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }
