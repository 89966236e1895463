package tlspl

import (
	"bytes"
	"errors"
	"testing"
)

func TestVarint(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 16383, 16384, 1<<30 - 1} {
		var w Writer
		w.Varint(n)
		r := NewReader(w.Bytes())
		if got := r.Varint(); got != n || r.Done() != nil {
			t.Errorf("%d: got %d, %v", n, got, r.Err())
		}
	}
	for _, b := range [][]byte{{0x40, 0x25}, {0x80, 0, 0x25, 0}, {0xc0, 0, 0, 0, 0, 0, 0, 1}, {0xff}} {
		r := NewReader(b)
		if r.Varint(); !errors.Is(r.Err(), ErrVarint) {
			t.Errorf("%x: %v", b, r.Err())
		}
	}
}

func TestVectorLengths(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 16383, 16384, 70000} {
		body := bytes.Repeat([]byte{7}, n)
		var w, o Writer
		w.Uint8(9)
		w.Vector(func(w *Writer) { w.Raw(body) })
		w.Uint8(8)
		o.Uint8(9)
		o.Opaque(body)
		o.Uint8(8)
		if !bytes.Equal(w.Bytes(), o.Bytes()) {
			t.Fatalf("%d: Vector and Opaque differ", n)
		}
		r := NewReader(w.Bytes())
		got := 0
		r.Uint8()
		r.Vector(func(r *Reader) { r.Uint8(); got++ })
		if r.Uint8() != 8 || r.Done() != nil || got != n {
			t.Fatalf("%d: read %d, %v", n, got, r.Err())
		}
	}
}

func TestSticky(t *testing.T) {
	r := NewReader([]byte{0x05, 1, 2})
	if b := r.Opaque(); b != nil || !errors.Is(r.Err(), ErrShort) {
		t.Fatalf("got %x, %v", b, r.Err())
	}
	if r.Uint8() != 0 || r.Uint64() != 0 || r.Rest() != nil && len(r.Rest()) != 0 {
		t.Fatal("a read after a failure gave a value")
	}
	r = NewReader([]byte{1, 2})
	r.Uint8()
	if !errors.Is(r.Done(), ErrTrailing) {
		t.Fatal(r.Err())
	}
	r = NewReader([]byte{2})
	if r.Optional(func(*Reader) {}) || !errors.Is(r.Err(), ErrValue) {
		t.Fatal(r.Err())
	}
	r = NewReader([]byte{1, 0})
	r.Vector(func(*Reader) {})
	if !errors.Is(r.Err(), ErrValue) {
		t.Fatal("an element of no bytes was accepted")
	}
}

// FuzzReader lets the input choose what is read of it: nothing panics, and what
// is given out is never more than what came in.
func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 2, 3}, []byte{0x40, 0x41, 7})
	f.Add([]byte{7, 6, 5, 4}, []byte{0x80, 0, 0x40, 0, 1, 1})
	f.Fuzz(func(t *testing.T, ops, b []byte) {
		r := NewReader(b)
		total := 0
		for _, op := range ops {
			switch op % 9 {
			case 0:
				r.Uint8()
			case 1:
				r.Uint16()
			case 2:
				r.Uint64()
			case 3:
				total += len(r.Opaque())
			case 4:
				total += len(r.Raw(int(int8(op))))
			case 5:
				r.Vector(func(r *Reader) { total += len(r.Opaque()) })
			case 6:
				r.Optional(func(r *Reader) { r.Uint32() })
			case 7:
				total += len(r.String())
			case 8:
				r.Vector(func(r *Reader) { r.Optional(func(*Reader) {}) })
			}
		}
		if total > len(b) || r.Remaining() > len(b) {
			t.Fatalf("%d bytes out of %d", total, len(b))
		}
		if r.Err() != nil && (r.Remaining() != 0 || r.Uint32() != 0 || len(r.Rest()) != 0) {
			t.Fatal("a value after a failure")
		}
		_ = r.Done()
	})
}
