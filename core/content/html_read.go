package content

import (
	"strconv"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Limits of parseHTML. What is beyond them loses its markup, not its text.
const (
	maxElementDepth = 100     // open elements, as Matrix recommends
	maxElements     = 1 << 16 // elements in all
)

// element is an element or text of HTML, as far as it matters here. The tree is built from the tokens, not by
// html.Parse, which refuses deep documents and takes the square of the time for some.
type element struct {
	tag    atom.Atom // 0: text, or an element of no known name
	name   string
	text   string
	attr   []html.Attribute
	kids   []*element
	closed bool // its end tag was there
	blocks bool // there is a block in it
}

func (e *element) get(name string) (string, bool) {
	for _, a := range e.attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

var voidElements = map[atom.Atom]bool{
	atom.Area: true, atom.Base: true, atom.Br: true, atom.Col: true, atom.Embed: true, atom.Hr: true, atom.Img: true,
	atom.Input: true, atom.Link: true, atom.Meta: true, atom.Param: true, atom.Source: true, atom.Track: true, atom.Wbr: true,
}

// hidden are elements that go with what is in them.
var hidden = map[atom.Atom]bool{
	atom.Script: true, atom.Style: true, atom.Title: true, atom.Template: true, atom.Iframe: true, atom.Object: true,
	atom.Noscript: true, atom.Noembed: true, atom.Noframes: true, atom.Textarea: true, atom.Select: true, atom.Svg: true,
	atom.Math: true, atom.Audio: true, atom.Video: true, atom.Canvas: true,
}

var blockElements = map[atom.Atom]bool{
	atom.Address: true, atom.Article: true, atom.Aside: true, atom.Blockquote: true, atom.Body: true, atom.Caption: true, atom.Center: true,
	atom.Dd: true, atom.Details: true, atom.Dialog: true, atom.Dir: true, atom.Div: true, atom.Dl: true, atom.Dt: true, atom.Fieldset: true,
	atom.Figcaption: true, atom.Figure: true, atom.Footer: true, atom.Form: true, atom.H1: true, atom.H2: true, atom.H3: true,
	atom.H4: true, atom.H5: true, atom.H6: true, atom.Head: true, atom.Header: true, atom.Hgroup: true, atom.Hr: true, atom.Html: true,
	atom.Li: true, atom.Main: true, atom.Menu: true, atom.Nav: true, atom.Ol: true, atom.P: true, atom.Pre: true, atom.Section: true,
	atom.Summary: true, atom.Table: true, atom.Tbody: true, atom.Td: true, atom.Tfoot: true, atom.Th: true, atom.Thead: true,
	atom.Tr: true, atom.Ul: true, atom.Xmp: true, atom.Listing: true, atom.Plaintext: true,
}

// closes tells which open elements the start of one ends, and which elements shield those outside of them.
func closes(tag atom.Atom) (ends, shields []atom.Atom) {
	switch tag {
	case atom.Li:
		return []atom.Atom{atom.Li}, []atom.Atom{atom.Ul, atom.Ol, atom.Table}
	case atom.Dd, atom.Dt:
		return []atom.Atom{atom.Dd, atom.Dt}, []atom.Atom{atom.Dl, atom.Table}
	case atom.Td, atom.Th:
		return []atom.Atom{atom.Td, atom.Th}, []atom.Atom{atom.Table}
	case atom.Tr:
		return []atom.Atom{atom.Tr}, []atom.Atom{atom.Table}
	case atom.Tbody, atom.Thead, atom.Tfoot:
		return []atom.Atom{atom.Tbody, atom.Thead, atom.Tfoot}, []atom.Atom{atom.Table}
	}
	if blockElements[tag] {
		return []atom.Atom{atom.P}, []atom.Atom{atom.Table, atom.Td, atom.Th, atom.Li, atom.Blockquote, atom.Div, atom.Details}
	}
	return nil, nil
}

// parseElements makes a tree of HTML as browsers would for documents that are not too odd.
func parseElements(src string) *element {
	root := &element{tag: atom.Body}
	stack := []*element{root}
	top := func() *element { return stack[len(stack)-1] }
	skipped, count := 0, 0
	pop := func(ends, shields []atom.Atom) {
		for i := len(stack) - 1; i > 0; i-- {
			for _, t := range ends {
				if stack[i].tag == t {
					stack = stack[:i]
					return
				}
			}
			for _, t := range shields {
				if stack[i].tag == t {
					return
				}
			}
		}
	}
	z := html.NewTokenizer(strings.NewReader(src))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return root
		case html.TextToken:
			top().kids = append(top().kids, &element{text: cleanText(string(z.Text()))})
		case html.StartTagToken, html.SelfClosingTagToken:
			t := z.Token()
			if count++; count > maxElements || len(stack) > maxElementDepth {
				// Where it breaks a line, a space is left of it.
				if blockElements[t.DataAtom] || t.DataAtom == atom.Br {
					top().kids = append(top().kids, &element{text: " "})
				}
				if !voidElements[t.DataAtom] {
					skipped++
				}
				continue
			}
			if ends, shields := closes(t.DataAtom); ends != nil && skipped == 0 {
				pop(ends, shields)
			}
			e := &element{tag: t.DataAtom, name: t.Data, attr: t.Attr}
			top().kids = append(top().kids, e)
			if blockElements[e.tag] {
				for _, s := range stack {
					s.blocks = true
				}
			}
			if !voidElements[e.tag] {
				stack = append(stack, e)
			}
		case html.EndTagToken:
			if skipped > 0 {
				skipped--
				continue
			}
			name, _ := z.TagName()
			for i := len(stack) - 1; i > 0; i-- {
				if stack[i].name == string(name) {
					stack[i].closed = true
					stack = stack[:i]
					break
				}
				// Misplaced end tags do not reach out of a cell.
				if stack[i].tag == atom.Td || stack[i].tag == atom.Th {
					if tag := atom.Lookup(name); tag != atom.Tr && tag != atom.Table && tag != atom.Tbody && tag != atom.Thead && tag != atom.Tfoot {
						break
					}
				}
			}
		}
	}
}

// parseHTML reads HTML into a tree.
func parseHTML(src string, o *RichOptions) *node {
	r := htmlReader{}
	if o != nil {
		r.o = *o
	}
	return &node{kind: kindDoc, kids: r.blocks(parseElements(cleanText(src)).kids, 0, nil)}
}

type htmlReader struct {
	o RichOptions
}

// run collects inlines until a block ends them.
type run struct {
	list  []*node
	space bool // a space is due before the next text
	begun bool // there is something in it since the last break
}

func (r *run) add(n *node) {
	if r.space && r.begun {
		r.list = append(r.list, &node{kind: kindText, text: " "})
	}
	r.space = false
	r.begun = true
	r.list = append(r.list, n)
}

func (r *run) hard() {
	r.list = append(r.list, &node{kind: kindHard})
	r.space, r.begun = false, false
}

// text adds text with its white space collapsed, as CSS does.
func (r *run) text(s string) {
	for s != "" {
		i := strings.IndexAny(s, " \t\n\f")
		if i < 0 {
			i = len(s)
		}
		if i > 0 {
			r.add(&node{kind: kindText, text: s[:i]})
			s = s[i:]
			continue
		}
		r.space = true
		s = strings.TrimLeft(s, " \t\n\f")
	}
}

// blocks reads what contains blocks. wrap are the marks around it, from the outside in: an inline element that has
// blocks in it is applied to the inlines of each.
func (r *htmlReader) blocks(list []*element, nest int, wrap []*node) (out []*node) {
	var now run
	flush := func() {
		if b := block(kindPara, wrapped(now.list, wrap)); b != nil {
			out = append(out, b)
		}
		now = run{}
	}
	for _, e := range list {
		switch {
		case e.name == "" || !e.blocks && !blockElements[e.tag]:
			if e.tag == 0 && e.name == "mx-reply" && e.closed || hidden[e.tag] {
				continue
			}
			r.inline(&now, e)
		case e.name == "mx-reply" && e.closed, hidden[e.tag]:
		default:
			flush()
			out = append(out, r.block(e, nest, wrap)...)
		}
	}
	flush()
	return out
}

// wrapped puts marks around inlines.
func wrapped(list, wrap []*node) []*node {
	for i := len(wrap) - 1; i >= 0 && len(list) > 0; i-- {
		w := *wrap[i]
		w.kids = list
		list = []*node{&w}
	}
	return list
}

func (r *htmlReader) block(e *element, nest int, wrap []*node) []*node {
	inlines := func(k nodeKind) []*node {
		var now run
		r.inlines(&now, e.kids)
		if b := block(k, wrapped(now.list, wrap)); b != nil {
			return []*node{b}
		}
		return nil
	}
	switch e.tag {
	case atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6:
		list := inlines(kindHeading)
		for _, b := range list {
			b.level = int32(e.name[1] - '0')
		}
		return list
	case atom.Hr:
		return []*node{{kind: kindRule}}
	case atom.Pre, atom.Xmp, atom.Listing, atom.Plaintext:
		return []*node{r.pre(e)}
	case atom.Blockquote:
		kids := r.blocks(e.kids, nest+1, wrap)
		if nest >= maxNest || len(kids) == 0 {
			return kids
		}
		return []*node{{kind: kindQuote, kids: kids}}
	case atom.Ul, atom.Ol, atom.Menu, atom.Dir, atom.Li:
		return r.list(e, nest, wrap)
	case atom.Table, atom.Tr, atom.Td, atom.Th, atom.Tbody, atom.Thead, atom.Tfoot:
		if e.tag != atom.Table {
			e = &element{tag: atom.Table, kids: []*element{e}}
		}
		return r.table(e, nest, wrap)
	case atom.Summary:
		// What a details element shows when it is closed.
		return r.blocks(e.kids, nest, append(wrap[:len(wrap):len(wrap)], &node{kind: kindStrong}))
	case atom.Div:
		if tex, ok := e.get("data-mx-maths"); ok {
			return []*node{{kind: kindCode, title: "math", text: codeText(cleanText(tex))}}
		}
	default:
		if m := r.mark(e); m != nil {
			wrap = append(wrap[:len(wrap):len(wrap)], m)
		}
	}
	return r.blocks(e.kids, nest, wrap)
}

func (r *htmlReader) pre(e *element) *node {
	n := &node{kind: kindCode}
	var b strings.Builder
	rawText(&b, e.kids)
	s := b.String()
	if len(e.kids) > 0 && e.kids[0].name == "" {
		s = strings.TrimPrefix(s, "\n") // as the standard has it, not where a code element comes first
	}
	n.text = codeText(s)
	for _, k := range append([]*element{e}, e.kids...) {
		class, _ := k.get("class")
		for _, c := range strings.Fields(class) {
			if lang, ok := strings.CutPrefix(c, "language-"); ok && n.title == "" {
				n.title = infoWord(oneLine(lang))
			}
		}
	}
	return n
}

// rawText gives the text of elements as it stands.
func rawText(b *strings.Builder, list []*element) {
	for _, e := range list {
		switch {
		case e.name == "":
			b.WriteString(e.text)
		case e.tag == atom.Br:
			b.WriteByte('\n')
		case !hidden[e.tag]:
			rawText(b, e.kids)
		}
	}
}

// Marks of list items that stand for the checkboxes which Matrix's HTML has not.
var taskMarks = map[string]uint8{"☐ ": taskOpen, "☑ ": taskDone, "☒ ": taskDone}

func (r *htmlReader) list(e *element, nest int, wrap []*node) []*node {
	l := &node{kind: kindList, tight: true}
	items := e.kids
	switch e.tag {
	case atom.Li:
		items = []*element{e} // one outside of a list
	case atom.Ol:
		l.ordered, l.level = true, 1
		if s, ok := e.get("start"); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(s)); err == nil && n >= 0 {
				l.level = int32(min(n, 999999999))
			}
		}
	}
	var flat []*node
	for _, k := range items {
		kids := k.kids
		if k.tag != atom.Li {
			if k.name == "" && strings.Trim(k.text, " \t\n\f") == "" || hidden[k.tag] {
				continue
			}
			kids = []*element{k} // something between the items
		}
		item := &node{kind: kindItem, kids: r.blocks(kids, nest+1, wrap)}
		for _, c := range kids {
			if c.tag == atom.P {
				l.tight = false
			}
		}
		r.task(item, kids)
		if k.tag != atom.Li && len(item.kids) == 0 {
			continue
		}
		if k.tag != atom.Li && len(l.kids) > 0 {
			// A list directly in a list is meant as part of the item before it.
			last := l.kids[len(l.kids)-1]
			last.kids = append(last.kids, item.kids...)
			continue
		}
		if nest >= maxNest {
			flat = append(flat, item.kids...)
			continue
		}
		l.kids = append(l.kids, item)
	}
	if n := finishList(l); n != nil {
		return []*node{n}
	}
	return flat
}

// task finds out whether an item begins with a checkbox.
func (r *htmlReader) task(item *node, kids []*element) {
	if len(item.kids) == 0 || item.kids[0].kind != kindPara {
		return
	}
	p := item.kids[0]
	for len(kids) > 0 && (kids[0].tag == atom.P || kids[0].tag == atom.Label || kids[0].name == "" && strings.Trim(kids[0].text, " \t\n\f") == "") {
		if kids[0].name == "" {
			kids = kids[1:]
		} else {
			kids = kids[0].kids
		}
	}
	if len(kids) > 0 && kids[0].tag == atom.Input {
		if t, _ := kids[0].get("type"); strings.EqualFold(t, "checkbox") {
			item.task = taskOpen
			if _, ok := kids[0].get("checked"); ok {
				item.task = taskDone
			}
			return
		}
	}
	if p.kids[0].kind != kindText {
		return
	}
	for mark, task := range taskMarks {
		if rest, ok := strings.CutPrefix(p.kids[0].text, mark); ok && (rest != "" || len(p.kids) > 1) {
			item.task = task
			if p.kids = p.kids[1:]; rest != "" {
				p.kids = append([]*node{{kind: kindText, text: rest}}, p.kids...)
			}
			return
		}
	}
}

func (r *htmlReader) table(e *element, nest int, wrap []*node) (out []*node) {
	t := &node{kind: kindTable}
	var aligns []align
	headed := false
	var rows func(list []*element, inHead bool)
	rows = func(list []*element, inHead bool) {
		for _, k := range list {
			switch k.tag {
			case atom.Thead:
				rows(k.kids, true)
			case atom.Tbody, atom.Tfoot:
				rows(k.kids, false)
			case atom.Td, atom.Th:
				rows([]*element{{tag: atom.Tr, name: "tr", kids: []*element{k}}}, inHead)
			case atom.Tr:
				row, allHead := &node{kind: kindRow}, true
				for _, c := range k.kids {
					if c.tag != atom.Td && c.tag != atom.Th {
						if c.name == "" && strings.Trim(c.text, " \t\n\f") == "" {
							continue
						}
						c = &element{tag: atom.Td, name: "td", kids: []*element{c}}
					}
					allHead = allHead && c.tag == atom.Th
					var now run
					r.inlines(&now, c.kids)
					row.kids = append(row.kids, block(kindCell, wrapped(now.list, wrap)))
					if i := len(row.kids) - 1; i < maxColumns {
						for len(aligns) <= i {
							aligns = append(aligns, alignNone)
						}
						if aligns[i] == alignNone {
							aligns[i] = alignOf(c)
						}
					}
				}
				if len(t.kids) == 0 {
					headed = inHead || allHead
				}
				t.kids = append(t.kids, row)
			default:
				// A caption, or something lost: before the table.
				out = append(out, r.blocks([]*element{k}, nest, wrap)...)
			}
		}
	}
	rows(e.kids, false)
	if !headed && len(t.kids) > 0 {
		t.kids = append([]*node{{kind: kindRow}}, t.kids...)
	}
	if b := finishTable(t, aligns); b != nil {
		out = append(out, b)
	}
	return out
}

func alignOf(c *element) align {
	s, ok := c.get("align")
	if !ok {
		style, _ := c.get("style")
		_, s, _ = strings.Cut(strings.ReplaceAll(style, " ", ""), "text-align:")
		s, _, _ = strings.Cut(s, ";")
	}
	switch strings.ToLower(s) {
	case "left":
		return alignLeft
	case "center":
		return alignCenter
	case "right":
		return alignRight
	}
	return alignNone
}

// mark gives the node without children that an inline element stands for, nil if it stands for none.
func (r *htmlReader) mark(e *element) *node {
	switch e.tag {
	case atom.B, atom.Strong:
		return &node{kind: kindStrong}
	case atom.I, atom.Em, atom.Cite, atom.Dfn, atom.Var:
		return &node{kind: kindEm}
	case atom.S, atom.Del, atom.Strike:
		return &node{kind: kindStrike}
	case atom.A:
		href, ok := e.get("href")
		if !ok {
			return nil
		}
		if l := linkTo(href, title(e), nil); len(l) == 1 {
			return l[0]
		}
	}
	return nil
}

func title(e *element) string {
	s, _ := e.get("title")
	return s
}

func (r *htmlReader) inlines(now *run, list []*element) {
	for _, e := range list {
		r.inline(now, e)
	}
}

// inline reads an element as inlines, blocks in it too.
func (r *htmlReader) inline(now *run, e *element) {
	if e.name == "" {
		now.text(e.text)
		return
	}
	if hidden[e.tag] || e.name == "mx-reply" && e.closed {
		return
	}
	if blockElements[e.tag] {
		now.space = true
		defer func() { now.space = true }()
	}
	switch e.tag {
	case atom.Br:
		now.hard()
		return
	case atom.Img:
		src, _ := e.get("src")
		alt, ok := e.get("alt")
		if !ok {
			alt = title(e)
		}
		find := r.o.Image
		if _, ok := e.get("data-mx-emoticon"); ok {
			find = nil
			src = ""
		}
		t := title(e)
		if t == alt {
			t = ""
		}
		for _, n := range imageNode(src, t, alt, find) {
			if n.kind != kindText || n.text != "" {
				now.add(n)
			}
		}
		return
	case atom.Code, atom.Tt, atom.Samp, atom.Kbd, atom.Pre, atom.Xmp, atom.Listing, atom.Plaintext:
		var b strings.Builder
		rawText(&b, e.kids)
		if s := strings.ReplaceAll(b.String(), "\n", " "); s != "" {
			now.add(&node{kind: kindCodeSpan, text: s})
		}
		return
	case atom.Span, atom.Div:
		if tex, ok := e.get("data-mx-maths"); ok && tex != "" {
			now.add(&node{kind: kindCodeSpan, text: strings.ReplaceAll(cleanText(tex), "\n", " ")})
			return
		}
		if reason, ok := e.get("data-mx-spoiler"); ok {
			if reason = oneLine(reason); reason != "" {
				now.text("(" + reason + ") ")
			}
			now.text("||")
			r.inlines(now, e.kids)
			now.space = false
			now.add(&node{kind: kindText, text: "||"})
			return
		}
	case atom.A:
		r.anchor(now, e)
		return
	}
	m := r.mark(e)
	if m == nil {
		r.inlines(now, e.kids)
		return
	}
	r.within(now, e, m)
}

// within reads the children of e into m. White space at its edges stands outside of it.
func (r *htmlReader) within(now *run, e *element, m *node) {
	inner := run{space: now.space, begun: now.begun}
	r.inlines(&inner, e.kids)
	if len(inner.list) > 0 {
		m.kids = inner.list
		now.list = append(now.list, m)
	}
	now.space, now.begun = inner.space, inner.begun
}

func (r *htmlReader) anchor(now *run, e *element) {
	m := r.mark(e)
	href, _ := e.get("href")
	if r.o.Resolve != nil && href != "" && len(href) <= maxURL {
		var text run
		r.inlines(&text, e.kids)
		if u, display, ok := r.o.Resolve(href, oneLine(plain(text.list))); ok && u != (mimiuri.URI{}) {
			m = &node{kind: kindLink, href: u.String()}
			if display = oneLine(display); display != "" {
				m.kids = []*node{{kind: kindText, text: display}}
				now.add(m)
				return
			}
		}
	}
	if m == nil {
		r.inlines(now, e.kids)
		return
	}
	before := len(now.list)
	r.within(now, e, m)
	if len(now.list) == before {
		now.add(m) // a link without text: tidy gives it its URL
	}
}
