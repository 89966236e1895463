package federation_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestAsset: "Direct download": no certificate, GET and HEAD only, ranges on demand.
func TestAsset(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", nil)
	url := "https://" + a.addr + "/v1/asset/name"
	c := n.raw(nil)
	r := send(t, c, "GET", url, nil, nil)
	if r.status != 200 || r.body != "name" || r.header.Get("Content-Type") != "image/png" || r.header.Get("X-Content-Type-Options") != "nosniff" ||
		!strings.Contains(r.header.Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("%+v", r)
	}
	if r := send(t, c, "GET", url, http.Header{"Range": {"bytes=1-2"}}, nil); r.status != 206 || r.body != "am" {
		t.Errorf("%+v", r)
	}
	if r := send(t, c, "HEAD", url, nil, nil); r.status != 200 || r.body != "" || r.header.Get("Content-Length") != "4" {
		t.Errorf("%+v", r)
	}
	for _, m := range []string{"POST", "PUT", "DELETE"} {
		if r := send(t, c, m, url, nil, strings.NewReader("x")); r.status != 405 {
			t.Errorf("%s: %+v", m, r)
		}
	}
	a.ports.set(func(context.Context, call) ([]byte, error) { return nil, fault.New(fault.NotFound, "gone") })
	if r := send(t, c, "GET", url, nil, nil); r.status != 404 {
		t.Errorf("%+v", r)
	}
}

func readAsset(t *testing.T, a *port.Asset, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProxyDownload: "Download using a hub proxy".
func TestProxyDownload(t *testing.T) {
	n := newNetwork(t)
	a, b := n.start("a.example", nil), n.start("b.example", nil)
	const url = "https://c.example:8443/files/1%2F2?x=%C3%A4&y"
	got, err := b.client.ProxyDownload(t.Context(), "a.example", url)
	if s := readAsset(t, got, err); s != url {
		t.Errorf("%q", s)
	}
	if calls := a.ports.take(); len(calls) != 1 || calls[0].from != "b.example" || calls[0].body != url {
		t.Errorf("%+v", calls)
	}
	for _, bad := range []string{"http://c.example/", "https://", "https:c.example", "ftp://c.example/x", "https://u@c.example/x", "https://c.example/x#y", "mimi://c.example/u/x", ""} {
		if _, err := b.client.ProxyDownload(t.Context(), "a.example", bad); !fault.Is(err, fault.Malformed) {
			t.Errorf("%q: %v", bad, err)
		}
		r := send(t, n.raw(n.cert(testnet.CertOptions{Names: []string{"b.example"}})), "GET", "https://"+a.addr+"/v1/proxyDownload/"+escapeAll(bad), from("mimi@b.example"), nil)
		if r.status != 400 {
			t.Errorf("%q: %+v", bad, r)
		}
	}
	path := "https://" + a.addr + "/v1/proxyDownload/" + escapeAll(url)
	if r := send(t, n.raw(nil), "GET", path, from("mimi@b.example"), nil); r.status != 403 {
		t.Errorf("without a certificate: %+v", r)
	}
	cert := n.cert(testnet.CertOptions{Names: []string{"b.example"}})
	if r := send(t, n.raw(cert), "GET", path, from("mimi@c.example"), nil); r.status != 403 {
		t.Errorf("as somebody else: %+v", r)
	}
	if r := send(t, n.raw(cert), "POST", path, from("mimi@b.example"), nil); r.status != 405 {
		t.Errorf("POST: %+v", r)
	}
	if calls := a.ports.take(); len(calls) != 0 {
		t.Errorf("the port was called: %+v", calls)
	}
	for kind, want := range map[fault.Kind]fault.Kind{fault.NotFound: fault.NotFound, fault.Forbidden: fault.Forbidden, fault.TooLarge: fault.TooLarge, fault.Unavailable: fault.Unavailable} {
		a.ports.set(func(context.Context, call) ([]byte, error) { return nil, fault.New(kind, "no") })
		if _, err := b.client.ProxyDownload(t.Context(), "a.example", url); fault.KindOf(err) != want {
			t.Errorf("%v came as %v", kind, err)
		}
	}
	if strings.Contains(a.log.String(), "files/1") {
		t.Error("the log has the whole URL: who knows it can read the file")
	}
}

func escapeAll(s string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F", ":", "%3A", "?", "%3F", "#", "%23", "@", "%40").Replace(s)
}

type broken struct{ io.Reader }

func (broken) Close() error { return nil }

type brokenDownloads struct{}

func (brokenDownloads) ProxyDownload(context.Context, string, string) (*port.Asset, error) {
	return &port.Asset{Body: broken{io.MultiReader(strings.NewReader("half"), errReader{})}, Size: -1}, nil
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestBreaksOff: a file that breaks off does not look like one that has ended, and counts as no panic.
func TestBreaksOff(t *testing.T) {
	n := newNetwork(t)
	n.downloads = brokenDownloads{}
	a, b := n.start("a.example", nil), n.start("b.example", nil)
	got, err := b.client.ProxyDownload(t.Context(), "a.example", "https://c.example/x")
	if err == nil {
		_, err = io.ReadAll(got.Body)
		got.Body.Close()
	}
	if err == nil {
		t.Error("it ended well")
	}
	if c := a.server.Counters(); c["panics"] != 0 || c["failed.download"] != 1 {
		t.Errorf("%v", c)
	}
}

func TestDownloadLimits(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", func(c *federation.Config) { c.Limits.PerDownload = 1 })
	b := n.start("b.example", nil)
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	a.ports.set(func(context.Context, call) ([]byte, error) { held <- struct{}{}; <-hold; return nil, nil })
	done := make(chan error, 1)
	go func() {
		got, err := b.client.ProxyDownload(t.Context(), "a.example", "https://c.example/x")
		if err == nil {
			got.Body.Close()
		}
		done <- err
	}()
	<-held
	if _, err := b.client.ProxyDownload(t.Context(), "a.example", "https://c.example/y"); !fault.Is(err, fault.Limited) {
		t.Errorf("a second one: %v", err)
	}
	a.ports.set(nil)
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestDownloadNetworks: who has an address has the whole /64 of it, where there are so many.
func TestDownloadNetworks(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", func(c *federation.Config) { c.Limits.PerDownload = 1 })
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	a.ports.set(func(context.Context, call) ([]byte, error) { held <- struct{}{}; <-hold; return nil, nil })
	get := func(addr string) int {
		r := httptest.NewRequest("GET", "https://a.example/v1/asset/x", nil)
		r.RemoteAddr = addr
		w := httptest.NewRecorder()
		a.server.Handler().ServeHTTP(w, r)
		return w.Code
	}
	done := make(chan int, 1)
	go func() { done <- get("[2001:db8:1:2::3]:4") }()
	<-held
	a.ports.set(nil)
	for addr, want := range map[string]int{"[2001:db8:1:2:ffff::5]:6": 429, "[2001:db8:1:3::3]:4": 200, "192.0.2.1:7": 200} {
		if got := get(addr); got != want {
			t.Errorf("%s: %d", addr, got)
		}
	}
	close(hold)
	if got := <-done; got != 200 {
		t.Errorf("the first: %d", got)
	}
}

// outside is an HTTPS server that is no provider.
func outside(t *testing.T, n *network, name string, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*n.cert(testnet.CertOptions{Names: []string{name}})}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestFetch: what a hub fetches from an asset domain: anonymously, without redirects, never from an address that is not
// public unless the administrator has led there.
func TestFetch(t *testing.T) {
	n := newNetwork(t)
	var hits atomic.Int64
	var from sync.Map // addresses
	addr := outside(t, n, "c.example", func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		from.Store(r.RemoteAddr, true)
		switch {
		case r.Header.Get("From") != "" || len(r.TLS.PeerCertificates) != 0:
			t.Error("the request says who asks")
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/f", http.StatusFound)
		case r.URL.Path == "/gone":
			w.WriteHeader(http.StatusGone)
		default:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, "octets")
		}
	})
	n.resolve["c.example"] = addr
	c := federation.NewClient(n.config("a.example"))
	defer c.CloseIdle()
	got, err := c.Fetch(t.Context(), "c.example", "https://c.example/f")
	if err == nil && got.Type != "" {
		t.Errorf("type %q", got.Type)
	}
	if s := readAsset(t, got, err); s != "octets" {
		t.Errorf("%q", s)
	}
	from.Clear()
	for _, host := range []string{"c.example", "C.example", "c.eXAMPLE"} {
		got, err := c.Fetch(t.Context(), "c.example", "https://"+host+"/f")
		readAsset(t, got, err)
	}
	n1 := 0
	if from.Range(func(_, _ any) bool { n1++; return true }); n1 != 1 {
		t.Errorf("%d connections to one host, which is written in different ways", n1)
	}
	if got, err := c.Fetch(t.Context(), "c.example", "https://"+addr+"/f"); err != nil {
		t.Errorf("at the address that was set: %v", err)
	} else {
		got.Body.Close()
	}
	before := hits.Load()
	if _, err := c.Fetch(t.Context(), "c.example", "https://c.example/moved"); !fault.Is(err, fault.NotFound) || hits.Load() != before+1 {
		t.Errorf("a redirect: %v after %d requests", err, hits.Load()-before)
	}
	if _, err := c.Fetch(t.Context(), "c.example", "https://c.example/gone"); !fault.Is(err, fault.NotFound) {
		t.Errorf("gone: %v", err)
	}

	plain := n.config("a.example")
	plain.Resolve, plain.Log = nil, zerolog.Nop()
	d := federation.NewClient(plain)
	before = hits.Load()
	_, port, _ := strings.Cut(addr, ":")
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
		"100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::1]", "[::127.0.0.1]", "[ff02::1]", "[2001:db8::1]"} {
		if _, err := d.Fetch(t.Context(), "c.example", "https://"+host+":"+port+"/f"); !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if hits.Load() != before {
		t.Error("a request arrived")
	}
}

// TestAssetPeer: whose files lie at a URL: the domain itself, or a host its directory names.
func TestAssetPeer(t *testing.T) {
	n := newNetwork(t)
	a := n.start("a.example", nil)
	n.start("b.example", func(c *federation.Config) { c.BaseURL = "https://mimi.b.example:8443/base" })
	n.resolve["c.example"] = "127.0.0.1:1"
	peers := []string{"b.example", "c.example"}
	for url, want := range map[string]string{
		"https://b.example/x":                    "b.example",
		"https://B.example:443/x":                "b.example",
		"https://mimi.b.example:8443/y":          "b.example",
		"https://c.example/x":                    "c.example",
		"https://mimi.b.example/y":               "",
		"https://b.example:8443/x":               "",
		"https://evil.b.example/x":               "",
		"https://b.example.evil.example/x":       "",
		"https://a.example/x":                    "",
		"http://b.example/x":                     "",
		"https://x@b.example/":                   "",
		"https://b.example@evil.example/x":       "",
		"https://evil.example/b.example":         "",
		"https://evil.example?https://b.example": "",
	} {
		if got, _ := a.client.AssetPeer(t.Context(), url, peers); got != want {
			t.Errorf("%s is of %q, want %q", url, got, want)
		}
	}
}
