package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/store"
)

// TestBackupAndRestore goes an admin's way: verify, back up, lose it, restore; and an upgrade, tried first.
func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "mimibridge.yaml")
	if _, stderr, status := mimibridge(t, "", false, "init", "-c", conf, "-look", "none", "-domain", "example.org", "-network", "xmpp"); status != 0 {
		t.Fatal(stderr)
	}
	c, err := config.Load(conf)
	if err != nil {
		t.Fatal(err)
	}
	cmd := func(want int, args ...string) string {
		t.Helper()
		stdout, stderr, status := mimibridge(t, "", false, append(args, "-c", conf)...)
		if status != want {
			t.Fatalf("%q: status %d: %s%s", args, status, stdout, stderr)
		}
		return stdout + stderr
	}
	says := func(got string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%q does not say %q", got, w)
			}
		}
	}
	cmd(1, "db", "verify") // there is none yet
	cmd(1, "db", "upgrade")
	o, err := storeOptions(c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	says(cmd(0, "db", "verify"), "0 sealed values") // while the daemon runs
	says(cmd(1, "db", "upgrade", "-n"), "stop it first")
	file := filepath.Join(dir, "backup.tar")
	says(cmd(0, "backup", file), file, "1 database files", "sealing.key", "files of users", conf)
	says(cmd(1, "backup", file), "is there already")
	says(cmd(0, "backup", "-json", file+"2"), `"domain": "example.org"`)
	says(cmd(1, "restore", file, "-force"), "stop it first")
	s.Close()
	says(cmd(1, "restore", file), "-force moves it aside")
	says(cmd(0, "restore", "-force", file), "Restored example.org", "the former one is kept")
	says(cmd(0, "db", "upgrade"), "which is this version's")
	says(cmd(2, "restore"), "either FILE or -loaded")
	says(cmd(0, "restore", "-loaded"), "is marked as a copy from earlier")
	if s, err = store.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	says(cmd(1, "restore", "-loaded"), "stop it first")
	s.Close()

	old, err := os.ReadFile("../../core/store/testdata/schema1-a.sql")
	if err != nil {
		t.Fatal(err)
	}
	conf = filepath.Join(t.TempDir(), "mimibridge.yaml")
	if _, stderr, status := mimibridge(t, "", false, "init", "-c", conf, "-look", "none", "-domain", "a.example", "-network", "xmpp"); status != 0 {
		t.Fatal(stderr)
	}
	if c, err = config.Load(conf); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Secrets.KeyFile, []byte("mimibridge-sealing-key-1 "+strings.Repeat("A", 43)+"=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+c.Storage.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(string(old)); err != nil {
		t.Fatal(err)
	}
	db.Close()
	says(cmd(1, "db", "verify"), "has schema 1", "upgrade first")
	says(cmd(0, "db", "upgrade", "-n"), "would succeed; nothing was changed")
	says(cmd(0, "db", "upgrade"), "was upgraded from schema 1 to")
	says(cmd(0, "db", "verify"), "sealed values open")
	db, err = sql.Open("sqlite", "file:"+c.Storage.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`DELETE FROM room`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	says(cmd(1, "db", "verify"), "rooms kept here that have no row of their own", "restore a backup")
	says(cmd(1, "backup", file+"3"), "not sound")
}

// TestPostgresIsBackedUpByItsOwnTools: and the command says how, without the password.
func TestPostgresIsBackedUpByItsOwnTools(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "mimibridge.yaml")
	if _, stderr, status := mimibridge(t, "", false, "init", "-c", conf, "-look", "none", "-domain", "example.org", "-network", "xmpp"); status != 0 {
		t.Fatal(stderr)
	}
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^  sqlite: .*$`) // the one line that PostgreSQL takes
	if !line.Match(text) {
		t.Fatalf("no line says where the database is:\n%s", text)
	}
	if err := os.WriteFile(conf, line.ReplaceAll(text, []byte("  postgres: postgres://ada:hush@db.example:5433/mimi")), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string][]string{
		"backup":  {"pg_dump --format=custom --exclude-table-data=node --file=x.dump", "host=db.example port=5433 user=ada dbname=mimi"},
		"restore": {"pg_restore", "mimibridge restore -loaded"},
	} {
		_, stderr, status := mimibridge(t, "", false, command, "x.dump", "-c", conf)
		if status != 1 || strings.Contains(stderr, "hush") {
			t.Errorf("%s: status %d: %s", command, status, stderr)
		}
		for _, w := range want {
			if !strings.Contains(stderr, w) {
				t.Errorf("%s: %q does not say %q", command, stderr, w)
			}
		}
	}
}
