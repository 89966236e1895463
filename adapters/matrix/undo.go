package matrix

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// refusedIntent is something a local user did on Matrix that the MIMI room did not take.
type refusedIntent struct {
	kind   adapter.IntentKind
	uri    mimiuri.URI // the MIMI room
	room   id.RoomID   // where it was done
	event  id.EventID  // by which
	actor  mimiuri.URI
	target mimiuri.URI
	err    error
	report bool // a report of reading or delivery, which nobody wrote
}

func (b *bridge) showRefused(ctx context.Context, ev adapter.Event) error {
	origin, room, own := ours(ev.Origin)
	if !own {
		return nil
	}
	if room == "" {
		// It was asked for without an event: a direct room.
		p, ok, err := b.st.portal(ctx, ev.Room)
		if err != nil || !ok {
			return err
		}
		room, origin = p.room, ""
	}
	r := refusedIntent{kind: ev.Intent, uri: ev.Room, room: room, event: origin, actor: ev.Actor, target: ev.Target, err: ev.Err,
		report: strings.HasSuffix(ev.Origin.ID, reportSuffix)}
	if r.err == nil {
		r.err = errors.New("matrix: refused")
	}
	return b.undo(ctx, r)
}

// undo takes back on Matrix what the MIMI room did not take, and tells the person why. A message stays where it
// is, with the notice in reply: its author may want to send it again.
func (b *bridge) undo(ctx context.Context, r refusedIntent) error {
	var p portal
	var ok bool
	var err error
	if !r.uri.IsZero() {
		if p, ok, err = b.st.portal(ctx, r.uri); err != nil {
			return err
		}
	}
	if ok && p.room != r.room && r.kind != adapter.JoinRoom {
		ok = false // the room was left and has another portal since
	}
	why := fault.Public(r.err)
	notice := func(format string, args ...any) error {
		return b.say(ctx, r.room, r.event, "refused", fmt.Sprintf(format, args...))
	}
	switch r.kind {
	case adapter.SendMessage:
		if r.report {
			return nil
		}
		if err := b.st.refused(r.event); err != nil {
			return err
		}
		if err := notice("Not delivered: %s.", why); err != nil {
			return err
		}
		return b.tellStatus(ctx, r.room, r.event, r.err, nil)
	case adapter.JoinRoom:
		if ok && p.room == r.room {
			if user, isLocal := b.local(r.actor); isLocal {
				if err := b.removePerson(ctx, p, user, why); err != nil {
					return err
				}
			}
		}
		return notice("You could not join %s: %s.", r.uri, why)
	case adapter.CreateRoom:
		if _, known, err := b.host.Room(ctx, r.uri); err != nil || known || !ok {
			return err
		}
		// The invitation that was the reason is refused next, and its author is told then.
		b.log.Warn().Err(r.err).Str("room", r.uri.String()).Msg("a room could not be made")
		return nil
	case adapter.Invite:
		return b.undoInvite(ctx, r, p, ok, why, notice)
	case adapter.LeaveRoom:
		in, err := b.participant(ctx, r.uri, r.actor)
		if err != nil || !in || !ok {
			return err
		}
		if user, isLocal := b.local(r.actor); isLocal {
			if err := b.invitePerson(ctx, p, user); err != nil && fault.Temporary(err) {
				return err
			}
		}
		return notice("You could not leave %s: %s.", r.uri, why)
	case adapter.Remove:
		in, err := b.participant(ctx, r.uri, r.target)
		if err != nil || !in || !ok {
			return err
		}
		if err := b.bringBack(ctx, p, r.target); err != nil {
			if fault.Temporary(err) {
				return err
			}
			b.log.Warn().Err(err).Str("matrix_room", string(p.room)).Msg("a user who was removed could not be brought back")
		}
		return notice("%s was not removed from the MIMI room: %s.", b.shown(r.target), why)
	case adapter.Ban:
		return b.undoBan(ctx, r, p, ok, why, notice)
	case adapter.Unban:
		user, known := b.anyID(r.target)
		if !ok || !known {
			return nil
		}
		if err := b.actAs(ctx, "ban", p, user, why); err != nil {
			if fault.Temporary(err) {
				return err
			}
		} else if err := b.st.write(setMember(p.room, user, member{membership: "ban", sender: b.hs.bot})); err != nil {
			return err
		}
		return notice("%s is still banned from the MIMI room: %s.", b.shown(r.target), why)
	case adapter.ChangeRole, adapter.SetMetadata, adapter.SetPolicy:
		return b.undoState(ctx, r, p, ok, why, notice)
	case adapter.DestroyRoom:
		return notice("The MIMI room was not closed: %s.", why)
	}
	return nil
}

// bringBack has somebody in a portal again who is in the MIMI room still.
func (b *bridge) bringBack(ctx context.Context, p portal, u mimiuri.URI) error {
	if user, isLocal := b.local(u); isLocal {
		return b.invitePerson(ctx, p, user)
	}
	return b.joinGhost(ctx, p, u)
}

// undoBan lifts a ban that the MIMI room did not take, and brings back who is in it still.
func (b *bridge) undoBan(ctx context.Context, r refusedIntent, p portal, ok bool, why string, notice func(string, ...any) error) error {
	user, known := b.anyID(r.target)
	if !ok || !known {
		return nil
	}
	in, err := b.participant(ctx, r.uri, r.target)
	if err != nil {
		return err
	}
	err = b.actAs(ctx, "unban", p, user, "")
	if err == nil {
		err = b.st.write(setMember(p.room, user, member{membership: "leave", sender: b.hs.bot}))
	}
	if err == nil && in {
		err = b.bringBack(ctx, p, r.target)
	}
	if err != nil {
		if fault.Temporary(err) {
			return err
		}
		b.log.Warn().Err(err).Str("matrix_room", string(p.room)).Msg("a ban could not be undone")
	}
	return notice("%s was not banned from the MIMI room: %s.", b.shown(r.target), why)
}

// undoState gives a portal the state again that the MIMI room has.
func (b *bridge) undoState(ctx context.Context, r refusedIntent, p portal, ok bool, why string, notice func(string, ...any) error) error {
	if !ok {
		return nil
	}
	room, known, err := b.host.Room(ctx, r.uri)
	if err != nil || !known {
		return err
	}
	switch r.kind {
	case adapter.ChangeRole:
		if err := b.setPowers(ctx, p, r.target); err != nil {
			return err
		}
		return notice("The role of %s was not changed in the MIMI room: %s.", b.shown(r.target), why)
	case adapter.SetMetadata:
		for _, set := range []func(context.Context, portal, adapter.Room) error{b.setName, b.setTopic, b.setAvatar} {
			if err := set(ctx, p, room); err != nil {
				return err
			}
		}
	case adapter.SetPolicy:
		if err := b.setJoinRule(ctx, p, room); err != nil {
			return err
		}
		if err := b.setHistory(ctx, p, room); err != nil {
			return err
		}
	}
	return notice("This was not changed in the MIMI room: %s.", why)
}

func (b *bridge) undoInvite(ctx context.Context, r refusedIntent, p portal, ok bool, why string, notice func(string, ...any) error) error {
	in := false
	if !r.uri.IsZero() {
		var err error
		if in, err = b.participant(ctx, r.uri, r.target); err != nil {
			return err
		}
	}
	if user, isLocal := b.local(r.target); isLocal {
		if in || !ok {
			return nil
		}
		if err := b.removePerson(ctx, p, user, why); err != nil {
			return err
		}
		return notice("%s could not be added to the MIMI room: %s.", user, why)
	}
	if in {
		// Invited twice, or by somebody elsewhere at the same time: they are in, and so is their ghost.
		if ok {
			return b.joinGhost(ctx, p, r.target)
		}
		return nil
	}
	ghost, _ := ghostID(r.target, b.server)
	speaker, err := b.speaker(ctx, r.room)
	if err != nil {
		return err
	}
	if speaker == "" {
		// Nobody of ours is in the room to say why. The ghost lets the bot in, or says it itself.
		if err := b.sayThroughGhost(ctx, r, p, ok, ghost, notice, why); err != nil {
			return err
		}
	} else if err := notice("%s could not be invited: %s.", b.shown(r.target), why); err != nil {
		return err
	}
	if err := b.decline(ctx, r.room, ghost, why); err != nil {
		return err
	}
	if !ok || p.own {
		return nil
	}
	if _, known, err := b.host.Room(ctx, r.uri); err != nil || known {
		return err
	}
	// There is no MIMI room, and nobody will make it for this invitation: the next one starts afresh.
	invited, err := b.st.membersOf(ctx, p.room, "invite")
	if err != nil {
		return err
	}
	for _, u := range invited {
		// The bot was invited to say why; that is no invitation of somebody.
		if u != ghost && u != b.hs.bot && isOurs(u, b.server) {
			return nil
		}
	}
	return b.st.removePortalOnly(p)
}

func (b *bridge) sayThroughGhost(ctx context.Context, r refusedIntent, p portal, ok bool, ghost id.UserID, notice func(string, ...any) error, why string) error {
	if err := b.makeAccount(ctx, ghost); err != nil && fault.Temporary(err) {
		return err
	}
	if err := b.hs.join(ctx, ghost, r.room); err != nil {
		if fault.Temporary(err) {
			return err
		}
		return nil // the invitation was taken back
	}
	if err := b.st.write(setMember(r.room, ghost, member{membership: "join", sender: ghost})); err != nil {
		return err
	}
	if err := b.bringBot(ctx, portal{room: r.room}, ghost); err != nil {
		return err
	}
	bot, err := b.st.member(ctx, r.room, b.hs.bot)
	if err != nil {
		return err
	}
	if ok && !p.admitted && bot.membership == "join" {
		// With the bot in it the room's events come from now on; what was said before was said to nobody.
		if err := b.st.admit(p, 0, nil); err != nil {
			return err
		}
		b.inbox.poke(p.room)
	}
	return notice("%s could not be invited: %s.", b.shown(r.target), why)
}

// shown is how a user is called on Matrix.
func (b *bridge) shown(u mimiuri.URI) string {
	if mxid, ok := b.local(u); ok {
		return string(mxid)
	}
	return displayName(u)
}
