package matrix

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// createSuffix makes the origin ID of a CreateRoom out of the event's that asks for it; the event itself is
// the origin of the Invite.
const createSuffix = "/create"

// originEvent is the event that an intent came from.
func originEvent(originID string) id.EventID {
	ev, _, _ := strings.Cut(originID, "/")
	return id.EventID(ev)
}

// intake hands an intent to the provider. What the provider refuses at once is undone as what it refuses later; an
// error is returned only if the event has to be carried out again.
func (b *bridge) intake(ctx context.Context, room id.RoomID, in adapter.Intent) error {
	in.Hint = string(room)
	err := b.host.Intake(ctx, in)
	if err == nil || fault.Temporary(err) {
		return err
	}
	b.log.Info().Err(err).Str("room", in.Room.String()).Str("event", in.OriginID).Msg("an intent was refused")
	return b.undo(ctx, refusedIntent{kind: in.Kind, uri: in.Room, room: room, event: originEvent(in.OriginID), actor: in.Actor, target: in.Target, err: err})
}

// onMember carries out a change of membership.
func (b *bridge) onMember(ctx context.Context, ev rawEvent) (effects []func(*sql.Tx) error, err error) {
	user := id.UserID(*ev.StateKey)
	membership := asObject(ev.Content).str("membership")
	prior, err := b.st.changeMember(ev.RoomID, user, member{membership: membership, sender: ev.Sender, event: ev.ID},
		asObject(ev.Unsigned).object("prev_content").str("membership"))
	if err != nil {
		return nil, err
	}
	if encrypted, err := b.encryptedRoom(ctx, ev.RoomID); err != nil {
		return nil, err
	} else if encrypted && prior.membership != membership {
		if err := b.e2ee.changed(ctx, ev.RoomID); err != nil {
			return nil, err
		}
	}
	p, isPortal, err := b.st.portalAt(ctx, ev.RoomID)
	if err != nil {
		return nil, err
	}
	if membership == "leave" && !isPortal {
		effects = append(effects, dropMember(ev.RoomID, user, ev.ID))
	}
	if isOurs(ev.Sender, b.server) {
		return effects, nil // an echo of what this adapter did
	}
	isPortal = isPortal && !p.closing
	switch membership {
	case "invite":
		err = b.onInvite(ctx, ev, user, p, isPortal)
	case "join":
		if isPortal && prior.membership != "join" {
			err = b.onJoin(ctx, ev, user, p, prior)
		}
	case "knock":
		if isPortal && prior.membership != "join" {
			err = b.onJoin(ctx, ev, user, p, prior)
		}
	case "ban":
		if isPortal && prior.membership != "ban" {
			err = b.onLeave(ctx, ev, user, p, prior)
		}
	case "leave":
		switch {
		case !isPortal || prior.membership == "leave":
		case prior.membership == "ban":
			err = b.onUnban(ctx, ev, user, p)
		default:
			err = b.onLeave(ctx, ev, user, p, prior)
		}
	}
	return effects, err
}

func (b *bridge) onInvite(ctx context.Context, ev rawEvent, user id.UserID, p portal, isPortal bool) error {
	if !isOurs(user, b.server) {
		return nil // another person; what counts is whether they join
	}
	actor, ok := b.person(ev.Sender)
	if !ok {
		return b.decline(ctx, ev.RoomID, user, "you may not use this bridge; its administrator can allow it")
	}
	if user == b.hs.bot {
		if err := b.ensureBot(ctx); err != nil {
			return err
		}
		if err := b.joinAs(ctx, ev.RoomID, b.hs.bot); err != nil || isPortal {
			return err
		}
		if next, err := b.st.setting(ctx, upgradeKey(ev.RoomID)); err != nil || next != "" {
			return errors.Join(err, b.moveTo(ctx, ev.RoomID))
		}
		if string(asObject(ev.Content)["is_direct"]) == "true" {
			// From now on this is where the bot talks with them.
			if now, err := b.st.setting(ctx, managementKey(ev.Sender)); err != nil {
				return err
			} else if now == "" {
				if err := b.st.set(managementKey(ev.Sender), string(ev.RoomID)); err != nil {
					return err
				}
			}
		}
		return b.say(ctx, ev.RoomID, "", "help "+string(ev.ID), helpText)
	}
	target, ok, err := b.ghostURI(ctx, user)
	if err != nil {
		return err
	}
	if !ok {
		return b.decline(ctx, ev.RoomID, user, "there is no such MIMI user")
	}
	if next, err := b.st.setting(ctx, upgradeKey(ev.RoomID)); err != nil || next != "" {
		// Somebody invites the ghosts anew after an upgrade; the bot brings them in once it is there itself.
		return err
	}
	if !isPortal && string(asObject(ev.Content)["is_direct"]) == "true" {
		return b.adoptDirect(ctx, ev, actor, target, user)
	}
	if !isPortal {
		if why, err := b.bridgedAlready(ctx, ev.RoomID, []mimiuri.URI{target}); err != nil {
			return err
		} else if why != "" {
			return errors.Join(b.say(ctx, ev.RoomID, ev.ID, "twice", why), b.decline(ctx, ev.RoomID, user, why))
		}
		if p, err = b.adoptRoom(ctx, ev); err != nil {
			return err
		}
	} else if in, err := b.participant(ctx, p.uri, target); err != nil {
		return err
	} else if in {
		// Already in the MIMI room; the ghost was left out here, as in a large room, or had left by mistake.
		return b.joinGhost(ctx, p, target)
	}
	if err := b.ensureMade(ctx, p, b.invitedRoomName(ev)); err != nil {
		return err
	}
	return b.intake(ctx, ev.RoomID, adapter.Intent{
		Kind: adapter.Invite, Room: p.uri, Actor: actor, Target: target, OriginID: string(ev.ID), OriginTime: ev.time(),
	})
}

// adoptRoom makes the Matrix room of an invitation the portal of a new MIMI room.
func (b *bridge) adoptRoom(ctx context.Context, ev rawEvent) (portal, error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return portal{}, err
	}
	uri, err := mimiuri.New(b.domain, mimiuri.Room, hex.EncodeToString(random[:]))
	if err != nil {
		return portal{}, err
	}
	// With the bot in it already, the homeserver has been sending the room's events all along.
	bot, err := b.st.member(ctx, ev.RoomID, b.hs.bot)
	if err != nil {
		return portal{}, err
	}
	p := portal{uri: uri, room: ev.RoomID, admitted: bot.membership == "join", creator: ev.Sender, creation: ev.ID}
	if err := b.st.addPortal(p); err != nil {
		return portal{}, err
	}
	// What is stored counts: a repeated event finds what it made the first time.
	p, ok, err := b.st.portalAt(ctx, ev.RoomID)
	if err == nil && !ok {
		err = errors.New("matrix: a portal vanished")
	}
	return p, err
}

// adoptDirect makes the Matrix room of an invitation, which a client calls a direct one, the portal of the direct room of
// two users.
func (b *bridge) adoptDirect(ctx context.Context, ev rawEvent, actor, target mimiuri.URI, ghost id.UserID) error {
	p, fresh, err := b.takeDirect(ctx, ev, actor, target)
	if err != nil {
		if fault.Temporary(err) {
			return err
		}
		b.log.Info().Err(err).Str("matrix_room", string(ev.RoomID)).Msg("a direct room was refused")
		return b.undo(ctx, refusedIntent{kind: adapter.Invite, room: ev.RoomID, event: ev.ID, actor: actor, target: target, err: err})
	}
	if p.room != ev.RoomID {
		if err := b.decline(ctx, ev.RoomID, ghost, "you have a direct room with them already"); err != nil {
			return err
		}
		return b.invitePerson(ctx, p, ev.Sender)
	}
	if in, err := b.participant(ctx, p.uri, target); err != nil || !in || !fresh {
		return err
	}
	// The room was there before, and its portal was not: nothing else will bring the ghost in.
	if _, err := b.ensureGhost(ctx, target); err != nil {
		return err
	}
	if !p.admitted {
		if err := b.admit(ctx, p, ghost); err != nil {
			return err
		}
	}
	return b.joinGhost(ctx, p, target)
}

func (b *bridge) takeDirect(ctx context.Context, ev rawEvent, actor, target mimiuri.URI) (p portal, fresh bool, err error) {
	// Until the portal is stored nobody else may make one: the room's first events may come before DirectRoom returns.
	b.adoptMu.Lock()
	defer b.adoptMu.Unlock()
	uri, err := b.host.DirectRoom(ctx, actor, target)
	if err != nil {
		return p, false, err
	}
	p, ok, err := b.st.portal(ctx, uri)
	if err != nil || ok && !p.closing {
		return p, ok && p.room == ev.RoomID, err
	}
	bot, err := b.st.member(ctx, ev.RoomID, b.hs.bot)
	if err != nil {
		return p, false, err
	}
	if err := b.st.addPortal(portal{uri: uri, room: ev.RoomID, admitted: bot.membership == "join", creator: ev.Sender, creation: ev.ID}); err != nil {
		return p, false, err
	}
	if err := b.st.write(setMember(ev.RoomID, ev.Sender, member{membership: "join", sender: ev.Sender})); err != nil {
		return p, false, err
	}
	p, ok, err = b.st.portalAt(ctx, ev.RoomID)
	if err == nil && !ok {
		err = fault.New(fault.Unavailable, "the room is being closed")
	}
	return p, true, err
}

// ensureMade asks for the MIMI room of a portal that a local user made, unless it is there. It is always the same
// intent, whoever's event comes first, so it is done once.
func (b *bridge) ensureMade(ctx context.Context, p portal, name string) error {
	if p.own {
		return nil
	}
	if _, ok, err := b.host.Room(ctx, p.uri); err != nil || ok {
		return err
	}
	creator, ok := b.person(p.creator)
	if !ok {
		return nil // the permission is gone; what is wanted of the room will be refused
	}
	return b.intake(ctx, p.room, adapter.Intent{
		Kind: adapter.CreateRoom, Room: p.uri, Actor: creator, Name: name, OriginID: string(p.creation) + createSuffix,
	})
}

// invitedRoomName is the room's name as far as the invitation shows it.
func (b *bridge) invitedRoomName(ev rawEvent) string {
	var state []rawEvent
	if unmarshal(asObject(ev.Unsigned)["invite_room_state"], &state) != nil {
		return ""
	}
	for _, s := range state {
		if s.Type == "m.room.name" {
			return clip(asObject(s.Content).str("name"), 200)
		}
	}
	return ""
}

func (b *bridge) onJoin(ctx context.Context, ev rawEvent, user id.UserID, p portal, prior member) error {
	if isOurs(user, b.server) {
		return nil
	}
	uri, ok := localURI(user, b.server, b.domain)
	if !ok {
		return nil
	}
	if in, err := b.participant(ctx, p.uri, uri); err != nil {
		return err
	} else if in {
		return b.answerInvitation(ctx, user, uri, p.uri, adapter.GrantConsent)
	}
	// Not a participant. They may have been removed between their joining and now.
	if still, err := b.stillMember(ctx, p, user, asObject(ev.Content).str("membership")); err != nil || !still {
		return err
	}
	in := adapter.Intent{Room: p.uri, OriginID: string(ev.ID), OriginTime: ev.time()}
	if inviter, ok := b.person(prior.sender); ok && prior.membership == "invite" {
		in.Kind, in.Actor, in.Target = adapter.Invite, inviter, uri
	} else {
		in.Kind, in.Actor = adapter.JoinRoom, uri
	}
	if !b.permitted(user) {
		if by, err := b.st.setting(ctx, relayKey(p)); err != nil || by != "" {
			return err // they are heard through somebody else
		}
		return b.undo(ctx, refusedIntent{kind: adapter.Invite, uri: p.uri, room: p.room, event: ev.ID, actor: in.Actor, target: uri,
			err: fault.Newf(fault.Forbidden, "%s may not use this bridge; its administrator can allow it", user)})
	}
	return b.intake(ctx, p.room, in)
}

func (b *bridge) onLeave(ctx context.Context, ev rawEvent, user id.UserID, p portal, prior member) error {
	in := adapter.Intent{Room: p.uri, OriginID: string(ev.ID), OriginTime: ev.time()}
	if user == b.hs.bot {
		b.log.Info().Str("matrix_room", string(p.room)).Msg("the bot was removed from a room, so the bridge leaves it")
		return b.leaveMIMI(ctx, p, string(ev.ID))
	}
	var target mimiuri.URI
	if isOurs(user, b.server) {
		uri, ok, err := b.ghostURI(ctx, user)
		if err != nil || !ok {
			return err
		}
		target = uri
	} else {
		uri, ok := localURI(user, b.server, b.domain)
		if !ok {
			return nil
		}
		target = uri
		in.Actor = uri
	}
	if user == ev.Sender {
		in.Kind = adapter.LeaveRoom
		if prior.membership == "invite" && !isOurs(user, b.server) {
			if err := b.answerInvitation(ctx, user, target, p.uri, adapter.RefuseConsent); err != nil {
				return err
			}
		}
	} else {
		in.Kind, in.Target = adapter.Remove, target
		in.Reason = clip(asObject(ev.Content).str("reason"), 500)
		if asObject(ev.Content).str("membership") == "ban" {
			in.Kind = adapter.Ban
		}
		actor, ok := b.person(ev.Sender)
		if !ok {
			return b.undo(ctx, refusedIntent{kind: in.Kind, uri: p.uri, room: p.room, event: ev.ID, target: target,
				err: fault.Newf(fault.Forbidden, "%s may not use this bridge", ev.Sender)})
		}
		in.Actor = actor
	}
	// Somebody invited here who never joined was no participant, unless they had been made one elsewhere. One who
	// had joined was, or is about to become one.
	if prior.membership != "join" && in.Kind != adapter.Ban {
		if in, err := b.participant(ctx, p.uri, target); err != nil {
			return err
		} else if !in && !isOurs(user, b.server) {
			return nil
		}
	}
	return b.intake(ctx, p.room, in)
}

// askedKey is the setting that says who elsewhere has added a local user to a room: the invitation is the question whether they may.
func askedKey(user id.UserID, room mimiuri.URI) string { return askedPrefix(user) + room.String() }

func askedPrefix(user id.UserID) string { return "asked " + string(user) + " " }

// answerInvitation gives or refuses consent, for one room, to who has added a local user to it: joining is yes, declining is no.
func (b *bridge) answerInvitation(ctx context.Context, user id.UserID, local, room mimiuri.URI, answer adapter.ConsentAction) error {
	key := askedKey(user, room)
	stored, err := b.st.setting(ctx, key)
	if err != nil || stored == "" {
		return err
	}
	other, err := mimiuri.ParseKind(stored, mimiuri.User)
	if err == nil {
		if err := b.host.Consent(ctx, local, other, room, answer); err != nil && fault.Temporary(err) && !fault.Is(err, fault.Limited) {
			return err
		} else if err != nil {
			b.log.Info().Err(err).Msg("an answer to an invitation was not taken as consent")
		}
	}
	return b.st.set(key, "")
}

// onUnban lets somebody be let in again.
func (b *bridge) onUnban(ctx context.Context, ev rawEvent, user id.UserID, p portal) error {
	actor, ok := b.person(ev.Sender)
	target, known := b.uriOf(ctx, user)
	if !ok || !known || user == b.hs.bot {
		return nil
	}
	return b.intake(ctx, p.room, adapter.Intent{Kind: adapter.Unban, Room: p.uri, Actor: actor, Target: target, OriginID: string(ev.ID), OriginTime: ev.time()})
}

// stillMember asks the homeserver for somebody's present membership. If it does not say, the answer is yes.
func (b *bridge) stillMember(ctx context.Context, p portal, user id.UserID, membership string) (bool, error) {
	as, err := b.speaker(ctx, p.room)
	if err != nil || as == "" {
		return true, err
	}
	var now struct {
		Membership string `json:"membership"`
	}
	err = b.hs.state(ctx, as, p.room, "m.room.member", string(user), &now)
	if err != nil {
		if fault.Temporary(err) {
			return false, err
		}
		return true, nil
	}
	return now.Membership == membership, nil
}

// onMessage passes on what somebody says in a portal, and answers them elsewhere. handed says that it became an intent to
// send a message.
func (b *bridge) onMessage(ctx context.Context, ev rawEvent) (handed bool, err error) {
	p, ok, err := b.st.portalAt(ctx, ev.RoomID)
	if err != nil {
		return false, err
	}
	body := asObject(ev.Content)
	if !ok || p.closing {
		return false, b.onCommand(ctx, ev, body, portal{}, false)
	}
	if !p.admitted {
		return false, errNotYet
	}
	if _, ok := localURI(ev.Sender, b.server, b.domain); !ok {
		return false, nil
	}
	if ev.Type == "m.receipt" {
		return false, b.onReceipt(ctx, p, ev, body)
	}
	sender, ok := b.person(ev.Sender)
	relayed := ""
	if !ok && isPuppet(ev.Sender) {
		return false, nil // what another bridge says comes another way, or comes round
	}
	if !ok {
		// Somebody who has switched the relay on may lend them their voice.
		by, err := b.st.setting(ctx, relayKey(p))
		if err != nil {
			return false, err
		}
		if sender, ok = b.person(id.UserID(by)); !ok {
			return false, b.say(ctx, ev.RoomID, ev.ID, "forbidden", "Not delivered: you may not use this bridge; its administrator can allow it.")
		}
		local, server, _ := splitID(ev.Sender)
		relayed = local + " (" + server + ")"
	}
	if ev.Type == "m.room.encrypted" && len(body) > 0 {
		var why string
		if ev, why, err = b.opened(ctx, ev); err != nil {
			return false, err
		}
		if why != "" {
			return false, b.refuse(ctx, p, ev, why)
		}
		body = asObject(ev.Content)
	}
	if _, command := isCommand(body); command && relayed == "" && ev.Type == "m.room.message" {
		return false, b.onCommand(ctx, ev, body, p, true)
	}
	if ev.Type == "m.room.message" && body.str("msgtype") == "m.notice" && !b.cfg.Notices {
		return false, nil
	}
	what, err := b.translate(ctx, p, ev, body, sender)
	if relayed != "" && what.msg != nil && !nameRelayed(what.msg, relayed) {
		what = said{why: "Not delivered: only text is passed on for users who may not use the bridge."}
	}
	if err != nil {
		return false, err
	}
	if what.why != "" {
		return false, b.refuse(ctx, p, ev, what.why)
	}
	if what.msg == nil {
		return false, nil
	}
	what.msg.SetExternalMessageID([]byte(ev.ID), b.server)
	return true, b.intake(ctx, ev.RoomID, adapter.Intent{
		Kind: adapter.SendMessage, Room: p.uri, Actor: sender, Content: what.msg, OriginID: string(ev.ID), OriginTime: ev.time(),
	})
}

// nameRelayed puts the author's name into a message that is sent through somebody else; only text can have it.
func nameRelayed(m *content.Message, name string) bool {
	switch m.Body.ContentType {
	case content.TypeMarkdown:
		name = content.EscapeMarkdown(name)
	case content.TypePlain:
	default:
		return false
	}
	if m.Body.Cardinality != content.SinglePart || m.Body.Disposition != content.Render {
		return false
	}
	m.Body.Content = append([]byte(name+": "), m.Body.Content...)
	return true
}

// refuse tells the author of an event why it is not passed on.
func (b *bridge) refuse(ctx context.Context, p portal, ev rawEvent, why string) error {
	if err := b.say(ctx, ev.RoomID, ev.ID, "unbridged", why); err != nil {
		return err
	}
	return b.tellStatus(ctx, ev.RoomID, ev.ID, fault.New(fault.Malformed, strings.TrimSuffix(why, ".")), nil)
}

func (ev rawEvent) time() time.Time {
	if ev.Timestamp <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ev.Timestamp).UTC()
}
