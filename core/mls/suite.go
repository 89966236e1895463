package mls

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"

	circlhpke "github.com/cloudflare/circl/hpke"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// CipherSuite is a value of RFC 9420 section 17.1.
type CipherSuite uint16

// Cipher suites.
const (
	X25519AES128GCMSHA256Ed25519        CipherSuite = 1
	P256AES128GCMSHA256P256             CipherSuite = 2
	X25519ChaCha20Poly1305SHA256Ed25519 CipherSuite = 3
	X448AES256GCMSHA512Ed448            CipherSuite = 4
	P521AES256GCMSHA512P521             CipherSuite = 5
	X448ChaCha20Poly1305SHA512Ed448     CipherSuite = 6
	P384AES256GCMSHA384P384             CipherSuite = 7
)

// CipherSuites lists the suites this package supports.
func CipherSuites() []CipherSuite { return []CipherSuite{1, 2, 3, 4, 5, 6, 7} }

// Supported tells whether this package knows the suite.
func (c CipherSuite) Supported() bool { return c >= 1 && c <= 7 }

func (c CipherSuite) String() string {
	if c.Supported() {
		return suites[c].name
	}
	return fmt.Sprintf("CipherSuite(0x%04x)", uint16(c))
}

// KDFSize is KDF.Nh in bytes: the length of every secret, PSK nonce and exported
// default. 0 for a suite that is not supported.
func (c CipherSuite) KDFSize() int {
	if !c.Supported() {
		return 0
	}
	return suites[c].nh
}

func (c CipherSuite) scheme() sigScheme {
	if !c.Supported() {
		return 0
	}
	return suites[c].sig
}

func (c CipherSuite) impl() (*suite, error) {
	if !c.Supported() {
		return nil, fmt.Errorf("mls: %w: 0x%04x", ErrCipherSuite, uint16(c))
	}
	return &suites[c], nil
}

// suite is the cryptography of a cipher suite (RFC 9420 section 5.1).
type suite struct {
	id     CipherSuite
	name   string
	newH   func() hash.Hash
	nh     int // KDF.Nh, the hash's size too
	nk     int // AEAD.Nk; AEAD.Nn is 12 for all
	chacha bool
	kem    hpkeKEM
	sig    sigScheme
}

const aeadNonceSize = 12

var suites = [8]suite{
	1: {1, "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519", sha256.New, 32, 16, false,
		stdKEM{hpke.DHKEM(ecdh.X25519()), hpke.HKDFSHA256(), hpke.AES128GCM(), 32}, sigEd25519},
	2: {2, "MLS_128_DHKEMP256_AES128GCM_SHA256_P256", sha256.New, 32, 16, false,
		stdKEM{hpke.DHKEM(ecdh.P256()), hpke.HKDFSHA256(), hpke.AES128GCM(), 32}, sigP256},
	3: {3, "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519", sha256.New, 32, 32, true,
		stdKEM{hpke.DHKEM(ecdh.X25519()), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), 32}, sigEd25519},
	4: {4, "MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448", sha512.New, 64, 32, false,
		x448KEM{circlhpke.NewSuite(circlhpke.KEM_X448_HKDF_SHA512, circlhpke.KDF_HKDF_SHA512, circlhpke.AEAD_AES256GCM)}, sigEd448},
	5: {5, "MLS_256_DHKEMP521_AES256GCM_SHA512_P521", sha512.New, 64, 32, false,
		stdKEM{hpke.DHKEM(ecdh.P521()), hpke.HKDFSHA512(), hpke.AES256GCM(), 66}, sigP521},
	6: {6, "MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448", sha512.New, 64, 32, true,
		x448KEM{circlhpke.NewSuite(circlhpke.KEM_X448_HKDF_SHA512, circlhpke.KDF_HKDF_SHA512, circlhpke.AEAD_ChaCha20Poly1305)}, sigEd448},
	7: {7, "MLS_256_DHKEMP384_AES256GCM_SHA384_P384", sha512.New384, 48, 32, false,
		stdKEM{hpke.DHKEM(ecdh.P384()), hpke.HKDFSHA384(), hpke.AES256GCM(), 48}, sigP384},
}

// hpkeKEM hides which library the suite's HPKE comes from. Keys are serialised
// as RFC 9180 has it.
type hpkeKEM interface {
	seal(pub, info, aad, pt []byte) (enc, ct []byte, err error)
	open(priv *hpkeKey, enc, info, aad, ct []byte) ([]byte, error)
	sendExport(pub []byte, context string, n int) (enc, secret []byte, err error)
	receiveExport(priv *hpkeKey, enc []byte, context string, n int) ([]byte, error)
	derive(ikm []byte) (priv *hpkeKey, pub []byte, err error)
	public(priv []byte) ([]byte, error)
	check(pub []byte) error
	seedSize() int
}

// hpkeKey is a private key as RFC 9180 serialises it and, once it was made or used here, as its library parses it: to
// parse one costs as much as to use it, and a node's key opens path after path.
type hpkeKey struct {
	raw    []byte
	parsed hpke.PrivateKey
}

type stdKEM struct {
	kem  hpke.KEM
	kdf  hpke.KDF
	aead hpke.AEAD
	nsk  int
}

func (k stdKEM) seal(pub, info, aad, pt []byte) ([]byte, []byte, error) {
	pk, err := k.kem.NewPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	enc, s, err := hpke.NewSender(pk, k.kdf, k.aead, info)
	if err != nil {
		return nil, nil, err
	}
	ct, err := s.Seal(aad, pt)
	return enc, ct, err
}

// private parses a private key. Some implementations strip leading zeros of
// NIST scalars; they are put back.
func (k stdKEM) private(key *hpkeKey) (hpke.PrivateKey, error) {
	if key.parsed == nil {
		b := key.raw
		if short := k.nsk - len(b); short > 0 && k.kem.ID() != x25519KEM {
			b = append(make([]byte, short, k.nsk), b...)
		}
		sk, err := k.kem.NewPrivateKey(b)
		if err != nil {
			return nil, err
		}
		key.parsed = sk
	}
	return key.parsed, nil
}

const x25519KEM = 0x0020

func (k stdKEM) open(priv *hpkeKey, enc, info, aad, ct []byte) ([]byte, error) {
	sk, err := k.private(priv)
	if err != nil {
		return nil, err
	}
	r, err := hpke.NewRecipient(enc, sk, k.kdf, k.aead, info)
	if err != nil {
		return nil, err
	}
	return r.Open(aad, ct)
}

func (k stdKEM) sendExport(pub []byte, context string, n int) ([]byte, []byte, error) {
	pk, err := k.kem.NewPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	enc, s, err := hpke.NewSender(pk, k.kdf, k.aead, nil)
	if err != nil {
		return nil, nil, err
	}
	out, err := s.Export(context, n)
	return enc, out, err
}

func (k stdKEM) receiveExport(priv *hpkeKey, enc []byte, context string, n int) ([]byte, error) {
	sk, err := k.private(priv)
	if err != nil {
		return nil, err
	}
	r, err := hpke.NewRecipient(enc, sk, k.kdf, k.aead, nil)
	if err != nil {
		return nil, err
	}
	return r.Export(context, n)
}

func (k stdKEM) derive(ikm []byte) (*hpkeKey, []byte, error) {
	sk, err := k.kem.DeriveKeyPair(ikm)
	if err != nil {
		return nil, nil, err
	}
	priv, err := sk.Bytes()
	return &hpkeKey{priv, sk}, sk.PublicKey().Bytes(), err
}

func (k stdKEM) public(priv []byte) ([]byte, error) {
	sk, err := k.private(&hpkeKey{raw: priv})
	if err != nil {
		return nil, err
	}
	return sk.PublicKey().Bytes(), nil
}

func (k stdKEM) check(pub []byte) error {
	if _, err := k.kem.NewPublicKey(pub); err != nil {
		return err
	}
	if k.kem.ID() == x25519KEM && lowOrder25519(pub) {
		return errLowOrder
	}
	return nil
}

// A point of low order is a well-formed key to which nothing can be encrypted:
// in a tree it would keep everyone from sending a path (RFC 7748 section 6).
var errLowOrder = errors.New("point of low order")

var lowOrder = [][]byte{
	make([]byte, 32),
	append([]byte{1}, make([]byte, 31)...),
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
	append(append([]byte{0xec}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f), // p-1
	append(append([]byte{0xed}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f), // p
	append(append([]byte{0xee}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f), // p+1
}

func lowOrder25519(pub []byte) bool {
	u := bytes.Clone(pub)
	u[31] &= 0x7f // the top bit is not read
	for _, l := range lowOrder {
		if bytes.Equal(u, l) {
			return true
		}
	}
	return false
}

func (k stdKEM) seedSize() int { return k.nsk }

// x448KEM is for the suites the standard library has no curve for.
type x448KEM struct{ suite circlhpke.Suite }

const x448 = circlhpke.KEM_X448_HKDF_SHA512

func (k x448KEM) seal(pub, info, aad, pt []byte) ([]byte, []byte, error) {
	pk, err := x448.Scheme().UnmarshalBinaryPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	s, err := k.suite.NewSender(pk, info)
	if err != nil {
		return nil, nil, err
	}
	enc, sealer, err := s.Setup(nil)
	if err != nil {
		return nil, nil, err
	}
	ct, err := sealer.Seal(pt, aad)
	return enc, ct, err
}

func (k x448KEM) opener(priv *hpkeKey, enc, info []byte) (circlhpke.Opener, error) {
	sk, err := x448.Scheme().UnmarshalBinaryPrivateKey(priv.raw)
	if err != nil {
		return nil, err
	}
	if len(enc) != x448.Scheme().CiphertextSize() {
		return nil, ErrPublicKey
	}
	r, err := k.suite.NewReceiver(sk, info)
	if err != nil {
		return nil, err
	}
	return r.Setup(enc)
}

func (k x448KEM) open(priv *hpkeKey, enc, info, aad, ct []byte) ([]byte, error) {
	o, err := k.opener(priv, enc, info)
	if err != nil {
		return nil, err
	}
	return o.Open(ct, aad)
}

func (k x448KEM) sendExport(pub []byte, context string, n int) ([]byte, []byte, error) {
	pk, err := x448.Scheme().UnmarshalBinaryPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	s, err := k.suite.NewSender(pk, nil)
	if err != nil {
		return nil, nil, err
	}
	enc, sealer, err := s.Setup(nil)
	if err != nil {
		return nil, nil, err
	}
	return enc, sealer.Export([]byte(context), uint(n)), nil
}

func (k x448KEM) receiveExport(priv *hpkeKey, enc []byte, context string, n int) ([]byte, error) {
	o, err := k.opener(priv, enc, nil)
	if err != nil {
		return nil, err
	}
	return o.Export([]byte(context), uint(n)), nil
}

func (k x448KEM) derive(ikm []byte) (*hpkeKey, []byte, error) {
	// circl wants a seed of exactly the private key's length and RFC 9180 takes
	// any: DeriveKeyPair is done here (RFC 9180 section 7.1.3).
	suiteID := []byte{'K', 'E', 'M', 0x00, 0x21}
	labelled := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	prk, err := hkdf.Extract(sha512.New, labelled([]byte("HPKE-v1"), suiteID, []byte("dkp_prk"), ikm), nil)
	if err != nil {
		return nil, nil, err
	}
	priv, err := hkdf.Expand(sha512.New, prk, string(labelled([]byte{0, 56}, []byte("HPKE-v1"), suiteID, []byte("sk"))), 56)
	if err != nil {
		return nil, nil, err
	}
	pub, err := k.public(priv)
	return &hpkeKey{raw: priv}, pub, err
}

func (k x448KEM) public(priv []byte) ([]byte, error) {
	sk, err := x448.Scheme().UnmarshalBinaryPrivateKey(priv)
	if err != nil {
		return nil, err
	}
	return sk.Public().MarshalBinary()
}

func (k x448KEM) check(pub []byte) error {
	if _, err := x448.Scheme().UnmarshalBinaryPublicKey(pub); err != nil {
		return err
	}
	// The points of low order are 0, 1, p-1 and the same written as p and p+1,
	// with p = 2^448 - 2^224 - 1.
	low := bytes.Equal(pub[1:], make([]byte, 55)) && pub[0] <= 1
	upper := bytes.Equal(pub[29:], bytes.Repeat([]byte{0xff}, 27))
	switch {
	case low,
		upper && pub[28] == 0xfe && bytes.Equal(pub[1:28], bytes.Repeat([]byte{0xff}, 27)) && pub[0] >= 0xfe,
		upper && pub[28] == 0xff && bytes.Equal(pub[:28], make([]byte, 28)):
		return errLowOrder
	}
	return nil
}

func (k x448KEM) seedSize() int { return 56 }

func (s *suite) hash(b ...[]byte) []byte {
	h := s.newH()
	for _, x := range b {
		h.Write(x)
	}
	return h.Sum(nil)
}

func (s *suite) mac(key, data []byte) []byte {
	h := hmac.New(s.newH, key)
	h.Write(data)
	return h.Sum(nil)
}

func (s *suite) checkMAC(key, data, tag []byte) bool {
	return subtle.ConstantTimeCompare(s.mac(key, data), tag) == 1
}

func (s *suite) zero() []byte { return make([]byte, s.nh) }

func (s *suite) extract(salt, ikm []byte) []byte {
	prk, err := hkdf.Extract(s.newH, ikm, salt)
	if err != nil {
		// Only for hashes FIPS mode does not allow; SHA-2 is not among them.
		panic("mls: hkdf: " + err.Error())
	}
	return prk
}

// expandWithLabel is RFC 9420 section 8.
func (s *suite) expandWithLabel(secret []byte, label string, context []byte, n int) []byte {
	var w tlspl.Writer
	w.Uint16(uint16(n))
	w.String("MLS 1.0 " + label)
	w.Opaque(context)
	out, err := hkdf.Expand(s.newH, secret, string(w.Bytes()), n)
	if err != nil {
		panic("mls: hkdf: " + err.Error()) // n above 255 hashes: exporters check it before
	}
	return out
}

func (s *suite) deriveSecret(secret []byte, label string) []byte {
	return s.expandWithLabel(secret, label, nil, s.nh)
}

// deriveTreeSecret is RFC 9420 section 9.1.
func (s *suite) deriveTreeSecret(secret []byte, label string, generation uint32, n int) []byte {
	g := [4]byte{byte(generation >> 24), byte(generation >> 16), byte(generation >> 8), byte(generation)}
	return s.expandWithLabel(secret, label, g[:], n)
}

// refHash is RFC 9420 section 5.2.
func (s *suite) refHash(label string, value []byte) []byte {
	var w tlspl.Writer
	w.String(label)
	w.Opaque(value)
	return s.hash(w.Bytes())
}

func (s *suite) aead(key []byte) (cipher.AEAD, error) {
	if s.chacha {
		return chacha20poly1305.New(key)
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

func (s *suite) seal(key, nonce, aad, pt []byte) ([]byte, error) {
	a, err := s.aead(key)
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, nonce, pt, aad), nil
}

func (s *suite) open(key, nonce, aad, ct []byte) ([]byte, error) {
	a, err := s.aead(key)
	if err != nil {
		return nil, err
	}
	pt, err := a.Open(nil, nonce, ct, aad)
	if err != nil {
		return nil, ErrDecrypt
	}
	return pt, nil
}

func (s *suite) checkHPKEPublic(pub []byte) error {
	if err := s.kem.check(pub); err != nil {
		return fmt.Errorf("%w: %v", ErrPublicKey, err)
	}
	return nil
}

func (s *suite) generateHPKE(rnd io.Reader) (priv *hpkeKey, pub []byte, err error) {
	seed := make([]byte, s.kem.seedSize())
	if _, err := io.ReadFull(rnd, seed); err != nil {
		return nil, nil, err
	}
	return s.kem.derive(seed)
}

func encryptContext(label string, context []byte) []byte {
	var w tlspl.Writer
	w.String("MLS 1.0 " + label)
	w.Opaque(context)
	return w.Bytes()
}

func (s *suite) encryptWithLabel(pub []byte, label string, context, plaintext []byte) (HPKECiphertext, error) {
	enc, ct, err := s.kem.seal(pub, encryptContext(label, context), nil, plaintext)
	if err != nil {
		return HPKECiphertext{}, fmt.Errorf("mls: encrypt %s: %w", label, err)
	}
	return HPKECiphertext{enc, ct}, nil
}

func (s *suite) decryptWithLabel(priv *hpkeKey, label string, context []byte, ct HPKECiphertext) ([]byte, error) {
	pt, err := s.kem.open(priv, ct.KEMOutput, encryptContext(label, context), nil, ct.Ciphertext)
	if err != nil {
		return nil, fmt.Errorf("mls: decrypt %s: %w: %v", label, ErrDecrypt, err)
	}
	return pt, nil
}

// EncryptWithLabel is RFC 9420 section 5.1.3.
func EncryptWithLabel(suite CipherSuite, pub []byte, label string, context, plaintext []byte) (HPKECiphertext, error) {
	s, err := suite.impl()
	if err != nil {
		return HPKECiphertext{}, err
	}
	return s.encryptWithLabel(pub, label, context, plaintext)
}

// DecryptWithLabel is RFC 9420 section 5.1.3; it fails with [ErrDecrypt].
func DecryptWithLabel(suite CipherSuite, priv []byte, label string, context []byte, ct HPKECiphertext) ([]byte, error) {
	s, err := suite.impl()
	if err != nil {
		return nil, err
	}
	return s.decryptWithLabel(&hpkeKey{raw: priv}, label, context, ct)
}

// GenerateHPKEKey makes a key pair of the suite's KEM from crypto/rand.
func GenerateHPKEKey(suite CipherSuite) (priv, pub []byte, err error) {
	s, err := suite.impl()
	if err != nil {
		return nil, nil, err
	}
	key, pub, err := s.generateHPKE((*Config)(nil).rand())
	if err != nil {
		return nil, nil, err
	}
	return key.raw, pub, nil
}

// HPKEPublicKey gives the public key of a private one; it fails if priv is not
// of the suite.
func HPKEPublicKey(suite CipherSuite, priv []byte) ([]byte, error) {
	s, err := suite.impl()
	if err != nil {
		return nil, err
	}
	return s.kem.public(priv)
}

// Hash is the suite's hash of b, nil for a suite that is not supported.
func (c CipherSuite) Hash(b []byte) []byte {
	if !c.Supported() {
		return nil
	}
	return suites[c].hash(b)
}
