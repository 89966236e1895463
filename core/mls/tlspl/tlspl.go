// Package tlspl reads and writes the TLS presentation language (RFC 8446
// section 3) with the variable-size vectors of RFC 9420 section 2.1.2, whose
// lengths are QUIC-style variable-length integers.
//
// A [Writer] only grows a byte slice and cannot fail, but for a vector of more
// than 2^30-1 bytes, which panics: no structure of this project comes near it.
// A [Reader] has a sticky error: after the first failure every read gives a
// zero value, so a decoder reads all its fields and asks once, at the end.
// A length is held against the bytes that are left before anything is
// allocated; what a decoder allocates is bounded by what it was given.
//
//	w := tlspl.NewWriter()
//	w.Uint16(1)
//	w.Opaque([]byte("hello"))
//	w.Vector(func(w *tlspl.Writer) { w.Uint16(7); w.Uint16(8) })
//
//	r := tlspl.NewReader(w.Bytes())
//	id, name := r.Uint16(), r.Opaque()
//	var list []uint16
//	r.Vector(func(r *tlspl.Reader) { list = append(list, r.Uint16()) })
//	if err := r.Done(); err != nil { … }
package tlspl

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// Errors a [Reader] reports; they come wrapped.
var (
	// ErrShort: the input ends inside a value.
	ErrShort = errors.New("tlspl: input too short")
	// ErrVarint: a length uses the prefix 0b11 or more bytes than it needs
	// (RFC 9420 section 2.1.2 allows neither).
	ErrVarint = errors.New("tlspl: malformed variable-length integer")
	// ErrTrailing: bytes are left after the last field.
	ErrTrailing = errors.New("tlspl: trailing bytes")
	// ErrValue: a byte has a value its field does not allow.
	ErrValue = errors.New("tlspl: value not allowed")
)

// MaxVector is the greatest length in bytes of a vector.
const MaxVector = 1<<30 - 1

// Marshaler is a structure that writes itself.
type Marshaler interface{ MarshalTLS(w *Writer) }

// Unmarshaler is a structure that reads itself. Failures go to r.
type Unmarshaler interface{ UnmarshalTLS(r *Reader) }

// Marshal gives the encoding of m.
func Marshal(m Marshaler) []byte {
	w := NewWriter()
	m.MarshalTLS(w)
	return w.Bytes()
}

// Unmarshal reads exactly one m from b; bytes left over are an error.
func Unmarshal(b []byte, m Unmarshaler) error {
	r := NewReader(b)
	m.UnmarshalTLS(r)
	return r.Done()
}

// Writer builds an encoding. The zero value is ready for use. Not safe for
// concurrent use.
type Writer struct{ b []byte }

// NewWriter gives an empty Writer.
func NewWriter() *Writer { return &Writer{} }

// Bytes gives what was written so far; the slice is the Writer's own until
// the Writer is dropped.
func (w *Writer) Bytes() []byte { return w.b }

// Len is the number of bytes written.
func (w *Writer) Len() int { return len(w.b) }

// Uint8 writes one byte.
func (w *Writer) Uint8(v uint8) { w.b = append(w.b, v) }

// Uint16 writes v in network byte order, as Uint32 and Uint64 do.
func (w *Writer) Uint16(v uint16) { w.b = append(w.b, byte(v>>8), byte(v)) }

// Uint32 writes four bytes.
func (w *Writer) Uint32(v uint32) {
	w.b = append(w.b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// Uint64 writes eight bytes.
func (w *Writer) Uint64(v uint64) {
	w.Uint32(uint32(v >> 32))
	w.Uint32(uint32(v))
}

// Raw writes b without a length.
func (w *Writer) Raw(b []byte) { w.b = append(w.b, b...) }

// Varint writes a length. It panics above [MaxVector].
func (w *Writer) Varint(n int) {
	switch {
	case n < 0 || n > MaxVector:
		panic(fmt.Sprintf("tlspl: vector of %d bytes", n))
	case n < 1<<6:
		w.Uint8(uint8(n))
	case n < 1<<14:
		w.Uint16(1<<14 | uint16(n))
	default:
		w.Uint32(2<<30 | uint32(n))
	}
}

// Opaque writes opaque<V>.
func (w *Writer) Opaque(b []byte) {
	w.Varint(len(b))
	w.Raw(b)
}

// String writes opaque<V> from a string.
func (w *Writer) String(s string) {
	w.Varint(len(s))
	w.b = append(w.b, s...)
}

// Vector writes a vector<V> of what f writes.
func (w *Writer) Vector(f func(*Writer)) {
	// One byte is kept for the length, which holds for most vectors; longer
	// ones are moved once.
	start := len(w.b)
	w.b = append(w.b, 0)
	f(w)
	n := len(w.b) - start - 1
	if n < 1<<6 {
		w.b[start] = byte(n)
		return
	}
	var head Writer
	head.Varint(n)
	w.b = append(w.b, head.b[1:]...)
	copy(w.b[start+len(head.b):], w.b[start+1:start+1+n])
	copy(w.b[start:], head.b)
}

// Optional writes optional<T>: a presence byte and, if present, what f writes.
func (w *Writer) Optional(present bool, f func(*Writer)) {
	if !present {
		w.Uint8(0)
		return
	}
	w.Uint8(1)
	f(w)
}

// Reader takes an encoding apart. Not safe for concurrent use.
type Reader struct {
	s   cryptobyte.String
	err error
}

// NewReader reads from b, which must not change while the Reader is in use.
func NewReader(b []byte) *Reader { return &Reader{s: b} }

// Err is the first failure, or nil.
func (r *Reader) Err() error { return r.err }

// Fail makes err the Reader's error if it has none yet: decoders report values
// that make no sense with it.
func (r *Reader) Fail(err error) {
	if r.err == nil && err != nil {
		r.err = err
		r.s = nil
	}
}

// Failf is Fail with a formatted error that wraps [ErrValue].
func (r *Reader) Failf(format string, args ...any) {
	r.Fail(fmt.Errorf("%w: %s", ErrValue, fmt.Sprintf(format, args...)))
}

// Done is Err, or [ErrTrailing] if bytes are left.
func (r *Reader) Done() error {
	if r.err == nil && len(r.s) != 0 {
		r.Fail(fmt.Errorf("%w: %d", ErrTrailing, len(r.s)))
	}
	return r.err
}

// Remaining is the number of bytes not read yet; 0 after a failure.
func (r *Reader) Remaining() int { return len(r.s) }

// Rest takes all bytes that are left, as a copy.
func (r *Reader) Rest() []byte { return r.Raw(len(r.s)) }

// Uint8 reads one byte.
func (r *Reader) Uint8() uint8 {
	var v uint8
	if r.err == nil && !r.s.ReadUint8(&v) {
		r.Fail(ErrShort)
	}
	return v
}

// Uint16 reads two bytes in network byte order, as Uint32 and Uint64 do.
func (r *Reader) Uint16() uint16 {
	var v uint16
	if r.err == nil && !r.s.ReadUint16(&v) {
		r.Fail(ErrShort)
	}
	return v
}

// Uint32 reads four bytes.
func (r *Reader) Uint32() uint32 {
	var v uint32
	if r.err == nil && !r.s.ReadUint32(&v) {
		r.Fail(ErrShort)
	}
	return v
}

// Uint64 reads eight bytes.
func (r *Reader) Uint64() uint64 {
	var v uint64
	if r.err == nil && !r.s.ReadUint64(&v) {
		r.Fail(ErrShort)
	}
	return v
}

// view takes n bytes without copying them.
func (r *Reader) view(n int) []byte {
	var v []byte
	if r.err == nil && (n < 0 || !r.s.ReadBytes(&v, n)) {
		r.Fail(ErrShort)
		return nil
	}
	return v
}

// Raw reads n bytes, as a copy; nil after a failure.
func (r *Reader) Raw(n int) []byte {
	// The length is compared first, since a copy of n bytes is made.
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.s) {
		r.Fail(ErrShort)
		return nil
	}
	v := append(make([]byte, 0, n), r.s[:n]...)
	r.s = r.s[n:]
	return v
}

// Varint reads a length, which must be in its shortest form.
func (r *Reader) Varint() int {
	if r.err != nil {
		return 0
	}
	if len(r.s) == 0 {
		r.Fail(ErrShort)
		return 0
	}
	var n, least int
	switch r.s[0] >> 6 {
	case 0:
		return int(r.Uint8())
	case 1:
		n, least = int(r.Uint16()&(1<<14-1)), 1<<6
	case 2:
		n, least = int(r.Uint32()&(1<<30-1)), 1<<14
	default:
		r.Fail(ErrVarint)
		return 0
	}
	if r.err == nil && n < least {
		r.Fail(fmt.Errorf("%w: %d is not in its shortest form", ErrVarint, n))
		return 0
	}
	return n
}

// Opaque reads opaque<V>, as a copy; never nil without a failure.
func (r *Reader) Opaque() []byte { return r.Raw(r.Varint()) }

// String reads opaque<V> as a string. Its bytes are not checked to be UTF-8.
func (r *Reader) String() string { return string(r.view(r.Varint())) }

// Sub gives a Reader over the bytes of a vector<V>. The caller hands its error
// back with Fail(sub.Done()); Vector does that by itself.
func (r *Reader) Sub() *Reader {
	sub := NewReader(r.view(r.Varint()))
	sub.err = r.err
	return sub
}

// Vector reads vector<V>: f is called with a Reader over the vector's bytes
// until they are used up or a failure. An f that reads nothing is a failure,
// or it would be called for ever.
func (r *Reader) Vector(f func(*Reader)) {
	sub := r.Sub()
	for sub.err == nil && len(sub.s) > 0 {
		before := len(sub.s)
		f(sub)
		if sub.err == nil && len(sub.s) == before {
			sub.Fail(ErrValue)
		}
	}
	r.Fail(sub.err)
}

// Optional reads optional<T>: f is called if the value is present.
func (r *Reader) Optional(f func(*Reader)) bool {
	switch v := r.Uint8(); {
	case r.err != nil || v == 0:
		return false
	case v != 1:
		r.Failf("presence byte %d", v)
		return false
	}
	f(r)
	return r.err == nil
}
