package main

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestComposeCommands runs the commands of the compose examples that are mimibridge's, on a folder in place of /data, and holds what comes
// out against the services: names, ports, volumes, what the image starts. The Dockerfile's own steps are internal/image's.
func TestComposeCommands(t *testing.T) {
	top := filepath.Join("..", "..")
	dockerfile, err := os.ReadFile(filepath.Join(top, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"prosody", "synapse"} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(top, "packaging", "compose-"+name, "compose.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			var c struct {
				Services map[string]struct {
					Ports, Volumes []string
					Command        any
					Entrypoint     any
				}
			}
			if err := yaml.Unmarshal(b, &c); err != nil {
				t.Fatal(err)
			}
			data := t.TempDir()
			ca, err := testnet.NewCA(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			cert, key, err := ca.IssueWith("example.org", testnet.CertOptions{Names: []string{"example.org"}})
			if err != nil {
				t.Fatal(err)
			}
			for from, to := range map[string]string{cert: "fullchain.pem", key: "privkey.pem"} {
				text, err := os.ReadFile(from)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(data, to), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			commands := regexp.MustCompile(`(?m)^#   docker compose (?:run|exec) .*?mimibridge (?:/mimibridge )?((?:init|check) .*)$`).FindAllStringSubmatch(string(b), -1)
			if len(commands) != 2 || !strings.HasPrefix(commands[1][1], "check ") {
				t.Fatalf("the commands are %q", commands)
			}
			run := func(line string) (string, int) {
				args := strings.Fields(strings.ReplaceAll(line, "/data", data))
				stdout, stderr, status := mimibridge(t, "", false, args...)
				return stdout + stderr, status
			}
			if out, status := run(commands[0][1]); status != 0 {
				t.Fatalf("init: %s", out)
			}
			if out, _ := run(commands[1][1] + " -look none"); !strings.Contains(out, "is a configuration for example.org") {
				t.Errorf("check: %s", out)
			}
			conf, err := config.Load(filepath.Join(data, "mimibridge.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			// What the image starts is what init has written; all of it lies in the volume.
			if !strings.Contains(string(dockerfile), `CMD ["run", "-c", "/data/mimibridge.yaml"]`) || c.Services["mimibridge"].Command != nil || c.Services["mimibridge"].Entrypoint != nil {
				t.Error("another command is started")
			}
			if !slices.Contains(c.Services["mimibridge"].Volumes, "./mimibridge:/data") {
				t.Errorf("volumes %q", c.Services["mimibridge"].Volumes)
			}
			for _, path := range []string{conf.Storage.SQLite, conf.Federation.CertFile, conf.Federation.KeyFile, conf.Secrets.KeyFile, conf.Admin.Socket, conf.Assets.Folder} {
				if !strings.HasPrefix(path, data+"/") {
					t.Errorf("%s is not in the volume", path)
				}
			}
			_, port, err := net.SplitHostPort(conf.Federation.Listen)
			if err != nil || !slices.Contains(c.Services["mimibridge"].Ports, port+":"+port) {
				t.Errorf("the listener %s is not among the ports %q", conf.Federation.Listen, c.Services["mimibridge"].Ports)
			}
			service := func(host string) {
				t.Helper()
				if _, ok := c.Services[host]; !ok {
					t.Errorf("there is no service %s", host)
				}
			}
			switch x, m := conf.Network.XMPP, conf.Network.Matrix; {
			case x != nil:
				host, port, _ := net.SplitHostPort(x.Server)
				service(host)
				snippet, err := os.ReadFile(filepath.Join(data, "prosody-component.cfg.lua"))
				if err != nil || !strings.Contains(string(snippet), "component_ports = { "+port+" }") || !strings.Contains(string(snippet), x.Secret) {
					t.Errorf("%v %s", err, snippet)
				}
			case m != nil:
				u, err := url.Parse(m.Homeserver)
				if err != nil {
					t.Fatal(err)
				}
				service(u.Hostname())
				r, err := matrix.LoadRegistration(m.Registration, "example.org")
				if err != nil {
					t.Fatal(err)
				}
				if u, err = url.Parse(r.URL); err != nil {
					t.Fatal(err)
				}
				service(u.Hostname())
				if m.Listen != ":"+u.Port() {
					t.Errorf("it listens on %s, and the registration says %s", m.Listen, r.URL)
				}
			}
		})
	}
}
