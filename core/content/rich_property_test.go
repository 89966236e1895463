package content_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/mimibridge/mimibridge/core/content"
)

// canonical gives the tree of HTML as text, parsed by x/net/html, with what makes no difference to a reader taken out:
// white space is one space, and none is at the edges of blocks and at breaks.
func canonical(t testing.TB, src string) string {
	t.Helper()
	list, err := html.ParseFragment(strings.NewReader(src), &html.Node{Type: html.ElementNode, Data: "div", DataAtom: atom.Div})
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	var b strings.Builder
	var walk func(n *html.Node, pre bool)
	walk = func(n *html.Node, pre bool) {
		switch n.Type {
		case html.TextNode:
			s := n.Data
			if !pre {
				s = spaces.ReplaceAllString(s, " ")
			}
			b.WriteString(html.EscapeString(s))
		case html.ElementNode:
			b.WriteString("<" + n.Data)
			for _, a := range n.Attr {
				fmt.Fprintf(&b, " %s=%q", a.Key, a.Val)
			}
			b.WriteString(">")
			for c := n.FirstChild; c != nil; c = c.NextSibling {
				walk(c, pre || n.Data == "pre" || n.Data == "code")
			}
			b.WriteString("</" + n.Data + ">")
		}
	}
	for _, n := range list {
		walk(n, false)
	}
	return strings.TrimSpace(edges.ReplaceAllString(b.String(), "$1"))
}

var (
	spaces = regexp.MustCompile(`[ \t\n]+`)
	edges  = regexp.MustCompile(` *(</?(?:p|li|ul|ol|td|th|tr|h[1-6]|blockquote|pre|br|hr)(?: [^>]*)?>) *`)
	links  = regexp.MustCompile(`^(https?|mailto|mimi|im|xmpp|matrix|tel|sips?|geo|magnet|ftp|ircs?):`)
	images = regexp.MustCompile(`^(https?|cid|mxc):`)
)

// identity lets images be images on both sides.
var identity = &content.RichOptions{Image: func(src string) (string, bool) { return src, true }}

// checkMarkdown holds that Markdown says the same after it has been HTML, and that its Markdown then is stable.
func checkMarkdown(t testing.TB, md string) {
	t.Helper()
	h1 := content.MarkdownToHTML(md, identity)
	md2 := content.HTMLToMarkdown(h1, identity)
	h2 := content.MarkdownToHTML(md2, identity)
	if a, b := canonical(t, h1), canonical(t, h2); a != b {
		t.Fatalf("Markdown %q\nis   %s\nback %q\nis   %s", md, a, md2, b)
	}
	if len(md2) < 1<<16 {
		// What is written is read whole: literal text beyond a cut would show its escapes.
		if cut, _ := content.ScanWork(md2); cut != len(md2) {
			t.Fatalf("of %q only %d octets are parsed", md2, cut)
		}
	}
	if md3 := content.HTMLToMarkdown(h2, identity); md3 != md2 {
		t.Fatalf("not stable: %q, then %q", md2, md3)
	}
	checkSafe(t, h1)
	if text := content.MarkdownToText(md, nil); !utf8.ValidString(text) {
		t.Fatalf("text is not UTF-8: %q", text)
	}
}

// checkHTML holds that HTML of any kind says the same after it was reduced and after it has been Markdown.
func checkHTML(t testing.TB, src string) {
	t.Helper()
	clean := content.CleanHTML(src, identity)
	checkSafe(t, clean)
	md := content.HTMLToMarkdown(src, identity)
	back := content.MarkdownToHTML(md, identity)
	if a, b := canonical(t, clean), canonical(t, back); a != b {
		t.Fatalf("HTML %q\nis   %s\nMarkdown %q\nis   %s", src, a, md, b)
	}
	content.HTMLToText(src, nil)
	// With bare URLs made links it is stable from the second time on.
	auto := &content.RichOptions{Image: identity.Image, Autolink: true}
	md = content.HTMLToMarkdown(src, auto)
	if again := content.HTMLToMarkdown(content.MarkdownToHTML(md, identity), auto); canonical(t, content.MarkdownToHTML(again, identity)) != canonical(t, content.MarkdownToHTML(md, identity)) {
		t.Fatalf("HTML %q\nwith links %q\nand again  %q", src, md, again)
	}
}

var allowedTags = map[string]bool{"p": true, "h1": true, "h2": true, "h3": true, "h4": true, "h5": true, "h6": true, "blockquote": true,
	"ul": true, "ol": true, "li": true, "pre": true, "code": true, "hr": true, "br": true, "table": true, "thead": true, "tbody": true,
	"tr": true, "th": true, "td": true, "em": true, "strong": true, "del": true, "a": true, "img": true}

// checkSafe holds that HTML has only elements and attributes of the subset and links of allowed schemes.
func checkSafe(t testing.TB, src string) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(src))
	depth := 0
	for {
		switch z.Next() {
		case html.ErrorToken:
			return
		case html.CommentToken, html.DoctypeToken:
			t.Fatalf("comment or doctype in %s", src)
		case html.EndTagToken:
			depth--
		case html.StartTagToken:
			tok := z.Token()
			if !allowedTags[tok.Data] {
				t.Fatalf("element %s in %s", tok.Data, src)
			}
			if tok.Data != "br" && tok.Data != "hr" && tok.Data != "img" {
				if depth++; depth > 100 {
					t.Fatalf("more than 100 elements deep")
				}
			}
			for _, a := range tok.Attr {
				switch a.Key {
				case "href":
					if !links.MatchString(a.Val) {
						t.Fatalf("link to %q", a.Val)
					}
				case "src":
					if !images.MatchString(a.Val) {
						t.Fatalf("image from %q", a.Val)
					}
				case "alt", "title", "align", "start", "class":
				default:
					t.Fatalf("attribute %s in %s", a.Key, src)
				}
			}
		}
	}
}

// normalText is what survives of plain text: lines without white space at their ends, none empty at the edges.
func normalText(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\r\n", "\n")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\r':
			return '\n'
		case r == 0:
			return '\ufffd'
		case r < ' ' && r != '\n' && r != '\t', r == 0x7f:
			return -1
		}
		return r
	}, s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRightFunc(l, unicode.IsSpace)
	}
	for len(lines) > 0 && lines[0] == "" {
		lines = lines[1:]
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n")
}

// checkText holds that text taken literally stays that text, and that it has no markup.
func checkText(t testing.TB, s string) {
	t.Helper()
	md := content.TextToMarkdown(s, nil)
	want := normalText(s)
	if got := content.MarkdownToText(md, nil); normalText(got) != want {
		t.Fatalf("text %q\nMarkdown %q\nback %q\nwant %q", s, md, got, want)
	}
	if _, plain := content.MarkdownIsPlain(md); !plain {
		t.Fatalf("text %q becomes markup: %q", s, md)
	}
	// The marks of XEP-0393 and bare URLs lead to Markdown that is stable, too.
	checkMarkdown(t, content.TextToMarkdown(s, &content.TextOptions{Styled: true, Autolink: true}))
}

// Pieces of which random documents are made. Small sets make collisions likely.
var (
	markdownPieces = []string{"*", "**", "_", "__", "~", "~~", "`", "``", "```", "[", "]", "(", ")", "![", "](", "](https://a.example/b)", "<", ">", "&", "&amp;",
		"&#42;", "&copy;", "\\", "\\*", "!", "|", "-", "---", "+", "=", "===", "#", "## ", "1.", "1. ", "2) ", "- ", "* ", "> ", ":-:", "|-|-|", "\n", "\n\n", "\n  ",
		"\n    ", "  \n", "\\\n", " ", "  ", "\t", "a", "b", "word", "é", "中", "「", "」", "€", "🙂", "\u00a0", "\u200b", "[ ] ", "[x] ", "<https://a.example>", "<mimi://a.example/u/b>",
		"[m](mimi://a.example/u/b)", "[r]: https://r.example\n", "[r]", "<b>", "</b>", "<!--", "\"", "'", "0", "\x00", "javascript:", "https://x.example/(y)", "\n\n- a\n  - b\n", "\n\n| a | b |\n|---|--:|\n| c |\n\n"}
	htmlPieces = []string{"<p>", "</p>", "<b>", "</b>", "<strong>", "</strong>", "<i>", "</i>", "<em>", "</em>", "<s>", "</s>", "<del>", "</del>", "<u>", "</u>",
		"<a href='https://a.example'>", "<a href='mimi://a.example/u/b'>", "<a href='javascript:x'>", "<a>", "</a>", "<code>", "</code>", "<pre>", "</pre>", "<pre><code class='language-go'>",
		"<ul>", "</ul>", "<ol>", "<ol start=3>", "</ol>", "<li>", "</li>", "<blockquote>", "</blockquote>", "<h1>", "</h1>", "<h3>", "</h3>", "<br>", "<hr>",
		"<table>", "</table>", "<tr>", "</tr>", "<td>", "</td>", "<th align=right>", "</th>", "<thead>", "<tbody>", "<img src='https://a.example/i.png' alt='x*'>", "<img>",
		"<div>", "</div>", "<span data-mx-spoiler='r'>", "<span data-mx-color='#ff0000'>", "</span>", "<span data-mx-maths='a_b'>", "<details>", "<summary>", "</summary>", "</details>",
		"<mx-reply>", "</mx-reply>", "<input type=checkbox checked>", "<script>", "</script>", "<style>", "<!-- c -->", "<x-y>", " ", "\n", "a", "b", "word", "é", "中", "「", "*", "_", "~", "`",
		"[", "]", "(", ")", "#", "1.", "-", "+", "&lt;", "&amp;amp;", "\\", "|", "☐ ", "☑ ", "&nbsp;", "🙂", "!", ":", "<caption>", "0", "=", ">"}
	textPieces = []string{"*", "_", "~", "`", "```", ">", "> ", "\n", "\n\n", "\n\n\n", " ", "  ", "\t", "a", "b", "word", "#", "1.", "- ", "+", "[x](y)", "<b>", "&amp;", "&", "\\", "|",
		"https://a.example/b", "http://", ".", ")", "(", "é", "中", "🙂", "=", "===", "\r", "\r\n", "\x07", "\u00a0", "snake_case", "*bold*", "_it_", "~s~", "`c`"}
)

func compose(r *rand.Rand, pieces []string, n int) string {
	var b strings.Builder
	for range r.IntN(n) + 1 {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

const rounds = 4000

func TestMarkdownRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		checkMarkdown(t, compose(r, markdownPieces, 24))
	}
}

func TestHTMLRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range rounds {
		checkHTML(t, compose(r, htmlPieces, 24))
	}
}

func TestTextRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range rounds {
		checkText(t, compose(r, textPieces, 24))
	}
}

func FuzzMarkdown(f *testing.F) {
	for _, s := range []string{"~~|~  \nword![a", "[☐ `` `]: ``](https://a.example)", "中**「x」**中", "a*b*_c_**d**", "- -\n  - a\n\n1.\n", "a\n:-"} {
		f.Add(s)
	}
	for _, p := range markdownPieces {
		f.Add(p + "a" + p)
	}
	f.Fuzz(func(t *testing.T, md string) {
		if len(md) < 1<<14 {
			checkMarkdown(t, md)
		}
	})
}

func FuzzHTML(f *testing.F) {
	for _, s := range []string{"<a href='https://a.example'>☐ <code>`]:</code>", "rog>a<'@tng>", "<h1>#</h1>", "&\x95&#3", "a<ul><li><pre> \nb", "<b>a</b><b>b</b>c<i>(d)</i>e"} {
		f.Add(s)
	}
	for _, p := range htmlPieces {
		f.Add(p + "a" + p)
	}
	f.Fuzz(func(t *testing.T, src string) {
		if len(src) < 1<<14 {
			checkHTML(t, src)
		}
	})
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"&&B/p___", "\\b*c*", "a\n\n\n\nb", "C:\\dir\\*.txt", "1. a\n2) b\n+ c", "> a\n>> b"} {
		f.Add(s)
	}
	for _, p := range textPieces {
		f.Add(p + "a" + p)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) < 1<<14 {
			checkText(t, s)
		}
	})
}
