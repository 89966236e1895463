package content_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

func TestMarkdownToHTML(t *testing.T) {
	for _, c := range []struct{ name, md, want string }{
		{"draft example original", "Hi everyone, we just shipped release 2.0. __Good  work__!", "Hi everyone, we just shipped release 2.0. <strong>Good  work</strong>!"},
		{"draft example reply", "Right on! _Congratulations_ 'all!", "Right on! <em>Congratulations</em> &#39;all!"},
		{"draft example expiring", "__*VPN GOING DOWN*__ soon", "<strong><em>VPN GOING DOWN</em></strong> soon"},
		{"No HTML: open tag", "<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"},
		{"No HTML: block", "<div>\n*x*\n</div>", "&lt;div&gt;\n<em>x</em>\n&lt;/div&gt;"},
		{"No HTML: script block", "<script>\nalert(1)\n</script>", "&lt;script&gt;\nalert(1)\n&lt;/script&gt;"},
		{"No HTML: comment", "<!-- x -->", "&lt;!-- x --&gt;"},
		{"No HTML: processing instruction", "<?php x ?>", "&lt;?php x ?&gt;"},
		{"No HTML: declaration", "<!DOCTYPE x>", "&lt;!DOCTYPE x&gt;"},
		{"No HTML: CDATA", "<![CDATA[x]]>", "&lt;![CDATA[x]]&gt;"},
		{"No HTML: escaped by the sender", "&lt;b>x", "&lt;b&gt;x"},
		{"no Autolink extension", "see https://a.example or www.a.example", "see https://a.example or www.a.example"},
		{"autolink of CommonMark", "<https://a.example/?b=c&d>", `<a href="https://a.example/?b=c&amp;d">https://a.example/?b=c&amp;d</a>`},
		{"address", "<a@b.example>", `<a href="mailto:a@b.example">a@b.example</a>`},
		{"Tables", "| a | b |\n|:-:|--:|\n| `x\\|y` |", `<table><thead><tr><th align="center">a</th><th align="right">b</th></tr></thead><tbody><tr><td align="center"><code>x|y</code></td></tr></tbody></table>`},
		{"Task list items", "- [ ] a\n- [x] b", "<ul><li>☐ a</li><li>☑ b</li></ul>"},
		{"Strikethrough", "~~a~~ ~b~", "<del>a</del> <del>b</del>"},
		{"list, loose, from 3", "3. a\n\n4. b", `<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>`},
		{"code", "```go x\na < b\n```", "<pre><code class=\"language-go\">a &lt; b\n</code></pre>"},
		{"heading and rule", "# a #\n***", "<h1>a</h1><hr>"},
		{"quotation", "> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"},
		{"breaks", "a\\\nb\nc  \nd", "a<br>b\nc<br>d"},
		{"title", `[a](https://b.example "c \"d\"")`, `<a href="https://b.example" title="c &#34;d&#34;">a</a>`},
		{"reference", "[a][b]\n\n[b]: https://c.example", `<a href="https://c.example">a</a>`},
		{"character references", "&copy; &#42;a&#42; &amp;lt; &#0;", "© *a* &amp;lt; \ufffd"},
		{"image without a resolver", "![alt](https://a.example/i.png)", `<a href="https://a.example/i.png">alt</a>`},
		{"image of a part without a resolver", "![alt](cid:5@local.invalid)", "alt"},
		{"scheme javascript", "[a](javascript:alert(1))", "a"},
		{"scheme javascript in disguise", "[a](&#106;avascript:x) [b](JAVASCRIPT:x) [c](java\tscript:x) <javascript:x>", "a b [c](java\tscript:x) javascript:x"},
		{"scheme data", "[a](data:text/html,x)", "a"},
		{"scheme vbscript", "[a](vbscript:x)", "a"},
		{"scheme file", "[a](file:///etc/passwd)", "a"},
		{"no scheme", "[a](/b) [c](//d.example) [e](#f)", "a c e"},
		{"https without a host", "[a](https:b) [c](https:///d)", "a c"},
		{"quotes in a target", `[a](https://b.example/"onclick="x)`, `<a href="https://b.example/%22onclick=%22x">a</a>`},
		{"mention", "[@Alice](mimi://example.com/u/alice-smith)", `<a href="mimi://example.com/u/alice-smith">@Alice</a>`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := content.MarkdownToHTML(c.md, nil); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestHTMLToMarkdown(t *testing.T) {
	for _, c := range []struct{ name, html, want string }{
		{"draft example mention-html", `<p>Kudos to <a href="mimi://example.com/u/alice-smith">@Alice Smith</a> for making the release happen!</p>`, "Kudos to [@Alice Smith](mimi://example.com/u/alice-smith) for making the release happen!"},
		{"draft example multipart-3", "<html><body><h1>Welcome!</h1>\n<img src=\"cid:5@local.invalid\" alt=\"Welcome image\"/>\n</body></html>", "# Welcome!\n\nWelcome image"},
		{"nothing", "", ""},
		{"mx-reply", "<mx-reply><blockquote>quoted</blockquote></mx-reply>answer", "answer"},
		{"mx-reply not closed", "<mx-reply>answer", "answer"},
		{"spoiler", "a <span data-mx-spoiler>b <b>c</b></span> d", "a ||b **c**|| d"},
		{"spoiler with a reason", `<span data-mx-spoiler="film">x</span>`, "(film) ||x||"},
		{"data-mx-color", `<span data-mx-color="#ff0000" data-mx-bg-color="#000">x</span> <font color="red">y</font>`, "x y"},
		{"data-mx-maths", `<span data-mx-maths="a_1*b"><code>x</code></span><div data-mx-maths="\frac">y</div>`, "`a_1*b`\n\n```math\n\\frac\n```"},
		{"emoticon", `<img data-mx-emoticon src="mxc://a.example/b" alt=":cat:" title=":cat:" height="32">`, ":cat:"},
		{"image of the network", `<img src="mxc://a.example/b" alt="a cat">`, "a cat"},
		{"details", "<details><summary>more</summary><p>text</p></details>", "**more**\n\ntext"},
		{"underline, sub, sup", "<u>a</u><sub>b</sub><sup>c</sup>", "abc"},
		{"script and style", "a<script>alert(1)</script><style>p{}</style>b", "ab"},
		{"comment", "a<!-- x -->b", "ab"},
		{"literal marks", "*a* _b_ `c` [d](e) ~f~ # g", "\\*a\\* \\_b\\_ \\`c\\` \\[d\\](e) \\~f\\~ # g"},
		{"literal marks at the beginning", "<p># a</p><p>1. b</p><p>- c</p><p>+ d</p><p>&gt; e</p><p>===</p><p>10) f</p><p>:-:</p>", "\\# a\n\n1\\. b\n\n\\- c\n\n\\+ d\n\n\\> e\n\n\\===\n\n10\\) f\n\n\\:-:"},
		{"hashtag, numbers, face", "<p>#go 2</p><p>-5</p><p>+49</p><p>:cat:</p>", "#go 2\n\n-5\n\n+49\n\n:cat:"},
		{"literal tag", "&lt;b&gt;x &lt; y &amp;lt; &lt;3", "&lt;b>x < y &amp;lt; <3"},
		{"literal backslash", `C:\dir\*`, `C:\dir\\\*`},
		{"names with underscores", "snake_case __init__ _x", "snake_case \\_\\_init\\_\\_ \\_x"},
		{"marks in a word", "un<em>believ</em>able <b>(a)</b>b", "un*believ*able **(a)**&#98;"},
		{"marks beside Chinese", "中<b>「x」</b>中", "&#20013;**「x」**&#20013;"},
		{"white space in marks", "a<b> b </b>c", "a **b** c"},
		{"marks in their like", "<b>a <strong>b</strong></b> <i><em>c</em></i>", "**a b** _c_"},
		{"marks across paragraphs", "<b><p>a</p><p>b</p></b>", "**a**\n\n**b**"},
		{"marks that overlap", "<b>a<i>b</b>c</i>", "**&#97;_b_**&#99;"},
		{"links in links", `<a href="https://a.example">x <a href="https://b.example">y</a></a>`, "[x y](https://a.example)"},
		{"link without text", `<a href="https://a.example"></a>`, "<https://a.example>"},
		{"link with brackets", `<a href="https://a.example/(x">b]</a>`, `[b\]](<https://a.example/(x>)`},
		{"scheme javascript", `<a href=" java` + "\n" + `script:x">a</a> <a href="JavaScript:x">b</a>`, "a b"},
		{"control characters in a target", "<a href='https://a.example/&#1;b'>a</a> <a href='https://a.example/&#10;b'>b</a> <a href='https://a.example/\u202eb'>c</a>", "a b [c](https://a.example/%E2%80%AEb)"},
		{"code with backticks", "<code>a`b``</code> <code>`</code>", "``` a`b`` ``` `` ` ``"},
		{"code block", "<pre><code class=\"language-go\">a\n```\n</code></pre>", "````go\na\n```\n````"},
		{"lists", "<ul><li>a<ol start=3><li>b</li></ol></li><li><input type=checkbox checked> c</li><li>☐ d</li></ul>", "- a\n\n  3. b\n\n- [x] c\n\n- [ ] d"},
		{"lists after each other", "<ul><li>a</li></ul><ul><li>b</li></ul>", "- a\n\n+ b"},
		{"items without a list", "<li>a<li>b", "- a\n\n+ b"},
		{"table", `<table><caption>t</caption><tr><th>a|b</th><th align=right>c</th></tr><tr><td><p>d</p><p>e</p></td></tr></table>`, "t\n\n| a&#124;b | c |\n| --- | --: |\n| d e |"},
		{"table without a header", "<table><tr><td>a</td><td>b</td></tr></table>", "|  |  |\n| --- | --- |\n| a | b |"},
		{"breaks", "a<br>b<br/><br>c<br>", "a\\\nb\\\n\\\nc"},
		{"paragraph in a heading", "<h2>a<br>b</h2>", "## a b"},
		{"not UTF-8", "a\xffb\x00c", "a\ufffdb\ufffdc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := content.HTMLToMarkdown(c.html, nil); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestMarkdownToText(t *testing.T) {
	for _, c := range []struct{ name, md, want string }{
		{"marks of XEP-0393", "**a** _b_ ~~c~~ `d`", "*a* _b_ ~c~ `d`"},
		{"escapes", `\*a\* &lt;b>`, "*a* <b>"},
		{"link", "[a](https://b.example) <https://c.example> [d.example](https://d.example/)", "a (https://b.example) https://c.example d.example"},
		{"mention", "hi [@Alice](mimi://example.com/u/alice)!", "hi @Alice!"},
		{"blocks", "# a\n\nb\nc\n\n- d\n  - [x] e\n\n3. f\n4. g\n\n> h\n\n```go\ni\n```", "*a*\n\nb\nc\n\n- d\n  - [x] e\n\n3. f\n4. g\n\n> h\n\n```go\ni\n```"},
		{"table", "| a | b |\n|---|---|\n| c | *d* |", "a | b\nc | _d_"},
		{"image", "![a](https://b.example/c.png)", "a (https://b.example/c.png)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := content.MarkdownToText(c.md, nil); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestTextToMarkdown(t *testing.T) {
	styled := &content.TextOptions{Styled: true, Autolink: true}
	for _, c := range []struct {
		name, text string
		o          *content.TextOptions
		want       string
	}{
		{"literal", "*a* <b> [c](d)\n# e", nil, "\\*a\\* &lt;b> \\[c\\](d)\\\n\\# e"},
		{"white space", "  a\n\tb\n\n\nc  d ", nil, "&#32; a\\\n&#9;b\\\n\u00a0\n\nc  d"},
		{"styled", "*a b* _c_ ~d~ `*e*`", styled, "**a b** _c_ ~~d~~ `*e*`"},
		{"styled: not a mark", "2 * 3 * 4, a*b*c, *x", styled, "2 \\* 3 \\* 4, a\\*b\\*c, \\*x"},
		{"styled: nested", "*a _b_*", styled, "**a _b_**"},
		{"styled: blocks", "> a\n>> b\n```\n*c*\n```\nd", styled, "> a\n>\n> > b\n\n```\n*c*\n```\n\nd"},
		{"URLs", "see https://a.example/b_c. (http://d.example) xhttp://e", styled, "see <https://a.example/b_c>. (<http://d.example>) xhttp://e"},
		{"URLs left alone", "https://a.example", nil, "https://a.example"},
		{"mentions", "héllo Bob and Bob", &content.TextOptions{References: []content.Reference{{Begin: 6, End: 9, URI: "mimi://a.example/u/bob"}, {Begin: 8, End: 12, URI: "mimi://a.example/u/x"}, {Begin: 14, End: 99, URI: "mimi://a.example/u/x"}}},
			"héllo [Bob](mimi://a.example/u/bob) and Bob"},
		{"mention in a styled quotation", "> hi *Bob*", &content.TextOptions{Styled: true, References: []content.Reference{{Begin: 6, End: 9, URI: "mimi://a.example/u/bob"}}}, "> hi **[Bob](mimi://a.example/u/bob)**"},
		{"mention of no allowed scheme", "Bob", &content.TextOptions{References: []content.Reference{{Begin: 0, End: 3, URI: "javascript:x"}}}, "Bob"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := content.TextToMarkdown(c.text, c.o); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestMentions: mentions go from a network to Markdown and back, with the names each side uses.
func TestMentions(t *testing.T) {
	alice := mimiuri.MustParse("mimi://a.example/u/alice")
	team := mimiuri.MustParse("mimi://a.example/r/the%20team")
	o := &content.RichOptions{
		Mention: func(u mimiuri.URI, text string) (string, string) {
			if u == alice {
				return "https://net.example/@alice", "Alice S."
			}
			if text == "" {
				return "", "the room"
			}
			return "", ""
		},
		Resolve: func(href, text string) (mimiuri.URI, string, bool) {
			if href == "https://net.example/@alice" {
				return alice, "@" + text, true
			}
			return mimiuri.URI{}, "", false
		},
	}
	md := "[Alice](" + alice.String() + "), [us](" + team.String() + "), <" + team.String() + ">, [x](https://b.example)"
	const want = `<a href="https://net.example/@alice">Alice S.</a>, us, the room, <a href="https://b.example">x</a>`
	if got := content.MarkdownToHTML(md, o); got != want {
		t.Errorf("HTML %s", got)
	}
	if got, want := content.HTMLToMarkdown(want, o), "[@Alice S.](mimi://a.example/u/alice), us, the room, [x](https://b.example)"; got != want {
		t.Errorf("Markdown %s", got)
	}
	text, refs := content.MarkdownToTextReferences("é\n\n- hi "+md, o)
	if want := "é\n\n- hi Alice S., us, the room, x (https://b.example)"; text != want {
		t.Errorf("text %q", text)
	}
	if want := []content.Reference{{8, 16, alice.String()}, {18, 20, team.String()}, {22, 30, team.String()}}; !reflect.DeepEqual(refs, want) {
		t.Errorf("references %v", refs)
	}
	if got := content.MentionsIn(md); len(got) != 2 || got[0] != alice || got[1] != team {
		t.Errorf("mentions %v", got)
	}
	if got := content.MentionsInHTML(`<a href="https://net.example/@alice">x</a>`, o); len(got) != 1 || got[0] != alice {
		t.Errorf("mentions in HTML %v", got)
	}
	for display, want := range map[string]string{
		"": "<mimi://a.example/u/alice>", "A*[x]": `[A\*\[x\]](mimi://a.example/u/alice)`, "a\nb": "[a b](mimi://a.example/u/alice)", " ": "<mimi://a.example/u/alice>",
	} {
		if got := content.Mention(alice, display); got != want {
			t.Errorf("Mention(%q) = %s, want %s", display, got, want)
		}
	}
	if got := content.EscapeMarkdown("# a\n*b*"); got != `\# a \*b\*` {
		t.Errorf("EscapeMarkdown: %s", got)
	}
}

func TestImages(t *testing.T) {
	o := &content.RichOptions{Image: func(src string) (string, bool) {
		if src == "cid:5@local.invalid" {
			return "mxc://a.example/b", true
		}
		if src == "mxc://a.example/b" {
			return "cid:5@local.invalid", true
		}
		if src == "cid:6@local.invalid" {
			return "javascript:x", true
		}
		return "", false
	}}
	html := content.MarkdownToHTML("![a \"b\"](cid:5@local.invalid \"t\") ![c](cid:6@local.invalid) ![d](https://e.example)", o)
	if want := `<img src="mxc://a.example/b" alt="a &#34;b&#34;" title="t"> c <a href="https://e.example">d</a>`; html != want {
		t.Errorf("HTML %s", html)
	}
	if got, want := content.HTMLToMarkdown(html, o), `![a "b"](cid:5@local.invalid "t") c [d](https://e.example)`; got != want {
		t.Errorf("Markdown %s", got)
	}
}

func TestAutolink(t *testing.T) {
	o := &content.RichOptions{Autolink: true}
	for html, want := range map[string]string{
		`see https://a.example/b_c?d=e&amp;f. And (http://b.example/(x))!`:            "see <https://a.example/b_c?d=e&f>. And (<http://b.example/(x)>)!",
		`<a href="https://a.example">https://b.example</a>`:                           "[https://b.example](https://a.example)",
		`<code>https://a.example</code>`:                                              "`https://a.example`",
		`<b>https://a.example</b>x`:                                                   "**<https://a.example>**&#120;",
		`httpx://a https:/b https:// xhttps://c https://` + strings.Repeat("d", 3000): "httpx://a https:/b https:// xhttps://c https://" + strings.Repeat("d", 3000),
		`https://a.example/&amp;copy;d x`:                                             "https://a.example/&amp;copy;d x",
		`https://a.example"x" https://b.example&lt;c&gt;`:                             `<https://a.example>"x" <https://b.example>&lt;c>`,
	} {
		if got := content.HTMLToMarkdown(html, o); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", html, got, want)
		}
	}
}

// TestWideTable: what is in columns beyond the bound is in the last one.
func TestWideTable(t *testing.T) {
	row := "<tr>" + strings.Repeat("<td>a</td>", 99) + "<td>b</td><td>c</td><td>d</td></tr>"
	md := content.HTMLToMarkdown("<table>"+row+row+"</table>", nil)
	if lines := strings.Split(md, "\n"); len(lines) != 4 || strings.Count(lines[1], "---") != 100 || !strings.HasSuffix(lines[3], "| b c d |") {
		t.Errorf("got %s", md)
	}
	md = "|" + strings.Repeat(" a |", 120) + "\n|" + strings.Repeat(" - |", 120) + "\n"
	if html := content.MarkdownToHTML(md, nil); strings.Count(html, "<th>") != 100 || !strings.HasSuffix(html, "<th>"+strings.Repeat("a ", 20)+"a</th></tr></thead></table>") {
		t.Errorf("got %s", html)
	}
}

func TestCleanHTML(t *testing.T) {
	src := `<div onclick="x"><p style="color:red">a <b class=x>b</b><script>c</script></p><a href="javascript:x" onmouseover=y>d</a><iframe src=e></iframe><img src="https://a.example/pixel" alt=""><img src="https://a.example/b" alt="c"><form><input value=f><button>g</button></form></div>`
	if got, want := content.CleanHTML(src, nil), `<p>a <strong>b</strong></p><p>d<a href="https://a.example/pixel">https://a.example/pixel</a><a href="https://a.example/b">c</a></p><p>g</p>`; got != want {
		t.Errorf("got %s", got)
	}
}

func TestMarkdownIsPlain(t *testing.T) {
	for md, want := range map[string]string{"a\n\nb": "a\n\nb", `\*a\*`: "*a*", "a\\\nb": "a\nb", "": ""} {
		if text, plain := content.MarkdownIsPlain(md); !plain || text != want {
			t.Errorf("%q: %q, %v", md, text, plain)
		}
	}
	for _, md := range []string{"*a*", "- a", "# a", "`a`", "<https://a.example>", "    a", "> a", "***"} {
		if text, plain := content.MarkdownIsPlain(md); plain {
			t.Errorf("%q is plain: %q", md, text)
		}
	}
}

func ExampleHTMLToMarkdown() {
	fmt.Println(content.HTMLToMarkdown(`<p>Thanks, <a href="https://matrix.to/#/@alice:a.example">Alice</a>, for <em>v2*</em></p>`, &content.RichOptions{
		Resolve: func(href, text string) (mimiuri.URI, string, bool) {
			if name, ok := strings.CutPrefix(href, "https://matrix.to/#/@"); ok {
				local, domain, _ := strings.Cut(name, ":")
				u, err := mimiuri.New(domain, mimiuri.User, local)
				return u, "@" + local, err == nil
			}
			return mimiuri.URI{}, "", false
		},
	}))
	// Output: Thanks, [@alice](mimi://a.example/u/alice), for _v2\*_
}
