//go:build live

package matrix

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// world is a real homeserver with this adapter, a provider in memory behind it, and real clients.
type world struct {
	t   testing.TB
	ctx context.Context
	hs  *testnet.Homeserver
	cfg Config
	reg *Registration
	tw  *twin

	stop func()
}

func newWorld(t testing.TB) *world { return newWorldWith(t, func(*Config) {}) }

// newWorldWith is newWorld with another configuration.
func newWorldWith(t testing.TB, change func(*Config)) *world {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	if err := testnet.CheckNio(ctx); err != nil {
		t.Fatal(err)
	}
	// The same tests run against either homeserver; see synapse_live_test.go.
	build, start, name := testnet.BuildDendrite, testnet.StartDendrite, "Dendrite "+testnet.DendriteVersion
	if strings.HasPrefix(t.Name(), "TestSynapse/") || strings.HasPrefix(t.Name(), "Benchmark") && !strings.HasSuffix(t.Name(), "/Dendrite") {
		build, start, name = testnet.BuildSynapse, testnet.StartSynapse, "Synapse "+testnet.SynapseVersion
	}
	if _, err := build(ctx, &testnet.Progress{W: os.Stderr}); err != nil {
		t.Fatal(err)
	}
	t.Log("testtable: server " + name)
	return newWorldOn(t, start, testnet.HomeserverOptions{ServerName: server}, change)
}

// newWorldOn is a world on a homeserver of one's own.
func newWorldOn(t testing.TB, start func(context.Context, testnet.HomeserverOptions) (*testnet.Homeserver, error), o testnet.HomeserverOptions, change func(*Config)) *world {
	limit := patience
	if strings.HasPrefix(t.Name(), "Benchmark") && !strings.HasSuffix(t.Name(), "/Dendrite") {
		limit = 20 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	ports, err := testnet.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: ctx, tw: newTwin(t)}
	w.cfg = Config{Notices: true, ServerName: o.ServerName, Listen: testnet.Loopback(ports[0]), Registration: filepath.Join(t.TempDir(), "registration.yaml")}
	if w.reg, err = NewRegistration(w.cfg.Registration, "http://"+w.cfg.Listen, o.ServerName); err != nil {
		t.Fatal(err)
	}
	o.Registrations = []string{w.cfg.Registration}
	if w.hs, err = start(ctx, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.hs.Stop)
	w.cfg.Homeserver = w.hs.URL
	change(&w.cfg)
	w.start()
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("adapter's log:\n%s", w.tw.logs)
			t.Logf("homeserver's log:\n%s", testnet.Tail(w.hs.LogPath(), 20))
		}
	})
	return w
}

// start runs a new adapter, as a new process would, on the database there is.
func (w *world) start() {
	w.t.Helper()
	a, err := New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, w.tw) }()
	w.tw.mu.Lock()
	w.tw.adapter = a
	w.tw.wake.Broadcast()
	w.tw.mu.Unlock()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		w.tw.mu.Lock()
		w.tw.adapter = nil
		w.tw.mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	}
	if err := testnet.WaitPort(w.ctx, w.cfg.Listen); err != nil {
		w.t.Fatal(err)
	}
}

// user creates a local user and logs a client in.
func (w *world) user(name string) *testnet.NioClient {
	w.t.Helper()
	if err := w.hs.CreateUser(w.ctx, name, "secret-of-"+name); err != nil {
		w.t.Fatal(err)
	}
	c, err := testnet.StartNio(w.ctx, w.hs.URL, name, "secret-of-"+name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Stop)
	return c
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// invited waits until the client is invited and joins.
func (w *world) accept(c *testnet.NioClient) (room string) {
	w.t.Helper()
	room, err := c.WaitInvite(w.ctx, "")
	w.must(err)
	w.must(c.Join(w.ctx, room))
	return room
}

// membership waits for somebody's membership to become this.
func (w *world) membership(c *testnet.NioClient, room, user, want string) testnet.MatrixEvent {
	w.t.Helper()
	ev, err := c.WaitEvent(w.ctx, room, func(e testnet.MatrixEvent) bool {
		return e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == user && e.String("membership") == want
	})
	if err != nil {
		w.t.Fatalf("%s does not become %s: %v", user, want, err)
	}
	return ev
}

// notice waits for a notice in reply to an event.
func (w *world) notice(c *testnet.NioClient, room, replyTo, contains string) testnet.MatrixEvent {
	w.t.Helper()
	ev, err := c.WaitEvent(w.ctx, room, func(e testnet.MatrixEvent) bool {
		return e.String("msgtype") == "m.notice" && repliesTo(e) == replyTo && strings.Contains(e.Text(), contains)
	})
	if err != nil {
		w.t.Fatalf("no notice %q in reply to %s: %v", contains, replyTo, err)
	}
	return ev
}

func repliesTo(e testnet.MatrixEvent) string {
	rel, _ := e.Content["m.relates_to"].(map[string]any)
	in, _ := rel["m.in_reply_to"].(map[string]any)
	s, _ := in["event_id"].(string)
	return s
}

func (w *world) bot() string { return "@" + w.reg.SenderLocalpart + ":" + w.cfg.ServerName }

// texts is what a client sees of the people's messages in a room: "sender: text", in order.
func (w *world) texts(c *testnet.NioClient, room string) (out []string) {
	w.t.Helper()
	events, err := c.Messages(w.ctx, room)
	w.must(err)
	for _, e := range events {
		if e.Type == "m.room.message" && e.String("msgtype") != "m.notice" {
			out = append(out, e.Sender+": "+e.Text())
		}
	}
	return out
}

func (w *world) must2(_ string, err error) {
	w.t.Helper()
	w.must(err)
}

func containsFold(s, sub string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(sub))
}

func (w *world) bridge() *bridge {
	w.tw.mu.Lock()
	defer w.tw.mu.Unlock()
	return w.tw.adapter.(*Adapter).current.Load()
}

// waitFor looks again until cond is true.
func (w *world) waitFor(what string, cond func() bool) {
	w.t.Helper()
	for !cond() {
		select {
		case <-w.ctx.Done():
			w.t.Fatalf("%s: %v", what, w.ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *world) adapter() adapter.Adapter {
	w.tw.mu.Lock()
	defer w.tw.mu.Unlock()
	return w.tw.adapter
}

// reopen closes and opens the database, as the end of a process does.
func (w *world) reopen() {
	w.t.Helper()
	w.must(w.tw.db.Close())
	w.tw.openDB(w.tw.path)
}

// downloaded is the file behind an mxc URI, as a client gets it.
func (w *world) downloaded(c *testnet.NioClient, mxc string) []byte {
	w.t.Helper()
	var resp struct {
		Data []byte `json:"data"`
	}
	w.must(c.Do(w.ctx, "download", map[string]any{"mxc": mxc}, &resp))
	return resp.Data
}
