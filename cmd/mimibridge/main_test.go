package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// mimibridge runs one command line and returns what it printed and its exit status.
func mimibridge(t *testing.T, stdin string, terminal bool, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), &env{in: strings.NewReader(stdin), out: &out, err: &errs, terminal: terminal}, args)
	return out.String(), errs.String(), status
}

func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		name           string
		args           []string
		status         int
		stdout, stderr string
	}{
		{"no command", nil, 2, "", "Usage: mimibridge COMMAND"},
		{"help", []string{"help"}, 0, "registration", ""},
		{"unknown command", []string{"rnu"}, 2, "", `there is no command "rnu"`},
		{"version", []string{"version"}, 0, "mimibridge ", ""},
		{"version as a flag", []string{"--version"}, 0, "mimibridge ", ""},
		{"help of a command", []string{"check", "-h"}, 0, "", "Each problem is printed with its cure"},
		{"unknown flag", []string{"check", "-x"}, 2, "", "-x"},
		{"argument too many", []string{"version", "x"}, 2, "", `unexpected argument "x"`},
		{"configuration missing", []string{"check", "-c", "/nowhere/x.yaml"}, 1, "mimibridge init", ""},
		{"init without answers", []string{"init", "-look", "none", "-c", "/nowhere/x.yaml"}, 1, "", "cure: there is no terminal"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, stderr, status := mimibridge(t, "", false, tc.args...)
			if status != tc.status || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
			}
		})
	}
}

func TestInit(t *testing.T) {
	t.Run("xmpp by flags", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "conf", "mimibridge.yaml")
		stdout, stderr, status := mimibridge(t, "", false, "init", "-c", path, "-look", "none", "-domain", "example.org", "-network", "xmpp")
		if status != 0 {
			t.Fatalf("status %d: %s", status, stderr)
		}
		c, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.Network.XMPP.Users != "mimi.example.org" || c.Federation.URL != "https://example.org:8443" || c.Federation.Listen != ":8443" || len(c.Warnings) > 0 {
			t.Errorf("%+v %+v %q", c.Network.XMPP, c.Federation, c.Warnings)
		}
		if strings.Contains(stdout, c.Network.XMPP.Secret) {
			t.Error("the secret is printed")
		}
		for _, want := range []string{`Component "mimi.example.org"`, `Component "rooms.mimi.example.org"`, "ejabberd_service", "sealing.key", "http_file_share_access", "privileged_entities", "Two things are left"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("%q is not printed", want)
			}
		}
		for _, name := range []string{"mimibridge.yaml", "sealing.key", "component.secret", "prosody-component.cfg.lua", "ejabberd-component.yml"} {
			fi, err := os.Stat(filepath.Join(filepath.Dir(path), name))
			if err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", name, fi, err)
			}
		}
		text, _ := os.ReadFile(path)
		if n := bytes.Count(text, []byte("\n")); n >= 40 {
			t.Errorf("the configuration has %d lines", n)
		}
		before := string(text)
		if snippet, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "prosody-component.cfg.lua")); !strings.Contains(string(snippet), c.Network.XMPP.Secret) {
			t.Errorf("the snippet is %s", snippet)
		}
		if stdout, stderr, status := mimibridge(t, "", false, "init", "-c", path); status != 0 || !strings.Contains(stdout, "stays as it is") {
			t.Errorf("again: status %d, %s", status, stderr)
		}
		if text, _ := os.ReadFile(path); string(text) != before {
			t.Error("the configuration was overwritten")
		}
		// Again with a flag: only what it says is changed.
		if stdout, stderr, status := mimibridge(t, "", false, "init", "-c", path, "-listen", ":9443", "-server", "127.0.0.1:5999"); status != 0 || !strings.Contains(stdout, "Changed in "+path+": federation.listen, network.xmpp.server.") {
			t.Errorf("again: status %d, %s%s", status, stdout, stderr)
		}
		want := strings.Replace(strings.Replace(before, "listen: \":8443\"", "listen: \":9443\"", 1), "server: \"127.0.0.1:5347\"", "server: \"127.0.0.1:5999\"", 1)
		if text, _ := os.ReadFile(path); string(text) != want || want == before {
			t.Errorf("the configuration is now %s", text)
		}
		for _, bad := range [][]string{{"-listen", "nonsense"}, {"-network", "matrix"}, {"-storage", "postgres://x"}} {
			if _, _, status := mimibridge(t, "", false, append([]string{"init", "-c", path}, bad...)...); status != 1 {
				t.Errorf("%q: status %d", bad, status)
			}
		}
		if text, _ := os.ReadFile(path); string(text) != want {
			t.Error("a change that failed changed something")
		}
	})
	t.Run("matrix on a terminal, six questions", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "m.yaml")
		stdout, stderr, status := mimibridge(t, "bad domain\nmatrix.example\nirc\nmatrix\n\n\n:443\n\n", true, "init", "-look", "none", "-c", path)
		if status != 0 {
			t.Fatalf("status %d: %s", status, stderr)
		}
		if n := strings.Count(stdout, ": "); n < 6 || strings.Count(stdout, "MIMI provider domain") != 2 {
			t.Errorf("questions: %s", stdout)
		}
		c, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.Federation.Listen != ":443" || c.Federation.URL != "https://matrix.example" || filepath.Base(c.Federation.KeyFile) != "privkey.pem" || c.Network.Matrix.Homeserver != "http://127.0.0.1:8008" {
			t.Errorf("%+v %+v", c.Network.Matrix, c.Federation)
		}
		b, err := os.ReadFile(c.Network.Matrix.Registration)
		if err != nil {
			t.Fatal(err)
		}
		r, err := matrix.LoadRegistration(c.Network.Matrix.Registration, "matrix.example")
		if err != nil {
			t.Fatal(err)
		}
		if r.ASToken == r.HSToken || len(r.ASToken) < 40 || r.URL != "http://127.0.0.1:29333" {
			t.Errorf("%+v", r)
		}
		again, _, status := mimibridge(t, "", false, "registration", "-c", path)
		if status != 0 || again != string(b) {
			t.Errorf("registration prints %q", again)
		}
	})
	t.Run("what is found", func(t *testing.T) {
		root := t.TempDir()
		for name, text := range map[string]string{
			"etc/prosody/prosody.cfg.lua": "component_ports = { 5999 }\nVirtualHost \"xmpp.example\"\nComponent \"up.xmpp.example\" \"http_file_share\"\n",
		} {
			if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		live := filepath.Join(root, "etc/letsencrypt/live/xmpp.example")
		ca, err := testnet.NewCA(live)
		if err != nil {
			t.Fatal(err)
		}
		cert, key, err := ca.IssueWith("x", testnet.CertOptions{Names: []string{"xmpp.example"}})
		if err != nil {
			t.Fatal(err)
		}
		for from, to := range map[string]string{cert: "fullchain.pem", key: "privkey.pem"} {
			if err := os.Rename(from, filepath.Join(live, to)); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(t.TempDir(), "m.yaml")
		stdout, stderr, status := mimibridge(t, "", false, "init", "-look", root, "-c", path, "-cert", "find")
		if status != 0 {
			t.Fatalf("status %d: %s%s", status, stdout, stderr)
		}
		c, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.Domain != "xmpp.example" || c.Network.XMPP.Server != "127.0.0.1:5999" || c.Federation.CertFile != filepath.Join(live, "fullchain.pem") || c.Federation.KeyFile != filepath.Join(live, "privkey.pem") {
			t.Errorf("%+v %+v", c.Network.XMPP, c.Federation)
		}
		snippet, err := os.ReadFile(filepath.Join(filepath.Dir(path), "prosody-component.cfg.lua"))
		if err != nil || !strings.Contains(string(snippet), "up.xmpp.example") {
			t.Errorf("%v %s", err, snippet)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), "ejabberd-component.yml")); err == nil {
			t.Error("a snippet for a server that is not there")
		}
	})
	t.Run("bad flag", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "m.yaml")
		if _, stderr, status := mimibridge(t, "", false, "init", "-c", path, "-domain", "example.org", "-look", "none", "-network", "matrix", "-url", "ftp://x"); status != 1 || !strings.Contains(stderr, "federation.url") {
			t.Errorf("status %d, %s", status, stderr)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("a bad configuration was written")
		}
	})
	t.Run("registration of an XMPP provider", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "m.yaml")
		mimibridge(t, "", false, "init", "-look", "none", "-c", path, "-domain", "example.org", "-network", "xmpp")
		if _, stderr, status := mimibridge(t, "", false, "registration", "-c", path); status != 1 || !strings.Contains(stderr, "cure:") {
			t.Errorf("status %d, %s", status, stderr)
		}
	})
}

// component is the server side of XEP-0114, as far as the handshake goes. answer gets the domain and whether the
// digest is right, and returns what is sent.
func component(t *testing.T, secret string, answer func(domain string, right bool) string) string {
	t.Helper()
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
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				n, _ := c.Read(buf)
				m := regexp.MustCompile(`to='([^']*)'`).FindSubmatch(buf[:n])
				if m == nil {
					return
				}
				fmt.Fprint(c, `<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='x&amp;1'>`)
				n, _ = c.Read(buf)
				sum := sha1.Sum([]byte("x&1" + secret))
				fmt.Fprint(c, answer(string(m[1]), strings.Contains(string(buf[:n]), hex.EncodeToString(sum[:]))))
				_, _ = c.Read(buf)
			}()
		}
	}()
	return l.Addr().String()
}

func streamErr(cond string) string {
	return "<stream:error><" + cond + " xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	ca, err := testnet.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(base string, o testnet.CertOptions) string {
		t.Helper()
		if _, _, err := ca.IssueWith(base, o); err != nil {
			t.Fatal(err)
		}
		return base
	}
	good := issue("good", testnet.CertOptions{Names: []string{"example.org"}, NotAfter: time.Now().Add(300 * 24 * time.Hour)})
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
	directory := serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != federation.DirectoryPath {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, `{"notify": "https://example.org:8443/notify/{roomId}"}`)
	})
	other := serve(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"notify": "https://example.net/notify"}`)
	})
	web := serve(http.NotFound)
	accepting := component(t, "s3cr3t", func(_ string, right bool) string {
		if !right {
			return streamErr("not-authorized")
		}
		return "<handshake/>"
	})
	silent, err := testnet.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}

	type setting struct{ cert, server, secret, directory, listen string }
	check := func(t *testing.T, s setting) (string, int) {
		t.Helper()
		path := filepath.Join(dir, "c.yaml")
		text := fmt.Sprintf("domain: example.org\nnetwork: {xmpp: {server: %q, secret: %q}}\nfederation: {listen: %q, url: \"https://example.org:8443\", cert_file: %s.crt, key_file: %s.key, ca_file: ca.pem, peers: {example.org: %q}}\n",
			s.server, s.secret, s.listen, s.cert, s.cert, s.directory)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, _, status := mimibridge(t, "", false, "check", "-c", path)
		return stdout, status
	}
	if err := os.WriteFile(filepath.Join(dir, "sealing.key"), []byte(config.NewSealingKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	ok := setting{good, accepting, "s3cr3t", directory, testnet.Loopback(silent[1])}
	for _, tc := range []struct {
		name   string
		change func(*setting)
		status int
		want   []string
	}{
		{"all is well", func(*setting) {}, 0, []string{"ok    the certificate", "component mimi.example.org", "component rooms.mimi.example.org", "ok    the directory"}},
		{"certificate for another name", func(s *setting) { s.cert = issue("name", testnet.CertOptions{Names: []string{"example.net"}}) }, 1, []string{"does not name example.org", "it names example.net"}},
		{"certificate expired", func(s *setting) {
			s.cert = issue("old", testnet.CertOptions{Names: []string{"example.org"}, NotAfter: time.Now().Add(-time.Minute)})
		}, 1, []string{"has expired", "renew"}},
		{"certificate not valid yet", func(s *setting) {
			s.cert = issue("new", testnet.CertOptions{Names: []string{"example.org"}, NotBefore: time.Now().Add(time.Hour)})
		}, 1, []string{"valid only from"}},
		{"certificate expires soon", func(s *setting) {
			s.cert = issue("soon", testnet.CertOptions{Names: []string{"example.org"}, NotAfter: time.Now().Add(5 * 24 * time.Hour)})
		}, 0, []string{"warn  the certificate expires"}},
		{"certificate for another usage", func(s *setting) {
			s.cert = issue("usage", testnet.CertOptions{Names: []string{"example.org"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}})
		}, 1, []string{"not for TLS servers"}},
		{"certificate for clients only", func(s *setting) {
			s.cert = issue("client", testnet.CertOptions{Names: []string{"example.org"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		}, 1, []string{"not for TLS servers"}},
		{"certificate missing", func(s *setting) { s.cert = "nowhere" }, 1, []string{"cannot be loaded"}},
		{"component secret wrong", func(s *setting) { s.secret = "guess" }, 1, []string{"refuses the secret", "cure:"}},
		{"component unknown", func(s *setting) {
			s.server = component(t, "", func(string, bool) string { return streamErr("host-unknown") })
		}, 1, []string{`add Component "mimi.example.org"`}},
		{"component connected already", func(s *setting) {
			s.server = component(t, "", func(string, bool) string { return streamErr("conflict") })
		}, 0, []string{"a daemon is running"}},
		{"component port closed", func(s *setting) { s.server = testnet.Loopback(silent[0]) }, 1, []string{"does not answer at", "component_ports"}},
		{"component port is another", func(s *setting) { s.server = directory }, 1, []string{"is " + directory + " the component port"}},
		{"a daemon is running", func(s *setting) { s.listen, s.server = directory, testnet.Loopback(silent[0]) }, 0, []string{"ok    a daemon of example.org is running", "left to the daemon"}},
		{"the port is taken by another server", func(s *setting) { s.listen = web }, 1, []string{"is not this provider's daemon (status 404)", "federation.listen"}},
		{"the port is taken by something else", func(s *setting) { s.listen = accepting }, 1, []string{"is not this provider's daemon"}},
		{"directory of another provider", func(s *setting) { s.directory = other }, 1, []string{"is of another provider"}},
		{"directory is a web server", func(s *setting) { s.directory = web }, 1, []string{"status 404", "pass that one path on"}},
		{"directory does not answer", func(s *setting) { s.directory = testnet.Loopback(silent[0]) }, 1, []string{"the directory does not answer", "start the daemon"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := ok
			tc.change(&s)
			stdout, status := check(t, s)
			if status != tc.status {
				t.Errorf("status %d", status)
			}
			for _, want := range tc.want {
				if !strings.Contains(stdout, want) {
					t.Errorf("does not print %q", want)
				}
			}
			if t.Failed() {
				t.Log(stdout)
			}
		})
	}
	t.Run("configuration with errors", func(t *testing.T) {
		path := filepath.Join(dir, "bad.yaml")
		if err := os.WriteFile(path, []byte("domain: example.org\nnetwrk: {}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, _, status := mimibridge(t, "", false, "check", "-c", path)
		if status != 1 || !strings.Contains(stdout, "bad.yaml:2") || !strings.Contains(stdout, "cure: did you mean network?") {
			t.Errorf("status %d: %s", status, stdout)
		}
	})
}

func TestCheckHomeserver(t *testing.T) {
	dir := t.TempDir()
	m := &config.Matrix{ServerName: "example.org", Listen: ":29333", Registration: filepath.Join(dir, "registration.yaml")}
	if err := ensureRegistration(m); err != nil {
		t.Fatal(err)
	}
	r, err := matrix.LoadRegistration(m.Registration, m.ServerName)
	if err != nil {
		t.Fatal(err)
	}
	homeserver := func(user string) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.URL.Path == "/_matrix/client/versions":
				io.WriteString(w, `{"versions": ["v1.11"]}`)
			case req.URL.Path == "/_matrix/client/v3/account/whoami" && req.Header.Get("Authorization") == "Bearer "+r.ASToken && user != "":
				fmt.Fprintf(w, `{"user_id": %q}`, user)
			default:
				w.WriteHeader(http.StatusUnauthorized)
			}
		}
	}
	for _, tc := range []struct {
		name   string
		h      http.HandlerFunc
		failed int
		want   string
	}{
		{"all is well", homeserver("@" + r.SenderLocalpart + ":example.org"), 0, "ok    the homeserver knows the registration"},
		{"token unknown", homeserver(""), 1, "does not know the registration's token"},
		{"another server name", homeserver("@" + r.SenderLocalpart + ":example.net"), 1, "network.matrix.server_name"},
		{"not a homeserver", http.NotFound, 1, "no Matrix homeserver (status 404)"},
		{"broken", func(w http.ResponseWriter, req *http.Request) { panic(http.ErrAbortHandler) }, 1, "does not answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := httptest.NewServer(tc.h)
			defer s.Close()
			m.Homeserver = s.URL
			var out bytes.Buffer
			k := &checker{w: &out}
			checkHomeserver(context.Background(), k, m)
			if k.failed != tc.failed || !strings.Contains(out.String(), tc.want) {
				t.Errorf("%d failed: %s", k.failed, out.String())
			}
			if strings.Contains(out.String(), r.ASToken) {
				t.Error("a token is printed")
			}
		})
	}
}
