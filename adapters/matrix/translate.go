package matrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"regexp"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// From Matrix events to MIMI content.

// styleKey is the extension that says what Matrix has a kind of message for and MIMI has not: "emote", "notice", "voice",
// "sticker". Receivers that do not know it lose nothing but the style.
var styleKey = content.Key{Text: bridgeKey + ".style"}

func setStyle(m *content.Message, style string) {
	if style == "" {
		return
	}
	// A CBOR text string of less than 24 octets.
	m.Extensions.Set(styleKey, append([]byte{0x60 | byte(len(style))}, style...))
}

func styleOf(m *content.Message) string {
	b, ok := m.Extensions.Get(styleKey)
	if !ok || len(b) < 1 || b[0]&0xe0 != 0x60 || len(b) != 1+int(b[0]&0x1f) {
		return ""
	}
	return string(b[1:])
}

// errWaiting: an event refers to a message that the MIMI room has not taken yet. It is a matter of moments, or the hub is
// away, and then everything else waits as well.
var errWaiting = &fault.Error{Kind: fault.Unavailable, RetryAfter: 100 * time.Millisecond, Err: errors.New("matrix: the message it refers to is still on its way")}

// said is what an event says in MIMI. With msg nil nothing is to be sent: then why, if not empty, is for its author.
type said struct {
	msg *content.Message
	why string
}

// lookup finds the message that an event refers to.
func (b *bridge) lookup(ctx context.Context, p portal, ev id.EventID) (k known, ok bool, err error) {
	if ev == "" || len(ev) > maxEventID {
		return k, false, nil
	}
	k, st, err := b.st.byEvent(ctx, p.uri, ev)
	if err == nil && st == standsWaiting {
		err = errWaiting
	}
	return k, st == standsKnown, err
}

// translate turns a message event into content.
func (b *bridge) translate(ctx context.Context, p portal, ev rawEvent, body object, sender mimiuri.URI) (said, error) {
	if len(body) == 0 && ev.Type != "m.room.redaction" {
		return said{}, nil // redacted
	}
	switch ev.Type {
	case "m.reaction":
		return b.translateReaction(ctx, p, body)
	case "m.room.redaction":
		return b.translateRedaction(ctx, p, ev, body, sender)
	}
	rel := body.object("m.relates_to")
	if rel.str("rel_type") == "m.replace" {
		return b.translateEdit(ctx, p, ev, body, rel, sender)
	}
	part, style, why, err := b.bodyOf(ctx, p, ev, body, sender)
	if err != nil || why != "" || part == nil {
		return said{why: why}, err
	}
	msg := content.New(*part)
	setStyle(msg, style)
	if err := b.relate(ctx, p, msg, rel); err != nil {
		return said{}, err
	}
	if err := b.setTimer(ctx, p, msg, body); err != nil {
		return said{}, err
	}
	return said{msg: msg}, nil
}

// relate makes msg the reply, and puts it into the topic, that the event's relation says.
func (b *bridge) relate(ctx context.Context, p portal, msg *content.Message, rel object) error {
	answered := id.EventID(rel.object("m.in_reply_to").str("event_id"))
	switch rel.str("rel_type") {
	case "m.thread":
		topic, err := b.topicOf(ctx, p, id.EventID(rel.str("event_id")))
		if err != nil {
			return err
		}
		msg.TopicID = topic
		if string(rel["is_falling_back"]) == "true" {
			return nil
		}
	case "m.reference":
		// A vote and the like: see pollResponse.
		answered = id.EventID(rel.str("event_id"))
	}
	k, ok, err := b.lookup(ctx, p, answered)
	if err == nil && ok {
		if k.kind == content.KindEdit && k.target != nil {
			k.id = *k.target
		}
		msg.InReplyTo = &k.id
	}
	return err
}

// topicOf is the topic that a thread shows: the one whose first message its root is, or one made for it.
func (b *bridge) topicOf(ctx context.Context, p portal, root id.EventID) ([]byte, error) {
	if root == "" || len(root) > maxEventID {
		return nil, nil
	}
	topic, err := b.st.topicAt(ctx, p.uri, root)
	if err != nil || topic != nil {
		return topic, err
	}
	k, ok, err := b.lookup(ctx, p, root)
	if err != nil {
		return nil, err
	}
	switch {
	case ok && len(k.topic) > 0:
		topic = k.topic
	case ok:
		topic = k.id[:]
	default:
		topic = []byte(root)
	}
	return topic, b.st.write(putTopic(p.uri, topic, root))
}

// bodyOf is what a message event has to say beside what it relates to. part is nil if that is nothing.
func (b *bridge) bodyOf(ctx context.Context, p portal, ev rawEvent, body object, sender mimiuri.URI) (part *content.Part, style, why string, err error) {
	kind := body.str("msgtype")
	switch ev.Type {
	case "m.sticker":
		kind = "m.sticker"
	case "m.poll.start", "org.matrix.msc3381.poll.start":
		part = pollPart(body)
		return part, "", "", nil
	case "m.poll.response", "org.matrix.msc3381.poll.response":
		part, err = b.votePart(ctx, p, body)
		return part, "", "", err
	case "m.poll.end", "org.matrix.msc3381.poll.end":
		t := content.TextPart("(The poll is closed.)")
		return &t, "", "", nil
	case "m.room.message":
	default:
		return nil, "", "Not delivered: events of this kind cannot be sent to MIMI.", nil
	}
	switch kind {
	case "m.emote", "m.notice":
		part = b.textPart(ctx, body)
		style = strings.TrimPrefix(kind, "m.")
		if kind == "m.emote" && part != nil {
			local, _, _ := splitID(ev.Sender)
			part.Content = append([]byte("* "+emoteName(part, local)+" "), part.Content...)
		}
		return part, style, "", nil
	case "m.location":
		text := locationText(body.str("body"), body.str("geo_uri"))
		if text == "" {
			return nil, "", "", nil
		}
		t := content.TextPart(text)
		return &t, "", "", nil
	case "m.image", "m.file", "m.audio", "m.video", "m.sticker":
		return b.mediaPart(ctx, body, kind, sender)
	case "m.key.verification.request", "m.server_notice":
		return nil, "", "", nil
	}
	return b.textPart(ctx, body), "", "", nil
}

// emoteName is the author's name as the text of an emote begins with it.
func emoteName(part *content.Part, name string) string {
	if part.ContentType == content.TypeMarkdown {
		return content.EscapeMarkdown(name)
	}
	return name
}

// textPart is the text of a message, nil if there is none.
func (b *bridge) textPart(ctx context.Context, body object) *content.Part {
	var part content.Part
	formatted := body.str("formatted_body")
	if body.str("format") == "org.matrix.custom.html" && formatted != "" {
		md := content.HTMLToMarkdown(formatted, &content.RichOptions{Resolve: b.resolver(ctx)})
		if text, plain := content.MarkdownIsPlain(md); plain {
			part = content.TextPart(text)
		} else {
			part = content.MarkdownPart(md)
		}
	} else {
		text := body.str("body")
		if body.object("m.relates_to").object("m.in_reply_to").str("event_id") != "" {
			text = withoutFallback(text)
		}
		if refs := b.namedIn(ctx, text, body); len(refs) > 0 {
			part = content.MarkdownPart(content.TextToMarkdown(text, &content.TextOptions{References: refs}))
		} else {
			part = content.TextPart(text)
		}
	}
	if strings.TrimSpace(string(part.Content)) == "" {
		return nil
	}
	return &part
}

// withoutFallback takes off the quotation that old clients put before a reply (Matrix 1.12 and older, "Rich replies").
func withoutFallback(text string) string {
	if !strings.HasPrefix(text, "> <") && !strings.HasPrefix(text, "> * <") {
		return text
	}
	rest := text
	for strings.HasPrefix(rest, ">") {
		_, after, ok := strings.Cut(rest, "\n")
		if !ok {
			return text // it is all quotation: then it is meant
		}
		rest = after
	}
	return strings.TrimPrefix(rest, "\n")
}

// uriOf is the MIMI user of any Matrix ID that stands for one.
func (b *bridge) uriOf(ctx context.Context, user id.UserID) (mimiuri.URI, bool) {
	if isOurs(user, b.server) {
		uri, ok, err := b.ghostURI(ctx, user)
		return uri, ok && err == nil
	}
	return b.person(user)
}

// namedIn finds the IDs of mentioned users in plain text.
func (b *bridge) namedIn(ctx context.Context, text string, body object) (refs []content.Reference) {
	var users []id.UserID
	_ = unmarshal(body.object("m.mentions")["user_ids"], &users)
	for _, u := range users[:min(len(users), 50)] {
		at := strings.Index(text, string(u))
		if at < 0 || len(u) < 3 {
			continue
		}
		if uri, ok := b.uriOf(ctx, u); ok {
			begin := len([]rune(text[:at]))
			refs = append(refs, content.Reference{Begin: begin, End: begin + len([]rune(string(u))), URI: uri.String()})
		}
	}
	slices.SortFunc(refs, func(a, b content.Reference) int { return a.Begin - b.Begin })
	return refs
}

// resolver finds the MIMI URIs behind links to users and rooms.
func (b *bridge) resolver(ctx context.Context) func(href, text string) (mimiuri.URI, string, bool) {
	return func(href, text string) (mimiuri.URI, string, bool) {
		link, err := id.ParseMatrixURIOrMatrixToURL(href)
		if err != nil || link == nil {
			return mimiuri.URI{}, "", false
		}
		if user := link.UserID(); user != "" {
			uri, ok := b.uriOf(ctx, user)
			return uri, "", ok
		}
		if link.Sigil1 == '#' && link.Sigil2 == 0 {
			if local, ok := strings.CutSuffix(link.PrimaryIdentifier(), ":"+b.server); ok {
				uri, ok := decodeLocal(strings.TrimPrefix(local, "#"), mimiuri.Room, b.server)
				return uri, "", ok
			}
		}
		return mimiuri.URI{}, "", false
	}
}

func (b *bridge) translateEdit(ctx context.Context, p portal, ev rawEvent, body, rel object, sender mimiuri.URI) (said, error) {
	k, ok, err := b.lookup(ctx, p, id.EventID(rel.str("event_id")))
	if err != nil {
		return said{}, err
	}
	switch {
	case !ok:
		return said{why: "This change was not delivered: the bridge does not know the message it changes."}, nil
	case k.sender != sender || k.kind != content.KindMessage && k.kind != content.KindEdit:
		return said{}, nil // no client shows such a change
	}
	if k.kind == content.KindEdit && k.target != nil {
		k.id = *k.target
	}
	fresh := body.object("m.new_content")
	if fresh == nil {
		return said{}, nil
	}
	return b.changed(ctx, p, ev, fresh, sender, k)
}

// changed is the change of message k to body.
func (b *bridge) changed(ctx context.Context, p portal, ev rawEvent, body object, sender mimiuri.URI, k known) (said, error) {
	part, style, why, err := b.bodyOf(ctx, p, ev, body, sender)
	if err != nil || why != "" || part == nil {
		return said{why: why}, err
	}
	msg := content.Edit(k.id, k.reply, *part)
	msg.TopicID = k.topic
	setStyle(msg, style)
	return said{msg: msg}, nil
}

// maxReaction bounds the text of a reaction in octets.
const maxReaction = 256

func (b *bridge) translateReaction(ctx context.Context, p portal, body object) (said, error) {
	rel := body.object("m.relates_to")
	key := rel.str("key")
	if rel.str("rel_type") != "m.annotation" || key == "" {
		return said{}, nil
	}
	if strings.HasPrefix(key, "mxc://") {
		// A picture of this homeserver: its name says what is meant.
		if key = body.str("shortcode"); key == "" {
			key = body.str("com.beeper.reaction.shortcode")
		}
		if key = ":" + strings.Trim(key, ":") + ":"; key == "::" {
			return said{why: "This reaction was not delivered: it is a picture without a name."}, nil
		}
	}
	if len(key) > maxReaction {
		return said{why: "This reaction was not delivered: it is too long."}, nil
	}
	k, ok, err := b.lookup(ctx, p, id.EventID(rel.str("event_id")))
	if err != nil || !ok {
		return said{}, err
	}
	if k.kind == content.KindEdit && k.target != nil {
		k.id = *k.target
	}
	return said{msg: content.React(k.id, key)}, nil
}

func (b *bridge) translateRedaction(ctx context.Context, p portal, ev rawEvent, body object, sender mimiuri.URI) (said, error) {
	target := ev.Redacts
	if target == "" {
		target = id.EventID(body.str("redacts"))
	}
	k, ok, err := b.lookup(ctx, p, target)
	if err != nil || !ok {
		return said{}, err
	}
	if k.sender != sender {
		capability, what := policy.CanDeleteOtherMessage, "message"
		if k.kind == content.KindReaction || k.kind == content.KindReact {
			capability, what = policy.CanDeleteOtherReaction, "reaction"
		}
		r, _, err := b.host.Room(ctx, p.uri)
		if err != nil {
			return said{}, err
		}
		if role, ok := r.RoleOf(sender); !ok || !role.Can(capability) {
			return said{why: fmt.Sprintf("The %s is gone here, but not in the MIMI room: your role there may not delete what others wrote.", what)}, nil
		}
	}
	switch k.kind {
	case content.KindReaction, content.KindReact:
		if k.target == nil {
			return said{}, nil
		}
		return said{msg: content.Unlike(k.id, *k.target)}, nil
	case content.KindEdit:
		if k.target == nil || k.sender != sender {
			return said{}, nil
		}
		return b.editBack(ctx, p, *k.target, sender)
	case content.KindMessage, content.KindSession, content.KindProfile:
		msg := content.Delete(k.id, k.reply)
		msg.TopicID = k.topic
		return said{msg: msg}, nil
	}
	return said{}, nil
}

// editBack is the edit that a message needs when an edit of it was redacted: the homeserver shows what was before.
func (b *bridge) editBack(ctx context.Context, p portal, first content.MessageID, sender mimiuri.URI) (said, error) {
	k, ok, err := b.st.byID(ctx, p.uri, first)
	if err != nil || !ok {
		return said{}, err
	}
	evID, err := b.st.eventOf(ctx, p.uri, first)
	if err != nil || evID == "" {
		return said{}, err
	}
	as, err := b.speaker(ctx, p.room)
	if err != nil || as == "" {
		return said{}, err
	}
	ev, err := b.hs.event(ctx, as, p.room, evID)
	if err != nil {
		if fault.Temporary(err) {
			return said{}, err
		}
		return said{}, nil
	}
	body := asObject(ev.Content)
	if later := asObject(asObject(ev.Unsigned).object("m.relations")["m.replace"]); later != nil {
		if fresh := later.object("content").object("m.new_content"); fresh != nil {
			body = fresh
		}
	}
	if len(body) == 0 {
		return said{}, nil
	}
	return b.changed(ctx, p, ev, body, sender, k)
}

// Locations: a text whose last line is a geo URI (RFC 5870).

var geoURI = regexp.MustCompile(`^geo:-?[0-9]{1,3}(\.[0-9]{1,12})?,-?[0-9]{1,3}(\.[0-9]{1,12})?(,-?[0-9]{1,6}(\.[0-9]{1,6})?)?(;[A-Za-z0-9=.;-]{1,60})?$`)

func locationText(body, geo string) string {
	if !geoURI.MatchString(geo) {
		return clip(body, 4096)
	}
	body = strings.TrimSpace(strings.ReplaceAll(clip(body, 4096), geo, ""))
	if body == "" {
		return geo
	}
	return body + "\n" + geo
}

// locationOf reads what locationText writes.
func locationOf(text string) (description, geo string, ok bool) {
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		description, geo = text[:i], text[i+1:]
	} else {
		geo = text
	}
	return description, geo, len(text) < 8192 && geoURI.MatchString(geo)
}

// Polls: the event's own JSON for those who know it, beside a text for all others.

const pollType = "application/vnd.mimibridge.matrix-poll+json"

// pollOf takes a poll apart, in the form of MSC3381 or of Matrix 1.7.
func pollOf(body object) (question string, answers []string, ids []string) {
	poll := body.object("m.poll")
	if poll == nil {
		poll = body.object("m.poll.start")
	}
	if poll == nil {
		poll = body.object("org.matrix.msc3381.poll.start")
	}
	question = extensibleText(poll.object("question"))
	var list []json.RawMessage
	_ = unmarshal(poll["answers"], &list)
	for _, raw := range list[:min(len(list), 20)] { // MSC3381's limit
		o := asObject(raw)
		if text := extensibleText(o); text != "" {
			key := o.str("id")
			if key == "" {
				key = o.str("m.id")
			}
			answers, ids = append(answers, text), append(ids, key)
		}
	}
	return question, answers, ids
}

func extensibleText(o object) string {
	for _, key := range []string{"org.matrix.msc1767.text", "body"} {
		if s := o.str(key); s != "" {
			return clip(s, 1000)
		}
	}
	var list []json.RawMessage
	if unmarshal(o["m.text"], &list) == nil && len(list) > 0 {
		return clip(asObject(list[0]).str("body"), 1000)
	}
	return clip(o.str("m.text"), 1000)
}

func pollPart(body object) *content.Part {
	question, answers, _ := pollOf(body)
	if question == "" || len(answers) == 0 {
		return nil
	}
	var t strings.Builder
	t.WriteString("Poll: " + question)
	for i, a := range answers {
		fmt.Fprintf(&t, "\n%d. %s", i+1, a)
	}
	fallback := content.TextPart(t.String())
	kept := map[string]json.RawMessage{}
	for key, v := range body {
		if key != "m.relates_to" && key != "m.mentions" {
			kept[key] = v
		}
	}
	raw, err := json.Marshal(kept)
	if err != nil || len(raw) > maxBody {
		return &fallback
	}
	both := content.Alternatives(content.Part{Disposition: content.Render, Cardinality: content.SinglePart, ContentType: pollType, Content: raw}, fallback)
	return &both
}

// votePart says in words what somebody chose.
func (b *bridge) votePart(ctx context.Context, p portal, body object) (*content.Part, error) {
	poll := id.EventID(body.object("m.relates_to").str("event_id"))
	if _, ok, err := b.lookup(ctx, p, poll); err != nil || !ok {
		return nil, err
	}
	as, err := b.speaker(ctx, p.room)
	if err != nil || as == "" {
		return nil, err
	}
	ev, err := b.hs.event(ctx, as, p.room, poll)
	if err != nil {
		if fault.Temporary(err) {
			return nil, err
		}
		return nil, nil
	}
	var chosen []string
	_ = unmarshal(body.object("org.matrix.msc3381.poll.response")["answers"], &chosen)
	if len(chosen) == 0 {
		_ = unmarshal(body["m.selections"], &chosen)
	}
	_, answers, ids := pollOf(asObject(ev.Content))
	var names []string
	for i, key := range ids {
		if slices.Contains(chosen, key) {
			names = append(names, answers[i])
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	t := content.TextPart("Voted: " + strings.Join(names, ", "))
	return &t, nil
}

// Messages that disappear.

// maxTimer is the longest time after which a message may disappear; MIMI calls more than a year nonsensical.
const maxTimer = 360 * 24 * time.Hour

// timerKey is the setting with a portal's timer.
func timerKey(p portal) string { return "timer " + p.uri.String() }

// setTimer lets a message expire as its author or the portal's timer says.
func (b *bridge) setTimer(ctx context.Context, p portal, msg *content.Message, body object) error {
	var timer struct {
		Type  string `json:"type"`
		Timer int64  `json:"timer"` // ms
	}
	if raw, ok := body["com.beeper.disappearing_timer"]; ok {
		_ = json.Unmarshal(raw, &timer)
	} else {
		stored, err := b.st.setting(ctx, timerKey(p))
		if err != nil || stored == "" {
			return err
		}
		_ = json.Unmarshal([]byte(stored), &timer)
	}
	if timer.Timer < 1000 || timer.Timer > maxTimer.Milliseconds() {
		return nil
	}
	d := time.Duration(timer.Timer) * time.Millisecond
	if timer.Type == "after_send" {
		msg.ExpireAt(time.Now().Add(d))
	} else {
		msg.ExpireAfter(d)
	}
	return nil
}

// onReceipt reports to the MIMI room what a local user has read.
func (b *bridge) onReceipt(ctx context.Context, p portal, ev rawEvent, body object) error {
	reader, ok := b.person(ev.Sender)
	if !ok {
		return nil
	}
	k, ok, err := b.lookup(ctx, p, id.EventID(body.str("event_id")))
	if err != nil || !ok {
		if errors.Is(err, errWaiting) {
			return nil // one's own message; the next receipt covers it
		}
		return err
	}
	at := ev.time()
	if at.IsZero() {
		at = time.Now()
	}
	if k.sender != reader {
		// The watch of what disappears after reading is wound up by the first reader.
		if err := b.st.write(startExpiry(p.uri, k.seq, at)); err != nil {
			return err
		}
		b.wakeExpiry()
	}
	ids, err := b.st.unread(ctx, p.uri, reader, k.seq)
	if err != nil || len(ids) == 0 {
		return err
	}
	silent, err := b.silent(ctx, ev.Sender)
	if err != nil {
		return err
	}
	if r, _, err := b.host.Room(ctx, p.uri); err != nil {
		return err
	} else if !silent && len(r.Participants) <= maxReported {
		if err := b.report(ctx, p, reader, string(ev.ID), ids, content.StatusRead); err != nil {
			return err
		}
	}
	return b.st.write(putRead(p.uri, reader, k.seq))
}

// maxReported is the largest room, by participants, in which reading is reported: above it the reports would be most of
// the traffic.
const maxReported = 50

// silent reports whether a user does not want others to know what they have read or received.
func (b *bridge) silent(ctx context.Context, user id.UserID) (bool, error) {
	v, err := b.st.setting(ctx, receiptsKey(user))
	return v == "off", err
}

// reportSuffix ends the origin ID of an intent that carries a report of reading or delivery: nobody wrote it.
const reportSuffix = "/report"

func (b *bridge) report(ctx context.Context, p portal, user mimiuri.URI, origin string, ids []content.MessageID, status content.Status) error {
	var r content.StatusReport
	for _, m := range ids {
		r = append(r, content.MessageStatus{ID: m, Status: status})
	}
	msg, err := content.StatusMessage(r)
	if err != nil {
		return nil
	}
	err = b.host.Intake(ctx, adapter.Intent{Kind: adapter.SendMessage, Room: p.uri, Actor: user, Content: msg, OriginID: origin + reportSuffix, Hint: string(p.room)})
	if err != nil && !fault.Temporary(err) {
		return nil // nobody has to hear of a report that was refused
	}
	return err
}

// plainHTML reports whether HTML says no more than text.
func plainHTML(rendered, text string) bool {
	return html.UnescapeString(strings.ReplaceAll(rendered, "<br>", "\n")) == text && !strings.Contains(strings.ReplaceAll(rendered, "<br>", ""), "<")
}
