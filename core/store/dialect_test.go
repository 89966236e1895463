package store

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPostgresText(t *testing.T) {
	for _, c := range []struct{ name, in, out string }{
		{"parameters", `SELECT a FROM t WHERE b=? AND c<?`, `SELECT a FROM t WHERE b=$1 AND c<$2`},
		{"numbered parameters", `SELECT ?1, ?2, ?1`, `SELECT $1, $2, $1`},
		{"PostgreSQL's parameters", `SELECT $1`, `SELECT $1`},
		{"a string", `SELECT '? BLOB ''user''', a`, `SELECT '? BLOB ''user''', a`},
		{"a comment", "SELECT 1 -- user's ?\nFROM t WHERE a=?", "SELECT 1 \nFROM t WHERE a=$1"},
		{"types", `CREATE TABLE t (a BLOB, b INTEGER NOT NULL, c TEXT) WITHOUT ROWID;`, `CREATE TABLE t (a BYTEA, b BIGINT NOT NULL, c TEXT COLLATE "C") ;`},
		{"words that are reserved", `SELECT i.user, window FROM user_x i`, `SELECT i."user", "window" FROM user_x i`},
		{"a function", `SELECT instr(a, ?)`, `SELECT strpos(a, $1)`},
		{"a string that does not end", `SELECT 'a`, `SELECT 'a`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := postgresText(c.in); got != c.out {
				t.Errorf("%q becomes %q, not %q", c.in, got, c.out)
			}
		})
	}
}

// TestSchemaIsForBoth: what only a run on PostgreSQL would show, where it shows in the text.
func TestSchemaIsForBoth(t *testing.T) {
	words := strings.Fields(`all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate column concurrently
		constraint create cross current_user default deferrable desc distinct do else end except false fetch for foreign freeze from full grant
		group having ilike in initially inner intersect into is join lateral leading left like limit localtime natural not null offset on only
		or order outer overlaps placing primary references returning right select session_user similar some symmetric table tablesample then to
		trailing true union unique using variadic verbose when where with`)
	column := regexp.MustCompile(`(?m)^\s+"?([a-z_0-9]+)"?\s+(\w+)`)
	for i, text := range upgrades {
		for _, m := range column.FindAllStringSubmatch(text, -1) {
			if slices.Contains(words, m[1]) {
				t.Errorf("schema %d: PostgreSQL reserves the name of the column %s", i+1, m[1])
			}
			if !slices.Contains([]string{"TEXT", "INTEGER", "BLOB", "REAL"}, m[2]) {
				t.Errorf("schema %d: the column %s has the type %s, which the two databases do not mean alike", i+1, m[1], m[2])
			}
		}
		for _, word := range []string{"AUTOINCREMENT", "CURRENT_TIMESTAMP", "strftime", "json_", "OR REPLACE", "OR IGNORE"} {
			if strings.Contains(text, word) {
				t.Errorf("schema %d: %s is not for PostgreSQL", i+1, word)
			}
		}
	}
}

func FuzzPostgresText(f *testing.F) {
	f.Add(`SELECT a FROM t WHERE b=? AND c='x?' -- ?`)
	f.Add(`"a" 'b' ?1 WITHOUT ROWID`)
	f.Fuzz(func(t *testing.T, q string) { rewrite(q) })
}
