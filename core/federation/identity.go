package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// parseFrom reads the header From: exactly one, mimi@domain, without a display name (section "Transport layer").
func parseFrom(h http.Header) (domain string, err error) {
	bad := func(why string) (string, error) {
		return "", fault.New(fault.Malformed, "the header From must be mimi@ and the provider's domain: "+why)
	}
	values := h.Values("From")
	if len(values) != 1 {
		return bad(fmt.Sprintf("there are %d of them", len(values)))
	}
	local, domain, ok := strings.Cut(strings.Trim(values[0], " \t"), "@")
	if !ok || local != "mimi" {
		return bad("it is something else")
	}
	domain, err = mimiuri.NormalizeDomain(domain)
	if err != nil {
		return bad("the domain is not one")
	}
	return domain, nil
}

// identity is what a connection's client certificate proves: the certificate once its chain is verified, or why not.
type identity struct {
	leaf *x509.Certificate
	err  error
}

// verify checks the certificates a peer presented. It does not look at names.
func verify(state *tls.ConnectionState, roots *x509.CertPool, now time.Time) (id identity) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return identity{err: fault.New(fault.Forbidden, "a client certificate is required")}
	}
	leaf := state.PeerCertificates[0]
	pool := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		pool.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: pool, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	if err == nil && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) &&
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		// crypto/x509 takes a certificate that states no usage for one of any usage.
		err = errors.New("it states neither serverAuth nor clientAuth")
	}
	if err != nil {
		return identity{err: fault.Wrap(fault.Forbidden, "the client certificate is not valid here", err)}
	}
	return identity{leaf: leaf}
}

// speaksFor checks that the certificate is the domain's.
func (id identity) speaksFor(domain string, now time.Time) error {
	if id.err != nil {
		return id.err
	}
	if now.After(id.leaf.NotAfter) { // it may have run out since the handshake
		return fault.New(fault.Forbidden, "the client certificate has expired")
	}
	host := hostOf(domain)
	if ip := net.ParseIP(host); ip != nil {
		if slices.ContainsFunc(id.leaf.IPAddresses, ip.Equal) {
			return nil
		}
	} else if slices.ContainsFunc(id.leaf.DNSNames, func(name string) bool {
		n, err := mimiuri.NormalizeDomain(name)
		return err == nil && n == host
	}) {
		return nil
	}
	return fault.New(fault.Forbidden, "the client certificate is not that of the domain in the header From")
}

// identities remembers per connection what verify said: chains are not verified for each request.
type connKey struct{}

type connIdentity struct {
	once sync.Once
	id   identity
}

func withConn(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, new(connIdentity))
}

func (s *Server) identityOf(r *http.Request) identity {
	conn, ok := r.Context().Value(connKey{}).(*connIdentity)
	if !ok {
		return verify(r.TLS, s.cfg.Roots, s.cfg.Now())
	}
	conn.once.Do(func() { conn.id = verify(r.TLS, s.cfg.Roots, s.cfg.Now()) })
	return conn.id
}
