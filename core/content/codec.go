package content

import (
	"bytes"
	"fmt"
	"math"

	"github.com/fxamacker/cbor/v2"
)

var encMode = func() cbor.EncMode {
	mode, err := cbor.EncOptions{
		Sort:          cbor.SortBytewiseLexical,
		ShortestFloat: cbor.ShortestFloat16,
		IndefLength:   cbor.IndefLengthForbidden,
	}.EncMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return mode
}()

// Encode gives the deterministic CBOR encoding. A message that Decode would not take is an error, which wraps
// ErrMalformed or ErrLimit.
func (m *Message) Encode() ([]byte, error) {
	var expires any
	if e := m.Expires; e != nil {
		expires = []any{e.Relative, e.Time}
	}
	extensions, err := m.Extensions.encode()
	if err != nil {
		return nil, err
	}
	parts := 0
	body, err := m.Body.encode(1, &parts)
	if err != nil {
		return nil, err
	}
	b, err := encMode.Marshal([]any{
		m.Salt[:], refValue(m.Replaces), nonNil(m.TopicID), expires, refValue(m.InReplyTo), extensions, body,
	})
	if err != nil {
		return nil, fmt.Errorf("content: encode: %w", err)
	}
	// What is sent is held to the rules that receivers apply.
	if _, err := Decode(b); err != nil {
		return nil, fmt.Errorf("content: encode: %w", err)
	}
	return b, nil
}

func refValue(id *MessageID) any {
	if id == nil {
		return nil
	}
	return id[:]
}

// nonNil keeps an empty byte string from becoming null.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (p *Part) encode(level int, parts *int) ([]any, error) {
	if *parts++; *parts > MaxParts || level > MaxDepth {
		return nil, fmt.Errorf("%w: encode: too many or too deep body parts", ErrLimit)
	}
	a := []any{uint8(p.Disposition), p.Language, uint8(p.Cardinality)}
	switch p.Cardinality {
	case NullPart:
		return a, nil
	case SinglePart:
		return append(a, p.ContentType, nonNil(p.Content)), nil
	case ExternalPart:
		e := p.External
		if e == nil {
			return nil, fmt.Errorf("%w: encode: an external part without External", ErrMalformed)
		}
		return append(a, p.ContentType, e.URL, e.Expires, e.Size, e.EncAlg, nonNil(e.Key), nonNil(e.Nonce), nonNil(e.AAD),
			e.HashAlg, nonNil(e.ContentHash), e.Description, e.Filename), nil
	case MultiPart:
		list := make([]any, 0, len(p.Parts))
		for i := range p.Parts {
			sub, err := p.Parts[i].encode(level+1, parts)
			if err != nil {
				return nil, err
			}
			list = append(list, sub)
		}
		return append(a, uint8(p.Semantics), list), nil
	}
	return nil, fmt.Errorf("%w: encode: unknown cardinality %d", ErrMalformed, p.Cardinality)
}

// Decode reads a message. It takes only deterministic CBOR of the draft's CDDL within the limits of this package;
// all else is an error that wraps ErrMalformed or ErrLimit and quotes none of the content. The result shares no
// memory with b.
func Decode(b []byte) (*Message, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d octets", ErrLimit, len(b))
	}
	r := &reader{b: b}
	m := &Message{}
	r.array(7, "the message")
	if salt := r.bytes("the salt"); len(salt) != len(m.Salt) {
		r.fail(ErrMalformed, "the salt has not 16 octets")
	} else {
		copy(m.Salt[:], salt)
	}
	m.Replaces = r.ref("replaces")
	m.TopicID = r.bytes("topicId")
	if !r.null() {
		r.array(2, "expires")
		m.Expires = &Expiration{Relative: r.bool("expires"), Time: uint32(r.uint(math.MaxUint32, "expires"))}
	}
	m.InReplyTo = r.ref("inReplyTo")
	m.Extensions = r.extensions()
	parts := 0
	m.Body = r.part(1, &parts)
	if r.err == nil && r.off != len(b) {
		r.fail(ErrMalformed, "there is something after the message")
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

func (r *reader) ref(what string) *MessageID {
	if r.err != nil || r.null() {
		return nil
	}
	p := r.take(r.want(majorBytes, what))
	if r.err != nil {
		return nil
	}
	var id MessageID
	if len(p) != len(id) {
		r.fail(ErrMalformed, "%s has not 32 octets", what)
		return nil
	}
	copy(id[:], p)
	return &id
}

func (r *reader) extensions() Extensions {
	n := r.want(majorMap, "the extensions")
	if n > MaxExtensions {
		r.fail(ErrLimit, "more than %d extensions", MaxExtensions)
	}
	var list Extensions
	r.pairs(n, false, func(raw []byte) {
		k := reader{b: raw}
		var key Key
		switch major, _, arg := k.head(); major {
		case majorUint:
			key.Int = int64(arg) // bounded by reader.key
		case majorNegative:
			key.Int = -1 - int64(arg)
		case majorText:
			key.Text = string(k.take(arg))
			if len(key.Text) == 0 || len(key.Text) > 255 {
				r.fail(ErrMalformed, "an extension's name has not 1 to 255 octets")
			}
		}
		start := r.off
		if (key == KeySenderURI || key == KeyRoomURI) && r.peek()>>5 != majorText {
			r.fail(ErrMalformed, "senderUri or roomUri is not text")
		}
		r.skip(2) // the extensions map is level 1
		if r.err == nil {
			list = append(list, Extension{Key: key, Value: bytes.Clone(r.b[start:r.off])})
		}
	})
	return list
}

// lengths are the numbers of items of a NestedPart by cardinality.
var lengths = [...]uint64{NullPart: 3, SinglePart: 5, ExternalPart: 15, MultiPart: 5}

func (r *reader) part(level int, parts *int) (p Part) {
	if *parts++; *parts > MaxParts {
		r.fail(ErrLimit, "more than %d body parts", MaxParts)
	}
	if level > MaxDepth {
		r.fail(ErrLimit, "body parts nest more than %d levels", MaxDepth)
	}
	n := r.want(majorArray, "a body part")
	p.Disposition = Disposition(r.uint(math.MaxUint8, "a disposition"))
	p.Language = r.text("a language")
	p.Cardinality = Cardinality(r.uint(uint64(MultiPart), "a cardinality"))
	if r.err == nil && n != lengths[p.Cardinality] {
		r.fail(ErrMalformed, "a body part has %d items instead of %d", n, lengths[p.Cardinality])
	}
	if r.err != nil {
		return Part{}
	}
	switch p.Cardinality {
	case SinglePart:
		p.ContentType = r.text("a content type")
		p.Content = r.bytes("content")
	case ExternalPart:
		p.ContentType = r.text("a content type")
		p.External = &External{
			URL:         r.text("url"),
			Expires:     uint32(r.uint(math.MaxUint32, "expires")),
			Size:        r.uint(math.MaxUint64, "size"),
			EncAlg:      uint16(r.uint(math.MaxUint16, "encAlg")),
			Key:         r.bytes("key"),
			Nonce:       r.bytes("nonce"),
			AAD:         r.bytes("aad"),
			HashAlg:     uint8(r.uint(math.MaxUint8, "hashAlg")),
			ContentHash: r.bytes("contentHash"),
			Description: r.text("description"),
			Filename:    r.text("filename"),
		}
	case MultiPart:
		p.Semantics = Semantics(r.uint(uint64(ProcessAll), "part semantics"))
		k := r.want(majorArray, "parts")
		if r.err == nil && k < 2 {
			r.fail(ErrMalformed, "a multipart body has fewer than two parts")
		}
		for ; k > 0 && r.err == nil; k-- {
			p.Parts = append(p.Parts, r.part(level+1, parts))
		}
	}
	return p
}
