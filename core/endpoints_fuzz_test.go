package core_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// fuzzed are the endpoints that FuzzEndpoints has real requests to among its seeds.
var fuzzed = []string{"keyMaterial", "update", "submitMessage", "groupInfo", "notify", "requestConsent", "updateConsent", "identifierQuery", "reportAbuse"}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(b []byte) (int, error) { return w(b) }

// FuzzEndpoints: whatever a peer with a good certificate posts to any endpoint of a whole provider, nothing panics, and the answer is
// never that something failed within. It begins with what two providers really say to each other.
func FuzzEndpoints(f *testing.F) {
	n := emptyNetwork(f)
	a, b := n.provider("a.example"), n.provider("b.example")
	a.quiet, b.quiet = true, true
	var panicked atomic.Pointer[string] // also what was taken and is worked off later
	watch := zerolog.New(writerFunc(func(line []byte) (int, error) {
		if bytes.Contains(line, []byte("panic")) {
			s := string(line)
			panicked.Store(&s)
		}
		return len(line), nil
	})).Level(zerolog.ErrorLevel)
	var mu sync.Mutex
	type request struct {
		path string
		body []byte
	}
	came := map[string][]request{}
	for _, p := range []*provider{a, b} {
		p.people.Policy = "everyone"
		p.tune = func(c *core.Config) {
			c.Log = watch
			c.Federation.Limits.PeerRate = 1 << 30
			c.Federation.Recorder = func(direction, peer, path string, body []byte) {
				name, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
				mu.Lock()
				defer mu.Unlock()
				if p == a && direction == federation.DirectionIn && slices.Contains(fuzzed, name) && !strings.Contains(path, " ") && len(came[name]) < 6 {
					came[name] = append(came[name], request{path, slices.Clone(body)})
				}
			}
		}
		p.start()
	}
	ctx := context.Background()
	for i, p := range []*provider{a, b} { // a is the hub of the one room and a follower in the other
		other := []*provider{b, a}[i]
		room := p.openRoom("alice", "garden")
		p.invite(room, "alice", other.user("bob"))
		other.awaitJoined(room, other.user("bob"))
		p.say(room, "alice", "hello")
		other.say(room, "bob", "hello to you")
		ev := other.await(room, "hello", isText("hello"))
		p.await(room, "hello to you", isText("hello to you"))
		if err := other.mem.host.Report(ctx, other.user("bob"), room, ev.ID, "rude", ""); err != nil {
			f.Fatal(err)
		}
		open := true
		p.intake(adapter.Intent{Kind: adapter.SetPolicy, Room: room, Actor: p.user("alice"), Policy: &adapter.PolicyChange{Open: &open}})
		other.awaitKind(room, adapter.Policy, mimiuri.URI{})
		other.intake(adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: other.user("ben")})
		p.awaitJoined(room, other.user("ben"))
		p.consent(p.user("alice"), other.user("bob"), mimiuri.URI{}, adapter.AskConsent)
		p.consent(p.user("alice"), other.user("ben"), mimiuri.URI{}, adapter.GrantConsent)
		if _, err := p.mem.host.Find(ctx, p.user("alice"), other.domain, "nick", "bob"); err != nil {
			f.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		missing := slices.DeleteFunc(slices.Clone(fuzzed), func(name string) bool { return came[name] != nil })
		mu.Unlock()
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			f.Fatalf("nothing came to %v", missing)
		}
	}
	mu.Lock()
	for _, rs := range came {
		for _, r := range rs {
			f.Add(r.path, r.body)
		}
	}
	mu.Unlock()
	cert, err := n.certificate("b.example")
	if err != nil {
		f.Fatal(err)
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: n.roots, ServerName: "a.example", Certificates: []tls.Certificate{*cert}},
	}}
	f.Cleanup(client.CloseIdleConnections)
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		if len(body) > 1<<20 || !strings.HasPrefix(path, "/") {
			return
		}
		req, err := http.NewRequest("POST", "https://"+a.addr+path, bytes.NewReader(body))
		if err != nil {
			return // no URL
		}
		req.Header.Set("From", "mimi@b.example")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		switch resp.StatusCode {
		case 200, 201, 400, 403, 404, 405, 409, 413, 429, 503:
		default:
			t.Fatalf("status %d", resp.StatusCode)
		}
		if s := panicked.Load(); s != nil {
			t.Fatalf("something panicked: %s", *s)
		}
	})
}
