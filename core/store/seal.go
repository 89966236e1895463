package store

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// KeySize is the size of a sealing key in octets.
const KeySize = chacha20poly1305.KeySize

const keyIDSize = 4

// Sealer seals values at rest with XChaCha20-Poly1305. A sealed value is key id (4 octets), nonce (24),
// ciphertext with tag. Safe for concurrent use.
type Sealer struct {
	sealKey
	old *sealKey // opens, too, while values are sealed anew; nil otherwise
}

type sealKey struct {
	id   [keyIDSize]byte
	aead cipher.AEAD
}

// ErrUnseal is returned for a value that was sealed under another key, for another place, or was changed.
var ErrUnseal = errors.New("store: a sealed value does not open: wrong sealing key, or the database was changed")

// NewSealer takes a key of KeySize octets.
func NewSealer(key []byte) (*Sealer, error) {
	k, err := newSealKey(key)
	if err != nil {
		return nil, err
	}
	return &Sealer{sealKey: k}, nil
}

// newSealer is NewSealer for a key and, if it is not nil, the one that takes its place: what is sealed from now on is sealed with
// that, and both open.
func newSealer(key, next []byte) (*Sealer, error) {
	s, err := NewSealer(key)
	if err != nil || next == nil {
		return s, err
	}
	k, err := newSealKey(next)
	if err != nil {
		return nil, err
	}
	return &Sealer{sealKey: k, old: &s.sealKey}, nil
}

func newSealKey(key []byte) (k sealKey, err error) {
	if k.aead, err = chacha20poly1305.NewX(key); err != nil {
		return k, fmt.Errorf("store: sealing key: %w", err)
	}
	h := sha256.Sum256(append([]byte("mimibridge sealing key id\x00"), key...))
	copy(k.id[:], h[:])
	return k, nil
}

func associated(table, key, column string) []byte {
	return []byte(table + "\x00" + key + "\x00" + column)
}

// Seal seals plain for one place; nil stays nil.
func (s *Sealer) Seal(table, key, column string, plain []byte) []byte {
	if plain == nil {
		return nil
	}
	out := make([]byte, keyIDSize+chacha20poly1305.NonceSizeX, keyIDSize+chacha20poly1305.NonceSizeX+len(plain)+chacha20poly1305.Overhead)
	copy(out, s.id[:])
	nonce := out[keyIDSize:]
	rand.Read(nonce)
	return s.aead.Seal(out, nonce, plain, associated(table, key, column))
}

// Open undoes Seal for the same place; nil stays nil.
func (s *Sealer) Open(table, key, column string, sealed []byte) ([]byte, error) {
	if sealed == nil {
		return nil, nil
	}
	if len(sealed) < keyIDSize+chacha20poly1305.NonceSizeX {
		return nil, fmt.Errorf("%w (%s)", ErrUnseal, table)
	}
	k := &s.sealKey
	if s.old != nil && !s.current(sealed) {
		k = s.old
	}
	if [keyIDSize]byte(sealed[:keyIDSize]) != k.id {
		return nil, fmt.Errorf("%w (%s)", ErrUnseal, table)
	}
	nonce := sealed[keyIDSize:][:chacha20poly1305.NonceSizeX]
	plain, err := k.aead.Open(nil, nonce, sealed[keyIDSize+len(nonce):], associated(table, key, column))
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", ErrUnseal, table)
	}
	if plain == nil {
		plain = []byte{}
	}
	return plain, nil
}

// current reports whether a value is sealed with the key that seals now.
func (s *Sealer) current(sealed []byte) bool {
	return len(sealed) >= keyIDSize && [keyIDSize]byte(sealed[:keyIDSize]) == s.id
}
