package matrix

import (
	"context"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
)

// onACL removes the participants of providers that a room's access control list denies (m.room.server_acl).
func (b *bridge) onACL(ctx context.Context, p portal, ev rawEvent, body object) error {
	actor, ok := b.person(ev.Sender)
	if !ok {
		return nil
	}
	r, ok, err := b.host.Room(ctx, p.uri)
	if err != nil || !ok {
		return err
	}
	var allow, deny []string
	_ = unmarshal(body["allow"], &allow)
	_ = unmarshal(body["deny"], &deny)
	for _, m := range r.Participants {
		if m.User.Domain == b.domain || !denied(m.User.Domain, allow, deny) {
			continue
		}
		in := adapter.Intent{Kind: adapter.Remove, Room: p.uri, Actor: actor, Target: m.User, OriginTime: ev.time(),
			OriginID: string(ev.ID) + "/" + txnID(m.User.String()), Reason: "servers of this name are denied in this room"}
		if err := b.intake(ctx, p.room, in); err != nil {
			return err
		}
	}
	return nil
}

// denied reports whether an access control list keeps a server out (Matrix specification, "Server access control lists").
func denied(name string, allow, deny []string) bool {
	for _, pattern := range deny {
		if globMatches(pattern, name) {
			return true
		}
	}
	for _, pattern := range allow {
		if globMatches(pattern, name) {
			return false
		}
	}
	return true
}

// globMatches compares with a pattern of * and ?, whatever the case. It takes time in proportion to the lengths' product.
func globMatches(pattern, s string) bool {
	if len(pattern) > 255 {
		return false
	}
	p, s := strings.ToLower(pattern), strings.ToLower(s)
	star, mark, i := -1, 0, 0
	for j := 0; j < len(s); {
		switch {
		case i < len(p) && (p[i] == '?' || p[i] == s[j] && p[i] != '*'):
			i, j = i+1, j+1
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
