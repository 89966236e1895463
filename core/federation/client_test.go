package federation_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

func dialTCP(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// fake starts an HTTPS server that is no provider of ours, with a certificate for names, and makes it domain's.
func (n *network) fake(domain string, h http.HandlerFunc, names ...string) string {
	n.t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{*n.cert(testnet.CertOptions{Names: names})}}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	n.t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	n.resolve[domain] = addr
	return addr
}

// TestClientRefuses: what a client does not take from a peer. Each is Unavailable, since the peer may mend it, and no request
// leaves towards the wrong place.
func TestClientRefuses(t *testing.T) {
	directory := func(update string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == federation.DirectoryPath {
				fmt.Fprintf(w, `{"update": %q, "unknown": 7}`, update)
				return
			}
			io.WriteString(w, "answer")
		}
	}
	const good = "https://a.example/v1/update/{roomId}"
	for _, c := range []struct {
		name   string
		handle http.HandlerFunc
		names  []string
		reason string // in the error, "" for success
	}{
		{"all is well", directory(good), []string{"a.example"}, ""},
		{"endpoint with the missing slash of the draft's example", directory("https://a.example/v1/update{roomId}"), []string{"a.example"}, ""},
		{"certificate of another domain", directory(good), []string{"m.example"}, "certificate is valid for"},
		{"certificate of a subdomain", directory(good), []string{"www.a.example"}, "certificate is valid for"},
		{"directory: not found", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, []string{"a.example"}, "404"},
		{"directory: redirect", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == federation.DirectoryPath {
				http.Redirect(w, r, "/other", http.StatusFound)
				return
			}
			directory(good)(w, &http.Request{URL: r.URL})
		}, []string{"a.example"}, "302"},
		{"directory: no JSON", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }, []string{"a.example"}, "not a JSON object"},
		{"directory: too large", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"update": "`+strings.Repeat("x", 1<<17)+`"}`)
		}, []string{"a.example"}, "larger than"},
		{"directory: endpoint missing", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") }, []string{"a.example"}, "has no update"},
		{"directory: endpoint is a number", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"update": 1}`) }, []string{"a.example"}, "has no update"},
		{"directory: http", directory("http://a.example/v1/update/{roomId}"), []string{"a.example"}, "not one of https"},
		{"directory: file", directory("file:///etc/{roomId}"), []string{"a.example"}, "not one of https"},
		{"directory: relative", directory("/v1/update/{roomId}"), []string{"a.example"}, "not one of https"},
		{"directory: no host", directory("https:///v1/update/{roomId}"), []string{"a.example"}, "no host"},
		{"directory: with a user", directory("https://u:p@a.example/v1/update/{roomId}"), []string{"a.example"}, "a user"},
		{"directory: no variable", directory("https://a.example/v1/update/"), []string{"a.example"}, "variable"},
		{"directory: two variables", directory("https://a.example/{a}/{b}"), []string{"a.example"}, "variable"},
		{"directory: very long", directory("https://a.example/{a}" + strings.Repeat("x", 10000)), []string{"a.example"}, "too long"},
		{"directory: broken", directory("https://a.example:port/{a}"), []string{"a.example"}, "not one"},
		{"endpoint: redirect", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/moved" {
				t.Error("the redirect was followed")
			}
			if r.URL.Path == federation.DirectoryPath {
				directory(good)(w, r)
				return
			}
			http.Redirect(w, r, "/moved", http.StatusTemporaryRedirect)
		}, []string{"a.example"}, "307"},
		{"answer: too large", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == federation.DirectoryPath {
				directory(good)(w, r)
				return
			}
			w.Write(make([]byte, 5000))
		}, []string{"a.example"}, "larger than 4000"},
		{"answer: cut off", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == federation.DirectoryPath {
				directory(good)(w, r)
				return
			}
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "short")
		}, []string{"a.example"}, "answer to update"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			n.fake("a.example", c.handle, c.names...)
			cfg := n.config("b.example")
			cfg.Limits.Body = 4000
			client := federation.NewClient(cfg)
			defer client.CloseIdle()
			b, err := client.Update(t.Context(), "", roomA, secret)
			if c.reason == "" {
				if err != nil || string(b) != "answer" {
					t.Errorf("%q, %v", b, err)
				}
				return
			}
			if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got %v, want Unavailable with %q", err, c.reason)
			}
			if strings.Contains(fault.Public(err), c.reason) || strings.Contains(err.Error(), string(secret)) {
				t.Errorf("says too much: %v; %s", err, fault.Public(err))
			}
		})
	}
}

// TestEndpointHost: an endpoint on another host is known by that host's certificate, one on an IP address by the domain's.
func TestEndpointHost(t *testing.T) {
	for _, c := range []struct {
		name, host string // of the endpoint's URL
		names      []string
		ok         bool
	}{
		{"host of its own", "mimi.host.example", []string{"mimi.host.example"}, true},
		{"host of its own, certificate of the domain", "mimi.host.example", []string{"a.example"}, false},
		{"IP address", "", []string{"a.example"}, true},
		{"IP address, certificate of another", "", []string{"m.example"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			var reached atomic.Int32
			endpoint := n.fake("mimi.host.example", func(w http.ResponseWriter, r *http.Request) { reached.Add(1) }, c.names...)
			host := c.host
			if host == "" {
				host = endpoint
			}
			n.fake("a.example", func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"update": "https://%s/{r}"}`, host)
			}, "a.example")
			client := federation.NewClient(n.config("b.example"))
			defer client.CloseIdle()
			_, err := client.Update(t.Context(), "", roomA, nil)
			if (err == nil) != c.ok || (reached.Load() == 1) != c.ok {
				t.Errorf("%v, reached %d times", err, reached.Load())
			}
		})
	}
}

// TestRequest: what goes out: the headers, the path as one segment, and the certificate.
// TestEndpointInside: a peer's directory does not lead requests to what only this provider can reach, unless the peer itself is
// there or the administrator has said so.
func TestEndpointInside(t *testing.T) {
	for _, c := range []struct {
		name   string
		public string // addresses, of 127.0.0.2 with the directory and 127.0.0.1 with the endpoint
		set    bool
		ok     bool
	}{
		{"from outside to inside", "127.0.0.2", false, false},
		{"from outside to outside", "127.0.0.1 127.0.0.2", false, true},
		{"from inside to inside", "", false, true},
		{"where the administrator leads", "127.0.0.2", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			var reached atomic.Int32
			endpoint := n.fake("m.example", func(w http.ResponseWriter, r *http.Request) { reached.Add(1) }, "a.example")
			directory := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"update": "https://%s/{r}"}`, endpoint)
			}))
			directory.Listener.Close()
			var err error
			if directory.Listener, err = net.Listen("tcp", "127.0.0.2:0"); err != nil {
				t.Fatal(err)
			}
			directory.TLS = &tls.Config{Certificates: []tls.Certificate{*n.cert(testnet.CertOptions{Names: []string{"a.example"}})}}
			directory.StartTLS()
			t.Cleanup(directory.Close)
			n.resolve["a.example"] = directory.Listener.Addr().String()
			if c.set {
				n.resolve["127.0.0.1"] = endpoint
			}
			cfg := n.config("b.example")
			cfg.Public = func(a netip.Addr) bool { return slices.Contains(strings.Fields(c.public), a.String()) }
			client := federation.NewClient(cfg)
			defer client.CloseIdle()
			_, err = client.Update(t.Context(), "", roomA, nil)
			if (err == nil) != c.ok || (reached.Load() == 1) != c.ok || err != nil && !fault.Is(err, fault.Unavailable) {
				t.Errorf("%v, reached %d times", err, reached.Load())
			}
		})
	}
}

func TestRequest(t *testing.T) {
	n := newNetwork(t)
	var got *http.Request
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == federation.DirectoryPath {
			io.WriteString(w, `{"update": "https://a.example/x/{roomId}?v=1"}`)
			return
		}
		got = r.Clone(context.Background())
		w.WriteHeader(http.StatusAccepted)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*n.cert(testnet.CertOptions{Names: []string{"a.example"}})}}
	srv.StartTLS()
	defer srv.Close()
	n.resolve["a.example"] = srv.Listener.Addr().String()
	client := federation.NewClient(n.config("B.example."))
	defer client.CloseIdle()
	if _, err := client.Update(t.Context(), "", roomA, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if got.RequestURI != "/x/mimi%3A%2F%2Fa.example%2Fr%2Ftea%2520room?v=1" {
		t.Errorf("path %s", got.RequestURI)
	}
	if f := got.Header["From"]; len(f) != 1 || f[0] != "mimi@b.example" {
		t.Errorf("From %q", f)
	}
	if ct := got.Header.Get("Content-Type"); ct != "application/octet-stream" {
		t.Errorf("Content-Type %q", ct)
	}
	if got.Host != "a.example" || len(got.TLS.PeerCertificates) == 0 {
		t.Errorf("Host %q, %d certificates", got.Host, len(got.TLS.PeerCertificates))
	}
	if got.Header.Get("Idempotency-Key") != "" || got.Header.Get("Accept-Encoding") != "" {
		t.Errorf("headers %v", got.Header)
	}
}

// TestDirectoryCache: fetched once, again when it has expired, and again when its endpoint is not there any more.
func TestDirectoryCache(t *testing.T) {
	n := newNetwork(t)
	clk := &clock{t: time.Now()}
	endpoint := n.start("moved.example", func(c *federation.Config) { c.Domain = "a.example" })
	var fetches atomic.Int32
	var target atomic.Value // host:port of the endpoint
	target.Store(endpoint.addr)
	age := "max-age=600"
	n.fake("a.example", func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		w.Header().Set("Cache-Control", "public, "+age)
		fmt.Fprintf(w, `{"update": "https://%s/v1/update/{r}"}`, target.Load())
	}, "a.example")
	// The endpoint is at an IP address: its certificate must be the domain's.
	endpoint.stop()
	start := func() *provider {
		p := n.start("elsewhere.example", func(c *federation.Config) {
			cert := n.cert(testnet.CertOptions{Names: []string{"a.example"}})
			c.Domain = "a.example"
			c.Certificate = func() (*tls.Certificate, error) { return cert, nil }
		})
		target.Store(p.addr)
		return p
	}
	first := start()
	cfg := n.config("b.example")
	cfg.Now = clk.now
	client := federation.NewClient(cfg)
	defer client.CloseIdle()
	update := func(ok bool, want int32) {
		t.Helper()
		if _, err := client.Update(t.Context(), "", roomA, nil); (err == nil) != ok {
			t.Fatal(err)
		}
		if got := fetches.Load(); got != want {
			t.Fatalf("%d fetches, want %d", got, want)
		}
	}
	update(true, 1)
	update(true, 1)
	clk.add(9 * time.Minute)
	update(true, 1)
	clk.add(2 * time.Minute)
	update(true, 2) // expired

	// The endpoint moves. A directory just fetched is believed for a while, then it is asked again.
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	client.CloseIdle()
	second := start()
	update(false, 2)
	clk.add(time.Minute)
	update(true, 3)
	if calls := second.ports.take(); len(calls) != 1 {
		t.Errorf("%d calls at the new place", len(calls))
	}

	// It is gone altogether: one more look, then the failure.
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	client.CloseIdle()
	clk.add(time.Minute)
	update(false, 4)

	age = "no-store" // bounded from below: not a fetch a request
	start()
	clk.add(20 * time.Minute)
	update(true, 5)
	update(true, 5)
	clk.add(2 * time.Minute)
	update(true, 6)
}

// TestStatusCodes: codes that our own server does not send.
func TestStatusCodes(t *testing.T) {
	n := newNetwork(t)
	status, after := 0, ""
	n.fake("a.example", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == federation.DirectoryPath {
			io.WriteString(w, `{"update": "https://a.example/{r}"}`)
			return
		}
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
		w.Write([]byte(strings.Repeat("long ", 1000)))
	}, "a.example")
	cfg := n.config("b.example")
	clk := &clock{t: time.Now().Truncate(time.Second)}
	cfg.Now = clk.now
	client := federation.NewClient(cfg)
	defer client.CloseIdle()
	for _, c := range []struct {
		status int
		after  string
		want   fault.Kind
		wait   time.Duration
	}{
		{401, "", fault.Forbidden, 0}, {410, "", fault.NotFound, 0}, {405, "", fault.NotFound, 0}, {501, "", fault.NotFound, 0},
		{408, "", fault.Unavailable, 0}, {421, "", fault.Unavailable, 0}, {418, "", fault.Malformed, 0}, {502, "", fault.Unavailable, 0},
		{300, "", fault.Unavailable, 0}, {304, "", fault.Unavailable, 0},
		{503, "7", fault.Unavailable, 7 * time.Second},
		{503, "-7", fault.Unavailable, 0}, {503, "soon", fault.Unavailable, 0}, {503, "99999999999999999999", fault.Unavailable, 0},
		{429, clk.now().Add(90 * time.Second).UTC().Format(http.TimeFormat), fault.Limited, 90 * time.Second},
		{429, clk.now().Add(-90 * time.Second).UTC().Format(http.TimeFormat), fault.Limited, 0},
	} {
		status, after = c.status, c.after
		_, err := client.Update(t.Context(), "", roomA, nil)
		f, ok := err.(*fault.Error)
		if !ok || f.Kind != c.want || f.RetryAfter != c.wait {
			t.Errorf("%d, %q: %v", c.status, c.after, err)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%d: an error of %d octets", c.status, len(err.Error()))
		}
		// A proxy that has nobody behind it is not the provider; whatever the provider says shows that it is there.
		gone := c.status == 502 || c.status == 503 && c.after == ""
		if err := client.Ping(t.Context(), "a.example"); fault.Is(err, fault.Unavailable) != gone || err != nil && !gone {
			t.Errorf("%d, %q: is it there? %v", c.status, c.after, err)
		}
	}
}

// TestClientGivesUp: a peer that does not answer costs the timeout, one that is told to stop, nothing; a request over the
// limit is not sent.
func TestClientGivesUp(t *testing.T) {
	n := newNetwork(t)
	hang := make(chan bool)
	n.fake("a.example", func(w http.ResponseWriter, r *http.Request) { <-hang }, "a.example")
	defer close(hang)
	cfg := n.config("b.example")
	cfg.Limits.RequestTimeout = 100 * time.Millisecond
	cfg.Limits.SubmitBody = 100
	client := federation.NewClient(cfg)
	if _, err := client.Update(t.Context(), "", roomA, nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("timeout: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Update(ctx, "", roomA, nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := client.Submit(t.Context(), "", roomA, make([]byte, 101)); !fault.Is(err, fault.TooLarge) {
		t.Errorf("too large: %v", err)
	}
	if n := client.Counters()["failed.directory"]; n != 2 {
		t.Errorf("failed.directory is %d", n)
	}
}
