package matrix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
)

// TestDeliverFaults: whatever goes wrong once while a message is sent, the kind of error says whether to try again, and
// the message is shown exactly once.
func TestDeliverFaults(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault stubFault
		kind  fault.Kind
		after time.Duration // RetryAfter
	}{
		{"429 with retry_after_ms", stubFault{status: 429, body: `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":120}`}, fault.Limited, 120 * time.Millisecond},
		{"429 with Retry-After", stubFault{status: 429, body: `{}`, header: [2]string{"Retry-After", "1"}}, fault.Limited, time.Second},
		{"429 with nonsense", stubFault{status: 429, body: `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":-5}`, header: [2]string{"Retry-After", "soon"}}, fault.Limited, 0},
		{"500", stubFault{status: 500, body: `{"errcode":"M_UNKNOWN","error":"oops"}`}, fault.Unavailable, 0},
		{"500 after it was done", stubFault{after: true, status: 500, body: `oops`}, fault.Unavailable, 0},
		{"502 of a proxy", stubFault{status: 502, body: `<html>`}, fault.Unavailable, 0},
		{"503 with Retry-After", stubFault{status: 503, body: ``, header: [2]string{"Retry-After", "1"}}, fault.Unavailable, time.Second},
		{"404 of a proxy", stubFault{status: 404, body: `<html>not found`}, fault.Unavailable, 0},
		{"unknown token", stubFault{status: 401, body: `{"errcode":"M_UNKNOWN_TOKEN"}`}, fault.Unavailable, 0},
		{"a connection that breaks off before", stubFault{}, fault.Unavailable, 0},
		{"a connection that breaks off after it was done", stubFault{after: true}, fault.Unavailable, 0},
		{"no answer in time", stubFault{wait: 1500 * time.Millisecond}, fault.Unavailable, 0},
		{"no answer in time, though it was done", stubFault{after: true, wait: 1500 * time.Millisecond}, fault.Unavailable, 0},
		{"an answer that is no JSON", stubFault{after: true, status: 200, body: `<html>`}, fault.Unavailable, 0},
		{"an answer without an event ID", stubFault{after: true, status: 200, body: `{}`}, fault.Unavailable, 0},
		{"a redirect to nowhere", stubFault{status: 302, body: ``}, fault.Unavailable, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			room, mx := s.portal()
			s.tw.say(room, romeo, "before")
			s.tw.settled(s.ctx)
			var hit atomic.Int32
			got := make(chan error, 100)
			s.tw.mu.Lock()
			s.tw.hook = func(_ adapter.Event, err error) { got <- err }
			s.tw.mu.Unlock()
			s.stub.setFault(func(op string, r *http.Request) *stubFault {
				if op == "send" && hit.Add(1) == 1 {
					return &tc.fault
				}
				return nil
			})
			s.tw.say(room, romeo, "now")
			s.tw.say(room, romeo, "after")
			err := <-got
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind != tc.kind || !fault.Temporary(err) || f.RetryAfter != tc.after {
				t.Errorf("the first try gave %v (%+v)", err, f)
			}
			s.tw.settled(s.ctx)
			want := []string{ghostOf(romeo) + ": before", ghostOf(romeo) + ": now", ghostOf(romeo) + ": after"}
			if got := s.stub.messages(mx); !slices.Equal(got, want) {
				t.Errorf("shown: %q, want %q", got, want)
			}
		})
	}
	t.Run("refused for good", func(t *testing.T) {
		s := newService(t)
		room, mx := s.portal()
		s.stub.setFault(func(op string, r *http.Request) *stubFault {
			if op == "send" {
				return &stubFault{status: 413, body: `{"errcode":"M_TOO_LARGE","error":"event too large"}`}
			}
			return nil
		})
		s.tw.say(room, romeo, "too large for this homeserver")
		s.tw.until(s.ctx, "it is given up", func() bool { return len(s.tw.failed) == 1 })
		for _, err := range s.tw.failed {
			if !fault.Is(err, fault.TooLarge) || strings.Contains(err.Error(), "too large for this homeserver") {
				t.Errorf("%v", err)
			}
		}
		clear(s.tw.failed)
		s.stub.setFault(nil)
		s.tw.say(room, romeo, "small")
		s.tw.settled(s.ctx)
		if got := s.stub.messages(mx); !slices.Equal(got, []string{ghostOf(romeo) + ": small"}) {
			t.Errorf("shown: %q", got)
		}
	})
}

// TestForgetfulHomeserver: the answer is lost, and by the next try the homeserver has forgotten the transaction.
func TestForgetfulHomeserver(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	var hit atomic.Int32
	s.stub.setFault(func(op string, r *http.Request) *stubFault {
		if op == "send" && hit.Add(1) == 1 {
			return &stubFault{after: true, status: 504}
		}
		if op == "messages" {
			clear(s.stub.rooms[mx].txns)
		}
		return nil
	})
	s.tw.say(room, romeo, "once")
	s.tw.settled(s.ctx)
	if got := s.stub.messages(mx); !slices.Equal(got, []string{ghostOf(romeo) + ": once"}) {
		t.Errorf("shown: %q", got)
	}
}

// TestPortalFaults breaks each request of making a portal and showing the first message once, before and after it
// was carried out.
func TestPortalFaults(t *testing.T) {
	ops := []string{"register", "profile", "createRoom", "join", "invite", "state GET", "messages", "send"}
	for _, op := range ops {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, done %v", op, after), func(t *testing.T) {
				t.Parallel()
				s := newService(t)
				var hit atomic.Int32
				// Every other request of the kind fails.
				s.stub.setFault(func(got string, r *http.Request) *stubFault {
					if got == op && hit.Add(1)%2 == 1 {
						return &stubFault{after: after, status: 503}
					}
					return nil
				})
				room := s.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo, mercutio)
				s.tw.add(room, romeo, local("juliet"))
				s.tw.say(room, mercutio, "hello")
				s.tw.settled(s.ctx)
				if hit.Load() == 0 {
					t.Fatal("no such request was made")
				}
				s.stub.mu.Lock()
				defer s.stub.mu.Unlock()
				if len(s.stub.rooms) != 1 {
					t.Fatalf("%d rooms", len(s.stub.rooms))
				}
				for _, r := range s.stub.rooms {
					if r.members["@juliet:"+server] != "invite" || r.members[ghostOf(romeo)] != "join" || r.members[ghostOf(mercutio)] != "join" || len(r.events) != 1 {
						t.Errorf("%+v", r)
					}
				}
			})
		}
	}
}

// TestIntakeFaults: an event waits while the provider or the homeserver cannot take what it asks for, others in its
// room wait behind it, other rooms do not.
func TestIntakeFaults(t *testing.T) {
	s := newService(t)
	room, mx := s.portal()
	other := s.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", romeo)
	s.tw.add(other, romeo, local("juliet"))
	s.tw.settled(s.ctx)
	p, _, err := s.a.(*Adapter).current.Load().st.portal(s.ctx, other)
	if err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int32
	s.tw.setReject(func(in adapter.Intent) error {
		if in.Room == room && tries.Add(1) < 4 {
			return errors.New("disk full") // unclassified is temporary
		}
		return nil
	})
	status, _ := s.do(http.MethodPut, txnPath+"1", transaction(text(mx, "$a", "a"), text(mx, "$b", "b"), text(string(p.room), "$c", "c")), nil)
	if status != 200 {
		t.Fatal(status)
	}
	s.tw.intent(s.ctx, "c", sends("c"))
	s.tw.intent(s.ctx, "b", sends("b"))
	if got := s.tw.textsOf(room); !slices.Equal(got, []string{"juliet: a", "juliet: b"}) {
		t.Errorf("heard %q", got)
	}
	t.Run("a panic is given up after three tries", func(t *testing.T) {
		var tries atomic.Int32
		s.tw.setReject(func(in adapter.Intent) error {
			if in.OriginID == "$boom" {
				tries.Add(1)
				s.tw.mu.Unlock() // Intake holds it, and would not let go
				defer s.tw.mu.Lock()
				panic("boom")
			}
			return nil
		})
		s.do(http.MethodPut, txnPath+"2", transaction(text(mx, "$boom", "boom"), text(mx, "$d", "d")), nil)
		s.tw.intent(s.ctx, "d", sends("d"))
		if tries.Load() != panics {
			t.Errorf("%d tries", tries.Load())
		}
	})
}

// TestGreeting: what the log says, with its cure, when the homeserver cannot be used, and that it is
// tried on.
func TestGreeting(t *testing.T) {
	for _, tc := range []struct {
		name   string
		break_ func(s *stub)
		mend   func(s *stub)
		says   []string
	}{
		{"the registration is not loaded", func(s *stub) { s.token = "another" }, nil, []string{"does not accept as_token", "app_service_config_files", "app_service_api.config_files", "restart it"}},
		{"another server name", func(s *stub) { s.bot = "@mimi_bot_1:elsewhere.example" }, nil, []string{"not for @mimi_bot_", "server_name"}},
		{"not a homeserver", func(s *stub) { s.versions = `<html>` }, func(s *stub) { s.versions = `{"versions":["v1.1"]}` }, []string{"network.matrix.homeserver"}},
		{"the ping does not arrive", func(s *stub) { s.ping = func() (int, string) { return 502, "M_CONNECTION_FAILED" } }, nil, []string{"must reach", "url in the registration file"}},
		{"the ping has the wrong token", func(s *stub) { s.ping = func() (int, string) { return 502, "M_BAD_STATUS" } }, nil, []string{"another hs_token", "the same file on both sides"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.stop()
			s.stub.mu.Lock()
			token, bot, versions := s.stub.token, s.stub.bot, s.stub.versions
			tc.break_(s.stub)
			s.stub.mu.Unlock()
			s.tw.logs.reset()
			s.start()
			wait := func(what string) {
				t.Helper()
				for !strings.Contains(s.tw.logs.String(), what) {
					select {
					case <-s.ctx.Done():
						t.Fatalf("the log does not say %q:\n%s", what, s.tw.logs)
					case <-time.After(10 * time.Millisecond):
					}
				}
			}
			for _, what := range tc.says {
				wait(what)
			}
			if strings.Contains(s.tw.logs.String(), "the homeserver knows this") {
				t.Error("it was content")
			}
			s.stub.mu.Lock()
			s.stub.token, s.stub.bot, s.stub.versions, s.stub.ping = token, bot, versions, nil
			s.stub.mu.Unlock()
			wait("the homeserver knows this application service")
			if strings.Contains(s.tw.logs.String(), s.reg.ASToken) || strings.Contains(s.tw.logs.String(), s.reg.HSToken) {
				t.Error("the log has a token")
			}
		})
	}
}

// TestRunErrors: what cannot get better by waiting ends Run.
func TestRunErrors(t *testing.T) {
	s := newService(t)
	other := s.cfg
	a, err := New(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(s.ctx, newTwin(t)); err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("a taken address: %v", err)
	}
	t.Run("a database of a newer version", func(t *testing.T) {
		tw := newTwin(t)
		if _, err := tw.db.Exec(`CREATE TABLE matrix_schema (version BIGINT NOT NULL, oldest_reader BIGINT NOT NULL); INSERT INTO matrix_schema VALUES (99, 99)`); err != nil {
			t.Fatal(err)
		}
		if err := a.Run(s.ctx, tw); err == nil || !strings.Contains(err.Error(), "update mimibridge") {
			t.Errorf("%v", err)
		}
	})
	t.Run("Deliver before Run waits", func(t *testing.T) {
		idle, err := New(other)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		if err := idle.Deliver(ctx, adapter.Event{}); !errors.Is(err, context.Canceled) || !fault.Temporary(err) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a homeserver that is down", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		s.stop()
		s.cfg.Homeserver = "http://" + addr
		s.start()
		if ok, err := s.a.LocalUser(s.ctx, mustURI(local("juliet"))); err == nil || !fault.Is(err, fault.Unavailable) {
			t.Errorf("LocalUser: %v, %v", ok, err)
		}
	})
}

func TestLocalUser(t *testing.T) {
	s := newService(t)
	s.tw.mu.Lock()
	s.tw.levels["@banned:"+server] = adapter.LevelNone
	s.tw.mu.Unlock()
	for uri, want := range map[string]bool{
		local("juliet"):                                true,
		local("nobody"):                                false,
		local("banned"):                                false,
		local("bob:other.net"):                         false,
		local("mimi_romeo=xmpp.example"):               false,
		local(s.reg.SenderLocalpart):                   false,
		"mimi://xmpp.example/u/romeo":                  false,
		"mimi://" + twinDomain + "/r/juliet":           false,
		"mimi://" + twinDomain + "/u/juliet:" + server: false,
	} {
		got, err := s.a.LocalUser(s.ctx, mustURI(uri))
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", uri, got, err)
		}
	}
}
