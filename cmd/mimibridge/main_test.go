package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/config"
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
		// The same from the environment, the file being gone.
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		line := regexp.MustCompile(`(?m)^(\s*)registration: .*$`)
		if err := os.WriteFile(path, line.ReplaceAll(text, []byte("${1}registration_env: MIMI_REGISTRATION")), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Remove(c.Network.Matrix.Registration)
		if _, stderr, status := mimibridge(t, "", false, "config", "show", "-c", path); status != 1 || !strings.Contains(stderr, "MIMI_REGISTRATION") {
			t.Errorf("without the variable: status %d: %s", status, stderr)
		}
		t.Setenv("MIMI_REGISTRATION", string(b))
		again, _, status = mimibridge(t, "", false, "registration", "-c", path)
		if status != 0 || strings.TrimSpace(again) != strings.TrimSpace(string(b)) {
			t.Errorf("registration from the environment prints %q", again)
		}
		if out, _, status := mimibridge(t, "", false, "config", "show", "-c", path); status != 0 || strings.Contains(out, r.ASToken) || !strings.Contains(out, "MIMI_REGISTRATION") {
			t.Errorf("config show: %s", out)
		}
		if c, err = config.Load(path); err != nil {
			t.Fatal(err)
		}
		d := &daemon{log: zerolog.Nop()}
		d.config.Store(c)
		if _, err := d.adapters(c); err != nil {
			t.Errorf("the adapter does not take it: %v", err)
		}
		if err := os.WriteFile(path, line.ReplaceAll(text, []byte("${1}registration_env: MIMI_REGISTRATION\n${1}registration: r.yaml")), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), "more than one way") {
			t.Errorf("given twice: %v", err)
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
