package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/federation"
)

const aboutCheck = `
Loads the configuration and tests what it points to: the modes of files with secrets; DNS; the certificate's names, chain, dates
and usages; the database and its disk; this machine's clock; the component handshake, files, privileges and a message through the
XMPP server, or the homeserver, its tokens, whether it reaches this daemon, and a message through it; whether the directory answers at the
provider's own domain and client certificates arrive at the listener. -peer DOMAIN looks at another provider too.
Each problem is printed with its cure. Exit status 1 if anything would keep the provider from working. A daemon may run or not;
what would disturb it is left out then.`

// checker prints results and counts failures.
type checker struct {
	w      io.Writer
	failed int
	look   string // where configurations of homeservers are looked for
	clocks map[string]bool
	free   func() uint64 // for tests: a disk with this much left
}

func (k *checker) ok(format string, args ...any) {
	fmt.Fprintf(k.w, "ok    %s\n", fmt.Sprintf(format, args...))
}

func (k *checker) warn(what, cure string) {
	fmt.Fprintf(k.w, "warn  %s\n      cure: %s\n", what, cure)
}

func (k *checker) fail(what, cure string) {
	k.failed++
	fmt.Fprintf(k.w, "FAIL  %s\n      cure: %s\n", what, cure)
}

func cmdCheck(ctx context.Context, e *env, args []string) error {
	fs := flags(e, "check", aboutCheck)
	path := configFlag(fs)
	peer := fs.String("peer", "", "the `domain` of another provider to look at, too")
	look := fs.String("look", "/", "the `folder` below which the homeserver's configuration is looked for, or none")
	if err := parse(fs, args); err != nil {
		return err
	}
	k := &checker{w: e.out, look: *look}
	c, err := config.Load(*path)
	var errs config.Errors
	switch {
	case errors.As(err, &errs):
		for _, one := range errs {
			cure := one.Cure
			bare := *one
			bare.Cure = ""
			k.fail(bare.Error(), cure)
		}
		return fmt.Errorf("%d problems in the configuration", len(errs))
	case err != nil:
		return err
	}
	k.ok("%s is a configuration for %s", *path, c.Domain)
	for _, w := range c.Warnings {
		what, cure, _ := strings.Cut(w, "; ")
		k.warn(what, cure)
	}
	checkDNS(ctx, k, c)
	roots := checkCertificate(k, c, time.Now())
	runs := checkListener(ctx, k, c, roots)
	checkStorage(ctx, k, c, runs)
	switch {
	case c.Network.XMPP != nil && runs:
		// Some servers take a second connection for a component and would share its stanzas out between both.
		k.ok("the component connections are left to the daemon that is running")
	case c.Network.XMPP != nil:
		checkComponents(ctx, k, c.Network.XMPP)
	case c.Network.Matrix != nil:
		checkHomeserver(ctx, k, c.Network.Matrix, runs)
	}
	checkDirectory(ctx, k, c, roots)
	if runs {
		checkFront(ctx, k, c, roots)
	} else {
		k.note("whether client certificates arrive at the listener is tested while the daemon runs")
	}
	if *peer != "" {
		checkPeer(ctx, k, c, roots, *peer)
	}
	if k.failed > 0 {
		return fmt.Errorf("%d of the checks failed", k.failed)
	}
	return nil
}

// checkCertificate looks at the provider's certificate as a peer would: by it the peer recognises the domain, as
// server and as client. It returns the authorities peers are checked against, nil for the system's.
func checkCertificate(k *checker, c *config.Config, now time.Time) *x509.CertPool {
	var roots *x509.CertPool
	f := c.Federation
	if f.CAFile != "" {
		b, err := os.ReadFile(f.CAFile)
		roots = x509.NewCertPool()
		if err != nil || !roots.AppendCertsFromPEM(b) {
			k.fail("federation.ca_file "+f.CAFile+" holds no certificate", "a PEM file, or leave the key out for the system's authorities")
		}
	}
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		k.fail("the certificate cannot be loaded: "+err.Error(), "cert_file and key_file are PEM files that belong together and that this user can read")
		return roots
	}
	leaf := pair.Leaf
	domain, _, _ := strings.Cut(c.Domain, ":")
	names := []string{domain}
	if u, err := url.Parse(f.URL); err == nil && u.Hostname() != domain {
		names = append(names, u.Hostname())
	}
	bad := k.failed
	for _, name := range names {
		if err := leaf.VerifyHostname(name); err != nil {
			k.fail(fmt.Sprintf("the certificate does not name %s (it names %s)", name, strings.Join(leaf.DNSNames, ", ")), "get one whose subject alternative names include "+name)
		}
	}
	switch {
	case now.Before(leaf.NotBefore):
		k.fail("the certificate is valid only from "+leaf.NotBefore.Format(time.RFC3339), "is this machine's clock right?")
	case now.After(leaf.NotAfter):
		k.fail("the certificate has expired on "+leaf.NotAfter.Format(time.RFC3339), "renew it; a running daemon takes up the new file by itself")
	case now.Add(14 * 24 * time.Hour).After(leaf.NotAfter):
		k.warn("the certificate expires on "+leaf.NotAfter.Format(time.RFC3339), "renew it; a running daemon takes up the new file by itself")
	}
	if len(leaf.ExtKeyUsage) > 0 && !slices.ContainsFunc(leaf.ExtKeyUsage, func(u x509.ExtKeyUsage) bool {
		return u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageAny
	}) {
		k.fail("the certificate is not for TLS servers", "get one with the extended key usage serverAuth; clientAuth is welcome but not needed")
	}
	inter := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			inter.AddCert(cert)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: clamp(now, leaf), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		k.fail("the certificate's chain does not hold: "+err.Error(), "put the intermediate certificates below the certificate in cert_file; an authority of your own goes into ca_file, here and at your peers")
	}
	if k.failed == bad {
		k.ok("the certificate names %s, until %s", strings.Join(names, " and "), leaf.NotAfter.Format(time.DateOnly))
	}
	return roots
}

// clamp moves now into the certificate's validity: that it has expired is told once, not as a broken chain too.
func clamp(now time.Time, leaf *x509.Certificate) time.Time {
	if now.Before(leaf.NotBefore) {
		return leaf.NotBefore
	}
	if now.After(leaf.NotAfter) {
		return leaf.NotAfter
	}
	return now
}

// checkListener looks at what listens on the federation listener's address, and reports whether it is this
// provider's daemon.
func checkListener(ctx context.Context, k *checker, c *config.Config, roots *x509.CertPool) (runs bool) {
	addr := listenURLHost(c.Federation.Listen)
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		k.ok("no daemon is running: nothing listens on %s", c.Federation.Listen)
		return false
	}
	conn.Close()
	status, own, err := fetchDirectory(ctx, k, c, roots, addr)
	switch {
	case err == nil && own:
		k.ok("a daemon of %s is running and listens on %s", c.Domain, c.Federation.Listen)
		return true
	case err != nil:
		k.fail("what listens on "+c.Federation.Listen+" is not this provider's daemon: "+err.Error(), "stop the other program, or choose another port in federation.listen")
	default:
		k.fail(fmt.Sprintf("what listens on %s is not this provider's daemon (status %d)", c.Federation.Listen, status), "stop the other program, or choose another port in federation.listen")
	}
	return false
}

// fetchDirectory fetches the directory of the provider's own domain the way a peer does; addr, if not empty, is where
// to, instead of by DNS. own reports whether it is the one this configuration makes.
func fetchDirectory(ctx context.Context, k *checker, c *config.Config, roots *x509.CertPool, addr string) (status int, own bool, err error) {
	domain, _, _ := strings.Cut(c.Domain, ":")
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: domain},
		DialContext: func(ctx context.Context, network, url string) (net.Conn, error) {
			if addr != "" {
				url = addr
			}
			return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, url)
		},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Domain+federation.DirectoryPath, nil)
	if err != nil {
		return 0, false, err
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		return 0, false, ue.Err
	} else if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	k.clock("the directory's server", resp.Header)
	var dir map[string]any
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&dir) != nil {
		return resp.StatusCode, false, nil
	}
	for _, at := range dir {
		text, _ := at.(string)
		own = own || strings.HasPrefix(text, c.Federation.URL+"/")
	}
	return resp.StatusCode, own && resp.StatusCode == http.StatusOK, nil
}

// checkDirectory looks at the directory where peers look for it.
func checkDirectory(ctx context.Context, k *checker, c *config.Config, roots *x509.CertPool) {
	domain, _, _ := strings.Cut(c.Domain, ":")
	at := "https://" + c.Domain + federation.DirectoryPath
	pass := "let the web server of " + domain + " pass that one path on to " + c.Federation.Listen
	switch status, own, err := fetchDirectory(ctx, k, c, roots, c.Federation.Peers[c.Domain]); {
	case err != nil:
		k.fail("the directory does not answer at "+at+": "+err.Error(), "start the daemon, and "+pass+" (or listen on port 443)")
	case own:
		k.ok("the directory answers at %s", at)
	case status == http.StatusOK:
		k.fail("the directory at "+at+" is of another provider: it does not contain "+c.Federation.URL, "is the path passed on to this daemon, and is federation.url the same as in its configuration?")
	default:
		k.fail(fmt.Sprintf("what answers at %s is no directory (status %d)", at, status), pass)
	}
}
