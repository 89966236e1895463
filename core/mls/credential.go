package mls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// CredentialType is a value of RFC 9420 section 17.5.
type CredentialType uint16

// Credential types.
const (
	CredentialBasic     CredentialType = 1
	CredentialX509      CredentialType = 2
	CredentialMulti     CredentialType = 3 // draft-ietf-mls-extensions; not parsed
	CredentialWeakMulti CredentialType = 4 // likewise
)

// Credential names a member (RFC 9420 section 5.3).
type Credential struct {
	Type         CredentialType
	Identity     []byte   // with CredentialBasic
	Certificates [][]byte // with CredentialX509: DER, the end-entity first
	// Raw is the encoding without the type of any other credential. A
	// credential carries no length, so other types cannot be read; Raw is for
	// types a later version learns.
	Raw []byte
}

// BasicCredential is a bare assertion of identity.
func BasicCredential(identity []byte) Credential {
	return Credential{Type: CredentialBasic, Identity: identity}
}

// X509Credential is a certificate chain, the end-entity first.
func X509Credential(chain [][]byte) Credential {
	return Credential{Type: CredentialX509, Certificates: chain}
}

// MarshalTLS writes c.
func (c *Credential) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(c.Type))
	switch c.Type {
	case CredentialBasic:
		w.Opaque(c.Identity)
	case CredentialX509:
		w.Vector(func(w *tlspl.Writer) {
			for _, cert := range c.Certificates {
				w.Opaque(cert)
			}
		})
	default:
		w.Raw(c.Raw)
	}
}

// UnmarshalTLS reads c.
func (c *Credential) UnmarshalTLS(r *tlspl.Reader) {
	*c = Credential{Type: CredentialType(r.Uint16())}
	switch c.Type {
	case CredentialBasic:
		c.Identity = r.Opaque()
	case CredentialX509:
		c.Certificates = [][]byte{}
		r.Vector(func(r *tlspl.Reader) { c.Certificates = append(c.Certificates, r.Opaque()) })
	default:
		r.Failf("credential type 0x%04x", uint16(c.Type))
	}
}

// Equal compares encodings.
func (c *Credential) Equal(o *Credential) bool {
	return bytes.Equal(tlspl.Marshal(c), tlspl.Marshal(o))
}

// VerifyChain verifies the certificate chain of an X.509 credential up to a root
// of opts, with the credential's other certificates as intermediates, and gives
// the end-entity certificate: what Config.VerifyCredential needs for
// CredentialX509 (RFC 9420 section 5.3). That the certificate is for the leaf's
// signature key has been checked before VerifyCredential is asked; whom it names
// is the caller's to judge. opts.CurrentTime zero is the machine's clock, unlike
// everywhere else in this package. It blocks for nothing.
func (c *Credential) VerifyChain(opts x509.VerifyOptions) (*x509.Certificate, error) {
	if c.Type != CredentialX509 || len(c.Certificates) == 0 {
		return nil, fmt.Errorf("mls: certificate chain: %w: no certificate", ErrCredential)
	}
	opts.Intermediates = x509.NewCertPool()
	var first *x509.Certificate
	for i, der := range c.Certificates {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("mls: certificate chain: %w: %v", ErrCredential, err)
		}
		if i == 0 {
			first = cert
		} else {
			opts.Intermediates.AddCert(cert)
		}
	}
	if _, err := first.Verify(opts); err != nil {
		return nil, fmt.Errorf("mls: certificate chain: %w: %v", ErrCredential, err)
	}
	return first, nil
}

// checkKey holds the certificate's key against the signature key (RFC 9420
// section 5.3). Whether the chain is trusted is for Config.VerifyCredential.
func (c *Credential) checkKey(signatureKey []byte) error {
	if c.Type != CredentialX509 {
		return nil
	}
	if len(c.Certificates) == 0 {
		return fmt.Errorf("%w: no certificate", ErrCredential)
	}
	cert, err := x509.ParseCertificate(c.Certificates[0])
	if err != nil {
		return fmt.Errorf("%w: %v", ErrCredential, err)
	}
	var key []byte
	switch k := cert.PublicKey.(type) {
	case ed25519.PublicKey:
		key = k
	case *ecdsa.PublicKey:
		key, err = k.Bytes()
		if err != nil {
			return fmt.Errorf("%w: %v", ErrCredential, err)
		}
	default:
		// Ed448 is unknown to crypto/x509: the key is the tail of the
		// SubjectPublicKeyInfo, whose last field it is.
		spki := cert.RawSubjectPublicKeyInfo
		if n := len(signatureKey); n > 0 && len(spki) >= n {
			key = spki[len(spki)-n:]
		}
	}
	if !bytes.Equal(key, signatureKey) {
		return fmt.Errorf("%w: the certificate is for another key", ErrCredential)
	}
	return nil
}
