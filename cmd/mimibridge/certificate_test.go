package main

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestCertificateIsReadAgain: a renewed certificate is in use after a reload; one that cannot be read leaves the old one in use.
func TestCertificateIsReadAgain(t *testing.T) {
	p := newProviders(t, "a.example")[0].start()
	serial := func() string {
		c, err := tls.Dial("tcp", p.addr, &tls.Config{RootCAs: p.ca.Pool(), ServerName: "a.example"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	if err := os.WriteFile(filepath.Join(p.dir, "..", "a.example.crt"), []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.ok("config", "reload")
	if now := serial(); now != first {
		t.Errorf("a broken file changed the certificate to %s", now)
	}
	// The daemon's log comes to the test by a pipe, behind its answers.
	for end := time.Now().Add(20 * time.Second); !strings.Contains(p.logged(), "the old one stays in use"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log does not tell: %s", p.logged())
		}
	}
	if _, _, err := p.ca.IssueWith("a.example", testnet.CertOptions{Names: []string{"a.example"}, NotAfter: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	p.ok("config", "reload")
	if now := serial(); now == first {
		t.Error("the renewed certificate is not in use")
	}
}
