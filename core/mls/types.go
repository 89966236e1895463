package mls

import (
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// ProtocolVersion is the MLS version (RFC 9420 section 6).
type ProtocolVersion uint16

// MLS10 is the only version there is.
const MLS10 ProtocolVersion = 1

// LeafIndex counts the leaves of the ratchet tree from the left, from 0
// (RFC 9420 section 4.1.1).
type LeafIndex uint32

// WireFormat is how a message is framed (RFC 9420 section 17.2).
type WireFormat uint16

// Wire formats.
const (
	WireFormatPublicMessage  WireFormat = 1
	WireFormatPrivateMessage WireFormat = 2
	WireFormatWelcome        WireFormat = 3
	WireFormatGroupInfo      WireFormat = 4
	WireFormatKeyPackage     WireFormat = 5
)

func (w WireFormat) String() string {
	switch w {
	case WireFormatPublicMessage:
		return "PublicMessage"
	case WireFormatPrivateMessage:
		return "PrivateMessage"
	case WireFormatWelcome:
		return "Welcome"
	case WireFormatGroupInfo:
		return "GroupInfo"
	case WireFormatKeyPackage:
		return "KeyPackage"
	}
	return fmt.Sprintf("WireFormat(0x%04x)", uint16(w))
}

// ContentType is what a FramedContent holds (RFC 9420 section 6).
type ContentType uint8

// Content types.
const (
	ContentApplication ContentType = 1
	ContentProposal    ContentType = 2
	ContentCommit      ContentType = 3
)

func (c ContentType) String() string {
	switch c {
	case ContentApplication:
		return "application"
	case ContentProposal:
		return "proposal"
	case ContentCommit:
		return "commit"
	}
	return fmt.Sprintf("ContentType(%d)", uint8(c))
}

// SenderType says who sent a FramedContent (RFC 9420 section 6).
type SenderType uint8

// Sender types.
const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2
	SenderNewMemberProposal SenderType = 3
	SenderNewMemberCommit   SenderType = 4
)

// Sender is who sent a FramedContent (RFC 9420 section 6).
type Sender struct {
	Type  SenderType
	Leaf  LeafIndex // with SenderMember
	Index uint32    // with SenderExternal: into the external_senders extension
}

// MarshalTLS writes s.
func (s *Sender) MarshalTLS(w *tlspl.Writer) {
	w.Uint8(uint8(s.Type))
	switch s.Type {
	case SenderMember:
		w.Uint32(uint32(s.Leaf))
	case SenderExternal:
		w.Uint32(s.Index)
	}
}

// UnmarshalTLS reads s.
func (s *Sender) UnmarshalTLS(r *tlspl.Reader) {
	*s = Sender{Type: SenderType(r.Uint8())}
	switch s.Type {
	case SenderMember:
		s.Leaf = LeafIndex(r.Uint32())
	case SenderExternal:
		s.Index = r.Uint32()
	case SenderNewMemberProposal, SenderNewMemberCommit:
	default:
		r.Failf("sender type %d", s.Type)
	}
}

func (s Sender) String() string {
	switch s.Type {
	case SenderMember:
		return fmt.Sprintf("leaf %d", s.Leaf)
	case SenderExternal:
		return fmt.Sprintf("external sender %d", s.Index)
	case SenderNewMemberProposal:
		return "new member (proposal)"
	case SenderNewMemberCommit:
		return "new member (commit)"
	}
	return fmt.Sprintf("SenderType(%d)", uint8(s.Type))
}

// KeyPackageRef is the hash of a KeyPackage (RFC 9420 section 5.2).
type KeyPackageRef []byte

// ProposalRef is the hash of the AuthenticatedContent of a Proposal (RFC 9420
// section 5.2).
type ProposalRef []byte

// ComponentID is an application component of draft-ietf-mls-extensions
// (section "Component IDs").
type ComponentID uint16

// Components registered by draft-ietf-mls-extensions (section "IANA").
const (
	ComponentAppComponents        ComponentID = 0x0001
	ComponentSafeAAD              ComponentID = 0x0002
	ComponentContentMediaTypes    ComponentID = 0x0003
	ComponentLastResortKeyPackage ComponentID = 0x0004
	ComponentAppAck               ComponentID = 0x0005
)

// vector16 reads a vector of uint16 values.
func vector16[T ~uint16](r *tlspl.Reader) []T {
	sub := r.Sub()
	// The length is known, so the slice is made once and no larger than the input.
	out := make([]T, 0, sub.Remaining()/2)
	for sub.Err() == nil && sub.Remaining() > 0 {
		out = append(out, T(sub.Uint16()))
	}
	r.Fail(sub.Err())
	return out
}

func writeVector16[T ~uint16](w *tlspl.Writer, v []T) {
	w.Varint(2 * len(v))
	for _, x := range v {
		w.Uint16(uint16(x))
	}
}

// vectorOf reads a vector of structures.
func vectorOf[T any, P interface {
	*T
	tlspl.Unmarshaler
}](r *tlspl.Reader) []T {
	out := []T{}
	r.Vector(func(r *tlspl.Reader) {
		var v T
		P(&v).UnmarshalTLS(r)
		if r.Err() == nil {
			out = append(out, v)
		}
	})
	return slices.Clip(out)
}

func writeVectorOf[T any, P interface {
	*T
	tlspl.Marshaler
}](w *tlspl.Writer, v []T) {
	w.Vector(func(w *tlspl.Writer) {
		for i := range v {
			P(&v[i]).MarshalTLS(w)
		}
	})
}
