package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/adapters/console"
	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/internal/admin"
)

// TestTwoDaemons: two providers without a network, the real binary, and their users at consoles.
func TestTwoDaemons(t *testing.T) {
	ps := newProviders(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	const room = "mimi://a.example/r/balcony"
	alice, bob := a.chat("alice", room), b.chat("bob", "")

	alice.do(console.Request{Do: "create", Text: "Balcony"})
	alice.event("joined", "mimi://a.example/u/alice")
	alice.do(console.Request{Do: "invite", User: "bob@b.example"})
	bob.event("joined", "mimi://b.example/u/bob")
	alice.event("joined", "mimi://b.example/u/bob")
	alice.do(console.Request{Do: "say", Text: "wherefore art thou", ID: "m1"})
	alice.do(console.Request{Do: "say", Text: "wherefore art thou", ID: "m1"}) // the same again is done once
	got := bob.text("wherefore art thou")
	if own := alice.text("wherefore art thou"); own.Own != "m1" || own.ID != got.ID || got.Sender != "mimi://a.example/u/alice" || got.Room != room {
		t.Errorf("alice has %+v, bob %+v", own, got)
	}
	bob.do(console.Request{Do: "reply", Room: room, To: got.ID, Text: "here"})
	if r := alice.text("here"); r.ReplyTo != got.ID {
		t.Errorf("the reply is %+v", r)
	}
	alice.do(console.Request{Do: "react", To: got.ID, Text: "🌹"})
	if r := bob.await("a reaction", func(l console.Line) bool { return l.Event == "reaction" }); r.Target != got.ID || len(r.Reactions) != 1 || r.Reactions[0] != "🌹" {
		t.Errorf("the reaction is %+v", r)
	}
	alice.do(console.Request{Do: "say", Room: "mimi://a.example/r/nowhere", Text: "x"})
	if l := alice.await("a refusal", func(l console.Line) bool { return l.Event == "error" }); !strings.Contains(l.Error, "not known here") {
		t.Errorf("refused with %q", l.Error)
	}

	t.Run("commands", func(t *testing.T) {
		if out := a.ok("room", "list"); !strings.Contains(out, room) || !strings.Contains(out, "hub") {
			t.Errorf("room list: %s", out)
		}
		if out := b.ok("room", "list"); !strings.Contains(out, room) || !strings.Contains(out, "follower") {
			t.Errorf("room list at b: %s", out)
		}
		if out := a.ok("room", "show", "balcony"); !strings.Contains(out, "Balcony") || !strings.Contains(out, "mimi://b.example/u/bob") {
			t.Errorf("room show: %s", out)
		}
		var members []admin.Member
		if err := json.Unmarshal([]byte(a.ok("room", "members", room, "--json")), &members); err != nil || len(members) != 2 {
			t.Errorf("room members: %v, %+v", err, members)
		}
		var peers []core.Peer
		if err := json.Unmarshal([]byte(a.ok("peer", "list", "-json")), &peers); err != nil || len(peers) != 1 || peers[0].Domain != "b.example" || peers[0].LastSuccess.IsZero() {
			t.Errorf("peer list: %v, %+v", err, peers)
		}
		if out := a.ok("peer", "check", "b.example"); !strings.Contains(out, "notify") || !strings.Contains(out, b.addr) {
			t.Errorf("peer check: %s", out)
		}
		if out := a.ok("status"); !strings.Contains(out, "ready for") || !strings.Contains(out, "kept here 1") {
			t.Errorf("status: %s", out)
		}
		if out := a.ok("user", "list"); out != "mimi://a.example/u/alice\n" {
			t.Errorf("user list: %s", out)
		}
		if out := a.ok("user", "show", "alice"); !strings.Contains(out, room) {
			t.Errorf("user show: %s", out)
		}
		for _, tc := range []struct {
			args   []string
			status int
			want   string
		}{
			{[]string{"room", "show", "mimi://a.example/r/none"}, 4, "no such room"},
			{[]string{"peer", "show", "c.example"}, 4, "peer check c.example"},
			{[]string{"room"}, 2, "members"},
			{[]string{"room", "shwo"}, 2, "members"},
			{[]string{"room", "show"}, 2, "an argument is missing"},
			{[]string{"queue", "drop", "peer", "b.example", room}, 4, "nothing waits"},
			{[]string{"status", "-socket", "/nowhere"}, 3, "no daemon is running"},
			{[]string{"user", "delete", "alice"}, 1, "-yes"},
		} {
			out, errs, status := a.run("", tc.args...)
			if status != tc.status || !strings.Contains(out+errs, tc.want) {
				t.Errorf("%v: status %d, %s%s", tc.args, status, out, errs)
			}
		}
		// A person's terminal, as a script.
		out, errs, status := a.run("/who\nhello from a pipe\n/nonsense\n", "chat", "-as", "alice", "-last", "0", room)
		if status != 0 || !strings.Contains(out, "<alice@a.example> hello from a pipe") || !strings.Contains(out, "bob@b.example") || !strings.Contains(out, `there is no "nonsense"`) {
			t.Errorf("chat: status %d, %s%s", status, out, errs)
		}
		bob.text("hello from a pipe")
	})

	t.Run("a peer that is down costs a queue", func(t *testing.T) {
		bob.in.Close()
		if status := b.stop(); status != 0 {
			t.Errorf("b stopped with status %d: %s", status, b.logged())
		}
		alice.do(console.Request{Do: "say", Text: "are you there"})
		alice.text("are you there")
		var queues []core.Queue
		for range 200 {
			if err := json.Unmarshal([]byte(a.ok("queue", "list", "-json")), &queues); err != nil {
				t.Fatal(err)
			}
			out, _, _ := a.run("", "peer", "show", "b.example")
			if len(queues) == 1 && strings.Contains(out, "not reached") {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if len(queues) != 1 || queues[0].Kind != "peer" || queues[0].Target != "b.example" || queues[0].N != 1 {
			t.Errorf("queues: %+v", queues)
		}
		_, metrics := a.get("/metrics", "hunter2")
		for _, want := range []string{`mimibridge_queue_length{kind="peer",target="b.example"} 1`, `mimibridge_peer_failing{peer="b.example"} 1`, `mimibridge_rooms{role="hub",status="open"} 1`} {
			if !strings.Contains(metrics, want+"\n") {
				t.Errorf("metrics lack %s:\n%s", want, metrics)
			}
		}
		b.start()
		bob = b.chat("bob", room)
		a.ok("queue", "retry", "b.example")
		bob.text("are you there")
	})

	bob.do(console.Request{Do: "leave"})
	alice.event("left", "mimi://b.example/u/bob")
}

// TestRoomLifeByConsole: roles, bans, metadata, open rooms and the end of a room, between two daemons.
func TestRoomLifeByConsole(t *testing.T) {
	ps := newProviders(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	const room = "mimi://a.example/r/hall"
	const bobURI = "mimi://b.example/u/bob"
	alice, bob := a.chat("alice", room), b.chat("bob", room)
	alice.do(console.Request{Do: "create", Text: "Hall", Preset: "moderated"})
	alice.event("joined", "mimi://a.example/u/alice")
	bob.do(console.Request{Do: "join"})
	bob.await("a refusal: the room is not open", func(l console.Line) bool { return l.Event == "refused" })
	alice.do(console.Request{Do: "invite", User: bobURI})
	bob.event("joined", bobURI)
	alice.event("joined", bobURI)

	alice.do(console.Request{Do: "subject", Text: "masks"})
	bob.event("metadata", "")
	bob.do(console.Request{Do: "kick", User: "alice@a.example"})
	bob.await("a refusal: no right to", func(l console.Line) bool { return l.Event == "refused" && l.User == "mimi://a.example/u/alice" })
	alice.do(console.Request{Do: "role", User: bobURI, Role: "Speaker"})
	bob.event("role", bobURI)
	bob.do(console.Request{Do: "say", Text: "villain"})
	insult := alice.text("villain")
	if out := a.ok("room", "show", room); !strings.Contains(out, "masks") {
		t.Errorf("room show: %s", out)
	}
	alice.do(console.Request{Do: "role", User: bobURI, Role: "emperor"})
	if l := alice.await("an error", func(l console.Line) bool { return l.Event == "error" }); !strings.Contains(l.Error, "there are") {
		t.Errorf("an unknown role: %q", l.Error)
	}
	alice.do(console.Request{Do: "ban", User: bobURI, Reason: "a Montague"})
	bob.event("left", bobURI)
	alice.event("banned", bobURI)
	if out := a.ok("room", "members", room); !strings.Contains(out, "banned") {
		t.Errorf("room members: %s", out)
	}
	alice.do(console.Request{Do: "invite", User: bobURI, ID: "again"})
	alice.await("a refusal: banned", func(l console.Line) bool { return l.Event == "refused" && l.Own == "again" })
	alice.do(console.Request{Do: "unban", User: bobURI})
	alice.event("unbanned", bobURI)
	n := len(bob.seen)
	alice.do(console.Request{Do: "invite", User: bobURI, ID: "third"})
	alice.await("the third invitation", func(l console.Line) bool { return l.Event == "joined" && l.Own == "third" })
	bob.seen = bob.seen[n:]
	bob.event("joined", bobURI)
	alice.do(console.Request{Do: "report", To: insult.ID, Text: "he did"})
	var reports []admin.Report
	for i := 0; len(reports) == 0 && i < 600; i++ {
		if err := json.Unmarshal([]byte(a.ok("report", "list", "-json")), &reports); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(reports) != 1 || reports[0].Abuser != bobURI || len(reports[0].Messages) != 1 || reports[0].Messages[0].Text != "villain" {
		t.Fatalf("reports: %+v", reports)
	}
	if out := a.ok("report", "show", reports[0].ID[:8]); !strings.Contains(out, "villain") || !strings.Contains(out, "he did") {
		t.Errorf("report show: %s", out)
	}
	a.ok("report", "drop", reports[0].ID)
	if _, _, status := a.run("", "report", "show", reports[0].ID); status != 4 {
		t.Errorf("a report that was dropped: status %d", status)
	}

	if _, _, status := a.run("", "room", "destroy", room); status != 1 {
		t.Errorf("room destroy without -yes: status %d", status)
	}
	a.ok("room", "destroy", "-yes", room)
	bob.await("the end", func(l console.Line) bool { return l.Event == "closed" || l.Event == "left" && l.User == bobURI })
	alice.await("the end", func(l console.Line) bool {
		return l.Event == "closed" || l.Event == "left" && l.User == "mimi://a.example/u/alice"
	})
}

// TestPeerRules: a peer that is denied, by a command or by a configuration that is read again, is neither served nor asked.
func TestPeerRules(t *testing.T) {
	ps := newProviders(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	const room = "mimi://a.example/r/room"
	alice, bob := a.chat("alice", room), b.chat("bob", room)
	alice.do(console.Request{Do: "create"})
	alice.event("joined", "mimi://a.example/u/alice")
	alice.do(console.Request{Do: "invite", User: "bob@b.example"})
	bob.event("joined", "mimi://b.example/u/bob")

	a.ok("peer", "deny", "b.example")
	if out := a.ok("peer", "rules"); !strings.Contains(out, "b.example") || !strings.Contains(out, "denied") {
		t.Errorf("peer rules: %s", out)
	}
	if _, errs, status := a.run("", "peer", "check", "b.example"); status != 1 {
		t.Errorf("a denied peer is asked: %s", errs)
	}
	a.ok("peer", "forget", "b.example")
	a.ok("peer", "check", "b.example")

	text, err := os.ReadFile(a.config)
	if err != nil {
		t.Fatal(err)
	}
	a.write("mimibridge.yaml", strings.Replace(string(text), "federation:\n", "federation:\n  deny: [b.example]\n", 1)+"limits: {rooms: 7}\n")
	if out := a.ok("config", "reload"); !strings.Contains(out, "in force now     federation.deny") || !strings.Contains(out, "in force now     limits.rooms") {
		t.Errorf("reload: %s", out)
	}
	if _, _, status := a.run("", "peer", "check", "b.example"); status != 1 {
		t.Error("a peer that the new configuration denies is asked")
	}
	a.write("mimibridge.yaml", string(text))
	a.ok("config", "reload")
	a.ok("peer", "check", "b.example")

	a.ok("block", "add", "mimi://b.example/u/bob")
	if out := a.ok("block", "list"); out != "mimi://b.example/u/bob\n" {
		t.Errorf("block list: %s", out)
	}
	bob.do(console.Request{Do: "say", Text: "let me in", ID: "blocked"})
	bob.await("a refusal", func(l console.Line) bool { return l.Event == "refused" && l.Own == "blocked" })
	a.ok("block", "drop", "mimi://b.example/u/bob")
	bob.do(console.Request{Do: "say", Text: "thank you"})
	alice.text("thank you")
}

// TestSocketAndListener: what the admin socket and the listener give, and to whom.
func TestSocketAndListener(t *testing.T) {
	p := newProviders(t, "a.example")[0].start()
	socket := filepath.Join(p.dir, "mimibridge.sock")
	fi, err := os.Stat(socket)
	if err != nil || fi.Mode().Perm() != 0o600 || fi.Mode().Type() != os.ModeSocket {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	for _, tc := range []struct {
		method, path, token, body string
		status                    int
		want                      string
	}{
		{"GET", "/healthz", "", "", 200, "ok"},
		{"GET", "/readyz", "", "", 200, "ok"},
		{"GET", "/_matrix/mau/live", "", "", 200, "ok"},
		{"GET", "/_matrix/mau/ready", "", "", 200, "ok"},
		{"GET", "/metrics", "", "", 401, ""},
		{"GET", "/metrics", "hunter3", "", 401, ""},
		{"GET", "/metrics", "hunter2", "", 200, "mimibridge_ready 1\n"},
		{"GET", "/v1/status", "hunter2", "", 404, ""},
		{"GET", "/v1/console/events", "hunter2", "", 404, ""},
		{"POST", "/hooks/delete-account", "", `{"user": "x@a.example"}`, 401, ""},
		{"GET", "/hooks/delete-account", "hunter2", "", 405, ""},
		{"POST", "/hooks/delete-account", "hunter2", `{"user": "no address"}`, 400, "no user"},
		{"POST", "/hooks/delete-account", "hunter2", `nonsense`, 400, ""},
		{"POST", "/hooks/delete-account", "hunter3", `{"user": "nobody@a.example"}`, 401, ""},
		{"POST", "/hooks/delete-account", "hunter2", `{"user": "nobody@a.example"}`, 202, ""},
	} {
		t.Run(fmt.Sprintf("%s %s %q", tc.method, tc.path, tc.token), func(t *testing.T) {
			status, body := p.http(tc.method, tc.path, tc.token, tc.body)
			if status != tc.status || !strings.Contains(body, tc.want) {
				t.Errorf("status %d: %s", status, body)
			}
		})
	}
	t.Run("a second daemon on the same files", func(t *testing.T) {
		_, errs, status := p.run("", "run", "-c", p.config)
		if status != 1 || errs == "" {
			t.Errorf("status %d: %s", status, errs)
		}
		p.ok("health")
	})
	t.Run("SIGHUP", func(t *testing.T) {
		b, err := os.ReadFile(p.config)
		if err != nil {
			t.Fatal(err)
		}
		next := strings.Replace(string(b), "log: {format: json}", "log: {format: json, level: debug}\npermissions: {\"*\": user}", 1)
		next = strings.Replace(next, "federation:\n  listen: ", "federation:\n  listen: \"127.0.0.1:1\"\n  #", 1)
		p.write("mimibridge.yaml", next)
		_ = p.cmd.Process.Signal(syscall.SIGHUP)
		for i := 0; ; i++ {
			if strings.Contains(p.logged(), `"changed":["log.level","permissions.*"`) && strings.Contains(p.logged(), `"needs_restart":["federation.listen"]`) {
				break
			}
			if i > 1200 {
				t.Fatalf("the log says: %s", p.logged())
			}
			time.Sleep(50 * time.Millisecond)
		}
		out := p.ok("config", "show", "-running")
		if !strings.Contains(out, "debug") || strings.Contains(out, "127.0.0.1:1 ") || strings.Contains(out, "hunter2") || !strings.Contains(out, "mimibridge.yaml:") {
			t.Errorf("config show: %s", out)
		}
		p.write("mimibridge.yaml", "domain: [\n")
		_, errs, status := p.run("", "config", "reload", "-socket", socket)
		if status != 1 || !strings.Contains(errs, "mimibridge.yaml") {
			t.Errorf("a broken file: status %d, %s", status, errs)
		}
		p.write("mimibridge.yaml", string(b))
		if out := p.ok("config", "reload"); !strings.Contains(out, "log.level") {
			t.Errorf("back: %s", out)
		}
	})
	if status := p.stop(); status != 0 {
		t.Errorf("stopped with status %d: %s", status, p.logged())
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket file is left behind")
	}
	t.Run("after a crash", func(t *testing.T) {
		p.start()
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
		if _, errs, status := p.run("", "status"); status != 3 || !strings.Contains(errs, "mimibridge run") {
			t.Errorf("status %d: %s", status, errs)
		}
		p.start()
	})
}
