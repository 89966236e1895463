package matrix

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// The state of rooms, both ways: names, topics, avatars, roles and power levels, policy and join rules, bans, upgrades.

// Power levels that roles have in a portal of ours. The bot has 100: what it cannot be overruled in is decided by the MIMI room.
const (
	levelSilent    = -1 // may not send
	levelUser      = 0
	levelModerator = 50
	levelAdmin     = 75
	levelOwner     = 90
	levelBot       = 100
)

// levelOf is the power level of a role.
func levelOf(r adapter.Role) int {
	switch {
	case !r.Can(policy.CanSendMessage):
		return levelSilent
	case r.Can(policy.CanDestroyRoom), r.Can(policy.CanChangeRoleDefinitions):
		return levelOwner
	case r.Can(policy.CanChangeUserRole):
		return levelAdmin
	case r.Can(policy.CanKick), r.Can(policy.CanBan), r.Can(policy.CanDeleteOtherMessage):
		return levelModerator
	}
	return levelUser
}

// needs is the lowest level of the roles that hold one of the capabilities; the bot's if none does.
func needs(roles []adapter.Role, list ...policy.Capability) int {
	level := levelBot
	for _, r := range roles {
		if r.Index == policy.RoleNone || r.Index == policy.RoleBanned || !slices.ContainsFunc(list, r.Can) {
			continue
		}
		level = min(level, max(levelOf(r), levelUser))
	}
	return level
}

// levels are the power levels that a portal of ours should have. users are left to usersAt.
func levels(r adapter.Room) map[string]any {
	n := func(list ...policy.Capability) float64 { return float64(needs(r.Roles, list...)) }
	return map[string]any{
		"users_default": float64(levelUser), "events_default": float64(levelUser), "state_default": float64(levelBot),
		"invite": n(policy.CanAddParticipant), "kick": n(policy.CanKick, policy.CanRemoveParticipant), "ban": n(policy.CanBan),
		"redact": n(policy.CanDeleteOtherMessage),
		"events": map[string]any{
			"m.room.name": n(policy.CanChangeRoomName), "m.room.avatar": n(policy.CanChangeRoomAvatar),
			"m.room.topic": n(policy.CanChangeRoomSubject), "m.room.power_levels": n(policy.CanChangeUserRole),
			"m.room.join_rules":         n(policy.CanChangePreauthorizedUserList),
			"m.room.history_visibility": n(policy.CanChangeRoomMembershipStyle),
			"m.room.tombstone":          n(policy.CanDestroyRoom), "m.room.encryption": n(policy.CanDestroyRoom), "m.room.server_acl": n(policy.CanDestroyRoom),
			// What the bridge says about itself, by message status events and the like, needs no more than speaking does.
			"m.room.redaction": float64(levelUser),
		},
	}
}

// usersAt are the Matrix IDs of participants whose level is not the usual one.
func (b *bridge) usersAt(r adapter.Room) map[string]any {
	users := map[string]any{}
	for _, p := range r.Participants {
		role, ok := r.RoleOf(p.User)
		if !ok || levelOf(role) == levelUser {
			continue
		}
		if mxid, ok := b.anyID(p.User); ok {
			users[string(mxid)] = float64(levelOf(role))
		}
	}
	return users
}

// anyID is the Matrix ID of a user, here or elsewhere.
func (b *bridge) anyID(u mimiuri.URI) (id.UserID, bool) {
	if u.Kind != mimiuri.User {
		return "", false
	}
	if u.Domain == b.domain {
		return b.local(u)
	}
	mxid, _ := ghostID(u, b.server)
	return mxid, true
}

// setPowers gives everybody in a portal the power that their role has. In a portal of ours that is all there is; in a
// room that a person has made only who has changed their role is touched, as far as the bot may.
func (b *bridge) setPowers(ctx context.Context, p portal, changed ...mimiuri.URI) error {
	if !p.own && len(changed) == 0 {
		return nil
	}
	r, ok, err := b.host.Room(ctx, p.uri)
	if err != nil || !ok {
		return err
	}
	as := b.hs.bot
	creators, err := b.creators(ctx, p.room)
	if err != nil {
		return err
	}
	var now map[string]any
	if err := b.hs.state(ctx, as, p.room, "m.room.power_levels", "", &now); err != nil {
		if !p.own && !fault.Temporary(err) {
			return nil
		}
		return err
	}
	want := maps.Clone(now)
	have, _ := now["users"].(map[string]any)
	users := b.usersAt(r)
	if p.own {
		maps.Copy(want, levels(r))
		if events, ok := now["events"].(map[string]any); ok {
			merged := maps.Clone(events)
			maps.Copy(merged, want["events"].(map[string]any))
			want["events"] = merged
		}
		if v, ok := have[string(as)]; ok {
			users[string(as)] = v
		}
	} else {
		fresh := maps.Clone(have)
		if fresh == nil {
			fresh = map[string]any{}
		}
		for _, u := range changed {
			mxid, ok := b.anyID(u)
			if !ok {
				continue
			}
			delete(fresh, string(mxid))
			if v, ok := users[string(mxid)]; ok {
				fresh[string(mxid)] = v
			}
		}
		users = fresh
	}
	want["users"] = users
	for _, u := range creators {
		delete(users, string(u)) // since room version 12 those who have all power must not be listed
	}
	if reflect.DeepEqual(want, now) {
		return nil
	}
	err = b.hs.putState(ctx, as, p.room, "m.room.power_levels", "", want)
	if err != nil && !fault.Temporary(err) && !p.own {
		b.log.Debug().Err(err).Str("matrix_room", string(p.room)).Msg("the bot may not change power levels")
		return nil
	}
	return err
}

// creators are those with unlimited power in a room; none before room version 12. The state does not change, so it is asked for once.
func (b *bridge) creators(ctx context.Context, room id.RoomID) ([]id.UserID, error) {
	b.mu.Lock()
	list, ok := b.founders[room]
	b.mu.Unlock()
	if ok {
		return list, nil
	}
	as, err := b.speaker(ctx, room)
	if err != nil {
		return nil, err
	}
	if as == "" {
		as = b.hs.bot
	}
	state, err := b.hs.allState(ctx, as, room)
	if err != nil {
		if fault.Temporary(err) {
			return nil, err
		}
		return nil, nil
	}
	for _, ev := range state {
		if ev.Type != "m.room.create" {
			continue
		}
		body := asObject(ev.Content)
		if n, err := strconv.Atoi(body.str("room_version")); err != nil || n < 12 {
			break
		}
		list = []id.UserID{ev.Sender}
		var more []id.UserID
		_ = unmarshal(body["additional_creators"], &more)
		list = append(list, more...)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.founders) > 10_000 {
		clear(b.founders)
	}
	b.founders[room] = list
	return list, nil
}

// isState reports whether a change of this state is passed on.
func isState(typ string) bool {
	switch typ {
	case "m.room.name", "m.room.topic", "m.room.avatar", "m.room.power_levels", "m.room.join_rules", "m.room.history_visibility",
		"m.room.tombstone", "m.room.encryption", "m.room.server_acl":
		return true
	}
	return false
}

// onState carries out a change of a room's state by a person.
func (b *bridge) onState(ctx context.Context, ev rawEvent) error {
	body := asObject(ev.Content)
	if ev.Type == "m.room.encryption" {
		return b.onEncryption(ctx, ev, body)
	}
	p, ok, err := b.st.portalAt(ctx, ev.RoomID)
	if err != nil || !ok || p.closing {
		return err
	}
	switch ev.Type {
	case "m.room.tombstone":
		return b.onTombstone(ctx, p, ev, body)
	case "m.room.server_acl":
		return b.onACL(ctx, p, ev, body)
	}
	if !p.admitted {
		return nil // it has the state then that it has
	}
	actor, ok := b.person(ev.Sender)
	if !ok {
		return b.restore(ctx, p, ev.Type, ev.ID, "you may not use this bridge; its administrator can allow it")
	}
	in := adapter.Intent{Room: p.uri, Actor: actor, OriginID: string(ev.ID), OriginTime: ev.time()}
	switch ev.Type {
	case "m.room.name":
		name := clip(clean(body.str("name")), 200)
		if name == p.name {
			return nil
		}
		p.name = name
		if err := b.st.updatePortal(p); err != nil {
			return err
		}
		in.Kind, in.Metadata = adapter.SetMetadata, &adapter.MetadataChange{Name: &name}
	case "m.room.topic":
		topic := clip(clean(body.str("topic")), 2000)
		if err := b.st.set("topic "+p.uri.String(), topic); err != nil {
			return err
		}
		in.Kind, in.Metadata = adapter.SetMetadata, &adapter.MetadataChange{Subject: &topic}
	case "m.room.avatar":
		avatar, why, err := b.publishAvatar(ctx, actor, body.str("url"))
		if err != nil {
			return err
		}
		if why != "" {
			return b.restore(ctx, p, ev.Type, ev.ID, why)
		}
		if err := b.st.set("avatar "+p.uri.String(), avatar); err != nil {
			return err
		}
		in.Kind, in.Metadata = adapter.SetMetadata, &adapter.MetadataChange{Avatar: &avatar}
	case "m.room.join_rules":
		open := body.str("join_rule") == "public"
		in.Kind, in.Policy = adapter.SetPolicy, &adapter.PolicyChange{Open: &open}
		if r, _, err := b.host.Room(ctx, p.uri); err != nil || r.Open == open {
			return err
		}
	case "m.room.history_visibility":
		shared := body.str("history_visibility") == "shared" || body.str("history_visibility") == "world_readable"
		in.Kind, in.Policy = adapter.SetPolicy, &adapter.PolicyChange{History: &shared}
		if r, _, err := b.host.Room(ctx, p.uri); err != nil || r.History == shared {
			return err
		}
	case "m.room.power_levels":
		return b.onPowers(ctx, p, ev, body, in)
	default:
		return nil
	}
	return b.intake(ctx, p.room, in)
}

// powers reads the users of a power level event.
func powers(body object) map[id.UserID]int {
	var raw map[id.UserID]json.Number
	out := map[id.UserID]int{}
	dec := json.NewDecoder(strings.NewReader(string(body["users"])))
	dec.UseNumber()
	if len(body["users"]) == 0 || dec.Decode(&raw) != nil {
		return out
	}
	for u, n := range raw {
		if v, err := strconv.Atoi(n.String()); err == nil {
			out[u] = v
		}
	}
	return out
}

// onPowers asks for the roles that fit the power that a person has given to others.
func (b *bridge) onPowers(ctx context.Context, p portal, ev rawEvent, body object, in adapter.Intent) error {
	r, ok, err := b.host.Room(ctx, p.uri)
	if err != nil || !ok {
		return err
	}
	mine, _ := r.RoleOf(in.Actor)
	now := powers(body)
	before, known := map[id.UserID]int{}, false
	if prev := asObject(ev.Unsigned).object("prev_content"); prev != nil {
		before, known = powers(prev), true
	}
	in.Kind = adapter.ChangeRole
	for _, participant := range r.Participants {
		mxid, ok := b.anyID(participant.User)
		role, okRole := r.RoleOf(participant.User)
		if !ok || !okRole {
			continue
		}
		level := now[mxid]
		if known && before[mxid] == level || !known && (!p.own || levelOf(role) == level) {
			continue
		}
		wanted, ok := roleFor(r.Roles, mine, role, level)
		if !ok || wanted.Index == role.Index {
			if levelOf(role) != level && p.own {
				if err := b.restore(ctx, p, ev.Type, ev.ID, fmt.Sprintf("the MIMI room has no role for %s with this power that you can give", b.shown(participant.User))); err != nil {
					return err
				}
			}
			continue
		}
		in.Target, in.Role = participant.User, wanted.Index
		in.OriginID = string(ev.ID) + "/" + strconv.Itoa(int(wanted.Index)) + "/" + txnID(participant.User.String())
		if err := b.intake(ctx, p.room, in); err != nil {
			return err
		}
	}
	return nil
}

// roleFor is the role for a power level: the most that the level has room for, of those that the actor may give.
func roleFor(roles []adapter.Role, actor, present adapter.Role, level int) (best adapter.Role, ok bool) {
	may := func(to uint32) bool {
		return to == present.Index || slices.ContainsFunc(actor.Changes, func(c policy.RoleChanges) bool {
			return c.From == present.Index && slices.Contains(c.To, to)
		})
	}
	for _, r := range roles {
		l := levelOf(r)
		if r.Index == policy.RoleNone || r.Index == policy.RoleBanned || l > level || !may(r.Index) {
			continue
		}
		if !ok || l > levelOf(best) || l == levelOf(best) && r.Index == present.Index {
			best, ok = r, true
		}
	}
	return best, ok
}

// restore undoes a change of state and says why.
func (b *bridge) restore(ctx context.Context, p portal, typ string, event id.EventID, why string) error {
	r, ok, err := b.host.Room(ctx, p.uri)
	if err != nil || !ok {
		return err
	}
	what := "The change"
	switch typ {
	case "m.room.name":
		what = "The name"
		p.name = "\x00" // not what it should be
		err = b.setName(ctx, p, r)
	case "m.room.topic":
		what = "The topic"
		if err = b.st.set("topic "+p.uri.String(), "\x01"); err == nil {
			err = b.setTopic(ctx, p, r)
		}
	case "m.room.avatar":
		what = "The picture"
		if err = b.st.set("avatar "+p.uri.String(), "?"); err == nil {
			err = b.setAvatar(ctx, p, r)
		}
	case "m.room.power_levels":
		what = "The power level"
		err = b.setPowers(ctx, p, participants(r)...)
	case "m.room.join_rules":
		err = b.setJoinRule(ctx, p, r)
	case "m.room.history_visibility":
		err = b.setHistory(ctx, p, r)
	}
	if err != nil {
		return err
	}
	return b.say(ctx, p.room, event, "refused", fmt.Sprintf("%s was not changed in the MIMI room: %s.", what, strings.TrimSuffix(why, ".")))
}

func participants(r adapter.Room) (out []mimiuri.URI) {
	for _, p := range r.Participants {
		out = append(out, p.User)
	}
	return out
}

// putRoomState sets state as the bot. In a room that a person has made the bot may not be allowed to: then it stays.
func (b *bridge) putRoomState(ctx context.Context, p portal, typ, key string, body any) error {
	err := b.hs.putState(ctx, b.hs.bot, p.room, typ, key, body)
	if err != nil && !fault.Temporary(err) {
		b.log.Debug().Err(err).Str("matrix_room", string(p.room)).Str("type", typ).Msg("the bot may not set state")
		return nil
	}
	return err
}

func (b *bridge) showMetadata(ctx context.Context, ev adapter.Event) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	r, ok, err := b.host.Room(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	if err := b.setName(ctx, p, r); err != nil {
		return err
	}
	if err := b.setTopic(ctx, p, r); err != nil {
		return err
	}
	if err := b.setAvatar(ctx, p, r); err != nil {
		return err
	}
	return b.setPowers(ctx, p)
}

func (b *bridge) setName(ctx context.Context, p portal, r adapter.Room) error {
	name := clip(clean(r.Name), 200)
	if r.Direct && name == "" {
		name = b.directName(ctx, r)
	}
	if name == p.name {
		return nil
	}
	if err := b.putRoomState(ctx, p, "m.room.name", "", map[string]string{"name": name}); err != nil {
		return err
	}
	p.name = name
	return b.st.updatePortal(p)
}

// topicOfRoom is what stands above a portal.
func (b *bridge) topicOfRoom(r adapter.Room) string {
	if r.Subject != "" {
		return clip(clean(r.Subject), 2000)
	}
	return clip(clean(r.Description), 2000)
}

func (b *bridge) setTopic(ctx context.Context, p portal, r adapter.Room) error {
	topic := b.topicOfRoom(r)
	stored, err := b.st.setting(ctx, "topic "+p.uri.String())
	if err != nil || stored == topic {
		return err
	}
	if err := b.putRoomState(ctx, p, "m.room.topic", "", map[string]string{"topic": topic}); err != nil {
		return err
	}
	return b.st.set("topic "+p.uri.String(), topic)
}

// publishAvatar makes a picture of the homeserver one that everybody can fetch. why says, for the person, why it cannot.
func (b *bridge) publishAvatar(ctx context.Context, actor mimiuri.URI, mxc string) (uri, why string, err error) {
	if mxc == "" {
		return "", "", nil
	}
	u, err := id.ParseContentURI(mxc)
	if err != nil {
		return "", "its address is none", nil
	}
	ctx, cancel := context.WithTimeout(ctx, mediaTime)
	defer cancel()
	body, _, err := b.hs.download(ctx, u)
	if err == nil {
		defer body.Close()
		uri, err = b.host.Publish(ctx, actor, body, "image/png")
	}
	if err != nil && !fault.Temporary(err) {
		return "", fault.Public(err), nil
	}
	if err != nil {
		return "", "", err
	}
	return uri, "", b.st.set("picture "+uri, mxc)
}

// fetchAvatar brings a public picture to the homeserver, once. It is "" for one that cannot be had.
func (b *bridge) fetchAvatar(ctx context.Context, uri string) (mxc string, err error) {
	if uri == "" || len(uri) > 2000 {
		return "", nil
	}
	if mxc, err = b.st.setting(ctx, "picture "+uri); err != nil || mxc != "" {
		return mxc, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body, typ, size, err := b.host.FetchPublic(ctx, uri)
	if err == nil {
		defer body.Close()
		if size < 0 || size > 10<<20 {
			err = fault.New(fault.TooLarge, "a picture of that size is not shown")
		} else {
			mxc, err = b.hs.upload(ctx, b.hs.bot, body, size, mediaType(typ), "")
		}
	}
	if err != nil {
		// Nothing waits for a picture; the next change or start tries again.
		b.log.Info().Err(err).Msg("a picture could not be fetched")
		return "", nil
	}
	return mxc, b.st.set("picture "+uri, mxc)
}

func (b *bridge) setAvatar(ctx context.Context, p portal, r adapter.Room) error {
	stored, err := b.st.setting(ctx, "avatar "+p.uri.String())
	if err != nil || stored == r.Avatar {
		return err
	}
	mxc, err := b.fetchAvatar(ctx, r.Avatar)
	if err != nil || mxc == "" && r.Avatar != "" {
		return err
	}
	body := map[string]string{}
	if mxc != "" {
		body["url"] = mxc
	}
	if err := b.putRoomState(ctx, p, "m.room.avatar", "", body); err != nil {
		return err
	}
	return b.st.set("avatar "+p.uri.String(), r.Avatar)
}

func joinRule(r adapter.Room) string {
	if r.Open {
		return "public"
	}
	return "invite"
}

func (b *bridge) setJoinRule(ctx context.Context, p portal, r adapter.Room) error {
	return b.putRoomState(ctx, p, "m.room.join_rules", "", map[string]string{"join_rule": joinRule(r)})
}

// historyRule is a portal's history visibility: who joins reads on from there, unless the room shows more.
func historyRule(r adapter.Room) string {
	if r.History {
		return "shared"
	}
	return "joined"
}

func (b *bridge) setHistory(ctx context.Context, p portal, r adapter.Room) error {
	return b.putRoomState(ctx, p, "m.room.history_visibility", "", map[string]string{"history_visibility": historyRule(r)})
}

func (b *bridge) showRole(ctx context.Context, ev adapter.Event) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	return b.setPowers(ctx, p, ev.User)
}

func (b *bridge) showPolicy(ctx context.Context, ev adapter.Event) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	r, ok, err := b.host.Room(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	var rules struct {
		Rule string `json:"join_rule"`
	}
	if err := b.hs.state(ctx, b.hs.bot, p.room, "m.room.join_rules", "", &rules); err == nil {
		if (rules.Rule == "public") != r.Open {
			if err := b.setJoinRule(ctx, p, r); err != nil {
				return err
			}
		}
	} else if fault.Temporary(err) {
		return err
	}
	var history struct {
		Visibility string `json:"history_visibility"`
	}
	if err := b.hs.state(ctx, b.hs.bot, p.room, "m.room.history_visibility", "", &history); err == nil {
		if (history.Visibility == "shared" || history.Visibility == "world_readable") != r.History {
			if err := b.setHistory(ctx, p, r); err != nil {
				return err
			}
		}
	} else if fault.Temporary(err) {
		return err
	}
	return b.setPowers(ctx, p)
}

// showBanned keeps somebody out of a portal, so that nobody here invites them in vain.
func (b *bridge) showBanned(ctx context.Context, ev adapter.Event, banned bool) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	mxid, ok := b.anyID(ev.User)
	if !ok {
		return nil
	}
	m, err := b.st.member(ctx, p.room, mxid)
	if err != nil || (m.membership == "ban") == banned {
		return err
	}
	what, after := "ban", "ban"
	if !banned {
		what, after = "unban", "leave"
	}
	err = b.actAs(ctx, what, p, mxid, ev.Reason)
	if err != nil {
		if fault.Temporary(err) {
			return err
		}
		b.log.Info().Err(err).Str("matrix_room", string(p.room)).Msg("a ban could not be shown")
		return nil
	}
	return b.st.write(setMember(p.room, mxid, member{membership: after, sender: b.hs.bot}))
}

// showNotice shows a sentence of the provider in the room.
func (b *bridge) showNotice(ctx context.Context, ev adapter.Event) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok || ev.Notice == "" {
		return err
	}
	return b.say(ctx, p.room, "", "notice "+strconv.FormatUint(ev.Seq, 10), clip(clean(ev.Notice), 2000))
}

// directName is how a direct room is called: after the other.
func (b *bridge) directName(ctx context.Context, r adapter.Room) string {
	for _, p := range r.Participants {
		if p.User.Domain != b.domain {
			return b.nameOf(ctx, p.User)
		}
	}
	return ""
}

// nameOf is how a ghost is called: by the name that its user has told, and always with the domain.
func (b *bridge) nameOf(ctx context.Context, u mimiuri.URI) string {
	p, ok, err := b.host.Profile(ctx, u)
	if name := cleanName(p.Name); err == nil && ok && p.Name != "" && name != "file" {
		return cut(name, 100) + " (" + u.Domain + ")"
	}
	return displayName(u)
}

// Upgrades.

// upgradeKey is the setting that says which MIMI room a new Matrix room is to take over.
func upgradeKey(room id.RoomID) string { return "upgrade " + string(room) }

// onTombstone begins the move to a new room. The homeserver has let the event pass, so its sender has the power for it; the new
// room has to say as well that it is the old one's successor.
func (b *bridge) onTombstone(ctx context.Context, p portal, ev rawEvent, body object) error {
	next := id.RoomID(body.str("replacement_room"))
	if len(next) < 2 || len(next) > maxEventID || next[0] != '!' || next == p.room {
		return nil
	}
	if err := b.st.set(upgradeKey(next), p.uri.String()); err != nil {
		return err
	}
	if err := b.joinAs(ctx, next, b.hs.bot); err != nil {
		if fault.Temporary(err) {
			return err
		}
		return b.say(ctx, p.room, ev.ID, "upgrade", "This room has a successor. Invite the bridge's bot "+string(b.hs.bot)+" into it, and the MIMI room moves there.")
	}
	return b.moveTo(ctx, next)
}

// moveTo makes a room the portal of the MIMI room of the one before it, once the bot is in it.
func (b *bridge) moveTo(ctx context.Context, next id.RoomID) error {
	stored, err := b.st.setting(ctx, upgradeKey(next))
	if err != nil || stored == "" {
		return err
	}
	uri, err := mimiuri.ParseKind(stored, mimiuri.Room)
	if err != nil {
		return b.st.set(upgradeKey(next), "")
	}
	p, ok, err := b.st.portal(ctx, uri)
	if err != nil || !ok || p.closing {
		return err
	}
	old := p.room
	if old != next {
		state, err := b.hs.allState(ctx, b.hs.bot, next)
		if err != nil {
			return err
		}
		successor := false
		for _, ev := range state {
			if ev.Type == "m.room.create" {
				successor = asObject(ev.Content).object("predecessor").str("room_id") == string(old)
			}
		}
		if !successor {
			return b.say(ctx, p.room, "", "upgrade "+string(next), "The room that this one points to does not say that it is its successor, so the MIMI room stays here.")
		}
		var people []func() error
		for _, ev := range state {
			if ev.Type == "m.room.member" && ev.StateKey != nil {
				user, m := id.UserID(*ev.StateKey), member{membership: asObject(ev.Content).str("membership"), sender: ev.Sender, event: ev.ID}
				people = append(people, func() error { return b.st.write(setMember(next, user, m)) })
			}
		}
		for _, f := range people {
			if err := f(); err != nil {
				return err
			}
		}
		if err := b.st.movePortal(p, next); err != nil {
			return err
		}
		p.room = next
		b.setCertain(p.uri.String(), false)
	}
	if err := b.putRoomState(ctx, p, "m.bridge", bridgeKey+"://"+p.uri.String(), b.bridgeInfo(p)); err != nil {
		return err
	}
	if p.own {
		alias := "#" + portalAlias(p.uri, b.server) + ":" + b.server
		if err := b.hs.deleteAlias(ctx, alias); err != nil && fault.Temporary(err) {
			return err
		}
		if err := b.hs.putAlias(ctx, alias, next); err != nil && fault.Temporary(err) {
			return err
		}
	}
	if err := b.joinGhosts(ctx, p); err != nil {
		return err
	}
	if err := b.setPowers(ctx, p); err != nil && fault.Temporary(err) {
		return err
	}
	// The ghosts leave the old room; who is left there can still read it.
	ghosts, err := b.st.membersOf(ctx, old, "join")
	if err != nil {
		return err
	}
	for _, u := range ghosts {
		if old != next && isOurs(u, b.server) && u != b.hs.bot {
			if err := b.leaveAs(ctx, old, u, "the room has moved"); err != nil {
				return err
			}
		}
	}
	return b.st.set(upgradeKey(next), "")
}

// Aliases.

// openAlias makes a portal for an alias that somebody looks up, so that they can join it. An alias query does not say who
// asks. So the room it makes is closed to other homeservers for good, shows nothing, lets nobody in but whom the bot lets, and is given up if nobody
// who may use the bridge joins it.
func (b *bridge) openAlias(ctx context.Context, alias string) (bool, error) {
	local, ok := strings.CutSuffix(strings.TrimPrefix(alias, "#"), ":"+b.server)
	if !ok {
		return false, nil
	}
	uri, ok := decodeLocal(local, mimiuri.Room, b.server)
	if !ok {
		return false, nil
	}
	b.aliasMu.Lock()
	defer b.aliasMu.Unlock()
	if p, ok, err := b.st.portal(ctx, uri); err != nil || ok {
		return ok && p.own, err
	}
	if _, known, err := b.host.Room(ctx, uri); err != nil || uri.Domain == b.domain && !known {
		return false, err
	}
	waiting, err := b.st.waiting(ctx, time.Now())
	if err != nil || len(waiting) >= maxWaiting {
		return false, err
	}
	if err := b.ensureBot(ctx); err != nil {
		return false, err
	}
	p := portal{uri: uri, own: true, admitted: true}
	rule, err := b.waitingRule(ctx)
	if err != nil {
		return false, err
	}
	in := b.newRoom(p, portalAlias(uri, b.server), nil, adapter.Room{}, rule)
	in["creation_content"] = map[string]any{"m.federate": false}
	p.room, err = b.hs.createRoom(ctx, in)
	if err != nil {
		return false, err
	}
	if err := b.st.addPortal(p); err != nil {
		return false, err
	}
	if err := b.st.write(setMember(p.room, b.hs.bot, member{membership: "join", sender: b.hs.bot})); err != nil {
		return false, err
	}
	return true, b.st.set("waiting "+uri.String(), strconv.FormatInt(time.Now().Add(waitForJoin).UnixMilli(), 10))
}

// waitingRule says who comes into a portal that was made for a look-up: who has a room with the bot joins, others knock, and are let in if they
// may use the bridge and the MIMI room takes them.
func (b *bridge) waitingRule(ctx context.Context) (map[string]any, error) {
	rooms, err := list[id.RoomID](ctx, b.st.sql, `SELECT value FROM matrix_setting WHERE key LIKE 'management %' ORDER BY key LIMIT 200`)
	if err != nil || len(rooms) == 0 {
		return map[string]any{"join_rule": "knock"}, err
	}
	var allow []any
	for _, r := range rooms {
		allow = append(allow, map[string]any{"type": "m.room_membership", "room_id": r})
	}
	return map[string]any{"join_rule": "knock_restricted", "allow": allow}, nil
}

const (
	maxWaiting  = 50        // portals that nobody has joined yet
	waitForJoin = time.Hour // how long such a portal stays
)

// openWaiting gives a portal that was made for a look-up what the MIMI room has, once the first user is in it.
func (b *bridge) openWaiting(ctx context.Context, p portal) error {
	key := "waiting " + p.uri.String()
	waits, err := b.st.setting(ctx, key)
	if err != nil || waits == "" {
		return err
	}
	r, ok, err := b.host.Room(ctx, p.uri)
	if err != nil || !ok {
		return err
	}
	for _, set := range []func(context.Context, portal, adapter.Room) error{b.setName, b.setTopic, b.setAvatar, b.setJoinRule, b.setHistory} {
		if err := set(ctx, p, r); err != nil {
			return err
		}
	}
	return b.st.set(key, "")
}

// giveUpWaiting removes portals that were looked up and joined by nobody.
func (b *bridge) giveUpWaiting(ctx context.Context) error {
	list, err := b.st.waiting(ctx, time.Now())
	if err != nil {
		return err
	}
	for uri, until := range list {
		u, err := mimiuri.ParseKind(uri, mimiuri.Room)
		if err != nil || until.After(time.Now()) {
			continue
		}
		p, ok, err := b.st.portal(ctx, u)
		if err != nil {
			return err
		}
		if _, known, err := b.host.Room(ctx, u); err != nil {
			return err
		} else if ok && !known {
			if err := b.closePortal(ctx, p); err != nil {
				return err
			}
		}
		if err := b.st.set("waiting "+uri, ""); err != nil {
			return err
		}
	}
	return nil
}
