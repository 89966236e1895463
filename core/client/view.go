package client

import (
	"encoding/json"
	"fmt"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// view is what local users are shown of a room: the participant list as it will be once the pending proposals are
// committed (what the hub has accepted counts from then on), roles and metadata. It is stored with the
// room; the difference between two views is the membership events.
type view struct {
	Name    string   `json:"name,omitempty"`
	Subject string   `json:"subject,omitempty"`
	Members []member `json:"members"`
}

type member struct {
	User  string `json:"user"`
	Role  uint32 `json:"role"`
	Title string `json:"title"`
	Send  bool   `json:"send,omitempty"`
	Admin bool   `json:"admin,omitempty"`
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

func (v *view) room(uri mimiuri.URI) adapter.Room {
	r := adapter.Room{URI: uri, Name: v.Name, Subject: v.Subject}
	for _, m := range v.Members {
		u, err := mimiuri.ParseKind(m.User, mimiuri.User)
		if err != nil {
			continue // a hub in the policy_enforcer role is no user
		}
		r.Participants = append(r.Participants, adapter.Participant{User: u, Role: m.Role, RoleName: m.Title, Send: m.Send, Admin: m.Admin})
	}
	return r
}

// local lists the users of a domain that may see what was sent in an epoch.
func (v *view) local(domain string, epoch uint64) []string {
	var us []string
	for _, m := range v.Members {
		if u, err := mimiuri.ParseKind(m.User, mimiuri.User); err == nil && u.Domain == domain && m.Since <= epoch {
			us = append(us, m.User)
		}
	}
	return us
}

// makeView shows the state of an epoch without the users whose removal is pending. old gives the local users' Since.
func makeView(pol *policy.State, leaving map[mimiuri.URI]bool, old *view, epoch uint64) *view {
	v := &view{Name: pol.Metadata.Name, Subject: pol.Metadata.Subject}
	for _, p := range pol.Participants {
		role := pol.Role(p.User)
		if leaving[p.User] || p.User.Kind != mimiuri.User || role.Index == policy.RoleBanned {
			continue
		}
		m := member{User: p.User.String(), Role: p.Role, Title: role.Name, Send: role.Can(policy.CanSendMessage), Admin: role.Can(policy.CanChangeUserRole), Since: epoch}
		if o := old.find(m.User); o != nil {
			m.Since = min(o.Since, epoch) // a hub that was restored from a copy begins again earlier
		}
		v.Members = append(v.Members, m)
	}
	return v
}

// without is the view without the users of a domain.
func (v *view) without(domain string) *view {
	w := &view{Name: v.Name, Subject: v.Subject}
	for _, m := range v.Members {
		if uri(m.User).Domain != domain {
			w.Members = append(w.Members, m)
		}
	}
	return w
}

func (v *view) marshal() []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}
