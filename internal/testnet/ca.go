package testnet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is a throw-away certificate authority. Its key exists only in memory. Safe for concurrent use.
type CA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

// NewCA makes an authority that writes ca.pem and what it issues into dir, which is created if need be.
func NewCA(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("testnet: new CA: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("testnet: new CA: %w", err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, fmt.Errorf("testnet: new CA: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "mimibridge throw-away CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(30 * 24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("testnet: new CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("testnet: new CA: %w", err)
	}
	ca := &CA{dir: dir, cert: cert, key: key, pool: x509.NewCertPool()}
	ca.pool.AddCert(cert)
	if err := writePEM(ca.File(), "CERTIFICATE", der, 0o644); err != nil {
		return nil, fmt.Errorf("testnet: new CA: %w", err)
	}
	return ca, nil
}

// File is the path of the authority's own certificate, PEM.
func (ca *CA) File() string { return filepath.Join(ca.dir, "ca.pem") }

// Pool holds the authority's certificate alone.
func (ca *CA) Pool() *x509.CertPool { return ca.pool }

// CertOptions is what a certificate says. The zero value is valid for ten days for servers and clients, and
// names only 127.0.0.1.
type CertOptions struct {
	Names     []string // subject alternative names: domains and IP addresses; 127.0.0.1 is added
	NotBefore time.Time
	NotAfter  time.Time
	Usages    []x509.ExtKeyUsage // nil is serverAuth and clientAuth
}

// Certificate issues a certificate for the names, without files.
func (ca *CA) Certificate(names ...string) (*tls.Certificate, error) {
	return ca.CertificateWith(CertOptions{Names: names})
}

// CertificateWith issues a certificate as opts says: also one that has expired or has the wrong usage.
func (ca *CA) CertificateWith(opts CertOptions) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("testnet: issue certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, fmt.Errorf("testnet: issue certificate: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    opts.NotBefore,
		NotAfter:     opts.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  opts.Usages,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = time.Now().Add(-time.Hour)
	}
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = time.Now().Add(10 * 24 * time.Hour)
	}
	if opts.Usages == nil {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	for _, name := range opts.Names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	if len(opts.Names) > 0 {
		tmpl.Subject.CommonName = opts.Names[0]
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("testnet: issue certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("testnet: issue certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Issue issues a certificate for the names and writes it, with the authority's below it, to BASE.crt
// and its key to BASE.key (mode 0600) in the authority's folder. It returns both paths.
func (ca *CA) Issue(base string, names ...string) (certFile, keyFile string, err error) {
	return ca.IssueWith(base, CertOptions{Names: names})
}

// IssueWith is Issue with a choice of what the certificate says.
func (ca *CA) IssueWith(base string, opts CertOptions) (certFile, keyFile string, err error) {
	cert, err := ca.CertificateWith(opts)
	if err != nil {
		return "", "", err
	}
	certFile = filepath.Join(ca.dir, base+".crt")
	keyFile = filepath.Join(ca.dir, base+".key")
	var chain []byte
	for _, der := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := os.WriteFile(certFile, chain, 0o644); err != nil {
		return "", "", fmt.Errorf("testnet: issue certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return "", "", fmt.Errorf("testnet: issue certificate: %w", err)
	}
	if err := writePEM(keyFile, "PRIVATE KEY", der, 0o600); err != nil {
		return "", "", fmt.Errorf("testnet: issue certificate: %w", err)
	}
	return certFile, keyFile, nil
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
