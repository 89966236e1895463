package xmpp

import (
	"cmp"
	"slices"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// A MIMI role is a set of capabilities; an affiliation and a role of XEP-0045 say the same coarsely:
//
//	owner        may destroy the room or change what it is like
//	admin        may change the roles of others, or ban
//	member       any other participant
//	outcast      banned
//	moderator    may kick, ban, or delete what others wrote
//	participant  may send
//	visitor      may only read

// standing is what a MIMI role is in a MUC.
type standing struct{ affiliation, role string }

func standingOf(r adapter.Role) standing {
	if r.Name == "banned" || r.Index == policy.RoleBanned {
		return standing{"outcast", "none"}
	}
	s := standing{"member", "visitor"}
	switch {
	case r.Can(policy.CanDestroyRoom) || r.Can(policy.CanChangeRoomMembershipStyle):
		s.affiliation = "owner"
	case r.Can(policy.CanChangeUserRole) || r.Can(policy.CanBan):
		s.affiliation = "admin"
	}
	switch {
	case r.Can(policy.CanKick) || r.Can(policy.CanBan) || r.Can(policy.CanDeleteOtherMessage) || r.Can(policy.CanChangeUserRole):
		s.role = "moderator"
	case r.Can(policy.CanSendMessage):
		s.role = "participant"
	}
	return s
}

// standing is a participant's. A role that is not in the list is what its bearer is said to be able to do.
func (r *room) standing(p adapter.Participant) standing {
	for _, role := range r.info.Roles {
		if role.Index == p.Role {
			s := standingOf(role)
			if !p.Send && s.role == "participant" {
				s.role = "visitor"
			}
			return s
		}
	}
	switch {
	case p.Admin:
		return standing{"admin", "moderator"}
	case p.Send:
		return standing{"member", "participant"}
	}
	return standing{"member", "visitor"}
}

// roleFor finds the role that makes a participant what is wanted (an empty part is left as it is) and that the actor may give them: the one
// with the fewest capabilities. now is the target's role, 0 for none. ok is false if there is none.
func roleFor(info adapter.Room, actor mimiuri.URI, now uint32, want standing) (role uint32, ok bool) {
	by, in := info.RoleOf(actor)
	if !in {
		return 0, false
	}
	var list []adapter.Role
	for _, r := range info.Roles {
		s := standingOf(r)
		if want.affiliation != "" && s.affiliation != want.affiliation || want.role != "" && s.role != want.role || s.affiliation == "outcast" || r.Index == policy.RoleNone {
			continue
		}
		if r.Index == now {
			return now, true
		}
		if mayChange(by, now, r.Index) {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return 0, false
	}
	slices.SortStableFunc(list, func(a, b adapter.Role) int { return cmp.Compare(len(a.Capabilities), len(b.Capabilities)) })
	return list[0].Index, true
}

// mayChange tells whether the holders of a role may move somebody from one role to another.
func mayChange(by adapter.Role, from, to uint32) bool {
	for _, c := range by.Changes {
		if c.From == from && slices.Contains(c.To, to) {
			return true
		}
	}
	return false
}
