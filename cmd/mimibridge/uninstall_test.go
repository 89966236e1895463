package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/adapters/console"
)

// background is a command that may take long.
type background struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func (p *provider) background(args ...string) *background {
	p.t.Helper()
	b := &background{cmd: exec.Command(p.bin, args...)}
	b.cmd.Env = append(os.Environ(), "MIMIBRIDGE_CONFIG="+p.config)
	b.cmd.Stdout = &b.out
	b.cmd.Stderr = &b.out
	if err := b.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	return b
}

// TestUninstall: a dry run, a question, a run that is interrupted while somebody cannot be told, a crash, and the rest; then no file is left but
// those that are said.
func TestUninstall(t *testing.T) {
	ps := newProviders(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	const own, theirs = "mimi://a.example/r/balcony", "mimi://b.example/r/garden"
	const aliceURI, bobURI = "mimi://a.example/u/alice", "mimi://b.example/u/bob"
	alice, bob := a.chat("alice", own), b.chat("bob", theirs)
	alice.do(console.Request{Do: "create"})
	alice.event("joined", aliceURI)
	bob.do(console.Request{Do: "create"})
	bob.event("joined", bobURI)
	bob.do(console.Request{Do: "invite", User: "alice@a.example"})
	bob.event("joined", aliceURI)
	carol := b.chat("carol", own)
	alice.do(console.Request{Do: "invite", User: "carol@b.example"})
	carol.event("joined", "mimi://b.example/u/carol")
	asset := filepath.Join(a.dir, "mimibridge-assets", strings.Repeat("ab", 20))
	if err := os.WriteFile(asset, []byte("a picture"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.write("notes.txt", "the admin's own")

	out := a.ok("uninstall", "-n")
	for _, want := range []string{"close the room " + own + ", telling b.example", "leave the room " + theirs, "remove the user " + aliceURI, "remove " + asset, filepath.Join(a.dir, "mimibridge.db"), "Left to do by hand", "sealing.key"} {
		if !strings.Contains(out, want) {
			t.Errorf("uninstall -n does not say %q: %s", want, out)
		}
	}
	if _, errs, status := a.run("", "uninstall"); status != 1 || !strings.Contains(errs, "-yes") {
		t.Errorf("without -yes: status %d, %s", status, errs)
	}
	if _, errs, status := a.run("", "uninstall", "-files", "-yes"); status != 1 || !strings.Contains(errs, "the daemon runs") {
		t.Errorf("-files beside a daemon: status %d, %s", status, errs)
	}
	alice.do(console.Request{Do: "say", Text: "still here"})
	carol.text("still here")

	b.stop()
	run := a.background("uninstall", "-yes")
	for i := 0; !strings.Contains(a.logged(), "closing the room"); i++ {
		if i > 1200 {
			t.Fatalf("it does not begin: %s", a.logged())
		}
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(2 * time.Second) // into the waiting
	_ = run.cmd.Process.Signal(syscall.SIGINT)
	_ = run.cmd.Wait()
	if text := run.out.String(); run.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(text, "waiting for") || !strings.Contains(text, "-give-up") {
		t.Errorf("interrupted: %s", text)
	}
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
	a.cmd = nil
	if _, errs, status := a.run("", "uninstall", "-yes"); status != 3 || !strings.Contains(errs, "mimibridge run") {
		t.Errorf("without the daemon: status %d, %s", status, errs)
	}
	a.start()
	b.start()
	bob, carol = b.chat("bob", theirs), b.chat("carol", own)
	run = a.background("uninstall") // it has been asked for already
	bob.event("left", aliceURI)
	carol.await("the end of the room", func(l console.Line) bool {
		return l.Event == "closed" || l.Event == "left" && l.User == "mimi://b.example/u/carol"
	})
	if err := run.cmd.Wait(); err != nil || !strings.Contains(run.out.String(), "removed "+asset) || !strings.Contains(run.out.String(), "nothing is left but files") {
		t.Errorf("%v: %s", err, run.out.String())
	}
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("the daemon ended with %v: %s", err, a.logged())
	}
	a.cmd = nil
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	left := []string{}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if strings.Join(left, " ") != "mimibridge.yaml notes.txt sealing.key" {
		t.Errorf("left: %q", left)
	}
	if out := a.ok("uninstall"); !strings.Contains(out, "Left to do by hand") {
		t.Errorf("again: %s", out)
	}
}

// TestUninstalledDoesNotRun: what is left of a provider that has gone is only removed; and a database whose daemon cannot run is removed without
// telling anybody.
func TestUninstalledDoesNotRun(t *testing.T) {
	p := newProviders(t, "a.example")[0].start()
	alice := p.chat("alice", "room")
	alice.do(console.Request{Do: "create"})
	alice.event("joined", "mimi://a.example/u/alice")
	// The daemon's part only: the command is killed before it removes files.
	run := p.background("uninstall", "-yes")
	for i := 0; !strings.Contains(p.logged(), "nothing is left but files"); i++ {
		if i > 1200 {
			t.Fatalf("it does not end: %s", p.logged())
		}
		_ = run.cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(50 * time.Millisecond)
		if !strings.Contains(p.logged(), "closing the room") {
			_ = run.cmd.Process.Signal(syscall.SIGCONT)
		}
	}
	_ = run.cmd.Process.Kill()
	_ = run.cmd.Wait()
	p.stop()
	if _, errs, status := p.run("", "run"); status != 1 || !strings.Contains(errs, "was uninstalled") || !strings.Contains(errs, "mimibridge uninstall") {
		t.Errorf("status %d: %s", status, errs)
	}
	if out := p.ok("uninstall"); !strings.Contains(out, "removed "+filepath.Join(p.dir, "mimibridge.db")) {
		t.Errorf("%s", out)
	}

	p.start() // anew
	p.stop()
	if out := p.ok("uninstall", "-files", "-yes"); !strings.Contains(out, "removed "+filepath.Join(p.dir, "mimibridge.db")) {
		t.Errorf("%s", out)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "mimibridge.db")); err == nil {
		t.Error("the database is still there")
	}
}

// TestDeleteAccountHook: what a chat server sends when an account is deleted, for its address on either network; again is no error.
func TestDeleteAccountHook(t *testing.T) {
	ps := newProviders(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	const room, aliceURI = "mimi://b.example/r/garden", "mimi://a.example/u/alice"
	bob := b.chat("bob", room)
	a.chat("alice", "")
	bob.do(console.Request{Do: "create"})
	bob.event("joined", "mimi://b.example/u/bob")
	bob.do(console.Request{Do: "invite", User: "alice@a.example"})
	bob.event("joined", aliceURI)
	for _, id := range []string{"alice@a.example", "@alice:a.example"} {
		if status, body := a.http("POST", "/hooks/delete-account", "hunter2", `{"user": "`+id+`"}`); status != 202 {
			t.Errorf("%s: %d %s", id, status, body)
		}
	}
	bob.event("left", aliceURI)
	for i := 0; strings.Contains(a.ok("user", "list"), "alice"); i++ {
		if i > 600 {
			t.Fatalf("alice is still there: %s", a.logged())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestForget: who is forgotten is gone when the command ends.
func TestForget(t *testing.T) {
	p := newProviders(t, "a.example")[0].start()
	alice := p.chat("alice", "room")
	alice.do(console.Request{Do: "create"})
	alice.event("joined", "mimi://a.example/u/alice")
	if _, errs, status := p.run("", "user", "forget", "alice"); status != 1 || !strings.Contains(errs, "-yes") {
		t.Errorf("without -yes: status %d, %s", status, errs)
	}
	p.ok("user", "forget", "-yes", "alice@a.example")
	if out := p.ok("user", "list"); strings.Contains(out, "alice") {
		t.Errorf("user list: %s", out)
	}
	if out := p.ok("user", "export", "alice"); strings.Contains(out, "room/") || strings.Contains(out, `"client"`) {
		t.Errorf("user export: %s", out)
	}
}
