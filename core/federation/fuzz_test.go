package federation_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/wire"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// FuzzHandler: whatever an authenticated peer sends, the handler does not panic, answers one of its status codes, and
// calls a port only for the peer itself and where the paths allow it.
func FuzzHandler(f *testing.F) {
	ca, err := testnet.NewCA(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	cert, err := ca.Certificate("b.example")
	if err != nil {
		f.Fatal(err)
	}
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}
	p := &ports{}
	server := federation.NewServer(federation.Config{
		Domain: "a.example", Roots: ca.Pool(), Log: zerolog.Nop(), BaseURL: "https://a.example/base",
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Limits:      federation.Limits{SubmitBody: 500, Body: 1000},
	}, federation.Ports{Hub: p, Notify: p, Keys: keyPort{p}, People: p, Assets: filePort{p}, Downloads: filePort{p}})
	handler := server.Handler()

	const room = "mimi%3A%2F%2Fa.example%2Fr%2Fx"
	f.Add("POST", "/base/v1/update/"+room, "mimi@b.example", true, []byte("x"))
	f.Add("POST", "/base/v1/update/mimi://a.example/r/x", "mimi@b.example", true, []byte("x"))
	f.Add("POST", "/base/v1/submitMessage/"+room, "mimi@B.example", true, make([]byte, 501))
	f.Add("POST", "/base/v1/groupInfo/"+room, "mimi@b.example", false, []byte("x"))
	f.Add("POST", "/base/v1/notify/mimi:%2F%2Fb.example%2Fr%2Fx", "mimi@b.example", true, []byte("x"))
	f.Add("POST", "/base/v1/keyMaterial/mimi%3A%2F%2Fa.example%2Fu%2Falice", "mimi@b.example", true, keyRequest(userB, userA, roomA))
	f.Add("POST", "/base/v1/requestConsent/mimi%3A%2F%2Fa.example%2Fu%2Falice", "mimi@b.example", true, consent(wire.ConsentRequest, userB, userA))
	f.Add("POST", "/base/v1/updateConsent/a.example", "mimi@b.example", true, consent(wire.ConsentGrant, userA, userB))
	f.Add("POST", "/base/v1/identifierQuery/a.example", "mimi@b.example", true, []byte("x"))
	f.Add("POST", "/base/v1/reportAbuse/"+room, "mimi@b.example", true, []byte("x"))
	f.Add("GET", "/base/v1/proxyDownload/https%3A%2F%2Fb.example%2Ff%3Fx", "mimi@b.example", true, []byte{})
	f.Add("GET", "/base/v1/proxyDownload/https://b.example/f?x=y", "mimi@b.example", true, []byte{})
	f.Add("GET", "/base/v1/proxyDownload/http:%2F%2Fb.example", "mimi@b.example", true, []byte{})
	f.Add("GET", "/base/v1/asset/0123", "", false, []byte{})
	f.Add("HEAD", "/base/v1/asset/", "", false, []byte{})
	f.Add("GET", federation.DirectoryPath, "", false, []byte{})
	f.Add("PUT", "/base//v1/../update/%2e%2e/?x=%zz", "mimi@c.example", true, []byte{})
	f.Fuzz(func(t *testing.T, method, target, from string, certified bool, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil || len(body) > 1<<14 {
			return // net/http has refused it before
		}
		r := (&http.Request{Method: method, URL: u, Header: http.Header{"From": {from}}, Body: io.NopCloser(bytes.NewReader(body)),
			ContentLength: int64(len(body)), RemoteAddr: "192.0.2.1:1"}).WithContext(t.Context())
		if certified {
			r.TLS = state
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)

		calls := p.take()
		if server.Counters()["panics"] != 0 {
			t.Fatal("the handler panicked")
		}
		switch w.Code {
		case 200, 201:
			directory := u.EscapedPath() == federation.DirectoryPath || u.EscapedPath() == "/base"+federation.DirectoryPath
			if (len(calls) == 1) == directory {
				t.Fatalf("%d with %d calls", w.Code, len(calls))
			}
		case 400, 403, 404, 405, 413:
			if len(calls) != 0 {
				t.Fatalf("%d, and a port was called: %+v", w.Code, calls)
			}
			if w.Body.Len() == 0 || w.Body.Len() > 300 {
				t.Fatalf("%d with %d octets", w.Code, w.Body.Len())
			}
		default:
			t.Fatalf("status %d", w.Code)
		}
		for _, c := range calls {
			if c.people {
				if c.from != "b.example" || c.target.Domain != "a.example" {
					t.Fatalf("called for the wrong one: %+v", c)
				}
				continue
			}
			hub := c.method != "Notify" && c.method != "keys.KeyMaterial"
			switch {
			case c.method == "Asset":
				if method != "GET" && method != "HEAD" || !strings.HasPrefix(u.EscapedPath(), "/base/v1/asset/") {
					t.Fatalf("called: %+v", c)
				}
			case c.method == "ProxyDownload":
				if !certified || method != "GET" || c.from != "b.example" || !strings.HasPrefix(strings.ToLower(c.body), "https://") {
					t.Fatalf("called: %+v", c)
				}
			case !certified || method != "POST" || len(body) > 1000:
				t.Fatalf("called: %+v", c)
			case c.method == "Notify" && (c.from != "a.example" || c.room.Domain != "b.example"),
				c.method != "Notify" && c.from != "b.example", hub && c.room.Domain != "a.example":
				t.Fatalf("called for the wrong one: %+v", c)
			case !strings.HasPrefix(u.EscapedPath(), "/base/v1/"):
				t.Fatalf("called at %s: %+v", target, c)
			}
		}
	})
}

// TestFuzzedEndpoints: FuzzHandler begins with a request to every endpoint there is.
func TestFuzzedEndpoints(t *testing.T) {
	src, err := os.ReadFile("fuzz_test.go")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	server := federation.NewServer(federation.Config{Domain: "a.example", Log: zerolog.Nop()}, federation.Ports{})
	server.Handler().ServeHTTP(w, httptest.NewRequest("GET", federation.DirectoryPath, nil))
	var dir map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &dir); err != nil || len(dir) < 10 {
		t.Fatalf("%v: %s", err, w.Body)
	}
	dir["asset"] = "" // of our own
	for name := range dir {
		if !bytes.Contains(src, []byte(`/base/v1/`+name+`/`)) {
			t.Errorf("no request to %s is among the seeds", name)
		}
	}
}
