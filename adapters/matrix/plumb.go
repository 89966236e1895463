package matrix

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Plumbing: an existing Matrix room becomes the portal of an existing MIMI room. Who asks for it has all power in the one, and an admin of the
// other agrees by writing a code there, wherever they are.

// plumbing is a request to plumb, stored in the settings until it is carried out or over.
type plumbing struct {
	Room  id.RoomID  // the Matrix room
	User  id.UserID  // who asks
	Event id.EventID // by which
	Code  string
	Until int64 // Unix ms
	// Old is the portal's Matrix room before, once the new one has taken its place.
	Old    id.RoomID `json:",omitempty"`
	OldOwn bool      `json:",omitempty"`
}

const (
	plumbSuffix = "/plumb" // ends the origin ID of the question to the MIMI room
	plumbTime   = 24 * time.Hour
)

func plumbKey(uri mimiuri.URI) string { return "plumb " + uri.String() }

// countPlumbs keeps number of questions, so that without one no message is looked at twice.
func (b *bridge) countPlumbs(ctx context.Context) error {
	var n int64
	if err := b.st.sql.QueryRowContext(ctx, `SELECT COUNT(*) FROM matrix_setting WHERE key LIKE 'plumb %'`).Scan(&n); err != nil {
		return fmt.Errorf("matrix: read the settings: %w", err)
	}
	b.plumbs.Store(n)
	return nil
}

func (b *bridge) putPlumbing(ctx context.Context, uri mimiuri.URI, p *plumbing) error {
	value := ""
	if p != nil {
		raw, err := json.Marshal(p)
		if err != nil {
			return err
		}
		value = string(raw)
	}
	if err := b.st.set(plumbKey(uri), value); err != nil {
		return err
	}
	return b.countPlumbs(ctx)
}

// unfit says why a room cannot become the portal of a MIMI room by somebody's wish, "" if it can.
func (b *bridge) unfit(ctx context.Context, room id.RoomID, user id.UserID, with []mimiuri.URI) (string, error) {
	var now object
	if err := b.hs.state(ctx, b.hs.bot, room, "m.room.power_levels", "", &now); err != nil {
		return "", err
	}
	creators, err := b.creators(ctx, room)
	if err != nil {
		return "", err
	}
	if powers(now)[user] < 100 && !slices.Contains(creators, user) {
		return "You need power level 100 in this room to connect it.", nil
	}
	return b.bridgedAlready(ctx, room, with)
}

// cmdPlumb asks the other side whether the room that this is said in may become the portal of a MIMI room.
func (b *bridge) cmdPlumb(ctx context.Context, c call) (string, error) {
	uri, err := mimiuri.ParseKind(c.arg(0), mimiuri.Room)
	switch {
	case err != nil:
		return noRoom, nil
	case c.in || c.room == "":
		return "Say this in a Matrix room that is no MIMI room yet.", nil
	}
	r, ok, err := b.host.Room(ctx, uri)
	if err != nil {
		return "", err
	}
	if why, err := b.unfit(ctx, c.room, c.user, participants(r)); err != nil || why != "" {
		return why, err
	}
	p, known, err := b.st.portal(ctx, uri)
	if err != nil {
		return "", err
	}
	if !ok || !known || p.closing || !slices.ContainsFunc(r.Participants, func(m adapter.Participant) bool { return m.User == c.actor }) {
		return "You are not in that MIMI room. Join it first.", nil
	}
	users, err := b.hs.joined(ctx, b.hs.bot, c.room)
	if err != nil {
		return "", err
	}
	request := plumbing{Room: c.room, User: c.user, Event: id.EventID(c.origin), Code: rand.Text()[:8], Until: time.Now().Add(plumbTime).UnixMilli()}
	if raw, err := b.st.setting(ctx, plumbKey(uri)); err != nil {
		return "", err
	} else if raw != "" {
		var before plumbing
		if json.Unmarshal([]byte(raw), &before) == nil && before.Event == request.Event {
			request = before // the same command, carried out again
		}
	}
	if err := b.putPlumbing(ctx, uri, &request); err != nil {
		return "", err
	}
	question := fmt.Sprintf("%s would like to show this MIMI room in another Matrix room, %s, with %d members. An admin of the MIMI room agrees by writing here, within a day: confirm %s", c.user, c.room, len(users), request.Code)
	if err := b.say(ctx, p.room, "", "plumb "+request.Code, question); err != nil {
		return "", err
	}
	if err := b.intake(ctx, p.room, adapter.Intent{Kind: adapter.SendMessage, Room: uri, Actor: c.actor, OriginID: c.id() + plumbSuffix, Content: content.Text(question)}); err != nil {
		return "", err
	}
	return fmt.Sprintf("The other side has to agree: an admin of %s is asked there, and has a day.", uri), nil
}

// onConfirmation carries a request to plumb out if a message agrees to it and is an admin's.
func (b *bridge) onConfirmation(ctx context.Context, ev adapter.Event) error {
	text, _ := ev.Content.PlainText()
	code, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(text)), "confirm ")
	if !ok {
		return nil
	}
	raw, err := b.st.setting(ctx, plumbKey(ev.Room))
	if err != nil || raw == "" {
		return err
	}
	var request plumbing
	if err := json.Unmarshal([]byte(raw), &request); err != nil {
		return b.putPlumbing(ctx, ev.Room, nil)
	}
	if !strings.EqualFold(strings.TrimSpace(code), request.Code) {
		return nil
	}
	r, ok, err := b.host.Room(ctx, ev.Room)
	if err != nil || !ok || !slices.ContainsFunc(r.Participants, func(p adapter.Participant) bool { return p.User == ev.Sender && p.Admin }) {
		return err
	}
	if err := b.plumb(ctx, r, request); err != nil {
		if fault.Temporary(err) {
			return err
		}
		if err := b.say(ctx, request.Room, request.Event, "plumb failed", "That did not work: "+fault.Public(err)+"."); err != nil {
			return err
		}
	}
	return b.putPlumbing(ctx, ev.Room, nil)
}

// plumb moves the portal. It may be called again from wherever it was cut short.
func (b *bridge) plumb(ctx context.Context, r adapter.Room, request plumbing) error {
	p, ok, err := b.st.portal(ctx, r.URI)
	if err != nil || !ok || p.closing {
		return err
	}
	if request.Old == "" {
		why, err := b.unfit(ctx, request.Room, request.User, participants(r))
		if err != nil {
			return err
		}
		if _, taken, err := b.st.portalAt(ctx, request.Room); err != nil {
			return err
		} else if taken {
			why = "This room is a MIMI room meanwhile."
		}
		if time.Now().UnixMilli() > request.Until {
			why = "The other side has agreed too late. Ask again."
		}
		if why != "" {
			return b.say(ctx, request.Room, request.Event, "plumb too late", why)
		}
		request.Old, request.OldOwn = p.room, p.own
		if err := b.putPlumbing(ctx, r.URI, &request); err != nil {
			return err
		}
	}
	if p.room != request.Room {
		if err := b.st.movePortal(p, request.Room); err != nil {
			return err
		}
	}
	p.room, p.own, p.creator, p.creation = request.Room, false, request.User, request.Event
	if err := b.st.disown(p, p.creator, p.creation); err != nil {
		return err
	}
	b.setCertain(r.URI.String(), false)
	if err := b.joinGhosts(ctx, p); err != nil {
		return err
	}
	for _, typ := range []string{"m.bridge", "uk.half-shot.bridge"} {
		if err := b.putRoomState(ctx, p, typ, bridgeKey+"://"+r.URI.String(), b.bridgeInfo(p)); err != nil {
			return err
		}
	}
	if err := b.inviteOthers(ctx, p, b.hs.bot); err != nil {
		return err
	}
	for _, m := range r.Participants {
		if mxid, ok := b.local(m.User); ok {
			if err := b.invitePerson(ctx, p, mxid); err != nil && fault.Temporary(err) {
				return err
			}
		}
	}
	if err := b.say(ctx, p.room, request.Event, "plumbed", fmt.Sprintf("This room is %s now.", r.URI)); err != nil {
		return err
	}
	old := portal{uri: p.uri, room: request.Old, own: request.OldOwn}
	if err := b.say(ctx, old.room, "", "plumbed", fmt.Sprintf("The MIMI room has moved to another Matrix room, %s. What you write here is delivered to nobody elsewhere.", p.room)); err != nil {
		return err
	}
	return b.emptyRoom(ctx, old, "the MIMI room has moved to another Matrix room")
}

// No double bridging.

// puppetPrefixes begin the names of the users that bridges make: of this program elsewhere, and of bridges to XMPP, which can have the same people.
var puppetPrefixes = []string{localPrefix, "_mimi_", "_xmpp_", "xmpp_", "_bifrost_", "bifrost_"}

// isPuppet reports whether a Matrix ID is a ghost of this program, here or at another homeserver.
func isPuppet(u id.UserID) bool {
	local, server, ok := splitID(u)
	if !ok || !strings.HasPrefix(local, localPrefix) {
		return false
	}
	_, ok = decodeLocal(local, mimiuri.User, server)
	return ok || strings.HasPrefix(local, hashPrefix) || strings.HasPrefix(local, localPrefix+"bot_")
}

// standsFor reports whether a user of another bridge is somebody who has a MIMI URI as well, as far as the ID shows.
func standsFor(user id.UserID, u mimiuri.URI) bool {
	local, _, ok := splitID(user)
	if !ok || !slices.ContainsFunc(puppetPrefixes, func(p string) bool { return strings.HasPrefix(local, p) }) {
		return false
	}
	plain, ok := unescape(local, '=', false)
	return ok && strings.Contains(plain, u.ID) && strings.Contains(plain, u.Domain)
}

// twice says why a room with this state must not become a portal, "" if it may: another bridge has the same people in it, so that everything
// would come twice, or come round.
func (b *bridge) twice(state []rawEvent, with []mimiuri.URI) string {
	for _, ev := range state {
		if ev.StateKey == nil {
			continue
		}
		body := asObject(ev.Content)
		switch ev.Type {
		case "m.bridge", "uk.half-shot.bridge":
			if body.object("protocol").str("id") == "mimi" && body.str("bridgebot") != string(b.hs.bot) {
				return "Another bridge connects this room to MIMI already."
			}
		case "m.room.member":
			user := id.UserID(*ev.StateKey)
			if body.str("membership") != "join" || isOurs(user, b.server) {
				continue
			}
			if isPuppet(user) {
				return "Another bridge connects this room to MIMI already: " + string(user) + " is in it."
			}
			for _, u := range with {
				if standsFor(user, u) {
					return fmt.Sprintf("Another bridge has %s in this room already, as %s.", u, user)
				}
			}
		}
	}
	return ""
}

// bridgedAlready is twice for a room in which the bot is; in another one it does not know yet.
func (b *bridge) bridgedAlready(ctx context.Context, room id.RoomID, with []mimiuri.URI) (string, error) {
	m, err := b.st.member(ctx, room, b.hs.bot)
	if err != nil || m.membership != "join" {
		return "", err
	}
	state, err := b.hs.allState(ctx, b.hs.bot, room)
	if err != nil {
		if fault.Temporary(err) {
			return "", err
		}
		return "", nil
	}
	return b.twice(state, with), nil
}

// bridgedTwice looks at a room that the first ghost has just joined. If another bridge is there, the ghost says so and leaves, and the MIMI room
// that was made for it is closed.
func (b *bridge) bridgedTwice(ctx context.Context, p portal, ghost id.UserID) (bool, error) {
	r, ok, err := b.host.Room(ctx, p.uri)
	if err != nil || !ok || r.Direct {
		return false, err
	}
	state, err := b.hs.allState(ctx, ghost, p.room)
	if err != nil {
		if fault.Temporary(err) {
			return false, err
		}
		return false, nil
	}
	why := b.twice(state, participants(r))
	if why == "" {
		return false, nil
	}
	if err := b.st.write(setMember(p.room, ghost, member{membership: "join", sender: ghost})); err != nil {
		return false, err
	}
	if err := b.say(ctx, p.room, p.creation, "twice", why); err != nil {
		return false, err
	}
	if err := b.leaveAs(ctx, p.room, ghost, why); err != nil {
		return false, err
	}
	creator, ok := b.person(p.creator)
	if !ok {
		return true, nil
	}
	return true, b.intake(ctx, p.room, adapter.Intent{Kind: adapter.DestroyRoom, Room: p.uri, Actor: creator, OriginID: string(p.creation) + "/twice"})
}
