package matrix

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// From MIMI content to Matrix events.

// out is one event that shows a message or a part of it.
type out struct {
	typ     string
	content map[string]any
	// fill, if not nil, adds what costs something to content, such as an upload, right before the event is sent.
	fill func(ctx context.Context, as id.UserID) error
}

// knownOf is what has to be remembered of a message.
func knownOf(ev adapter.Event, c content.Class) known {
	k := known{id: ev.ID, seq: ev.Seq, sender: ev.Sender, kind: c.Kind, reply: c.InReplyTo}
	if ev.Content != nil {
		k.topic = ev.Content.TopicID
	}
	switch c.Kind {
	case content.KindEdit, content.KindReaction:
		k.target = &c.Target
	case content.KindReact:
		k.target = c.InReplyTo
	}
	return k
}

func (b *bridge) showMessage(ctx context.Context, ev adapter.Event) error {
	if ev.Content == nil {
		ev.Content = &content.Message{}
	}
	c := ev.Content.Classify()
	if origin, _, own := ours(ev.Origin); own {
		return b.showOwn(ctx, ev, c, origin)
	}
	p, ok, err := b.portalFor(ctx, ev)
	if err != nil || !ok {
		return err
	}
	switch c.Kind {
	case content.KindStatus:
		return b.showStatus(ctx, p, ev)
	case content.KindProfile:
		return b.refreshGhost(ctx, ev.Sender)
	case content.KindDelete, content.KindUnlike:
		return b.showDelete(ctx, p, ev, c)
	}
	if deadline, ok := ev.Content.Expires.Deadline(time.Time{}); ok && !deadline.After(time.Now()) {
		return b.st.write(putKnown(ev.Room, knownOf(ev, c)))
	}
	outs, err := b.render(ctx, p, ev, c)
	if err != nil || len(outs) == 0 {
		return err
	}
	if err := b.bringMentioned(ctx, p, c.Mentions); err != nil {
		return err
	}
	shown, err := b.st.parts(ctx, ev.Room, ev.ID)
	if err != nil {
		return err
	}
	as, err := b.author(ctx, p, ev.Sender)
	if err == nil {
		err = b.showParts(ctx, p, ev, c, shown, as, outs)
	}
	if err == nil {
		return b.reportDelivered(ctx, p, ev, c, shown[0])
	}
	if fault.Temporary(err) || fault.Is(err, fault.TooLarge) {
		return err
	}
	// The ghost cannot speak there: it is banned, or nobody may invite it. Nothing is lost for that.
	b.log.Warn().Err(err).Str("matrix_room", string(p.room)).Msg("a ghost cannot speak; somebody else speaks for it")
	voices, errVoices := b.speakers(ctx, p.room, 3)
	if errVoices != nil {
		return errVoices
	}
	for i := range outs {
		outs[i].content = spokenFor(outs[i].content, displayName(ev.Sender))
	}
	for _, voice := range voices {
		if voice == as {
			continue
		}
		if err = b.showParts(ctx, p, ev, c, shown, voice, outs); err == nil || fault.Temporary(err) {
			return err
		}
	}
	return err
}

// spokenFor puts the author's name before a message that somebody else sends.
func spokenFor(in map[string]any, name string) map[string]any {
	in = maps.Clone(in)
	if fresh, ok := in["m.new_content"].(map[string]any); ok {
		in["m.new_content"] = spokenFor(fresh, name)
	}
	if body, ok := in["body"].(string); ok {
		in["body"] = name + ": " + body
	}
	if formatted, ok := in["formatted_body"].(string); ok {
		in["formatted_body"] = html.EscapeString(name) + ": " + formatted
	}
	return in
}

// bringMentioned lets remote participants into a portal who are mentioned and have not been shown there yet.
func (b *bridge) bringMentioned(ctx context.Context, p portal, list []mimiuri.URI) error {
	for i, u := range list {
		if u.Kind != mimiuri.User || u.Domain == b.domain || i == 10 {
			continue
		}
		ghost, _ := ghostID(u, b.server)
		if m, err := b.st.member(ctx, p.room, ghost); err != nil {
			return err
		} else if m.membership != "" {
			continue
		}
		if in, err := b.participant(ctx, p.uri, u); err != nil {
			return err
		} else if !in {
			continue
		}
		if err := b.joinGhost(ctx, p, u); err != nil && fault.Temporary(err) {
			return err
		}
	}
	return nil
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

// showOwn remembers what a local user has said on Matrix, where it is shown already.
func (b *bridge) showOwn(ctx context.Context, ev adapter.Event, c content.Class, origin id.EventID) error {
	p, ok, err := b.st.portal(ctx, ev.Room)
	if err != nil {
		return err
	}
	switch c.Kind {
	case content.KindStatus:
		return nil
	case content.KindDelete, content.KindUnlike:
		// The event that they redacted is gone; the others that were one message with it are not yet.
		if ok {
			if err := b.redactAll(ctx, p, ev, c, true); err != nil {
				return err
			}
		}
		return nil
	}
	if strings.HasSuffix(ev.Origin.ID, plumbSuffix) {
		return nil // the bridge's own words in its user's name
	}
	changes := []func(*sql.Tx) error{putPart(ev.Room, ev.ID, 0, origin), putKnown(ev.Room, knownOf(ev, c))}
	if ok && ev.Content.Expires != nil {
		changes = append(changes, b.expiry(p, ev, origin))
	}
	if err := b.st.all(changes...); err != nil {
		return err
	}
	if ev.Content.Expires != nil {
		b.wakeExpiry()
	}
	if !ok || c.Kind == content.KindReaction {
		return nil
	}
	return b.tellStatus(ctx, p.room, origin, nil, nil)
}

// showParts sends a message's events that have not been sent yet, and remembers them.
func (b *bridge) showParts(ctx context.Context, p portal, ev adapter.Event, c content.Class, shown map[int]id.EventID, as id.UserID, outs []out) error {
	for i, o := range outs {
		if shown[i] != "" {
			continue
		}
		eventID, err := b.sendPart(ctx, p, ev, as, i, o)
		if err != nil {
			return err
		}
		shown[i] = eventID
		changes := []func(*sql.Tx) error{putPart(ev.Room, ev.ID, i, eventID)}
		if i == 0 {
			changes = append(changes, putKnown(ev.Room, knownOf(ev, c)))
			if root := o.root(); len(ev.Content.TopicID) > 0 && root == "" {
				changes = append(changes, putTopic(ev.Room, ev.Content.TopicID, eventID))
			} else if root != "" {
				changes = append(changes, putTopic(ev.Room, ev.Content.TopicID, root))
			}
		}
		if ev.Content.Expires != nil {
			changes = append(changes, b.expiry(p, ev, eventID))
		}
		if err := b.st.all(changes...); err != nil {
			return err
		}
		if ev.Content.Expires != nil {
			b.wakeExpiry()
		}
	}
	return nil
}

// root is the first event of the thread that an event is in, "" for none.
func (o out) root() id.EventID {
	rel, _ := o.content["m.relates_to"].(map[string]any)
	if rel["rel_type"] != "m.thread" {
		return ""
	}
	root, _ := rel["event_id"].(id.EventID)
	return root
}

// sendPart sends one event of a message, exactly once.
func (b *bridge) sendPart(ctx context.Context, p portal, ev adapter.Event, as id.UserID, part int, o out) (id.EventID, error) {
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
	if o.fill != nil {
		if err := o.fill(ctx, as); err != nil {
			return "", err
		}
	}
	body := maps.Clone(o.content)
	body[markField] = mark
	txn := txnID("message", room, strconv.FormatUint(ev.Seq, 10), strconv.Itoa(part), string(as))
	send := func() (id.EventID, error) {
		b.setCertain(room, false)
		eventID, err := b.sendEvent(ctx, as, p.room, o.typ, txn, ev.Time, body)
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

// mentions are the Matrix IDs of those who are mentioned.
func (b *bridge) mentions(ctx context.Context, list []mimiuri.URI, also ...mimiuri.URI) map[string]any {
	var users []id.UserID
	seen := map[id.UserID]bool{}
	for _, u := range append(append([]mimiuri.URI{}, list...), also...) {
		if u.Kind != mimiuri.User || len(users) == 50 {
			continue
		}
		mxid, ok := b.local(u)
		if !ok && u.Domain != b.domain {
			mxid, _ = ghostID(u, b.server)
			ok = true
		}
		if ok && !seen[mxid] {
			seen[mxid] = true
			users = append(users, mxid)
		}
	}
	if len(users) == 0 {
		return map[string]any{} // nobody is mentioned by words that look like a name
	}
	return map[string]any{"user_ids": users}
}

// rich says how mentions are written on Matrix.
func (b *bridge) rich() *content.RichOptions {
	return &content.RichOptions{Mention: func(u mimiuri.URI, text string) (href, display string) {
		switch u.Kind {
		case mimiuri.User:
			mxid, ok := b.local(u)
			display = string(mxid)
			if !ok {
				if u.Domain == b.domain {
					return "", text
				}
				mxid, _ = ghostID(u, b.server)
				display = displayName(u)
			}
			if text != "" {
				display = text
			}
			return mxid.URI().MatrixToURL(), display
		case mimiuri.Room:
			alias := id.NewRoomAlias(portalAlias(u, b.server), b.server)
			if text == "" {
				text = u.ID
			}
			return alias.URI().MatrixToURL(), text
		}
		return "", text
	}}
}

// render is the list of events that show a message; empty if there is nothing to show.
func (b *bridge) render(ctx context.Context, p portal, ev adapter.Event, c content.Class) ([]out, error) {
	switch c.Kind {
	case content.KindEmpty:
		return nil, nil
	case content.KindReaction, content.KindReact:
		return b.renderReactions(ctx, p, ev, c)
	}
	var edited known
	var editedEvent id.EventID
	if c.Kind == content.KindEdit {
		var ok bool
		var err error
		if edited, ok, err = b.st.first(ctx, ev.Room, c.Target); err != nil {
			return nil, err
		}
		if ok {
			if edited.sender != ev.Sender {
				b.log.Info().Str("room", ev.Room.String()).Str("message", ev.ID.String()).Msg("an edit of somebody else's message is not shown")
				return nil, nil
			}
			if editedEvent, err = b.st.eventOf(ctx, ev.Room, edited.id); err != nil {
				return nil, err
			}
		}
	}
	outs := b.renderBody(ctx, p, ev, c)
	if editedEvent != "" {
		fresh := outs[0]
		whole := maps.Clone(fresh.content)
		if body, ok := whole["body"].(string); ok {
			whole["body"] = "* " + body
		}
		if formatted, ok := whole["formatted_body"].(string); ok {
			whole["formatted_body"] = "* " + formatted
		}
		whole["m.new_content"] = fresh.content
		whole["m.relates_to"] = map[string]any{"rel_type": "m.replace", "event_id": editedEvent}
		outs[0] = out{typ: "m.room.message", content: whole, fill: fresh.fill}
		if fresh.fill != nil {
			// What filling adds belongs to both.
			outs[0].fill = func(ctx context.Context, as id.UserID) error {
				if err := fresh.fill(ctx, as); err != nil {
					return err
				}
				for key, v := range fresh.content {
					if _, ok := whole[key]; !ok {
						whole[key] = v
					}
				}
				return nil
			}
		}
		return outs, nil
	}
	return outs, b.relateOut(ctx, p, ev, c, outs)
}

// relateOut makes events the replies and parts of threads that their message is.
func (b *bridge) relateOut(ctx context.Context, p portal, ev adapter.Event, c content.Class, outs []out) error {
	var answered, root id.EventID
	var author mimiuri.URI
	if c.InReplyTo != nil {
		k, ok, err := b.st.first(ctx, ev.Room, *c.InReplyTo)
		if err != nil {
			return err
		}
		if ok {
			author = k.sender
			if answered, err = b.st.eventOf(ctx, ev.Room, k.id); err != nil {
				return err
			}
		}
	}
	if topic := ev.Content.TopicID; len(topic) > 0 {
		var err error
		if root, err = b.st.topicRoot(ctx, ev.Room, topic); err != nil {
			return err
		}
		if first := optionalID(topic); root == "" && first != nil {
			if root, err = b.st.eventOf(ctx, ev.Room, *first); err != nil {
				return err
			}
		}
	}
	for i := range outs {
		rel := map[string]any{}
		if root != "" {
			rel["rel_type"], rel["event_id"] = "m.thread", root
			rel["m.in_reply_to"], rel["is_falling_back"] = map[string]any{"event_id": root}, true
		}
		if i == 0 && answered != "" {
			rel["m.in_reply_to"] = map[string]any{"event_id": answered}
			if root != "" {
				rel["is_falling_back"] = false
			}
			if _, ok := outs[0].content["m.mentions"]; ok && !author.IsZero() {
				outs[0].content["m.mentions"] = b.mentions(ctx, c.Mentions, author)
			}
		}
		if len(rel) > 0 {
			outs[i].content["m.relates_to"] = rel
		}
	}
	return nil
}

func (b *bridge) renderReactions(ctx context.Context, p portal, ev adapter.Event, c content.Class) ([]out, error) {
	to := c.InReplyTo
	if to == nil {
		return nil, nil
	}
	if c.Kind == content.KindReact {
		// Other reactions instead of those.
		if err := b.redactAll(ctx, p, ev, c, false); err != nil {
			return nil, err
		}
	}
	k, ok, err := b.st.first(ctx, ev.Room, *to)
	if err != nil || !ok {
		return nil, err
	}
	target, err := b.st.eventOf(ctx, ev.Room, k.id)
	if err != nil || target == "" {
		return nil, err
	}
	var outs []out
	seen := map[string]bool{}
	for _, text := range c.Reactions {
		text = clean(text)
		if text == "" || len(text) > maxReaction || seen[text] || len(outs) == 10 {
			continue
		}
		seen[text] = true
		outs = append(outs, out{typ: "m.reaction", content: map[string]any{
			"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": target, "key": text},
		}})
	}
	return outs, nil
}

const cannotShow = "(A message of a kind that cannot be shown here yet.)"

// maxPreview is how much of a long text is shown beside the file that has all of it, in octets.
const maxPreview = 4000

// renderBody is the events for a message's own content, at least one.
func (b *bridge) renderBody(ctx context.Context, p portal, ev adapter.Event, c content.Class) []out {
	m := ev.Content
	style := styleOf(m)
	o := b.rich()
	text, _, hasText := m.ReadableText(o)
	var rendered string
	if hasText {
		rendered, _ = m.HTML(o)
	}
	text, rendered = clean(text), clean(rendered)
	if c.Kind == content.KindSession {
		text, hasText = sessionText(m), true
		rendered = ""
	}
	if poll := pollContent(m); poll != nil {
		poll["m.mentions"] = map[string]any{}
		return []out{{typ: "org.matrix.msc3381.poll.start", content: poll}}
	}
	files, previews := filesOf(c)
	msgtype := "m.text"
	switch style {
	case "notice":
		msgtype = "m.notice"
	case "emote":
		name, _, _ := strings.Cut(ev.Sender.ID, ":")
		if short, ok := strings.CutPrefix(text, "* "+name+" "); ok && short != "" {
			msgtype, text = "m.emote", short
			rendered = strings.TrimPrefix(rendered, "* "+html.EscapeString(name)+" ")
		}
	}
	if rest, ok := strings.CutPrefix(text, "/me "); ok && style == "" && rest != "" { // as XMPP says it (XEP-0245)
		msgtype, text = "m.emote", rest
		if before, after, ok := strings.Cut(rendered, "/me "); ok && (before == "" || before == "<p>") {
			rendered = before + after
		} else {
			rendered = ""
		}
	}
	mentions := b.mentions(ctx, c.Mentions)
	message := func(text, rendered string) map[string]any {
		body := map[string]any{"msgtype": msgtype, "body": text, "m.mentions": mentions}
		if rendered != "" && !plainHTML(rendered, text) {
			body["format"], body["formatted_body"] = "org.matrix.custom.html", rendered
		}
		return body
	}
	var outs []out
	switch description, geo, isLocation := locationOf(text); {
	case isLocation && hasText && len(files) == 0:
		if description == "" {
			description = geo
		}
		outs = append(outs, out{typ: "m.room.message", content: map[string]any{"msgtype": "m.location", "body": description, "geo_uri": geo, "m.mentions": mentions}})
	case hasText && text != "" && jsonSize(text)+jsonSize(rendered) <= maxBody:
		outs = append(outs, out{typ: "m.room.message", content: message(text, rendered)})
	case hasText && text != "" && jsonSize(text) <= maxBody:
		// The formatted text alone makes it too large.
		outs = append(outs, out{typ: "m.room.message", content: message(text, "")})
	case hasText && text != "":
		preview := cut(text, maxPreview) + "…\n(This is the beginning of a long text. All of it is in the file below.)"
		outs = append(outs, out{typ: "m.room.message", content: message(preview, "")})
		outs = append(outs, b.fileOut(p, ev, content.Part{Cardinality: content.SinglePart, ContentType: content.TypePlain, Content: []byte(text)}, nil, "message.txt", "m.file"))
	}
	for i, f := range files {
		var thumbnail *content.Part
		if i < len(previews) {
			thumbnail = previews[i].Part
		}
		outs = append(outs, b.fileOut(p, ev, *f.Part, thumbnail, "", style))
	}
	if len(files) == 1 && len(outs) == 2 && outs[0].content["msgtype"] == "m.text" && outs[1].typ == "m.room.message" {
		// A caption (Matrix 1.10).
		caption, file := outs[0].content, outs[1]
		file.content["filename"], file.content["body"] = file.content["body"], caption["body"]
		for _, key := range []string{"format", "formatted_body", "m.mentions"} {
			if v, ok := caption[key]; ok {
				file.content[key] = v
			}
		}
		outs = []out{file}
	}
	if len(outs) == 0 {
		outs = []out{{typ: "m.room.message", content: map[string]any{"msgtype": "m.notice", "body": cannotShow, "m.mentions": map[string]any{}}}}
	}
	return outs
}

// filesOf parts a message's files from the pictures that stand for them.
func filesOf(c content.Class) (files, previews []content.Chosen) {
	for _, f := range append(append([]content.Chosen{}, c.Files...), c.Inline...) {
		if f.Disposition == content.Preview || f.Disposition == content.Icon {
			previews = append(previews, f)
		} else if len(files) < 20 {
			files = append(files, f)
		}
	}
	return files, previews
}

func sessionText(m *content.Message) string {
	for _, p := range m.Body.AllParts() {
		if p.Cardinality == content.ExternalPart && p.External != nil {
			return strings.TrimSpace(clean(clip(p.External.Description, 2000) + "\nJoin the call: " + clip(p.External.URL, 2000)))
		}
	}
	return cannotShow
}

// pollContent is the event of a poll that another Matrix provider has sent.
func pollContent(m *content.Message) map[string]any {
	for _, p := range m.Body.AllParts() {
		if p.Cardinality != content.SinglePart || p.ContentType != pollType || len(p.Content) > maxBody || tooDeep(p.Content) {
			continue
		}
		question, answers, _ := pollOf(asObject(p.Content))
		var poll map[string]any
		if question == "" || len(answers) == 0 || json.Unmarshal(p.Content, &poll) != nil {
			return nil
		}
		if start, ok := poll["org.matrix.msc3381.poll.start"]; ok {
			body := map[string]any{"org.matrix.msc3381.poll.start": start}
			if text, ok := poll["org.matrix.msc1767.text"].(string); ok {
				body["org.matrix.msc1767.text"] = text
			}
			return body
		}
	}
	return nil
}

// showDelete takes back what a message has shown.
func (b *bridge) showDelete(ctx context.Context, p portal, ev adapter.Event, c content.Class) error {
	return b.redactAll(ctx, p, ev, c, false)
}

// redactAll redacts the events of the message that ev takes back, if its sender may. again says that one of the
// events is redacted already.
func (b *bridge) redactAll(ctx context.Context, p portal, ev adapter.Event, c content.Class, again bool) error {
	k, ok, err := b.st.byID(ctx, ev.Room, c.Target)
	if err == nil && ok && c.Kind == content.KindDelete {
		k, ok, err = b.st.first(ctx, ev.Room, c.Target)
	}
	if err != nil || !ok {
		return err
	}
	reason := ""
	if k.sender != ev.Sender {
		capability := policy.CanDeleteOtherMessage
		if c.Kind != content.KindDelete {
			capability = policy.CanDeleteOtherReaction
		}
		r, _, err := b.host.Room(ctx, ev.Room)
		if err != nil {
			return err
		}
		if role, ok := r.RoleOf(ev.Sender); !ok || !role.Can(capability) {
			b.log.Info().Str("room", ev.Room.String()).Str("message", ev.ID.String()).Msg("a message was not deleted: its sender's role may not")
			return nil
		}
		reason = "deleted by " + displayName(ev.Sender)
	}
	events, err := b.st.eventsOf(ctx, ev.Room, k.id)
	if err != nil || again && len(events) < 2 {
		return err
	}
	as := b.hs.bot
	if k.sender.Domain != b.domain {
		as, _ = ghostID(k.sender, b.server)
	}
	for _, target := range events {
		if err := b.redact(ctx, p, as, target, reason); err != nil {
			return err
		}
	}
	return nil
}

// redact redacts an event as its author or, where that is no user of ours or may not, as whoever may.
func (b *bridge) redact(ctx context.Context, p portal, as id.UserID, target id.EventID, reason string) error {
	voices, err := b.speakers(ctx, p.room, 3)
	if err != nil {
		return err
	}
	err = b.hs.redact(ctx, as, p.room, target, txnID("redact", string(target), string(as)), reason)
	for _, voice := range voices {
		if err == nil || fault.Temporary(err) {
			return err
		}
		if voice != as {
			err = b.hs.redact(ctx, voice, p.room, target, txnID("redact", string(target), string(voice)), reason)
		}
	}
	if err != nil && !fault.Temporary(err) {
		b.log.Info().Err(err).Str("matrix_room", string(p.room)).Str("event", string(target)).Msg("an event could not be redacted")
		return nil
	}
	return err
}

// showStatus shows what became of messages at somebody elsewhere: a receipt of their ghost, and who has a local user's message.
func (b *bridge) showStatus(ctx context.Context, p portal, ev adapter.Event) error {
	report, ok := ev.Content.StatusReport()
	if !ok {
		return nil
	}
	ghost, _ := ghostID(ev.Sender, b.server)
	if m, err := b.st.member(ctx, p.room, ghost); err != nil || m.membership != "join" {
		return err
	}
	var last known
	delivered := 0
	for _, s := range report {
		k, ok, err := b.st.byID(ctx, ev.Room, s.ID)
		if err != nil {
			return err
		}
		if !ok || k.sender == ev.Sender {
			continue
		}
		switch s.Status {
		case content.StatusRead:
			if k.seq > last.seq {
				last = k
			}
		case content.StatusDelivered:
			if delivered++; k.sender.Domain != b.domain || delivered > 20 {
				continue
			}
			target, err := b.st.eventOf(ctx, ev.Room, k.id)
			if err != nil {
				return err
			}
			if target != "" {
				if err := b.tellStatus(ctx, p.room, target, nil, []id.UserID{ghost}); err != nil {
					return err
				}
			}
		}
	}
	if last.seq == 0 {
		return nil
	}
	if err := b.st.write(startExpiry(ev.Room, last.seq, ev.Time)); err != nil {
		return err
	}
	b.wakeExpiry()
	target, err := b.st.eventOf(ctx, ev.Room, last.id)
	if err != nil || target == "" {
		return err
	}
	err = b.hs.receipt(ctx, ghost, p.room, target)
	if err != nil && !fault.Temporary(err) {
		b.log.Debug().Err(err).Msg("a receipt was refused")
		return nil
	}
	return err
}

// tellStatus sends a message status event (as Beeper's clients read them) about a local user's message: why is nil when it
// was taken by the MIMI room.
func (b *bridge) tellStatus(ctx context.Context, room id.RoomID, event id.EventID, why error, delivered []id.UserID) error {
	if b.cfg.NoStatusEvents {
		return nil
	}
	as, err := b.speaker(ctx, room)
	if err != nil || as == "" {
		return err
	}
	status := map[string]any{
		"network": "mimi", "status": "SUCCESS",
		"m.relates_to": map[string]any{"rel_type": "m.reference", "event_id": event},
	}
	key := "taken"
	switch {
	case why != nil:
		key = "refused"
		status["status"], status["reason"], status["message"] = "FAIL_PERMANENT", statusReason(why), fault.Public(why)
	case delivered != nil:
		key = "delivered " + string(delivered[0])
		status["delivered_to_users"] = delivered
	}
	_, err = b.hs.send(ctx, as, room, "com.beeper.message_send_status", txnID("status", string(room), string(event), key), time.Time{}, status)
	if err != nil && !fault.Temporary(err) {
		b.log.Debug().Err(err).Msg("a message status was refused")
		return nil
	}
	return err
}

func statusReason(why error) string {
	switch {
	case fault.Is(why, fault.Forbidden):
		return "m.no_permission"
	case fault.Is(why, fault.TooLarge), fault.Is(why, fault.Malformed):
		return "com.beeper.unsupported_event"
	case fault.Is(why, fault.Unavailable):
		return "m.foreign_network_error"
	}
	return "m.event_not_handled"
}

// reportDelivered tells the sender in a room of two that their message has arrived at the other's homeserver.
func (b *bridge) reportDelivered(ctx context.Context, p portal, ev adapter.Event, c content.Class, event id.EventID) error {
	if c.Kind != content.KindMessage || event == "" || len(ev.Local) != 1 {
		return nil
	}
	reader, ok := b.local(ev.Local[0])
	if !ok {
		return nil
	}
	r, ok, err := b.host.Room(ctx, ev.Room)
	if err != nil || !ok || len(r.Participants) != 2 {
		return err
	}
	if silent, err := b.silent(ctx, reader); err != nil || silent || !b.permitted(reader) {
		return err
	}
	return b.report(ctx, p, ev.Local[0], string(event), []content.MessageID{ev.ID}, content.StatusDelivered)
}

// expiry is what has to be stored for an event that disappears.
func (b *bridge) expiry(p portal, ev adapter.Event, event id.EventID) func(*sql.Tx) error {
	e := ev.Content.Expires
	if e.Relative {
		after := min(time.Duration(e.Time)*time.Second, maxTimer)
		// Where nobody's reading becomes known, it goes in the end all the same.
		return putExpiry(p.room, p.uri, ev.Seq, event, time.Now().Add(after+unreadFor), max(after, time.Millisecond))
	}
	deadline, _ := e.Deadline(time.Time{})
	return putExpiry(p.room, p.uri, ev.Seq, event, deadline, 0)
}

// unreadFor is how long a message that disappears after reading waits for that.
const unreadFor = 30 * 24 * time.Hour

func (b *bridge) wakeExpiry() {
	select {
	case b.expiryWake <- struct{}{}:
	default:
	}
}

// expire redacts events whose time has come.
func (b *bridge) expire(ctx context.Context) {
	for {
		pause := 10 * time.Minute
		list, next, err := b.st.due(ctx, time.Now())
		if err != nil {
			b.log.Warn().Err(err).Msg("what expires could not be looked up")
			pause = time.Minute
		}
		for _, e := range list {
			p, ok, errPortal := b.st.portal(ctx, e.uri)
			if ok && errPortal == nil && p.room == e.room {
				err = b.expireOne(ctx, p, e)
			} else {
				err = errPortal
			}
			if err == nil {
				err = b.st.expired(e.event)
			}
			if err != nil {
				break
			}
		}
		switch {
		case err != nil:
			if ctx.Err() == nil && b.seldom("expiry") {
				b.log.Warn().Err(err).Msg("a message that has expired could not be redacted yet")
			}
			pause = 5 * time.Second
		case !next.IsZero():
			pause = min(pause, max(time.Until(next), 0))
		}
		select {
		case <-ctx.Done():
			return
		case <-b.expiryWake:
		case <-time.After(pause):
		}
	}
}

func (b *bridge) expireOne(ctx context.Context, p portal, e expiring) error {
	as := b.hs.bot
	k, st, err := b.st.byEvent(ctx, p.uri, e.event)
	if err != nil {
		return err
	}
	if st == standsKnown && k.sender.Domain != b.domain {
		as, _ = ghostID(k.sender, b.server)
	}
	return b.redact(ctx, p, as, e.event, "it has expired")
}

// jsonSize is how many octets a string takes in JSON at most.
func jsonSize(s string) (n int) {
	for _, r := range s {
		n += jsonLen(r)
	}
	return n
}

// cut shortens a text to at most n octets, at the end of a word where one is near.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	s = s[:n]
	if i := strings.LastIndexAny(s, " \n"); i > n*3/4 {
		s = s[:i]
	}
	return s
}

// fileOut is the event for a file. named, if not empty, is what it is called; style is the message's. upload
// failing for good, the event says so instead.
func (b *bridge) fileOut(p portal, ev adapter.Event, part content.Part, thumbnail *content.Part, named, style string) out {
	name, mime := named, mediaType(part.ContentType)
	if name == "" {
		name = fileName(part, mime)
	}
	o := out{typ: "m.room.message", content: map[string]any{"body": name, "m.mentions": map[string]any{}}}
	switch {
	case style == "sticker" && strings.HasPrefix(mime, "image/"):
		o.typ = "m.sticker"
	case style == "m.file" || mime == "image/svg+xml":
		o.content["msgtype"] = "m.file"
	case strings.HasPrefix(mime, "image/"):
		o.content["msgtype"] = "m.image"
	case strings.HasPrefix(mime, "video/"):
		o.content["msgtype"] = "m.video"
	case strings.HasPrefix(mime, "audio/"):
		o.content["msgtype"] = "m.audio"
		if style == "voice" {
			o.content["org.matrix.msc3245.voice"] = map[string]any{}
			o.content["org.matrix.msc1767.audio"] = map[string]any{}
		}
	default:
		o.content["msgtype"] = "m.file"
	}
	body := o.content
	o.fill = func(ctx context.Context, as id.UserID) error {
		err := b.fillFile(ctx, p, ev, as, part, thumbnail, name, mime, body)
		if err == nil || fault.Temporary(err) || errors.Is(err, context.Canceled) {
			return err
		}
		b.log.Info().Err(err).Str("room", ev.Room.String()).Str("message", ev.ID.String()).Msg("a file could not be shown")
		caption, _ := body["filename"].(string)
		text := fmt.Sprintf("(The file %q cannot be shown here: %s.)", name, fault.Public(err))
		if caption != "" {
			text = fmt.Sprint(body["body"], "\n", text)
		}
		for _, key := range []string{"filename", "info", "url", "file", "format", "formatted_body"} {
			delete(body, key)
		}
		body["msgtype"], body["body"] = "m.notice", text
		return nil
	}
	return o
}
