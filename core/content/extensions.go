package content

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

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

// maxSubject is the longest subject in octets, by its definition.
const maxSubject = 4096

// Subject gives the subject extension; ok is false if there is none, or it has not 1 to 4,096 octets.
func (m *Message) Subject() (s string, ok bool) {
	if s, ok = m.textOf(KeySubject); !ok || s == "" || len(s) > maxSubject {
		return "", false
	}
	return s, true
}

// SetSubject sets the subject extension; an empty subject removes it, one that is too long is cut between characters.
func (m *Message) SetSubject(s string) {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) > maxSubject {
		n := maxSubject
		for !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
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
	id = r.externalID()
	if r.err != nil || r.off != len(v) {
		return ExternalID{}, false
	}
	return id, true
}

// externalID reads ExtMessageId of the CDDL.
func (r *reader) externalID() (id ExternalID) {
	r.array(2, "an external ID")
	id.ID = r.bytes("an external ID")
	switch r.peek() >> 5 {
	case majorTag: // a tagged URI
		if r.want(majorTag, "scope") != 32 {
			r.fail(ErrMalformed, "a scope with another tag than that of URIs")
		}
		id.Scope = r.text("scope")
	case majorText:
		id.Scope = r.text("scope")
	default:
		id.PEN = r.uint(1<<64-1, "scope")
	}
	if id.Scope == "" && id.PEN == 0 {
		r.fail(ErrMalformed, "an external ID without a scope")
	}
	return id
}

func (id ExternalID) value() []any {
	if id.Scope != "" {
		return []any{nonNil(id.ID), id.Scope}
	}
	return []any{nonNil(id.ID), id.PEN}
}

// SetExternalMessageID sets the externalMessageId extension: the network's own id of the message, unique in the domain.
func (m *Message) SetExternalMessageID(id []byte, domain string) {
	b, err := encMode.Marshal(ExternalID{ID: id, Scope: domain}.value())
	if err != nil {
		panic(err) // bytes and text always encode
	}
	m.Extensions.Set(KeyExternalMessageID, b)
}

// MaxLastSeen is how many messages lastSeen may name; the draft calls more an anomaly.
const MaxLastSeen = 65535

// LastSeen is the lastSeen extension: the latest messages that the sender had seen, by their IDs or, never mixed, by those of another
// network. Both empty: the sender had seen none yet.
type LastSeen struct {
	IDs      []MessageID
	External []ExternalID
}

// LastSeen gives the lastSeen extension; ok is false if there is none or it is not as its definition says.
func (m *Message) LastSeen() (l LastSeen, ok bool) {
	v, ok := m.Extensions.Get(KeyLastSeen)
	if !ok {
		return LastSeen{}, false
	}
	r := &reader{b: v}
	n := r.want(majorArray, "lastSeen")
	if n > MaxLastSeen {
		return LastSeen{}, false
	}
	external := r.peek()>>5 == majorArray
	for ; n > 0 && r.err == nil; n-- {
		if external {
			l.External = append(l.External, r.externalID())
		} else if id := r.ref("a message ID"); id != nil {
			l.IDs = append(l.IDs, *id)
		} else {
			r.fail(ErrMalformed, "a message ID is null")
		}
	}
	if r.err != nil || r.off != len(v) {
		return LastSeen{}, false
	}
	return l, true
}

// SetLastSeen sets the lastSeen extension. IDs of both kinds, or too many, are an error and change nothing.
func (m *Message) SetLastSeen(l LastSeen) error {
	if len(l.IDs) > 0 && len(l.External) > 0 || len(l.IDs)+len(l.External) > MaxLastSeen {
		return fmt.Errorf("%w: lastSeen with %d message IDs and %d external ones", ErrLimit, len(l.IDs), len(l.External))
	}
	list := make([]any, 0, len(l.IDs)+len(l.External))
	for i := range l.IDs {
		list = append(list, l.IDs[i][:])
	}
	for _, id := range l.External {
		list = append(list, id.value())
	}
	b, err := encMode.Marshal(list)
	if err != nil {
		return fmt.Errorf("content: encode: %w", err)
	}
	m.Extensions.Set(KeyLastSeen, b)
	return nil
}
