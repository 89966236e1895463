package federation_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/wire"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestPeople: consent and queries reach the other provider's port, whichever of the two path forms is used.
func TestPeople(t *testing.T) {
	n := newNetwork(t)
	a, b := n.start("a.example", nil), n.start("b.example", nil)
	request, grant := consent(wire.ConsentRequest, userB, userA), consent(wire.ConsentGrant, userA, userB)
	if err := b.client.RequestConsent(t.Context(), "b.example", "a.example", request); err != nil {
		t.Error(err)
	}
	if err := b.client.UpdateConsent(t.Context(), "b.example", "a.example", grant); err != nil {
		t.Error(err)
	}
	if got, err := b.client.IdentifierQuery(t.Context(), "b.example", "a.example", []byte("q")); err != nil || string(got) != "answer to IdentifierQuery" {
		t.Errorf("%q, %v", got, err)
	}
	raw := n.raw(n.cert(testnet.CertOptions{Names: []string{"b.example"}}))
	for path, body := range map[string][]byte{
		"requestConsent/a.example":                                     request,
		"requestConsent/mimi%3A%2F%2Fa.example":                        request,
		"requestConsent/mimi://a.example/u/alice":                      request,
		"requestConsent/mimi%3A%2F%2Fa.example%2Fu%2Fsomebody%2520":    request,
		"updateConsent/A.example":                                      grant,
		"updateConsent/mimi%3A%2F%2Fa.example%2Fu%2Falice":             grant,
		"identifierQuery/a.example":                                    []byte("q"),
		"identifierQuery/mimi://a.example":                             []byte("q"),
		"requestConsent/mimi%3A%2F%2Fa.example%2Fu%2Falice?not=looked": consent(wire.ConsentCancel, userB, userA),
	} {
		a.ports.take()
		r := send(t, raw, "POST", "https://"+a.addr+"/v1/"+path, from("mimi@b.example"), bytes.NewReader(body))
		want := 201
		if strings.HasPrefix(path, "identifierQuery") {
			want = 200
		}
		calls := a.ports.take()
		if r.status != want || len(calls) != 1 || calls[0].from != "b.example" || calls[0].body != string(body) {
			t.Errorf("%s: %d %q, %+v", path, r.status, r.body, calls)
		}
	}

	c := mimiuri.MustParse("mimi://c.example/u/c")
	for name, x := range map[string]struct {
		path   string
		body   []byte
		status int
		public string
	}{
		"malformed":                       {"requestConsent/a.example", secret, 400, "not a valid ConsentEntry"},
		"grant where one requests":        {"requestConsent/a.example", consent(wire.ConsentGrant, userB, userA), 400, "other endpoint"},
		"request where one grants":        {"updateConsent/a.example", consent(wire.ConsentRequest, userA, userB), 400, "other endpoint"},
		"for a third provider's user":     {"requestConsent/a.example", consent(wire.ConsentRequest, c, userA), 403, "another provider"},
		"granted by a third one's user":   {"updateConsent/a.example", consent(wire.ConsentGrant, userA, c), 403, "another provider"},
		"granted by one's own user":       {"updateConsent/a.example", consent(wire.ConsentGrant, userB, userA), 403, "another provider"},
		"asked of a third provider":       {"requestConsent/a.example", consent(wire.ConsentRequest, userB, c), 404, "not the provider"},
		"revoked towards a third one":     {"updateConsent/a.example", consent(wire.ConsentRevoke, c, userB), 404, "not the provider"},
		"path of another provider":        {"requestConsent/c.example", request, 404, "not the provider"},
		"query for another provider":      {"identifierQuery/c.example", []byte("q"), 404, "not the provider"},
		"query for a user":                {"identifierQuery/mimi%3A%2F%2Fa.example%2Fu%2Falice", []byte("q"), 400, "domain"},
		"path that is neither":            {"updateConsent/mimi%3A%2F%2Fa.example%2Fr%2Fx", grant, 400, "domain"},
		"a body over the limit (1 MiB)":   {"requestConsent/a.example", make([]byte, 1<<20+1), 413, "larger"},
		"another's name and no good path": {"requestConsent/", request, 400, "domain"},
	} {
		r := send(t, raw, "POST", "https://"+a.addr+"/v1/"+x.path, from("mimi@b.example"), bytes.NewReader(x.body))
		if calls := a.ports.take(); r.status != x.status || !strings.Contains(r.body, x.public) || len(calls) != 0 {
			t.Errorf("%s: %d %q, %+v", name, r.status, r.body, calls)
		}
	}
}

// TestPeopleTemplates: where a peer's directory has a domain in the path it gets the domain, else the user's URI.
func TestPeopleTemplates(t *testing.T) {
	n := newNetwork(t)
	var got []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == federation.DirectoryPath {
			io.WriteString(w, `{"requestConsent": "https://a.example/r/{targetDomain}", "updateConsent": "https://a.example/u/{requesterUser}", "identifierQuery": "https://a.example/q/{domain}"}`)
			return
		}
		got = append(got, r.RequestURI)
		w.WriteHeader(http.StatusCreated)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{*n.cert(testnet.CertOptions{Names: []string{"a.example"}})}}
	srv.StartTLS()
	defer srv.Close()
	n.resolve["a.example"] = srv.Listener.Addr().String()
	client := federation.NewClient(n.config("b.example"))
	defer client.CloseIdle()
	request := client.RequestConsent(t.Context(), "", "a.example", consent(wire.ConsentRequest, userB, userA))
	update := client.UpdateConsent(t.Context(), "", "a.example", consent(wire.ConsentGrant, userA, userB))
	_, query := client.IdentifierQuery(t.Context(), "", "a.example", nil)
	if err := errors.Join(request, update, query); err != nil {
		t.Fatal(err)
	}
	if want := "/r/a.example /u/mimi%3A%2F%2Fa.example%2Fu%2Falice /q/a.example"; strings.Join(got, " ") != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// TestPeers: a peer that is not wanted is neither served nor asked.
func TestPeers(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", func(c *federation.Config) {
		c.Peer = func(d string) error {
			if d == "b.example" {
				return fault.New(fault.Forbidden, "this provider is not served here")
			}
			return nil
		}
	})
	b, c := n.start("b.example", nil), n.start("c.example", nil)
	if _, err := b.client.Update(t.Context(), "", roomA, nil); !fault.Is(err, fault.Forbidden) {
		t.Errorf("b asks: %v", err)
	}
	if err := a.client.Notify(t.Context(), "b.example", roomA, nil); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a asks b: %v", err)
	}
	if len(a.ports.take())+len(b.ports.take()) != 0 {
		t.Error("a port was called")
	}
	if _, err := c.client.Update(t.Context(), "", roomA, nil); err != nil {
		t.Errorf("c: %v", err)
	}
	if n := a.server.Counters()["refused.peer"]; n != 1 {
		t.Errorf("refused.peer is %d", n)
	}
}

// TestPeerRate: who asks faster than allowed is told to wait; others are not, and time heals.
func TestPeerRate(t *testing.T) {
	n := newNetwork(t)
	now := &clock{t: time.Now()}
	var told atomic.Int32
	a := n.start("a.example", func(c *federation.Config) {
		c.Limits.PeerRate, c.Now = 2, now.now
		c.Limited = func(d, what string) {
			if d == "b.example" && what == "requests" {
				told.Add(1)
			}
		}
	})
	b, c := n.start("b.example", nil), n.start("c.example", nil)
	for i := range 20 { // ten seconds' worth
		if _, err := b.client.Update(t.Context(), "", roomA, nil); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	_, err := b.client.Update(t.Context(), "", roomA, nil)
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Limited || f.RetryAfter != time.Second {
		t.Errorf("one more: %v", err)
	}
	cert := n.cert(testnet.CertOptions{Names: []string{"b.example"}})
	if r := send(t, n.raw(cert), "POST", "https://"+a.addr+"/v1/update/"+escapeAll(roomA.String()), from("mimi@b.example:8443"), nil); r.status != 429 {
		t.Errorf("the same host, by a port: %+v", r)
	}
	if _, err := c.client.Update(t.Context(), "", roomA, nil); err != nil {
		t.Errorf("another peer: %v", err)
	}
	now.add(time.Second)
	for i := range 3 {
		if _, err := b.client.Update(t.Context(), "", roomA, nil); (err == nil) != (i < 2) {
			t.Errorf("a second later, request %d: %v", i, err)
		}
	}
	if told.Load() != 3 || a.server.Counters()["refused.rate"] != 3 {
		t.Errorf("told %d times, counted %d", told.Load(), a.server.Counters()["refused.rate"])
	}
}
