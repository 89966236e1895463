package content

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Media types of text, as this package writes them.
const (
	TypePlain    = "text/plain;charset=utf-8"
	TypeMarkdown = "text/markdown;variant=GFM-MIMI"
	TypeHTML     = "text/html;charset=utf-8"
)

// Rich text goes between GFM-MIMI (section "Specifics of Github Flavored Markdown in MIMI"), HTML and plain text by way
// of one tree, which holds what GFM-MIMI can say and nothing else. Every converter is total: any input, also
// one that is no UTF-8, gives some output; none panics, and the time each takes is bounded (see scan and
// parseHTML). They may be called concurrently, callbacks included.

// RichOptions says how links, mentions and images are carried over. The zero value and nil leave mentions as
// links with the mimi scheme and turn images into links.
type RichOptions struct {
	// Mention is asked, on the way from Markdown, for each link to a mimi URI (of any kind) what the network calls it.
	// text is the plain text of the link, empty if the sender expressed no wish (an autolink). An empty href leaves
	// the display text alone without a link; an empty display keeps the sender's text, or the URI if there is none.
	Mention func(u mimiuri.URI, text string) (href, display string)

	// Resolve is asked, on the way from HTML, for each link whether it leads to somebody or something with a
	// mimi URI. An empty display keeps the text of the link.
	Resolve func(href, text string) (u mimiuri.URI, display string, ok bool)

	// Image is asked for the address under which an image is found on the other side: src is what stood in the source
	// (https, cid, mxc …). Without it, or where ok is false, an image becomes a link to it if its
	// scheme is allowed, else its alternative text: nothing is loaded that nobody asked for.
	Image func(src string) (string, bool)

	// Autolink makes links of bare http and https URLs on the way to Markdown: GFM-MIMI has no extension that
	// would do it at the receiver.
	Autolink bool
}

// MarkdownToHTML renders GFM-MIMI as HTML of the subset that Matrix calls org.matrix.custom.html; table cells have an align
// attribute beside it, and task list items begin with ☐ or ☑. Of a single paragraph the p element is left
// out. HTML tags in md are text, and links whose scheme is not allowed lose their target.
func MarkdownToHTML(md string, o *RichOptions) string {
	return writeHTML(parseMarkdown(md, o).resolved(o))
}

// HTMLToMarkdown renders HTML as GFM-MIMI. What Markdown cannot say is dropped and its text stays (underline, colours,
// fonts); a spoiler stands between || and its reason before it in brackets; mathematics becomes code; mx-reply, scripts
// and styles go with what they contain. Elements nested too deeply lose their markup, not their text.
func HTMLToMarkdown(src string, o *RichOptions) string {
	return writeMarkdown(parseHTML(src, o), o)
}

// CleanHTML reduces HTML to what HTMLToMarkdown can carry and writes it as MarkdownToHTML would: HTML from a peer
// made fit for a network. Mentions go by o.Mention, images by o.Image.
func CleanHTML(src string, o *RichOptions) string {
	read := &RichOptions{}
	if o != nil {
		read.Image = o.Image
	}
	return writeHTML(parseHTML(src, read).resolved(o))
}

// MarkdownToText renders GFM-MIMI as plain text, with the marks that XEP-0393 gives a meaning where there is one
// (*strong*, _emphasis_, ~struck~, `code`, > quotation). Links stand as "text (URL)", mentions as their text.
func MarkdownToText(md string, o *RichOptions) string {
	s, _ := MarkdownToTextReferences(md, o)
	return s
}

// MarkdownToTextReferences is MarkdownToText and tells where in the result the mentions stand.
func MarkdownToTextReferences(md string, o *RichOptions) (string, []Reference) {
	return writeText(parseMarkdown(md, o).resolved(o), true)
}

// HTMLToText is MarkdownToText for HTML; mentions are links with the mimi scheme or what o.Resolve makes one.
func HTMLToText(src string, o *RichOptions) string {
	s, _ := writeText(parseHTML(src, o).resolved(o), true)
	return s
}

// MarkdownIsPlain reports whether md has no markup at all, and gives the text that it is.
func MarkdownIsPlain(md string) (text string, plain bool) {
	d := parseMarkdown(md, nil)
	for _, p := range d.kids {
		if p.kind != kindPara {
			return "", false
		}
		for _, k := range p.kids {
			if k.kind != kindText && k.kind != kindSoft && k.kind != kindHard {
				return "", false
			}
		}
	}
	text, _ = writeText(d, false)
	return text, true
}

// Reference is a mention in plain text: the code points from Begin up to but not including End stand for URI
// (as XEP-0372 counts them).
type Reference struct {
	Begin, End int
	URI        string
}

// TextOptions says how plain text becomes Markdown. The zero value and nil take every character literally.
type TextOptions struct {
	Styled     bool        // marks of XEP-0393 are markup
	Autolink   bool        // bare http and https URLs become links
	References []Reference // mentions: become links, in order of Begin; those that overlap or lead outside are ignored
}

// TextToMarkdown writes plain text as GFM-MIMI that renders as that text, line for line: characters that would be markup
// are escaped, line ends are hard breaks, empty lines part paragraphs.
func TextToMarkdown(text string, o *TextOptions) string {
	return writeMarkdown(parseText(text, o), nil)
}

// Mention writes a link to a user or room for use in Markdown. display is plain text; if it is empty the
// receiver chooses.
func Mention(u mimiuri.URI, display string) string {
	if display == "" {
		return "<" + autolinkSafe(u.String()) + ">"
	}
	n := &node{kind: kindLink, href: u.String(), kids: []*node{{kind: kindText, text: oneLine(display)}}}
	return writeMarkdown(&node{kind: kindDoc, kids: []*node{{kind: kindPara, kids: tidy([]*node{n}, 0)}}}, nil)
}

// EscapeMarkdown is TextToMarkdown for a piece of text inside a line, such as a name: line ends become spaces.
func EscapeMarkdown(text string) string { return TextToMarkdown(oneLine(text), nil) }

// MentionsIn gives the mimi URIs of users and rooms that the Markdown links to, each once, in order.
func MentionsIn(md string) []mimiuri.URI { return parseMarkdown(md, nil).mentions() }

// MentionsInHTML is MentionsIn for HTML.
func MentionsInHTML(src string, o *RichOptions) []mimiuri.URI { return parseHTML(src, o).mentions() }

// nodeKind is the kind of a node of the tree.
type nodeKind uint8

const (
	kindDoc nodeKind = iota
	// Blocks.
	kindPara
	kindHeading // level
	kindQuote
	kindList // ordered, level, tight; kids are items
	kindItem // task
	kindCode // text without the final line feed, title
	kindRule
	kindTable // title; kids are rows, the first is the header
	kindRow
	kindCell
	// Inlines.
	kindText // text without line feeds
	kindSoft // a line end that may be shown as a space
	kindHard
	kindEm
	kindStrong
	kindStrike
	kindCodeSpan // text
	kindLink     // href, title, auto
	kindImage    // href, title, text
)

// Values of node.task.
const (
	taskNone uint8 = iota
	taskOpen
	taskDone
)

// node is a node of the tree of a rich text. There may be one for every octet of a message, so fields that no two
// kinds need at once are shared.
type node struct {
	kind    nodeKind
	task    uint8
	ordered bool
	tight   bool
	auto    bool  // link: its text is its URL
	mention bool  // link: it was one to a mimi URI, which now is text, before Mention replaced it
	joined  bool  // tidy made it, so tidy may append to it
	level   int32 // heading: 1 to 6; list: its first number
	kids    []*node
	text    string
	href    string // checked by cleanURL; empty only on the way to a network, where Mention gave none
	title   string // link, image: the title; code: the language; table: an align for each column
}

// align is how a column of a table is aligned.
type align = byte

const (
	alignNone align = iota
	alignLeft
	alignCenter
	alignRight
)

// maxNest is how deep quotations and lists nest in a tree; what is deeper is taken out of its container.
const maxNest = 16

// maxColumns bounds the columns of a table: what a row has beyond goes into the last cell.
const maxColumns = 100

// flags of tidy: what the nodes stand in.
const (
	inEm = 1 << iota
	inStrong
	inStrike
	inLink
)

func flagOf(k nodeKind) int {
	switch k {
	case kindEm:
		return inEm
	case kindStrong:
		return inStrong
	case kindStrike:
		return inStrike
	case kindLink:
		return inLink
	}
	return 0
}

// tidy brings inlines into the form that the writers rely on: neighbours of one kind are one, nothing
// stands inside its like, no markup is empty or has white space at its edges, no white space around breaks.
func tidy(list []*node, inside int) []*node {
	return joinTexts(trimBreaks(tidyInto(nil, list, inside)))
}

func tidyInto(out, list []*node, inside int) []*node {
	for _, n := range list {
		f := flagOf(n.kind)
		switch {
		case n.kind == kindCodeSpan && inside&inLink != 0 && strings.Contains(n.text, "]:"):
			// At the beginning of a paragraph this would be read as a link reference definition.
			out = append(out, &node{kind: kindText, text: n.text})
		case f == 0:
			out = appendInline(out, n)
		case inside&f != 0:
			out = tidyInto(out, n.kids, inside)
		default:
			kids := trimBreaks(tidyInto(nil, n.kids, inside|f))
			lead, kids, trail := splitSpace(kids)
			if len(kids) == 0 && n.kind == kindLink && n.href != "" {
				kids = []*node{{kind: kindText, text: n.href}}
			}
			for _, k := range lead {
				out = appendInline(out, k)
			}
			if len(kids) > 0 {
				c := *n
				c.kids = kids
				c.joined = false
				if c.kind == kindLink {
					k := joinTexts(kids)
					c.auto = len(k) == 1 && k[0].kind == kindText && k[0].text == c.href
				}
				out = appendInline(out, &c)
			}
			for _, k := range trail {
				out = appendInline(out, k)
			}
		}
	}
	return out
}

// appendInline appends n, which is not changed, and joins it with the last one if both are the same markup.
func appendInline(list []*node, n *node) []*node {
	if n.kind == kindText && n.text == "" {
		return list
	}
	if len(list) == 0 {
		return append(list, n)
	}
	last := list[len(list)-1]
	if last.kind != n.kind || n.kind != kindEm && n.kind != kindStrong && n.kind != kindStrike {
		return append(list, n)
	}
	if !last.joined {
		last = &node{kind: last.kind, joined: true, kids: append([]*node(nil), last.kids...)}
		list[len(list)-1] = last
	}
	for _, k := range n.kids {
		last.kids = appendInline(last.kids, k)
	}
	return list
}

// joinTexts makes one of neighbouring texts and of neighbouring code spans, at all levels.
func joinTexts(list []*node) []*node {
	out := make([]*node, 0, len(list))
	for i := 0; i < len(list); {
		n := list[i]
		j := i + 1
		if n.kind == kindText || n.kind == kindCodeSpan {
			for ; j < len(list) && list[j].kind == n.kind; j++ {
			}
		}
		if j > i+1 {
			var b strings.Builder
			for _, k := range list[i:j] {
				b.WriteString(k.text)
			}
			n = &node{kind: n.kind, text: b.String()}
		} else if len(n.kids) > 0 {
			c := *n
			c.kids = joinTexts(n.kids)
			n = &c // n may be in the tree that the caller keeps
		}
		out = append(out, n)
		i = j
	}
	return out
}

// splitSpace takes white space off the edges of inlines.
func splitSpace(list []*node) (lead, rest, trail []*node) {
	isBreak := func(n *node) bool { return n.kind == kindSoft || n.kind == kindHard }
	i, j := 0, len(list)
	var first, last *node // what is left of texts at the edges
	for ; i < j; i++ {
		if isBreak(list[i]) {
			lead = append(lead, list[i])
			continue
		}
		if list[i].kind != kindText {
			break
		}
		s := list[i].text
		t := strings.TrimLeftFunc(s, unicode.IsSpace)
		if len(t) < len(s) {
			lead = append(lead, &node{kind: kindText, text: s[:len(s)-len(t)]})
		}
		if t != "" {
			first = &node{kind: kindText, text: t}
			break
		}
	}
	for ; j > i; j-- {
		n := list[j-1]
		if j-1 == i && first != nil {
			n = first
		}
		if isBreak(n) {
			trail = append(trail, n)
			continue
		}
		if n.kind != kindText {
			break
		}
		t := strings.TrimRightFunc(n.text, unicode.IsSpace)
		if len(t) < len(n.text) {
			trail = append(trail, &node{kind: kindText, text: n.text[len(t):]})
		}
		if t != "" {
			last = &node{kind: kindText, text: t}
			break
		}
	}
	slices.Reverse(trail)
	rest = append(rest, list[i:j]...)
	if first != nil && len(rest) > 0 {
		rest[0] = first
	}
	if last != nil {
		rest[len(rest)-1] = last
	}
	return lead, rest, trail
}

// trimBreaks takes spaces off before breaks, and makes one of two soft breaks and of a soft and a hard one.
func trimBreaks(list []*node) []*node {
	out := make([]*node, 0, len(list))
	for _, n := range list {
		if n.kind == kindSoft || n.kind == kindHard {
			for len(out) > 0 && out[len(out)-1].kind == kindText {
				s := out[len(out)-1].text
				t := strings.TrimRight(s, " \t")
				if t == s {
					break
				}
				if out = out[:len(out)-1]; t != "" {
					out = append(out, &node{kind: kindText, text: t})
					break
				}
			}
			if len(out) > 0 {
				switch last := out[len(out)-1]; {
				case n.kind == kindSoft && (last.kind == kindSoft || last.kind == kindHard):
					continue
				case n.kind == kindHard && last.kind == kindSoft:
					out = out[:len(out)-1]
				}
			}
		}
		out = append(out, n)
	}
	return out
}

// trimEdges takes breaks off the edges of a block's inlines, and white space off its end; white space at the
// beginning stays if it was meant to be there (text), which only parseText and character references can say.
func trimEdges(list []*node) []*node {
	for len(list) > 0 && (list[0].kind == kindSoft || list[0].kind == kindHard) {
		list = list[1:]
	}
	for len(list) > 0 {
		last := list[len(list)-1]
		if last.kind == kindText {
			t := strings.TrimRight(last.text, " \t")
			if t == last.text {
				break
			}
			list = append([]*node(nil), list...)
			if t != "" {
				list[len(list)-1] = &node{kind: kindText, text: t}
				break
			}
		} else if last.kind != kindSoft && last.kind != kindHard {
			break
		}
		list = list[:len(list)-1]
	}
	return list
}

// flat makes breaks into spaces, for headings and table cells.
func flat(list []*node) []*node {
	out := make([]*node, 0, len(list))
	for _, n := range list {
		switch {
		case n.kind == kindSoft || n.kind == kindHard:
			n = &node{kind: kindText, text: " "}
		case len(n.kids) > 0:
			c := *n
			c.kids = flat(n.kids)
			n = &c
		}
		out = appendInline(out, n)
	}
	return out
}

// block makes a block of inlines, nil if there is nothing in it.
func block(k nodeKind, kids []*node) *node {
	kids = tidy(kids, 0)
	if k != kindPara {
		kids = tidy(flat(kids), 0)
	}
	kids = trimEdges(kids)
	if len(kids) == 0 && k != kindCell {
		return nil
	}
	if k != kindPara && len(kids) > 0 && kids[0].kind == kindText {
		t := strings.TrimLeft(kids[0].text, " \t")
		if t == "" {
			kids = kids[1:]
		} else {
			kids[0] = &node{kind: kindText, text: t}
		}
	}
	return &node{kind: k, kids: kids}
}

// nbsp stands in an item that has nothing in it, for which Markdown has no sure form.
const nbsp = "\u00a0"

// finishList brings a list into the form that the writers rely on, nil if there is none.
func finishList(l *node) *node {
	if len(l.kids) == 0 {
		return nil
	}
	for _, item := range l.kids {
		if len(item.kids) == 0 {
			item.kids = []*node{{kind: kindPara, kids: []*node{{kind: kindText, text: nbsp}}}}
			item.task = taskNone
		}
		if item.kids[0].kind != kindPara {
			item.task = taskNone
		}
	}
	if l.ordered {
		l.level = max(0, min(l.level, int32(999999999-len(l.kids)+1)))
	} else {
		l.level = 0
	}
	if len(l.kids) == 1 && len(l.kids[0].kids) == 1 {
		l.tight = true // nothing between which a blank line could stand
	}
	for _, item := range l.kids {
		for i := 1; i < len(item.kids); i++ {
			if !closeTo(item.kids[i-1], item.kids[i]) {
				l.tight = false
			}
		}
	}
	return l
}

// closeTo reports whether in Markdown b can follow a without a blank line.
func closeTo(a, b *node) bool {
	lazy := a.kind == kindPara || a.kind == kindQuote || a.kind == kindList || a.kind == kindTable
	switch b.kind {
	case kindPara, kindTable:
		return !lazy
	case kindQuote:
		return a.kind != kindQuote
	case kindList:
		return !lazy || !b.ordered || b.level == 1
	}
	return true
}

// resolved replaces the links to mimi URIs by what o.Mention says. The tree is not changed; parts of it are in the result.
func (n *node) resolved(o *RichOptions) *node {
	if o == nil {
		o = &RichOptions{}
	}
	if len(n.kids) == 0 {
		return n
	}
	c := *n
	if n.kind == kindLink && strings.HasPrefix(n.href, "mimi:") {
		if u, err := mimiuri.Parse(n.href); err == nil {
			c.mention, c.text = true, u.String()
			if o.Mention != nil {
				text := ""
				if !n.auto {
					text = plain(n.kids)
				}
				href, display := o.Mention(u, text)
				c.href, c.auto = "", false
				if clean, ok := cleanURL(href); ok {
					c.href = clean
				}
				if display = oneLine(display); display != "" {
					c.kids = []*node{{kind: kindText, text: display}}
				}
				return &c
			}
		}
	}
	c.kids = make([]*node, len(n.kids))
	for i, k := range n.kids {
		c.kids[i] = k.resolved(o)
	}
	return &c
}

func (n *node) mentions() (list []mimiuri.URI) {
	seen := make(map[mimiuri.URI]bool)
	var walk func(*node)
	walk = func(n *node) {
		if n.kind == kindLink {
			if u, err := mimiuri.Parse(n.href); err == nil && (u.Kind == mimiuri.User || u.Kind == mimiuri.Room) && !seen[u] {
				seen[u] = true
				list = append(list, u)
			}
		}
		for _, k := range n.kids {
			walk(k)
		}
	}
	walk(n)
	return list
}

// plain gives the text of inlines without marks.
func plain(list []*node) string {
	var b strings.Builder
	var walk func([]*node)
	walk = func(list []*node) {
		for _, n := range list {
			switch n.kind {
			case kindText, kindCodeSpan, kindImage:
				b.WriteString(n.text)
			case kindSoft, kindHard:
				b.WriteByte(' ')
			}
			walk(n.kids)
		}
	}
	walk(list)
	return b.String()
}

// oneLine makes text fit for a line: valid UTF-8, no control characters, line ends as spaces.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd")))
}

// cleanText makes text fit for the tree: valid UTF-8, line feeds for line ends, of the control characters only the tab.
func cleanText(s string) string {
	ok := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\n' && c != '\t' || c == 0x7f {
			ok = false
			break
		}
	}
	if ok && utf8.ValidString(s) {
		return s
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\r':
			return '\n'
		case r == 0:
			return '\ufffd'
		case r < ' ' && r != '\n' && r != '\t', r == 0x7f:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// maxURL bounds a link target in octets.
const maxURL = 4096

// schemes are those a link may have. None of them runs or shows anything without a further step by the user.
var schemes = map[string]bool{
	"http": true, "https": true, "mailto": true, "mimi": true, "im": true, "xmpp": true, "matrix": true, "tel": true,
	"sip": true, "sips": true, "geo": true, "magnet": true, "ftp": true, "irc": true, "ircs": true,
}

// cleanURL gives a link target with everything percent-encoded that is no character of a URL, ok false if it is none or
// its scheme is not allowed.
func cleanURL(s string) (string, bool) {
	s, scheme, ok := escapeURL(s)
	if !ok || !schemes[scheme] {
		return "", false
	}
	if rest := s[len(scheme)+1:]; scheme == "http" || scheme == "https" || scheme == "ftp" || scheme == "mimi" {
		if host, ok := strings.CutPrefix(rest, "//"); !ok || host == "" || host[0] == '/' {
			return "", false
		}
	}
	return s, true
}

// imageSchemes are those under which an image may be found; mxc is for the callers that map it.
var imageSchemes = map[string]bool{"http": true, "https": true, "cid": true, "mxc": true}

func cleanImage(s string) (string, bool) {
	s, scheme, ok := escapeURL(s)
	return s, ok && imageSchemes[scheme]
}

// escapeURL gives an absolute URL with odd characters percent-encoded, and its scheme in lower case.
func escapeURL(s string) (clean, scheme string, ok bool) {
	s = strings.Trim(s, " \t\r\n\f")
	if s == "" || len(s) > maxURL || !utf8.ValidString(s) {
		return "", "", false
	}
	colon := strings.IndexByte(s, ':')
	if colon < 2 {
		return "", "", false // a one-letter scheme is a Windows drive
	}
	for i := 0; i < colon; i++ {
		c := s[i] | 0x20
		if !(c >= 'a' && c <= 'z') && (i == 0 || !(s[i] >= '0' && s[i] <= '9') && s[i] != '+' && s[i] != '-' && s[i] != '.') {
			return "", "", false
		}
	}
	scheme = strings.ToLower(s[:colon])
	var b strings.Builder
	for i, r := range s {
		switch {
		case r < ' ' || r == 0x7f:
			return "", "", false // browsers drop these, which hides what a URL is
		case r == ' ', strings.ContainsRune("\"<>\\^`{|}", r), r > 0x7f && (!unicode.IsGraphic(r) || unicode.IsSpace(r)):
			for _, c := range []byte(s[i : i+utf8.RuneLen(r)]) {
				const hex = "0123456789ABCDEF"
				b.WriteByte('%')
				b.WriteByte(hex[c>>4])
				b.WriteByte(hex[c&15])
			}
		default:
			b.WriteRune(r)
		}
	}
	return scheme + b.String()[colon:], scheme, true
}
