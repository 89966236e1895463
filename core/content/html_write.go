package content

import (
	"html"
	"strconv"
	"strings"
)

// writeHTML writes a tree as HTML.
func writeHTML(doc *node) string {
	var w htmlWriter
	if len(doc.kids) == 1 && doc.kids[0].kind == kindPara {
		w.inlines(doc.kids[0].kids)
	} else {
		w.blocks(doc.kids, false)
	}
	return w.String()
}

type htmlWriter struct{ strings.Builder }

func (w *htmlWriter) esc(s string) { w.WriteString(html.EscapeString(s)) }

func (w *htmlWriter) element(tag string, inner func()) {
	w.WriteString("<" + tag + ">")
	inner()
	w.WriteString("</" + tag + ">")
}

func (w *htmlWriter) attr(name, value string) {
	w.WriteString(" " + name + `="`)
	w.esc(value)
	w.WriteString(`"`)
}

func (w *htmlWriter) blocks(list []*node, tight bool) {
	for _, n := range list {
		w.block(n, tight)
	}
}

func (w *htmlWriter) block(n *node, tight bool) {
	switch n.kind {
	case kindPara:
		if tight {
			w.inlines(n.kids)
		} else {
			w.element("p", func() { w.inlines(n.kids) })
		}
	case kindHeading:
		w.element("h"+strconv.Itoa(max(1, min(int(n.level), 6))), func() { w.inlines(n.kids) })
	case kindQuote:
		w.element("blockquote", func() { w.blocks(n.kids, false) })
	case kindRule:
		w.WriteString("<hr>")
	case kindCode:
		w.WriteString("<pre><code")
		if n.title != "" {
			w.attr("class", "language-"+n.title)
		}
		w.WriteString(">")
		if n.text != "" {
			w.esc(n.text + "\n")
		}
		w.WriteString("</code></pre>")
	case kindList:
		tag := "ul"
		if n.ordered {
			tag = "ol"
		}
		w.WriteString("<" + tag)
		if n.ordered && n.level != 1 {
			w.attr("start", strconv.Itoa(int(n.level)))
		}
		w.WriteString(">")
		for _, item := range n.kids {
			w.element("li", func() { w.item(item, n.tight) })
		}
		w.WriteString("</" + tag + ">")
	case kindTable:
		w.table(n)
	}
}

func (w *htmlWriter) item(item *node, tight bool) {
	kids := item.kids
	if item.task != taskNone {
		mark := "☐ "
		if item.task == taskDone {
			mark = "☑ "
		}
		p := *kids[0]
		p.kids = append([]*node{{kind: kindText, text: mark}}, p.kids...)
		kids = append([]*node{&p}, kids[1:]...)
	}
	w.blocks(kids, tight)
}

func (w *htmlWriter) table(t *node) {
	w.WriteString("<table>")
	row := func(r *node, tag string) {
		w.WriteString("<tr>")
		for i, c := range r.kids {
			w.WriteString("<" + tag)
			if a := t.title[i]; a != alignNone {
				w.attr("align", [...]string{"", "left", "center", "right"}[a])
			}
			w.WriteString(">")
			w.inlines(c.kids)
			w.WriteString("</" + tag + ">")
		}
		w.WriteString("</tr>")
	}
	w.element("thead", func() { row(t.kids[0], "th") })
	if len(t.kids) > 1 {
		w.element("tbody", func() {
			for _, r := range t.kids[1:] {
				row(r, "td")
			}
		})
	}
	w.WriteString("</table>")
}

func (w *htmlWriter) inlines(list []*node) {
	for _, n := range list {
		switch n.kind {
		case kindText:
			w.esc(n.text)
		case kindSoft:
			w.WriteString("\n")
		case kindHard:
			w.WriteString("<br>")
		case kindEm:
			w.element("em", func() { w.inlines(n.kids) })
		case kindStrong:
			w.element("strong", func() { w.inlines(n.kids) })
		case kindStrike:
			w.element("del", func() { w.inlines(n.kids) })
		case kindCodeSpan:
			w.element("code", func() { w.esc(n.text) })
		case kindLink:
			if n.href == "" {
				w.inlines(n.kids)
				continue
			}
			w.WriteString("<a")
			w.attr("href", n.href)
			if n.title != "" {
				w.attr("title", n.title)
			}
			w.WriteString(">")
			w.inlines(n.kids)
			w.WriteString("</a>")
		case kindImage:
			w.WriteString("<img")
			w.attr("src", n.href)
			w.attr("alt", n.text)
			if n.title != "" {
				w.attr("title", n.title)
			}
			w.WriteString(">")
		}
	}
}
