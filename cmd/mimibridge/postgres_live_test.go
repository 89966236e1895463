//go:build live

package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mimibridge/mimibridge/adapters/console"
	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/adapters/xmpp"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// usePostgres has a daemon's configuration name a server's database instead of a file.
func (p *provider) usePostgres(dsn string) {
	p.t.Helper()
	b, err := os.ReadFile(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("mimibridge.yaml", string(b)+fmt.Sprintf("storage: {postgres: %q}\nassets: {folder: files}\n", dsn))
}

func startPostgres(t *testing.T) *testnet.Postgres {
	t.Helper()
	pg, err := testnet.StartPostgres(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	fmt.Println("testtable: server", pg.Version)
	return pg
}

// TestPostgresDump runs the commands that backup and restore name, as they name them.
func TestPostgresDump(t *testing.T) {
	pg := startPostgres(t)
	p := newProviders(t, "a.example")[0]
	dsn := pg.URL("postgres")
	p.usePostgres(dsn)
	p.start()
	const room = "mimi://a.example/r/room"
	alice := p.chat("alice", room)
	alice.do(console.Request{Do: "create", Text: "kept"})
	alice.event("joined", "mimi://a.example/u/alice")
	alice.do(console.Request{Do: "say", Text: "before"})
	alice.text("before")

	password := strings.SplitN(strings.SplitN(dsn, "@", 2)[0], ":", 3)[2]
	shell := func(text string) {
		t.Helper()
		cmd := exec.Command("bash", "-ec", text)
		cmd.Dir = p.dir
		cmd.Env = append(os.Environ(), "PGPASSWORD="+password, "MIMIBRIDGE_CONFIG="+p.config, "PATH="+filepath.Dir(p.bin)+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", text, err, out)
		}
	}
	// cure gives the lines of a cure that are commands.
	cure := func(args ...string) (commands string) {
		t.Helper()
		_, errs, status := p.run("", args...)
		if status != 1 || strings.Contains(errs, password) {
			t.Fatalf("%v: status %d: %s", args, status, errs)
		}
		for _, line := range strings.Split(errs, "\n") {
			line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "cure:"))
			if first, _, _ := strings.Cut(line, " "); first == "pg_dump" || first == "pg_restore" || first == "mimibridge" && !strings.Contains(line, ":") {
				commands += line + "\n"
			}
		}
		return commands
	}
	dump := filepath.Join(p.dir, "x.dump")
	shell(cure("backup", dump)) // while the daemon runs
	later := p.chat("alice", "mimi://a.example/r/later")
	later.do(console.Request{Do: "create"})
	later.event("joined", "mimi://a.example/u/alice")
	p.stop()
	commands := cure("restore", dump)
	if !strings.Contains(commands, "pg_restore") || !strings.Contains(commands, "mimibridge restore -loaded") {
		t.Fatalf("the commands are %q", commands)
	}
	shell(commands)
	p.start()
	for i := 0; !strings.Contains(p.logged(), "joining the room's group anew"); i++ { // what was sealed with its keys is from before
		if i > 1200 {
			t.Fatalf("the room is not joined anew: %s", p.logged())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if out := p.ok("room", "list"); !strings.Contains(out, room) || strings.Contains(out, "later") {
		t.Errorf("room list: %s", out)
	}
	p.ok("db", "verify")
}

// TestMoveToPostgres: a provider moves from SQLite with its rooms, users, consents and messages, goes on in PostgreSQL, and others notice
// nothing but that it joins anew. The adapters' databases move along: those of both networks are filled by hand.
func TestMoveToPostgres(t *testing.T) {
	pg := startPostgres(t)
	ps := newProviders(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	const own, theirs = "mimi://a.example/r/balcony", "mimi://b.example/r/garden"
	alice, bob := a.chat("alice", own), b.chat("bob", theirs)
	alice.do(console.Request{Do: "create", Text: "Balcony"})
	alice.event("joined", "mimi://a.example/u/alice")
	bob.do(console.Request{Do: "create"})
	bob.event("joined", "mimi://b.example/u/bob")
	bob.do(console.Request{Do: "invite", User: "alice@a.example"})
	bob.event("joined", "mimi://a.example/u/alice")
	alice.do(console.Request{Do: "say", Text: "before"})
	alice.text("before")
	a.ok("user", "consent", "alice", "policy", "everyone")
	for name, prepare := range map[string]func(context.Context, *sql.DB) error{"xmpp": xmpp.PrepareDB, "matrix": matrix.PrepareDB} {
		db, err := store.AdapterDB(t.Context(), store.Options{Path: filepath.Join(a.dir, "mimibridge.db")}, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := prepare(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		insert := map[string]string{
			"xmpp": `INSERT INTO xmpp_setting VALUES ('alice@a.example', 'receipts', 'off')`,
			"matrix": `INSERT INTO crypto_account (account_id, device_id, shared, sync_token, account) VALUES ('@bot:a.example', 'D', 1, '', x'0001ff');
				INSERT INTO crypto_olm_session VALUES ('@bot:a.example', 's', 'k', x'00', '2026-01-02 03:04:05', '2026-01-02 03:04:05', '2026-01-02 03:04:05')`,
		}[name]
		if _, err := db.Exec(insert); err != nil {
			t.Fatal(err)
		}
		db.Close()
	}
	file := filepath.Join(a.dir, "move.tar")
	a.ok("backup", file)
	a.stop()
	dsn := pg.URL("postgres")
	a.usePostgres(dsn)
	if out := a.ok("restore", file); !strings.Contains(out, "into PostgreSQL") {
		t.Errorf("restore: %s", out)
	}
	if _, errs, status := a.run("", "restore", file); status != 1 || !strings.Contains(errs, "goes into an empty one") {
		t.Errorf("again: status %d, %s", status, errs)
	}
	a.ok("db", "verify")
	a.start()
	if out := a.ok("room", "list"); !strings.Contains(out, own) || !strings.Contains(out, theirs) {
		t.Errorf("room list: %s", out)
	}
	if out := a.ok("user", "show", "alice"); !strings.Contains(out, "everyone") {
		t.Errorf("user show: %s", out)
	}
	if out := a.ok("user", "export", "alice"); !strings.Contains(out, "before") {
		t.Errorf("the export has no message: %s", out)
	}
	alice = a.chat("alice", theirs)
	alice.do(console.Request{Do: "say", Text: "from PostgreSQL"})
	bob.text("from PostgreSQL")
	bob.do(console.Request{Do: "say", Text: "to PostgreSQL"})
	alice.text("to PostgreSQL")
	for q, want := range map[string]string{
		`SELECT value FROM adapter_xmpp.xmpp_setting`:                                                     "off",
		`SELECT encode(account, 'hex') || ' ' || CAST(shared AS TEXT) FROM adapter_matrix.crypto_account`: "0001ff true",
		`SELECT to_char(created_at, 'YYYY-MM-DD HH24:MI:SS') FROM adapter_matrix.crypto_olm_session`:      "2026-01-02 03:04:05",
	} {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := conn.QueryRow(t.Context(), q).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q %v", q, got, err)
		}
		conn.Close(t.Context())
	}
}
