package content_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"

	"github.com/mimibridge/mimibridge/core/content"
)

// hostile is 60 kB of patterns for which parsers of Markdown or HTML have taken the square of the time or worse.
func hostile() map[string]string {
	const size = 60000
	of := func(s string) string { return strings.Repeat(s, size/len(s)+1)[:size] }
	grow := func(mark, between string) string {
		var b strings.Builder
		for i := 1; b.Len() < size; i++ {
			b.WriteString(strings.Repeat(mark, i) + between)
		}
		return b.String()[:size]
	}
	m := map[string]string{
		"growing backticks":          grow("`", "a"),
		"growing backticks on lines": grow("`", "a\n"),
		"growing tildes":             grow("~", "a"),
		"growing stars":              grow("*", "a"),
		"growing brackets":           grow("[", "a"),
		"brackets open then close":   strings.Repeat("[", size/2) + strings.Repeat("]", size/2),
		"links in links":             strings.Repeat("[a", size/4) + strings.Repeat("](b)", size/8),
		"quotations deep":            strings.Repeat(">", size/2) + "a" + strings.Repeat("\n", size/2),
		"lists deep":                 strings.Repeat("- ", size/2) + "x",
		"lists deep, blank lines":    strings.Repeat("- ", 18) + "a" + strings.Repeat("\n", size),
		"quotations 30 deep":         strings.Repeat(strings.Repeat(">", 30)+"a\n", size/32),
		"table wide and long":        "|" + strings.Repeat("a|", size/6) + "\n|" + strings.Repeat("-|", size/6) + "\n" + strings.Repeat("|a\n", size/9),
		"table with escaped pipes":   "a|b\n-|-\n" + strings.Repeat("`\\|`|\n", size/6),
		"references and uses":        strings.Repeat("[a]: b\n", size/14) + "\n" + strings.Repeat("[a] ", size/8),
		"fence that is none":         "  ```\n```\n" + strings.Repeat("*a_", size/3),
		"fence in a list":            "- ```\n```\n" + strings.Repeat("*a_", size/3),
		"fence closed oddly":         "~~~\n \t~~~\n   ~~~~ \n" + strings.Repeat("*a_", size/3),
		"fence with backticks":       "``` `\n" + strings.Repeat("*a_", size/3),
		"paragraphs of marks":        strings.Repeat(strings.Repeat("*a_", 300)+"\n\n", size/902),
		"paragraphs of links":        strings.Repeat(strings.Repeat("[a](b \"", 500)+"\n\n", size/3502),
		"elements deep":              strings.Repeat("<b>", size/6) + "x" + strings.Repeat("</b>", size/8),
		"attributes":                 "<a " + strings.Repeat("x=y ", size/4) + ">",
	}
	for _, s := range []string{"*a_", "*a ", "a*", "**a ", "_a ", "a_b", "~a ", "[", "]", "[a](", "[a](b \"", "![", "[a][b", "[a]", "`", "`a", "``a`", "<", "<a:", "<a@", "&", "&#1", "|", "> ", "- ", "1. ",
		"a\n", "-\n", "\\", "\\|", "`\\||", "[a]: b\n", "[a]: <b\n", "- a\n", "```\n", "|-|\n", "a|b\n-|-\n", "\ta\n", "[](", "*a* ", "***a***", "*_~`[", "<b>", "</b>", "<b><i>", "<p>", "<ul><li>",
		"<table>", "<table><tr><td>", "<blockquote>", "<a href=x>", "<br>", "<span data-mx-spoiler>", "a  \n", "中**「", "* * *\n", "(http://", "http://a ", "*a ~b `c _d "} {
		m["repeated "+fmt.Sprintf("%q", s)] = of(s)
	}
	return m
}

// TestScanBoundsWork: what is left after the scan cannot take the parser more than the bound, measured by what it
// is to pair: runs of marks within a block, brackets, and rows times columns.
func TestScanBoundsWork(t *testing.T) {
	for name, md := range hostile() {
		t.Run(name, func(t *testing.T) { checkWork(t, md) })
		t.Run("after text, "+name, func(t *testing.T) { checkWork(t, strings.Repeat("some text and *marks*\n\n", 100)+md) })
	}
}

func checkWork(t testing.TB, md string) {
	t.Helper()
	cut, work := content.ScanWork(md)
	if work > content.MaxWork {
		t.Fatalf("work %d", work)
	}
	// goldmark itself says what text of each block it looked for marks in. Its own paragraphs are what counts, so
	// the default parser is asked, with blocks only.
	src := []byte(md)[:min(cut, len(md))]
	doc := goldmark.New().Parser().Parse(text.NewReader(src))
	total := 0
	_ = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering && n.Type() == ast.TypeBlock && !n.IsRaw() && n.Lines() != nil && n.Lines().Len() > 0 {
			marks, last, escaped := 0, byte(0), false
			for i := range n.Lines().Len() {
				s := n.Lines().At(i)
				for _, c := range s.Value(src) {
					if !escaped && c != last && (c == '*' || c == '[') {
						marks++
					}
					escaped = c == '\\' && !escaped
					last = c
				}
			}
			total += marks * marks
		}
		return ast.WalkContinue, nil
	})
	if total > content.MaxWork {
		t.Fatalf("%d octets are parsed, with %d pairs of marks in their blocks", cut, total)
	}
}

// TestScanLetsThrough: what people write is parsed whole.
func TestScanLetsThrough(t *testing.T) {
	for name, md := range map[string]string{
		"nothing":                  "",
		"a long chat message":      strings.Repeat("Some *words*, a [link](https://a.example/b_c) and `code`.\n", 400),
		"marks in many paragraphs": strings.Repeat("*a* _b_ **c** ~~d~~ `e` [f](https://g.example)\n\n", 1200),
		"a list with links":        strings.Repeat("- [item](https://a.example/x) *new* `v1.2`\n", 1200),
		"a table with code":        "| a | b |\n|---|---|\n" + strings.Repeat("| `some code` | ``more`` text, long enough |\n", 1300),
		"a deep list":              "- a\n  - b\n    - c\n      - d\n        - e\n",
		"a big table":              "| a | b | c |\n|---|---|---|\n" + strings.Repeat("| x | y *z* | w |\n", 1500),
		"code with marks":          "```c\n" + strings.Repeat("*p = a[i] * b_c[*q];\n", 2500) + "```\n*done*",
		"names with underscores":   strings.Repeat("some_long_name another_one ", 2000),
		"escaped marks":            strings.Repeat(`\*\_\[\]\~`+"\\`", 4000),
	} {
		t.Run(name, func(t *testing.T) {
			if cut, work := content.ScanWork(md); cut != len(md) {
				t.Errorf("only %d of %d octets are parsed (work %d)", cut, len(md), work)
			}
		})
	}
}

// TestScanCuts: each thing of which there can be too much is enough for itself to end the parsing.
func TestScanCuts(t *testing.T) {
	words := strings.Repeat("some words ", 5000)
	for name, md := range map[string]string{
		"marks in a paragraph":              strings.Repeat("*a ", 4000),
		"marks and names with underscores":  strings.Repeat("*a ", 1000) + strings.Repeat("a_b ", 12000),
		"brackets in a paragraph":           strings.Repeat("[a ", 4000),
		"brackets on many lines":            strings.Repeat("[a]\n", 1000) + strings.Repeat("a\n", 6000),
		"targets that may not end":          strings.Repeat("[a](b \"", 300) + words,
		"runs of backticks":                 hostile()["growing backticks"],
		"rows shorter than the header":      "|" + strings.Repeat("a|", 5000) + "\n|" + strings.Repeat("-|", 5000) + "\n" + strings.Repeat("|a\n", 60),
		"escaped pipes":                     "a|b\n-|-\n" + strings.Repeat("`\\|`|\n", 3500),
		"reference definitions":             strings.Repeat("[a]: b\n", 1700),
		"containers on a line":              strings.Repeat("> ", 41) + "a",
		"containers by indentation":         "- a\n" + strings.Repeat(" ", 84) + "- b",
		"numbered containers":               strings.Repeat("1. ", 41) + "a",
		"containers and lines":              strings.Repeat("- ", 20) + "a\n" + strings.Repeat("\n", 7000),
		"containers left open by the lines": strings.Repeat("- ", 20) + "a\n" + strings.Repeat("\n  b", 7000),
		"octets":                            strings.Repeat("words\n\n", 50000),
	} {
		t.Run(name, func(t *testing.T) {
			if cut, work := content.ScanWork(md); cut == len(md) {
				t.Errorf("all of %d octets is parsed, work %d", cut, work)
			}
			// And a paragraph before it is still parsed.
			if cut, _ := content.ScanWork("*a*\n\n" + md); cut < 5 {
				t.Errorf("only %d octets are parsed", cut)
			}
		})
	}
}

// TestLiteralBeyondTheCap: what is not parsed is there as text, and what stands before it keeps its markup.
func TestLiteralBeyondTheCap(t *testing.T) {
	md := "**head**\n\n" + strings.Repeat("*a_", 20000)
	html := content.MarkdownToHTML(md, nil)
	if !strings.HasPrefix(html, "<p><strong>head</strong></p>") {
		t.Errorf("the head is %.60q", html)
	}
	if strings.Contains(html, "<em>") || strings.Count(html, "*a_") != 20000 {
		t.Errorf("the tail is not literal: %d of 20000", strings.Count(html, "*a_"))
	}
	if got := content.MarkdownToText(md, nil); got != "*head*\n\n"+strings.Repeat("*a_", 20000) {
		t.Errorf("as text it is %.60q…", got)
	}
}

// TestHTMLTooDeep: what is nested too deeply, or too much, keeps its text.
func TestHTMLTooDeep(t *testing.T) {
	for name, src := range map[string]string{
		"b":          strings.Repeat("<b>", 5000) + "deep" + strings.Repeat("</b>", 5000) + " end",
		"div":        strings.Repeat("<div>", 5000) + "deep" + strings.Repeat("</div>", 5000) + " end",
		"blockquote": strings.Repeat("<blockquote>", 5000) + "deep" + strings.Repeat("</blockquote>", 5000) + " end",
		"ul li":      strings.Repeat("<ul><li>", 5000) + "deep" + strings.Repeat("</li></ul>", 5000) + " end",
		"table":      strings.Repeat("<table><tr><td>", 2000) + "deep" + strings.Repeat("</td></tr></table>", 2000) + " end",
		"a b i":      strings.Repeat("<a href='https://a.example'><b><i>", 2000) + "deep" + strings.Repeat("</i></b></a>", 2000) + " end",
		"not closed": strings.Repeat("<div><p><b>", 4000) + "deep end",
		"many":       strings.Repeat("<i>x</i> ", 70000) + "<p>deep</p> end",
	} {
		t.Run(name, func(t *testing.T) {
			if depth, count := content.ElementDepth(src); depth > 102 || count > 1<<16 {
				t.Errorf("%d elements, %d deep", count, depth)
			}
			checkSafe(t, content.CleanHTML(src, nil))
			for _, got := range []string{content.HTMLToMarkdown(src, nil), content.HTMLToText(src, nil), content.CleanHTML(src, nil)} {
				if !strings.Contains(got, "deep") || !strings.Contains(got, "end") {
					t.Errorf("text is lost: %.80q", got)
				}
				if len(got) > 40*len(src)/10+1000 {
					t.Errorf("%d octets of %d", len(got), len(src))
				}
			}
		})
	}
}

func FuzzScan(f *testing.F) {
	f.Add("*a_", 3000, "- a\n```\n")
	f.Add("`\\|`|\n", 900, "a|b\n-|-\n")
	f.Fuzz(func(t *testing.T, piece string, n int, head string) {
		if n < 0 || n > 60000 || len(piece)*n > 1<<18 || len(head) > 1000 {
			return
		}
		checkWork(t, head+strings.Repeat(piece, n))
	})
}

func BenchmarkRich(b *testing.B) {
	ops := []struct {
		name string
		run  func(string)
	}{
		{"MarkdownToHTML", func(s string) { content.MarkdownToHTML(s, nil) }},
		{"MarkdownToText", func(s string) { content.MarkdownToText(s, nil) }},
		{"HTMLToMarkdown", func(s string) { content.HTMLToMarkdown(s, nil) }},
		{"TextToMarkdown", func(s string) { content.TextToMarkdown(s, &content.TextOptions{Styled: true, Autolink: true}) }},
	}
	m := hostile()
	for _, op := range ops {
		// One number for each converter: its worst pattern.
		b.Run(op.name+"/worst of 60 kB", func(b *testing.B) {
			for b.Loop() {
				worst, of := int64(0), ""
				for name, s := range m {
					// The best of three, since others use the machine too.
					r := min(elapsed(func() { op.run(s) }), elapsed(func() { op.run(s) }), elapsed(func() { op.run(s) }))
					if r > worst {
						worst, of = r, name
					}
				}
				b.ReportMetric(float64(worst)/1e6, "ms/worst")
				b.Logf("%.1f ms: %s", float64(worst)/1e6, of)
			}
		})
	}
	chat := strings.Repeat("Some *words*, a [link](https://a.example/b) and `code`, for [@Alice](mimi://a.example/u/alice).\n\n", 4)
	for _, op := range ops {
		b.Run(op.name+"/chat message", func(b *testing.B) {
			b.SetBytes(int64(len(chat)))
			for b.Loop() {
				op.run(chat)
			}
		})
	}
}

func elapsed(f func()) int64 {
	start := time.Now()
	f()
	return int64(time.Since(start))
}
