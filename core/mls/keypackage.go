package mls

import (
	"bytes"
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// KeyPackage is what a client publishes so that it can be added to groups
// (RFC 9420 section 10).
type KeyPackage struct {
	Version     ProtocolVersion
	CipherSuite CipherSuite
	InitKey     []byte
	LeafNode    LeafNode
	Extensions  Extensions
	Signature   []byte
}

func (kp *KeyPackage) marshalBody(w *tlspl.Writer) {
	w.Uint16(uint16(kp.Version))
	w.Uint16(uint16(kp.CipherSuite))
	w.Opaque(kp.InitKey)
	kp.LeafNode.MarshalTLS(w)
	kp.Extensions.MarshalTLS(w)
}

// MarshalTLS writes kp.
func (kp *KeyPackage) MarshalTLS(w *tlspl.Writer) {
	kp.marshalBody(w)
	w.Opaque(kp.Signature)
}

// UnmarshalTLS reads kp.
func (kp *KeyPackage) UnmarshalTLS(r *tlspl.Reader) {
	kp.Version = ProtocolVersion(r.Uint16())
	kp.CipherSuite = CipherSuite(r.Uint16())
	kp.InitKey = r.Opaque()
	kp.LeafNode.UnmarshalTLS(r)
	kp.Extensions.UnmarshalTLS(r)
	kp.Signature = r.Opaque()
}

// Ref is the KeyPackageRef (RFC 9420 section 5.2) by the hash of suite, which
// for a KeyPackage of a group is kp.CipherSuite.
func (kp *KeyPackage) Ref(suite CipherSuite) (KeyPackageRef, error) {
	s, err := suite.impl()
	if err != nil {
		return nil, err
	}
	return s.refHash("MLS 1.0 KeyPackage Reference", tlspl.Marshal(kp)), nil
}

// LastResort tells whether kp carries the last_resort_key_package component
// (draft-ietf-mls-extensions section "Last-Resort KeyPackages").
func (kp *KeyPackage) LastResort() bool {
	d, err := kp.Extensions.AppData()
	if err != nil {
		return false
	}
	_, ok := d.Get(ComponentLastResortKeyPackage)
	return ok
}

// Verify checks what can be checked of kp without a group (RFC 9420 section
// 10.1): signatures, lifetime, capabilities, credential.
func (kp *KeyPackage) Verify(cfg *Config) error {
	err := kp.verify(cfg, nil)
	if err == nil {
		err = cfg.checkLifetime(&kp.LeafNode)
	}
	if err != nil {
		return fmt.Errorf("mls: key package: %w", err)
	}
	return nil
}

// verify is Verify without the lifetime; gc is the group kp is to be added to, or
// nil.
func (kp *KeyPackage) verify(cfg *Config, gc *GroupContext) error {
	if kp.Version != MLS10 {
		return fmt.Errorf("%w: version %d", ErrKeyPackageSuite, kp.Version)
	}
	if gc != nil && kp.CipherSuite != gc.CipherSuite {
		return fmt.Errorf("%w: suite 0x%04x", ErrKeyPackageSuite, uint16(kp.CipherSuite))
	}
	s, err := kp.CipherSuite.impl()
	if err != nil {
		return err
	}
	if kp.LeafNode.Source != LeafNodeKeyPackage {
		return fmt.Errorf("%w: %d in a KeyPackage", ErrLeafSource, kp.LeafNode.Source)
	}
	c := &kp.LeafNode.Capabilities
	if !contains(c.Versions, kp.Version) || !contains(c.CipherSuites, kp.CipherSuite) {
		return fmt.Errorf("%w: own version or suite not listed", ErrCapabilities)
	}
	for _, x := range kp.Extensions {
		if !c.SupportsExtension(x.Type) {
			return fmt.Errorf("%w: 0x%04x in the KeyPackage", ErrExtensionUnlisted, uint16(x.Type))
		}
	}
	if bytes.Equal(kp.InitKey, kp.LeafNode.EncryptionKey) {
		return ErrInitKey
	}
	if err := s.checkHPKEPublic(kp.InitKey); err != nil {
		return err
	}
	if err := kp.LeafNode.verifySignature(kp.CipherSuite, nil, 0); err != nil {
		return err
	}
	w := tlspl.NewWriter()
	kp.marshalBody(w)
	if err := VerifyWithLabel(kp.CipherSuite, kp.LeafNode.SignatureKey, "KeyPackageTBS", w.Bytes(), kp.Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrKeyPackageSignature, err)
	}
	reason := ReasonKeyPackage
	if gc != nil {
		reason = ReasonAdd
	}
	return cfg.checkLeaf(s, &kp.LeafNode, gc, reason, nil)
}

// KeyPackageOptions is what goes into a new KeyPackage.
type KeyPackageOptions struct {
	Credential   Credential
	Signature    *SignatureKey
	Capabilities *Capabilities // nil: DefaultCapabilities
	Lifetime     *Lifetime     // nil: 90 days from now
	// LeafExtensions are the LeafNode's, Extensions the KeyPackage's.
	LeafExtensions Extensions
	Extensions     Extensions
	// LastResort adds the last_resort_key_package component.
	LastResort bool
}

// KeyPackageSecrets is the private part of a KeyPackage.
type KeyPackageSecrets struct {
	InitKey, LeafKey []byte // HPKE private keys, serialised as RFC 9180 has it
	Signature        *SignatureKey
}

// MarshalBinary writes s: two vectors and the signature key.
func (s *KeyPackageSecrets) MarshalBinary() ([]byte, error) {
	key, err := s.Signature.MarshalBinary()
	if err != nil {
		return nil, err
	}
	w := tlspl.NewWriter()
	w.Opaque(s.InitKey)
	w.Opaque(s.LeafKey)
	w.Opaque(key)
	return w.Bytes(), nil
}

// UnmarshalBinary reads what MarshalBinary wrote.
func (s *KeyPackageSecrets) UnmarshalBinary(b []byte) error {
	r := tlspl.NewReader(b)
	s.InitKey, s.LeafKey = r.Opaque(), r.Opaque()
	key := r.Opaque()
	if err := r.Done(); err != nil {
		return wrapf(err, "key package secrets")
	}
	s.Signature = new(SignatureKey)
	return s.Signature.UnmarshalBinary(key)
}

// NewKeyPackage makes a KeyPackage and its secrets (RFC 9420 section 10).
func NewKeyPackage(cfg *Config, suite CipherSuite, opts KeyPackageOptions) (*KeyPackage, *KeyPackageSecrets, error) {
	s, err := suite.impl()
	if err != nil {
		return nil, nil, err
	}
	if opts.Signature == nil || opts.Signature.Suite.scheme() != suite.scheme() {
		return nil, nil, fmt.Errorf("mls: new key package: %w", ErrSignatureKey)
	}
	initPriv, initPub, err := s.generateHPKE(cfg.rand())
	if err != nil {
		return nil, nil, wrapf(err, "new key package")
	}
	leafPriv, leafPub, err := s.generateHPKE(cfg.rand())
	if err != nil {
		return nil, nil, wrapf(err, "new key package")
	}
	kp := &KeyPackage{
		Version: MLS10, CipherSuite: suite, InitKey: initPub,
		LeafNode: LeafNode{
			EncryptionKey: leafPub, SignatureKey: opts.Signature.Public(),
			Credential: opts.Credential, Capabilities: capabilitiesOr(opts.Capabilities),
			Source: LeafNodeKeyPackage, Lifetime: cfg.lifetimeOr(opts.Lifetime),
			Extensions: opts.LeafExtensions.Clone(),
		},
		Extensions: opts.Extensions.Clone(),
	}
	if opts.LastResort {
		d, err := kp.Extensions.AppData()
		if err != nil {
			return nil, nil, err
		}
		d.Set(ComponentLastResortKeyPackage, nil)
		kp.Extensions = kp.Extensions.WithAppData(d)
	}
	if cfg.GREASE {
		v, err := cfg.randomGREASE()
		if err != nil {
			return nil, nil, err
		}
		if kp.Extensions, err = cfg.greaseExtensions(kp.Extensions, ExtensionType(v)); err != nil {
			return nil, nil, err
		}
		// Extensions of the KeyPackage are listed too: section 10.
		kp.LeafNode.Capabilities.Extensions = insertRandom(kp.LeafNode.Capabilities.Extensions, ExtensionType(v), 0)
		if err := cfg.grease(&kp.LeafNode); err != nil {
			return nil, nil, err
		}
	}
	if err := kp.LeafNode.sign(opts.Signature, nil, 0); err != nil {
		return nil, nil, wrapf(err, "new key package")
	}
	w := tlspl.NewWriter()
	kp.marshalBody(w)
	if kp.Signature, err = opts.Signature.SignWithLabel("KeyPackageTBS", w.Bytes()); err != nil {
		return nil, nil, wrapf(err, "new key package")
	}
	return kp, &KeyPackageSecrets{initPriv.raw, leafPriv.raw, opts.Signature}, nil
}

func capabilitiesOr(c *Capabilities) Capabilities {
	if c == nil {
		return DefaultCapabilities()
	}
	return *c
}
