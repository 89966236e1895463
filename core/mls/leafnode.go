package mls

import (
	"fmt"
	"slices"
	"time"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// LeafNodeSource says how a LeafNode came into the tree (RFC 9420 section 7.2).
type LeafNodeSource uint8

// Leaf node sources.
const (
	LeafNodeKeyPackage LeafNodeSource = 1
	LeafNodeUpdate     LeafNodeSource = 2
	LeafNodeCommit     LeafNodeSource = 3
)

// Capabilities is what a client supports (RFC 9420 section 7.2). Default
// extension and proposal types are not listed.
type Capabilities struct {
	Versions     []ProtocolVersion
	CipherSuites []CipherSuite
	Extensions   []ExtensionType
	Proposals    []ProposalType
	Credentials  []CredentialType
}

// DefaultCapabilities is what this package supports.
func DefaultCapabilities() Capabilities {
	return Capabilities{
		Versions:     []ProtocolVersion{MLS10},
		CipherSuites: CipherSuites(),
		Extensions:   []ExtensionType{ExtensionAppDataDictionary, ExtensionSupportedWireFormats, ExtensionRequiredWireFormats},
		Proposals:    []ProposalType{ProposalAppDataUpdate, ProposalAppEphemeral, ProposalSelfRemove},
		Credentials:  []CredentialType{CredentialBasic, CredentialX509},
	}
}

// MarshalTLS writes c.
func (c *Capabilities) MarshalTLS(w *tlspl.Writer) {
	writeVector16(w, c.Versions)
	writeVector16(w, c.CipherSuites)
	writeVector16(w, c.Extensions)
	writeVector16(w, c.Proposals)
	writeVector16(w, c.Credentials)
}

// UnmarshalTLS reads c.
func (c *Capabilities) UnmarshalTLS(r *tlspl.Reader) {
	c.Versions = vector16[ProtocolVersion](r)
	c.CipherSuites = vector16[CipherSuite](r)
	c.Extensions = vector16[ExtensionType](r)
	c.Proposals = vector16[ProposalType](r)
	c.Credentials = vector16[CredentialType](r)
}

// SupportsExtension is true for default types too.
func (c *Capabilities) SupportsExtension(t ExtensionType) bool {
	return t.isDefault() || slices.Contains(c.Extensions, t)
}

// SupportsProposal is true for default types too.
func (c *Capabilities) SupportsProposal(t ProposalType) bool {
	return t.isDefault() || slices.Contains(c.Proposals, t)
}

// SupportsCredential has no defaults.
func (c *Capabilities) SupportsCredential(t CredentialType) bool {
	return slices.Contains(c.Credentials, t)
}

// Supports holds c against required capabilities (RFC 9420 section 11.1).
func (c *Capabilities) Supports(rc *RequiredCapabilities) error {
	if rc == nil {
		return nil
	}
	for _, t := range rc.Extensions {
		if !c.SupportsExtension(t) {
			return fmt.Errorf("%w: extension 0x%04x", ErrCapabilities, uint16(t))
		}
	}
	for _, t := range rc.Proposals {
		if !c.SupportsProposal(t) {
			return fmt.Errorf("%w: proposal 0x%04x", ErrCapabilities, uint16(t))
		}
	}
	for _, t := range rc.Credentials {
		if !c.SupportsCredential(t) {
			return fmt.Errorf("%w: credential 0x%04x", ErrCapabilities, uint16(t))
		}
	}
	return nil
}

// Lifetime is the validity of a KeyPackage, in seconds since 1970 (RFC 9420
// section 7.2).
type Lifetime struct{ NotBefore, NotAfter uint64 }

// LifetimeAround is the Lifetime from an hour before now, for clocks that are
// late, to d after it.
func LifetimeAround(now time.Time, d time.Duration) Lifetime {
	return Lifetime{uint64(now.Add(-time.Hour).Unix()), uint64(now.Add(d).Unix())}
}

// Contains tells whether t is within the lifetime, to the second.
func (l Lifetime) Contains(t time.Time) bool {
	s := t.Unix()
	return s >= 0 && l.NotBefore <= uint64(s) && uint64(s) <= l.NotAfter
}

// LeafNode describes a member (RFC 9420 section 7.2). A LeafNode in a tree or a
// message must not be changed.
type LeafNode struct {
	EncryptionKey []byte
	SignatureKey  []byte
	Credential    Credential
	Capabilities  Capabilities
	Source        LeafNodeSource
	Lifetime      Lifetime // with LeafNodeKeyPackage
	ParentHash    []byte   // with LeafNodeCommit
	Extensions    Extensions
	Signature     []byte
}

func (n *LeafNode) marshalBody(w *tlspl.Writer) {
	w.Opaque(n.EncryptionKey)
	w.Opaque(n.SignatureKey)
	n.Credential.MarshalTLS(w)
	n.Capabilities.MarshalTLS(w)
	w.Uint8(uint8(n.Source))
	switch n.Source {
	case LeafNodeKeyPackage:
		w.Uint64(n.Lifetime.NotBefore)
		w.Uint64(n.Lifetime.NotAfter)
	case LeafNodeCommit:
		w.Opaque(n.ParentHash)
	}
	n.Extensions.MarshalTLS(w)
}

// MarshalTLS writes n.
func (n *LeafNode) MarshalTLS(w *tlspl.Writer) {
	n.marshalBody(w)
	w.Opaque(n.Signature)
}

// UnmarshalTLS reads n.
func (n *LeafNode) UnmarshalTLS(r *tlspl.Reader) {
	*n = LeafNode{}
	n.EncryptionKey = r.Opaque()
	n.SignatureKey = r.Opaque()
	n.Credential.UnmarshalTLS(r)
	n.Capabilities.UnmarshalTLS(r)
	n.Source = LeafNodeSource(r.Uint8())
	switch n.Source {
	case LeafNodeKeyPackage:
		n.Lifetime.NotBefore = r.Uint64()
		n.Lifetime.NotAfter = r.Uint64()
	case LeafNodeUpdate:
	case LeafNodeCommit:
		n.ParentHash = r.Opaque()
	default:
		r.Failf("leaf node source %d", n.Source)
	}
	n.Extensions.UnmarshalTLS(r)
	n.Signature = r.Opaque()
}

// tbs is the LeafNodeTBS of RFC 9420 section 7.2. groupID and leaf count only
// for sources other than a KeyPackage.
func (n *LeafNode) tbs(groupID []byte, leaf LeafIndex) []byte {
	w := tlspl.NewWriter()
	n.marshalBody(w)
	if n.Source != LeafNodeKeyPackage {
		w.Opaque(groupID)
		w.Uint32(uint32(leaf))
	}
	return w.Bytes()
}

func (n *LeafNode) sign(key *SignatureKey, groupID []byte, leaf LeafIndex) error {
	sig, err := key.SignWithLabel("LeafNodeTBS", n.tbs(groupID, leaf))
	if err != nil {
		return err
	}
	n.Signature = sig
	return nil
}

func (n *LeafNode) verifySignature(suite CipherSuite, groupID []byte, leaf LeafIndex) error {
	if err := VerifyWithLabel(suite, n.SignatureKey, "LeafNodeTBS", n.tbs(groupID, leaf), n.Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrLeafSignature, err)
	}
	return nil
}

// clone copies the node itself; slices are shared.
func (n *LeafNode) clone() *LeafNode {
	c := *n
	return &c
}
