package mimiuri_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in, want string
		kind     mimiuri.Kind
		id       string
	}{
		{"mimi://a.example", "mimi://a.example", mimiuri.Provider, ""},
		{"mimi://a.example/", "mimi://a.example", mimiuri.Provider, ""},
		{"mimi://a.example/u/alice", "mimi://a.example/u/alice", mimiuri.User, "alice"},
		{"MIMI://A.Example./u/Alice", "mimi://a.example/u/Alice", mimiuri.User, "Alice"},
		{"mimi://a.example/d/alice/xmpp-1", "mimi://a.example/d/alice/xmpp-1", mimiuri.Client, "alice/xmpp-1"},
		{"mimi://a.example/r/Rl33FWLCYWOwxHrYnpWDQg", "mimi://a.example/r/Rl33FWLCYWOwxHrYnpWDQg", mimiuri.Room, "Rl33FWLCYWOwxHrYnpWDQg"},
		{"mimi://a.example/r/a%20b%c3%9f", "mimi://a.example/r/a%20b%C3%9F", mimiuri.Room, "a bß"},
		{"mimi://a.example/r/%61", "mimi://a.example/r/a", mimiuri.Room, "a"},
		{"mimi://a.example/u/bob@other.net", "mimi://a.example/u/bob@other.net", mimiuri.User, "bob@other.net"},
		{"mimi://bücher.example/g/x", "mimi://xn--bcher-kva.example/g/x", mimiuri.Group, "x"},
		{"mimi://a.example:8443/r/x", "mimi://a.example:8443/r/x", mimiuri.Room, "x"},
	} {
		t.Run(c.in, func(t *testing.T) {
			u, err := mimiuri.Parse(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if u.String() != c.want || u.Kind != c.kind || u.ID != c.id {
				t.Errorf("%s, kind %q, id %q", u, rune(u.Kind), u.ID)
			}
			again, err := mimiuri.Parse(u.String())
			if err != nil || again != u {
				t.Errorf("its own spelling gives %v, %v", again, err)
			}
			built, err := mimiuri.New(u.Domain, u.Kind, u.ID)
			if err != nil || built != u {
				t.Errorf("its parts give %v, %v", built, err)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	for _, in := range []string{
		"", "mimi:", "mimi://", "mimi:///u/a", "https://a.example/u/a", "mimi://a.example/u/", "mimi://a.example/u", "mimi://a.example/x/a",
		"mimi://a.example//u/a", "mimi://a.example/u/a?b", "mimi://a.example/u/a#b", "mimi://a.example/u/%", "mimi://a.example/u/%zz",
		"mimi://a.example/u/%00", "mimi://a.example/u/%ff", "mimi://u@a.example/u/a", "mimi://a..example/u/a", "mimi://a.example../u/a",
		"mimi://a.example:x/u/a", "mimi://a.example:123456/u/a", "mimi://a b/u/a", "mimi://" + strings.Repeat("a", 300) + "/u/a",
		"mimi://a.example/u/" + strings.Repeat("a", mimiuri.MaxLen),
	} {
		if u, err := mimiuri.Parse(in); !errors.Is(err, mimiuri.ErrInvalid) {
			t.Errorf("%q gives %v, %v", in, u, err)
		}
	}
	if _, err := mimiuri.ParseKind("mimi://a.example/u/a", mimiuri.Room); !errors.Is(err, mimiuri.ErrInvalid) {
		t.Errorf("a user where a room is wanted: %v", err)
	}
	if _, err := mimiuri.New("a.example", mimiuri.User, strings.Repeat(" ", mimiuri.MaxLen/2)); !errors.Is(err, mimiuri.ErrInvalid) {
		t.Errorf("an id that is too long once it is escaped: %v", err)
	}
}

func TestParts(t *testing.T) {
	r := mimiuri.MustParse("mimi://a.example/r/x%2Fy")
	if g := r.GroupOf().String(); g != "mimi://a.example/g/x/y" {
		t.Errorf("group %s", g)
	}
	if p := r.Provider().String(); p != "mimi://a.example" {
		t.Errorf("provider %s", p)
	}
	if s := (mimiuri.URI{}).String(); s != "" || !(mimiuri.URI{}).IsZero() {
		t.Errorf("the zero URI is %q", s)
	}
	b, err := json.Marshal(map[string]mimiuri.URI{"r": r})
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]mimiuri.URI
	if err := json.Unmarshal(b, &back); err != nil || back["r"] != r {
		t.Errorf("through JSON: %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"r":"x"}`), &back); err == nil {
		t.Error("JSON with something else is taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("mimi://a.example/u/alice")
	f.Add("mimi://bücher.example:1/r/a%20b%C3%9F")
	f.Add("mimi://0../u/x")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := mimiuri.Parse(s)
		if err != nil {
			return
		}
		again, err := mimiuri.Parse(u.String())
		if err != nil || again != u {
			t.Fatalf("%q parses as %#v, whose spelling %q gives %#v, %v", s, u, u.String(), again, err)
		}
	})
}
