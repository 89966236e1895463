package mls

import (
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// GroupContext is what all members agree on (RFC 9420 section 8.1).
type GroupContext struct {
	Version                 ProtocolVersion
	CipherSuite             CipherSuite
	GroupID                 []byte
	Epoch                   uint64
	TreeHash                []byte
	ConfirmedTranscriptHash []byte
	Extensions              Extensions
}

// MarshalTLS writes c.
func (c *GroupContext) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(c.Version))
	w.Uint16(uint16(c.CipherSuite))
	w.Opaque(c.GroupID)
	w.Uint64(c.Epoch)
	w.Opaque(c.TreeHash)
	w.Opaque(c.ConfirmedTranscriptHash)
	c.Extensions.MarshalTLS(w)
}

// UnmarshalTLS reads c.
func (c *GroupContext) UnmarshalTLS(r *tlspl.Reader) {
	c.Version = ProtocolVersion(r.Uint16())
	c.CipherSuite = CipherSuite(r.Uint16())
	c.GroupID = r.Opaque()
	c.Epoch = r.Uint64()
	c.TreeHash = r.Opaque()
	c.ConfirmedTranscriptHash = r.Opaque()
	c.Extensions.UnmarshalTLS(r)
	if r.Err() == nil && c.Version != MLS10 {
		r.Failf("protocol version %d", c.Version)
	}
}

// clone copies the context; its byte slices are never written to and shared.
func (c *GroupContext) clone() *GroupContext {
	d := *c
	d.Extensions = c.Extensions.Clone()
	return &d
}

// GroupInfo is what a joiner needs besides secrets (RFC 9420 section 12.4.3).
type GroupInfo struct {
	GroupContext    GroupContext
	Extensions      Extensions
	ConfirmationTag []byte
	Signer          LeafIndex
	Signature       []byte
}

func (g *GroupInfo) marshalBody(w *tlspl.Writer) {
	g.GroupContext.MarshalTLS(w)
	g.Extensions.MarshalTLS(w)
	w.Opaque(g.ConfirmationTag)
	w.Uint32(uint32(g.Signer))
}

// MarshalTLS writes g.
func (g *GroupInfo) MarshalTLS(w *tlspl.Writer) {
	g.marshalBody(w)
	w.Opaque(g.Signature)
}

// UnmarshalTLS reads g.
func (g *GroupInfo) UnmarshalTLS(r *tlspl.Reader) {
	g.GroupContext.UnmarshalTLS(r)
	g.Extensions.UnmarshalTLS(r)
	g.ConfirmationTag = r.Opaque()
	g.Signer = LeafIndex(r.Uint32())
	g.Signature = r.Opaque()
}

func (g *GroupInfo) sign(key *SignatureKey) error {
	w := tlspl.NewWriter()
	g.marshalBody(w)
	sig, err := key.SignWithLabel("GroupInfoTBS", w.Bytes())
	g.Signature = sig
	return err
}

func (g *GroupInfo) verifySignature(pub []byte) error {
	w := tlspl.NewWriter()
	g.marshalBody(w)
	return VerifyWithLabel(g.GroupContext.CipherSuite, pub, "GroupInfoTBS", w.Bytes(), g.Signature)
}

// GroupSecrets is what a Welcome carries for one joiner (RFC 9420 section
// 12.4.3.1).
type GroupSecrets struct {
	JoinerSecret []byte
	PathSecret   []byte // nil: absent
	PSKs         []PreSharedKeyID
}

// MarshalTLS writes s.
func (s *GroupSecrets) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(s.JoinerSecret)
	w.Optional(s.PathSecret != nil, func(w *tlspl.Writer) { w.Opaque(s.PathSecret) })
	writeVectorOf(w, s.PSKs)
}

// UnmarshalTLS reads s.
func (s *GroupSecrets) UnmarshalTLS(r *tlspl.Reader) {
	s.JoinerSecret = r.Opaque()
	r.Optional(func(r *tlspl.Reader) { s.PathSecret = r.Opaque() })
	s.PSKs = vectorOf[PreSharedKeyID](r)
}

// EncryptedGroupSecrets is RFC 9420 section 12.4.3.1.
type EncryptedGroupSecrets struct {
	NewMember    KeyPackageRef
	GroupSecrets HPKECiphertext
}

// MarshalTLS writes s.
func (s *EncryptedGroupSecrets) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(s.NewMember)
	s.GroupSecrets.MarshalTLS(w)
}

// UnmarshalTLS reads s.
func (s *EncryptedGroupSecrets) UnmarshalTLS(r *tlspl.Reader) {
	s.NewMember = r.Opaque()
	s.GroupSecrets.UnmarshalTLS(r)
}

// Welcome is RFC 9420 section 12.4.3.1.
type Welcome struct {
	CipherSuite        CipherSuite
	Secrets            []EncryptedGroupSecrets
	EncryptedGroupInfo []byte
}

// MarshalTLS writes m.
func (m *Welcome) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(m.CipherSuite))
	writeVectorOf(w, m.Secrets)
	w.Opaque(m.EncryptedGroupInfo)
}

// UnmarshalTLS reads m.
func (m *Welcome) UnmarshalTLS(r *tlspl.Reader) {
	m.CipherSuite = CipherSuite(r.Uint16())
	m.Secrets = vectorOf[EncryptedGroupSecrets](r)
	m.EncryptedGroupInfo = r.Opaque()
}
