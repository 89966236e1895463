package matrix

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

const server = "matrix.example"

func TestGhostNames(t *testing.T) {
	for _, tc := range []struct{ name, uri, local string }{
		{"plain", "mimi://xmpp.example/u/romeo", "mimi_romeo=xmpp.example"},
		{"capitals and underscore", "mimi://xmpp.example/u/Ro_Meo", "mimi__ro___meo=xmpp.example"},
		{"a JID", "mimi://xmpp.example/u/bob@other.net", "mimi_bob=40other.net=xmpp.example"},
		{"an equals sign", "mimi://a.b/u/x=y", "mimi_x=3dy=a.b"},
		{"a user that looks like two parts", "mimi://a.b/u/x=c.d", "mimi_x=3dc.d=a.b"},
		{"a port", "mimi://a.b:8443/u/x", "mimi_x=a.b_3a8443"},
		{"a domain with an underscore", "mimi://a_b.c/u/x", "mimi_x=a_5fb.c"},
		{"a domain that begins with hex", "mimi://abba.example/u/x", "mimi_x=abba.example"},
		{"plus and slash", "mimi://a.b/u/x+y%2Fz", "mimi_x=2by=2fz=a.b"},
		{"beyond ASCII", "mimi://a.b/u/j%C3%BCrgen", "mimi_j=c3=bcrgen=a.b"},
		{"a user called h", "mimi://a.b/u/h", "mimi_h=a.b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := mimiuri.MustParse(tc.uri)
			local, hashed := encodeLocal(u, server)
			if hashed || local != tc.local {
				t.Fatalf("got %q (hashed %v), want %q", local, hashed, tc.local)
			}
			back, ok := decodeLocal(local, mimiuri.User, server)
			if !ok || back != u {
				t.Fatalf("read back as %v, %v", back, ok)
			}
		})
	}
	t.Run("too long", func(t *testing.T) {
		for _, n := range []int{150, 220, 230, 240, 1000} {
			u := mimiuri.MustParse("mimi://xmpp.example/u/" + strings.Repeat("x", n))
			g, hashed := ghostID(u, server)
			if len(g) > maxIDLen || !isOurs(g, server) {
				t.Errorf("%d: %d octets: %s", n, len(g), g)
			}
			local, _, _ := splitID(g)
			back, ok := decodeLocal(local, mimiuri.User, server)
			if ok == hashed || ok && back != u {
				t.Errorf("%d: hashed %v but read back %v as %v", n, hashed, ok, back)
			}
			if n == 150 && hashed || n == 1000 && !hashed {
				t.Errorf("%d: hashed is %v", n, hashed)
			}
		}
	})
	t.Run("never a ghost", func(t *testing.T) {
		for _, local := range []string{"", "mimi_", "mimi_=", "mimi_x", "mimi_x=", "mimi_=a.b", "mimi_bot_x7k2", "mimi_X=a.b",
			"mimi_x=A.b", "mimi_=4=a.b", "mimi_=zz=a.b", "mimi_x_=a.b", "mimi_=61=a.b", "mimi_x=a.b_2e", "mimi_x=a.b_", "mimi_=3D=a.b",
			"mimi_=00=a.b", "mimi_=ff=a.b", "alice", "xmimi_x=a.b", "mimi_x=a.b.", "mimi_=haaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
			if u, ok := decodeLocal(local, mimiuri.User, server); ok {
				t.Errorf("%q is read as %v", local, u)
			}
		}
	})
}

// TestGhostNamesProperty: whatever the URI, its ghost is a valid Matrix ID of ours, no other URI's, and gives the
// URI back.
func TestGhostNamesProperty(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	runes := []rune("abzAZ019._-=/+@: %~#?ü→\U0001F600&'\"\\`{|}")
	seen := map[id.UserID]mimiuri.URI{}
	for range 20000 {
		var name strings.Builder
		for range 1 + rng.IntN(1+rng.IntN(60)) {
			name.WriteRune(runes[rng.IntN(len(runes))])
		}
		domain := []string{"a.b", "xmpp.example", "a_b.example:8443", "xn--bcher-kva.example", "aa=b.example", "127.0.0.1:65535"}[rng.IntN(6)]
		u, err := mimiuri.New(domain, mimiuri.User, name.String())
		if err != nil {
			t.Fatalf("%q: %v", name.String(), err)
		}
		g, hashed := ghostID(u, server)
		local, _, ok := splitID(g)
		if !ok || len(g) > maxIDLen || !isOurs(g, server) || id.ValidateUserLocalpart(local) != nil {
			t.Fatalf("%v: %s is no good", u, g)
		}
		if other, dup := seen[g]; dup && other != u {
			t.Fatalf("%v and %v are both %s", u, other, g)
		}
		seen[g] = u
		if back, ok := decodeLocal(local, mimiuri.User, server); !hashed && (!ok || back != u) {
			t.Fatalf("%v: %s gives %v, %v", u, g, back, ok)
		}
		if _, ok := localURI(g, server, "matrix.example"); ok {
			t.Fatalf("%s is taken for a person", g)
		}
	}
}

func TestLocalNames(t *testing.T) {
	for _, tc := range []struct{ name, mxid, uri string }{
		{"local", "@alice:matrix.example", "mimi://m.example/u/alice"},
		{"old local part", "@Al!ice/x:matrix.example", "mimi://m.example/u/Al!ice/x"},
		{"another homeserver", "@bob:other.net", "mimi://m.example/u/bob:other.net"},
		{"another homeserver's port", "@bob:other.net:8448", "mimi://m.example/u/bob:other.net:8448"},
		{"another homeserver's mimi_ user", "@mimi_x=a.b:other.net", "mimi://m.example/u/mimi_x=a.b:other.net"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u, ok := localURI(id.UserID(tc.mxid), server, "m.example")
			if !ok || u != mimiuri.MustParse(tc.uri) {
				t.Fatalf("%v, %v", u, ok)
			}
			back, ok := localID(u, server, "m.example")
			if !ok || string(back) != tc.mxid {
				t.Fatalf("back: %v, %v", back, ok)
			}
		})
	}
	for _, bad := range []string{"", "@", "@:x", "alice", "@alice", "@alice:", "@mimi_x=a.b:matrix.example", "@mimi_bot_1:matrix.example",
		"@a b:matrix.example", "@ü:matrix.example", "@a:b/c", "@" + strings.Repeat("a", 300) + ":x"} {
		if u, ok := localURI(id.UserID(bad), server, "m.example"); ok {
			t.Errorf("%q is taken for %v", bad, u)
		}
	}
	for _, bad := range []string{"mimi://other.example/u/alice", "mimi://m.example/r/alice", "mimi://m.example/u/mimi_bot",
		"mimi://m.example/u/alice:matrix.example", "mimi://m.example/u/a%20b", "mimi://m.example/u/j%C3%BC", "mimi://m.example/u/:x", "mimi://m.example/u/x:"} {
		if u, ok := localID(mimiuri.MustParse(bad), server, "m.example"); ok {
			t.Errorf("%s is taken for %v", bad, u)
		}
	}
}

func FuzzGhostNames(f *testing.F) {
	f.Add("mimi_romeo=xmpp.example", "romeo", "xmpp.example")
	f.Add("mimi_=h", "A_b=c", "a.b:8443")
	f.Add("mimi_x=3dc.d=a.b", "x=c.d", "a.b")
	f.Fuzz(func(t *testing.T, local, name, domain string) {
		if u, ok := decodeLocal(local, mimiuri.User, server); ok {
			if again, hashed := encodeLocal(u, server); hashed || again != local {
				t.Fatalf("%q reads as %v, which is %q", local, u, again)
			}
		}
		if !utf8.ValidString(name) {
			return
		}
		u, err := mimiuri.New(domain, mimiuri.User, name)
		if err != nil {
			return
		}
		if again, err := mimiuri.Parse(u.String()); err != nil || again != u {
			return // not a URI that could have arrived
		}
		enc, hashed := encodeLocal(u, server)
		if id.ValidateUserLocalpart(enc) != nil || len(enc)+2+len(server) > maxIDLen {
			t.Fatalf("%v gives %q", u, enc)
		}
		if back, ok := decodeLocal(enc, mimiuri.User, server); !hashed && (!ok || back != u) {
			t.Fatalf("%v: %q reads as %v, %v", u, enc, back, ok)
		}
	})
}
