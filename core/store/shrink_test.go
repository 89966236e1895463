package store_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/store"
)

func fill(t *testing.T, s *store.Store) {
	t.Helper()
	err := s.Update(context.Background(), func(tx *store.Tx) error {
		if err := tx.EnsureClientRoom(room, 1); err != nil {
			return err
		}
		for range 300 {
			if err := tx.AppendInbox(room, make([]byte, 32<<10)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

// TestGivesSpaceBack: what was deleted leaves the file, also that of a database of the first version, whose file could only
// grow. SQLite only: PostgreSQL does it by itself.
func TestGivesSpaceBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	o := store.Options{Path: path, Key: key(1), Domain: "a.example", Checkpoint: 5 * time.Millisecond}
	open := func() *store.Store {
		t.Helper()
		s, err := store.Open(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	fill(t, s)
	s.Close()
	full := size(t, path)
	if full < 9<<20 {
		t.Fatalf("%d octets", full)
	}

	// As the first version left it.
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, q := range []string{"PRAGMA auto_vacuum=none", "VACUUM"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()

	s = open()
	defer s.Close()
	if err := s.Update(context.Background(), func(tx *store.Tx) error { return tx.DropHeld(room, 0) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(context.Background(), func(tx *store.Tx) error {
		for seq := range uint64(301) {
			if err := tx.DeleteInbox(room, seq); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); size(t, path) > full/4; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the file has %d octets, it had %d", size(t, path), full)
		}
	}
}

// TestTablesAreDocumented: docs/data.md says of each table what is in it, what for, and for how long.
func TestTablesAreDocumented(t *testing.T) {
	schema, err := os.ReadFile("schema.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "data.md"))
	if err != nil {
		t.Fatal(err)
	}
	tables := regexp.MustCompile(`CREATE TABLE (\w+)`).FindAllStringSubmatch(string(schema), -1)
	if len(tables) < 20 {
		t.Fatalf("%d tables", len(tables))
	}
	var names []string
	for _, m := range tables {
		names = append(names, m[1])
		if !strings.Contains(string(doc), "\n| "+m[1]+" | ") {
			t.Errorf("the table %s has no row in docs/data.md", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\n\| (\w+) \| `).FindAllStringSubmatch(string(doc), -1) {
		if m[1] != "table" && !slices.Contains(names, m[1]) {
			t.Errorf("docs/data.md has a table %s that there is not", m[1])
		}
	}
}
