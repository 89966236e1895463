package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// xmppServer is the server side of XEP-0114 with an upload service, as far as check needs one.
type xmppServer struct {
	secret   string
	answer   func(domain string, right bool) string // instead of the usual answer to a handshake
	upload   string                                 // "" works, "none", "forbidden", or the status with which a PUT is answered
	silent   bool                                   // messages are not routed
	perms    string                                 // what privileges are granted, instead of roster
	put      string                                 // URL of the server that takes files
	mu       sync.Mutex
	sessions map[string]net.Conn
}

func (x *xmppServer) start(t *testing.T) string {
	t.Helper()
	x.sessions = map[string]net.Conn{}
	status := http.StatusCreated
	fmt.Sscan(x.upload, &status)
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(files.Close)
	if x.put == "" {
		x.put = files.URL
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go x.serve(c)
		}
	}()
	return l.Addr().String()
}

func (x *xmppServer) serve(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 4096)
	n, _ := c.Read(buf)
	m := regexp.MustCompile(`to='([^']*)'`).FindSubmatch(buf[:n])
	if m == nil {
		return
	}
	domain := string(m[1])
	fmt.Fprint(c, `<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='x&amp;1'>`)
	n, _ = c.Read(buf)
	sum := sha1.Sum([]byte("x&1" + x.secret))
	right := strings.Contains(string(buf[:n]), hex.EncodeToString(sum[:]))
	if x.answer != nil {
		fmt.Fprint(c, x.answer(domain, right))
		_, _ = c.Read(buf)
		return
	}
	if !right {
		fmt.Fprint(c, streamErr("not-authorized"))
		return
	}
	fmt.Fprint(c, "<handshake/>")
	if domain == "mimi.example.org" {
		perms := x.perms
		if perms == "" {
			perms = "<perm access='roster' type='both'/>"
		}
		fmt.Fprint(c, "<message from='example.org' to='mimi.example.org'><privilege xmlns='urn:xmpp:privilege:2'>"+perms+"</privilege></message>")
	}
	x.mu.Lock()
	x.sessions[domain] = c
	x.mu.Unlock()
	dec := xml.NewDecoder(c)
	for {
		tok, err := dec.Token()
		if err != nil {
			return
		}
		start, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		var e struct {
			ID    string `xml:"id,attr"`
			To    string `xml:"to,attr"`
			Inner string `xml:",innerxml"`
		}
		if dec.DecodeElement(&e, &start) != nil {
			return
		}
		_, to, _ := strings.Cut(e.To, "@")
		if start.Name.Local == "message" {
			x.mu.Lock()
			if other := x.sessions[to]; other != nil && !x.silent {
				fmt.Fprintf(other, "<message id='%s' to='%s'>%s</message>", e.ID, e.To, e.Inner)
			}
			x.mu.Unlock()
			continue
		}
		result := func(s string) { fmt.Fprintf(c, "<iq type='result' id='%s' from='%s'>%s</iq>", e.ID, e.To, s) }
		switch {
		case strings.Contains(e.Inner, "disco#items"):
			result("<query xmlns='http://jabber.org/protocol/disco#items'><item jid='upload.example.org'/></query>")
		case strings.Contains(e.Inner, "disco#info") && e.To == "upload.example.org" && x.upload != "none":
			result("<query xmlns='http://jabber.org/protocol/disco#info'><feature var='urn:xmpp:http:upload:0'/></query>")
		case strings.Contains(e.Inner, "disco#info"):
			result("<query xmlns='http://jabber.org/protocol/disco#info'/>")
		case x.upload == "forbidden":
			fmt.Fprintf(c, "<iq type='error' id='%s'><error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>", e.ID)
		default:
			result("<slot xmlns='urn:xmpp:http:upload:0'><put url='" + x.put + "/f'><header name='Authorization'>x</header></put><get url='" + x.put + "/f'/></slot>")
		}
	}
}

func streamErr(cond string) string {
	return "<stream:error><" + cond + " xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
}

// homeserver is a Matrix homeserver, as far as check needs one.
type homeserver struct {
	user   string // what whoami says, "" for an unknown token
	ping   string // "", "none", or an errcode
	drop   bool   // no transactions
	token  string // another hs_token
	skew   time.Duration
	broken bool
	reg    *matrix.Registration
}

func (h *homeserver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if h.broken {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Date", time.Now().Add(h.skew).UTC().Format(http.TimeFormat))
	if req.URL.Path == "/_matrix/client/versions" {
		io.WriteString(w, `{"versions": ["v1.11"]}`)
		return
	}
	if req.Header.Get("Authorization") != "Bearer "+h.reg.ASToken || h.user == "" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	token := h.reg.HSToken
	if h.token != "" {
		token = h.token
	}
	call := func(method, path, body string) int {
		r, err := http.NewRequest(method, h.reg.URL+path, strings.NewReader(body))
		if err != nil {
			return 0
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	switch path := req.URL.Path; {
	case strings.HasSuffix(path, "/whoami"):
		fmt.Fprintf(w, `{"user_id": %q}`, h.user)
	case strings.HasSuffix(path, "/ping") && h.ping == "none":
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errcode": "M_UNRECOGNIZED"}`)
	case strings.HasSuffix(path, "/ping") && h.ping != "":
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprintf(w, `{"errcode": %q}`, h.ping)
	case strings.HasSuffix(path, "/ping"):
		if call(http.MethodPost, "/_matrix/app/v1/ping", "{}") != http.StatusOK {
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, `{"errcode": "M_BAD_STATUS"}`)
			return
		}
		io.WriteString(w, "{}")
	case strings.HasSuffix(path, "/createRoom"):
		io.WriteString(w, `{"room_id": "!r:example.org"}`)
	case strings.Contains(path, "/send/"):
		b, _ := io.ReadAll(req.Body)
		io.WriteString(w, `{"event_id": "$e"}`)
		if !h.drop {
			go call(http.MethodPut, "/_matrix/app/v1/transactions/1", `{"events": [{"room_id": "!r:example.org", "content": `+string(b)+`}]}`)
		}
	default:
		io.WriteString(w, "{}")
	}
}

// TestCheckFaults plants faults one by one; check finds each, says its cure, and nothing else is wrong.
func TestCheckFaults(t *testing.T) {
	defer func(d time.Duration) { loopPatience = d }(loopPatience)
	loopPatience = 2 * time.Second
	dir := t.TempDir()
	ca, err := testnet.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(base string, o testnet.CertOptions) string {
		t.Helper()
		if o.Names == nil {
			o.Names = []string{"example.org"}
		}
		if _, _, err := ca.IssueWith(base, o); err != nil {
			t.Fatal(err)
		}
		return base
	}
	good := issue("good", testnet.CertOptions{NotAfter: time.Now().Add(300 * 24 * time.Hour)})
	pair, err := ca.Certificate("example.org")
	if err != nil {
		t.Fatal(err)
	}
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewUnstartedServer(h)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*pair}}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	// The daemon's own listener, and servers that stand in its place.
	listener := func(baseURL string) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := federation.NewServer(federation.Config{Domain: "example.org", BaseURL: baseURL, Roots: ca.Pool(),
			Certificate: func() (*tls.Certificate, error) { return pair, nil }}, federation.Ports{})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(ctx, ln) }()
		t.Cleanup(func() { cancel(); <-done })
		return ln.Addr().String()
	}
	silent, err := testnet.FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	closed, free := testnet.Loopback(silent[0]), testnet.Loopback(silent[1])
	daemon, moved := listener("https://example.org:8443"), listener("https://"+closed)
	proxied := serve((&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "https", Host: daemon}) },
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "example.org"}},
	}).ServeHTTP)
	directory := func(text string, skew time.Duration) string {
		return serve(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
			if r.URL.Path != federation.DirectoryPath {
				http.NotFound(w, r)
				return
			}
			io.WriteString(w, text)
		})
	}
	static := directory(`{"notify": "https://example.org:8443/notify/{roomId}"}`, 0)
	web := serve(http.NotFound)
	accepting := (&xmppServer{secret: "s3cr3t"}).start(t)
	if err := os.WriteFile(filepath.Join(dir, "sealing.key"), []byte(config.NewSealingKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "broken.db"), bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}

	// Matrix.
	m := &config.Matrix{ServerName: "example.org", Listen: testnet.Loopback(silent[2]), Registration: filepath.Join(dir, "registration.yaml")}
	if err := ensureRegistration(m); err != nil {
		t.Fatal(err)
	}
	reg, err := matrix.LoadRegistration(m.Registration, m.ServerName)
	if err != nil {
		t.Fatal(err)
	}
	bot := "@" + reg.SenderLocalpart + ":example.org"
	synapse := func(t *testing.T, files ...string) string {
		root := t.TempDir()
		etc := filepath.Join(root, "etc", "matrix-synapse")
		if err := os.MkdirAll(etc, 0o700); err != nil {
			t.Fatal(err)
		}
		text := "server_name: example.org\n"
		if len(files) > 0 {
			text += "app_service_config_files: [" + strings.Join(files, ", ") + "]\n"
		}
		if err := os.WriteFile(filepath.Join(etc, "homeserver.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return root
	}
	otherReg := filepath.Join(dir, "other-registration.yaml")
	if b, err := os.ReadFile(m.Registration); err != nil || os.WriteFile(otherReg, bytes.ReplaceAll(b, []byte(reg.ASToken), []byte("another")), 0o600) != nil {
		t.Fatal(err)
	}

	// setting is a configuration to be checked; ok has no fault.
	type setting struct {
		cert, server, secret, directory, listen, url, sqlite, more, peers string
		args                                                              []string
		mode                                                              os.FileMode // of component.secret
	}
	ok := setting{cert: good, server: accepting, secret: "s3cr3t", directory: static, listen: free, url: "https://example.org:8443", sqlite: "ok.db", mode: 0o600}
	xmppCheck := func(t *testing.T, s setting) (string, int) {
		t.Helper()
		path := filepath.Join(dir, "c.yaml")
		peers := fmt.Sprintf("example.org: %q", s.directory)
		if s.directory == "" {
			peers = ""
		}
		peers += s.peers
		text := fmt.Sprintf("domain: example.org\nnetwork: {xmpp: {server: %q, secret_file: component.secret}}\nstorage: {sqlite: %q}\nfederation: {listen: %q, url: %q, cert_file: %s.crt, key_file: %s.key, ca_file: ca.pem, peers: {%s}}\n%s",
			s.server, s.sqlite, s.listen, s.url, s.cert, s.cert, peers, s.more)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "component.secret"), []byte(s.secret), 0o600), os.Chmod(filepath.Join(dir, "component.secret"), s.mode)); err != nil {
			t.Fatal(err)
		}
		stdout, _, status := mimibridge(t, "", false, append([]string{"check", "-c", path, "-look", "none"}, s.args...)...)
		return stdout, status
	}
	with := func(change func(t *testing.T, s *setting)) func(t *testing.T) (string, int) {
		return func(t *testing.T) (string, int) {
			s := ok
			change(t, &s)
			return xmppCheck(t, s)
		}
	}
	server := func(x *xmppServer) func(t *testing.T) (string, int) {
		return with(func(t *testing.T, s *setting) {
			x.secret = "s3cr3t"
			s.server = x.start(t)
		})
	}
	cert := func(name string, o testnet.CertOptions) func(t *testing.T) (string, int) {
		return with(func(t *testing.T, s *setting) { s.cert = issue(name, o) })
	}
	hs := func(h homeserver, look func(t *testing.T) string, runs bool) func(t *testing.T) (string, int) {
		return func(t *testing.T) (string, int) {
			h.reg = reg
			s := httptest.NewServer(&h)
			defer s.Close()
			one := *m
			one.Homeserver = s.URL
			var out bytes.Buffer
			k := &checker{w: &out, look: "none"}
			if look != nil {
				k.look = look(t)
			}
			checkHomeserver(context.Background(), k, &one, runs)
			if strings.Contains(out.String(), reg.ASToken) || strings.Contains(out.String(), reg.HSToken) {
				t.Error("a token is printed")
			}
			return out.String(), min(k.failed, 1)
		}
	}

	for _, tc := range []struct {
		name string
		run  func(t *testing.T) (string, int)
		want []string
	}{
		{"nothing: XMPP", with(func(*testing.T, *setting) {}), []string{"ok    the certificate", "component mimi.example.org", "component rooms.mimi.example.org", "goes through the XMPP server", "takes files", "grants the privilege roster", "note  the XMPP server does not grant the privilege iq for pubsub", "MB are free", "ok    the directory"}},
		{"nothing: XMPP, a daemon is running", with(func(t *testing.T, s *setting) {
			s.listen, s.directory, s.server = daemon, daemon, closed
			s.sqlite = "there.db"
			makeDB(t, filepath.Join(dir, "there.db"))
		}), []string{"ok    a daemon of example.org is running", "left to the daemon", "client certificates arrive", "the database is sound"}},
		{"nothing: Matrix", hs(homeserver{user: bot}, nil, false), []string{"ok    the homeserver knows the registration", "ok    the homeserver reaches", "ok    a message goes through the homeserver"}},
		{"nothing: a homeserver without ping", hs(homeserver{user: bot, ping: "none"}, nil, false), []string{"note  the homeserver offers no ping", "ok    a message goes"}},
		{"nothing: a component that is connected already", server(&xmppServer{answer: func(string, bool) string { return streamErr("conflict") }}), []string{"a daemon is running"}},

		{"a key that does not exist", with(func(t *testing.T, s *setting) { s.more = "netwrk: {}\n" }), []string{"FAIL", "c.yaml:5", "did you mean network?"}},
		{"a secret that everybody may read", with(func(t *testing.T, s *setting) { s.mode = 0o644 }), []string{"warn  ", "component.secret", "chmod o="}},
		{"a name that does not resolve", with(func(t *testing.T, s *setting) { s.directory = "" }), []string{"FAIL  the name example.org does not resolve", "A or AAAA record"}},
		{"a certificate for another name", cert("name", testnet.CertOptions{Names: []string{"example.net"}}), []string{"does not name example.org", "it names example.net", "alternative names include example.org"}},
		{"a certificate that has expired", cert("old", testnet.CertOptions{NotAfter: time.Now().Add(-time.Minute)}), []string{"has expired", "renew"}},
		{"a certificate that is not valid yet", cert("new", testnet.CertOptions{NotBefore: time.Now().Add(time.Hour)}), []string{"valid only from", "clock"}},
		{"a certificate that expires soon", cert("soon", testnet.CertOptions{NotAfter: time.Now().Add(5 * 24 * time.Hour)}), []string{"warn  the certificate expires", "renew"}},
		{"a certificate for e-mail", cert("usage", testnet.CertOptions{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}), []string{"not for TLS servers", "serverAuth"}},
		{"a certificate for clients only", cert("client", testnet.CertOptions{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}), []string{"not for TLS servers", "serverAuth"}},
		{"no certificate", with(func(t *testing.T, s *setting) { s.cert = "nowhere" }), []string{"cannot be loaded", "PEM files that belong together"}},
		{"a chain that does not hold", with(func(t *testing.T, s *setting) {
			other, err := testnet.NewCA(filepath.Join(dir, "other"))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := other.IssueWith("x", testnet.CertOptions{Names: []string{"example.org"}}); err != nil {
				t.Fatal(err)
			}
			s.cert = "other/x"
		}), []string{"chain does not hold", "intermediate certificates"}},
		{"the clock is wrong", with(func(t *testing.T, s *setting) {
			s.directory = directory(`{"notify": "https://example.org:8443/x"}`, 3*time.Hour)
		}), []string{"FAIL  this machine's clock", "NTP"}},
		{"the component secret is wrong", with(func(t *testing.T, s *setting) { s.secret = "guess" }), []string{"refuses the secret", "same component_secret"}},
		{"the component is not configured", server(&xmppServer{answer: func(string, bool) string { return streamErr("host-unknown") }}), []string{`add Component "mimi.example.org"`}},
		{"the component port is closed", with(func(t *testing.T, s *setting) { s.server = closed }), []string{"does not answer at", "component_ports"}},
		{"the component port is another", with(func(t *testing.T, s *setting) { s.server = static }), []string{"is " + static + " the component port"}},
		{"uploads are not allowed", server(&xmppServer{upload: "forbidden"}), []string{"gives the component mimi.example.org no slot", "http_file_share_access"}},
		{"there is no upload service", server(&xmppServer{upload: "none"}), []string{"warn  the XMPP server has no upload service", "http_file_share"}},
		{"a proxy refuses uploads", server(&xmppServer{upload: "405"}), []string{"is answered with 405", "PUT"}},
		{"uploads go to nowhere", server(&xmppServer{put: "http://" + closed}), []string{"cannot be reached from here", "put_url"}},
		{"nothing: privileges are refused", server(&xmppServer{perms: "<perm access='roster' type='none'/>"}), []string{"does not grant the privilege roster", "add them by hand", "does not grant the privilege iq for pubsub", "bookmarks by themselves", "mod_privilege"}},
		{"nothing: a privilege is granted in part", server(&xmppServer{perms: "<perm access='roster' type='set'/>"}), []string{"grants the privilege roster only to set"}},
		{"messages do not come through", server(&xmppServer{silent: true}), []string{"does not come through the XMPP server", "firewall"}},
		{"the port is taken by another server", with(func(t *testing.T, s *setting) { s.listen = web }), []string{"is not this provider's daemon (status 404)", "another port in federation.listen"}},
		{"the directory is of another provider", with(func(t *testing.T, s *setting) {
			s.directory = directory(`{"notify": "https://example.net/notify"}`, 0)
		}), []string{"is of another provider", "passed on to this daemon"}},
		{"the directory is a web server", with(func(t *testing.T, s *setting) { s.directory = web }), []string{"status 404", "pass that one path on"}},
		{"the directory does not answer", with(func(t *testing.T, s *setting) { s.directory = closed }), []string{"the directory does not answer", "start the daemon"}},
		{"a proxy keeps client certificates", with(func(t *testing.T, s *setting) { s.listen, s.directory = daemon, proxied }), []string{"client certificates do not arrive", "ssl_preread"}},
		{"the URL leads to nobody", with(func(t *testing.T, s *setting) { s.listen, s.directory, s.url = moved, moved, "https://"+closed }), []string{"nothing answers at federation.url", "firewall"}},
		{"the URL leads to a web server", with(func(t *testing.T, s *setting) { s.listen, s.directory = daemon, static }), []string{"is not this daemon (status 404)", "mend federation.url"}},
		{"the database is damaged", with(func(t *testing.T, s *setting) { s.sqlite = "broken.db" }), []string{"damaged or is none", "restore a backup"}},
		{"the database cannot be written", with(func(t *testing.T, s *setting) { s.sqlite = "/proc/nowhere/x.db" }), []string{"cannot be written to", "chown"}},
		{"the disk is full", func(*testing.T) (string, int) {
			var out bytes.Buffer
			k := &checker{w: &out, free: func() uint64 { return 1 << 20 }}
			k.disk(dir, 1<<40)
			return out.String(), k.failed
		}, []string{"FAIL  only 1 MB are free", "make room"}},
		{"a peer that is not there", with(func(t *testing.T, s *setting) {
			s.more, s.args = "", []string{"-peer", "peer.example"}
		}), []string{"the peer peer.example has no directory", "federation.peers"}},
		{"a peer with another's certificate", func(t *testing.T) (string, int) {
			stranger := httptest.NewTLSServer(http.NotFoundHandler())
			defer stranger.Close()
			s := ok
			s.peers = fmt.Sprintf(", peer.example: %q", stranger.Listener.Addr().String())
			s.args = []string{"-peer", "peer.example"}
			return xmppCheck(t, s)
		}, []string{"has no directory", "its certificate is not valid for peer.example"}},

		{"no registration", func(t *testing.T) (string, int) {
			var out bytes.Buffer
			k := &checker{w: &out}
			checkHomeserver(context.Background(), k, &config.Matrix{Registration: filepath.Join(dir, "none.yaml")}, false)
			return out.String(), k.failed
		}, []string{"there is no registration", "mimibridge registration -c FILE"}},
		{"the homeserver knows no such token", hs(homeserver{}, nil, false), []string{"does not know the registration's token", "restart it"}},
		{"the application service is not registered", hs(homeserver{}, func(t *testing.T) string { return synapse(t) }, false), []string{"lists no application service", "app_service_config_files"}},
		{"another application service is registered", hs(homeserver{}, func(t *testing.T) string { return synapse(t, "/nowhere.yaml") }, false), []string{"none of the registrations", "add a copy"}},
		{"the homeserver was not restarted", hs(homeserver{}, func(t *testing.T) string { return synapse(t, m.Registration) }, false), []string{"though " + m.Registration + " has it", "restart the homeserver"}},
		{"the homeserver has another token", hs(homeserver{}, func(t *testing.T) string { return synapse(t, otherReg) }, false), []string{"has another token", "there again and restart"}},
		{"another server name", hs(homeserver{user: "@x:example.net"}, nil, false), []string{"network.matrix.server_name"}},
		{"the homeserver cannot reach us", hs(homeserver{user: bot, ping: "M_CONNECTION_FAILED"}, nil, true), []string{"cannot reach the application service", "container"}},
		{"the homeserver has no url", hs(homeserver{user: bot, ping: "M_URL_NOT_SET"}, nil, true), []string{"has no url", "copy"}},
		{"the homeserver uses another hs_token", hs(homeserver{user: bot, token: "x"}, nil, false), []string{"is refused there", "another hs_token"}},
		{"the homeserver has backed off", hs(homeserver{user: bot, drop: true}, nil, false), []string{"backed off", "restarting the homeserver"}},
		{"the homeserver's clock is wrong", hs(homeserver{user: bot, skew: time.Hour}, nil, false), []string{"this machine's clock", "NTP"}},
		{"the homeserver is broken", hs(homeserver{broken: true}, nil, false), []string{"does not answer", "is it running"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, status := tc.run(t)
			problems := strings.Count(out, "FAIL  ") + strings.Count(out, "warn  ")
			switch {
			case strings.HasPrefix(tc.name, "nothing"):
				if status != 0 || problems > 0 {
					t.Errorf("status %d, %d problems", status, problems)
				}
			case problems == 0 || strings.Count(out, "cure: ") != problems:
				t.Errorf("%d problems, %d cures", problems, strings.Count(out, "cure: "))
			case strings.Contains(out, "FAIL  ") != (status != 0):
				t.Errorf("status %d", status)
			}
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("does not print %q", want)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

// makeDB makes an empty database.
func makeDB(t *testing.T, path string) {
	t.Helper()
	st, err := store.Open(t.Context(), store.Options{Path: path, Domain: "example.org", Key: make([]byte, store.KeySize)})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}
