package xmpp

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// maxNick is the most octets of a nick. A resource may have 1,023; a nick travels in every stanza of a room.
const maxNick = 256

// cleanNick gives what of a name every server takes as a resource (ejabberd bounces what came after Unicode
// 3.2): normalised by NFKC, other spaces made plain, all else left out, runs of spaces joined. "" means that nothing usable is left.
// The name itself travels beside it as XEP-0172.
func cleanNick(name string) string {
	nick := strings.ToValidUTF8(name, "")
	// What is left out can bring characters together that are one when normalised: until nothing changes.
	for range 4 {
		next := cleanNickOnce(nick)
		if next == nick {
			if !bidiOK(nick) {
				return ""
			}
			return nick
		}
		nick = next
	}
	return ""
}

func cleanNickOnce(name string) string {
	var b strings.Builder
	space := false
	for _, r := range norm.NFKC.String(name) {
		if unicode.IsSpace(r) {
			space = b.Len() > 0
			continue
		}
		if !unicode.Is(nickChars, r) {
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		if b.Len()+utf8.RuneLen(r) > maxNick {
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSuffix(b.String(), " ")
}

// bidiOK is RFC 3454 section 6: with a right-to-left character there may be no left-to-right one, and both ends
// are right-to-left.
func bidiOK(s string) bool {
	if strings.IndexFunc(s, func(r rune) bool { return unicode.Is(rightToLeft, r) }) < 0 {
		return true
	}
	if strings.IndexFunc(s, func(r rune) bool { return unicode.Is(leftToRight, r) }) >= 0 {
		return false
	}
	first, _ := utf8.DecodeRuneInString(s)
	last, _ := utf8.DecodeLastRuneInString(s)
	return unicode.Is(rightToLeft, first) && unicode.Is(rightToLeft, last)
}

// nickKey is what makes two nicks the same: nobody is to pass for another by capital letters.
func nickKey(nick string) string { return strings.ToLower(norm.NFKC.String(nick)) }

// fullName is the name of a user before it is cut down to a nick: the id, without the other server of
// bob@other.net.
func fullName(u mimiuri.URI) string {
	if name, _, ok := strings.Cut(u.ID, "@"); ok && name != "" {
		return name
	}
	return u.ID
}

// defaultNick gives a user's nick in a room where they have chosen none: their name, with the domain
// and then a number as far as needed to be the only one. taken tells which keys are in use.
func defaultNick(u mimiuri.URI, own string, taken func(key string) bool) string {
	base := cleanNick(fullName(u))
	if base == "" {
		local, _ := encodeLocal(u, own)
		base = cleanNick(local)
	}
	if !taken(nickKey(base)) {
		return base
	}
	if len(base) > maxNick/2 {
		base = cleanNick(strings.ToValidUTF8(base[:maxNick/2], ""))
	}
	domain := u.Domain
	if _, d, ok := strings.Cut(u.ID, "@"); ok {
		domain = d
	}
	if len(domain) > maxNick/3 {
		domain = domain[:maxNick/3]
	}
	if strings.IndexFunc(base, func(r rune) bool { return unicode.Is(rightToLeft, r) }) < 0 {
		base = cleanNick(base + " (" + domain + ")")
		if !taken(nickKey(base)) {
			return base
		}
	} else { // may not be followed by letters of the other direction
		local, _ := encodeLocal(u, own)
		base = cleanNick(local)
	}
	for n := 2; ; n++ {
		if nick := fmt.Sprintf("%s %d", base, n); !taken(nickKey(nick)) {
			return nick
		}
	}
}
