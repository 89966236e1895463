package policy

import (
	"slices"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// RichDescription is a description of the room in one language and media type; an empty MediaType is
// text/plain;charset=utf-8 (draft-ietf-mimi-protocol section "Room Metadata").
type RichDescription struct {
	MediaType string
	Language  string // a language tag, or empty
	Content   []byte
}

// RoomMetadata is the component room_metadata.
type RoomMetadata struct {
	Room         mimiuri.URI
	Name         string
	Descriptions []RichDescription
	Avatar       string // an https URI, or empty
	Subject      string
	Mood         string
}

// ParseRoomMetadata reads room_metadata, as data and as update. The error wraps a fault of kind Malformed.
func ParseRoomMetadata(b []byte) (RoomMetadata, error) {
	var m RoomMetadata
	err := decode("room_metadata", b, func(r *tlspl.Reader) {
		m.Room = roomURI(r)
		m.Name = text(r)
		m.Descriptions = list(r, maxList, func(r *tlspl.Reader) RichDescription {
			return RichDescription{text(r), text(r), r.Opaque()}
		})
		m.Avatar = uriText(r)
		m.Subject = text(r)
		m.Mood = text(r)
	})
	if err != nil {
		return RoomMetadata{}, err
	}
	return m, nil
}

// Marshal gives the octets of room_metadata.
func (m RoomMetadata) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		w.String(m.Room.String())
		w.String(m.Name)
		writeList(w, m.Descriptions, func(w *tlspl.Writer, d RichDescription) {
			w.String(d.MediaType)
			w.String(d.Language)
			w.Opaque(d.Content)
		})
		w.String(m.Avatar)
		w.String(m.Subject)
		w.String(m.Mood)
	})
}

// needs lists the capabilities for changing m to n; ok is false if nobody may (another room URI).
func (m RoomMetadata) needs(n RoomMetadata) (caps []Capability, ok bool) {
	if m.Room != n.Room {
		return nil, false
	}
	if m.Name != n.Name {
		caps = append(caps, CanChangeRoomName)
	}
	if !slices.EqualFunc(m.Descriptions, n.Descriptions, func(a, b RichDescription) bool {
		return a.MediaType == b.MediaType && a.Language == b.Language && string(a.Content) == string(b.Content)
	}) {
		caps = append(caps, CanChangeRoomDescription)
	}
	if m.Avatar != n.Avatar {
		caps = append(caps, CanChangeRoomAvatar)
	}
	if m.Subject != n.Subject {
		caps = append(caps, CanChangeRoomSubject)
	}
	if m.Mood != n.Mood {
		caps = append(caps, CanChangeRoomMood)
	}
	return caps, true
}

// BaseRoomPolicy is the component base_room_policy (draft-ietf-mimi-room-policy section "Base Room policy
// component syntax"). Nil maxima mean none.
type BaseRoomPolicy struct {
	FixedMembership   bool
	ParentDependent   bool
	ParentRoom        mimiuri.URI // zero if there is none
	MultiDevice       bool
	MaxClients        *uint32
	MaxUsers          *uint32 // of listed users that are not banned
	PseudonymsAllowed bool
	PersistentRoom    bool
	Discoverable      bool
	PolicyComponents  []mls.ComponentID
}

// ParseBaseRoomPolicy reads base_room_policy, as data and as update. The error wraps a fault of kind Malformed.
func ParseBaseRoomPolicy(b []byte) (*BaseRoomPolicy, error) {
	p := new(BaseRoomPolicy)
	err := decode("base_room_policy", b, func(r *tlspl.Reader) {
		p.FixedMembership = boolean(r)
		p.ParentDependent = boolean(r)
		if parents := list(r, 1, roomURI); len(parents) == 1 {
			p.ParentRoom = parents[0]
		}
		p.MultiDevice = boolean(r)
		p.MaxClients = optional32(r)
		p.MaxUsers = optional32(r)
		p.PseudonymsAllowed = boolean(r)
		p.PersistentRoom = boolean(r)
		p.Discoverable = boolean(r)
		p.PolicyComponents = list16[mls.ComponentID](r)
		if p.ParentDependent == p.ParentRoom.IsZero() {
			r.Failf("parent_dependent and parent_room disagree")
		}
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Marshal gives the octets of base_room_policy.
func (p *BaseRoomPolicy) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		writeBool(w, p.FixedMembership)
		writeBool(w, p.ParentDependent)
		w.Vector(func(w *tlspl.Writer) {
			if !p.ParentRoom.IsZero() {
				w.String(p.ParentRoom.String())
			}
		})
		writeBool(w, p.MultiDevice)
		writeOptional32(w, p.MaxClients)
		writeOptional32(w, p.MaxUsers)
		writeBool(w, p.PseudonymsAllowed)
		writeBool(w, p.PersistentRoom)
		writeBool(w, p.Discoverable)
		writeList16(w, p.PolicyComponents)
	})
}
