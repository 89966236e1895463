package mls

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"io"
	"sync"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// sigScheme is the signature algorithm of a suite (RFC 9420 section 5.1.2).
type sigScheme uint8

const (
	sigEd25519 sigScheme = iota + 1
	sigP256
	sigP384
	sigP521
	sigEd448
)

func (s sigScheme) curve() elliptic.Curve {
	switch s {
	case sigP256:
		return elliptic.P256()
	case sigP384:
		return elliptic.P384()
	case sigP521:
		return elliptic.P521()
	}
	return nil
}

func (s sigScheme) digest(b []byte) []byte {
	switch s {
	case sigP256:
		h := sha256.Sum256(b)
		return h[:]
	case sigP384:
		h := sha512.Sum384(b)
		return h[:]
	}
	h := sha512.Sum512(b)
	return h[:]
}

// SignatureKey is a private signature key with the suite whose algorithm it is
// for. It is read-only and may be used concurrently.
type SignatureKey struct {
	Suite CipherSuite
	priv  []byte // seed of an EdDSA key, scalar of an ECDSA key
	pub   []byte
	eddsa []byte     // the expanded form, seed and public key
	ecdsa *ecdsaOnce // the parsed form
}

// ecdsaOnce parses a key when it is first used: a state with a thousand local
// leaves does not do so on loading.
type ecdsaOnce struct {
	sync.Once
	key *ecdsa.PrivateKey
	err error
}

func (k *SignatureKey) ecdsaKey() (*ecdsa.PrivateKey, error) {
	o := k.ecdsa
	o.Do(func() { o.key, o.err = ecdsa.ParseRawPrivateKey(k.Suite.scheme().curve(), k.priv) })
	return o.key, o.err
}

// GenerateSignatureKey makes a key; rnd nil is crypto/rand. ECDSA keys come from
// the system's randomness whatever rnd is.
func GenerateSignatureKey(rnd io.Reader, suite CipherSuite) (*SignatureKey, error) {
	if rnd == nil {
		rnd = rand.Reader
	}
	n := 0
	switch scheme := suite.scheme(); scheme {
	case sigEd25519:
		n = ed25519.SeedSize
	case sigEd448:
		n = ed448.SeedSize
	case sigP256, sigP384, sigP521:
		k, err := ecdsa.GenerateKey(scheme.curve(), rnd)
		if err != nil {
			return nil, wrapf(err, "generate signature key")
		}
		b, err := k.Bytes()
		if err != nil {
			return nil, wrapf(err, "generate signature key")
		}
		return NewSignatureKey(suite, b)
	default:
		return nil, fmt.Errorf("mls: generate signature key: %w: 0x%04x", ErrCipherSuite, uint16(suite))
	}
	seed := make([]byte, n)
	if _, err := io.ReadFull(rnd, seed); err != nil {
		return nil, wrapf(err, "generate signature key")
	}
	return NewSignatureKey(suite, seed)
}

// NewSignatureKey takes a serialised private key: the seed of RFC 8032 (a longer
// form that begins with it is cut) or the big-endian scalar of ECDSA.
func NewSignatureKey(suite CipherSuite, priv []byte) (*SignatureKey, error) {
	k := &SignatureKey{Suite: suite}
	switch scheme := suite.scheme(); scheme {
	case sigEd25519:
		if len(priv) != ed25519.SeedSize && len(priv) != ed25519.PrivateKeySize {
			return nil, fmt.Errorf("mls: signature key: %w", ErrSignatureKey)
		}
		k.priv = append([]byte(nil), priv[:ed25519.SeedSize]...)
		k.eddsa = ed25519.NewKeyFromSeed(k.priv)
		k.pub = ed25519.PrivateKey(k.eddsa).Public().(ed25519.PublicKey)
	case sigEd448:
		if len(priv) != ed448.SeedSize && len(priv) != ed448.PrivateKeySize {
			return nil, fmt.Errorf("mls: signature key: %w", ErrSignatureKey)
		}
		k.priv = append([]byte(nil), priv[:ed448.SeedSize]...)
		k.eddsa = ed448.NewKeyFromSeed(k.priv)
		k.pub = ed448.PrivateKey(k.eddsa).Public().(ed448.PublicKey)
	case sigP256, sigP384, sigP521:
		curve := scheme.curve()
		size := (curve.Params().BitSize + 7) / 8
		if len(priv) > size {
			return nil, fmt.Errorf("mls: signature key: %w", ErrSignatureKey)
		}
		full := make([]byte, size)
		copy(full[size-len(priv):], priv)
		k.priv, k.ecdsa = full, new(ecdsaOnce)
		key, err := k.ecdsaKey()
		if err != nil {
			return nil, fmt.Errorf("mls: signature key: %w: %v", ErrSignatureKey, err)
		}
		if k.pub, err = key.PublicKey.Bytes(); err != nil {
			return nil, fmt.Errorf("mls: signature key: %w: %v", ErrSignatureKey, err)
		}
	default:
		return nil, fmt.Errorf("mls: signature key: %w: 0x%04x", ErrCipherSuite, uint16(suite))
	}
	return k, nil
}

// Public gives the SignaturePublicKey (RFC 9420 section 5.1.1), which must not
// be changed.
func (k *SignatureKey) Public() []byte { return k.pub }

// MarshalBinary gives the suite in two bytes and the private key.
func (k *SignatureKey) MarshalBinary() ([]byte, error) {
	if k == nil {
		return nil, ErrSignatureKey
	}
	return append([]byte{byte(k.Suite >> 8), byte(k.Suite)}, k.priv...), nil
}

// UnmarshalBinary reads what MarshalBinary wrote.
func (k *SignatureKey) UnmarshalBinary(b []byte) error {
	r := tlspl.NewReader(b)
	suite := CipherSuite(r.Uint16())
	priv := r.Rest()
	if err := r.Done(); err != nil {
		return wrapf(err, "signature key")
	}
	n, err := NewSignatureKey(suite, priv)
	if err != nil {
		return err
	}
	*k = *n
	return nil
}

// marshalState writes the key with its public half, which is then not worked out
// again on loading.
func (k *SignatureKey) marshalState(w *tlspl.Writer) {
	w.Uint16(uint16(k.Suite))
	w.Opaque(k.priv)
	w.Opaque(k.pub)
}

func readSignatureKey(r *tlspl.Reader) *SignatureKey {
	k := &SignatureKey{Suite: CipherSuite(r.Uint16()), priv: r.Opaque(), pub: r.Opaque()}
	if r.Err() != nil {
		return nil
	}
	want := 0
	switch k.Suite.scheme() {
	case sigEd25519:
		want = ed25519.PrivateKeySize
		k.eddsa = append(append([]byte(nil), k.priv...), k.pub...)
	case sigEd448:
		want = ed448.PrivateKeySize
		k.eddsa = append(append([]byte(nil), k.priv...), k.pub...)
	case 0:
		r.Failf("signature key of suite 0x%04x", uint16(k.Suite))
		return nil
	default:
		k.ecdsa = new(ecdsaOnce)
	}
	if len(k.eddsa) != want {
		r.Failf("signature key of %d bytes", len(k.eddsa))
		return nil
	}
	return k
}

func signContent(label string, content []byte) []byte {
	var w tlspl.Writer
	w.String("MLS 1.0 " + label)
	w.Opaque(content)
	return w.Bytes()
}

// SignWithLabel is RFC 9420 section 5.1.2. Safe for concurrent use.
func (k *SignatureKey) SignWithLabel(label string, content []byte) ([]byte, error) {
	if k == nil {
		return nil, fmt.Errorf("mls: sign %s: %w", label, ErrSignatureKey)
	}
	msg := signContent(label, content)
	switch scheme := k.Suite.scheme(); scheme {
	case sigEd25519:
		return ed25519.Sign(k.eddsa, msg), nil
	case sigEd448:
		return ed448.Sign(k.eddsa, msg, ""), nil
	case sigP256, sigP384, sigP521:
		key, err := k.ecdsaKey()
		if err != nil {
			return nil, fmt.Errorf("mls: sign %s: %w: %v", label, ErrSignatureKey, err)
		}
		sig, err := ecdsa.SignASN1(rand.Reader, key, scheme.digest(msg))
		return sig, wrapf(err, "sign %s", label)
	}
	return nil, fmt.Errorf("mls: sign %s: %w", label, ErrSignatureKey)
}

// VerifyWithLabel is RFC 9420 section 5.1.2; it fails with [ErrSignature] or, for
// a key that is none, [ErrPublicKey]. Safe for concurrent use.
func VerifyWithLabel(suite CipherSuite, pub []byte, label string, content, sig []byte) error {
	msg := signContent(label, content)
	ok := false
	switch scheme := suite.scheme(); scheme {
	case sigEd25519:
		if len(pub) != ed25519.PublicKeySize {
			return fmt.Errorf("mls: verify %s: %w", label, ErrPublicKey)
		}
		ok = ed25519.Verify(pub, msg, sig)
	case sigEd448:
		if len(pub) != ed448.PublicKeySize {
			return fmt.Errorf("mls: verify %s: %w", label, ErrPublicKey)
		}
		ok = ed448.Verify(pub, msg, sig, "")
	case sigP256, sigP384, sigP521:
		key, err := ecdsa.ParseUncompressedPublicKey(scheme.curve(), pub)
		if err != nil {
			return fmt.Errorf("mls: verify %s: %w: %v", label, ErrPublicKey, err)
		}
		ok = ecdsa.VerifyASN1(key, scheme.digest(msg), sig)
	default:
		return fmt.Errorf("mls: verify %s: %w", label, ErrCipherSuite)
	}
	if !ok {
		return fmt.Errorf("mls: verify %s: %w", label, ErrSignature)
	}
	return nil
}
