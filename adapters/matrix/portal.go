package matrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// ensureBot makes the bot's account.
func (b *bridge) ensureBot(ctx context.Context) error {
	return b.ensureAccount(ctx, b.hs.bot, "MIMI bridge")
}

// ensureAccount makes an account of ours exist and have its name, once a process.
func (b *bridge) ensureAccount(ctx context.Context, user id.UserID, name string) error {
	b.mu.Lock()
	known := b.registered[user] == name
	b.mu.Unlock()
	if known {
		return nil
	}
	if err := b.hs.register(ctx, user); err != nil {
		return err
	}
	if err := b.hs.setDisplayName(ctx, user, name); err != nil {
		if fault.Temporary(err) {
			return err
		}
		b.log.Warn().Err(err).Str("user", string(user)).Msg("the display name could not be set")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.registered) > 100_000 {
		clear(b.registered)
	}
	b.registered[user] = name
	return nil
}

// ensureGhost makes a remote user's ghost exist and returns its ID.
func (b *bridge) ensureGhost(ctx context.Context, uri mimiuri.URI) (id.UserID, error) {
	mxid, hashed := ghostID(uri, b.server)
	b.mu.Lock()
	_, known := b.registered[mxid]
	b.mu.Unlock()
	if known {
		return mxid, nil
	}
	name := b.nameOf(ctx, uri)
	stored, had, ok, err := b.st.ghost(ctx, mxid)
	if err != nil {
		return "", err
	}
	if ok && stored != uri {
		return "", fault.Newf(fault.Conflict, "%s is taken by another user", mxid)
	}
	if err := b.ghostAvatar(ctx, uri, mxid, ok && had != ""); err != nil {
		return "", err
	}
	if ok && had == name {
		b.mu.Lock()
		b.registered[mxid] = name
		b.mu.Unlock()
		return mxid, nil
	}
	if hashed && !ok {
		// Before anybody can see the ID there must be a way back.
		if err := b.st.putGhost(mxid, uri, false, ""); err != nil {
			return "", err
		}
	}
	if err := b.ensureBot(ctx); err != nil {
		return "", err
	}
	if err := b.ensureAccount(ctx, mxid, name); err != nil {
		return "", err
	}
	if err := b.st.putGhost(mxid, uri, true, name); err != nil {
		return "", err
	}
	return mxid, b.ghostAvatar(ctx, uri, mxid, true)
}

// ghostAvatar gives a ghost the picture that its user has published, if it has an account.
func (b *bridge) ghostAvatar(ctx context.Context, uri mimiuri.URI, ghost id.UserID, registered bool) error {
	p, ok, err := b.host.Profile(ctx, uri)
	if err != nil || !ok || !registered {
		return nil // nobody waits for a picture
	}
	stored, err := b.st.setting(ctx, "face "+string(ghost))
	if err != nil || stored == p.Avatar {
		return err
	}
	mxc, err := b.fetchAvatar(ctx, p.Avatar)
	if err != nil || mxc == "" && p.Avatar != "" {
		return err
	}
	if err := b.hs.setAvatar(ctx, ghost, mxc); err != nil {
		if fault.Temporary(err) {
			return err
		}
		return nil
	}
	return b.st.set("face "+string(ghost), p.Avatar)
}

// refreshGhost looks again how a remote user wants to be shown.
func (b *bridge) refreshGhost(ctx context.Context, uri mimiuri.URI) error {
	ghost, _ := ghostID(uri, b.server)
	b.mu.Lock()
	delete(b.registered, ghost)
	b.mu.Unlock()
	_, err := b.ensureGhost(ctx, uri)
	return err
}

// ghostURI is the remote user of a ghost. ok is false for what is no ghost, and for one that would stand for
// a user of this provider.
func (b *bridge) ghostURI(ctx context.Context, user id.UserID) (uri mimiuri.URI, ok bool, err error) {
	local, server, ok := splitID(user)
	if !ok || server != b.server {
		return mimiuri.URI{}, false, nil
	}
	uri, ok = decodeLocal(local, mimiuri.User, b.server)
	if !ok {
		uri, _, ok, err = b.st.ghost(ctx, user)
	}
	return uri, ok && uri.Domain != b.domain, err
}

// local returns the Matrix ID of one of this provider's users; ok is false for those of other providers and those
// who are not on Matrix.
func (b *bridge) local(uri mimiuri.URI) (id.UserID, bool) { return localID(uri, b.server, b.domain) }

// joinAs makes a user of ours join a room it may join, and remembers that.
func (b *bridge) joinAs(ctx context.Context, room id.RoomID, user id.UserID) error {
	if err := b.hs.join(ctx, user, room); err != nil {
		return err
	}
	return b.st.write(setMember(room, user, member{membership: "join", sender: user}))
}

// leaveAs makes a user of ours leave a room or decline an invitation; not being in it is fine.
func (b *bridge) leaveAs(ctx context.Context, room id.RoomID, user id.UserID, reason string) error {
	err := b.hs.leave(ctx, user, room, reason)
	if err != nil && fault.Temporary(err) {
		return err
	}
	if err != nil {
		b.log.Debug().Err(err).Msg("leaving a room was refused")
	}
	return b.st.write(setMember(room, user, member{membership: "leave", sender: user}))
}

// decline makes a user of ours decline an invitation.
func (b *bridge) decline(ctx context.Context, room id.RoomID, user id.UserID, reason string) error {
	// Somebody invited may have no account yet, if the homeserver did not ask.
	if err := b.makeAccount(ctx, user); err != nil && fault.Temporary(err) {
		return err
	}
	return b.leaveAs(ctx, room, user, reason)
}

// makeAccount makes an account for somebody of ours who has nothing to say but no, and remembers that there is one.
func (b *bridge) makeAccount(ctx context.Context, user id.UserID) error {
	if err := b.st.set(accountKey(user), "1"); err != nil {
		return err
	}
	return b.hs.register(ctx, user)
}

// actAs lets the bot, or else a ghost that is in the room, invite, kick or unban somebody. It tries a few of them:
// where local users have made the room themselves, they say who may do what.
func (b *bridge) actAs(ctx context.Context, what string, p portal, user id.UserID, reason string) error {
	actors, err := b.speakers(ctx, p.room, 4)
	if err != nil {
		return err
	}
	if p.own && !slices.Contains(actors, b.hs.bot) {
		actors = append([]id.UserID{b.hs.bot}, actors...)
	}
	err = fault.Wrap(fault.Forbidden, "the bridge is not in the Matrix room", fmt.Errorf("matrix: %s %s in %s: nobody can", what, user, p.room))
	for _, as := range actors {
		if err = b.hs.act(ctx, what, as, p.room, user, reason); err == nil || fault.Temporary(err) {
			return err
		}
	}
	return err
}

// joinGhost makes a remote user's ghost a member of a portal.
func (b *bridge) joinGhost(ctx context.Context, p portal, uri mimiuri.URI) error {
	ghost, err := b.ensureGhost(ctx, uri)
	if err != nil {
		return err
	}
	return b.bringIn(ctx, p, ghost)
}

// bringIn makes a user of ours a member of a portal, invited by another one if need be.
func (b *bridge) bringIn(ctx context.Context, p portal, user id.UserID) error {
	m, err := b.st.member(ctx, p.room, user)
	if err != nil || m.membership == "join" {
		return err
	}
	if m.membership == "ban" {
		if err := b.actAs(ctx, "unban", p, user, ""); err != nil && fault.Temporary(err) {
			return err
		}
	}
	err = b.joinAs(ctx, p.room, user)
	if err == nil || fault.Temporary(err) {
		return err
	}
	if err := b.actAs(ctx, "invite", p, user, ""); err != nil {
		return err
	}
	return b.joinAs(ctx, p.room, user)
}

// invitePerson makes sure that a local user is in a portal or invited to it.
func (b *bridge) invitePerson(ctx context.Context, p portal, user id.UserID) error {
	m, err := b.st.member(ctx, p.room, user)
	if err != nil || m.membership == "join" || m.membership == "invite" {
		return err
	}
	err = b.actAs(ctx, "invite", p, user, "")
	if err != nil && !fault.Temporary(err) {
		// The homeserver may know more: that they are in already, or banned by another user.
		as, errAs := b.speaker(ctx, p.room)
		if errAs != nil {
			return errAs
		}
		var now struct {
			Membership string `json:"membership"`
		}
		if as != "" {
			if err := b.hs.state(ctx, as, p.room, "m.room.member", string(user), &now); err != nil && fault.Temporary(err) {
				return err
			}
		}
		switch now.Membership {
		case "join", "invite":
			return b.st.write(setMember(p.room, user, member{membership: now.Membership, sender: b.hs.bot}))
		case "ban":
			if errUnban := b.actAs(ctx, "unban", p, user, ""); errUnban != nil {
				return errUnban
			}
			err = b.actAs(ctx, "invite", p, user, "")
		}
	}
	if err != nil {
		return err
	}
	return b.st.write(setMember(p.room, user, member{membership: "invite", sender: b.hs.bot}))
}

// removePerson takes a local user out of a portal.
func (b *bridge) removePerson(ctx context.Context, p portal, user id.UserID, reason string) error {
	m, err := b.st.member(ctx, p.room, user)
	if err != nil || m.membership == "leave" || m.membership == "ban" {
		return err
	}
	err = b.actAs(ctx, "kick", p, user, reason)
	if err != nil {
		if fault.Temporary(err) {
			return err
		}
		if gone, errNow := b.stillMember(ctx, p, user, "leave"); errNow != nil || !gone {
			b.log.Info().Err(err).Str("matrix_room", string(p.room)).Msg("a user could not be removed")
			return errors.Join(errNow, b.say(ctx, p.room, "", "not removed "+string(user), fmt.Sprintf("%s is no longer in the MIMI room (%s), but the bridge may not remove them here.", user, reason)))
		}
	}
	return b.st.write(setMember(p.room, user, member{membership: "leave", sender: b.hs.bot}))
}

// ensurePortal returns the portal of a MIMI room, made by the bot if there is none. It must not be called at the same
// time for one room.
func (b *bridge) ensurePortal(ctx context.Context, uri mimiuri.URI) (portal, error) {
	b.adoptMu.RLock()
	defer b.adoptMu.RUnlock()
	p, ok, err := b.st.portal(ctx, uri)
	if err != nil {
		return p, err
	}
	if ok && p.closing {
		// Closing was cut short; it has to be finished before the room can have a new portal.
		if err := b.closePortal(ctx, p); err != nil {
			return p, err
		}
		ok = false
	}
	if ok {
		return p, nil
	}
	r, _, err := b.host.Room(ctx, uri)
	if err != nil {
		return p, err
	}
	if err := b.ensureBot(ctx); err != nil {
		return p, err
	}
	var ghosts []id.UserID
	for _, m := range r.Participants {
		if m.User.Domain == b.domain || len(ghosts) == b.cfg.InitialGhosts {
			continue
		}
		ghost, err := b.ensureGhost(ctx, m.User)
		if err != nil {
			if fault.Temporary(err) {
				return p, err
			}
			b.log.Warn().Err(err).Msg("a remote user cannot be shown")
			continue
		}
		ghosts = append(ghosts, ghost)
	}
	p = portal{uri: uri, own: true, admitted: true, name: clip(clean(r.Name), 200)}
	var people []id.UserID
	if r.Direct {
		if p.name == "" {
			p.name = b.directName(ctx, r)
		}
		for _, m := range r.Participants {
			if mxid, ok := b.local(m.User); ok {
				people = append(people, mxid)
			}
		}
	}
	alias := portalAlias(uri, b.server)
	// The alias makes this happen once: after a crash between the homeserver's making the room and its being
	// stored here, making it again is refused, and the room is found by its alias.
	request := b.newRoom(p, alias, append(ghosts, people...), r, map[string]any{"join_rule": joinRule(r)})
	p.room, err = b.hs.createRoom(ctx, request)
	if errcode(err) == mRoomInUse {
		p.room, err = b.ownRoom(ctx, "#"+alias+":"+b.server)
		if err == nil && p.room == "" {
			p.room, err = b.hs.createRoom(ctx, request)
		}
	}
	if err != nil {
		return p, err
	}
	if err := b.st.addPortal(p); err != nil {
		return p, err
	}
	if err := b.st.write(setMember(p.room, b.hs.bot, member{membership: "join", sender: b.hs.bot})); err != nil {
		return p, err
	}
	if b.e2ee != nil && b.cfg.Encryption == encryptionDefault {
		raw, err := json.Marshal(b.encryptionEvent())
		if err != nil {
			return p, err
		}
		if err := b.setEncrypted(ctx, p.room, asObject(raw)); err != nil {
			return p, err
		}
	}
	for _, u := range people {
		if err := b.st.write(setMember(p.room, u, member{membership: "invite", sender: b.hs.bot})); err != nil {
			return p, err
		}
	}
	if topic := b.topicOfRoom(r); topic != "" {
		if err := b.st.set("topic "+uri.String(), topic); err != nil {
			return p, err
		}
	}
	return p, b.setAvatar(ctx, p, r)
}

// joinGhosts brings the first remote participants into a portal of ours, a few at a time.
func (b *bridge) joinGhosts(ctx context.Context, p portal) error {
	r, ok, err := b.host.Room(ctx, p.uri)
	if err != nil || !ok {
		return err
	}
	var todo []mimiuri.URI
	for _, m := range r.Participants {
		if m.User.Domain != b.domain && len(todo) < b.cfg.InitialGhosts {
			todo = append(todo, m.User)
		}
	}
	errs := make([]error, len(todo))
	slots := make(chan struct{}, 4)
	var work sync.WaitGroup
	for i, uri := range todo {
		work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = b.joinGhost(ctx, p, uri)
		})
	}
	work.Wait()
	for _, err := range errs {
		if err != nil && fault.Temporary(err) {
			return err
		} else if err != nil {
			b.log.Warn().Err(err).Str("matrix_room", string(p.room)).Msg("a remote user could not join")
		}
	}
	return nil
}

const (
	bridgeKey = "io.github.mimibridge" // prefix of event types, state keys and content keys of this bridge
	roomType  = bridgeKey + ".room"    // state of a portal of ours: the MIMI room
	markField = bridgeKey + ".id"      // content of a ghost's message: the MIMI message ID and part
)

// newRoom is the body of createRoom for a portal.
func (b *bridge) newRoom(p portal, alias string, ghosts []id.UserID, r adapter.Room, rule map[string]any) map[string]any {
	info := b.bridgeInfo(p)
	topic := b.topicOfRoom(r)
	if topic == "" {
		topic = fmt.Sprintf("MIMI room %s. End-to-end encryption ends at the bridge of %s.", p.uri, b.domain)
	}
	powers := levels(r)
	state := func(typ, key string, content any) map[string]any {
		return map[string]any{"type": typ, "state_key": key, "content": content}
	}
	in := map[string]any{
		"preset":          "private_chat",
		"visibility":      "private",
		"room_alias_name": alias,
		"invite":          append([]id.UserID{}, ghosts...),
		"topic":           topic,
		// Before version 12, in which nobody could ever take power from the bot.
		"room_version":     portalVersion,
		"creation_content": map[string]any{"m.federate": b.cfg.Federate},
		"initial_state": []any{
			state("m.room.history_visibility", "", map[string]any{"history_visibility": historyRule(r)}),
			state("m.room.join_rules", "", rule),
			state("m.room.guest_access", "", map[string]any{"guest_access": "forbidden"}),
			state("m.bridge", bridgeKey+"://"+p.uri.String(), info),
			state("uk.half-shot.bridge", bridgeKey+"://"+p.uri.String(), info),
			state(roomType, "", map[string]any{"uri": p.uri.String()}),
		},
		"power_level_content_override": powers,
	}
	if b.e2ee != nil && b.cfg.Encryption == encryptionDefault {
		in["initial_state"] = append(in["initial_state"].([]any), state("m.room.encryption", "", b.encryptionEvent()))
	}
	if r.Direct {
		in["is_direct"] = true
		in["initial_state"] = append(in["initial_state"].([]any), state("io.element.functional_members", "", map[string]any{"service_members": []id.UserID{b.hs.bot}}))
	}
	if p.name != "" {
		in["name"] = p.name
	}
	return in
}

// portalVersion is the room version of portals that the bot makes.
const portalVersion = "11"

// bridgeInfo says what a room is a bridge to (MSC2346).
func (b *bridge) bridgeInfo(p portal) map[string]any {
	return map[string]any{
		"bridgebot": b.hs.bot,
		"creator":   b.hs.bot,
		"protocol":  map[string]any{"id": "mimi", "displayname": "MIMI"},
		"channel":   map[string]any{"id": p.uri.String(), "displayname": p.name},
	}
}

// ownRoom finds the room with an alias of ours. If the bot did not make it, or is in it no more, the alias is removed
// and the result is "".
func (b *bridge) ownRoom(ctx context.Context, alias string) (id.RoomID, error) {
	room, err := b.hs.resolveAlias(ctx, alias)
	if err != nil && fault.Temporary(err) {
		return "", err
	}
	if err == nil {
		state, err := b.hs.allState(ctx, b.hs.bot, room)
		if err != nil && fault.Temporary(err) {
			return "", err
		}
		for _, ev := range state {
			if err == nil && ev.Type == "m.room.create" && ev.Sender == b.hs.bot {
				return room, nil
			}
		}
	}
	b.log.Warn().Str("alias", alias).Msg("an alias of a portal leads to a room that is none; it is replaced")
	return "", b.hs.deleteAlias(ctx, alias)
}

// closePortal makes everybody of ours leave a portal and forgets it. Local users who are still in it keep what
// they can read.
func (b *bridge) closePortal(ctx context.Context, p portal) error {
	p.closing = true
	if err := b.st.updatePortal(p); err != nil {
		return err
	}
	if err := b.emptyRoom(ctx, p, ""); err != nil {
		return err
	}
	return b.st.removePortal(p)
}

// admit takes over a room that a local user has made, when the first ghost may come in: the homeserver sends
// nothing of a room in which nobody of ours is, and people begin to talk when they have invited.
func (b *bridge) admit(ctx context.Context, p portal, ghost id.UserID) error {
	b.admitMu.Lock()
	defer b.admitMu.Unlock()
	if now, ok, err := b.st.portal(ctx, p.uri); err != nil || !ok || now.admitted {
		return err
	}
	m, err := b.st.member(ctx, p.room, ghost)
	if err != nil {
		return err
	}
	if err := b.hs.join(ctx, ghost, p.room); err != nil {
		return err
	}
	if refused, err := b.bridgedTwice(ctx, p, ghost); err != nil || refused {
		return err
	}
	pos, err := b.st.position(ctx, m.invited)
	if err != nil {
		return err
	}
	earlier, err := b.saidSince(ctx, p, ghost, m.invited)
	if err != nil {
		return err
	}
	if err := b.bringBot(ctx, p, ghost); err != nil {
		return err
	}
	if err := b.inviteOthers(ctx, p, ghost); err != nil {
		return err
	}
	if err := b.st.admit(p, pos, earlier); err != nil {
		return err
	}
	if err := b.st.write(setMember(p.room, ghost, member{membership: "join", sender: ghost})); err != nil {
		return err
	}
	for _, typ := range []string{"m.bridge", "uk.half-shot.bridge"} {
		if err := b.putRoomState(ctx, p, typ, bridgeKey+"://"+p.uri.String(), b.bridgeInfo(p)); err != nil {
			return err
		}
	}
	b.inbox.poke(p.room)
	var enc object
	err = b.hs.state(ctx, ghost, p.room, "m.room.encryption", "", &enc)
	if err == nil {
		if err := b.setEncrypted(ctx, p.room, enc); err != nil {
			return err
		}
		return b.sayEncrypted(ctx, p)
	}
	if fault.Temporary(err) {
		return err
	}
	return nil
}

// backfillPages bounds how far back the talk before a ghost joined is read, in pages of 100 events.
const backfillPages = 10

// saidSince fetches what local users said after the ghost was invited, oldest first.
func (b *bridge) saidSince(ctx context.Context, p portal, ghost id.UserID, invite id.EventID) ([]incoming, error) {
	if invite == "" {
		return nil, nil // then it is not known what was said to whom
	}
	var out []incoming
	from, complete := "", false
pages:
	for page := range backfillPages {
		complete = complete || page == backfillPages-1
		events, next, err := b.hs.history(ctx, ghost, p.room, from, 100, nil)
		if err != nil {
			if fault.Temporary(err) {
				return nil, err
			}
			complete = true
			break // the room shows no history to those who join
		}
		for _, ev := range events {
			if ev.ID == invite {
				break pages
			}
			complete = complete || ev.Type == "m.room.member" && ev.StateKey != nil && *ev.StateKey == string(ghost)
			ev.RoomID = p.room
			body := ev.marshal()
			if _, err := parseEvent(body); err == nil && b.wanted(ev) && ev.Type != "m.room.member" {
				out = append(out, incoming{id: ev.ID, room: p.room, body: body})
			}
		}
		if next == "" || len(events) == 0 || next == from {
			break
		}
		from = next
	}
	if !complete {
		// Homeservers write timelines after they have answered. One that does not show the ghost's own join yet may
		// not show what was said before it either.
		return nil, fault.New(fault.Unavailable, "the room's timeline is not up to date yet")
	}
	slices.Reverse(out)
	return out, nil
}

// bringBot lets the ghost invite the bot, which then speaks for the bridge. Where the ghost may not, ghosts do.
func (b *bridge) bringBot(ctx context.Context, p portal, ghost id.UserID) error {
	m, err := b.st.member(ctx, p.room, b.hs.bot)
	if err != nil || m.membership == "join" {
		return err
	}
	if err := b.ensureBot(ctx); err != nil {
		return err
	}
	err = b.hs.act(ctx, "invite", ghost, p.room, b.hs.bot, "")
	if err == nil || !fault.Temporary(err) {
		// Refused may mean invited already.
		err = b.joinAs(ctx, p.room, b.hs.bot)
	}
	if err != nil && !fault.Temporary(err) {
		b.log.Info().Err(err).Str("matrix_room", string(p.room)).Msg("the bot may not join; a ghost speaks for the bridge")
		return nil
	}
	return err
}

// inviteOthers asks for the local users who were in a room before it became a portal to be added to the MIMI room, by
// who made it.
func (b *bridge) inviteOthers(ctx context.Context, p portal, as id.UserID) error {
	creator, ok := b.person(p.creator)
	if !ok {
		return nil
	}
	users, err := b.hs.joined(ctx, as, p.room)
	if err != nil {
		if fault.Temporary(err) {
			return err
		}
		return nil
	}
	slices.Sort(users)
	for _, u := range users {
		uri, ok := b.person(u)
		if !ok || u == p.creator {
			continue
		}
		if in, err := b.participant(ctx, p.uri, uri); err != nil {
			return err
		} else if in {
			continue
		}
		err := b.intake(ctx, p.room, adapter.Intent{
			Kind: adapter.Invite, Room: p.uri, Actor: creator, Target: uri, OriginID: string(p.creation) + "/" + string(u),
		})
		if err != nil {
			return err
		}
	}
	return nil
}
