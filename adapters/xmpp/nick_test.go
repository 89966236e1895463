package xmpp

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

func TestCleanNick(t *testing.T) {
	for _, c := range []struct{ clause, in, want string }{
		{"plain", "Romeo", "Romeo"},
		{"inner space", "  Romeo \t  Montague ", "Romeo Montague"},
		{"umlaut", "Bäcker", "Bäcker"},
		{"NFKC", "Ｒｏｍｅｏ", "Romeo"},
		{"composition", "Ba\u0308cker", "Bäcker"},
		{"emoji of Unicode 6", "Romeo \U0001F600", "Romeo"},
		{"only emoji", "\U0001F600", ""},
		{"control characters", "Ro\x00me\u0085o", "Rome o"},
		{"bidi override", "Ro\u202emeo", "Romeo"},
		{"zero width", "Ro\u200bmeo", "Romeo"},
		{"private use", "Ro\ue000meo", "Romeo"},
		{"right to left", "\u05d0\u05d1\u05d2", "\u05d0\u05d1\u05d2"},
		{"mixed direction", "\u05d0\u05d1x", ""},
		{"long", strings.Repeat("ä", 300), strings.Repeat("ä", 128)},
	} {
		t.Run(c.clause, func(t *testing.T) {
			if got := cleanNick(c.in); got != c.want {
				t.Errorf("%q became %q, not %q", c.in, got, c.want)
			}
		})
	}
}

func TestDefaultNick(t *testing.T) {
	taken := map[string]bool{}
	for _, c := range []struct{ uri, want string }{
		{"mimi://matrix.example/u/juliet", "juliet"},
		{"mimi://other.example/u/Juliet", "Juliet (other.example)"},
		{"mimi://other.example/u/juliet", "juliet (other.example) 2"},
		{"mimi://xmpp.example/u/bob@other.net", "bob"},
		{"mimi://xmpp.example/u/bob@third.net", "bob (third.net)"},
		{"mimi://wire.example/u/%F0%9F%98%80", "~u2fph00%wire.example"},
		{"mimi://wire.example/u/%D7%90%D7%91", "\u05d0\u05d1"},
		{"mimi://wire2.example/u/%D7%90%D7%91", "~qu8df48%wire2.example 2"},
	} {
		got := defaultNick(mimiuri.MustParse(c.uri), testDomain, func(k string) bool { return taken[k] })
		if got != c.want {
			t.Errorf("%s: %q, not %q", c.uri, got, c.want)
		}
		taken[nickKey(got)] = true
	}
}

func FuzzNick(f *testing.F) {
	f.Add("Romeo")
	f.Add("\u05d0\u05d1 \U0001F600")
	f.Fuzz(func(t *testing.T, s string) {
		nick := cleanNick(s)
		if len(nick) > maxNick || !utf8.ValidString(nick) || strings.TrimSpace(nick) != nick {
			t.Fatalf("%q became %q", s, nick)
		}
		for _, r := range nick {
			if !unicode.Is(nickChars, r) {
				t.Fatalf("%q became %q with %U", s, nick, r)
			}
		}
		if again := cleanNick(nick); again != nick {
			t.Fatalf("%q became %q became %q", s, nick, again)
		}
		u, err := mimiuri.New("hub.example", mimiuri.User, s)
		if err != nil {
			return
		}
		tries := 0
		d := defaultNick(u, testDomain, func(string) bool { tries++; return tries < 5 })
		if d == "" || len(d) > maxNick+20 {
			t.Fatalf("%s has the nick %q", u, d)
		}
	})
}
