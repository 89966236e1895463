package xmpp

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/mimibridge/mimibridge/core/content"
)

// A database of a later version is refused if that says so, and used if not; one opened again is the same.
func TestSchema(t *testing.T) {
	db := testDB(t)
	ctx := context.Background()
	s, err := openStore(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	salt := s.salt
	s.close()
	if s, err = openStore(ctx, db); err != nil {
		t.Fatal(err)
	}
	if s.salt != salt || len(salt) != 32 {
		t.Errorf("salt %q, then %q", salt, s.salt)
	}
	s.close()
	set := func(version, oldest int) {
		if _, err := db.Exec(`UPDATE xmpp_schema SET version = $1, oldest = $2`, version, oldest); err != nil {
			t.Fatal(err)
		}
	}
	set(99, len(schema))
	if s, err = openStore(ctx, db); err != nil {
		t.Fatalf("a later version that this one can read: %v", err)
	}
	s.close()
	set(99, len(schema)+1)
	if _, err := openStore(ctx, db); err == nil || !strings.Contains(err.Error(), "later version") {
		t.Errorf("a later version: %v", err)
	}
}

// What many write at once is all written, and one that fails takes no other with it.
func TestWrites(t *testing.T) {
	db := testDB(t)
	s, err := openStore(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	broken := errors.New("broken")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			err := s.write(func(tx *sql.Tx) error {
				if _, err := tx.Exec(`INSERT INTO xmpp_alias (local, uri) VALUES ($1, $2)`, fmt.Sprint(i), "x"); err != nil {
					return err
				}
				if i%20 == 0 {
					return broken
				}
				return nil
			})
			if (i%20 == 0) != errors.Is(err, broken) {
				t.Errorf("write %d: %v", i, err)
			}
		}()
	}
	wg.Wait()
	n := 0
	if err := db.QueryRow(`SELECT count(*) FROM xmpp_alias`).Scan(&n); err != nil || n != 190 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestSent(t *testing.T) {
	s, err := openStore(context.Background(), testDB(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	id := content.MessageID{1, 2, 3}
	if _, _, ok, err := s.sent(ctx, balconyURI, romeoURI, "o"); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	for range 2 {
		if err := s.keepSent(balconyURI, romeoURI, "o", id); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, ok, err := s.sent(ctx, balconyURI, romeoURI, "o"); !ok || err != nil || got != id {
		t.Errorf("%v %v %v", got, ok, err)
	}
	if _, _, ok, _ := s.sent(ctx, balconyURI, benURI, "o"); ok {
		t.Error("the id of somebody else's message")
	}
	// What is too old to be sent again is forgotten.
	if err := s.exec(`UPDATE xmpp_sent SET at = 1`); err != nil {
		t.Fatal(err)
	}
	if err := s.keepSent(balconyURI, romeoURI, "p", id); err != nil {
		t.Fatal(err)
	}
	if _, _, ok, _ := s.sent(ctx, balconyURI, romeoURI, "o"); ok {
		t.Error("kept for ever")
	}
	s.close()
	if err := s.keepSent(balconyURI, romeoURI, "q", id); err == nil {
		t.Error("written after the end")
	}
}
