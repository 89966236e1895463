package backup_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/backup"
)

const room = "mimi://a.example/r/x"

func key(b byte) []byte { return bytes.Repeat([]byte{b}, store.KeySize) }

// world is a provider's files: a database with a room, an adapter's, and two files of users.
func world(t *testing.T) (backup.Options, *store.Store) {
	t.Helper()
	dir := t.TempDir()
	o := backup.Options{Store: store.Options{Path: filepath.Join(dir, "mimi.db"), Key: key(1), Domain: "a.example"}, Assets: filepath.Join(dir, "assets"), Version: "test"}
	s, err := store.Open(t.Context(), o.Store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.EnsureClientRoom(room, 1); err != nil {
			return err
		}
		return tx.PutClientState(&store.ClientRoom{Room: room, Status: store.ClientJoined, State: []byte("secrets")})
	}); err != nil {
		t.Fatal(err)
	}
	note(t, s, "before")
	for name, n := range map[string]int{"aa/one": 10, "bb/two": 20, "cache-x/not": 30} {
		path := filepath.Join(o.Assets, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o, s
}

// note writes into the adapter's database; noted reads what was written.
func note(t *testing.T, s *store.Store, text string) {
	t.Helper()
	db, err := s.AdapterDB(t.Context(), "paper")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, q := range []string{`CREATE TABLE IF NOT EXISTS note (t TEXT NOT NULL)`, `DELETE FROM note`, `INSERT INTO note VALUES ('` + text + `')`} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
}

func noted(t *testing.T, s *store.Store) (text string) {
	t.Helper()
	db, err := s.AdapterDB(t.Context(), "paper")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(`SELECT t FROM note`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func rooms(t *testing.T, s *store.Store) (n int, state []byte) {
	t.Helper()
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		all, err := tx.Rooms()
		if err != nil {
			return err
		}
		n = len(all)
		r, err := tx.ClientRoom(room)
		state = r.State
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n, state
}

func TestThereAndBack(t *testing.T) {
	ctx := context.Background()
	o, s := world(t)
	file := filepath.Join(t.TempDir(), "backup.tar")
	m, err := backup.Write(ctx, o, file) // while it is open
	if err != nil {
		t.Fatal(err)
	}
	if m.Assets != 2 || m.AssetOctets != 30 || len(m.Files) != 2 || m.Domain != "a.example" || m.Schema != store.SchemaVersion {
		t.Errorf("%+v", m)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, []byte("secrets")) || bytes.Contains(b, key(1)) {
		t.Errorf("the backup holds a secret as it is, or the key: %v", err)
	}
	if _, err := backup.Write(ctx, o, file); err == nil {
		t.Error("a backup was written over another")
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left beside it: %v", left)
	}

	if err := s.Update(ctx, func(tx *store.Tx) error { return tx.EnsureClientRoom(room+"2", 1) }); err != nil {
		t.Fatal(err)
	}
	note(t, s, "after")
	if _, err := backup.Restore(ctx, o, file, true); err == nil || !strings.Contains(err.Error(), "another mimibridge") {
		t.Errorf("restored under a running daemon: %v", err)
	}
	if text := noted(t, s); text != "after" {
		t.Errorf("the adapter's database was touched: %s", text)
	}
	s.Close()
	if _, err := backup.Restore(ctx, o, file, false); !errors.Is(err, backup.ErrThere) {
		t.Errorf("restored over a database: %v", err)
	}
	if err := os.Remove(filepath.Join(o.Assets, "aa", "one")); err != nil {
		t.Fatal(err)
	}
	r, err := backup.Restore(ctx, o, file, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kept) != 2 || r.Missing != 1 {
		t.Errorf("%+v", r)
	}
	again, err := store.Open(ctx, o.Store)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n, state := rooms(t, again); n != 1 || state != nil || bytes.Equal(again.Incarnation(), s.Incarnation()) || noted(t, again) != "before" {
		t.Errorf("restored: %d rooms, state %q, note %q", n, state, noted(t, again))
	}

	// On another machine, where nothing is yet.
	o.Store.Path = filepath.Join(t.TempDir(), "mimi.db")
	if _, err := backup.Restore(ctx, o, file, false); err != nil {
		t.Fatal(err)
	}
	moved, err := store.Open(ctx, o.Store)
	if err != nil {
		t.Fatal(err)
	}
	defer moved.Close()
	if n, state := rooms(t, moved); n != 1 || state != nil || noted(t, moved) != "before" {
		t.Errorf("moved: %d rooms, state %q, note %q", n, state, noted(t, moved))
	}
}

// archive writes a tar file of names and contents.
func archive(t *testing.T, parts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: parts[i], Mode: 0o600, Size: int64(len(parts[i+1]))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, parts[i+1])
	}
	w.Close()
	return b.Bytes()
}

// TestNotRestored: an archive that is not whole, or not this provider's, changes nothing.
func TestNotRestored(t *testing.T) {
	ctx := context.Background()
	o, s := world(t)
	file := filepath.Join(t.TempDir(), "backup.tar")
	if _, err := backup.Write(ctx, o, file); err != nil {
		t.Fatal(err)
	}
	note(t, s, "after")
	s.Close()
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(good)
	changed[len(changed)/2] ^= 1
	otherKey, otherDomain := o, o
	otherKey.Store.Key, otherDomain.Store.Domain = key(2), "b.example"
	for _, c := range []struct {
		name string
		o    backup.Options
		b    []byte
		want string
	}{
		{"nothing", o, nil, "no backup"},
		{"text", o, []byte(strings.Repeat("words ", 500)), "no backup"},
		{"a database", o, []byte("SQLite format 3\x00"), "no backup"},
		{"half of it", o, good[:len(good)/2], "no backup"},
		{"changed", o, changed, "was changed"},
		{"a later format", o, archive(t, "manifest.json", `{"format":2,"version":"mimibridge v9"}`), "made by mimibridge v9"},
		{"a name with a path", o, archive(t, "manifest.json", `{"format":1,"files":[{"name":"../x"}]}`), `a file "../x"`},
		{"no database", o, archive(t, "manifest.json", `{"format":1}`), "no database"},
		{"a file too many", o, archive(t, "manifest.json", `{"format":1,"files":[{"name":"database.db"}]}`, "more", "x"), `"more"`},
		{"assets elsewhere", o, archive(t, "manifest.json", `{"format":1,"files":[{"name":"database.db"}]}`, "assets.txt", "1 ../../x\n"), "list of files"},
		{"another key", otherKey, good, "key file"},
		{"another domain", otherDomain, good, `is of the provider "a.example"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(file, c.b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := backup.Restore(ctx, c.o, file, true); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	s, err = store.Open(ctx, o.Store)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, state := rooms(t, s); n != 1 || string(state) != "secrets" || s.Restored() || noted(t, s) != "after" {
		t.Errorf("what failed has changed something: %d rooms, %q, %q", n, state, noted(t, s))
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(o.Store.Path), ".mimibridge*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// FuzzRestore: an archive is read from wherever an admin got it.
func FuzzRestore(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{"manifest.json": `{"format":1,"domain":"a.example","files":[{"name":"database.db","size":1,"sha256":"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}]}`, "database.db": "x", "assets.txt": "1 a\n"} {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text))})
		io.WriteString(w, text)
	}
	w.Close()
	f.Add(b.Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, "b.tar")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		o := backup.Options{Store: store.Options{Path: filepath.Join(dir, "mimi.db"), Key: key(1), Domain: "a.example"}, Assets: dir}
		if _, err := backup.Restore(context.Background(), o, file, false); err == nil {
			t.Fatal("restored")
		}
		if _, err := os.Stat(o.Store.Path); err == nil {
			t.Fatal("a database was put in place")
		}
	})
}
