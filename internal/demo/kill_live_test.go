//go:build live

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// kills is how often a daemon is killed.
const kills = 50

// TestKill has two users of XMPP and two of Matrix talk while one of the daemons is killed with -9 again and again, at
// random moments. No Matrix event is lost or doubled. No message that was reflected to its XMPP sender is lost;
// one that was not is sent again by the client with the same origin id and appears once. Towards XMPP a stanza may come
// again after a crash, with the same id and stanza-id: distinct ones count. What comes from others comes in the
// hub's order. Afterwards both sides can still send, and their MLS states agree.
func TestKill(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	defer cancel()
	d, procs := startLive(t, ctx)
	if err := d.open(ctx); err != nil {
		t.Fatal(err)
	}
	k := &killing{t: t, d: d, stanzas: map[string]string{}}
	k.more(ctx, procs)

	var talkers, killer sync.WaitGroup
	over := make(chan struct{})
	for _, w := range []struct {
		name string
		say  func(ctx context.Context, text, id string) error
	}{
		{"romeo", k.viaXMPP(d.romeo)}, {"mercutio", k.viaXMPP(k.mercutio)},
		{"juliet", k.viaMatrix(d.juliet, d.portal)}, {"nurse", k.viaMatrix(k.nurse, k.nursePortal)},
	} {
		talkers.Add(1)
		go func() {
			defer talkers.Done()
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				case <-ctx.Done():
					return
				case <-time.After(time.Duration(20+rand.IntN(200)) * time.Millisecond):
				}
				text := fmt.Sprintf("%s says number %04d", w.name, i)
				if err := w.say(ctx, text, fmt.Sprintf("%s-%04d", w.name, i)); err != nil {
					t.Errorf("%s could not say number %d: %v", w.name, i, err)
					return
				}
				k.mu.Lock()
				k.said = append(k.said, text)
				k.mu.Unlock()
			}
		}()
	}
	killer.Add(1)
	go func() {
		defer killer.Done()
		defer close(over)
		for range kills {
			pause(ctx, 600)
			m := []*daemon{d.xmpp, d.matrix}[rand.IntN(2)]
			m.proc.Kill()
			pause(ctx, 300)
			if err := m.start(ctx, procs); err != nil {
				t.Errorf("starting %s again: %v", m.domain, err)
				return
			}
		}
	}()
	// Dendrite on SQLite can give up on a machine this busy. That is an outage like another: it is started again, and
	// nothing may be lost by it either.
	go func() {
		for ctx.Err() == nil && procs.Err() == nil {
			pause(ctx, 500)
			if !d.dendrite.Process().Running() && procs.Err() == nil {
				t.Logf("Dendrite ended by itself and is started again:\n%s", testnet.Tail(d.dendrite.LogPath(), 3))
				if err := d.dendrite.Start(procs); err != nil {
					t.Errorf("starting Dendrite again: %v", err)
					return
				}
			}
		}
	}()
	killer.Wait()
	talkers.Wait()
	if t.Failed() {
		return
	}

	// Both sides can still send.
	for name, say := range map[string]func(context.Context, string, string) error{"romeo": k.viaXMPP(d.romeo), "juliet": k.viaMatrix(d.juliet, d.portal)} {
		text := name + " says good night"
		if err := say(ctx, text, name+"-end"); err != nil {
			t.Fatal(err)
		}
		k.said = append(k.said, text)
	}
	k.judge(ctx)
	k.agree(ctx)
	t.Logf("%d daemons killed, %d lines said, each shown once to the other three", kills, len(k.said))
}

// startLive starts servers, daemons and the first two clients. They end with the test; then ends what is started with procs.
func startLive(t *testing.T, ctx context.Context) (d *demo, procs context.Context) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "mimibridge")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/mimibridge/mimibridge/cmd/mimibridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var printed bytes.Buffer
	d = &demo{Options: Options{Binary: binary, Out: &printed}, told: map[string]bool{}, progress: &testnet.Progress{W: &printed}, dir: dir}
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("%s", printed.String())
			for _, m := range []*daemon{d.xmpp, d.matrix} {
				if m != nil {
					t.Logf("the end of the log of %s:\n%s", m.domain, testnet.Tail(m.log, 30))
				}
			}
		}
	})
	procs, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.Cleanup(stop)
	if err := d.start(ctx, procs); err != nil {
		t.Fatal(err)
	}
	t.Logf("testtable: server %s", d.prosody.Version)
	t.Logf("testtable: server Dendrite %s", testnet.DendriteVersion)
	return d, procs
}

// killing is the conversation.
type killing struct {
	t        *testing.T
	d        *demo
	mercutio *testnet.SlixClient
	nurse    *testnet.NioClient
	// The nurse's room on Matrix: the same portal as juliet's.
	nursePortal string

	mu      sync.Mutex
	said    []string
	stanzas map[string]string
}

func pause(ctx context.Context, ms int) {
	select {
	case <-time.After(time.Duration(rand.IntN(ms)) * time.Millisecond):
	case <-ctx.Done():
	}
}

// more brings mercutio and the nurse in.
func (k *killing) more(ctx, procs context.Context) {
	t, d := k.t, k.d
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	k.mercutio, err = testnet.StartSlix(procs, d.prosody.C2S, "mercutio@"+xmppDomain, romeoPassword, d.ca.File())
	must(err)
	t.Cleanup(k.mercutio.Stop)
	k.nurse, err = testnet.StartNio(procs, d.dendrite.URL, "nurse", julietPassword)
	must(err)
	t.Cleanup(k.nurse.Stop)
	must(d.romeo.Invite(ctx, romeoRoom, "mercutio@"+xmppDomain, ""))
	_, err = k.mercutio.Wait(ctx, func(e testnet.SlixEvent) bool { return e.Kind == "message" && e.Invite != nil })
	must(err)
	_, err = k.mercutio.Join(ctx, romeoRoom, "mercutio")
	must(err)
	must(d.romeo.Invite(ctx, romeoRoom, "nurse%"+matrixDomain+"@"+gatewayDomain, ""))
	k.nursePortal, err = k.nurse.WaitInvite(ctx, "")
	must(err)
	must(k.nurse.Join(ctx, k.nursePortal))
	if k.nursePortal != d.portal {
		t.Fatalf("the nurse was invited to %s, juliet is in %s", k.nursePortal, d.portal)
	}
}

// viaXMPP sends until the room has reflected the message, the same id each time.
func (k *killing) viaXMPP(c *testnet.SlixClient) func(context.Context, string, string) error {
	return func(ctx context.Context, text, id string) error {
		back := func(e testnet.SlixEvent) bool {
			return e.Kind == "message" && e.Type == "groupchat" && e.Bare() == romeoRoom && e.ID == id && e.Body == text
		}
		mark := c.Mark()
		for ctx.Err() == nil {
			attempt := c.Mark()
			if err := c.Say(ctx, romeoRoom, text, id); err != nil {
				return err
			}
			wait, cancel := context.WithTimeout(ctx, 3*time.Second)
			_, err := c.WaitSince(wait, attempt, func(e testnet.SlixEvent) bool {
				return back(e) || e.Kind == "message" && e.Type == "error" && e.ID == id
			})
			cancel()
			if err == nil && slices.ContainsFunc(c.Events()[mark:], back) {
				return nil
			}
			pause(ctx, 200)
		}
		return ctx.Err()
	}
}

// viaMatrix sends to the homeserver, which keeps it for the adapter. One that says it has failed, as Dendrite does on a busy
// machine, is sent it again as apps do: with the same transaction.
func (k *killing) viaMatrix(c *testnet.NioClient, room string) func(context.Context, string, string) error {
	return func(ctx context.Context, text, id string) (err error) {
		for range 10 {
			if _, err = c.SendText(ctx, room, text, id); err == nil || ctx.Err() != nil {
				return err
			}
			pause(ctx, 500)
		}
		return err
	}
}

// seen is what somebody was shown: texts in order, those with an id seen before left out, and how often each text
// came under another id.
func (k *killing) seenByXMPP(c *testnet.SlixClient) (texts, ids []string) {
	known := map[string]bool{}
	for _, e := range c.Events() {
		if e.Kind == "message" && e.Type == "groupchat" && e.Bare() == romeoRoom && e.Body != "" && !known[e.StanzaID] {
			known[e.StanzaID] = true
			texts, ids = append(texts, e.Body), append(ids, e.StanzaID)
		}
	}
	return texts, ids
}

func (k *killing) seenByMatrix(c *testnet.NioClient, room string) (texts, ids []string) {
	known := map[string]bool{}
	for _, e := range c.Events() {
		ev := e.Event()
		if e.Kind == "timeline" && e.Room == room && ev.Type == "m.room.message" && !known[ev.ID] {
			known[ev.ID] = true
			texts, ids = append(texts, ev.Text()), append(ids, ev.ID)
		}
	}
	return texts, ids
}

// judge waits until everybody has everything, then looks for doubles and for the order.
func (k *killing) judge(ctx context.Context) {
	t, d := k.t, k.d
	want := slices.Sorted(slices.Values(k.said))
	for _, p := range []struct {
		name string
		seen func() ([]string, []string)
		xmpp bool
	}{
		{"romeo", func() ([]string, []string) { return k.seenByXMPP(d.romeo) }, true},
		{"mercutio", func() ([]string, []string) { return k.seenByXMPP(k.mercutio) }, true},
		{"juliet", func() ([]string, []string) { return k.seenByMatrix(d.juliet, d.portal) }, false},
		{"nurse", func() ([]string, []string) { return k.seenByMatrix(k.nurse, k.nursePortal) }, false},
	} {
		deadline := time.Now().Add(90 * time.Second)
		var texts, ids []string
		for {
			texts, ids = p.seen()
			if len(texts) >= len(want) || time.Now().After(deadline) || ctx.Err() != nil {
				break
			}
			pause(ctx, 400)
		}
		got := slices.Sorted(slices.Values(texts))
		if !slices.Equal(got, want) {
			t.Errorf("%s was shown %d lines of %d: missing %q, doubled or foreign %q", p.name, len(got), len(want), minus(want, got), minus(got, want))
			continue
		}
		// Each sender's lines in the order they were said, and the lines of the other network in the hub's.
		last := map[string]string{}
		times := k.hubTimes()
		var other []int64
		for i, text := range texts {
			name, _, _ := strings.Cut(text, " ")
			if text < last[name] && !strings.HasSuffix(text, "good night") {
				t.Errorf("%s was shown %q after %q", p.name, text, last[name])
			}
			last[name] = text
			fromXMPP := name == "romeo" || name == "mercutio"
			if fromXMPP != p.xmpp {
				id := ids[i]
				if ts, ok := times[k.idOf(id, text)]; ok {
					other = append(other, ts)
				} else {
					t.Errorf("%q, message %q, has no hub time", text, k.idOf(id, text))
				}
			}
		}
		if !slices.IsSorted(other) {
			t.Errorf("%s was shown the lines of the other network in another order than the hub's", p.name)
		}
	}
}

// idOf gives the MIMI message ID of a line: what XMPP users are shown it as.
func (k *killing) idOf(id, text string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.stanzas) == 0 {
		texts, ids := k.seenByXMPP(k.d.romeo)
		for i := range texts {
			k.stanzas[texts[i]] = ids[i]
		}
	}
	return k.stanzas[text]
}

// hubTimes reads from the daemons' logs when the hub accepted each message, in ms.
func (k *killing) hubTimes() map[string]int64 {
	times := map[string]int64{}
	for _, m := range []*daemon{k.d.xmpp, k.d.matrix} {
		b, err := os.ReadFile(m.log)
		if err != nil {
			k.t.Fatal(err)
		}
		for raw := range bytes.Lines(b) {
			var l struct {
				Event string `json:"event"`
				ID    string `json:"message_id"`
				TS    int64  `json:"ts"`
			}
			if json.Unmarshal(raw, &l) == nil && l.ID != "" && l.TS != 0 && (l.Event == "sent" || l.Event == "received") {
				times[l.ID] = l.TS
			}
		}
	}
	return times
}

func minus(a, b []string) (left []string) {
	n := map[string]int{}
	for _, s := range b {
		n[s]++
	}
	for _, s := range a {
		if n[s]--; n[s] < 0 {
			left = append(left, s)
		}
	}
	return left
}

// agree holds the daemons' MLS states against each other: epoch and a hash of its authenticator, as both log them.
func (k *killing) agree(ctx context.Context) {
	type state struct {
		Epoch         uint64
		Authenticator string
	}
	read := func(m *daemon) (s state) {
		b, err := os.ReadFile(m.log)
		if err != nil {
			k.t.Fatal(err)
		}
		for raw := range bytes.Lines(b) {
			var l struct {
				Event         string `json:"event"`
				Epoch         uint64 `json:"epoch"`
				Authenticator string `json:"authenticator"`
			}
			if json.Unmarshal(raw, &l) == nil && l.Event == "epoch" && l.Authenticator != "" {
				s = state{l.Epoch, l.Authenticator}
			}
		}
		return s
	}
	var x, m state
	for range 60 {
		x, m = read(k.d.xmpp), read(k.d.matrix)
		if x == m && x.Authenticator != "" {
			return
		}
		pause(ctx, 1000)
	}
	k.t.Errorf("the MLS states differ: %+v at %s, %+v at %s", x, xmppDomain, m, matrixDomain)
}
