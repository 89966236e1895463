//go:build live

package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// connect is a component that stays connected.
func connect(t *testing.T, addr, domain, secret string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='%s'>", domain)
	expect := func(re string) string {
		var got []byte
		b := make([]byte, 1024)
		for {
			n, err := c.Read(b)
			if err != nil {
				t.Fatalf("waiting for %s: %v after %s", re, err, got)
			}
			got = append(got, b[:n]...)
			if m := regexp.MustCompile(re).FindSubmatch(got); m != nil {
				return string(m[1])
			}
		}
	}
	sum := sha1.Sum([]byte(expect(`id=["']([^"']+)["']`) + secret))
	fmt.Fprintf(c, "<handshake>%s</handshake>", hex.EncodeToString(sum[:]))
	expect(`(<handshake)`)
	return c
}

func TestCheckAtProsody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	p, err := testnet.StartProsody(ctx, testnet.ProsodyOptions{
		Dir: t.TempDir(), Domain: "xmpp.example", Components: []string{"mimi.xmpp.example"}, Secret: "s3cr3t",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	t.Log("testtable: server " + p.Version)
	for _, tc := range []struct {
		name, server, secret, domain string
		failed                       int
		want                         string
	}{
		{"all is well", p.ComponentAddr, "s3cr3t", "mimi.xmpp.example", 0, "ok    the XMPP server accepts the component"},
		{"wrong secret", p.ComponentAddr, "guess", "mimi.xmpp.example", 1, "refuses the secret"},
		{"unknown component", p.ComponentAddr, "s3cr3t", "other.xmpp.example", 1, "does not know the component other.xmpp.example"},
		{"the port for clients", p.C2S, "s3cr3t", "mimi.xmpp.example", 1, "the component port"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			k := &checker{w: &out}
			if stream := checkComponent(ctx, k, &config.XMPP{Server: tc.server, Secret: tc.secret}, tc.domain); stream != nil {
				stream.close()
			}
			if k.failed != tc.failed || !strings.Contains(out.String(), tc.want) {
				t.Errorf("%d failed: %s", k.failed, out.String())
			}
		})
	}
	t.Run("a running daemon is not disturbed", func(t *testing.T) {
		running := connect(t, p.ComponentAddr, "mimi.xmpp.example", "s3cr3t")
		var out bytes.Buffer
		k := &checker{w: &out}
		checkComponent(ctx, k, &config.XMPP{Server: p.ComponentAddr, Secret: "s3cr3t"}, "mimi.xmpp.example")
		if k.failed != 0 || !strings.Contains(out.String(), "a daemon is running") {
			t.Errorf("%d failed: %s", k.failed, out.String())
		}
		// Its stream still answers.
		fmt.Fprint(running, "<iq type='get' id='p' from='mimi.xmpp.example' to='xmpp.example'><ping xmlns='urn:xmpp:ping'/></iq>")
		if err := running.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for b := make([]byte, 1024); !bytes.Contains(got, []byte("'p'")) && !bytes.Contains(got, []byte(`"p"`)); {
			n, err := running.Read(b)
			if err != nil {
				if err == io.EOF {
					t.Fatalf("the stream was closed: %s", got)
				}
				t.Fatal(err)
			}
			got = append(got, b[:n]...)
		}
	})
}

func TestCheckAtDendrite(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	known := filepath.Join(dir, "known.yaml")
	if _, err := matrix.NewRegistration(known, "http://127.0.0.1:29333", "matrix.example"); err != nil {
		t.Fatal(err)
	}
	unknown := filepath.Join(dir, "unknown.yaml")
	if _, err := matrix.NewRegistration(unknown, "http://127.0.0.1:29333", "matrix.example"); err != nil {
		t.Fatal(err)
	}
	hs, err := testnet.StartDendrite(ctx, testnet.HomeserverOptions{ServerName: "matrix.example", Registrations: []string{known}})
	if err != nil {
		t.Fatal(err)
	}
	defer hs.Stop()
	t.Log("testtable: server Dendrite " + testnet.DendriteVersion)
	for _, tc := range []struct {
		name, registration string
		failed             int
		want               string
	}{
		{"all is well", known, 0, "ok    the homeserver knows the registration"},
		{"a registration that the homeserver was not given", unknown, 1, "does not know the registration's token"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			k := &checker{w: &out}
			checkHomeserver(ctx, k, &config.Matrix{Homeserver: hs.URL, ServerName: "matrix.example", Listen: "127.0.0.1:29333", Registration: tc.registration}, false)
			if k.failed != tc.failed || !strings.Contains(out.String(), tc.want) {
				t.Errorf("%d failed: %s", k.failed, out.String())
			}
		})
	}
}
