package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Limits of what is read. They are far above what a room needs and far below what would hurt.
const (
	MaxComponent    = 8 << 20 // octets of one component or one update
	MaxParticipants = 100_000
	MaxRoles        = 1_024
	maxList         = 4_096   // any other vector
	maxText         = 1 << 16 // octets of a name, a description …
)

// malformed is a fault of kind Malformed about a component.
func malformed(name string, err error) error {
	return fault.Wrap(fault.Malformed, "the "+name+" of the room is not valid", fmt.Errorf("policy: %s: %w", name, err))
}

// decode reads exactly one structure from b.
func decode(name string, b []byte, read func(r *tlspl.Reader)) error {
	if len(b) > MaxComponent {
		return malformed(name, fmt.Errorf("%d octets", len(b)))
	}
	r := tlspl.NewReader(b)
	read(r)
	if err := r.Done(); err != nil {
		return malformed(name, err)
	}
	return nil
}

func encode(write func(w *tlspl.Writer)) []byte {
	w := tlspl.NewWriter()
	write(w)
	return w.Bytes()
}

// list reads a vector of at most limit elements.
func list[T any](r *tlspl.Reader, limit int, read func(r *tlspl.Reader) T) []T {
	var out []T
	r.Vector(func(r *tlspl.Reader) {
		if len(out) >= limit {
			r.Failf("more than %d elements", limit)
			return
		}
		v := read(r)
		if r.Err() == nil {
			out = append(out, v)
		}
	})
	return out
}

func writeList[T any](w *tlspl.Writer, v []T, write func(w *tlspl.Writer, x T)) {
	w.Vector(func(w *tlspl.Writer) {
		for _, x := range v {
			write(w, x)
		}
	})
}

func readUint32(r *tlspl.Reader) uint32             { return r.Uint32() }
func writeUint32(w *tlspl.Writer, v uint32)         { w.Uint32(v) }
func read16[T ~uint16](r *tlspl.Reader) T           { return T(r.Uint16()) }
func write16[T ~uint16](w *tlspl.Writer, v T)       { w.Uint16(uint16(v)) }
func readString(r *tlspl.Reader) string             { return text(r) }
func writeString(w *tlspl.Writer, s string)         { w.String(s) }
func list16[T ~uint16](r *tlspl.Reader) []T         { return list(r, maxList, read16[T]) }
func writeList16[T ~uint16](w *tlspl.Writer, v []T) { writeList(w, v, write16[T]) }

// boolean reads the drafts' enum bool.
func boolean(r *tlspl.Reader) bool {
	v := r.Uint8()
	if v > 1 {
		r.Failf("bool %d", v)
	}
	return v == 1
}

func writeBool(w *tlspl.Writer, v bool) {
	if v {
		w.Uint8(1)
	} else {
		w.Uint8(0)
	}
}

func optional32(r *tlspl.Reader) *uint32 {
	var v uint32
	if !r.Optional(func(r *tlspl.Reader) { v = r.Uint32() }) {
		return nil
	}
	return &v
}

func writeOptional32(w *tlspl.Writer, v *uint32) {
	w.Optional(v != nil, func(w *tlspl.Writer) { w.Uint32(*v) })
}

// text reads an opaque<V> that people read: UTF-8 without NUL (UTF8String of draft-ietf-mimi-protocol).
func text(r *tlspl.Reader) string {
	s := r.String()
	switch {
	case len(s) > maxText:
		r.Failf("a text of %d octets", len(s))
	case !utf8.ValidString(s):
		r.Failf("a text that is not UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		r.Failf("a text with a NUL")
	default:
		return s
	}
	return ""
}

// uriText reads a Uri of any scheme, which may be empty.
func uriText(r *tlspl.Reader) string {
	s := r.String()
	if len(s) > mimiuri.MaxLen {
		r.Failf("a URI of %d octets", len(s))
		return ""
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f {
			r.Failf("a URI with a space or a control character")
			return ""
		}
	}
	if !utf8.ValidString(s) {
		r.Failf("a URI that is not UTF-8")
		return ""
	}
	return s
}

// roomURI reads a Uri that is empty or names a room.
func roomURI(r *tlspl.Reader) mimiuri.URI {
	s := r.String()
	if s == "" || r.Err() != nil {
		return mimiuri.URI{}
	}
	u, err := mimiuri.ParseKind(s, mimiuri.Room)
	if err != nil {
		r.Fail(err)
	}
	return u
}

// userURI reads the user of a participant: a person, or a provider (the hub itself). It gives the octets
// too: they are part of the group's agreed state and must not be respelt.
func userURI(r *tlspl.Reader) (user mimiuri.URI, raw string) {
	raw = r.String()
	if r.Err() != nil {
		return mimiuri.URI{}, ""
	}
	u, err := mimiuri.Parse(raw)
	if err == nil && u.Kind != mimiuri.User && u.Kind != mimiuri.Provider {
		err = errors.New("it names no user")
	}
	if err != nil {
		r.Fail(err)
		return mimiuri.URI{}, ""
	}
	return u, raw
}

func parseComponentsList(b []byte) (mls.ComponentsList, error) {
	var l mls.ComponentsList
	err := decode("list of components", b, func(r *tlspl.Reader) {
		l = list16[mls.ComponentID](r)
	})
	return l, err
}

// parseFrankingAgent reads a FrankingAgentData, which has the shape of an ExternalSender.
func parseFrankingAgent(b []byte) (mls.ExternalSender, error) {
	var a mls.ExternalSender
	err := decode("franking_agent", b, a.UnmarshalTLS)
	return a, err
}
