package hub

import (
	"slices"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
)

// active lists the users of a room, but for those who are banned; none of no room.
func active(pol *policy.State) map[mimiuri.URI]bool {
	users := map[mimiuri.URI]bool{}
	if pol != nil {
		for _, p := range pol.Users() {
			users[p.User] = true
		}
	}
	return users
}

// comers lists who is in the room after a change and was not before.
func comers(before, after *policy.State) (users []mimiuri.URI) {
	if same(before, after) {
		return nil
	}
	was := active(before)
	for u := range active(after) {
		if !was[u] {
			users = append(users, u)
		}
	}
	return users
}

// same reports whether two states list the same participants, without making anything of a long list.
func same(a, b *policy.State) bool {
	return a != nil && b != nil && slices.Equal(a.Participants, b.Participants)
}

// list notes which users of other providers are in the room, for limits: what has changed, and all of them when the room has been
// read from disk. pol is nil when the room is over. The own users' clients note that themselves.
func (r *room) list(tx *store.Tx, pol *policy.State) error {
	if same(r.listed, pol) {
		return nil
	}
	was := map[mimiuri.URI]bool{}
	if r.listed != nil {
		was = active(r.listed)
	} else {
		rows, err := tx.RoomMembers(r.id)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if u, err := mimiuri.Parse(row); err == nil {
				was[u] = true
			}
		}
	}
	is := active(pol)
	for _, change := range []struct {
		from, to map[mimiuri.URI]bool
		write    func(user, room string) error
	}{{was, is, tx.DeleteMember}, {is, was, tx.PutMember}} {
		var users []string
		for u := range change.from {
			if !change.to[u] && u.Domain != r.h.cfg.Domain {
				users = append(users, u.String())
			}
		}
		slices.Sort(users)
		for _, u := range users {
			if err := change.write(u, r.id); err != nil {
				return err
			}
		}
	}
	return nil
}
