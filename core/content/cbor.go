package content

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Errors of Decode and Encode, wrapped with the place and the reason.
var (
	// ErrMalformed: the octets are not what the CDDL and the encoding restrictions of the draft allow.
	ErrMalformed = errors.New("content: malformed message")
	// ErrLimit: a limit of size, depth or number is exceeded.
	ErrLimit = errors.New("content: message over a limit")
)

// CBOR major types (RFC 8949 section 3.1).
const (
	majorUint = iota
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

// Initial bytes of the simple values.
const (
	cborFalse = 0xf4
	cborTrue  = 0xf5
	cborNull  = 0xf6
)

// maxKeyInt is the largest magnitude of an integer map key (section "Data model restrictions").
const maxKeyInt = 1<<53 - 1

// reader takes deterministic CBOR apart (RFC 8949 section 4.2.1). It is apart from the codec that encodes
// because receivers must tell the one allowed encoding from the others, and general decoders convert where the CDDL
// names one type. The first error stays; after it all reads give zero values.
type reader struct {
	b   []byte
	off int
	err error
}

func (r *reader) fail(sentinel error, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: octet %d: %s", sentinel, r.off, fmt.Sprintf(format, args...))
	}
}

func (r *reader) take(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.b)-r.off) {
		r.fail(ErrMalformed, "it ends inside a value")
		return nil
	}
	p := r.b[r.off : r.off+int(n)]
	r.off += int(n)
	return p
}

// peek gives the initial byte of the next value without reading it, 0 at the end.
func (r *reader) peek() byte {
	if r.err != nil || r.off >= len(r.b) {
		return 0
	}
	return r.b[r.off]
}

// head reads an initial byte and its argument. For majorSimple, info tells a one-byte simple value from the floats.
func (r *reader) head() (major int, info byte, arg uint64) {
	p := r.take(1)
	if p == nil {
		return 0, 0, 0
	}
	major, info = int(p[0]>>5), p[0]&31
	if info < 24 {
		return major, info, uint64(info)
	}
	if info > 27 {
		r.fail(ErrMalformed, "indefinite length or a reserved initial byte")
		return 0, 0, 0
	}
	n := 1 << (info - 24)
	p = r.take(uint64(n))
	if p == nil {
		return 0, 0, 0
	}
	var least uint64
	switch n {
	case 1:
		arg, least = uint64(p[0]), 24
	case 2:
		arg, least = uint64(binary.BigEndian.Uint16(p)), 1<<8
	case 4:
		arg, least = uint64(binary.BigEndian.Uint32(p)), 1<<16
	case 8:
		arg, least = binary.BigEndian.Uint64(p), 1<<32
	}
	if major != majorSimple && arg < least {
		r.fail(ErrMalformed, "a number is not in its shortest form")
		return 0, 0, 0
	}
	return major, info, arg
}

func (r *reader) want(major int, what string) uint64 {
	m, _, arg := r.head()
	if r.err == nil && m != major {
		r.fail(ErrMalformed, "%s has the wrong type", what)
	}
	if r.err != nil {
		return 0
	}
	return arg
}

func (r *reader) uint(limit uint64, what string) uint64 {
	v := r.want(majorUint, what)
	if v > limit {
		r.fail(ErrMalformed, "%s is out of range", what)
		return 0
	}
	return v
}

func (r *reader) bytes(what string) []byte { return bytes.Clone(r.take(r.want(majorBytes, what))) }

func (r *reader) text(what string) string {
	p := r.take(r.want(majorText, what))
	if !utf8.Valid(p) {
		r.fail(ErrMalformed, "%s is not UTF-8", what)
		return ""
	}
	return string(p)
}

func (r *reader) bool(what string) bool {
	p := r.take(1)
	if p == nil {
		return false
	}
	if p[0] != cborFalse && p[0] != cborTrue {
		r.fail(ErrMalformed, "%s is not a boolean", what)
	}
	return p[0] == cborTrue
}

// null reads a null if one is next.
func (r *reader) null() bool {
	if r.peek() == cborNull {
		r.off++
		return true
	}
	return false
}

// array reads the head of an array that must have n items.
func (r *reader) array(n uint64, what string) {
	if got := r.want(majorArray, what); r.err == nil && got != n {
		r.fail(ErrMalformed, "%s has %d items instead of %d", what, got, n)
	}
}

// key reads a map key: an integer, text or, inside a value, a byte string.
func (r *reader) key(bytesAllowed bool) {
	start := r.off
	major, _, arg := r.head()
	switch {
	case r.err != nil:
	case major == majorUint && arg <= maxKeyInt, major == majorNegative && arg < maxKeyInt:
	case major == majorText:
		p := r.take(arg)
		if !utf8.Valid(p) {
			r.fail(ErrMalformed, "a map key is not UTF-8")
		}
	case major == majorBytes && bytesAllowed:
		r.take(arg)
	default:
		r.off = start
		r.fail(ErrMalformed, "a map key of a type or size that is not allowed")
	}
}

// pairs reads n pairs whose keys must stand in bytewise order, which also excludes equal ones. value reads one value.
func (r *reader) pairs(n uint64, bytesAllowed bool, value func(key []byte)) {
	var last []byte
	for ; n > 0 && r.err == nil; n-- {
		start := r.off
		r.key(bytesAllowed)
		if r.err != nil {
			return
		}
		key := r.b[start:r.off]
		if last != nil && bytes.Compare(last, key) >= 0 {
			r.off = start
			r.fail(ErrMalformed, "map keys are equal or not in order")
			return
		}
		last = key
		value(key)
	}
}

// skip reads any one value; level is the level at which an array, a map or a tag would be.
func (r *reader) skip(level int) {
	start := r.off
	major, info, arg := r.head()
	if r.err != nil {
		return
	}
	if major == majorArray || major == majorMap || major == majorTag {
		if level > MaxDepth {
			r.off = start
			r.fail(ErrLimit, "an extension has more than %d levels", MaxDepth)
			return
		}
	}
	switch major {
	case majorBytes:
		r.take(arg)
	case majorText:
		if !utf8.Valid(r.take(arg)) {
			r.fail(ErrMalformed, "a text string is not UTF-8")
		}
	case majorArray:
		for ; arg > 0 && r.err == nil; arg-- { // each item takes an octet: the input bounds the loop
			r.skip(level + 1)
		}
	case majorMap:
		r.pairs(arg, true, func([]byte) { r.skip(level + 1) })
	case majorTag:
		r.tag(arg, level)
	case majorSimple:
		r.simple(info, arg)
	}
}

func (r *reader) tag(number uint64, level int) {
	if number != 2 && number != 3 {
		r.skip(level + 1)
		return
	}
	// A bignum that fits a plain integer has to be one.
	if p := r.take(r.want(majorBytes, "a big number")); r.err == nil && (len(p) <= 8 || p[0] == 0) {
		r.fail(ErrMalformed, "a big number is not in its shortest form")
	}
}

func (r *reader) simple(info byte, arg uint64) {
	switch info {
	case 24:
		if arg < 32 {
			r.fail(ErrMalformed, "a simple value is not in its shortest form")
		}
	case 25:
		if arg&0x7c00 == 0x7c00 && arg&0x3ff != 0 && arg != 0x7e00 {
			r.fail(ErrMalformed, "a NaN other than the half-width quiet one")
		}
	case 26:
		if f := math.Float32frombits(uint32(arg)); f != f || halfHolds(uint32(arg)) {
			r.fail(ErrMalformed, "a float is not in its shortest form")
		}
	case 27:
		if f := math.Float64frombits(arg); f != f || float64(float32(f)) == f {
			r.fail(ErrMalformed, "a float is not in its shortest form")
		}
	}
}

// halfHolds reports whether a half-width float has the value of the single-width float with these bits.
func halfHolds(bits uint32) bool {
	exp, mant := int(bits>>23&0xff)-127, bits&(1<<23-1)
	switch {
	case exp == 128: // infinity; the caller has excluded NaN
		return true
	case exp == -127: // zero, or too small
		return mant == 0
	case exp >= -14 && exp <= 15:
		return mant&(1<<13-1) == 0
	case exp >= -24 && exp < -14: // subnormal as a half
		return (mant|1<<23)&(1<<(13-14-exp)-1) == 0
	}
	return false
}
