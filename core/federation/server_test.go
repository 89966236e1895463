package federation_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestEndpoints: every door of one provider, called by another over mutual TLS.
func TestEndpoints(t *testing.T) {
	a, b := two(t)
	ctx := t.Context()
	hubKeys := keyRequest(userB, userA, roomA)                                              // a follower asks the hub
	hubKeysElsewhere := keyRequest(userB, mimiuri.MustParse("mimi://c.example/u/c"), roomA) // about a third provider's user
	targetKeys := keyRequest(userA, userB, roomA)                                           // the hub asks the target
	directKeys := keyRequest(userA, userB, mimiuri.URI{})                                   // no room
	for _, c := range []struct {
		name string
		do   func() ([]byte, error)
		at   *provider
		want call
	}{
		{"Update", func() ([]byte, error) { return b.client.Update(ctx, "b.example", roomA, []byte("u")) }, a,
			call{method: "Update", from: "b.example", room: roomA, target: mimiuri.URI{}, body: "u"}},
		{"Submit", func() ([]byte, error) { return b.client.Submit(ctx, "b.example", roomA, []byte("s")) }, a,
			call{method: "Submit", from: "b.example", room: roomA, target: mimiuri.URI{}, body: "s"}},
		{"GroupInfo", func() ([]byte, error) { return b.client.GroupInfo(ctx, "b.example", roomA, []byte{0, 255}) }, a,
			call{method: "GroupInfo", from: "b.example", room: roomA, target: mimiuri.URI{}, body: "\x00\xff"}},
		{"ReportAbuse", func() ([]byte, error) {
			return []byte("answer to ReportAbuse"), b.client.ReportAbuse(ctx, "b.example", roomA, []byte("r"))
		}, a, call{method: "ReportAbuse", from: "b.example", room: roomA, body: "r"}},
		{"KeyMaterial of the hub", func() ([]byte, error) { return b.client.KeyMaterial(ctx, "b.example", roomA, userA, hubKeys) }, a,
			call{method: "hub.KeyMaterial", from: "b.example", room: roomA, target: userA, body: string(hubKeys)}},
		{"KeyMaterial of the hub, third provider", func() ([]byte, error) {
			return b.client.KeyMaterial(ctx, "b.example", roomA, mimiuri.MustParse("mimi://c.example/u/c"), hubKeysElsewhere)
		}, a, call{method: "hub.KeyMaterial", from: "b.example", room: roomA, target: mimiuri.MustParse("mimi://c.example/u/c"), body: string(hubKeysElsewhere)}},
		{"KeyMaterial of the target", func() ([]byte, error) { return a.client.Keys().KeyMaterial(ctx, "a.example", userB, targetKeys) }, b,
			call{method: "keys.KeyMaterial", from: "a.example", room: mimiuri.URI{}, target: userB, body: string(targetKeys)}},
		{"KeyMaterial of the target, no room", func() ([]byte, error) { return a.client.Keys().KeyMaterial(ctx, "a.example", userB, directKeys) }, b,
			call{method: "keys.KeyMaterial", from: "a.example", room: mimiuri.URI{}, target: userB, body: string(directKeys)}},
		{"Notify", func() ([]byte, error) {
			return []byte("answer to Notify"), a.client.Notify(ctx, "b.example", roomA, []byte("n"))
		}, b,
			call{method: "Notify", from: "b.example", room: roomA, target: mimiuri.URI{}, body: "n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.do()
			if err != nil {
				t.Fatal(err)
			}
			if want := "answer to " + c.want.method; string(got) != want {
				t.Errorf("answer %q, want %q", got, want)
			}
			if calls := c.at.ports.take(); !slices.Equal(calls, []call{c.want}) {
				t.Errorf("the port saw %+v, want %+v", calls, c.want)
			}
		})
	}
	if n := a.server.Counters()["requests.update"]; n != 1 {
		t.Errorf("requests.update is %d", n)
	}
	if n := b.client.Counters()["status.200"]; n == 0 {
		t.Error("the client counted no success")
	}
}

// TestDirectory: served without a client certificate, with an absolute https URL for each endpoint.
func TestDirectory(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", func(c *federation.Config) { c.BaseURL = "https://mimi.a.example:8443/base/" })
	r := send(t, n.raw(nil), "GET", "https://"+a.addr+federation.DirectoryPath, nil, nil)
	if r.status != 200 || r.header.Get("Content-Type") != "application/json" || !strings.Contains(r.header.Get("Cache-Control"), "max-age=") {
		t.Errorf("%d %v", r.status, r.header)
	}
	var dir map[string]string
	if err := json.Unmarshal([]byte(r.body), &dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"keyMaterial":   "https://mimi.a.example:8443/base/v1/keyMaterial/{targetUser}",
		"update":        "https://mimi.a.example:8443/base/v1/update/{roomId}",
		"notify":        "https://mimi.a.example:8443/base/v1/notify/{roomId}",
		"submitMessage": "https://mimi.a.example:8443/base/v1/submitMessage/{roomId}",
		"groupInfo":     "https://mimi.a.example:8443/base/v1/groupInfo/{roomId}",
	} {
		if dir[name] != want {
			t.Errorf("%s is %q", name, dir[name])
		}
	}
	if r := send(t, n.raw(nil), "HEAD", "https://"+a.addr+federation.DirectoryPath, nil, nil); r.status != 200 || r.body != "" {
		t.Errorf("HEAD: %+v", r)
	}
	if r := send(t, n.raw(nil), "POST", "https://"+a.addr+federation.DirectoryPath, nil, nil); r.status != 405 || r.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %+v", r)
	}
	// The path of BaseURL belongs to the endpoints.
	b := n.cert(testnet.CertOptions{Names: []string{"b.example"}})
	for path, want := range map[string]int{"/base/v1/update/": 200, "/v1/update/": 404} {
		if r := send(t, n.raw(b), "POST", "https://"+a.addr+path+"mimi%3A%2F%2Fa.example%2Fr%2Fx", from("mimi@b.example"), nil); r.status != want {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

// TestPaths: the room's URI as one segment in any spelling, or as it is; never a redirect.
func TestPaths(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", nil)
	client := n.raw(n.cert(testnet.CertOptions{Names: []string{"b.example"}}))
	slash := mimiuri.MustParse("mimi://a.example/r/a%2Fb%25c")
	for path, want := range map[string]mimiuri.URI{
		"mimi%3A%2F%2Fa.example%2Fr%2Ftea%2520room": roomA,
		"mimi:%2F%2Fa.example%2Fr%2Ftea%2520room":   roomA,
		"mimi%3a%2f%2fA.EXAMPLE%2fr%2ftea%2520room": roomA,
		"mimi%3A%2F%2Fa.example%2Fr%2Ftea%20room":   roomA,
		"mimi%3A//a.example/r/tea%2520room":         roomA,
		"mimi://a.example/r/tea%20room":             roomA,
		"MIMI://a.example/r/tea%20room":             roomA,
		"mimi:%2F%2Fa.example%2Fr%2Fa%252Fb%2525c":  slash,
		"mimi://a.example/r/a/b%25c":                slash,
	} {
		r := send(t, client, "POST", "https://"+a.addr+"/v1/update/"+path, from("mimi@b.example"), strings.NewReader("x"))
		calls := a.ports.take()
		if r.status != 200 || len(calls) != 1 || calls[0].room != want {
			t.Errorf("%s: %d %q, %+v", path, r.status, r.body, calls)
		}
	}
	for _, path := range []string{"", "x", "mimi%3A%2F%2Fa.example", "mimi%3A%2F%2Fa.example%2Fu%2Falice", "mimi://a.example/u/alice",
		"mimi%3A%2F%2F%2Fr%2Fx", "mimi://a.example/r/", "mimi://a.example/r/%00", "https%3A%2F%2Fa.example%2Fr%2Fx",
		"mimi%3A%2F%2Fa.example%2Fr%2F" + strings.Repeat("x", 3000)} {
		r := send(t, client, "POST", "https://"+a.addr+"/v1/update/"+path, from("mimi@b.example"), strings.NewReader("x"))
		if calls := a.ports.take(); r.status != 400 || len(calls) != 0 {
			t.Errorf("%.80s: %d, %+v", path, r.status, calls)
		}
	}
}

// TestRefused: who may not, what is too much, what is nowhere. Each gets its status and a sentence, the log gets a reason and
// no content, and no port hears of it.
func TestRefused(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", func(c *federation.Config) { c.Limits.SubmitBody, c.Limits.Body = 1000, 2000 })
	other := newNetwork(t)
	b := n.cert(testnet.CertOptions{Names: []string{"b.example"}})
	now := time.Now()
	const update = "/v1/update/mimi%3A%2F%2Fa.example%2Fr%2Fx"
	const submit = "/v1/submitMessage/mimi%3A%2F%2Fa.example%2Fr%2Fx"
	const keyMaterial = "/v1/keyMaterial/mimi%3A%2F%2Fa.example%2Fu%2Falice"
	big := func(size int) []byte { return bytes.Repeat(append([]byte{}, secret...), size/len(secret)+1)[:size] }
	good := from("mimi@b.example")
	for _, c := range []struct {
		name    string
		cert    *tls.Certificate
		method  string
		path    string
		header  http.Header
		body    []byte
		chunked bool
		status  int
		public  string // of the answer
		counter string
	}{
		{name: "no certificate", path: update, header: good, status: 403, public: "a client certificate is required", counter: "refused.certificate"},
		{name: "no certificate, unknown path", path: "/", header: good, status: 403, public: "a client certificate is required"},
		{name: "another authority", cert: other.cert(testnet.CertOptions{Names: []string{"b.example"}}), path: update, header: good,
			status: 403, public: "the client certificate is not valid here", counter: "refused.certificate"},
		{name: "expired", cert: n.cert(testnet.CertOptions{Names: []string{"b.example"}, NotAfter: now.Add(-time.Minute)}), path: update, header: good,
			status: 403, public: "the client certificate is not valid here"},
		{name: "not valid yet", cert: n.cert(testnet.CertOptions{Names: []string{"b.example"}, NotBefore: now.Add(time.Hour)}), path: update, header: good,
			status: 403, public: "the client certificate is not valid here"},
		{name: "usage that is neither", cert: n.cert(testnet.CertOptions{Names: []string{"b.example"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}),
			path: update, header: good, status: 403, public: "the client certificate is not valid here"},
		{name: "no usage", cert: n.cert(testnet.CertOptions{Names: []string{"b.example"}, Usages: noUsage}), path: update, header: good,
			status: 403, public: "the client certificate is not valid here"},
		{name: "name of another domain", cert: n.cert(testnet.CertOptions{Names: []string{"c.example"}}), path: update, header: good,
			status: 403, public: "not that of the domain", counter: "refused.from"},
		{name: "name of a subdomain", cert: n.cert(testnet.CertOptions{Names: []string{"mimi.b.example"}}), path: update, header: good,
			status: 403, public: "not that of the domain"},
		{name: "wildcard", cert: n.cert(testnet.CertOptions{Names: []string{"*.example"}}), path: update, header: good,
			status: 403, public: "not that of the domain"},
		{name: "another's From", cert: b, path: update, header: from("mimi@a.example"), status: 403, public: "not that of the domain"},
		{name: "From: missing", cert: b, path: update, status: 400, public: "From", counter: "refused.from"},
		{name: "From: twice", cert: b, path: update, header: from("mimi@b.example", "mimi@b.example"), status: 400, public: "From"},
		{name: "From: empty", cert: b, path: update, header: from(""), status: 400, public: "From"},
		{name: "From: another local part", cert: b, path: update, header: from("bob@b.example"), status: 400, public: "From"},
		{name: "From: no domain", cert: b, path: update, header: from("mimi@"), status: 400, public: "From"},
		{name: "From: name-addr", cert: b, path: update, header: from("<mimi@b.example>"), status: 400, public: "From"},
		{name: "From: with a name", cert: b, path: update, header: from("MIMI <mimi@b.example>"), status: 400, public: "From"},
		{name: "From: a list", cert: b, path: update, header: from("mimi@b.example, mimi@c.example"), status: 400, public: "From"},
		{name: "From: two ats", cert: b, path: update, header: from("mimi@c.example@b.example"), status: 400, public: "From"},
		{name: "From: very long", cert: b, path: update, header: from("mimi@" + strings.Repeat("b", 5000)), status: 400, public: "From"},
		{name: "unknown endpoint", cert: b, path: "/v1/nothingSuch/x", header: good, status: 404, public: "no such endpoint"},
		{name: "no version", cert: b, path: "/update/mimi%3A%2F%2Fa.example%2Fr%2Fx", header: good, status: 404, public: "no such endpoint"},
		{name: "root", cert: b, path: "/", header: good, status: 404, public: "no such endpoint"},
		{name: "method", cert: b, method: "GET", path: update, header: good, status: 405, public: "method"},
		{name: "unknown room", cert: b, path: "/v1/update/mimi%3A%2F%2Fb.example%2Fr%2Fx", header: good, status: 404, public: "not the hub"},
		{name: "notify by another than the hub", cert: b, path: "/v1/notify/mimi%3A%2F%2Fa.example%2Fr%2Fx", header: good, body: secret,
			status: 403, public: "only the room's hub", counter: "refused.sender"},
		{name: "submit over 1,000", cert: b, path: submit, header: good, body: big(1001), status: 413, public: "larger than 1000 octets", counter: "refused.size"},
		{name: "submit over 1,000, length unknown", cert: b, path: submit, header: good, body: big(1001), chunked: true, status: 413, public: "larger than 1000 octets"},
		{name: "update over 2,000", cert: b, path: update, header: good, body: big(2001), status: 413, public: "larger than 2000 octets"},
		{name: "keyMaterial: malformed", cert: b, path: keyMaterial, header: good, body: secret, status: 400, public: "not a valid KeyMaterialRequest"},
		{name: "keyMaterial: a room in the path", cert: b, path: "/v1/keyMaterial/mimi%3A%2F%2Fa.example%2Fr%2Fx", header: good, status: 400, public: "MIMI URI of a user"},
		{name: "keyMaterial: other user in the path", cert: b, path: keyMaterial, header: good,
			body: keyRequest(userB, mimiuri.MustParse("mimi://a.example/u/eve"), roomA), status: 400, public: "different users"},
		{name: "keyMaterial: requester of another provider", cert: b, path: keyMaterial, header: good,
			body: keyRequest(mimiuri.MustParse("mimi://c.example/u/c"), userA, roomA), status: 403, public: "requesting user", counter: "refused.sender"},
		{name: "keyMaterial: not from the room's hub", cert: b, path: keyMaterial, header: good,
			body: keyRequest(userB, userA, mimiuri.MustParse("mimi://c.example/r/x")), status: 403, public: "its hub only"},
		{name: "keyMaterial: without a room, for another's user", cert: b, path: keyMaterial, header: good,
			body: keyRequest(mimiuri.MustParse("mimi://c.example/u/c"), userA, mimiuri.URI{}), status: 403, public: "its hub only"},
		{name: "keyMaterial: nothing of this provider", cert: b, path: "/v1/keyMaterial/mimi%3A%2F%2Fc.example%2Fu%2Fc", header: good,
			body: keyRequest(userB, mimiuri.MustParse("mimi://c.example/u/c"), mimiuri.MustParse("mimi://b.example/r/x")), status: 404, public: "neither the room nor the user"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var body io.Reader = bytes.NewReader(c.body)
			if c.chunked {
				body = io.MultiReader(body) // hides the length
			}
			if c.method == "" {
				c.method = "POST"
			}
			before := a.server.Counters()[c.counter]
			r := send(t, n.raw(c.cert), c.method, "https://"+a.addr+c.path, c.header, body)
			if r.status != c.status || !strings.Contains(r.body, c.public) {
				t.Errorf("answer %d %q, want %d with %q", r.status, r.body, c.status, c.public)
			}
			if calls := a.ports.take(); len(calls) != 0 {
				t.Errorf("a port was called: %+v", calls)
			}
			if c.counter != "" && a.server.Counters()[c.counter] != before+1 {
				t.Errorf("counter %s is %d, was %d", c.counter, a.server.Counters()[c.counter], before)
			}
		})
	}
	a.wantLog(t, "a client certificate is required")
	a.wantLog(t, "x509: certificate signed by unknown authority")
	a.wantLog(t, "not that of the domain in the header From")
	a.wantLog(t, `\"mimi@a.example\"`)
	a.wantLog(t, "larger than 1000 octets")
	a.wantLog(t, `"peer":"b.example"`)

	// After all this a good request is served: nothing has changed.
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		cert := n.cert(testnet.CertOptions{Names: []string{"www.b.example", "B.example"}, Usages: []x509.ExtKeyUsage{usage}})
		for _, f := range []string{"mimi@b.example", "mimi@B.EXAMPLE", " mimi@b.example "} {
			if r := send(t, n.raw(cert), "POST", "https://"+a.addr+update, from(f), bytes.NewReader(big(2000))); r.status != 200 {
				t.Errorf("usage %v, From %q: %d %s", usage, f, r.status, r.body)
			}
		}
	}
}

// TestExpiresOnConnection: a certificate that runs out is refused on a connection that was made before.
func TestExpiresOnConnection(t *testing.T) {
	n := newNetwork(t)
	clk := &clock{t: time.Now()}
	a := n.start("a.example", func(c *federation.Config) { c.Now = clk.now })
	client := n.raw(n.cert(testnet.CertOptions{Names: []string{"b.example"}, NotAfter: clk.now().Add(time.Hour)}))
	url := "https://" + a.addr + "/v1/update/mimi%3A%2F%2Fa.example%2Fr%2Fx"
	if r := send(t, client, "POST", url, from("mimi@b.example"), nil); r.status != 200 {
		t.Fatal(r)
	}
	clk.add(2 * time.Hour)
	if r := send(t, client, "POST", url, from("mimi@b.example"), nil); r.status != 403 || !strings.Contains(r.body, "expired") {
		t.Errorf("%+v", r)
	}
}

// TestFaults: what a port says arrives at the caller as the same kind, with the public text only.
func TestFaults(t *testing.T) {
	a, b := two(t)
	inner := errors.New(string(secret))
	for _, c := range []struct {
		err    error
		status int
		want   fault.Kind
		after  time.Duration
	}{
		{fault.Wrap(fault.Malformed, "for you", inner), 400, fault.Malformed, 0},
		{fault.Wrap(fault.Forbidden, "for you", inner), 403, fault.Forbidden, 0},
		{fault.Wrap(fault.NotFound, "for you", inner), 404, fault.NotFound, 0},
		{fault.Wrap(fault.Conflict, "for you", inner), 409, fault.Conflict, 0},
		{fault.Wrap(fault.TooLarge, "for you", inner), 413, fault.TooLarge, 0},
		{&fault.Error{Kind: fault.Limited, Message: "for you", RetryAfter: 1500 * time.Millisecond, Err: inner}, 429, fault.Limited, 2 * time.Second},
		{&fault.Error{Kind: fault.Limited, Message: "for you", Err: inner}, 429, fault.Limited, 10 * time.Second},
		{&fault.Error{Kind: fault.Unavailable, Message: "for you", RetryAfter: 100 * time.Hour, Err: inner}, 503, fault.Unavailable, time.Hour},
		{fault.Wrap(fault.Internal, "not for you", inner), 500, fault.Unavailable, 0},
		{inner, 500, fault.Unavailable, 0},
		{context.DeadlineExceeded, 500, fault.Unavailable, 0},
	} {
		a.ports.set(func(context.Context, call) ([]byte, error) { return []byte("ignored"), c.err })
		_, err := b.client.Update(t.Context(), "b.example", roomA, []byte("x"))
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != c.want || f.RetryAfter != c.after {
			t.Errorf("%v: got %v", c.err, err)
			continue
		}
		if text := fault.Public(err); strings.Contains(text, "for you") {
			t.Errorf("%v: a peer's sentence is public: %s", c.err, text)
		}
		if sent := err.Error(); strings.Contains(sent, string(secret)) || strings.Contains(sent, "not for you") {
			t.Errorf("%v: the peer was told %s", c.err, sent)
		} else if fault.KindOf(c.err) != fault.Internal && !strings.Contains(sent, "for you") {
			t.Errorf("%v: the log of the asker has not the peer's sentence: %s", c.err, sent)
		}
	}
}

// TestPanic: a port that panics costs its request, not the server, and is counted; the log has the stack and no value.
func TestPanic(t *testing.T) {
	a, b := two(t)
	a.ports.set(func(context.Context, call) ([]byte, error) { panic(string(secret)) })
	if _, err := b.client.Update(t.Context(), "b.example", roomA, secret); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "500") {
		t.Errorf("got %v", err)
	}
	a.wantLog(t, "a request handler failed")
	a.ports.set(nil)
	if _, err := b.client.Update(t.Context(), "b.example", roomA, secret); err != nil {
		t.Error(err)
	}
	if n := a.server.Counters()["panics"]; n != 1 {
		t.Errorf("%d panics", n)
	}
}

// TestNoPorts: a provider without a half of the ports says so.
func TestNoPorts(t *testing.T) {
	n := newNetwork(t)
	cfg := n.config("a.example")
	ln := listen(t)
	n.resolve["a.example"] = ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- federation.NewServer(cfg, federation.Ports{}).Serve(ctx, ln) }()
	b := federation.NewClient(n.config("b.example"))
	defer b.CloseIdle()
	for name, do := range map[string]func() error{
		"update": func() error { _, err := b.Update(ctx, "", roomA, nil); return err },
		"notify": func() error {
			return b.Notify(ctx, "a.example", mimiuri.MustParse("mimi://b.example/r/x"), nil)
		},
		"keys": func() error {
			_, err := b.Keys().KeyMaterial(ctx, "", userA, keyRequest(userB, userA, mimiuri.URI{}))
			return err
		},
		"keys of the hub": func() error {
			_, err := b.KeyMaterial(ctx, "", roomA, userA, keyRequest(userB, userA, roomA))
			return err
		},
	} {
		if err := do(); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestPerPeer: one peer cannot take all places; another is served meanwhile.
func TestPerPeer(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", func(c *federation.Config) { c.Limits.PerPeer = 2 })
	b, c := n.start("b.example", nil), n.start("c.example", nil)
	entered, release := make(chan bool), make(chan bool)
	a.ports.set(func(_ context.Context, c call) ([]byte, error) {
		if c.from == "b.example" {
			entered <- true
			<-release
		}
		return nil, nil
	})
	results := make(chan error)
	for range 2 {
		go func() { _, err := b.client.Update(t.Context(), "", roomA, nil); results <- err }()
		<-entered
	}
	_, err := b.client.Update(t.Context(), "", roomA, nil)
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Limited || f.RetryAfter != time.Second {
		t.Errorf("the third request: %v", err)
	}
	if _, err := c.client.Update(t.Context(), "", roomA, nil); err != nil {
		t.Errorf("another peer: %v", err)
	}
	close(release)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	a.ports.set(nil)
	if _, err := b.client.Update(t.Context(), "", roomA, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestBusy: over the limit of all requests one waits for its turn, and is told to come back if there is none.
func TestBusy(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", func(c *federation.Config) {
		c.Limits.InFlight = 1
		c.Limits.ReadTimeout, c.Limits.HandlerTimeout = 500*time.Millisecond, time.Millisecond
	})
	b := n.start("b.example", nil)
	entered, release := make(chan bool), make(chan bool)
	a.ports.set(func(context.Context, call) ([]byte, error) { entered <- true; <-release; return []byte("late"), nil })
	result := make(chan error)
	go func() { _, err := b.client.Update(t.Context(), "", roomA, nil); result <- err }()
	<-entered
	if _, err := b.client.Update(t.Context(), "", roomA, nil); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v", err)
	}
	if n := a.server.Counters()["refused.busy"]; n != 1 {
		t.Errorf("refused.busy is %d", n)
	}
	close(release)
	<-result
}

// TestSlowPeers: a connection on which nothing useful arrives is closed by the server: before the handshake, in the headers,
// in the body. The test waits for that and has no other end.
func TestSlowPeers(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", func(c *federation.Config) {
		c.Limits.HeaderTimeout, c.Limits.ReadTimeout = 500*time.Millisecond, time.Second
	})
	cert := n.cert(testnet.CertOptions{Names: []string{"b.example"}})
	for name, text := range map[string]string{
		"handshake": "",
		"idle":      "-",
		"headers":   "POST /v1/update/mimi%3A%2F%2Fa.example%2Fr%2Fx HTTP/1.1\r\nHost: a.example\r\nFrom: mi",
		"body": "POST /v1/update/mimi%3A%2F%2Fa.example%2Fr%2Fx HTTP/1.1\r\nHost: a.example\r\nFrom: mimi@b.example\r\n" +
			"Content-Length: 100\r\n\r\nfifty",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dialTCP(t, a.addr)
			if text != "" {
				conn = tls.Client(conn, &tls.Config{RootCAs: n.ca.Pool(), ServerName: "a.example", Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}})
				if err := conn.(*tls.Conn).HandshakeContext(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(conn, strings.TrimPrefix(text, "-")); err != nil {
					t.Fatal(err)
				}
			}
			got, _ := io.ReadAll(conn) // ends when the server hangs up
			if strings.Contains(string(got), " 200 ") {
				t.Errorf("answered: %s", got)
			}
		})
	}
	t.Cleanup(func() {
		if calls := a.ports.take(); len(calls) != 0 {
			t.Errorf("a port was called: %+v", calls)
		}
	})
}

// TestStop: requests under way are answered before Serve returns; new ones find nobody.
func TestStop(t *testing.T) {
	a, b := two(t)
	entered, release := make(chan bool), make(chan bool)
	a.ports.set(func(context.Context, call) ([]byte, error) { entered <- true; <-release; return []byte("done"), nil })
	type result struct {
		b   []byte
		err error
	}
	results := make(chan result, 1)
	go func() {
		b, err := b.client.Update(t.Context(), "", roomA, nil)
		results <- result{b, err}
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- a.stop() }()
	close(release)
	if r := <-results; r.err != nil || string(r.b) != "done" {
		t.Errorf("%q, %v", r.b, r.err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	b.client.CloseIdle()
	if _, err := b.client.Update(t.Context(), "", roomA, nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after the end: %v", err)
	}
}

// TestServeFails: an error of the listener is returned.
func TestServeFails(t *testing.T) {
	n := newNetwork(t)
	ln := listen(t)
	ln.Close()
	if err := federation.NewServer(n.config("a.example"), federation.Ports{}).Serve(t.Context(), ln); err == nil {
		t.Error("no error")
	}
}

// TestReload: a certificate that was renewed is used for the next connection of both sides.
func TestReload(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", nil)
	expired := n.cert(testnet.CertOptions{Names: []string{"b.example"}, NotAfter: time.Now().Add(-time.Minute)})
	renewed := n.cert(testnet.CertOptions{Names: []string{"b.example"}})
	current := make(chan *tls.Certificate, 1)
	current <- expired
	b := n.start("b.example", func(c *federation.Config) {
		c.Certificate = func() (*tls.Certificate, error) {
			cert := <-current
			current <- cert
			return cert, nil
		}
	})
	check := func(want bool) {
		t.Helper()
		if _, err := b.client.Update(t.Context(), "", roomA, nil); (err == nil) != want {
			t.Errorf("as client: %v", err)
		}
		if err := a.client.Notify(t.Context(), "b.example", roomA, nil); (err == nil) != want {
			t.Errorf("as server: %v", err)
		}
	}
	check(false)
	<-current
	current <- renewed
	b.client.CloseIdle()
	check(true)
}

// TestRecorder: every body is seen once on each side, as it is.
func TestRecorder(t *testing.T) {
	n := newNetwork(t)
	type entry struct{ side, direction, peer, path, body string }
	entries := make(chan entry, 100)
	recorder := func(side string) func(*federation.Config) {
		return func(c *federation.Config) {
			c.Recorder = func(direction, peer, path string, body []byte) {
				entries <- entry{side, direction, peer, path, string(body)}
			}
		}
	}
	a, b := n.start("a.example", recorder("a")), n.start("b.example", recorder("b"))
	if _, err := b.client.Submit(t.Context(), "", roomA, []byte("ciphertext")); err != nil {
		t.Fatal(err)
	}
	a.ports.set(func(context.Context, call) ([]byte, error) { return nil, fault.New(fault.NotFound, "nowhere") })
	if _, err := b.client.Submit(t.Context(), "", roomA, []byte("again")); err == nil {
		t.Fatal("no error")
	}
	close(entries)
	const path = "/v1/submitMessage/mimi%3A%2F%2Fa.example%2Fr%2Ftea%2520room"
	want := map[entry]bool{
		{"b", "out", "a.example", path, "ciphertext"}:                true,
		{"a", "in", "b.example", path, "ciphertext"}:                 true,
		{"a", "out", "b.example", path + " 200", "answer to Submit"}: true,
		{"b", "in", "a.example", path + " 200", "answer to Submit"}:  true,
		{"b", "out", "a.example", path, "again"}:                     true,
		{"a", "in", "b.example", path, "again"}:                      true,
		{"b", "in", "a.example", path + " 404", "nowhere\n"}:         true,
	}
	for e := range entries {
		if !want[e] {
			t.Errorf("unexpected %+v", e)
		}
		delete(want, e)
	}
	for e := range want {
		t.Errorf("missing %+v", e)
	}
}
