package xmpp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// talk is the place in which somebody says something: a room, as a MUC or as a chat with one person.
type talk struct {
	room   mimiuri.URI
	user   mimiuri.URI // who speaks
	direct bool
	r      *room // for nicks; may be nil in a direct room
}

// compose reads what a message stanza means. nil without an error is something that is not carried over. It does
// not say whether the room lets the person do it, apart from what concerns messages of others.
func (s *service) compose(ctx context.Context, in *packet, t talk) (*content.Message, error) {
	if encrypted(in.kids) {
		return nil, errOMEMO
	}
	if id := retracted(in.kids); id != "" {
		return s.composeRetraction(ctx, id, t)
	}
	if e := find(in.kids, nsReactions, "reactions"); e != nil {
		return s.composeReaction(ctx, e, t)
	}
	if id, status := marked(in.kids, t.direct); id != "" {
		return s.composeStatus(ctx, id, status, t)
	}
	body, lang := bodyOf(in)
	c := new(content.Message)
	var first *messageRow
	if e := find(in.kids, nsCorrect, "replace"); e != nil {
		var err error
		if first, err = s.referred(ctx, e.attr("id"), t, true); err != nil {
			return nil, err
		}
		if first == nil || first.body == bodyGone {
			return nil, errCorrectUnknown
		}
		if first.sender != t.user {
			return nil, errCorrectOther
		}
		if first.kind != content.KindMessage {
			return nil, errCorrectKind
		}
		c.Replaces, c.InReplyTo, c.TopicID = &first.mimi, first.reply, first.topic
	}
	cutFrom, cutTo := 0, 0 // the fallback that is left out, in code points
	if e := find(in.kids, nsReply, "reply"); e != nil {
		target, err := s.referred(ctx, e.attr("id"), t, false)
		if err != nil {
			return nil, err
		}
		if target != nil && (target.kind == content.KindMessage || target.kind == content.KindSession) {
			if first == nil {
				c.InReplyTo = &target.mimi
			}
			cutFrom, cutTo = fallbackRange(in.kids, nsReply, body)
		}
	}
	if first == nil {
		if th := find(in.kids, "", "thread"); th != nil && th.Text != "" && len(th.Text) <= 1024 {
			c.TopicID = topicOf(th.Text)
		}
	}
	if e := find(in.kids, nsEphemeral, "ephemeral"); e != nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(e.attr("timer")), 10, 32); err == nil && n > 0 {
			c.ExpireAfter(time.Duration(min(n, maxEphemeral)) * time.Second)
		}
	}

	files := filesOf(in.kids, body)
	refs := referencesOf(in.kids)
	if len(files) > 0 && onlyFiles(in.kids, body, files) {
		body, refs = "", nil
	}
	body, refs = cutBody(body, refs, cutFrom, cutTo)
	if body == "" && len(files) == 0 {
		if p := geoloc(find(in.kids, nsGeoloc, "geoloc")); p != "" {
			body = p
		}
	}
	var parts []content.Part
	if body != "" {
		p := s.textPart(body, s.mentions(body, refs, t), find(in.kids, nsStyling, "unstyled") != nil)
		p.Language = lang
		parts = append(parts, p)
	}
	for _, f := range files {
		p, err := s.uploadFile(ctx, t, f)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, nil
	}
	c.Body = content.Together(parts...)
	return c, nil
}

// maxEphemeral is the longest a message may take to disappear: a year, the most that MIMI takes for meant.
const maxEphemeral = 365 * 24 * 3600

// encrypted tells whether a message is encrypted by the sender's client, for clients.
func encrypted(kids []*element) bool {
	for _, k := range kids {
		switch {
		case k.Local == "encrypted" && (k.Space == nsOMEMO || k.Space == nsOMEMO2),
			k.Local == "x" && k.Space == nsPGP, k.Local == "openpgp" && k.Space == nsOX,
			k.Local == "encryption" && k.Space == nsEME:
			return true
		}
	}
	return false
}

// retracted gives the id of the message that a stanza retracts, "" if none: XEP-0424, and its first form.
func retracted(kids []*element) string {
	if e := find(kids, nsRetract, "retract"); e != nil {
		return e.attr("id")
	}
	if e := find(kids, nsFasten, "apply-to"); e != nil && e.child(nsRetract0, "retract") != nil {
		return e.attr("id")
	}
	return ""
}

// marked gives the id of the message that a stanza tells to be received (XEP-0184, only in chats) or read (XEP-0333).
func marked(kids []*element, direct bool) (id string, st content.Status) {
	for _, k := range kids {
		switch {
		case k.Space == nsMarkers && (k.Local == "displayed" || k.Local == "acknowledged"):
			return k.attr("id"), content.StatusRead
		case direct && (k.Space == nsReceipts || k.Space == nsMarkers) && k.Local == "received":
			id, st = k.attr("id"), content.StatusDelivered
		}
	}
	return id, st
}

// referred finds the message that a stanza refers to, its first version; nil if it is not known. own: it has to be one of the
// speaker's. It may be one of theirs that the hub has not accepted yet: its message ID is fixed, and what refers to it is carried out
// after it, also by a daemon that is started later.
func (s *service) referred(ctx context.Context, id string, t talk, own bool) (*messageRow, error) {
	sender := mimiuri.URI{}
	if own {
		sender = t.user
	}
	m, err := s.db.findMessage(ctx, t.room, id, sender)
	if err != nil || m != nil || id == "" {
		return s.firstOf(ctx, t, m, err)
	}
	if m, err = s.underWay(ctx, t, func(m *messageRow) bool { return m.mimi.String() == id || m.id == id || m.origin == id }); err == nil && m == nil {
		m, err = s.db.findMessage(ctx, t.room, id, sender) // it may have arrived meanwhile
	}
	return s.firstOf(ctx, t, m, err)
}

// firstOf follows an edit to the first version: that is what others refer to.
func (s *service) firstOf(ctx context.Context, t talk, m *messageRow, err error) (*messageRow, error) {
	if err != nil || m == nil || m.kind != content.KindEdit || m.target == nil {
		return m, err
	}
	first := *m.target
	if m, err = s.db.message(ctx, t.room, first); err != nil || m != nil {
		return m, err
	}
	if m, err = s.underWay(ctx, t, func(m *messageRow) bool { return m.mimi == first }); err != nil || m != nil {
		return m, err
	}
	return s.db.message(ctx, t.room, first)
}

// underWay finds the newest of the speaker's messages that have not been shown yet and that match accepts; nil if there is none.
func (s *service) underWay(ctx context.Context, t talk, match func(*messageRow) bool) (*messageRow, error) {
	list, err := s.pending(ctx, t)
	for i := len(list) - 1; i >= 0; i-- {
		if match(&list[i]) {
			return &list[i], err
		}
	}
	return nil, err
}

// pending lists the speaker's messages that have not been shown yet, in their order.
func (s *service) pending(ctx context.Context, t talk) ([]messageRow, error) {
	list, err := s.host.Pending(ctx, t.room, t.user)
	if err != nil {
		return nil, err
	}
	out := make([]messageRow, 0, len(list))
	for _, p := range list {
		h, k := readHint(&p.Origin), p.Content.Classify()
		m := messageRow{mimi: p.ID, at: time.Now(), sender: t.user, kind: k.Kind, id: h.ID, origin: h.Origin, reply: k.InReplyTo, topic: p.Content.TopicID, body: bodyForgotten}
		switch k.Kind {
		case content.KindEdit, content.KindDelete, content.KindReaction, content.KindReact, content.KindUnlike:
			m.target = &k.Target
		}
		out = append(out, m)
	}
	return out, nil
}

func (s *service) composeRetraction(ctx context.Context, id string, t talk) (*content.Message, error) {
	m, err := s.referred(ctx, id, t, false)
	if err != nil {
		return nil, err
	}
	if m == nil || m.kind != content.KindMessage && m.kind != content.KindSession {
		return nil, errRetractUnknown
	}
	if m.sender != t.user {
		return nil, errRetractOther
	}
	if m.body == bodyGone {
		return nil, nil
	}
	c := content.Delete(m.mimi, m.reply)
	c.TopicID = m.topic
	return c, nil
}

// composeModeration is what a moderator's request about somebody else's message becomes.
func (s *service) composeModeration(ctx context.Context, id string, t talk, can bool) (*content.Message, error) {
	m, err := s.referred(ctx, id, t, false)
	if err != nil {
		return nil, err
	}
	switch {
	case m == nil:
		return nil, errRetractUnknown
	case m.sender != t.user && !can:
		return nil, errModerate
	case m.body == bodyGone:
		return nil, nil
	}
	c := content.Delete(m.mimi, m.reply)
	c.TopicID = m.topic
	return c, nil
}

// maxReactions bounds the reactions of one person to one message.
const maxReactions = 20

// composeReaction makes of the set of reactions that somebody wants the message that brings it about: XMPP says all of
// them each time, MIMI has a message for them that is changed or taken back.
func (s *service) composeReaction(ctx context.Context, e *element, t talk) (*content.Message, error) {
	m, err := s.referred(ctx, e.attr("id"), t, false)
	if err != nil {
		return nil, err
	}
	if m == nil || m.kind != content.KindMessage && m.kind != content.KindSession {
		return nil, errReactUnknown
	}
	var want []string
	seen := make(map[string]bool)
	for _, k := range e.Kids {
		text := strings.TrimSpace(k.Text)
		if k.Space != nsReactions || k.Local != "reaction" || text == "" || seen[text] {
			continue
		}
		if len(text) > 64 || len(want) >= maxReactions {
			return nil, errReactMany
		}
		seen[text] = true
		want = append(want, text)
	}
	now, err := s.reactionsNow(ctx, t, m.mimi)
	if err != nil {
		return nil, err
	}
	switch {
	case len(want) == 0 && len(now) == 0:
		return nil, nil
	case len(want) == 0:
		return content.Unlike(now[0], m.mimi), nil
	}
	c := content.React(m.mimi, want...)
	if len(now) > 0 {
		c.Replaces = &now[0]
	}
	return c, nil
}

// reactionsNow gives the messages with which the speaker reacts to another, as it will be when all that is under way has been shown.
func (s *service) reactionsNow(ctx context.Context, t talk, target content.MessageID) (now []content.MessageID, err error) {
	pending, err := s.pending(ctx, t) // asked first: it may arrive meanwhile
	if err != nil {
		return nil, err
	}
	rows, err := s.db.reactions(ctx, t.room, target, t.user)
	if err != nil {
		return nil, err
	}
	for _, m := range rows {
		now = append(now, m.mimi)
	}
	for _, m := range pending {
		switch {
		case m.kind == content.KindReaction && *m.target == target && !slices.Contains(now, m.mimi):
			now = append(now, m.mimi)
		case m.kind == content.KindUnlike || m.kind == content.KindDelete:
			now = slices.DeleteFunc(now, func(id content.MessageID) bool { return id == *m.target })
		}
	}
	return now, nil
}

// maxReceiptRoom is up to how many participants a room's members tell each other what they have read: each report is an
// MLS message to everybody.
const maxReceiptRoom = 50

func (s *service) composeStatus(ctx context.Context, id string, status content.Status, t talk) (*content.Message, error) {
	off, err := s.db.setting(ctx, t.user, settingReceipts)
	if err != nil || off == "off" {
		return nil, err
	}
	m, err := s.db.findMessage(ctx, t.room, id, mimiuri.URI{})
	if err != nil || m == nil || m.sender == t.user {
		return nil, err
	}
	if t.r != nil && !t.direct {
		t.r.mu.Lock()
		n := len(t.r.members)
		t.r.mu.Unlock()
		if n > maxReceiptRoom {
			return nil, nil
		}
	}
	if status == content.StatusRead {
		if fresh, err := s.db.markRead(t.room, t.user, m.seq); err != nil || !fresh {
			return nil, err
		}
	}
	return content.StatusMessage(content.StatusReport{{ID: m.mimi, Status: status}})
}

// fallbackRange gives the part of the body that stands in for what an element says (XEP-0428), in code points.
func fallbackRange(kids []*element, what, body string) (from, to int) {
	for _, k := range kids {
		if k.Space != nsFallback && k.Space != nsFallback0 || k.Local != "fallback" || k.attr("for") != what {
			continue
		}
		n := utf8.RuneCountInString(body)
		b := k.child(k.Space, "body")
		if b == nil || b.attr("start") == "" && b.attr("end") == "" {
			if what == nsReply && b == nil {
				return 0, 0 // the whole text of a reply is not a fallback
			}
			return 0, n
		}
		start, err1 := strconv.Atoi(b.attr("start"))
		end, err2 := strconv.Atoi(b.attr("end"))
		if err1 != nil || err2 != nil || start < 0 || end < start || end > n {
			return 0, 0
		}
		return start, end
	}
	return 0, 0
}

// cutBody takes the code points from from to to out of the text and moves the references.
func cutBody(body string, refs []content.Reference, from, to int) (string, []content.Reference) {
	if to <= from {
		return body, refs
	}
	runes := []rune(body)
	out := string(runes[:from]) + string(runes[to:])
	if from == 0 {
		trimmed := strings.TrimLeft(out, "\n")
		to += len(out) - len(trimmed) // line feeds are one code point
		out = trimmed
	}
	var list []content.Reference
	for _, r := range refs {
		switch {
		case r.End <= from:
			list = append(list, r)
		case r.Begin >= to:
			r.Begin, r.End = r.Begin-(to-from), r.End-(to-from)
			list = append(list, r)
		}
	}
	return out, list
}

// maxReferences bounds the mentions of a message.
const maxReferences = 100

// referencesOf reads the mentions of XEP-0372; their URI is as written there.
func referencesOf(kids []*element) (list []content.Reference) {
	for _, k := range kids {
		if k.Space != nsReference || k.Local != "reference" || k.attr("type") != "mention" || len(list) >= maxReferences {
			continue
		}
		begin, err1 := strconv.Atoi(k.attr("begin"))
		end, err2 := strconv.Atoi(k.attr("end"))
		if err1 == nil && err2 == nil && begin >= 0 && end > begin {
			list = append(list, content.Reference{Begin: begin, End: end, URI: k.attr("uri")})
		}
	}
	return list
}

// mentions gives the references of a text with MIMI URIs: those that the client made, and a nick of the room that
// the text begins with ("Juliet: …") or that stands behind an @.
func (s *service) mentions(body string, refs []content.Reference, t talk) (out []content.Reference) {
	for _, r := range refs {
		if u, ok := s.mentioned(r.URI, t); ok {
			r.URI = u.String()
			out = append(out, r)
		}
	}
	if len(out) > 0 || t.r == nil || t.direct {
		return out
	}
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	if i := strings.IndexAny(body, ":,"); i > 0 && i <= maxNick && (len(body) == i+1 || body[i+1] == ' ' || body[i+1] == '\n') {
		if m := t.r.nicks[nickKey(body[:i])]; m != nil {
			out = append(out, content.Reference{Begin: 0, End: utf8.RuneCountInString(body[:i]), URI: m.user.String()})
		}
	}
	at := 0
	for n := 0; n < maxReferences; n++ {
		i := strings.IndexByte(body[at:], '@')
		if i < 0 {
			break
		}
		at += i
		if at > 0 && !strings.ContainsRune(" \n(,", rune(body[at-1])) {
			at++
			continue
		}
		rest := body[at+1:]
		end := len(rest)
		if j := strings.IndexAny(rest, " \n,.:;!?)"); j >= 0 {
			end = j
		}
		if m := t.r.nicks[nickKey(rest[:end])]; m != nil && end > 0 && end <= maxNick {
			begin := utf8.RuneCountInString(body[:at])
			out = append(out, content.Reference{Begin: begin, End: begin + 1 + utf8.RuneCountInString(rest[:end]), URI: m.user.String()})
		}
		at++
	}
	return out
}

// mentioned finds whom a reference means: xmpp:ROOM/nick, xmpp:JID or a MIMI URI.
func (s *service) mentioned(uri string, t talk) (mimiuri.URI, bool) {
	if len(uri) > 4096 {
		return mimiuri.URI{}, false
	}
	if u, err := mimiuri.Parse(uri); err == nil && (u.Kind == mimiuri.User || u.Kind == mimiuri.Room) {
		return u, true
	}
	a, err := prepare(strings.ReplaceAll(trimXMPP(uri), "%25", "%"))
	if err != nil {
		return mimiuri.URI{}, false
	}
	if a.domain != s.rooms {
		return s.user(a.bare())
	}
	u, ok := s.addresses.room(a.local)
	if !ok || a.resource == "" {
		return u, ok
	}
	if u != t.room || t.r == nil {
		return mimiuri.URI{}, false
	}
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	if m := t.r.nicks[nickKey(a.resource)]; m != nil {
		return m.user, true
	}
	return mimiuri.URI{}, false
}

// textPart makes a part of a text: plain if there is no markup in it (XEP-0393) and no mention, else GFM-MIMI.
func (s *service) textPart(body string, refs []content.Reference, unstyled bool) content.Part {
	o := content.TextOptions{Styled: !unstyled, References: refs}
	md := content.TextToMarkdown(body, &o)
	if _, plain := content.MarkdownIsPlain(md); plain && len(refs) == 0 {
		return content.TextPart(body)
	}
	o.Autolink = true
	return content.MarkdownPart(content.TextToMarkdown(body, &o))
}

// geoloc says a place in words (XEP-0080), for people and as a geo: URI.
func geoloc(e *element) string {
	if e == nil {
		return ""
	}
	lat, err1 := strconv.ParseFloat(strings.TrimSpace(e.text(nsGeoloc, "lat")), 64)
	lon, err2 := strconv.ParseFloat(strings.TrimSpace(e.text(nsGeoloc, "lon")), 64)
	if err1 != nil || err2 != nil || lat < -90 || lat > 90 || lon < -180 || lon > 180 {
		return ""
	}
	out := fmt.Sprintf("geo:%s,%s", strconv.FormatFloat(lat, 'f', -1, 64), strconv.FormatFloat(lon, 'f', -1, 64))
	if text := cut(strings.TrimSpace(e.text(nsGeoloc, "text")), 200); text != "" {
		out = text + " " + out
	}
	return out
}

// messageOrigin names a message by its bare JID and its origin-id (XEP-0359). Not all clients make one, and the
// plain ids of some begin anew with each session: then what it says is part of the name. A message without
// any id cannot be recognised when it is sent again.
func messageOrigin(in *packet, origin string) string {
	switch {
	case origin != "":
		return originID(in.from, "o", origin)
	case in.id != "":
		return originID(in.from, "i", in.id, payloadHash(in.kids))
	}
	return originID(in.from, "r", rand.Text())
}

// payloadHash tells what a stanza says from what another does.
func payloadHash(kids []*element) string {
	h := sha256.New()
	var b []byte
	for _, k := range kids {
		b = k.appendXML(b[:0], "")
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// messageNames reads the ids of a message, which have to fit into the hint.
func messageNames(in *packet, to string) (origin string, hints string, err error) {
	if o := find(in.kids, nsSID, "origin-id"); o != nil {
		origin = o.attr("id")
	}
	if len(in.id) > maxStanzaID || len(origin) > maxStanzaID {
		return "", "", errLongID
	}
	h, ok := hint{Kind: hintMessage, JID: in.from.String(), ID: in.id, Origin: origin, To: to}.encode()
	if !ok { // then it is only not known which resource to tell of a refusal
		if h, ok = (hint{Kind: hintMessage, ID: in.id, Origin: origin, To: to}).encode(); !ok {
			return "", "", errLongID
		}
	}
	return origin, h, nil
}

// can tells whether a participant's role holds a capability, by the view of the room that the members are from.
func can(info adapter.Room, u mimiuri.URI, c policy.Capability) bool {
	role, ok := info.RoleOf(u)
	return ok && role.Can(c)
}
