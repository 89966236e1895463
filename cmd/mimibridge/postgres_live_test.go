//go:build live

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/adapters/console"
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
