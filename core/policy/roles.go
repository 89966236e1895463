package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Reserved role indexes (draft-ietf-mimi-room-policy sections "Role-Based Access Control" and "Role Changes").
const (
	RoleNone   uint32 = 0 // whoever is not listed
	RoleBanned uint32 = 1 // if its name is "banned"
)

// bannedName is the name role 1 must have for bans to mean anything.
const bannedName = "banned"

// RoleChanges is a SingleSourceRoleChangeTargets: from one role to any of several. 0 stands for "not listed".
type RoleChanges struct {
	From uint32
	To   []uint32
}

// Role is a role and its constraints (draft-ietf-mimi-room-policy section "Role-Based Access Control"). A nil maximum
// means none; a minimum of 0 means none.
type Role struct {
	Index           uint32
	Name            string
	Description     string
	Capabilities    []Capability
	MinParticipants uint32
	MaxParticipants *uint32
	MinActive       uint32
	MaxActive       *uint32 // 0: nobody with this role has clients in the group
	Changes         []RoleChanges
}

// RoleData is the component roles_list.
type RoleData []Role

// Can reports whether the role holds the capability.
func (r Role) Can(c Capability) bool { return slices.Contains(r.Capabilities, c) }

// MayChange reports whether authorized_role_changes has the step from one role to another.
func (r Role) MayChange(from, to uint32) bool {
	for _, c := range r.Changes {
		if c.From == from && slices.Contains(c.To, to) {
			return true
		}
	}
	return false
}

// MayHaveClients reports whether users of this role may have clients in the group at all.
func (r Role) MayHaveClients() bool {
	return r.Index != RoleNone && (r.MaxActive == nil || *r.MaxActive > 0)
}

// Get gives the role with an index.
func (d RoleData) Get(index uint32) (Role, bool) {
	for i := range d {
		if d[i].Index == index {
			return d[i], true
		}
	}
	return Role{}, false
}

// bans reports whether role 1 is the banned role.
func (d RoleData) bans() bool {
	r, ok := d.Get(RoleBanned)
	return ok && r.Name == bannedName
}

// banned reports whether an index means that the user is banned.
func (d RoleData) banned(index uint32) bool { return index == RoleBanned && d.bans() }

// Validate holds the roles against what the draft demands beyond their encoding: who proposes other roles
// is told what is wrong with them. base may be nil.
func (d RoleData) Validate(base *BaseRoomPolicy) error {
	for _, r := range d {
		if r.Index != RoleNone && r.Can(CanOpenJoin) {
			return errors.New("canOpenJoin in a role other than 0")
		}
		if base != nil && base.FixedMembership && r.Index != RoleNone && !d.banned(r.Index) && r.Can(CanAddParticipant) {
			return errors.New("canAddParticipant in a room with fixed membership")
		}
		if r.MaxParticipants != nil && *r.MaxParticipants < r.MinParticipants ||
			r.MaxActive != nil && *r.MaxActive < r.MinActive {
			return fmt.Errorf("role %d has a maximum below its minimum", r.Index)
		}
	}
	return nil
}

func readRole(r *tlspl.Reader) Role {
	return Role{
		Index:           r.Uint32(),
		Name:            text(r),
		Description:     text(r),
		Capabilities:    list16[Capability](r),
		MinParticipants: r.Uint32(),
		MaxParticipants: optional32(r),
		MinActive:       r.Uint32(),
		MaxActive:       optional32(r),
		Changes: list(r, MaxRoles, func(r *tlspl.Reader) RoleChanges {
			return RoleChanges{r.Uint32(), list(r, MaxRoles, readUint32)}
		}),
	}
}

func writeRole(w *tlspl.Writer, r Role) {
	w.Uint32(r.Index)
	w.String(r.Name)
	w.String(r.Description)
	writeList16(w, r.Capabilities)
	w.Uint32(r.MinParticipants)
	writeOptional32(w, r.MaxParticipants)
	w.Uint32(r.MinActive)
	writeOptional32(w, r.MaxActive)
	writeList(w, r.Changes, func(w *tlspl.Writer, c RoleChanges) {
		w.Uint32(c.From)
		writeList(w, c.To, writeUint32)
	})
}

// ParseRoleData reads roles_list, as data and as update; a role_index occurs at most once. The error wraps a
// fault of kind Malformed.
func ParseRoleData(b []byte) (RoleData, error) {
	var d RoleData
	err := decode("roles_list", b, func(r *tlspl.Reader) {
		d = list(r, MaxRoles, readRole)
		seen := make(map[uint32]bool, len(d))
		for _, x := range d {
			if seen[x.Index] {
				r.Failf("role %d twice", x.Index)
				return
			}
			seen[x.Index] = true
		}
	})
	return d, err
}

// Marshal gives the octets of roles_list.
func (d RoleData) Marshal() []byte {
	return encode(func(w *tlspl.Writer) { writeList(w, d, writeRole) })
}

// ClaimID names a claim of a credential (draft-ietf-mimi-room-policy section "Preauthorized Users").
type ClaimID struct {
	CredentialType uint16
	ID             []byte
}

// Claim is a claim and the value it must have.
type Claim struct {
	ID    ClaimID
	Value []byte
}

// PreAuthEntry authorises whoever has all claims for a role. On the wire the whole Role is repeated; only
// its index counts.
type PreAuthEntry struct {
	Claims []Claim
	Role   Role
}

// PreAuthData is the component preauth_list; the first entry that matches decides.
type PreAuthData []PreAuthEntry

// ParsePreAuthData reads preauth_list, as data and as update. The error wraps a fault of kind Malformed.
func ParsePreAuthData(b []byte) (PreAuthData, error) {
	var d PreAuthData
	err := decode("preauth_list", b, func(r *tlspl.Reader) {
		d = list(r, maxList, func(r *tlspl.Reader) PreAuthEntry {
			return PreAuthEntry{
				Claims: list(r, maxList, func(r *tlspl.Reader) Claim {
					return Claim{ClaimID{r.Uint16(), r.Opaque()}, r.Opaque()}
				}),
				Role: readRole(r),
			}
		})
	})
	return d, err
}

// Marshal gives the octets of preauth_list.
func (d PreAuthData) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		writeList(w, d, func(w *tlspl.Writer, e PreAuthEntry) {
			writeList(w, e.Claims, func(w *tlspl.Writer, c Claim) {
				w.Uint16(c.ID.CredentialType)
				w.Opaque(c.ID.ID)
				w.Opaque(c.Value)
			})
			writeRole(w, e.Role)
		})
	})
}

// firstRole is the role of the first entry that matches, 0 if none does.
func (d PreAuthData) firstRole() uint32 {
	for _, e := range d {
		if len(e.Claims) == 0 {
			return e.Role.Index
		}
	}
	return RoleNone
}
