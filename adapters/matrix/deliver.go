package matrix

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
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
		return b.showMessage(ctx, ev)
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
		// Who came in on Matrix, by making the room or by joining it, is there already.
		if _, room, own := ours(ev.Origin); !own || room != p.room {
			if err := b.invitePerson(ctx, p, mxid); err != nil {
				return err
			}
		}
		return b.setPowers(ctx, p)
	}
	p, ok, err := b.portalFor(ctx, ev)
	if err != nil || !ok {
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
	return b.bringIn(ctx, p, ghost)
}

func (b *bridge) showLeft(ctx context.Context, ev adapter.Event) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	// What a local user has done is there already. Doing it again would undo what they did since, such as
	// coming back or inviting again.
	_, _, own := ours(ev.Origin)
	reason := ""
	if ev.Actor != ev.User && !ev.Actor.IsZero() {
		reason = "removed by " + displayName(ev.Actor)
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

func (b *bridge) showMetadata(ctx context.Context, ev adapter.Event) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil || !ok || !p.own {
		return err
	}
	r, ok, err := b.host.Room(ctx, ev.Room)
	if err != nil || !ok {
		return err
	}
	if name := clip(r.Name, 200); name != p.name {
		if err := b.hs.putState(ctx, b.hs.bot, p.room, "m.room.name", "", map[string]string{"name": name}); err != nil {
			return err
		}
		p.name = name
		if err := b.st.updatePortal(p); err != nil {
			return err
		}
	}
	return b.setPowers(ctx, p)
}

// txnID is a transaction ID for what the parts name: the same for the same, in every process.
func txnID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return "mimi" + hashEncoding.EncodeToString(h.Sum(nil)[:20])
}

func (b *bridge) showMessage(ctx context.Context, ev adapter.Event) error {
	if origin, _, own := ours(ev.Origin); own {
		// It is in the Matrix room since its author wrote it there.
		return b.st.addPart(ev.Room, ev.ID, 0, origin)
	}
	p, ok, err := b.portalFor(ctx, ev)
	if err != nil || !ok {
		return err
	}
	shown, err := b.st.parts(ctx, ev.Room, ev.ID)
	if err != nil {
		return err
	}
	msgtype := "m.text"
	var text string
	if ev.Content != nil {
		text, ok = ev.Content.PlainText()
	}
	if !ok || ev.Content == nil {
		msgtype, text = "m.notice", "(A message of a kind that cannot be shown here yet.)"
	}
	text = clean(text)
	as, err := b.author(ctx, p, ev.Sender)
	if err == nil {
		err = b.showParts(ctx, p, ev, shown, as, msgtype, text)
	}
	if err == nil || fault.Temporary(err) || fault.Is(err, fault.TooLarge) {
		return err
	}
	// The ghost cannot speak there: it is banned, or nobody may invite it. Nothing is lost for that.
	b.log.Warn().Err(err).Str("matrix_room", string(p.room)).Msg("a ghost cannot speak; somebody else speaks for it")
	voices, errVoices := b.speakers(ctx, p.room, 3)
	if errVoices != nil {
		return errVoices
	}
	for _, voice := range voices {
		if voice == as {
			continue
		}
		if err = b.showParts(ctx, p, ev, shown, voice, msgtype, displayName(ev.Sender)+": "+text); err == nil || fault.Temporary(err) {
			return err
		}
	}
	return err
}

// author is the ghost of a remote user, brought into the portal. A local user's messages that come from elsewhere
// than Matrix have none.
func (b *bridge) author(ctx context.Context, p portal, sender mimiuri.URI) (id.UserID, error) {
	if sender.Domain == b.domain {
		return "", fault.Wrap(fault.Forbidden, "", fmt.Errorf("matrix: %s wrote elsewhere than on Matrix", sender))
	}
	ghost, err := b.ensureGhost(ctx, sender)
	if err != nil {
		return "", err
	}
	return ghost, b.bringIn(ctx, p, ghost)
}

// showParts sends a message's events that have not been sent yet, and remembers them.
func (b *bridge) showParts(ctx context.Context, p portal, ev adapter.Event, shown map[int]id.EventID, as id.UserID, msgtype, text string) error {
	for i, part := range split(text, maxBody) {
		if shown[i] != "" {
			continue
		}
		eventID, err := b.sendPart(ctx, p, ev, as, i, msgtype, part)
		if err != nil {
			return err
		}
		shown[i] = eventID
		if err := b.st.addPart(ev.Room, ev.ID, i, eventID); err != nil {
			return err
		}
	}
	return nil
}

// sendPart sends one event of a message, exactly once.
func (b *bridge) sendPart(ctx context.Context, p portal, ev adapter.Event, as id.UserID, part int, msgtype, text string) (id.EventID, error) {
	room := ev.Room.String()
	mark := ev.ID.String() + "/" + strconv.Itoa(part)
	b.mu.Lock()
	certain := b.certain[room]
	b.mu.Unlock()
	if !certain {
		found, err := b.find(ctx, p, as, mark)
		if err != nil || found != "" {
			return found, err
		}
	}
	content := map[string]any{
		"msgtype": msgtype, "body": text, "m.mentions": struct{}{}, // nobody is mentioned by words that look like a name
		markField: mark,
	}
	txn := txnID("message", room, strconv.FormatUint(ev.Seq, 10), strconv.Itoa(part), string(as))
	send := func() (id.EventID, error) {
		b.setCertain(room, false)
		eventID, err := b.hs.send(ctx, as, p.room, txn, ev.Time, content)
		if err == nil || definite(err) {
			b.setCertain(room, true)
		}
		return eventID, err
	}
	eventID, err := send()
	if errcode(err) != mForbidden {
		return eventID, err
	}
	// Not in the room, though it was: somebody removed it and the event has not come yet.
	if err := b.st.write(setMember(p.room, as, member{membership: "leave", sender: as})); err != nil {
		return "", err
	}
	if errIn := b.bringIn(ctx, p, as); errIn != nil {
		return "", errIn
	}
	return send()
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
	filter := map[string]any{"senders": []id.UserID{as}, "types": []string{"m.room.message"}}
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

// split cuts a text into pieces of at most limit octets of JSON, at the end of a line or a word where one is near.
func split(s string, limit int) []string {
	var out []string
	for {
		size, cut, good := 0, len(s), 0
		for i, r := range s {
			n := jsonLen(r)
			if size+n > limit {
				cut = i
				break
			}
			size += n
			if (r == '\n' || r == ' ') && size > limit*3/4 {
				if r == '\n' || good == 0 || s[good-1] != '\n' {
					good = i + 1
				}
			}
		}
		if cut == len(s) {
			return append(out, s)
		}
		if good > 0 {
			cut = good
		}
		out = append(out, s[:cut])
		s = s[cut:]
	}
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
