package policy

import (
	"errors"
	"fmt"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Participant is a UserRolePair (draft-ietf-mimi-protocol section "Participant List"). User is of kind User, or of
// kind Provider for the hub itself. Role is a role_index, never 0.
type Participant struct {
	User mimiuri.URI
	Role uint32
}

// ParticipantList is ParticipantListData: at most one entry a user.
type ParticipantList []Participant

// RoleChange is a UserindexRolePair: Index counts in the list before the commit.
type RoleChange struct {
	Index uint32
	Role  uint32
}

// ParticipantListUpdate is the update of one AppDataUpdate for participant_list.
type ParticipantListUpdate struct {
	Changed []RoleChange
	Removed []uint32 // indices in the list before the commit
	Added   []Participant
}

// ErrTouchedTwice: the updates of one commit operate on the same user more than once.
var ErrTouchedTwice = errors.New("the same user is changed twice in one commit")

// entry is a participant with the octets of their URI as they came.
type entry struct {
	Participant
	raw string
}

type entryUpdate struct {
	changed []RoleChange
	removed []uint32
	added   []entry
}

func readEntry(r *tlspl.Reader) entry {
	var e entry
	e.User, e.raw = userURI(r)
	if e.Role = r.Uint32(); e.Role == 0 {
		r.Failf("a participant with role 0")
	}
	return e
}

func writeEntry(w *tlspl.Writer, e entry) {
	w.String(e.raw)
	w.Uint32(e.Role)
}

func toEntries(l []Participant) []entry {
	out := make([]entry, len(l))
	for i, p := range l {
		out[i] = entry{p, p.User.String()}
	}
	return out
}

func fromEntries(l []entry) ParticipantList {
	out := make(ParticipantList, len(l))
	for i, e := range l {
		out[i] = e.Participant
	}
	return out
}

func parseEntries(b []byte) ([]entry, error) {
	var l []entry
	err := decode("participant_list", b, func(r *tlspl.Reader) {
		l = list(r, MaxParticipants, readEntry)
		seen := make(map[mimiuri.URI]bool, len(l))
		for _, e := range l {
			if seen[e.User] {
				r.Failf("a user is listed twice")
				return
			}
			seen[e.User] = true
		}
	})
	return l, err
}

func parseEntryUpdate(b []byte) (entryUpdate, error) {
	var u entryUpdate
	err := decode("participant_list", b, func(r *tlspl.Reader) {
		u.changed = list(r, MaxParticipants, func(r *tlspl.Reader) RoleChange {
			c := RoleChange{r.Uint32(), r.Uint32()}
			if c.Role == 0 {
				r.Failf("a change to role 0")
			}
			return c
		})
		u.removed = list(r, MaxParticipants, readUint32)
		u.added = list(r, MaxParticipants, readEntry)
	})
	return u, err
}

// applyEntries applies the updates of one commit; see the package comment for the order.
func applyEntries(old []entry, updates []entryUpdate) ([]entry, error) {
	touched := make(map[uint32]bool)
	touch := func(i uint32) error {
		if int64(i) >= int64(len(old)) {
			return fmt.Errorf("index %d of %d participants", i, len(old))
		}
		if touched[i] {
			return ErrTouchedTwice
		}
		touched[i] = true
		return nil
	}
	roles := make(map[uint32]uint32)
	removed := make(map[uint32]bool)
	var added []entry
	for _, u := range updates {
		for _, c := range u.changed {
			if err := touch(c.Index); err != nil {
				return nil, err
			}
			if c.Role == 0 {
				return nil, errors.New("a change to role 0")
			}
			roles[c.Index] = c.Role
		}
		for _, i := range u.removed {
			if err := touch(i); err != nil {
				return nil, err
			}
			removed[i] = true
		}
		added = append(added, u.added...)
	}
	known := make(map[mimiuri.URI]uint32, len(old)+len(added))
	for i, e := range old {
		known[e.User] = uint32(i)
	}
	out := make([]entry, 0, len(old)+len(added)-len(removed))
	for i, e := range old {
		if removed[uint32(i)] {
			continue
		}
		if role, ok := roles[uint32(i)]; ok {
			e.Role = role
		}
		out = append(out, e)
	}
	for _, e := range added {
		if e.Role == 0 {
			return nil, errors.New("a participant with role 0")
		}
		if i, ok := known[e.User]; ok {
			if int64(i) >= int64(len(old)) || touched[i] {
				return nil, ErrTouchedTwice
			}
			return nil, errors.New("an added user is listed already")
		}
		known[e.User] = uint32(len(old))
		out = append(out, e)
	}
	if len(out) > MaxParticipants {
		return nil, fmt.Errorf("%d participants", len(out))
	}
	return out, nil
}

// applyParticipants is ApplyAppData for participant_list.
func applyParticipants(old []byte, updates [][]byte) ([]byte, error) {
	var l []entry
	if old != nil {
		var err error
		if l, err = parseEntries(old); err != nil {
			return nil, err
		}
	}
	ups := make([]entryUpdate, len(updates))
	for i, b := range updates {
		u, err := parseEntryUpdate(b)
		if err != nil {
			return nil, err
		}
		ups[i] = u
	}
	out, err := applyEntries(l, ups)
	if err != nil {
		return nil, malformed("participant_list", err)
	}
	return encode(func(w *tlspl.Writer) { writeList(w, out, writeEntry) }), nil
}

// ParseParticipantList reads a ParticipantListData. The error wraps a fault of kind Malformed.
func ParseParticipantList(b []byte) (ParticipantList, error) {
	l, err := parseEntries(b)
	if err != nil {
		return nil, err
	}
	return fromEntries(l), nil
}

// Marshal gives the ParticipantListData, with URIs in their canonical spelling.
func (l ParticipantList) Marshal() []byte {
	return encode(func(w *tlspl.Writer) { writeList(w, toEntries(l), writeEntry) })
}

// Index is the user_index of a user, or -1.
func (l ParticipantList) Index(user mimiuri.URI) int {
	for i := range l {
		if l[i].User == user {
			return i
		}
	}
	return -1
}

// Apply gives the list after the updates of one commit, in their order; l stays as it is. The error wraps a
// fault of kind Malformed, and [ErrTouchedTwice] where that is the reason.
func (l ParticipantList) Apply(updates ...ParticipantListUpdate) (ParticipantList, error) {
	ups := make([]entryUpdate, len(updates))
	for i, u := range updates {
		ups[i] = entryUpdate{u.Changed, u.Removed, toEntries(u.Added)}
	}
	out, err := applyEntries(toEntries(l), ups)
	if err != nil {
		return nil, malformed("participant_list", err)
	}
	return fromEntries(out), nil
}

// ParseParticipantListUpdate reads a ParticipantListUpdate. The error wraps a fault of kind Malformed.
func ParseParticipantListUpdate(b []byte) (ParticipantListUpdate, error) {
	u, err := parseEntryUpdate(b)
	if err != nil {
		return ParticipantListUpdate{}, err
	}
	p := ParticipantListUpdate{Changed: u.changed, Removed: u.removed}
	if len(u.added) > 0 {
		p.Added = fromEntries(u.added)
	}
	return p, nil
}

// Marshal gives the octets of an AppDataUpdate's update.
func (u ParticipantListUpdate) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		writeList(w, u.Changed, func(w *tlspl.Writer, c RoleChange) {
			w.Uint32(c.Index)
			w.Uint32(c.Role)
		})
		writeList(w, u.Removed, writeUint32)
		writeList(w, toEntries(u.Added), writeEntry)
	})
}

// AddParticipantUpdate is the update for participant_list that adds users.
func AddParticipantUpdate(s *State, users []Participant) []byte {
	return ParticipantListUpdate{Added: users}.Marshal()
}

// RemoveParticipantUpdate is the update for participant_list that takes users off the list. A user who is not
// listed is a fault of kind NotFound.
func RemoveParticipantUpdate(s *State, users ...mimiuri.URI) ([]byte, error) {
	var u ParticipantListUpdate
	for _, user := range users {
		i := s.indexOf(user)
		if i < 0 {
			return nil, fault.New(fault.NotFound, "they are not in this room")
		}
		u.Removed = append(u.Removed, uint32(i))
	}
	return u.Marshal(), nil
}

// ChangeRoleUpdate is the update for participant_list that gives listed users other roles. A user who is not
// listed is a fault of kind NotFound.
func ChangeRoleUpdate(s *State, users ...Participant) ([]byte, error) {
	var u ParticipantListUpdate
	for _, p := range users {
		i := s.indexOf(p.User)
		if i < 0 {
			return nil, fault.New(fault.NotFound, "they are not in this room")
		}
		u.Changed = append(u.Changed, RoleChange{uint32(i), p.Role})
	}
	return u.Marshal(), nil
}
