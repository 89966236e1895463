package matrix

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
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

// Policy lists (Matrix specification, "Moderation policy lists"): rooms with m.policy.rule events, which an admin of this provider
// follows. Their bans hold for participants of MIMI rooms by Matrix ID, by JID, by MIMI URI and by domain.

// rule is a ban of a policy list.
type rule struct {
	Kind   string `json:"kind"` // "user" or "server"
	Entity string `json:"entity"`
}

const maxRules = 20_000

func isPolicyRule(typ string) bool {
	return typ == "m.policy.rule.user" || typ == "m.policy.rule.server"
}

func ruleKey(room id.RoomID, typ, key string) string {
	return "rule " + string(room) + " " + typ + " " + key
}

func followKey(room id.RoomID) string { return "policy room " + string(room) }

// onPolicyRule stores a rule of a list that is followed, and carries it out.
func (b *bridge) onPolicyRule(ctx context.Context, ev rawEvent) error {
	followed, err := b.st.setting(ctx, followKey(ev.RoomID))
	if err != nil || followed == "" || ev.StateKey == nil {
		return err
	}
	body := asObject(ev.Content)
	key := ruleKey(ev.RoomID, ev.Type, *ev.StateKey)
	entity, recommendation := body.str("entity"), body.str("recommendation")
	defer b.forgetRules() // what is read before it is stored must not be kept
	if entity == "" || len(entity) > 255 || recommendation != "m.ban" && recommendation != "org.matrix.mjolnir.ban" {
		return b.st.set(key, "")
	}
	r := rule{Kind: strings.TrimPrefix(ev.Type, "m.policy.rule."), Entity: entity}
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := b.st.set(key, string(raw)); err != nil {
		return err
	}
	b.forgetRules()
	rooms, err := b.host.Rooms(ctx)
	if err != nil {
		return err
	}
	for _, uri := range rooms {
		if err := b.enforce(ctx, uri, []rule{r}, mimiuri.URI{}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bridge) forgetRules() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rules, b.rulesKnown = nil, false
	b.rulesAt++
}

// ruleList is all rules of the lists that are followed.
func (b *bridge) ruleList(ctx context.Context) ([]rule, error) {
	b.mu.Lock()
	all, known, at := b.rules, b.rulesKnown, b.rulesAt
	b.mu.Unlock()
	if known {
		return all, nil
	}
	stored, err := listOf(ctx, b)
	if err != nil {
		return nil, err
	}
	for _, s := range stored {
		var r rule
		if json.Unmarshal([]byte(s), &r) == nil {
			all = append(all, r)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rulesAt == at {
		b.rules, b.rulesKnown = all, true
	}
	return all, nil
}

func listOf(ctx context.Context, b *bridge) ([]string, error) {
	return list[string](ctx, b.st.sql, `SELECT value FROM matrix_setting WHERE key LIKE 'rule %' LIMIT 0+$1`, maxRules)
}

// matches reports whether a rule is about a user.
func (b *bridge) matches(r rule, u mimiuri.URI) bool {
	if r.Kind == "server" {
		return globMatches(r.Entity, u.Domain)
	}
	mxid, _ := b.anyID(u)
	for _, name := range []string{string(mxid), u.ID + "@" + u.Domain, "@" + u.ID + ":" + u.Domain, u.String()} {
		if globMatches(r.Entity, name) {
			return true
		}
	}
	return false
}

// enforce bans or removes participants of a room whom rules are about, in the name of a local participant who may. only, if
// set, is the one participant to look at.
func (b *bridge) enforce(ctx context.Context, uri mimiuri.URI, rules []rule, only mimiuri.URI) error {
	if len(rules) == 0 {
		return nil
	}
	r, ok, err := b.host.Room(ctx, uri)
	if err != nil || !ok {
		return err
	}
	p, ok, err := b.st.portal(ctx, uri)
	if err != nil || !ok {
		return err
	}
	kind, actor := adapter.Ban, mimiuri.URI{}
	for _, m := range r.Participants {
		role, ok := r.RoleOf(m.User)
		if m.User.Domain != b.domain || !ok {
			continue
		}
		if role.Can(policy.CanBan) {
			kind, actor = adapter.Ban, m.User
			break
		}
		if role.Can(policy.CanKick) || role.Can(policy.CanRemoveParticipant) {
			kind, actor = adapter.Remove, m.User
		}
	}
	if actor.IsZero() {
		return nil
	}
	for _, m := range r.Participants {
		if m.User == actor || !only.IsZero() && m.User != only {
			continue
		}
		for _, rule := range rules {
			if !b.matches(rule, m.User) {
				continue
			}
			in := adapter.Intent{Kind: kind, Room: uri, Actor: actor, Target: m.User, Reason: "a policy list bans them",
				OriginID: "policy/" + txnID(rule.Kind, rule.Entity, m.User.String(), strconv.FormatInt(time.Now().Unix()/3600, 10)), Hint: string(p.room)}
			if err := b.host.Intake(ctx, in); err != nil && fault.Temporary(err) {
				return err
			}
			break
		}
	}
	return nil
}

// cmdPolicy follows a policy list, or no more.
func (b *bridge) cmdPolicy(ctx context.Context, c call) (string, error) {
	if b.host.Level(string(c.user)) < adapter.LevelAdmin {
		return "Only an admin of this provider may do this.", nil
	}
	room := id.RoomID(c.arg(1))
	if strings.HasPrefix(c.arg(1), "#") {
		var err error
		if room, err = b.hs.resolveAlias(ctx, c.arg(1)); err != nil {
			return "", err
		}
	}
	if len(room) < 2 || room[0] != '!' {
		return "Say policy follow ROOM or policy unfollow ROOM, with the room's ID or alias.", nil
	}
	switch c.arg(0) {
	case "follow":
		if err := b.joinAs(ctx, room, b.hs.bot); err != nil {
			return "", err
		}
		if err := b.st.set(followKey(room), "1"); err != nil {
			return "", err
		}
		state, err := b.hs.allState(ctx, b.hs.bot, room)
		if err != nil {
			return "", err
		}
		n := 0
		for _, ev := range state {
			if ev.RoomID = room; isPolicyRule(ev.Type) && n < maxRules {
				n++
				if err := b.onPolicyRule(ctx, ev); err != nil {
					return "", err
				}
			}
		}
		return fmt.Sprintf("%d rules of this list hold from now on, and those that come.", n), nil
	case "unfollow":
		b.forgetRules()
		if err := b.st.set(followKey(room), ""); err != nil {
			return "", err
		}
		err := b.st.write(func(tx *sql.Tx) error {
			_, err := tx.Exec(`DELETE FROM matrix_setting WHERE key LIKE $1`, "rule "+string(room)+" %")
			return err
		})
		return "The list is not followed any more. Who is banned stays so.", err
	}
	return "Say policy follow ROOM or policy unfollow ROOM.", nil
}
