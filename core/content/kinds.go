package content

import (
	"errors"
	"fmt"
	"time"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Builders of the usual messages. What they give has no salt yet, see Message.Stamp; parts may be added and
// fields changed before that.

// TextPart is a part of plain text, to be rendered.
func TextPart(text string) Part {
	return Part{Disposition: Render, Cardinality: SinglePart, ContentType: TypePlain, Content: []byte(text)}
}

// MarkdownPart is a part of GFM-MIMI, to be rendered.
func MarkdownPart(md string) Part {
	return Part{Disposition: Render, Cardinality: SinglePart, ContentType: TypeMarkdown, Content: []byte(md)}
}

// HTMLPart is a part of HTML, to be rendered. Receivers need not understand it: it goes beside another (Alternatives).
func HTMLPart(src string) Part {
	return Part{Disposition: Render, Cardinality: SinglePart, ContentType: TypeHTML, Content: []byte(src)}
}

// ExternalBody is a part whose content is elsewhere.
func ExternalBody(d Disposition, contentType string, e External) Part {
	return Part{Disposition: d, Cardinality: ExternalPart, ContentType: contentType, External: &e}
}

// Alternatives are parts of which the receiver chooses one, the sender's favourite first; of one part that is itself.
func Alternatives(parts ...Part) Part { return multi(ChooseOne, parts) }

// Unit is parts that make sense only together.
func Unit(parts ...Part) Part { return multi(SingleUnit, parts) }

// Together is parts that are processed one by one.
func Together(parts ...Part) Part { return multi(ProcessAll, parts) }

func multi(s Semantics, parts []Part) Part {
	switch len(parts) {
	case 0:
		return Part{Disposition: Render}
	case 1:
		return parts[0]
	}
	return Part{Disposition: parts[0].Disposition, Cardinality: MultiPart, Semantics: s, Parts: parts}
}

// New is a message with a body.
func New(body Part) *Message { return &Message{Body: body} }

// Markdown is a message of GFM-MIMI, to be rendered.
func Markdown(md string) *Message { return New(MarkdownPart(md)) }

// Reply is a message in reply to a version of another (section "Reply").
func Reply(to MessageID, body Part) *Message { return &Message{InReplyTo: &to, Body: body} }

// Edit replaces a message's body (section "Edit"). first is the ID of the first version, inReplyTo what that version was a reply
// to, nil if it was none: an edit changes nothing but the body.
func Edit(first MessageID, inReplyTo *MessageID, body Part) *Message {
	return &Message{Replaces: &first, InReplyTo: inReplyTo, Body: body}
}

// Delete retracts a message (section "Delete"); the arguments are as of Edit.
func Delete(first MessageID, inReplyTo *MessageID) *Message {
	return &Message{Replaces: &first, InReplyTo: inReplyTo, Body: Part{Disposition: Render}}
}

// React is a reaction to a message (section "Reaction"): one or more texts, each usually an emoji, in a part of its own.
func React(to MessageID, reactions ...string) *Message {
	parts := make([]Part, 0, len(reactions))
	for _, r := range reactions {
		p := TextPart(r)
		p.Disposition = Reaction
		parts = append(parts, p)
	}
	body := Together(parts...)
	body.Disposition = Reaction
	return &Message{InReplyTo: &to, Body: body}
}

// Unlike takes a reaction back (section "Unlike"): reaction is the message that made it, to what it was a reaction to.
func Unlike(reaction, to MessageID) *Message {
	return &Message{Replaces: &reaction, InReplyTo: &to, Body: Part{Disposition: Reaction}}
}

// Attach is a message with a file (section "Attachments").
func Attach(contentType string, e External) *Message {
	return New(ExternalBody(Attachment, contentType, e))
}

// Join is a message with a URL by which to join a conference (section "Conferencing").
func Join(url, description string) *Message {
	return New(ExternalBody(Session, "", External{URL: url, Description: description}))
}

// ExpireAt lets a message expire at a time, to the second, and gives it back. A time that does not fit in, before
// 1970 or after 2106, lets it expire at the nearest that does.
func (m *Message) ExpireAt(t time.Time) *Message {
	m.Expires = &Expiration{Time: clampSeconds(t.Unix())}
	return m
}

// ExpireAfter lets a message expire a while after it was read, to the second, and gives it back.
func (m *Message) ExpireAfter(d time.Duration) *Message {
	m.Expires = &Expiration{Relative: true, Time: clampSeconds(int64(d / time.Second))}
	return m
}

func clampSeconds(n int64) uint32 { return uint32(max(0, min(n, 1<<32-1))) }

// Deadline gives when a message that arrived expires: read is when it was read, zero if it was not. ok is false if it
// does not expire, or not until it is read.
func (e *Expiration) Deadline(read time.Time) (t time.Time, ok bool) {
	switch {
	case e == nil, e.Relative && read.IsZero():
		return time.Time{}, false
	case e.Relative:
		return read.Add(time.Duration(e.Time) * time.Second), true
	}
	return time.Unix(int64(e.Time), 0).UTC(), true
}

// Kind says what a message is for.
type Kind uint8

const (
	KindMessage  Kind = iota // something to render: Classify.InReplyTo says if it is a reply
	KindEdit                 // a new body for another message
	KindDelete               // another message is retracted
	KindReaction             // one or more reactions to another message
	KindReact                // other reactions instead of those a message made
	KindUnlike               // the reactions a message made are taken back
	KindSession              // a conference to join
	KindProfile              // a profile or an avatar
	KindStatus               // a delivery or read report
	KindEmpty                // nothing
)

var kindNames = [...]string{"message", "edit", "delete", "reaction", "changed reaction", "unlike", "session", "profile", "status", "empty"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Class is what Classify finds out about a message.
type Class struct {
	Kind      Kind
	Target    MessageID  // KindEdit, KindDelete, KindUnlike, KindReact: Replaces; KindReaction: InReplyTo
	InReplyTo *MessageID // the message this one answers, reacts to, or answered before it was edited; nil for none
	Reactions []string   // KindReaction, KindReact: texts, each one reaction
	Files     []Chosen   // external parts and single ones that are no text, but for those in Inline
	Inline    []Chosen   // parts that a part of the text shows in itself, by their content IDs
	Mentions  []mimiuri.URI
	Expires   bool
}

// Classify says what a message is for, to the best understanding of plain text, GFM-MIMI and HTML. It does not say whether
// the sender may do it: whoever applies an edit, a delete or an unlike checks that the message it replaces is from the
// same sender (section "Rendering and authorization of edits and deletes").
func (m *Message) Classify() Class {
	c := Class{InReplyTo: m.InReplyTo, Expires: m.Expires != nil}
	parts := m.Choose(understands(nil))
	empty := m.Body.Cardinality == NullPart
	reaction := m.Body.Disposition == Reaction
	if !empty && !reaction && len(parts) > 0 {
		reaction = true
		for _, p := range parts {
			reaction = reaction && p.Disposition == Reaction
		}
	}
	for _, p := range parts {
		for _, i := range p.References {
			if ref, ok := m.PartAt(i); ok {
				c.Inline = append(c.Inline, Chosen{Index: i, Part: ref, Disposition: ref.Disposition})
			}
		}
		switch typ, _ := p.Part.mediaType(); {
		case reaction && p.Part.Cardinality == SinglePart && typ == "text/plain" && p.Part.isUTF8() && len(p.Part.Content) > 0:
			c.Reactions = append(c.Reactions, string(p.Part.Content))
		case p.Disposition == Session || p.Disposition == Profile || p.Disposition == Icon || isText(typ) && p.Part.Cardinality == SinglePart:
		default:
			c.Files = append(c.Files, p)
		}
	}
	c.Mentions = m.Mentions(nil)
	switch {
	case empty && m.Replaces == nil:
		c.Kind = KindEmpty
	case empty && reaction:
		c.Kind, c.Target = KindUnlike, *m.Replaces
	case empty:
		c.Kind, c.Target = KindDelete, *m.Replaces
	case reaction && m.Replaces != nil:
		c.Kind, c.Target = KindReact, *m.Replaces
	case reaction && m.InReplyTo != nil:
		c.Kind, c.Target = KindReaction, *m.InReplyTo
	case m.Replaces != nil:
		c.Kind, c.Target = KindEdit, *m.Replaces
	case len(parts) > 0 && all(parts, func(p Chosen) bool { return p.Disposition == Session }):
		c.Kind = KindSession
	case len(parts) > 0 && all(parts, func(p Chosen) bool { return p.Disposition == Profile || p.Disposition == Icon }):
		c.Kind = KindProfile
	case len(parts) == 1 && isStatus(parts[0].Part):
		c.Kind = KindStatus
	}
	return c
}

func all(list []Chosen, f func(Chosen) bool) bool {
	for _, p := range list {
		if !f(p) {
			return false
		}
	}
	return true
}

func isText(typ string) bool {
	return typ == "text/plain" || typ == "text/markdown" || typ == "text/html" || typ == MediaTypeStatus
}

func isStatus(p *Part) bool {
	typ, _ := p.mediaType()
	return p.Cardinality == SinglePart && typ == MediaTypeStatus
}

// understands ranks what this package can do something with: GFM-MIMI first, as it has more than plain text has and is
// written by the sender, then HTML and plain text, then files of any kind. languages may be nil.
func understands(languages []string) Capabilities {
	return Capabilities{Languages: languages, Rank: func(typ string, params map[string]string, p *Part) int {
		switch {
		case p.Cardinality == ExternalPart:
			return 2
		case (typ == "text/markdown" || typ == "text/html" || typ == "text/plain") && !p.isUTF8():
			return 0
		case typ == "text/markdown":
			return 6
		case typ == "text/html":
			return 5
		case typ == "text/plain":
			return 4
		case typ == MediaTypeStatus:
			return 3
		case typ == "", typ == MediaType:
			return 0
		case len(typ) > 6 && (typ[:6] == "image/" || typ[:6] == "audio/" || typ[:6] == "video/"):
			return 2
		}
		return 1
	}}
}

// texts gives the chosen parts that are text to be rendered.
func (m *Message) texts(languages []string) (list []Chosen) {
	for _, p := range m.Choose(understands(languages)) {
		typ, _ := p.Part.mediaType()
		if isText(typ) && typ != MediaTypeStatus && p.Part.Cardinality == SinglePart && (p.Disposition <= Render || p.Disposition == Inline) {
			list = append(list, p)
		}
	}
	return list
}

// tree reads a part of text.
func (p *Part) tree(o *RichOptions) *node {
	switch typ, _ := p.mediaType(); typ {
	case "text/markdown":
		return parseMarkdown(string(p.Content), o)
	case "text/html":
		return parseHTML(string(p.Content), o)
	}
	return parseText(string(p.Content), nil)
}

// textTree puts together all that is text and to be rendered; ok is false if there is none.
func (m *Message) textTree(o *RichOptions, languages []string) (doc *node, ok bool) {
	doc = &node{kind: kindDoc}
	for _, p := range m.texts(languages) {
		doc.kids = append(doc.kids, p.Part.tree(o).kids...)
		ok = true
	}
	return doc, ok
}

// HTML gives what the message wants rendered as HTML of the subset of MarkdownToHTML, for readers of some languages (nil for
// any); ok is false if it has no text.
func (m *Message) HTML(o *RichOptions, languages ...string) (html string, ok bool) {
	doc, ok := m.textTree(o, languages)
	return writeHTML(doc.resolved(o)), ok
}

// ReadableText gives what the message wants rendered as plain text without Markdown in it, with the marks of XEP-0393, and
// the mentions in it. ok is false if it has no text.
func (m *Message) ReadableText(o *RichOptions, languages ...string) (text string, refs []Reference, ok bool) {
	// Text that is plain goes through as it is.
	if list := m.texts(languages); len(list) == 1 {
		if typ, _ := list[0].Part.mediaType(); typ == "text/plain" {
			return string(list[0].Part.Content), nil, true
		}
	}
	doc, ok := m.textTree(o, languages)
	text, refs = writeText(doc.resolved(o), true)
	return text, refs, ok
}

// Mentions gives the mimi URIs of users and rooms that the message's text links to, each once.
func (m *Message) Mentions(o *RichOptions) []mimiuri.URI {
	doc, _ := m.textTree(o, nil)
	return doc.mentions()
}

// ErrImplausible is what Check finds in a message that was well encoded.
var ErrImplausible = errors.New("content: implausible message")

// maxTopic is the longest topicId that makes sense (section "General handling").
const maxTopic = 4096

// Check holds a message that arrived against what the draft calls nonsensical (section "General handling"): such messages are to be
// discarded. accepted is when the hub accepted it. Errors wrap ErrImplausible.
func (m *Message) Check(accepted time.Time) error {
	for _, ref := range []*MessageID{m.Replaces, m.InReplyTo} {
		if ref != nil && ref[0] != HashSHA256 {
			return fmt.Errorf("%w: a message ID of an unknown hash algorithm", ErrImplausible)
		}
	}
	if len(m.TopicID) > maxTopic {
		return fmt.Errorf("%w: a topicId of %d octets", ErrImplausible, len(m.TopicID))
	}
	const year = 366 * 24 * time.Hour
	if e := m.Expires; e != nil {
		d := time.Duration(e.Time) * time.Second
		if !e.Relative {
			d = time.Unix(int64(e.Time), 0).Sub(accepted)
		}
		if d > year || d < -year {
			return fmt.Errorf("%w: it expires more than a year away", ErrImplausible)
		}
	}
	return nil
}

// Authorized reports whether next may edit or delete first, by the rule for everybody: from the same sender, and not
// changing anything but the body. Rooms may allow more. senders are the users that MLS says they are from.
func Authorized(first, next *Message, firstSender, nextSender mimiuri.URI) bool {
	return firstSender == nextSender && !firstSender.IsZero() && sameRef(first.InReplyTo, next.InReplyTo) && string(first.TopicID) == string(next.TopicID)
}

func sameRef(a, b *MessageID) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
