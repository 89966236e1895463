package matrix

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// deliver shows an event. All of it may happen again, from any point where it was cut short.
func (b *bridge) deliver(ctx context.Context, ev adapter.Event) error {
	switch ev.Kind {
	case adapter.Message:
		if err := b.showMessage(ctx, ev); err != nil || b.plumbs.Load() == 0 {
			return err
		}
		return b.onConfirmation(ctx, ev)
	case adapter.Joined:
		return b.showJoined(ctx, ev)
	case adapter.Left:
		return b.showLeft(ctx, ev)
	case adapter.Refused:
		return b.showRefused(ctx, ev)
	case adapter.Closed:
		return b.showClosed(ctx, ev)
	case adapter.Metadata:
		return b.showMetadata(ctx, ev)
	case adapter.RoleChanged:
		return b.showRole(ctx, ev)
	case adapter.Policy:
		return b.showPolicy(ctx, ev)
	case adapter.Banned, adapter.Unbanned:
		return b.showBanned(ctx, ev, ev.Kind == adapter.Banned)
	case adapter.Notice:
		return b.showNotice(ctx, ev)
	}
	return fault.Wrap(fault.Malformed, "", fmt.Errorf("matrix: event of unknown kind %d", ev.Kind))
}

// ours returns the event and the Matrix room an event comes from, if it came from this adapter.
func ours(o *adapter.Origin) (ev id.EventID, room id.RoomID, ok bool) {
	if o == nil || o.Adapter != Name {
		return "", "", false
	}
	return originEvent(o.ID), id.RoomID(o.Hint), true
}

// portalFor is the portal of a room that local users are in. It is there already, unless the adapter's
// database was lost or closing it crossed with this event: then it is made again and they are invited again.
func (b *bridge) portalFor(ctx context.Context, ev adapter.Event) (p portal, ok bool, err error) {
	p, ok, err = b.st.portal(ctx, ev.Room)
	if err != nil || ok && !p.closing {
		return p, ok, err
	}
	var users []id.UserID
	for _, u := range ev.Local {
		if mxid, ok := b.local(u); ok {
			users = append(users, mxid)
		}
	}
	if len(users) == 0 {
		return p, false, nil
	}
	if p, err = b.ensurePortal(ctx, ev.Room); err != nil {
		return p, false, err
	}
	if err := b.joinGhosts(ctx, p); err != nil {
		return p, false, err
	}
	for _, u := range users {
		if err := b.invitePerson(ctx, p, u); err != nil {
			return p, false, err
		}
	}
	return p, true, nil
}

func (b *bridge) showJoined(ctx context.Context, ev adapter.Event) error {
	if ev.User.Domain == b.domain {
		mxid, ok := b.local(ev.User)
		if !ok {
			return nil
		}
		p, err := b.ensurePortal(ctx, ev.Room)
		if err != nil {
			return err
		}
		if p.own {
			if err := b.joinGhosts(ctx, p); err != nil {
				return err
			}
		}
		// Who came in on Matrix, by making the room or by joining it, is there already; who has knocked is not.
		m, err := b.st.member(ctx, p.room, mxid)
		if err != nil {
			return err
		}
		if _, room, own := ours(ev.Origin); !own || room != p.room || m.membership == "knock" {
			if err := b.invitePerson(ctx, p, mxid); err != nil {
				return err
			}
		}
		if ev.Actor.Kind == mimiuri.User && ev.Actor.Domain != b.domain {
			if err := b.st.set(askedKey(mxid, ev.Room), ev.Actor.String()); err != nil {
				return err
			}
		}
		if err := b.openWaiting(ctx, p); err != nil {
			return err
		}
		return b.setPowers(ctx, p, ev.User)
	}
	p, ok, err := b.portalFor(ctx, ev)
	if err != nil || !ok {
		return err
	}
	if rules, err := b.ruleList(ctx); err != nil {
		return err
	} else if err := b.enforce(ctx, ev.Room, rules, ev.User); err != nil {
		return err
	}
	ghost, err := b.ensureGhost(ctx, ev.User)
	if err != nil {
		return err
	}
	if !p.admitted {
		err := b.admit(ctx, p, ghost)
		if err == nil || fault.Temporary(err) {
			return err
		}
		// The invitation was taken back; the next ghost may have more luck.
	}
	if ok, err := b.crowded(ctx, p, ghost); err != nil || ok {
		return err
	}
	if err := b.bringIn(ctx, p, ghost); err != nil {
		return err
	}
	return b.setPowers(ctx, p)
}

// crowded reports whether a portal has so many ghosts that another one waits until it has something to say.
func (b *bridge) crowded(ctx context.Context, p portal, ghost id.UserID) (bool, error) {
	n, err := b.st.ghosts(ctx, p.room)
	if err != nil || n < b.cfg.InitialGhosts+50 {
		return false, err
	}
	m, err := b.st.member(ctx, p.room, ghost)
	return m.membership == "", err
}

func (b *bridge) showLeft(ctx context.Context, ev adapter.Event) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	// What a local user has done is there already. Doing it again would undo what they did since, such as
	// coming back or inviting again.
	_, _, own := ours(ev.Origin)
	own = own && !strings.HasSuffix(ev.Origin.ID, commandSuffix)
	reason := ""
	if ev.Actor != ev.User && !ev.Actor.IsZero() {
		reason = "removed by " + b.shown(ev.Actor)
		if ev.Reason != "" {
			reason += ": " + ev.Reason
		}
	}
	if ev.User.Domain != b.domain {
		ghost, _ := ghostID(ev.User, b.server)
		m, err := b.st.member(ctx, p.room, ghost)
		if err != nil || m.membership == "ban" || own && m.membership != "join" {
			return err
		}
		return b.leaveAs(ctx, p.room, ghost, reason)
	}
	if mxid, ok := b.local(ev.User); ok && !own {
		if err := b.removePerson(ctx, p, mxid, reason); err != nil {
			return err
		}
	}
	for _, u := range ev.Local {
		if _, ok := b.local(u); ok && u != ev.User {
			return b.setPowers(ctx, p)
		}
	}
	return b.closePortal(ctx, p) // that was the last one
}

func (b *bridge) showClosed(ctx context.Context, ev adapter.Event) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	if err := b.say(ctx, p.room, "", "closed", "The MIMI room is closed to this provider. What you write here is delivered to nobody."); err != nil {
		return err
	}
	invited, err := b.st.membersOf(ctx, p.room, "invite")
	if err != nil {
		return err
	}
	for _, u := range invited {
		if _, person := localURI(u, b.server, b.domain); person {
			// There is nothing left to join.
			if err := b.removePerson(ctx, p, u, "the MIMI room is closed"); err != nil {
				return err
			}
		}
	}
	return b.closePortal(ctx, p)
}

// txnID is a transaction ID for what the parts name: the same for the same, in every process.
func txnID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return "mimi" + hashEncoding.EncodeToString(h.Sum(nil)[:20])
}

func (b *bridge) setCertain(room string, v bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v {
		b.certain[room] = true
	} else {
		delete(b.certain, room)
	}
}

// findPages is how many pages of the timeline are searched for a message that may have been sent.
const findPages = 5

// find looks for an event with our mark among the newest of the timeline. Homeservers remember transaction IDs for a
// while only, Dendrite until it is restarted.
func (b *bridge) find(ctx context.Context, p portal, as id.UserID, mark string) (id.EventID, error) {
	filter := map[string]any{"senders": []id.UserID{as}, "types": []string{"m.room.message", "m.room.encrypted", "m.reaction", "m.sticker", "org.matrix.msc3381.poll.start"}}
	from := ""
	for range findPages {
		events, next, err := b.hs.history(ctx, as, p.room, from, 100, filter)
		if err != nil {
			if fault.Temporary(err) {
				return "", err
			}
			return "", nil // not in the room, so nothing was sent
		}
		for _, ev := range events {
			if ev.Sender == as && asObject(ev.Content).str(markField) == mark {
				return ev.ID, nil
			}
		}
		if next == "" || next == from || len(events) == 0 {
			break
		}
		from = next
	}
	return "", nil
}

// maxBody bounds the text of one event in octets as JSON writes them. An event may have 65,536 in all.
const maxBody = 48 << 10

// clean takes out what no Matrix event can hold.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.ReplaceAll(s, "\x00", "\uFFFD")
}

// jsonLen is how many octets a character takes in a JSON string at most, as encoding/json or a homeserver write it.
func jsonLen(r rune) int {
	switch {
	case r == '"' || r == '\\' || r == '\n' || r == '\r' || r == '\t':
		return 2
	case r < 0x20 || r == '<' || r == '>' || r == '&' || r == 0x2028 || r == 0x2029:
		return 6
	case r < 0x80:
		return 1
	case r < 0x800:
		return 2
	case r < 0x10000:
		return 3
	}
	return 4
}
