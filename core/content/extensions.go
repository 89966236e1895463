package content

import (
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Key is the key of an extension: Text if it is not empty, else Int (section "Extension Fields").
type Key struct {
	Int  int64
	Text string // 1 to 255 octets
}

// Keys of the MIMI Content Extension Keys registry, and of draft-mahy-mimi-content-more-extensions.
var (
	KeySenderURI         = Key{Int: 1}
	KeyRoomURI           = Key{Int: 2}
	KeySenderTimestamp   = Key{Int: 3}
	KeyExternalMessageID = Key{Int: 4}
	KeySubject           = Key{Int: 5}
	KeyLastSeen          = Key{Int: 256}
)

// Extension is an entry of the extensions map. Value is one value in deterministic CBOR.
type Extension struct {
	Key   Key
	Value []byte
}

// Extensions are the entries of the map: as decoded in the order of the map, otherwise in any order, since Encode sorts.
type Extensions []Extension

// Get gives the CBOR of an extension; ok is false if there is none.
func (x Extensions) Get(k Key) (value []byte, ok bool) {
	for i := range x {
		if x[i].Key == k {
			return x[i].Value, true
		}
	}
	return nil, false
}

// Set adds or replaces an extension. value is one value in deterministic CBOR; Encode checks it.
func (x *Extensions) Set(k Key, value []byte) {
	for i := range *x {
		if (*x)[i].Key == k {
			(*x)[i].Value = value
			return
		}
	}
	*x = append(*x, Extension{Key: k, Value: value})
}

// Delete removes an extension if it is there.
func (x *Extensions) Delete(k Key) {
	kept := (*x)[:0:0]
	for _, e := range *x {
		if e.Key != k {
			kept = append(kept, e)
		}
	}
	*x = kept
}

func (x Extensions) encode() (map[any]cbor.RawMessage, error) {
	m := make(map[any]cbor.RawMessage, len(x))
	for _, e := range x {
		var key any = e.Key.Int
		if e.Key.Text != "" {
			if e.Key.Int != 0 {
				return nil, fmt.Errorf("%w: encode: an extension key is both a number and a text", ErrMalformed)
			}
			key = e.Key.Text
		}
		if _, twice := m[key]; twice {
			return nil, fmt.Errorf("%w: encode: an extension stands twice", ErrMalformed)
		}
		// The value has to be exactly one, or the map would be torn.
		r := &reader{b: e.Value}
		if r.skip(2); r.err != nil || r.off != len(e.Value) {
			return nil, fmt.Errorf("%w: encode: an extension's value is not one deterministic CBOR value", ErrMalformed)
		}
		m[key] = cbor.RawMessage(e.Value)
	}
	return m, nil
}

func (m *Message) setText(k Key, s string) {
	b, err := encMode.Marshal(s)
	if err != nil {
		panic(err) // text always encodes
	}
	m.Extensions.Set(k, b)
}

func (m *Message) textOf(k Key) (string, bool) {
	v, ok := m.Extensions.Get(k)
	if !ok {
		return "", false
	}
	r := &reader{b: v}
	s := r.text("an extension")
	return s, r.err == nil && r.off == len(v)
}

func (m *Message) uriOf(k Key, kind mimiuri.Kind) (mimiuri.URI, bool) {
	s, ok := m.textOf(k)
	if !ok {
		return mimiuri.URI{}, false
	}
	u, err := mimiuri.ParseKind(s, kind)
	return u, err == nil
}

// SenderURI gives the user that the message says it is from; ok is false if it says none or no MIMI user. It is the
// sender's word: whoever trusts it compares it with the MLS leaf.
func (m *Message) SenderURI() (u mimiuri.URI, ok bool) { return m.uriOf(KeySenderURI, mimiuri.User) }

// SetSenderURI sets the senderUri extension.
func (m *Message) SetSenderURI(u mimiuri.URI) { m.setText(KeySenderURI, u.String()) }

// RoomURI gives the room that the message says it is for, with the reservation of SenderURI.
func (m *Message) RoomURI() (u mimiuri.URI, ok bool) { return m.uriOf(KeyRoomURI, mimiuri.Room) }

// SetRoomURI sets the roomUri extension.
func (m *Message) SetRoomURI(u mimiuri.URI) { m.setText(KeyRoomURI, u.String()) }

// Subject gives the subject extension, at most 4,096 octets.
func (m *Message) Subject() (s string, ok bool) {
	s, ok = m.textOf(KeySubject)
	return s, ok && len(s) <= 4096
}

// SetSubject sets the subject extension; an empty subject removes it.
func (m *Message) SetSubject(s string) {
	if s == "" {
		m.Extensions.Delete(KeySubject)
		return
	}
	m.setText(KeySubject, s)
}

// maxTimestamp is the last second of the year 9999, beyond which neither XMPP nor Matrix can show a time.
const maxTimestamp = 253402300799

// SenderTimestamp gives the time at which the sender says it was sent.
func (m *Message) SenderTimestamp() (t time.Time, ok bool) {
	v, ok := m.Extensions.Get(KeySenderTimestamp)
	if !ok {
		return time.Time{}, false
	}
	r := &reader{b: v}
	n := r.want(majorMap, "senderTimestamp")
	if n < 1 || n > 2 {
		return time.Time{}, false
	}
	if k := r.uint(1, "a key"); k != 1 {
		return time.Time{}, false
	}
	sec := r.uint(maxTimestamp, "seconds")
	var nano uint64
	if n == 2 {
		switch r.want(majorNegative, "a key") { // -1 - key
		case 2:
			nano = r.uint(999, "milliseconds") * 1e6
		case 5:
			nano = r.uint(999999, "microseconds") * 1e3
		case 8:
			nano = r.uint(999999999, "nanoseconds")
		default:
			return time.Time{}, false
		}
	}
	if r.err != nil || r.off != len(v) {
		return time.Time{}, false
	}
	return time.Unix(int64(sec), int64(nano)).UTC(), true
}

// SetSenderTimestamp sets the senderTimestamp extension with millisecond precision. A time before 1970 or after 9999,
// the zero time for one, removes it.
func (m *Message) SetSenderTimestamp(t time.Time) {
	if t.Unix() < 0 || t.Unix() > maxTimestamp {
		m.Extensions.Delete(KeySenderTimestamp)
		return
	}
	v := map[int]int64{1: t.Unix()}
	if ms := int64(t.Nanosecond() / 1e6); ms != 0 {
		v[-3] = ms
	}
	b, err := encMode.Marshal(v)
	if err != nil {
		panic(err) // a map of integers always encodes
	}
	m.Extensions.Set(KeySenderTimestamp, b)
}

// ExternalID is a message ID of another network and what it is unique in: a domain or URI, or a Private Enterprise
// Number if Scope is empty.
type ExternalID struct {
	ID    []byte
	Scope string
	PEN   uint64
}

// ExternalMessageID gives the externalMessageId extension: the id under which a bridged network knows the message.
func (m *Message) ExternalMessageID() (id ExternalID, ok bool) {
	v, ok := m.Extensions.Get(KeyExternalMessageID)
	if !ok {
		return ExternalID{}, false
	}
	r := &reader{b: v}
	r.array(2, "externalMessageId")
	id.ID = r.bytes("an external ID")
	if r.peek()>>5 == majorTag { // a tagged URI
		if r.want(majorTag, "scope") != 32 {
			return ExternalID{}, false
		}
		id.Scope = r.text("scope")
	} else if r.peek()>>5 == majorText {
		id.Scope = r.text("scope")
	} else {
		id.PEN = r.uint(1<<64-1, "scope")
	}
	if r.err != nil || r.off != len(v) || id.Scope == "" && id.PEN == 0 {
		return ExternalID{}, false
	}
	return id, true
}

// SetExternalMessageID sets the externalMessageId extension: the network's own id of the message, unique in the domain.
func (m *Message) SetExternalMessageID(id []byte, domain string) {
	b, err := encMode.Marshal([]any{nonNil(id), domain})
	if err != nil {
		panic(err) // bytes and text always encode
	}
	m.Extensions.Set(KeyExternalMessageID, b)
}
