package content

import (
	"mime"
	"strings"
	"unicode/utf8"
)

// PlainText gives the best plain text of what the message wants rendered, for networks that show text: a
// text/plain part as it is, else the source of a text/markdown part. Of alternatives the plain one is taken,
// parts that are processed one by one are joined by line feeds, a unit counts only if all of it is
// textual. ReadableText is the same without Markdown in it. ok is false if nothing is left: reactions, deletions, attachments, HTML alone, text that is not UTF-8.
func (m *Message) PlainText() (text string, ok bool) {
	text, rank := m.Body.plain()
	return text, rank > 0
}

// Ranks of a part's text: how good it is for a reader of plain text.
const (
	rankNone = iota
	rankMarkdown
	rankPlain
)

func (p *Part) plain() (string, int) {
	switch p.Disposition {
	case Unspecified, Render, Inline:
	default:
		return "", rankNone
	}
	switch p.Cardinality {
	case SinglePart:
		return p.singleText()
	case MultiPart:
	default:
		return "", rankNone
	}
	best, bestRank := "", rankNone
	var all []string
	worst := rankPlain
	for i := range p.Parts {
		text, rank := p.Parts[i].plain()
		if rank > bestRank {
			best, bestRank = text, rank
		}
		if rank > rankNone {
			all = append(all, text)
		}
		worst = min(worst, rank)
	}
	switch {
	case p.Semantics == ChooseOne:
		return best, bestRank
	case p.Semantics == SingleUnit && worst == rankNone, len(all) == 0:
		return "", rankNone
	}
	return strings.Join(all, "\n"), max(worst, rankMarkdown)
}

func (p *Part) singleText() (string, int) {
	if len(p.ContentType) > 1024 {
		return "", rankNone
	}
	typ, params, err := mime.ParseMediaType(p.ContentType)
	if err != nil {
		return "", rankNone
	}
	rank := rankNone
	switch typ {
	case "text/plain":
		rank = rankPlain
	case "text/markdown":
		rank = rankMarkdown
	}
	switch strings.ToLower(params["charset"]) {
	case "", "utf-8", "us-ascii": // all are UTF-8
	default:
		return "", rankNone
	}
	if rank == rankNone || !utf8.Valid(p.Content) {
		return "", rankNone
	}
	return string(p.Content), rank
}
