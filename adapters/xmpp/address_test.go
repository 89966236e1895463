package xmpp

import (
	"context"
	"strings"
	"testing"
	"unicode"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

func testAddresses() *addresses {
	return &addresses{domain: testDomain, users: testUsers, rooms: testRooms, local: testDomain}
}

// Each URI and the one local part that stands for it.
func TestLocalParts(t *testing.T) {
	for _, c := range []struct{ clause, uri, local string }{
		{"own room", "mimi://xmpp.example/r/balcony", "balcony"},
		{"room elsewhere", "mimi://hub.example/r/clubhouse", "clubhouse%hub.example"},
		{"port", "mimi://hub.example:8443/r/clubhouse", `clubhouse%hub.example\3a8443`},
		{"XEP-0106", "mimi://hub.example/r/d'artagnan@home", `d\27artagnan\40home%hub.example`},
		{"backslash", `mimi://hub.example/r/a%5C20b`, `a\5c20b%hub.example`},
		{"inner space", "mimi://hub.example/r/two%20words", `two\20words%hub.example`},
		{"space at the end", "mimi://hub.example/r/two%20", "~ehrmu80%hub.example"},
		{"capital letters", "mimi://hub.example/r/Rl33FW", "~a9m36cq6as%hub.example"},
		{"percent in the id", "mimi://hub.example/r/50%25", "~6ko2a%hub.example"},
		{"tilde in front", "mimi://hub.example/r/~me", "~fpmma%hub.example"},
		{"not ASCII", "mimi://hub.example/r/stra%C3%9Fe", ""},
		{"slash", "mimi://hub.example/r/a/b", `a\2fb%hub.example`},
		{"IDN", "mimi://bücher.example/r/a", "a%xn--bcher-kva.example"},
	} {
		t.Run(c.clause, func(t *testing.T) {
			u := mimiuri.MustParse(c.uri)
			local, long := encodeLocal(u, testDomain)
			if long {
				t.Fatal("an alias")
			}
			if c.local != "" && local != c.local {
				t.Errorf("%s became %q, not %q", u, local, c.local)
			}
			back, ok := decodeLocal(local, mimiuri.Room, testDomain)
			if !ok || back != u {
				t.Errorf("%q became %s (%v), not %s", local, back, ok, u)
			}
			if strings.ContainsAny(local, "\"&'/:<>@ ") || strings.ToLower(local) != local {
				t.Errorf("%q is no local part that every server leaves alone", local)
			}
		})
	}
}

// Spellings that would lead to a URI but are not its local part.
func TestForeignSpellings(t *testing.T) {
	for _, local := range []string{
		"", "%", "balcony%", "%hub.example", "balcony%xmpp.example", // the own host is left out
		"Balcony", "club%Hub.example", "club%hub.example.", // folded elsewhere
		"~c5m66p35cco%hub.example",                                                                   // plain ids are not encoded
		"~", "~%hub.example", "~a%hub.example", "~A9M36CQ6AS%hub.example", "~a9m36cq6at%hub.example", // base32
		`a\20%hub.example`, `\20a`, `a\2`, `a\zz`, `a\4A`, `a\61`, "a b", "a@b", // XEP-0106
		"stra\u00dfe", "a%b%hub.example", "~~abc", "~~", "x%hub..example",
	} {
		if u, ok := decodeLocal(local, mimiuri.Room, testDomain); ok {
			t.Errorf("%q was taken for %s", local, u)
		}
	}
}

// Names that do not fit into a JID are kept in the database, under an alias that is always the same.
func TestAlias(t *testing.T) {
	db, err := openStore(context.Background(), testDB(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.close()
	m := testAddresses()
	m.db = db
	u := mimiuri.MustParse("mimi://hub.example/r/" + strings.Repeat("x", 1500))
	j := m.roomJID(u)
	if len(j.local) > 100 || !isAlias(j.local) {
		t.Fatalf("%q is no alias", j.local)
	}
	if back, ok := m.room(j.local); !ok || back != u {
		t.Errorf("the alias became %s", back)
	}
	if _, ok := m.contact(j.local); ok {
		t.Error("the alias of a room was taken for a user")
	}
	if _, ok := m.room("~~" + strings.Repeat("0", 52)); ok {
		t.Error("an alias that nobody made")
	}
	if again := m.roomJID(u); again != j {
		t.Errorf("%s and %s", j, again)
	}
	// 1,023 octets are the last that fit.
	fits := mimiuri.MustParse("mimi://hub.example/r/" + strings.Repeat("x", maxPart-len("%hub.example")))
	if local, long := encodeLocal(fits, testDomain); long || len(local) != maxPart {
		t.Errorf("%d octets, alias %v", len(local), long)
	}
}

func TestUsers(t *testing.T) {
	m := testAddresses()
	for _, c := range []struct{ clause, uri, jid string }{
		{"own server", "mimi://xmpp.example/u/romeo", "romeo@xmpp.example"},
		{"other server", "mimi://xmpp.example/u/bob@other.net", "bob@other.net"},
		{"elsewhere", "mimi://matrix.example/u/juliet", juliet},
		{"elsewhere, with server", "mimi://matrix.example/u/bob:other.net", `bob\3aother.net%matrix.example@` + testUsers},
		{"escaped account", `mimi://xmpp.example/u/d%5C27artagnan`, `d\27artagnan@xmpp.example`},
	} {
		t.Run(c.clause, func(t *testing.T) {
			u := mimiuri.MustParse(c.uri)
			if j := m.userJID(u); j.String() != c.jid {
				t.Errorf("%s became %s, not %s", u, j, c.jid)
			}
			a, err := parseAddr(c.jid)
			if err != nil {
				t.Fatal(err)
			}
			if back, ok := m.user(a); !ok || back != u {
				t.Errorf("%s became %s", a, back)
			}
		})
	}
	for _, s := range []string{"", "xmpp.example", "@xmpp.example", testUsers, "juliet@" + testUsers, "romeo%xmpp.example@" + testUsers, balcony} {
		a, err := parseAddr(s)
		if err != nil {
			continue
		}
		if u, ok := m.user(a); ok {
			t.Errorf("%q was taken for %s", s, u)
		}
	}
	for _, id := range []string{"mimi://xmpp.example/u/bob@xmpp.example", "mimi://xmpp.example/u/a@b@c", "mimi://xmpp.example/u/bob@" + testRooms, "mimi://xmpp.example/u/two%20words", "mimi://matrix.example/u/x"} {
		if j, ok := m.ownJID(mimiuri.MustParse(id)); ok {
			t.Errorf("%s was taken for %s", id, j)
		}
	}
}

// How people write rooms and users.
func TestWritten(t *testing.T) {
	m := testAddresses()
	for in, want := range map[string]string{
		"balcony": "mimi://xmpp.example/r/balcony", " Balcony ": "mimi://xmpp.example/r/balcony", balcony: "mimi://xmpp.example/r/balcony",
		"xmpp:" + balcony + "?join": "mimi://xmpp.example/r/balcony", "mimi://hub.example/r/Club": "mimi://hub.example/r/Club",
		"clubhouse%hub.example": "mimi://hub.example/r/clubhouse", "mimi://hub.example/u/x": "", "x@elsewhere.example": "", "": "",
	} {
		u, ok := m.anyRoom(in)
		if ok != (want != "") || u.String() != want {
			t.Errorf("room %q became %q", in, u)
		}
	}
	for in, want := range map[string]string{
		"Romeo@XMPP.example": "mimi://xmpp.example/u/romeo", juliet: "mimi://matrix.example/u/juliet", "mimi://matrix.example/u/Juliet": "mimi://matrix.example/u/Juliet",
		"juliet": "", balcony: "", "mimi://matrix.example/r/x": "",
	} {
		u, ok := m.anyUser(in)
		if ok != (want != "") || u.String() != want {
			t.Errorf("user %q became %q", in, u)
		}
	}
}

// FuzzURI holds that every URI has one local part, and that it leads back.
func FuzzURI(f *testing.F) {
	for _, s := range []string{"balcony", "Rl33FW", "a%b", "~x", " x", "d'art\\27", "straße", "\U0001F600", strings.Repeat("Z", 900)} {
		f.Add(s, "hub.example:8443")
		f.Add(s, testDomain)
	}
	f.Fuzz(func(t *testing.T, id, host string) {
		u, err := mimiuri.New(host, mimiuri.User, id)
		if err != nil {
			return
		}
		local, long := encodeLocal(u, testDomain)
		if len(local) > maxPart || strings.ContainsAny(local, "\"&'/:<>@ ") || strings.IndexFunc(local, func(r rune) bool { return r > unicode.MaxASCII || unicode.IsUpper(r) }) >= 0 {
			t.Fatalf("%s became %q", u, local)
		}
		if long {
			if !isAlias(local) {
				t.Fatalf("%s became %q", u, local)
			}
			return
		}
		back, ok := decodeLocal(local, mimiuri.User, testDomain)
		if !ok || back != u {
			t.Fatalf("%s became %q became %s (%v)", u, local, back, ok)
		}
	})
}

// FuzzLocalPart holds that whatever is taken for a URI's local part is the one it has.
func FuzzLocalPart(f *testing.F) {
	for _, s := range []string{"balcony", "clubhouse%hub.example", `a\20b%h\3a1`, "~a9m36cq6as%hub.example", "~~x", "%", "Balcony"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, local string) {
		u, ok := decodeLocal(local, mimiuri.Room, testDomain)
		if !ok {
			return
		}
		if back, long := encodeLocal(u, testDomain); long || back != local {
			t.Fatalf("%q became %s became %q", local, u, back)
		}
		a, err := parseAddr(local + "@" + testRooms + "/nick")
		if err != nil || a.local != local {
			t.Fatalf("%q is no local part: %v", local, err)
		}
		p, err := prepare(local + "@" + testRooms)
		if err != nil || p.local != local {
			t.Fatalf("preparation changes %q into %q: %v", local, p.local, err)
		}
	})
}

// FuzzEscape holds that XEP-0106 can be undone, and only in one way.
func FuzzEscape(f *testing.F) {
	f.Add(`a b`)
	f.Add(`a\20b`)
	f.Fuzz(func(t *testing.T, s string) {
		if back, ok := unescape106(escape106(s)); !ok || back != s {
			t.Fatalf("%q became %q", s, back)
		}
		if plain, ok := unescape106(s); ok && escape106(plain) != s {
			t.Fatalf("%q was taken for %q", s, plain)
		}
	})
}
