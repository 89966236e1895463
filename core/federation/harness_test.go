package federation_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/wire"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

var (
	roomA  = mimiuri.MustParse("mimi://a.example/r/tea%20room")
	userA  = mimiuri.MustParse("mimi://a.example/u/alice")
	userB  = mimiuri.MustParse("mimi://b.example/u/bob")
	secret = []byte("the text nobody may log")
)

// call is what a port saw.
type call struct {
	method, from string
	room, target mimiuri.URI
	body         string
	people       bool
}

// ports are all ports of a provider: they note the call and answer as do says, by default with "answer to METHOD".
type ports struct {
	mu    sync.Mutex
	calls []call
	do    func(ctx context.Context, c call) ([]byte, error)
}

func (p *ports) answer(ctx context.Context, c call) ([]byte, error) {
	p.mu.Lock()
	p.calls = append(p.calls, c)
	do := p.do
	p.mu.Unlock()
	if do != nil {
		return do(ctx, c)
	}
	return []byte("answer to " + c.method), nil
}

func (p *ports) take() []call {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.calls
	p.calls = nil
	return calls
}

func (p *ports) set(do func(ctx context.Context, c call) ([]byte, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.do = do
}

func (p *ports) KeyMaterial(ctx context.Context, from string, room, target mimiuri.URI, body []byte) ([]byte, error) {
	return p.answer(ctx, call{method: "hub.KeyMaterial", from: from, room: room, target: target, body: string(body)})
}
func (p *ports) Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return p.answer(ctx, call{method: "Update", from: from, room: room, target: mimiuri.URI{}, body: string(body)})
}
func (p *ports) Submit(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return p.answer(ctx, call{method: "Submit", from: from, room: room, target: mimiuri.URI{}, body: string(body)})
}
func (p *ports) GroupInfo(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return p.answer(ctx, call{method: "GroupInfo", from: from, room: room, target: mimiuri.URI{}, body: string(body)})
}
func (p *ports) ReportAbuse(ctx context.Context, from string, room mimiuri.URI, body []byte) error {
	_, err := p.answer(ctx, call{method: "ReportAbuse", from: from, room: room, body: string(body)})
	return err
}
func (p *ports) Notify(ctx context.Context, peer string, room mimiuri.URI, body []byte) error {
	_, err := p.answer(ctx, call{method: "Notify", from: peer, room: room, target: mimiuri.URI{}, body: string(body)})
	return err
}

func (p *ports) RequestConsent(ctx context.Context, from, peer string, body []byte) error {
	_, err := p.answer(ctx, call{method: "RequestConsent", from: from, target: mimiuri.URI{Domain: peer}, body: string(body), people: true})
	return err
}
func (p *ports) UpdateConsent(ctx context.Context, from, peer string, body []byte) error {
	_, err := p.answer(ctx, call{method: "UpdateConsent", from: from, target: mimiuri.URI{Domain: peer}, body: string(body), people: true})
	return err
}
func (p *ports) IdentifierQuery(ctx context.Context, from, peer string, body []byte) ([]byte, error) {
	return p.answer(ctx, call{method: "IdentifierQuery", from: from, target: mimiuri.URI{Domain: peer}, body: string(body), people: true})
}

type keyPort struct{ p *ports }

func (k keyPort) KeyMaterial(ctx context.Context, from string, target mimiuri.URI, body []byte) ([]byte, error) {
	return k.p.answer(ctx, call{method: "keys.KeyMaterial", from: from, room: mimiuri.URI{}, target: target, body: string(body)})
}

// filePort has one file: its name, or URL, is its content.
type filePort struct{ p *ports }

func (f filePort) Asset(ctx context.Context, name string) (*port.Asset, error) {
	_, err := f.p.answer(ctx, call{method: "Asset", body: name})
	return &port.Asset{Body: seekable{strings.NewReader(name)}, Size: int64(len(name)), Type: "image/png"}, err
}

func (f filePort) ProxyDownload(ctx context.Context, from, u string) (*port.Asset, error) {
	_, err := f.p.answer(ctx, call{method: "ProxyDownload", from: from, body: u})
	return &port.Asset{Body: io.NopCloser(strings.NewReader(u)), Size: -1}, err
}

type seekable struct{ *strings.Reader }

func (seekable) Close() error { return nil }

// logBuffer is a log that a test reads while others write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// provider is a real server on loopback and a client of the same domain.
type provider struct {
	cfg    federation.Config
	ports  *ports
	server *federation.Server
	client *federation.Client
	addr   string
	log    *logBuffer
	stop   func() error // ends Serve and gives what it returned
}

// network is an authority and the providers that trust it.
type network struct {
	t       *testing.T
	ca      *testnet.CA
	resolve map[string]string // filled before a provider is started

	downloads port.Downloads // instead of a filePort
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	ca, err := testnet.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &network{t: t, ca: ca, resolve: map[string]string{}}
}

func (n *network) cert(opts testnet.CertOptions) *tls.Certificate {
	n.t.Helper()
	c, err := n.ca.CertificateWith(opts)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// config is one for domain, with a certificate for it.
func (n *network) config(domain string) federation.Config {
	cert := n.cert(testnet.CertOptions{Names: []string{domain}})
	return federation.Config{
		Domain:      domain,
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Roots:       n.ca.Pool(),
		Resolve:     n.resolve,
		Log:         zerolog.Nop(),
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// start starts a provider; change, if not nil, changes its configuration before.
func (n *network) start(domain string, change func(*federation.Config)) *provider {
	n.t.Helper()
	ln := listen(n.t)
	p := &provider{cfg: n.config(domain), ports: &ports{}, addr: ln.Addr().String(), log: &logBuffer{}}
	p.cfg.Log = zerolog.New(p.log)
	if change != nil {
		change(&p.cfg)
	}
	downloads := n.downloads
	if downloads == nil {
		downloads = filePort{p.ports}
	}
	n.resolve[domain] = p.addr
	p.server = federation.NewServer(p.cfg, federation.Ports{Hub: p.ports, Notify: p.ports, Keys: keyPort{p.ports}, People: p.ports, Assets: filePort{p.ports}, Downloads: downloads})
	p.client = federation.NewClient(p.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(ctx, ln) }()
	p.stop = sync.OnceValue(func() error { cancel(); return <-served })
	n.t.Cleanup(func() {
		if err := p.stop(); err != nil {
			n.t.Errorf("Serve of %s: %v", domain, err)
		}
		p.client.CloseIdle()
	})
	return p
}

// two are providers a.example and b.example.
func two(t *testing.T) (a, b *provider) {
	n := newNetwork(t)
	return n.start("a.example", nil), n.start("b.example", nil)
}

// raw is an HTTP client that does not follow the rules of a federation client. Its certificate may be nil.
func (n *network) raw(cert *tls.Certificate) *http.Client {
	cfg := &tls.Config{RootCAs: n.ca.Pool(), ServerName: "127.0.0.1"}
	if cert != nil {
		// The usual Certificates field would hold back one that the server's list of authorities does not cover.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	n.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type reply struct {
	status int
	header http.Header
	body   string
}

func send(t *testing.T, c *http.Client, method, url string, header http.Header, body io.Reader) reply {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

func from(values ...string) http.Header { return http.Header{"From": values} }

// keyRequest is a KeyMaterialRequest; the signature is of no interest here.
func keyRequest(requester, target, room mimiuri.URI) []byte {
	return (&wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: requester, TargetUser: target, RoomID: room,
		Suites: []mls.CipherSuite{1}, SignatureKey: []byte("key"), Credential: mls.BasicCredential(secret), Signature: []byte("sig")}).Marshal()
}

func consent(op wire.ConsentOperation, requester, target mimiuri.URI) []byte {
	return (&wire.ConsentEntry{Operation: op, Requester: requester, Target: target}).Marshal()
}

// wantLog checks for a line with the reason and against content.
func (p *provider) wantLog(t *testing.T, reason string) {
	t.Helper()
	got := p.log.String()
	if !strings.Contains(got, reason) {
		t.Errorf("the log does not say %q:\n%s", reason, got)
	}
	if strings.Contains(got, string(secret)) {
		t.Errorf("the log has content:\n%s", got)
	}
}

// hour is a clock that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

var noUsage = []x509.ExtKeyUsage{}
