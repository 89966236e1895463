package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/mimibridge/mimibridge/core/store"
)

// TestAdapterStatements: an adapter's connection keeps its statements, and still one may be run while its own rows are being read, and
// after the table it is about was changed.
func TestAdapterStatements(t *testing.T) {
	ctx := context.Background()
	db, err := store.AdapterDB(ctx, options(t, filepath.Join(t.TempDir(), "db"), 1), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exec := func(q string, args ...any) {
		t.Helper()
		if _, err := conn.ExecContext(ctx, q, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE TABLE n (a INTEGER NOT NULL)`)
	for i := range 3 {
		exec(`INSERT INTO n (a) VALUES ($1)`, i)
	}
	read := func(limit int, each func()) (got string) {
		t.Helper()
		rows, err := conn.QueryContext(ctx, `SELECT a FROM n WHERE a < $1 ORDER BY a`, limit)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var a int
			if err := rows.Scan(&a); err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprint(a)
			each()
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return got
	}
	nothing := func() {}
	if got := read(9, func() {}); got != "012" {
		t.Errorf("first: %s", got)
	}
	if postgres := options(t, filepath.Join(t.TempDir(), "db"), 1).Postgres != ""; !postgres { // there a connection reads one thing at a time
		inner := ""
		if got := read(2, func() { inner += read(3, nothing) }); got != "01" || inner != "012012" {
			t.Errorf("one within the other: %s, %s", got, inner)
		}
	}
	exec(`ALTER TABLE n ADD COLUMN b INTEGER NOT NULL DEFAULT 5`)
	exec(`INSERT INTO n (a) VALUES ($1)`, 3)
	if got := read(9, nothing); got != "0123" {
		t.Errorf("after a change of the table: %s", got)
	}
}
