package mls

import (
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// FramedContent is RFC 9420 section 6. One of the last three fields is set,
// by ContentType.
type FramedContent struct {
	GroupID           []byte
	Epoch             uint64
	Sender            Sender
	AuthenticatedData []byte
	ContentType       ContentType
	ApplicationData   []byte
	Proposal          *Proposal
	Commit            *Commit
}

// MarshalTLS writes c.
func (c *FramedContent) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(c.GroupID)
	w.Uint64(c.Epoch)
	c.Sender.MarshalTLS(w)
	w.Opaque(c.AuthenticatedData)
	w.Uint8(uint8(c.ContentType))
	c.marshalContent(w)
}

func (c *FramedContent) marshalContent(w *tlspl.Writer) {
	switch c.ContentType {
	case ContentApplication:
		w.Opaque(c.ApplicationData)
	case ContentProposal:
		c.Proposal.MarshalTLS(w)
	case ContentCommit:
		c.Commit.MarshalTLS(w)
	}
}

// UnmarshalTLS reads c.
func (c *FramedContent) UnmarshalTLS(r *tlspl.Reader) {
	*c = FramedContent{GroupID: r.Opaque(), Epoch: r.Uint64()}
	c.Sender.UnmarshalTLS(r)
	c.AuthenticatedData = r.Opaque()
	c.ContentType = ContentType(r.Uint8())
	c.unmarshalContent(r)
}

func (c *FramedContent) unmarshalContent(r *tlspl.Reader) {
	switch c.ContentType {
	case ContentApplication:
		c.ApplicationData = r.Opaque()
	case ContentProposal:
		c.Proposal = new(Proposal)
		c.Proposal.UnmarshalTLS(r)
	case ContentCommit:
		c.Commit = new(Commit)
		c.Commit.UnmarshalTLS(r)
	default:
		r.Failf("content type %d", c.ContentType)
	}
}

// FramedContentAuthData is RFC 9420 section 6.1.
type FramedContentAuthData struct {
	Signature       []byte
	ConfirmationTag []byte // of a Commit
}

func (a *FramedContentAuthData) marshal(w *tlspl.Writer, t ContentType) {
	w.Opaque(a.Signature)
	if t == ContentCommit {
		w.Opaque(a.ConfirmationTag)
	}
}

func (a *FramedContentAuthData) unmarshal(r *tlspl.Reader, t ContentType) {
	a.Signature = r.Opaque()
	if t == ContentCommit {
		a.ConfirmationTag = r.Opaque()
	}
}

// AuthenticatedContent is RFC 9420 section 6.
type AuthenticatedContent struct {
	WireFormat WireFormat
	Content    FramedContent
	Auth       FramedContentAuthData
}

// MarshalTLS writes a.
func (a *AuthenticatedContent) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(a.WireFormat))
	a.Content.MarshalTLS(w)
	a.Auth.marshal(w, a.Content.ContentType)
}

// UnmarshalTLS reads a.
func (a *AuthenticatedContent) UnmarshalTLS(r *tlspl.Reader) {
	a.WireFormat = WireFormat(r.Uint16())
	a.Content.UnmarshalTLS(r)
	a.Auth.unmarshal(r, a.Content.ContentType)
}

// PublicMessage is RFC 9420 section 6.2.
type PublicMessage struct {
	Content       FramedContent
	Auth          FramedContentAuthData
	MembershipTag []byte // of a member's message
}

// MarshalTLS writes m.
func (m *PublicMessage) MarshalTLS(w *tlspl.Writer) {
	m.Content.MarshalTLS(w)
	m.Auth.marshal(w, m.Content.ContentType)
	if m.Content.Sender.Type == SenderMember {
		w.Opaque(m.MembershipTag)
	}
}

// UnmarshalTLS reads m.
func (m *PublicMessage) UnmarshalTLS(r *tlspl.Reader) {
	m.Content.UnmarshalTLS(r)
	m.Auth.unmarshal(r, m.Content.ContentType)
	if m.Content.Sender.Type == SenderMember {
		m.MembershipTag = r.Opaque()
	}
}

// AuthenticatedContent gives the message without its membership tag.
func (m *PublicMessage) AuthenticatedContent() *AuthenticatedContent {
	return &AuthenticatedContent{WireFormatPublicMessage, m.Content, m.Auth}
}

// PrivateMessage is RFC 9420 section 6.3.
type PrivateMessage struct {
	GroupID             []byte
	Epoch               uint64
	ContentType         ContentType
	AuthenticatedData   []byte
	EncryptedSenderData []byte
	Ciphertext          []byte
}

// MarshalTLS writes m.
func (m *PrivateMessage) MarshalTLS(w *tlspl.Writer) {
	m.marshalAAD(w)
	w.Opaque(m.EncryptedSenderData)
	w.Opaque(m.Ciphertext)
}

// marshalAAD writes the PrivateContentAAD, which is how a PrivateMessage begins.
func (m *PrivateMessage) marshalAAD(w *tlspl.Writer) {
	w.Opaque(m.GroupID)
	w.Uint64(m.Epoch)
	w.Uint8(uint8(m.ContentType))
	w.Opaque(m.AuthenticatedData)
}

// UnmarshalTLS reads m.
func (m *PrivateMessage) UnmarshalTLS(r *tlspl.Reader) {
	m.GroupID = r.Opaque()
	m.Epoch = r.Uint64()
	m.ContentType = ContentType(r.Uint8())
	if m.ContentType < ContentApplication || m.ContentType > ContentCommit {
		r.Failf("content type %d", m.ContentType)
	}
	m.AuthenticatedData = r.Opaque()
	m.EncryptedSenderData = r.Opaque()
	m.Ciphertext = r.Opaque()
}

// MLSMessage is RFC 9420 section 6. One of the pointers is set, by WireFormat.
// A message that was parsed or made must not be changed.
type MLSMessage struct {
	Version        ProtocolVersion
	WireFormat     WireFormat
	PublicMessage  *PublicMessage
	PrivateMessage *PrivateMessage
	Welcome        *Welcome
	GroupInfo      *GroupInfo
	KeyPackage     *KeyPackage
	// SemiPrivateMessage with the wire format of [UseSemiPrivateMessage].
	SemiPrivateMessage *SemiPrivateMessage
}

// ParseMessage reads exactly one MLSMessage from b.
func ParseMessage(b []byte) (*MLSMessage, error) {
	m := new(MLSMessage)
	if err := tlspl.Unmarshal(b, m); err != nil {
		return nil, wrapf(err, "parse message")
	}
	return m, nil
}

// NewMessage frames a *PublicMessage, *PrivateMessage, *SemiPrivateMessage,
// *Welcome, *GroupInfo or *KeyPackage; it panics for anything else.
func NewMessage(content any) *MLSMessage {
	m := &MLSMessage{Version: MLS10}
	switch c := content.(type) {
	case *PublicMessage:
		m.WireFormat, m.PublicMessage = WireFormatPublicMessage, c
	case *PrivateMessage:
		m.WireFormat, m.PrivateMessage = WireFormatPrivateMessage, c
	case *Welcome:
		m.WireFormat, m.Welcome = WireFormatWelcome, c
	case *GroupInfo:
		m.WireFormat, m.GroupInfo = WireFormatGroupInfo, c
	case *KeyPackage:
		m.WireFormat, m.KeyPackage = WireFormatKeyPackage, c
	case *SemiPrivateMessage:
		m.WireFormat, m.SemiPrivateMessage = semiPrivate.WireFormat, c
	default:
		panic(fmt.Sprintf("mls: NewMessage of %T", content))
	}
	return m
}

// Bytes gives the encoding.
func (m *MLSMessage) Bytes() []byte { return tlspl.Marshal(m) }

// GroupID gives the group of a PublicMessage, PrivateMessage, SemiPrivateMessage or GroupInfo, else nil.
func (m *MLSMessage) GroupID() []byte {
	switch {
	case m.PublicMessage != nil:
		return m.PublicMessage.Content.GroupID
	case m.PrivateMessage != nil:
		return m.PrivateMessage.GroupID
	case m.SemiPrivateMessage != nil:
		return m.SemiPrivateMessage.GroupID
	case m.GroupInfo != nil:
		return m.GroupInfo.GroupContext.GroupID
	}
	return nil
}

// Epoch gives the epoch of a PublicMessage, PrivateMessage, SemiPrivateMessage or GroupInfo, else 0.
func (m *MLSMessage) Epoch() uint64 {
	switch {
	case m.PublicMessage != nil:
		return m.PublicMessage.Content.Epoch
	case m.PrivateMessage != nil:
		return m.PrivateMessage.Epoch
	case m.SemiPrivateMessage != nil:
		return m.SemiPrivateMessage.Epoch
	case m.GroupInfo != nil:
		return m.GroupInfo.GroupContext.Epoch
	}
	return 0
}

// ContentType gives the content type of a PublicMessage, PrivateMessage or SemiPrivateMessage, else 0.
func (m *MLSMessage) ContentType() ContentType {
	switch {
	case m.PublicMessage != nil:
		return m.PublicMessage.Content.ContentType
	case m.PrivateMessage != nil:
		return m.PrivateMessage.ContentType
	case m.SemiPrivateMessage != nil:
		return m.SemiPrivateMessage.ContentType
	}
	return 0
}

// MarshalTLS writes m.
func (m *MLSMessage) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(m.Version))
	w.Uint16(uint16(m.WireFormat))
	switch m.WireFormat {
	case WireFormatPublicMessage:
		m.PublicMessage.MarshalTLS(w)
	case WireFormatPrivateMessage:
		m.PrivateMessage.MarshalTLS(w)
	case WireFormatWelcome:
		m.Welcome.MarshalTLS(w)
	case WireFormatGroupInfo:
		m.GroupInfo.MarshalTLS(w)
	case WireFormatKeyPackage:
		m.KeyPackage.MarshalTLS(w)
	default:
		if m.SemiPrivateMessage != nil {
			m.SemiPrivateMessage.MarshalTLS(w)
		}
	}
}

// UnmarshalTLS reads m.
func (m *MLSMessage) UnmarshalTLS(r *tlspl.Reader) {
	*m = MLSMessage{Version: ProtocolVersion(r.Uint16())}
	if r.Err() == nil && m.Version != MLS10 {
		r.Failf("protocol version %d", m.Version)
		return
	}
	m.WireFormat = WireFormat(r.Uint16())
	switch m.WireFormat {
	case WireFormatPublicMessage:
		m.PublicMessage = new(PublicMessage)
		m.PublicMessage.UnmarshalTLS(r)
	case WireFormatPrivateMessage:
		m.PrivateMessage = new(PrivateMessage)
		m.PrivateMessage.UnmarshalTLS(r)
	case WireFormatWelcome:
		m.Welcome = new(Welcome)
		m.Welcome.UnmarshalTLS(r)
	case WireFormatGroupInfo:
		m.GroupInfo = new(GroupInfo)
		m.GroupInfo.UnmarshalTLS(r)
	case WireFormatKeyPackage:
		m.KeyPackage = new(KeyPackage)
		m.KeyPackage.UnmarshalTLS(r)
		// RFC 9420 section 10: both versions are the same.
		if r.Err() == nil && m.KeyPackage.Version != m.Version {
			r.Failf("KeyPackage version %d", m.KeyPackage.Version)
		}
	default:
		if m.WireFormat != 0 && m.WireFormat == semiPrivate.WireFormat {
			m.SemiPrivateMessage = new(SemiPrivateMessage)
			m.SemiPrivateMessage.UnmarshalTLS(r)
			return
		}
		r.Failf("wire format 0x%04x", uint16(m.WireFormat))
	}
}
