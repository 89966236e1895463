//go:build live

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/adapters/console"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// block gives the block of a document whose fence has this info string.
func block(t *testing.T, doc, info string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", doc))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "```"+info+"\n")
	text, _, ok2 := strings.Cut(rest, "\n```")
	if !ok || !ok2 {
		t.Fatalf("%s has no block %q", doc, info)
	}
	return text + "\n"
}

// TestFront: the configurations of docs/front.md, with the real servers; a room between two daemons through each.
func TestFront(t *testing.T) {
	for _, tc := range []struct {
		name  string
		start func(ctx context.Context, t *testing.T, a *provider, edit func(string) string) (*testnet.Process, error)
		all   bool // the endpoints, too, are reached through it
	}{
		{"nginx with a static directory", func(ctx context.Context, t *testing.T, a *provider, edit func(string) string) (*testnet.Process, error) {
			return testnet.Nginx(ctx, filepath.Join(a.dir, "nginx"), "http {\naccess_log off;\n"+edit(block(t, "front.md", "nginx static"))+"}")
		}, false},
		{"Caddy with a static directory", func(ctx context.Context, t *testing.T, a *provider, edit func(string) string) (*testnet.Process, error) {
			return testnet.Caddy(ctx, filepath.Join(a.dir, "caddy"), "{\nadmin off\nauto_https off\nskip_install_trust\n}\n"+edit(block(t, "front.md", "caddy static")))
		}, false},
		{"nginx that passes TLS through", func(ctx context.Context, t *testing.T, a *provider, edit func(string) string) (*testnet.Process, error) {
			web := strings.ReplaceAll(block(t, "front.md", "nginx static"), "443", "127.0.0.1:8444")
			return testnet.Nginx(ctx, filepath.Join(a.dir, "nginx"), "http {\naccess_log off;\n"+edit(web)+"}\n"+edit(block(t, "front.md", "nginx passthrough")))
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			ps := newProviders(t, "a.example", "b.example")
			a, b := ps[0], ps[1]
			ports, err := testnet.FreePorts(2)
			if err != nil {
				t.Fatal(err)
			}
			front, web := testnet.Loopback(ports[0]), testnet.Loopback(ports[1])
			endpoints := a.addr
			if tc.all {
				endpoints = front
			}
			for _, p := range ps {
				text, err := os.ReadFile(p.config)
				if err != nil {
					t.Fatal(err)
				}
				p.write("mimibridge.yaml", strings.NewReplacer(
					`url: "https://`+a.addr+`"`, "url: https://mimi.a.example",
					`a.example: "`+a.addr+`"`, `a.example: "`+front+"\"\n    mimi.a.example: \""+endpoints+`"`).Replace(string(text)))
			}
			a.write("directory.json", a.ok("directory"))
			edit := strings.NewReplacer("example.org:443", "https://a.example:"+strings.TrimPrefix(front, "127.0.0.1:"), "mimi.example.org", "mimi.a.example",
				"/etc/ssl/example.org/fullchain.pem", filepath.Join(a.dir, "..", "a.example.crt"), "/etc/ssl/example.org/privkey.pem", filepath.Join(a.dir, "..", "a.example.key"),
				"/var/www/mimi-protocol-directory.json", filepath.Join(a.dir, "directory.json"), "root * /var/www", "root * "+a.dir, "/mimi-protocol-directory.json", "/directory.json",
				"example.org", "a.example", "127.0.0.1:8443", a.addr, "127.0.0.1:8444", web, "listen 443", "listen "+front)
			server, err := tc.start(ctx, t, a, edit.Replace)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Stop()
			if err := server.WaitPort(ctx, front); err != nil {
				log, _ := os.ReadFile(server.LogPath())
				t.Fatalf("%v: %s", err, log)
			}
			a.start()
			b.start()
			if out, errs, status := a.run("", "check", "-look", "none"); status != 0 || !strings.Contains(out, "client certificates arrive") {
				t.Errorf("check: status %d\n%s%s", status, out, errs)
			}
			const room = "mimi://a.example/r/r"
			alice, bob := a.chat("alice", room), b.chat("bob", room)
			alice.do(console.Request{Do: "create"})
			alice.event("joined", "mimi://a.example/u/alice")
			alice.do(console.Request{Do: "invite", User: "bob@b.example"})
			bob.event("joined", "mimi://b.example/u/bob")
			bob.do(console.Request{Do: "say", Text: "through the front"})
			alice.text("through the front")
			alice.do(console.Request{Do: "say", Text: "and back"})
			bob.text("and back")
		})
	}
}
