// Package wire holds the structs that MIMI providers exchange (draft-ietf-mimi-protocol-06, "MIMI Endpoints and
// Framing"), in the TLS presentation language with the variable-size vectors of RFC 9420, and message franking.
//
// Each struct has Marshal and a Parse function. Parse functions take exactly one struct (ParseFanout: one or more), are
// bounded in size, and give errors that are fault.Malformed or fault.TooLarge, whose public text names the struct and
// nothing of its content. What is parsed shares no memory with the input and must not be changed: signatures are
// verified over the octets that arrived.
//
// Where the draft is silent or contradicts itself:
//
//   - Strings and URIs are opaque<V> in UTF-8. URIs are written in the canonical spelling of package mimiuri and read in
//     any; an empty URI stands for none where that is allowed.
//   - "optional X" is the optional<X> of RFC 9420, with a presence octet.
//   - UpdateRequest and FanoutMessage begin without a protocol octet; what they are is seen from the MLSMessage.
//     Handshakes are PublicMessages; a PrivateMessage is taken only with application content.
//   - The Welcome of a HandshakeBundle is bare, that of a FanoutMessage is an MLSMessage.
//   - A GroupInfoResponse begins with the protocol; without success it ends after the status and is not signed.
//   - joiningCode is opaque<V> in the request; in what is signed it is an optional, absent if empty.
//
// Functions here do no I/O and may be called concurrently; the structs are plain data.
package wire

import (
	"errors"
	"fmt"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Limits of the Parse functions.
const (
	MaxBody      = 16 << 20 // octets of anything that may carry a ratchet tree or several messages
	MaxSubmit    = 1 << 20  // octets of a SubmitMessageRequest
	MaxRequest   = 1 << 16  // octets of a KeyMaterialRequest or GroupInfoRequest
	MaxResponse  = 1 << 20  // octets of an UpdateRoomResponse or SubmitMessageResponse
	MaxProposals = 4096     // proposals in one list
	MaxMessages  = 4096     // FanoutMessages in one body
	MaxClients   = 1024     // clients in a KeyMaterialResponse
	MaxSuites    = 256      // cipher suites in a KeyMaterialRequest
	MaxConsent   = 1 << 20  // octets of a ConsentEntry, which may carry KeyPackages
	MaxElements  = 16       // elements of an IdentifierRequest
	MaxProfiles  = 256      // users in an IdentifierResponse
	MaxReport    = 1 << 20  // octets of an AbuseReport
	MaxReported  = 64       // messages in it
	MaxNote      = 1 << 14  // octets of its note
	MaxFields    = 64       // fields of a profile in it
)

// Protocol is the end-to-end encryption of a room. MLS10 is the only one.
type Protocol uint8

// MLS10 is MLS 1.0, RFC 9420.
const MLS10 Protocol = 1

func (p Protocol) String() string {
	if p == MLS10 {
		return "mls10"
	}
	return fmt.Sprintf("Protocol(%d)", uint8(p))
}

// ErrProtocol is in the chain of a Parse error if the protocol is not MLS10.
var ErrProtocol = errors.New("wire: unknown protocol")

// name gives names[code], or the number.
func name(typ string, names []string, code uint8) string {
	if int(code) < len(names) && names[code] != "" {
		return names[code]
	}
	return fmt.Sprintf("%s(%d)", typ, code)
}

// parse runs f over b, which must be used up, and dresses the error.
func parse(what string, limit int, b []byte, f func(r *tlspl.Reader)) error {
	if len(b) > limit {
		return fmt.Errorf("wire: parse %s of %d octets: %w", what, len(b), fault.New(fault.TooLarge, what+" is too large"))
	}
	r := tlspl.NewReader(b)
	f(r)
	if err := r.Done(); err != nil {
		return fmt.Errorf("wire: parse %s: %w", what, fault.Wrap(fault.Malformed, "this is not a valid "+what, err))
	}
	return nil
}

func readProtocol(r *tlspl.Reader) Protocol {
	p := Protocol(r.Uint8())
	if r.Err() == nil && p != MLS10 {
		r.Fail(fmt.Errorf("%w: %d", ErrProtocol, uint8(p)))
	}
	return p
}

func writeURI(w *tlspl.Writer, u mimiuri.URI) { w.String(u.String()) }

// readURI reads a URI of the kind; with none, an empty one is the zero value.
func readURI(r *tlspl.Reader, kind mimiuri.Kind, none bool) mimiuri.URI {
	s := r.String()
	if r.Err() != nil || s == "" && none {
		return mimiuri.URI{}
	}
	u, err := mimiuri.ParseKind(s, kind)
	if err != nil {
		r.Fail(err)
	}
	return u
}

// readCount fails the reader when a list gets longer than limit.
func readCount(r *tlspl.Reader, n, limit int, what string) {
	if n >= limit {
		r.Failf("more than %d %s", limit, what)
	}
}

// readProposals reads MLSMessage<V>, each a PublicMessage with a proposal; nil if there are none.
func readProposals(r *tlspl.Reader) (list []*mls.MLSMessage) {
	r.Vector(func(r *tlspl.Reader) {
		readCount(r, len(list), MaxProposals, "proposals")
		m := readMessage(r)
		if r.Err() == nil && (m.PublicMessage == nil || m.ContentType() != mls.ContentProposal) {
			r.Failf("%v with %v instead of a proposal", m.WireFormat, m.ContentType())
		}
		list = append(list, m)
	})
	return list
}

func readMessage(r *tlspl.Reader) *mls.MLSMessage {
	m := new(mls.MLSMessage)
	m.UnmarshalTLS(r)
	return m
}

func writeMessages(w *tlspl.Writer, list []*mls.MLSMessage) {
	w.Vector(func(w *tlspl.Writer) {
		for _, m := range list {
			m.MarshalTLS(w)
		}
	})
}

func marshal(f func(w *tlspl.Writer)) []byte {
	w := tlspl.NewWriter()
	f(w)
	return w.Bytes()
}
