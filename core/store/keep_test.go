package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/store"
)

// earlier makes a SQLite database as a version with that schema left it.
func earlier(t *testing.T, schema int, path, which string) store.Options {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("testdata/schema%d-%s.sql", schema, which))
	if err != nil {
		t.Fatal(err)
	}
	sqlite(t, path, string(b))
	return store.Options{Path: path, Key: make([]byte, store.KeySize), Domain: which + ".example"}
}

func sqlite(t *testing.T, path, q string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(q, args...); err != nil {
		t.Fatal(err)
	}
}

func verify(t *testing.T, o store.Options) *store.Verified {
	t.Helper()
	v, err := store.Verify(context.Background(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestUpgradeFrom(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		schema int
		which  string
	}{{1, "a"}, {1, "b"}, {2, "a"}, {2, "b"}} {
		t.Run(fmt.Sprint(c.schema, c.which), func(t *testing.T) {
			o := earlier(t, c.schema, filepath.Join(t.TempDir(), "db"), c.which)
			if _, err := store.Verify(ctx, o, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprint("has schema ", c.schema)) {
				t.Errorf("verified before the upgrade: %v", err)
			}
			for range 2 { // a dry run changes nothing
				if from, err := store.Upgrade(ctx, o, true); from != c.schema || err != nil {
					t.Fatalf("dry run: from %d, %v", from, err)
				}
			}
			if from, err := store.Upgrade(ctx, o, false); from != c.schema || err != nil {
				t.Fatalf("from %d, %v", from, err)
			}
			if from, err := store.Upgrade(ctx, o, false); from != store.SchemaVersion || err != nil {
				t.Fatalf("a second time: from %d, %v", from, err)
			}
			if v := verify(t, o); len(v.Problems) > 0 || v.Sealed < 20 || v.Schema != store.SchemaVersion {
				t.Errorf("after the upgrade: %+v", v)
			}
			s, err := store.Open(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.View(ctx, func(tx *store.Tx) error {
				rooms, err := tx.ClientRooms(store.ClientJoined)
				if err != nil || len(rooms) != 2 {
					return fmt.Errorf("rooms %v, %w", rooms, err)
				}
				for _, r := range rooms {
					if c, err := tx.ClientRoom(r); err != nil || c.State == nil {
						return fmt.Errorf("%s has no state: %w", r, err)
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestTooNew: a version that does not know a schema leaves the database alone, if whoever wrote it says that it must.
func TestTooNew(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	o := options(t, path, 1)
	s := openAt(t, path, 1)
	s.Close()
	set := func(schema, oldest string) {
		t.Helper()
		if o.Postgres != "" {
			db, err := sql.Open("pgx", o.Postgres)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			for k, v := range map[string]string{"schema_version": schema, "oldest_reader": oldest} {
				if _, err := db.Exec(`UPDATE meta SET value=$1 WHERE key=$2`, []byte(v), k); err != nil {
					t.Fatal(err)
				}
			}
			return
		}
		sqlite(t, path, `UPDATE meta SET value=? WHERE key='schema_version'`, []byte(schema))
		sqlite(t, path, `UPDATE meta SET value=? WHERE key='oldest_reader'`, []byte(oldest))
	}
	set("99", "98")
	for what, open := range map[string]func() error{
		"run":     func() error { _, err := store.Open(ctx, o); return err },
		"upgrade": func() error { _, err := store.Upgrade(ctx, o, false); return err },
	} {
		err := open()
		if err == nil {
			t.Fatalf("%s: a database of schema 99 was opened", what)
		}
		for _, part := range []string{"schema 99", "knows schema 98", "this one knows " + fmt.Sprint(store.SchemaVersion), "newer version"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", what, err, part)
			}
		}
	}
	set("99", fmt.Sprint(store.SchemaVersion))
	s = openAt(t, path, 1)
	s.Close()
	set(fmt.Sprint(store.SchemaVersion), fmt.Sprint(store.OldestReader))
	openAt(t, path, 1)
}

// TestVerify: each kind of damage is found.
func TestVerify(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	o := earlier(t, 2, good, "a")
	if _, err := store.Upgrade(context.Background(), o, false); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, o); len(v.Problems) > 0 {
		t.Fatalf("%q", v.Problems)
	}
	other := o
	other.Key = key(3)
	if v := verify(t, other); len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "sealing key") {
		t.Errorf("with another key: %q", v.Problems)
	}
	for i, c := range []struct{ damage, want string }{
		{`UPDATE client_room SET state=zeroblob(60)`, "client_room.state do not open"},
		{`UPDATE event SET room_id=room_id||'2'`, "event.payload do not open"},
		{`UPDATE event SET seq=seq+1000`, "events of rooms without users, or beyond their number"},
		{`UPDATE intent SET payload=(SELECT secret FROM identity LIMIT 1)`, "intent.payload do not open"},
		{`DELETE FROM room`, "rooms kept here that have no row"},
		{`DELETE FROM client_room`, "ratchets of rooms"},
		{`UPDATE hub_end SET last_seq=0`, "beyond the end of the log"},
		{`UPDATE hub_room SET state=NULL`, "open rooms without a group"},
		{`UPDATE hub_cursor SET last=last+50`, "ahead of their room's log"},
		{`UPDATE delivery SET done=done+50`, "shown more than there was"},
		{`PRAGMA writable_schema=1; UPDATE sqlite_master SET rootpage=rootpage+200 WHERE name='hub_answer_ts'`, "damaged"},
	} {
		t.Run(c.damage, func(t *testing.T) {
			path := filepath.Join(dir, fmt.Sprint("bad", i))
			if err := store.Snapshot(context.Background(), good, path); err != nil {
				t.Fatal(err)
			}
			sqlite(t, path, c.damage)
			bad := o
			bad.Path = path
			v, err := store.Verify(context.Background(), bad, nil)
			found := fmt.Sprint(err)
			if v != nil {
				found = strings.Join(v.Problems, "\n")
			}
			if !strings.Contains(found, c.want) && !(c.want == "damaged" && strings.Contains(found, "malformed")) {
				t.Errorf("found is %q, not %q", found, c.want)
			}
		})
	}
}

// TestSealedColumns: what is sealed anywhere is in the list that verifying goes by.
func TestSealedColumns(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile("sealed.go")
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`ealer\.Seal\("(\w+)", .*, "(\w+)", `)
	n := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			n++
			if m[1] != "meta" && !strings.Contains(string(list), fmt.Sprintf("{table: %q, column: %q,", m[1], m[2])) {
				t.Errorf("%s seals %s.%s, which is not among sealedColumns (sealed.go)", f, m[1], m[2])
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d places were found", n)
	}
}

// TestRestore: a copy takes the place of a database as another incarnation, if everything about it is right.
func TestRestore(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	o := store.Options{Path: path, Key: key(1), Domain: "a.example"}
	open := func() *store.Store {
		t.Helper()
		s, err := store.Open(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	state := func(s *store.Store) (state []byte, rooms int) {
		t.Helper()
		if err := s.View(ctx, func(tx *store.Tx) error {
			r, err := tx.ClientRoom(room)
			if err != nil {
				return err
			}
			state = r.State
			all, err := tx.Rooms()
			rooms = len(all)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return state, rooms
	}
	s := open()
	addRoom(t, s)
	if err := s.Update(ctx, func(tx *store.Tx) error {
		return tx.PutClientState(&store.ClientRoom{Room: room, Status: store.ClientJoined, State: []byte("secrets")})
	}); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "copy")
	if err := store.Snapshot(ctx, path, copied); err != nil { // while it is open
		t.Fatal(err)
	}
	if err := store.Snapshot(ctx, path, copied); err == nil {
		t.Error("a copy was written over another file")
	}
	was := s.Incarnation()
	if _, err := store.Restore(ctx, o, copied, nil); err == nil || !strings.Contains(err.Error(), "another mimibridge") {
		t.Errorf("restored under a running daemon: %v", err)
	}
	if err := s.Update(ctx, func(tx *store.Tx) error { return tx.EnsureClientRoom(room+"2", 1) }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for what, wrong := range map[string]store.Options{
		"key":    {Path: path, Key: key(2), Domain: "a.example"},
		"domain": {Path: path, Key: key(1), Domain: "b.example"},
	} {
		if _, err := store.Restore(ctx, wrong, copied, nil); err == nil {
			t.Errorf("restored with another %s", what)
		}
	}
	s = open()
	if st, rooms := state(s); string(st) != "secrets" || rooms != 2 || s.Restored() {
		t.Errorf("what failed has changed something: %q, %d rooms", st, rooms)
	}
	s.Close()
	kept, err := store.Restore(ctx, o, copied, nil)
	if err != nil {
		t.Fatal(err)
	}
	s = open()
	if st, rooms := state(s); st != nil || rooms != 1 || s.Restored() || string(s.Incarnation()) == string(was) {
		t.Errorf("restored: state %q, %d rooms, found to be a copy once more: %v, the incarnation is the old one: %v", st, rooms, s.Restored(), string(s.Incarnation()) == string(was))
	}
	s.Close()
	former := o
	former.Path = kept
	if v := verify(t, former); len(v.Problems) > 0 {
		t.Errorf("the former database: %q", v.Problems)
	}
}
