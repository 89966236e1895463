package mls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"
)

// Keys to which nothing can be encrypted are no keys.
func TestLowOrderKeys(t *testing.T) {
	p25519 := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	p448 := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 448), new(big.Int).Lsh(big.NewInt(1), 224))
	p448.Sub(p448, big.NewInt(1))
	little := func(x *big.Int, n int) []byte {
		b := x.FillBytes(make([]byte, n))
		for i := range n / 2 {
			b[i], b[n-1-i] = b[n-1-i], b[i]
		}
		return b
	}
	add := func(x *big.Int, d int64) *big.Int { return new(big.Int).Add(x, big.NewInt(d)) }
	var low []struct {
		suite CipherSuite
		key   []byte
	}
	put := func(s CipherSuite, b []byte) {
		low = append(low, struct {
			suite CipherSuite
			key   []byte
		}{s, b})
	}
	for _, x := range []*big.Int{big.NewInt(0), big.NewInt(1), add(p25519, -1), p25519, add(p25519, 1)} {
		put(1, little(x, 32))
		high := little(x, 32)
		high[31] |= 0x80
		put(3, high)
	}
	put(1, lowOrder[2])
	put(1, lowOrder[3])
	for _, x := range []*big.Int{big.NewInt(0), big.NewInt(1), add(p448, -1), p448, add(p448, 1)} {
		put(4, little(x, 56))
	}
	for _, c := range low {
		s := suiteOf(t, c.suite)
		if err := s.checkHPKEPublic(c.key); !errors.Is(err, ErrPublicKey) {
			t.Errorf("suite %d: %x: %v", c.suite, c.key, err)
		}
		// The library agrees that it is one.
		if _, err := s.encryptWithLabel(c.key, "x", nil, nil); err == nil {
			t.Errorf("suite %d: %x: encrypted", c.suite, c.key)
		}
	}
	for _, id := range CipherSuites() {
		s := suiteOf(t, id)
		for range 20 {
			_, pub, err := s.generateHPKE(rand.Reader)
			must(t, err)
			must(t, s.checkHPKEPublic(pub))
		}
		if err := s.checkHPKEPublic(nil); !errors.Is(err, ErrPublicKey) {
			t.Error(err)
		}
	}
}

func TestSignatureKeys(t *testing.T) {
	for _, id := range CipherSuites() {
		k, err := GenerateSignatureKey(nil, id)
		must(t, err)
		b, err := k.MarshalBinary()
		must(t, err)
		var l SignatureKey
		must(t, l.UnmarshalBinary(b))
		sig, err := l.SignWithLabel("x", []byte("y"))
		must(t, err)
		must(t, VerifyWithLabel(id, k.Public(), "x", []byte("y"), sig))
		sig, err = l.SafeSignWithLabel(0x8001, "x", []byte("y"))
		must(t, err)
		must(t, SafeVerifyWithLabel(id, k.Public(), 0x8001, "x", []byte("y"), sig))
		if err := SafeVerifyWithLabel(id, k.Public(), 0x8002, "x", []byte("y"), sig); !errors.Is(err, ErrSignature) {
			t.Error(err)
		}
		if err := VerifyWithLabel(id, k.Public()[1:], "x", nil, sig); !errors.Is(err, ErrPublicKey) {
			t.Error(err)
		}
		if _, err := NewSignatureKey(id, nil); !errors.Is(err, ErrSignatureKey) {
			t.Error(err)
		}
		priv, pub, err := GenerateHPKEKey(id)
		must(t, err)
		ct, err := SafeEncryptWithLabel(id, pub, 0x8001, "x", []byte("c"), []byte("p"))
		must(t, err)
		pt, err := SafeDecryptWithLabel(id, priv, 0x8001, "x", []byte("c"), ct)
		must(t, err)
		equal(t, "plaintext", pt, []byte("p"))
		if _, err := SafeDecryptWithLabel(id, priv, 0x8002, "x", []byte("c"), ct); !errors.Is(err, ErrDecrypt) {
			t.Error(err)
		}
	}
}

// An X.509 credential is for the key in the leaf, and works in a group.
func TestX509(t *testing.T) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: testTime, NotAfter: testTime.Add(time.Hour)}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	scalar, err := ec.Bytes()
	must(t, err)
	edCert, err := x509.CreateCertificate(rand.Reader, template, template, ed.Public(), ed)
	must(t, err)
	ecCert, err := x509.CreateCertificate(rand.Reader, template, template, ec.Public(), ec)
	must(t, err)
	for suite, c := range map[CipherSuite]struct{ priv, cert, other []byte }{1: {ed.Seed(), edCert, ecCert}, 2: {scalar, ecCert, edCert}} {
		key, err := NewSignatureKey(suite, c.priv)
		must(t, err)
		cfg := testConfig()
		kp, _, err := NewKeyPackage(cfg, suite, KeyPackageOptions{Credential: X509Credential([][]byte{c.cert}), Signature: key})
		must(t, err)
		must(t, kp.Verify(cfg))
		for _, bad := range [][][]byte{{c.other}, {}, {bytes.Repeat([]byte{1}, 9)}} {
			kp, _, err := NewKeyPackage(cfg, suite, KeyPackageOptions{Credential: X509Credential(bad), Signature: key})
			must(t, err)
			if err := kp.Verify(cfg); !errors.Is(err, ErrCredential) {
				t.Error(err)
			}
		}
	}
}
