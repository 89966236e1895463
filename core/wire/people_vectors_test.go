package wire_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/wire"
)

// TestPeopleVectors holds the structs about people against testdata/people.json, in both directions.
func TestPeopleVectors(t *testing.T) {
	var v struct {
		ConsentEntry []struct {
			Name, Octets            string
			Operation               uint8
			Requester, Target, Room string
		}
		IdentifierRequest []struct {
			Name, Octets string
			Elements     []struct {
				Type        uint8
				Name, Value string
			}
		}
		IdentifierResponse []struct {
			Name, Octets string
			Code         uint8
			Users        []string
			Profiles     []struct {
				User   string
				Fields []struct {
					Source      uint8
					Name, Value string
				}
			}
		}
	}
	b, err := os.ReadFile("testdata/people.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.ConsentEntry) == 0 || len(v.IdentifierRequest) == 0 || len(v.IdentifierResponse) == 0 {
		t.Fatal("vectors are missing")
	}
	for _, c := range v.ConsentEntry {
		want := &wire.ConsentEntry{Operation: wire.ConsentOperation(c.Operation), Requester: mimiuri.MustParse(c.Requester), Target: mimiuri.MustParse(c.Target)}
		if c.Room != "" {
			want.RoomID = mimiuri.MustParse(c.Room)
		}
		both(t, "ConsentEntry "+c.Name, c.Octets, want, wire.ParseConsentEntry)
	}
	for _, c := range v.IdentifierRequest {
		want := &wire.IdentifierRequest{}
		for _, e := range c.Elements {
			want.Elements = append(want.Elements, wire.QueryElement{Type: wire.SearchType(e.Type), Name: e.Name, Value: e.Value})
		}
		both(t, "IdentifierRequest "+c.Name, c.Octets, want, wire.ParseIdentifierRequest)
	}
	for _, c := range v.IdentifierResponse {
		want := &wire.IdentifierResponse{Code: wire.IdentifierQueryCode(c.Code)}
		for _, u := range c.Users {
			want.Users = append(want.Users, mimiuri.MustParse(u))
		}
		for _, p := range c.Profiles {
			up := wire.UserProfile{User: mimiuri.MustParse(p.User)}
			for _, f := range p.Fields {
				up.Fields = append(up.Fields, wire.ProfileField{Source: wire.SearchType(f.Source), Name: f.Name, Value: f.Value})
			}
			want.Profiles = append(want.Profiles, up)
		}
		both(t, "IdentifierResponse "+c.Name, c.Octets, want, wire.ParseIdentifierResponse)
	}
}

func both[T interface{ Marshal() []byte }](t *testing.T, name, octets string, want T, parse func([]byte) (T, error)) {
	t.Helper()
	b, err := hex.DecodeString(octets)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if got := hex.EncodeToString(want.Marshal()); got != octets {
		t.Errorf("%s: marshals to\n%s, want\n%s", name, got, octets)
	}
	got, err := parse(b)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: parsed as\n%+v, want\n%+v", name, got, want)
	}
}
