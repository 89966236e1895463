package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// loopPatience is how long a message may take through the local network.
var loopPatience = 15 * time.Second

// note tells of something that is no problem.
func (k *checker) note(what string) { fmt.Fprintf(k.w, "note  %s\n", what) }

// clock compares the time of a server with ours, once for each.
func (k *checker) clock(who string, h http.Header) {
	at, err := http.ParseTime(h.Get("Date"))
	if err != nil || k.clocks[who] {
		return
	}
	if k.clocks == nil {
		k.clocks = map[string]bool{}
	}
	k.clocks[who] = true
	skew := time.Since(at).Round(time.Second)
	const cure = "set this machine's clock by NTP: systemctl enable --now systemd-timesyncd, or chrony"
	switch {
	case skew.Abs() > 5*time.Minute:
		k.fail(fmt.Sprintf("this machine's clock and that of %s differ by %s: key packages and certificates will be refused", who, skew.Abs()), cure)
	case skew.Abs() > 30*time.Second:
		k.warn(fmt.Sprintf("this machine's clock and that of %s differ by %s", who, skew.Abs()), cure)
	}
}

// checkDNS looks whether the names that peers need resolve. Those with an address in federation.peers are private.
func checkDNS(ctx context.Context, k *checker, c *config.Config) {
	domain, _, _ := strings.Cut(c.Domain, ":")
	names := []string{domain}
	if u, err := url.Parse(c.Federation.URL); err == nil && u.Hostname() != domain {
		names = append(names, u.Hostname())
	}
	for _, name := range names {
		if net.ParseIP(name) != nil || c.Federation.Peers[name] != "" {
			continue
		}
		look, cancel := context.WithTimeout(ctx, 10*time.Second)
		addrs, err := net.DefaultResolver.LookupHost(look, name)
		cancel()
		if err != nil {
			k.fail("the name "+name+" does not resolve: peers cannot find this provider", "add an A or AAAA record for it; for a private set-up without DNS, an entry in federation.peers here and at each peer")
			continue
		}
		k.ok("%s is %s", name, strings.Join(addrs, ", "))
	}
}

// checkFront asks the listener at the URL that peers use, with our certificate as client, whether that certificate arrives.
func checkFront(ctx context.Context, k *checker, c *config.Config, roots *x509.CertPool) {
	pair, err := tls.LoadX509KeyPair(c.Federation.CertFile, c.Federation.KeyFile)
	if err != nil {
		return // told already
	}
	u, err := url.Parse(c.Federation.URL)
	if err != nil {
		return
	}
	domain, _, _ := strings.Cut(c.Domain, ":")
	host := u.Hostname()
	name := host
	if net.ParseIP(host) != nil {
		name = domain // as peers do it
	}
	room := mimiuri.URI{Domain: c.Domain, Kind: mimiuri.Room, ID: "mimibridge-check"}
	ask := func(certs ...tls.Certificate) (status int, body string, err error) {
		tr := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name, Certificates: certs},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if to := c.Federation.Peers[host]; to != "" {
					addr = to
				}
				return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, addr)
			},
			DisableKeepAlives: true,
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Federation.URL+"/v1/groupInfo/"+url.PathEscape(room.String()), bytes.NewReader(nil))
		if err != nil {
			return 0, "", err
		}
		req.Header.Set("From", "mimi@"+c.Domain)
		resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		k.clock("the listener", resp.Header)
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return resp.StatusCode, strings.TrimSpace(string(b)), nil
	}
	// A daemon is known by what it says to somebody without a certificate.
	const required = "a client certificate is required"
	bare, bareText, err := ask()
	if err != nil {
		why := err
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			why = ue.Err
		}
		var op *net.OpError
		if errors.As(why, &op) && op.Op == "dial" {
			k.fail("nothing answers at federation.url "+c.Federation.URL+": "+op.Err.Error(), "open the port in the firewall and forward it to "+c.Federation.Listen+", or mend federation.url")
			return
		}
		k.fail("what answers at federation.url "+c.Federation.URL+" does not speak TLS with the provider's certificate: "+why.Error(), "pass TLS through to "+c.Federation.Listen+" instead of ending it before: docs/front.md")
		return
	}
	if bare != http.StatusForbidden || bareText != required {
		k.fail(fmt.Sprintf("what answers at federation.url %s is not this daemon (status %d)", c.Federation.URL, bare), "mend federation.url, or what stands before the daemon: docs/front.md")
		return
	}
	switch status, text, err := ask(pair); {
	case err != nil:
		k.fail("the listener at "+c.Federation.URL+" does not take the provider's certificate as a client's", "pass TLS through to "+c.Federation.Listen+": docs/front.md")
	case status == http.StatusForbidden && text == required:
		k.fail("client certificates do not arrive: what stands before the daemon at "+c.Federation.URL+" ends TLS itself", "pass TLS through to "+c.Federation.Listen+" (nginx: stream with ssl_preread), or give the endpoints a port of their own: docs/front.md")
	case status == http.StatusForbidden && strings.Contains(text, "certificate"):
		k.fail("peers will refuse the provider's certificate as a client's: "+text, "it needs "+domain+" among its subject alternative names, and a chain to an authority that peers know")
	default:
		k.ok("the listener answers at %s, and client certificates arrive", c.Federation.URL)
	}
}

// Limits for disk space, in octets.
const (
	diskFail = 64 << 20
	diskWarn = 512 << 20
)

// checkStorage looks at the database and the disk it is on.
func checkStorage(ctx context.Context, k *checker, c *config.Config, runs bool) {
	dir := filepath.Dir(c.Admin.Socket)
	if c.Storage.Postgres != "" {
		db, err := sql.Open("pgx", c.Storage.Postgres)
		if err == nil {
			ask, cancel := context.WithTimeout(ctx, 10*time.Second)
			err = db.PingContext(ask)
			cancel()
			db.Close()
		}
		if err != nil {
			k.fail("PostgreSQL cannot be used", "does it run, does the database exist, and are user and password right? Try psql with the same URL: createuser, createdb -O USER NAME")
		} else {
			k.ok("PostgreSQL answers")
		}
	} else {
		path := c.Storage.SQLite
		dir = filepath.Dir(path)
		if err := writable(dir); err != nil {
			k.fail("the folder of the database "+dir+" cannot be written to: "+err.Error(), "it has to belong to the user who runs mimibridge: chown, or another storage.sqlite")
		}
		if _, err := os.Stat(path); err == nil {
			if why := damaged(ctx, path); why != "" {
				k.fail("the database "+path+" is damaged or is none: "+why, "restore a backup; without one, remove the file and begin anew: all rooms are lost then")
			} else {
				k.ok("the database is sound")
			}
		} else if runs {
			k.fail("a daemon is running, but "+path+" does not exist", "does it run with another configuration?")
		}
	}
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) == nil {
		k.disk(dir, uint64(st.Bavail)*uint64(st.Bsize))
	}
}

// disk judges the free space.
func (k *checker) disk(dir string, free uint64) {
	if k.free != nil {
		free = k.free()
	}
	what := fmt.Sprintf("%d MB are free on the disk of %s", free>>20, dir)
	const cure = "make room: what is kept for how long is set in the configuration; a full disk stops the daemon, nothing is lost"
	switch {
	case free < diskFail:
		k.fail("only "+what, cure)
	case free < diskWarn:
		k.warn("only "+what, cure)
	default:
		k.ok("%s", what)
	}
}

func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".mimibridge-check-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// damaged says what SQLite finds wrong with a file, "" if nothing.
func damaged(ctx context.Context, path string) string {
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=ro")
	if err != nil {
		return err.Error()
	}
	defer db.Close()
	ask, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var result string
	if err := db.QueryRowContext(ask, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return err.Error()
	}
	if result != "ok" {
		return result
	}
	var n int
	if err := db.QueryRowContext(ask, "SELECT count(*) FROM meta").Scan(&n); err != nil {
		return "it is no database of mimibridge"
	}
	return ""
}

// checkPeer looks at another provider as the daemon does: directory, TLS, and whether it takes our certificate.
func checkPeer(ctx context.Context, k *checker, c *config.Config, roots *x509.CertPool, domain string) {
	pair, err := tls.LoadX509KeyPair(c.Federation.CertFile, c.Federation.KeyFile)
	if err != nil {
		return // told already
	}
	fc := federation.NewClient(federation.Config{Domain: c.Domain, Roots: roots, Resolve: c.Federation.Peers,
		Certificate: func() (*tls.Certificate, error) { return &pair, nil }})
	defer fc.CloseIdle()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	dir, err := fc.FetchDirectory(ctx, domain)
	if err != nil {
		cure := "is the name right, and does its server run? Its admin tests the same with `mimibridge check`"
		var cert *tls.CertificateVerificationError
		var dns *net.DNSError
		switch {
		case errors.As(err, &cert):
			cure = "its certificate is not valid for " + domain + ", or its authority is not known here: federation.ca_file"
		case errors.As(err, &dns):
			cure = "the name does not resolve; a private peer has its address in federation.peers"
		}
		k.fail("the peer "+domain+" has no directory: "+err.Error(), cure)
		return
	}
	if dir["notify"] == "" || dir["update"] == "" {
		k.fail("the directory of "+domain+" lacks endpoints", "its admin has to mend it: notify and update are needed")
		return
	}
	k.ok("the peer %s has a directory; its endpoints are at %s", domain, originOf(dir["notify"]))
}

func originOf(template string) string {
	scheme, rest, ok := strings.Cut(template, "://")
	if !ok {
		return template
	}
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host
}
