package content

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	extast "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// gfmMIMI parses GFM-MIMI: CommonMark without the parsers of HTML, so that tags are text, and of the extensions those
// that the draft names; no bare URLs.
var gfmMIMI = goldmark.New(
	goldmark.WithParser(parser.NewParser(
		parser.WithBlockParsers(
			util.Prioritized(parser.NewSetextHeadingParser(), 100),
			util.Prioritized(parser.NewThematicBreakParser(), 200),
			util.Prioritized(parser.NewListParser(), 300),
			util.Prioritized(parser.NewListItemParser(), 400),
			util.Prioritized(parser.NewCodeBlockParser(), 500),
			util.Prioritized(parser.NewATXHeadingParser(), 600),
			util.Prioritized(parser.NewFencedCodeBlockParser(), 700),
			util.Prioritized(parser.NewBlockquoteParser(), 800),
			util.Prioritized(parser.NewParagraphParser(), 1000),
		),
		parser.WithInlineParsers(
			util.Prioritized(parser.NewCodeSpanParser(), 100),
			util.Prioritized(parser.NewLinkParser(), 200),
			util.Prioritized(parser.NewAutoLinkParser(), 300),
			util.Prioritized(parser.NewEmphasisParser(), 500),
		),
		parser.WithParagraphTransformers(parser.DefaultParagraphTransformers()...),
	)),
	goldmark.WithExtensions(extension.Table, extension.Strikethrough, extension.TaskList),
).Parser()

// parseMarkdown reads GFM-MIMI into a tree. What scan refuses comes out as literal text.
func parseMarkdown(md string, o *RichOptions) *node {
	src := cleanText(md)
	head, tail := scan(src)
	r := mdReader{src: []byte(head), images: o != nil && o.Image != nil}
	if r.images {
		r.image = o.Image
	}
	doc := &node{kind: kindDoc}
	if head != "" {
		doc.kids = r.blocks(gfmMIMI.Parse(text.NewReader(r.src)), 0)
	}
	if tail != "" {
		doc.kids = append(doc.kids, parseText(tail, nil).kids...)
	}
	return doc
}

type mdReader struct {
	src    []byte
	images bool
	image  func(string) (string, bool)
}

// blocks reads the children of a block that contains blocks; nest is how many containers it is in.
func (r *mdReader) blocks(parent ast.Node, nest int) (list []*node) {
	for n := parent.FirstChild(); n != nil; n = n.NextSibling() {
		list = r.block(list, n, nest)
	}
	return list
}

func (r *mdReader) block(list []*node, n ast.Node, nest int) []*node {
	var b *node
	switch n := n.(type) {
	case *ast.Paragraph, *ast.TextBlock:
		b = block(kindPara, r.inlines(n))
	case *ast.Heading:
		if b = block(kindHeading, r.inlines(n)); b != nil {
			b.level = int32(n.Level)
		}
	case *ast.ThematicBreak:
		b = &node{kind: kindRule}
	case *ast.FencedCodeBlock:
		b = &node{kind: kindCode, text: r.code(n)}
		if n.Info != nil {
			b.title = infoWord(unescape(n.Info.Segment.Value(r.src)))
		}
	case *ast.CodeBlock:
		b = &node{kind: kindCode, text: r.code(n)}
	case *ast.Blockquote:
		kids := r.blocks(n, nest+1)
		if nest >= maxNest {
			return append(list, kids...)
		}
		if len(kids) > 0 {
			b = &node{kind: kindQuote, kids: kids}
		}
	case *ast.List:
		l := &node{kind: kindList, ordered: n.IsOrdered(), level: int32(n.Start), tight: n.IsTight}
		for c := n.FirstChild(); c != nil; c = c.NextSibling() {
			item := &node{kind: kindItem, kids: r.blocks(c, nest+1)}
			if first := c.FirstChild(); first != nil && len(item.kids) > 0 {
				if box, ok := first.FirstChild().(*extast.TaskCheckBox); ok && item.kids[0].kind == kindPara {
					item.task = taskOpen
					if box.IsChecked {
						item.task = taskDone
					}
				}
			}
			if nest >= maxNest {
				list = append(list, item.kids...)
				continue
			}
			l.kids = append(l.kids, item)
		}
		b = finishList(l)
	case *extast.Table:
		b = r.table(n)
	}
	if b != nil {
		list = append(list, b)
	}
	return list
}

func (r *mdReader) table(t *extast.Table) *node {
	b := &node{kind: kindTable}
	aligns := make([]align, 0, len(t.Alignments))
	for _, a := range t.Alignments {
		aligns = append(aligns, map[extast.Alignment]align{extast.AlignLeft: alignLeft,
			extast.AlignCenter: alignCenter, extast.AlignRight: alignRight}[a])
	}
	for n := t.FirstChild(); n != nil; n = n.NextSibling() {
		row := &node{kind: kindRow}
		for c := n.FirstChild(); c != nil; c = c.NextSibling() {
			row.kids = append(row.kids, block(kindCell, r.inlines(c)))
		}
		b.kids = append(b.kids, row)
	}
	return finishTable(b, aligns)
}

// finishTable brings a table into form: as many cells a row as there are columns, and not too many columns.
func finishTable(t *node, aligns []align) *node {
	columns := len(aligns)
	for _, row := range t.kids {
		columns = max(columns, len(row.kids))
	}
	columns = min(columns, maxColumns)
	if columns == 0 || len(t.kids) == 0 {
		return nil
	}
	for len(aligns) < columns {
		aligns = append(aligns, alignNone)
	}
	t.title = string(aligns[:columns])
	for _, row := range t.kids {
		if len(row.kids) > columns {
			var rest []*node
			for _, c := range row.kids[columns-1:] {
				if len(rest) > 0 {
					rest = append(rest, &node{kind: kindText, text: " "})
				}
				rest = append(rest, c.kids...)
			}
			row.kids = append(row.kids[:columns-1:columns-1], block(kindCell, rest))
		}
	}
	// Rows may be shorter than the header, it may not.
	for len(t.kids[0].kids) < columns {
		t.kids[0].kids = append(t.kids[0].kids, &node{kind: kindCell})
	}
	for _, row := range t.kids[1:] {
		for len(row.kids) > 0 && len(row.kids[len(row.kids)-1].kids) == 0 {
			row.kids = row.kids[:len(row.kids)-1]
		}
	}
	return t
}

func (r *mdReader) code(n ast.Node) string {
	var b strings.Builder
	for i := 0; i < n.Lines().Len(); i++ {
		s := n.Lines().At(i)
		b.Write(s.Value(r.src))
	}
	return codeText(b.String())
}

// codeText gives the lines of a code block without the final line feed. White space on an otherwise empty line is lost in some
// places and not in others, so it never stays.
func codeText(s string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	for i, l := range lines {
		if isBlank(l) {
			lines[i] = ""
		}
	}
	return strings.Join(lines, "\n")
}

// infoWord gives the language of a code block, the first word of its info string.
func infoWord(s string) string {
	words := strings.Fields(s[:min(len(s), 256)])
	if len(words) == 0 || len(words[0]) > 64 || strings.ContainsRune(words[0], '`') || !utf8.ValidString(words[0]) {
		return ""
	}
	return words[0]
}

func (r *mdReader) inlines(parent ast.Node) (list []*node) {
	for n := parent.FirstChild(); n != nil; n = n.NextSibling() {
		switch n := n.(type) {
		case *ast.Text:
			list = append(list, &node{kind: kindText, text: strings.ReplaceAll(unescape(n.Segment.Value(r.src)), "\n", " ")})
			if n.HardLineBreak() {
				list = append(list, &node{kind: kindHard})
			} else if n.SoftLineBreak() {
				list = append(list, &node{kind: kindSoft})
			}
		case *ast.String:
			list = append(list, &node{kind: kindText, text: oneLine(string(n.Value))})
		case *ast.CodeSpan:
			if s := r.codeSpan(n); s != "" {
				list = append(list, &node{kind: kindCodeSpan, text: s})
			}
		case *ast.Emphasis:
			k := kindEm
			if n.Level >= 2 {
				k = kindStrong
			}
			list = append(list, &node{kind: k, kids: r.inlines(n)})
		case *extast.Strikethrough:
			list = append(list, &node{kind: kindStrike, kids: r.inlines(n)})
		case *ast.Link:
			list = append(list, linkTo(unescape(n.Destination), unescape(n.Title), r.inlines(n))...)
		case *ast.Image:
			list = append(list, r.imageOf(unescape(n.Destination), unescape(n.Title), plain(r.inlines(n)))...)
		case *ast.AutoLink:
			// Backslashes do not escape in it, character references do.
			href := references(string(n.URL(r.src)))
			label := references(string(n.Label(r.src)))
			if n.AutoLinkType == ast.AutoLinkEmail && !strings.HasPrefix(strings.ToLower(href), "mailto:") {
				href = "mailto:" + href
			}
			l := linkTo(href, "", []*node{{kind: kindText, text: label}})
			list = append(list, l...)
		}
	}
	return list
}

func (r *mdReader) codeSpan(n *ast.CodeSpan) string {
	var b strings.Builder
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		if t, ok := c.(*ast.Text); ok {
			b.Write(bytes.ReplaceAll(t.Segment.Value(r.src), []byte("\n"), []byte(" ")))
		}
	}
	return b.String()
}

// linkTo gives a link, or just its content if the target is not allowed. A mimi URI is brought into its one
// spelling.
func linkTo(href, title string, kids []*node) []*node {
	clean, ok := cleanURL(href)
	if !ok {
		return kids
	}
	if strings.HasPrefix(clean, "mimi:") {
		if u, err := mimiuri.Parse(clean); err == nil {
			if len(kids) == 1 && kids[0].kind == kindText && (kids[0].text == href || kids[0].text == clean) {
				kids = []*node{{kind: kindText, text: u.String()}}
			}
			clean = u.String()
		}
	}
	return []*node{{kind: kindLink, href: clean, title: oneLine(title), kids: kids}}
}

// imageOf gives an image if the caller knows where it is, else a link to it, else its alternative text.
func (r *mdReader) imageOf(src, title, alt string) []*node {
	return imageNode(src, title, alt, r.image)
}

func imageNode(src, title, alt string, find func(string) (string, bool)) []*node {
	alt = oneLine(alt)
	if find != nil {
		if to, ok := find(src); ok {
			if clean, ok := cleanImage(to); ok {
				return []*node{{kind: kindImage, href: clean, title: oneLine(title), text: alt}}
			}
		}
	}
	return linkTo(src, title, []*node{{kind: kindText, text: alt}})
}

// unescape undoes backslash escapes and character references in a piece of Markdown.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 && bytes.IndexByte(b, '&') < 0 {
		return string(b)
	}
	var out strings.Builder
	for i := 0; i < len(b); {
		switch {
		case b[i] == '\\' && i+1 < len(b) && util.IsPunct(b[i+1]):
			out.WriteByte(b[i+1])
			i += 2
			continue
		case b[i] == '&':
			if s, n := reference(b[i:]); n > 0 {
				out.WriteString(s)
				i += n
				continue
			}
		}
		out.WriteByte(b[i])
		i++
	}
	return out.String()
}

// references undoes character references only.
func references(s string) string {
	if strings.IndexByte(s, '&') < 0 {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		if s[i] == '&' {
			if t, n := reference([]byte(s[i:min(len(s), i+40)])); n > 0 {
				out.WriteString(t)
				i += n
				continue
			}
		}
		out.WriteByte(s[i])
		i++
	}
	return out.String()
}

// reference reads an entity or numeric character reference at the beginning of b: what it stands for and its
// length, 0 if there is none. What stands for a control character becomes a space.
func reference(b []byte) (string, int) {
	b = b[:min(len(b), 40)] // the longest name has 31 letters
	end := bytes.IndexByte(b, ';')
	if end < 2 {
		return "", 0
	}
	name := b[1:end]
	if name[0] != '#' {
		for _, c := range name {
			if !util.IsAlphaNumeric(c) {
				return "", 0
			}
		}
		e, ok := util.LookUpHTML5EntityByName(string(name))
		if !ok {
			return "", 0
		}
		return cleanReference(string(e.Characters)), end + 1
	}
	digits, base := name[1:], rune(10)
	if len(digits) > 0 && (digits[0] == 'x' || digits[0] == 'X') {
		digits, base = digits[1:], 16
	}
	if len(digits) == 0 || base == 10 && len(digits) > 7 || base == 16 && len(digits) > 6 {
		return "", 0
	}
	var r rune
	for _, c := range digits {
		switch d := rune(c) | 0x20; {
		case c >= '0' && c <= '9':
			r = r*base + rune(c-'0')
		case base == 16 && d >= 'a' && d <= 'f':
			r = r*base + d - 'a' + 10
		default:
			return "", 0
		}
	}
	if r == 0 || r > utf8.MaxRune || !utf8.ValidRune(r) {
		r = utf8.RuneError
	}
	return cleanReference(string(r)), end + 1
}

func cleanReference(s string) string {
	if s != "" && s != "\t" && (s[0] < ' ' || s[0] == 0x7f) {
		return " "
	}
	return s
}
