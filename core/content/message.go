// Package content reads and writes application/mimi-content, the message format inside MLS
// (draft-ietf-mimi-content-09): a container in deterministic CBOR with a salt, references to other messages,
// extensions and a tree of body parts.
//
// Decode takes only what the draft's CDDL and its encoding, data model and depth restrictions allow, within
// the limits below; what it accepts can be encoded again to the same octets. A message is named by ID, which is
// calculated over the octets that arrived, never over a re-encoding.
//
//	m := content.Text("hello")
//	err := m.Stamp(rand.Reader, sender, room)   // salt, senderUri, roomUri
//	b, err := m.Encode()
//	id := content.ID(b, sender, room, m.Salt)
//
// Around the container: builders and Classify for the usual messages, Choose for multipart ones; GFM-MIMI to and from HTML
// and plain text (RichOptions); encryption of external content (Encrypter, External.Decrypt); reports of delivery
// and reading (StatusReport); what a receiver knows beside the message (Derived).
//
// Nothing here is safe for concurrent use while somebody writes, functions apart; there is no I/O but through the
// readers and writers that callers bring, and no clock.
package content

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// MediaType is the media type of what Encode gives (section "MIME subtype registration").
const MediaType = "application/mimi-content"

// Limits of Decode and Encode. The draft sets those on parts, depth and the length of a text key, the others are ours.
const (
	MaxSize       = 1 << 20 // octets of a message; a submitted message is bounded by the same number
	MaxParts      = 1024    // body parts in all, nested ones included
	MaxDepth      = 4       // levels of NestedPart, and of an extension's arrays, maps and tags
	MaxExtensions = 64      // entries of the extensions map
)

// HashSHA256 is the first octet of a message ID made with SHA-256 (IANA Named Information Hash Algorithm).
const HashSHA256 = 1

// MessageID names a message (section "Message ID"): a hash algorithm and the first 31 octets of the hash.
type MessageID [32]byte

// String gives 64 lower-case hexadecimal digits.
func (id MessageID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero value, which no message has.
func (id MessageID) IsZero() bool { return id == MessageID{} }

// ParseMessageID reads what String gives; upper-case digits are taken, too.
func ParseMessageID(s string) (MessageID, error) {
	var id MessageID
	if len(s) != 2*len(id) {
		return MessageID{}, errors.New("content: a message ID has 64 hexadecimal digits")
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return MessageID{}, errors.New("content: a message ID has 64 hexadecimal digits")
	}
	return id, nil
}

// ID calculates the message ID of the octets encoded, sent by the user sender to room. encoded is what
// arrived or what Encode gave; salt is the Salt of the same message.
func ID(encoded []byte, sender, room mimiuri.URI, salt [16]byte) MessageID {
	h := sha256.New()
	for _, s := range []string{sender.String(), room.String()} {
		var n [2]byte
		binary.BigEndian.PutUint16(n[:], uint16(len(s))) // a URI is at most mimiuri.MaxLen long
		h.Write(n[:])
		h.Write([]byte(s))
	}
	h.Write(encoded)
	h.Write(salt[:])
	var id MessageID
	id[0] = HashSHA256
	copy(id[1:], h.Sum(nil))
	return id
}

// Message is the container, mimiContent of the CDDL.
type Message struct {
	Salt       [16]byte    // random for each message
	Replaces   *MessageID  // the message this one edits, deletes or unlikes; nil for none
	TopicID    []byte      // same value, same topic; empty for none
	Expires    *Expiration // nil for never
	InReplyTo  *MessageID  // nil for none
	Extensions Extensions
	Body       Part
}

// Expiration says when a message should be deleted at the receiver.
type Expiration struct {
	Relative bool   // true: Time is seconds after reading; false: seconds since the Unix epoch
	Time     uint32 // s
}

// Disposition is what a part is meant for (section "MIMI Content Disposition registry"). Values that have no name
// here are kept.
type Disposition uint8

const (
	Unspecified Disposition = iota
	Render
	Reaction
	Profile
	Inline
	Icon
	Attachment
	Session
	Preview
)

// Cardinality says which fields of a Part are used.
type Cardinality uint8

const (
	NullPart     Cardinality = iota // no content: a deletion
	SinglePart                      // ContentType, Content
	ExternalPart                    // ContentType, External
	MultiPart                       // Semantics, Parts
)

// Semantics says how the parts of a MultiPart belong together.
type Semantics uint8

const (
	ChooseOne  Semantics = iota // exactly one part is processed
	SingleUnit                  // all parts or none
	ProcessAll                  // as many parts as can be processed
)

// Part is NestedPart of the CDDL.
type Part struct {
	Disposition Disposition
	Language    string // comma-separated RFC 5646 tags, or empty
	Cardinality Cardinality

	ContentType string    // SinglePart, ExternalPart: an IANA media type with its parameters
	Content     []byte    // SinglePart
	External    *External // ExternalPart
	Semantics   Semantics // MultiPart
	Parts       []Part    // MultiPart: two or more
}

// External is where the content of an ExternalPart is found and how it is decrypted and verified
// (section "External content").
type External struct {
	URL         string
	Expires     uint32 // s since the Unix epoch, 0 for never
	Size        uint64 // octets at the URL, 0 for unknown
	EncAlg      uint16 // IANA AEAD number, 0 for not encrypted
	Key         []byte
	Nonce       []byte
	AAD         []byte
	HashAlg     uint8 // IANA Named Information Hash Algorithm
	ContentHash []byte
	Description string
	Filename    string
}

// Text is a message of one part of plain text, to be rendered. It has no salt and no extensions yet: see Stamp.
func Text(body string) *Message { return New(TextPart(body)) }

// Stamp gives the message a fresh salt from rand and writes senderUri and roomUri into its extensions.
func (m *Message) Stamp(rand io.Reader, sender, room mimiuri.URI) error {
	if sender.Kind != mimiuri.User || room.Kind != mimiuri.Room {
		return fmt.Errorf("content: stamp: %q and %q are not a user and a room", sender, room)
	}
	var salt [16]byte
	if _, err := io.ReadFull(rand, salt[:]); err != nil {
		return fmt.Errorf("content: salt: %w", err)
	}
	m.Salt = salt
	m.SetSenderURI(sender)
	m.SetRoomURI(room)
	return nil
}
