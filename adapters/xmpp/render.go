package xmpp

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// classified is a message event with what is known of the messages it refers to.
type classified struct {
	ev     adapter.Event
	c      content.Class
	row    messageRow
	target *messageRow // what it edits, deletes, reacts to or takes back; nil if that is not known here
	// subject is the message that a reaction, changed or taken back, is about.
	subject *messageRow
	void    bool // refers to what is not known, or to what its sender may not change: nothing is shown or kept
}

// classify reads a message event. may tells whether the sender may delete the messages of others. It changes nothing.
func (s *service) classify(ctx context.Context, ev adapter.Event, may bool) (*classified, error) {
	k := &classified{ev: ev, c: ev.Content.Classify()}
	k.row = messageRow{
		mimi: ev.ID, seq: ev.Seq, at: ev.Time, sender: ev.Sender, kind: k.c.Kind, id: ev.ID.String(),
		reply: k.c.InReplyTo, topic: ev.Content.TopicID, body: int64(ev.Seq),
	}
	if h := readHint(ev.Origin); h.Kind == hintMessage || h.Kind == hintPlumb {
		if h.ID != "" {
			k.row.id = h.ID
		}
		k.row.origin = h.Origin
	}
	if k.c.Kind == content.KindMessage && len(k.c.Reactions) > 0 {
		k.void = true // a reaction to nothing
		return k, nil
	}
	if k.c.Kind == content.KindMessage || k.c.Kind == content.KindSession || k.c.Kind == content.KindEmpty || k.c.Kind == content.KindProfile || k.c.Kind == content.KindStatus {
		return k, nil
	}
	id := k.c.Target
	k.row.target = &id
	var err error
	if k.target, err = s.db.message(ctx, ev.Room, id); err != nil {
		return nil, err
	}
	switch {
	case k.c.Kind == content.KindReaction:
		k.subject = k.target
		k.row.reply = nil
		k.void = k.target == nil
	case k.target == nil:
		// An edit of what was not seen is a message of its own.
		k.void = k.c.Kind != content.KindEdit
		if !k.void {
			k.row.kind, k.row.target = content.KindMessage, nil
		}
	case k.target.isReaction():
		if k.target.target != nil {
			if k.subject, err = s.db.message(ctx, ev.Room, *k.target.target); err != nil {
				return nil, err
			}
		}
		k.void = k.subject == nil || k.target.sender != ev.Sender && !may || k.c.Kind == content.KindEdit
		if k.c.Kind == content.KindDelete {
			k.c.Kind, k.row.kind = content.KindUnlike, content.KindUnlike
		}
	case k.c.Kind == content.KindDelete:
		k.void = k.target.sender != ev.Sender && !may
	case k.c.Kind == content.KindEdit:
		k.void = k.target.sender != ev.Sender || k.target.kind != content.KindMessage && k.target.kind != content.KindSession
	default:
		k.void = true // reactions instead of a message
	}
	return k, nil
}

// voice is who says something to whom, as stanzas have it.
type voice struct {
	typ      string // groupchat or chat
	from     addr
	by       addr // who gives stanza-ids; zero in a chat
	occupant *element
	nick     *element
	name     string // of the sender
	// nickOf gives what people are called in this place, and their address in it; ok is false for people who are not there.
	nickOf func(mimiuri.URI) (nick string, at addr, ok bool)
	direct bool
	ref    func(*messageRow) string // how this place names a message; nil is the usual way
}

// refer names a message as stanzas in this place do.
func (v *voice) refer(m *messageRow) string {
	if v.ref != nil {
		return v.ref(m)
	}
	return m.ref(v.direct)
}

// stanza begins a message. The id is the sender's for own messages, and the MIMI ID otherwise: the same whenever it is shown.
func (v *voice) stanza(k *classified, suffix string) *element {
	id := k.row.id + suffix
	e := el("", "message", "type", v.typ, "from", v.from.String(), "id", id)
	if k.row.origin != "" {
		e.add(el(nsSID, "origin-id", "id", k.row.origin+suffix))
	}
	if !v.by.isZero() {
		e.add(el(nsSID, "stanza-id", "id", k.ev.ID.String()+suffix, "by", v.by.String()))
	}
	return e.add(v.occupant, v.nick)
}

// render gives the stanzas that show a message, without to: none for what XMPP does not show.
func (s *service) render(ctx context.Context, k *classified, v *voice) ([]*element, error) {
	if k.void {
		return nil, nil
	}
	switch k.c.Kind {
	case content.KindMessage, content.KindEdit, content.KindSession:
		return s.renderText(ctx, k, v)
	case content.KindDelete:
		return []*element{renderRetraction(k, v)}, nil
	case content.KindReaction, content.KindReact, content.KindUnlike:
		return s.renderReactions(ctx, k, v)
	}
	return nil, nil
}

func renderRetraction(k *classified, v *voice) *element {
	e := v.stanza(k, "")
	ref := v.refer(k.target)
	if k.target.sender != k.ev.Sender && !v.direct { // by a moderator (XEP-0425): from the room itself
		by := v.from.String()
		e.set("from", v.from.bare().String())
		e.Kids = e.Kids[:0]
		e.add(el(nsSID, "stanza-id", "id", k.ev.ID.String(), "by", v.by.String()))
		e.add(el(nsRetract, "retract", "id", ref).add(el(nsModerate, "moderated", "by", by).add(v.occupant)))
		e.add(el(nsFasten, "apply-to", "id", ref).add(el(nsModerate0, "moderated", "by", by).add(el(nsRetract0, "retract"))))
		return e.add(el(nsHints, "store"))
	}
	e.add(el(nsRetract, "retract", "id", ref), el(nsFasten, "apply-to", "id", ref).add(el(nsRetract0, "retract")))
	e.add(textEl("", "body", textRetracted), el(nsFallback, "fallback", "for", nsRetract))
	return e.add(el(nsHints, "store"))
}

// renderReactions says all reactions that the sender has to the message now.
func (s *service) renderReactions(ctx context.Context, k *classified, v *voice) ([]*element, error) {
	rows, err := s.db.reactions(ctx, k.ev.Room, k.subject.mimi, k.ev.Sender)
	if err != nil {
		return nil, err
	}
	e := el(nsReactions, "reactions", "id", v.refer(k.subject))
	seen := make(map[string]bool)
	add := func(list []string) {
		for _, text := range list {
			if text != "" && !seen[text] && len(seen) < maxReactions {
				seen[text] = true
				e.add(textEl(nsReactions, "reaction", text))
			}
		}
	}
	var seqs []uint64
	for _, r := range rows {
		if r.body > 0 {
			seqs = append(seqs, uint64(r.body))
		}
	}
	if len(seqs) > 500 {
		seqs = seqs[:500]
	}
	if len(seqs) > 0 {
		events, err := s.host.History(ctx, k.ev.Room, seqs)
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			if ev.Content != nil {
				add(ev.Content.Classify().Reactions)
			}
		}
	}
	return []*element{v.stanza(k, "").add(e, el(nsHints, "store"))}, nil
}

// maxQuote is how many octets of a message are quoted for clients that do not show what a message is a reply to.
const maxQuote = 240

// renderText shows a message, an edit, or an invitation to a call.
func (s *service) renderText(ctx context.Context, k *classified, v *voice) ([]*element, error) {
	t := s.readable(k.ev, v)
	var extra []*element
	if k.c.Kind == content.KindEdit && k.target != nil {
		id := k.target.id
		extra = append(extra, el(nsCorrect, "replace", "id", id))
	}
	if len(k.ev.Content.TopicID) > 0 {
		extra = append(extra, textEl("", "thread", threadOf(k.ev.Content.TopicID)))
	}
	if n, ok := ephemeral(k.ev); ok {
		extra = append(extra, el(nsEphemeral, "ephemeral", "timer", strconv.FormatUint(n, 10)))
	}
	files, err := s.renderFiles(ctx, k, v)
	if err != nil {
		return nil, err
	}
	quote := ""
	if k.c.InReplyTo != nil {
		target, err := s.db.message(ctx, k.ev.Room, *k.c.InReplyTo)
		if err != nil {
			return nil, err
		}
		if target != nil {
			to, name := v.author(s, target.sender)
			if ev, ok, err := s.event(ctx, k.ev.Room, target.body); err != nil {
				return nil, err
			} else if ok {
				quote = quoted(name, s.readable(ev, v).text)
			}
			extra = append(extra, el(nsReply, "reply", "to", to.String(), "id", v.refer(target)))
		}
	}
	text := t.text
	if text == "" && len(files) == 0 {
		text = textUnknown
	}
	if text != "" {
		n := utf8.RuneCountInString(quote)
		if n > 0 {
			for _, ns := range []string{nsFallback, nsFallback0} {
				extra = append(extra, el(ns, "fallback", "for", nsReply).add(el(ns, "body", "start", "0", "end", strconv.Itoa(n))))
			}
		}
		for _, r := range t.refs {
			extra = append(extra, el(nsReference, "reference", "type", "mention", "begin", strconv.Itoa(r.Begin+n), "end", strconv.Itoa(r.End+n), "uri", r.URI))
		}
		text = quote + text
	}
	if t.unstyled {
		extra = append(extra, el(nsStyling, "unstyled"))
	}
	var out []*element
	parts, attached := []string(nil), []*element(nil)
	if text != "" {
		if parts, attached, err = s.fitted(ctx, k, v, text); err != nil {
			return nil, err
		}
	}
	for i, body := range parts {
		suffix := ""
		if i > 0 {
			suffix = "." + strconv.Itoa(i+1)
		}
		e := v.stanza(k, suffix)
		b := textEl("", "body", body)
		b.set("xml:lang", t.lang)
		e.Kids = append([]*element{b}, e.Kids...)
		if i == 0 {
			e.add(extra...)
			e.add(el(nsMarkers, "markable"))
			if v.direct {
				e.add(el(nsReceipts, "request"))
			}
		}
		out = append(out, e)
	}
	files = append(attached, files...)
	for i, f := range files {
		suffix := ""
		if len(out) > 0 {
			suffix = ".f" + strconv.Itoa(i+1)
		}
		e := v.stanza(k, suffix)
		e.Kids = append(append([]*element(nil), f.Kids...), e.Kids...)
		if len(out) == 0 {
			e.add(extra...)
			e.add(el(nsMarkers, "markable"))
			if v.direct {
				e.add(el(nsReceipts, "request"))
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// author gives the address and the name of a message's sender in this place.
func (v *voice) author(s *service, u mimiuri.URI) (addr, string) {
	if nick, at, ok := v.nickOf(u); ok {
		return at, nick
	}
	return s.userJID(u), fullName(u)
}

// quoted is the beginning of a text as a quotation (XEP-0393), with a line feed behind it.
func quoted(name, text string) string {
	if text == "" {
		return ""
	}
	lines := strings.Split(text, "\n")
	var keep []string
	for _, l := range lines {
		if strings.HasPrefix(l, ">") || strings.TrimSpace(l) == "" {
			continue // quotations within the quotation
		}
		keep = append(keep, l)
	}
	more := len(keep) > 3
	if more {
		keep = keep[:3]
	}
	short := strings.Join(keep, "\n")
	if c := cut(short, maxQuote); c != short {
		short, more = c, true
	}
	if short == "" {
		return ""
	}
	if more {
		short += " …"
	}
	out := "> " + name + ":\n"
	for _, l := range strings.Split(short, "\n") {
		out += "> " + l + "\n"
	}
	return out
}

// readableText is what is shown of a message as text.
type readableText struct {
	text, lang string
	refs       []content.Reference // URIs are those of XMPP
	unstyled   bool                // has marks of XEP-0393 that are not meant as such
}

func (s *service) readable(ev adapter.Event, v *voice) (t readableText) {
	c := ev.Content
	if c == nil {
		return t
	}
	o := &content.RichOptions{Mention: func(u mimiuri.URI, text string) (string, string) {
		if nick, _, ok := v.nickOf(u); ok {
			return "", nick
		}
		if text != "" {
			return "", text
		}
		if u.Kind == mimiuri.Room {
			return "", s.roomJID(u).String()
		}
		return "", fullName(u)
	}}
	class := c.Classify()
	text, refs, ok := c.ReadableText(o)
	if !ok && class.Kind == content.KindSession {
		for _, p := range c.Choose(content.Capabilities{Rank: func(string, map[string]string, *content.Part) int { return 1 }}) {
			if x := p.Part.External; x != nil && p.Disposition == content.Session {
				text = strings.TrimSpace(textCall + " " + cut(x.Description, 500) + "\n" + cut(x.URL, 2000))
				break
			}
		}
	}
	t.text = text
	for _, r := range refs {
		u, err := mimiuri.Parse(r.URI)
		if err != nil || len(t.refs) >= maxReferences {
			continue
		}
		switch {
		case u.Kind == mimiuri.Room:
			r.URI = xmppURI(s.roomJID(u)) + "?join"
		case u.Kind == mimiuri.User:
			r.URI = xmppURI(s.userJID(u))
		}
		t.refs = append(t.refs, r)
	}
	if c.Body.Cardinality == content.SinglePart {
		t.lang, _, _ = strings.Cut(c.Body.Language, ",")
		if strings.HasPrefix(c.Body.ContentType, "text/plain") && text != "" {
			_, plain := content.MarkdownIsPlain(content.TextToMarkdown(text, &content.TextOptions{Styled: true}))
			t.unstyled = !plain
		}
	}
	if !isLang(t.lang) {
		t.lang = ""
	}
	return t
}

// xmppURI writes an address as a URI (RFC 5122): of what local parts here may have, the percent sign is the one
// that has to be escaped.
func xmppURI(a addr) string { return "xmpp:" + strings.ReplaceAll(a.String(), "%", "%25") }

// threadOf says a topic as a thread: its text if it is one, else its octets.
func threadOf(topic []byte) string {
	if utf8.Valid(topic) {
		ok := true
		for _, r := range string(topic) {
			ok = ok && r >= ' ' && isXMLChar(r)
		}
		if ok {
			return string(topic)
		}
	}
	return "~" + base32hex.EncodeToString(topic)
}

// topicOf undoes threadOf.
func topicOf(thread string) []byte {
	if strings.HasPrefix(thread, "~") {
		if b, err := base32hex.DecodeString(thread[1:]); err == nil && threadOf(b) == thread {
			return b
		}
	}
	return []byte(thread)
}

// ephemeral gives in how many seconds a message disappears (XEP-0466).
func ephemeral(ev adapter.Event) (uint64, bool) {
	e := ev.Content.Expires
	if e == nil {
		return 0, false
	}
	if e.Relative {
		return uint64(e.Time), e.Time > 0
	}
	left := time.Unix(int64(e.Time), 0).Sub(ev.Time)
	if left < time.Second {
		return 1, true
	}
	return uint64(left / time.Second), true
}

// expired tells whether a message is not to be shown any more.
func expired(ev adapter.Event, now time.Time) bool {
	if ev.Content == nil || ev.Content.Expires == nil {
		return false
	}
	e := ev.Content.Expires
	if e.Relative {
		return now.After(ev.Time.Add(time.Duration(e.Time) * time.Second))
	}
	return now.After(time.Unix(int64(e.Time), 0))
}

// mayDelete tells whether a user may delete what others wrote.
func mayDelete(info adapter.Room, u mimiuri.URI) bool {
	return can(info, u, policy.CanDeleteOtherMessage)
}

// split cuts a text into parts of at most max octets as XML, at a line's or a word's end where there is one in the
// last quarter of the part.
func split(s string, max int) []string {
	var out []string
	for {
		size, end, good := 0, len(s), 0
		for i, r := range s {
			n := xmlSize(r)
			if size+n > max {
				end = i
				break
			}
			size += n
			if (r == '\n' || r == ' ') && size > max*3/4 && (r == '\n' || good == 0 || s[good-1] != '\n') {
				good = i + 1
			}
		}
		if end == len(s) {
			return append(out, s)
		}
		if good > 0 {
			end = good
		}
		out = append(out, s[:end])
		s = s[end:]
	}
}

// xmlSize is how many octets a character has in XML.
func xmlSize(r rune) int {
	switch r {
	case '&', '\r':
		return 5
	case '<', '>':
		return 4
	case '"', '\'':
		return 6
	}
	return utf8.RuneLen(r)
}
