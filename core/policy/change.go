package policy

import (
	"slices"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
)

// maxHistory is how far back history is shared where nobody has said otherwise, in seconds.
const maxHistory = 30 * 24 * 3600

// OpenRole is the role in which anybody may join on their own, and whether there is one: by an entry of preauth_list
// without claims, or by canOpenJoin of role 0.
func (s *State) OpenRole() (uint32, bool) {
	if r := s.PreAuth.firstRole(); r != RoleNone && s.role(r).Can(CanJoinIfPreauthorized) {
		return r, true
	}
	none := s.role(RoleNone)
	if !none.Can(CanOpenJoin) {
		return RoleNone, false
	}
	if r := s.OrdinaryRole(); none.MayChange(RoleNone, r) {
		return r, true
	}
	for _, c := range none.Changes {
		if c.From == RoleNone {
			for _, r := range c.To {
				if s.role(r).MayHaveClients() {
					return r, true
				}
			}
		}
	}
	return RoleNone, false
}

// OrdinaryRole is the role of those who are nothing special: the lowest that may have clients and bring in their own.
func (s *State) OrdinaryRole() uint32 {
	best, found := RoleNone, false
	for _, own := range []bool{true, false} {
		for _, r := range s.Roles {
			if r.Index != RoleNone && !s.Roles.banned(r.Index) && r.MayHaveClients() && (!own || r.Can(CanAddOwnClient)) && (!found || r.Index < best) {
				best, found = r.Index, true
			}
		}
		if found {
			break
		}
	}
	return best
}

// RoleToAdd is the role in which by adds somebody who is not listed, unless another one is wanted: the ordinary one, or
// else the lowest that by may give.
func (s *State) RoleToAdd(by mimiuri.URI) uint32 {
	role, best := s.Role(by), s.OrdinaryRole()
	if role.MayChange(RoleNone, best) {
		return best
	}
	for _, c := range role.Changes {
		for _, r := range c.To {
			if c.From == RoleNone && s.role(r).MayHaveClients() && (!role.MayChange(RoleNone, best) || r < best) {
				best = r
			}
		}
	}
	return best
}

// Users are the listed users that are not banned, in the list's order.
func (s *State) Users() []Participant {
	var us []Participant
	for _, p := range s.Participants {
		if p.User.Kind == mimiuri.User && !s.Roles.banned(p.Role) {
			us = append(us, p)
		}
	}
	return us
}

// BannedUsers are the users with the banned role, in the list's order.
func (s *State) BannedUsers() []mimiuri.URI {
	var us []mimiuri.URI
	for _, p := range s.Participants {
		if p.User.Kind == mimiuri.User && s.Roles.banned(p.Role) {
			us = append(us, p.User)
		}
	}
	return us
}

// others are the listed that are no users, but the hub: max_users counts them in.
func (s *State) others() (n uint32) {
	for _, p := range s.Participants {
		if p.User.Kind != mimiuri.User {
			n++
		}
	}
	return n
}

// MaxUsers is how many people the room may have, 0 if there is no limit.
func (s *State) MaxUsers() uint32 {
	if s.Base.MaxUsers == nil {
		return 0
	}
	return max(1, *s.Base.MaxUsers-min(*s.Base.MaxUsers, s.others()))
}

// Change is an update of one component.
type Change struct {
	Component mls.ComponentID
	Update    []byte
}

// Proposal makes the AppDataUpdate.
func (c Change) Proposal() mls.Proposal {
	return mls.Proposal{Body: &mls.AppDataUpdate{ComponentID: c.Component, Op: mls.AppDataOpUpdate, Update: c.Update}}
}

// ListChange is an update of the participant list as a Change.
func ListChange(update []byte) Change { return Change{ComponentParticipantList, update} }

// Settings is what people set of a room's policy; nil leaves a part as it is.
type Settings struct {
	Open         *bool   // see [State.OpenRole]
	History      *bool   // chat_history_policy
	Discoverable *bool   // base_room_policy
	MaxUsers     *uint32 // max_users of base_room_policy, which counts the hub in, too; 0 is no limit
}

// SettingsChanges are the updates that give the room the settings; none if it has them. The error, a *Denied, is for a
// room that cannot be opened, since the role of its ordinary users has not canJoinIfPreauthorized.
func (s *State) SettingsChanges(n Settings) ([]Change, error) {
	var out []Change
	base := *s.Base
	base.PolicyComponents = slices.Clone(s.Base.PolicyComponents)
	relevant := func(id mls.ComponentID) {
		if !slices.Contains(base.PolicyComponents, id) {
			base.PolicyComponents = append(base.PolicyComponents, id)
		}
	}
	if n.Open != nil {
		role, open := s.OpenRole()
		switch {
		case *n.Open == open:
		case *n.Open:
			if role = s.OrdinaryRole(); !s.role(role).Can(CanJoinIfPreauthorized) {
				return nil, deny("canJoinIfPreauthorized", "this room's roles do not let it be opened")
			}
			l := append(slices.Clone(s.PreAuth), PreAuthEntry{Role: s.role(role)})
			out = append(out, Change{ComponentPreAuthList, l.Marshal()})
			relevant(ComponentPreAuthList)
		case s.PreAuth.firstRole() != role:
			return nil, deny("canOpenJoin", "this room's roles do not let it be closed")
		default:
			l := slices.DeleteFunc(slices.Clone(s.PreAuth), func(e PreAuthEntry) bool { return len(e.Claims) == 0 })
			out = append(out, Change{ComponentPreAuthList, l.Marshal()})
		}
	}
	if n.History != nil && *n.History != (s.History.Sharing != Forbidden) {
		h := HistoryPolicy{Sharing: Forbidden}
		if *n.History {
			h = HistoryPolicy{Sharing: Optional, Automatic: true, MaxPeriod: maxHistory}
			for _, r := range s.Roles {
				if r.Index != RoleNone && r.Index != RoleBanned && r.MayHaveClients() {
					h.Roles = append(h.Roles, r.Index)
				}
			}
		}
		out = append(out, Change{ComponentChatHistory, h.Marshal()})
		relevant(ComponentChatHistory)
	}
	if n.Discoverable != nil {
		base.Discoverable = *n.Discoverable
	}
	if n.MaxUsers != nil {
		if base.MaxUsers = nil; *n.MaxUsers > 0 {
			base.MaxUsers = u32(*n.MaxUsers + s.others())
		}
	}
	if b := base.Marshal(); string(b) != string(s.Base.Marshal()) {
		out = append(out, Change{ComponentBaseRoomPolicy, b})
	}
	return out, nil
}

// BanChange is the update that bans a user, listed or not. The error is a *Denied: the room has no banned role, or the
// user is banned already.
func (s *State) BanChange(user mimiuri.URI) (Change, error) {
	switch i := s.indexOf(user); {
	case !s.Roles.bans():
		return Change{}, deny("banned", "nobody can be banned from this room")
	case s.Banned(user):
		return Change{}, deny("banned", "they are banned already")
	case i >= 0:
		return ListChange(ParticipantListUpdate{Changed: []RoleChange{{uint32(i), RoleBanned}}}.Marshal()), nil
	}
	return ListChange(ParticipantListUpdate{Added: []Participant{{user, RoleBanned}}}.Marshal()), nil
}

// DestroyChanges are the updates of the commit that destroys a room: it is persistent no more, and nobody is listed but the
// committer, the hub and the banned. The room is over when the committer has left it, too.
func (s *State) DestroyChanges(by mimiuri.URI) []Change {
	base := *s.Base
	base.PersistentRoom = false
	out := []Change{{ComponentBaseRoomPolicy, base.Marshal()}}
	var u ParticipantListUpdate
	for i, p := range s.Participants {
		if p.User.Kind == mimiuri.User && p.User != by && !s.Roles.banned(p.Role) {
			u.Removed = append(u.Removed, uint32(i))
		}
	}
	if len(u.Removed) > 0 {
		out = append(out, ListChange(u.Marshal()))
	}
	return out
}
