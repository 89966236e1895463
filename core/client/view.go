package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
)

// view is what local users are shown of a room: the participant list as it will be once the pending proposals are
// committed (what the hub has accepted counts from then on), roles, metadata and policy. It is stored with the
// room; the difference between two views is the events but messages.
type view struct {
	Name         string         `json:"name,omitempty"`
	Description  string         `json:"description,omitempty"`
	Subject      string         `json:"subject,omitempty"`
	Mood         string         `json:"mood,omitempty"`
	Avatar       string         `json:"avatar,omitempty"`
	Members      []member       `json:"members"`
	Banned       []string       `json:"banned,omitempty"`
	Roles        []adapter.Role `json:"roles,omitempty"`
	Direct       bool           `json:"direct,omitempty"`
	Open         bool           `json:"open,omitempty"`
	History      bool           `json:"history,omitempty"`
	Discoverable bool           `json:"discoverable,omitempty"`
	MaxUsers     uint32         `json:"max_users,omitempty"`
	Offline      bool           `json:"offline,omitempty"` // the hub has not been reached for some time
}

type member struct {
	User  string `json:"user"`
	Role  uint32 `json:"role"`
	Title string `json:"title"`
	Send  bool   `json:"send,omitempty"`
	Admin bool   `json:"admin,omitempty"`
	// Deaf: the role lacks canReceiveMessage. It is not shown messages of others.
	Deaf bool `json:"deaf,omitempty"`
	// Away: in a room of fixed membership a participant without clients, who is not there yet or any more.
	Away bool `json:"away,omitempty"`
	// By is who added a local user who has not said yet whether they want to be in the room.
	By string `json:"by,omitempty"`
	// Since is the epoch from which a local user may see messages.
	Since uint64 `json:"since,omitempty"`
}

func parseView(b []byte) (*view, error) {
	v := new(view)
	if b == nil {
		return v, nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("client: stored view: %w", err)
	}
	return v, nil
}

func (v *view) find(user string) *member {
	for i := range v.Members {
		if v.Members[i].User == user {
			return &v.Members[i]
		}
	}
	return nil
}

// here is find for those who are not away.
func (v *view) here(user string) *member {
	if m := v.find(user); m != nil && !m.Away {
		return m
	}
	return nil
}

func (v *view) room(uri mimiuri.URI) adapter.Room {
	r := adapter.Room{URI: uri, Name: v.Name, Description: v.Description, Subject: v.Subject, Mood: v.Mood, Avatar: v.Avatar,
		Roles: v.Roles, Direct: v.Direct, Open: v.Open, History: v.History, Discoverable: v.Discoverable, MaxUsers: v.MaxUsers, Offline: v.Offline}
	for _, m := range v.Members {
		u, err := mimiuri.ParseKind(m.User, mimiuri.User)
		if err != nil {
			continue // a hub in the policy_enforcer role is no user
		}
		r.Participants = append(r.Participants, adapter.Participant{User: u, Role: m.Role, RoleName: m.Title, Send: m.Send, Admin: m.Admin})
	}
	for _, b := range v.Banned {
		if u, err := mimiuri.ParseKind(b, mimiuri.User); err == nil {
			r.Banned = append(r.Banned, u)
		}
	}
	return r
}

// local lists the users of a domain that may see what was sent in an epoch.
func (v *view) local(domain string, epoch uint64) []string {
	return v.locals(domain, epoch, func(*member) bool { return true })
}

// hearers is local for messages: without those whose role lacks canReceiveMessage, but for the sender.
func (v *view) hearers(domain string, epoch uint64, sender string) []string {
	return v.locals(domain, epoch, func(m *member) bool { return !m.Deaf || m.User == sender })
}

func (v *view) locals(domain string, epoch uint64, ok func(*member) bool) []string {
	var us []string
	for i := range v.Members {
		m := &v.Members[i]
		if u, err := mimiuri.ParseKind(m.User, mimiuri.User); err == nil && u.Domain == domain && m.Since <= epoch && !m.Away && ok(m) {
			us = append(us, m.User)
		}
	}
	return us
}

// going says whom and what pending proposals remove.
type going struct {
	leaves map[mls.LeafIndex]bool
	users  map[mimiuri.URI]bool // off the list, or banned
	banned map[mimiuri.URI]bool // of users, and those who were not listed
	over   bool                 // the room is not persistent any more
}

// makeView shows the state of an epoch as it will be without those who are going. old gives the local users' Since.
func makeView(pol *policy.State, members []mls.Member, out going, old *view, epoch uint64) *view {
	m := &pol.Metadata
	v := &view{Name: m.Name, Subject: m.Subject, Mood: m.Mood, Avatar: m.Avatar, Discoverable: pol.Base.Discoverable,
		History: pol.History.Sharing != policy.Forbidden, Offline: old.Offline}
	for _, d := range m.Descriptions {
		if t := strings.ToLower(d.MediaType); t == "" || strings.HasPrefix(t, "text/plain") {
			v.Description = string(d.Content)
			break
		}
	}
	_, v.Open = pol.OpenRole()
	v.MaxUsers = pol.MaxUsers()
	for _, r := range pol.Roles {
		v.Roles = append(v.Roles, adapter.Role{Index: r.Index, Name: r.Name, Capabilities: r.Capabilities, Changes: r.Changes})
	}
	has := map[mimiuri.URI]bool{}
	if pol.Base.FixedMembership {
		v.Direct = len(pol.Users()) == 2
		for _, m := range members {
			if u, _, err := policy.LeafUser(m.Node); err == nil && !out.leaves[m.Leaf] {
				has[u] = true
			}
		}
	}
	for _, p := range pol.Users() {
		if out.users[p.User] {
			continue
		}
		role := pol.Role(p.User)
		m := member{User: p.User.String(), Role: p.Role, Title: role.Name, Send: role.Can(policy.CanSendMessage), Admin: role.Can(policy.CanChangeUserRole),
			Deaf: !role.Can(policy.CanReceiveMessage), Since: epoch}
		m.Away = pol.Base.FixedMembership && !has[p.User]
		if o := old.here(m.User); o != nil && !m.Away {
			m.Since = min(o.Since, epoch) // a hub that was restored from a copy begins again earlier
			m.By = o.By
		}
		v.Members = append(v.Members, m)
	}
	for _, u := range pol.BannedUsers() {
		if !out.users[u] {
			v.Banned = append(v.Banned, u.String())
		}
	}
	for u := range out.banned {
		if !slices.Contains(v.Banned, u.String()) {
			v.Banned = append(v.Banned, u.String())
		}
	}
	slices.Sort(v.Banned)
	return v
}

// makeView shows the group as it is now to who knew it as r.view. Of this provider's users it takes in only those who have a client in
// it: whoever may change the list could name anybody, and a hub could put in a client of its own under any name.
func (r *room) makeView(ctx context.Context, out going) (*view, error) {
	old, own := r.view, "mimi://"+r.c.cfg.Domain+"/"
	v := makeView(r.pol, r.g.Members(), out, old, r.g.Epoch())
	known := map[string]bool{}
	for _, m := range old.Members {
		known[m.User] = !m.Away
	}
	var fresh []string
	for _, m := range v.Members {
		if strings.HasPrefix(m.User, own) && !m.Away && !known[m.User] {
			fresh = append(fresh, m.User)
		}
	}
	if len(fresh) == 0 {
		return v, nil
	}
	var genuine []string
	err := r.c.cfg.Store.View(context.WithoutCancel(ctx), func(tx *store.Tx) (err error) {
		genuine, err = r.genuine(tx, r.g, fresh, out.leaves)
		return err
	})
	if err != nil {
		return nil, err
	}
	v.Members = slices.DeleteFunc(v.Members, func(m member) bool {
		return !r.pol.Base.FixedMembership && slices.Contains(fresh, m.User) && !slices.Contains(genuine, m.User)
	})
	for i := range v.Members { // who is listed in a room of fixed membership stays so
		m := &v.Members[i]
		m.Away = m.Away || slices.Contains(fresh, m.User) && !slices.Contains(genuine, m.User)
	}
	return v, nil
}

// genuine gives those of the own users who have a client of theirs in the group, which does not leave it: one with the key that this
// provider keeps for them.
func (r *room) genuine(tx *store.Tx, g *mls.Group, users []string, going map[mls.LeafIndex]bool) (list []string, err error) {
	leaves := map[string][]mls.Member{}
	for _, m := range g.Members() {
		if u, _, err := policy.LeafUser(m.Node); err == nil && u.Domain == r.c.cfg.Domain && !going[m.Leaf] {
			leaves[u.String()] = append(leaves[u.String()], m)
		}
	}
	for _, user := range users {
		if slices.ContainsFunc(leaves[user], func(m mls.Member) bool { return g.IsLocal(m.Leaf) }) {
			list = append(list, user)
			continue
		}
		if len(leaves[user]) == 0 {
			continue
		}
		row, err := tx.Identity(user)
		if err != nil {
			return nil, err
		}
		if row == nil {
			continue
		}
		key := new(mls.SignatureKey)
		if err := key.UnmarshalBinary(row.Secret); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(leaves[user], func(m mls.Member) bool { return bytes.Equal(m.Node.SignatureKey, key.Public()) }) {
			list = append(list, user)
		}
	}
	return list, nil
}

// added notes by whom local users have come in who were not in old.
func (v *view) added(old *view, by mimiuri.URI, domain string) {
	if by.Kind != mimiuri.User {
		return
	}
	was := map[string]bool{}
	for _, m := range old.Members {
		was[m.User] = !m.Away
	}
	own, who := "mimi://"+domain+"/", by.String()
	for i := range v.Members {
		if m := &v.Members[i]; !m.Away && !was[m.User] && m.User != who && strings.HasPrefix(m.User, own) {
			m.By = who
		}
	}
}

// without is the view when no user of a domain takes part any more.
func (v *view) without(domain string) *view {
	w := *v
	w.Members = nil
	for _, m := range v.Members {
		if uri(m.User).Domain == domain {
			if !v.Direct {
				continue
			}
			m.Away = true
		}
		w.Members = append(w.Members, m)
	}
	return &w
}

// sameMetadata and samePolicy compare what the events of that name are about.
func (v *view) sameMetadata(w *view) bool {
	return v.Name == w.Name && v.Description == w.Description && v.Subject == w.Subject && v.Mood == w.Mood && v.Avatar == w.Avatar
}

func (v *view) samePolicy(w *view) bool {
	return v.Open == w.Open && v.History == w.History && v.Discoverable == w.Discoverable && v.MaxUsers == w.MaxUsers && reflect.DeepEqual(v.Roles, w.Roles)
}

func (v *view) marshal() []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}
