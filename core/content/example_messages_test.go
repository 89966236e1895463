package content_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/mimibridge/mimibridge/core/content"
)

// example is an entry of testdata/examples.json. Octets and message IDs there were made with another implementation
// of CBOR and of the hash, so that this package is not compared with itself.
type example struct {
	Name, Sender, Room, CBOR, ID string
	Text                         *string // what PlainText gives, nil for nothing
}

func examples(t testing.TB) (list []example) {
	t.Helper()
	b, err := os.ReadFile("testdata/examples.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("no examples")
	}
	return list
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOwnExamples(t *testing.T) {
	for _, ex := range examples(t) {
		t.Run(ex.Name, func(t *testing.T) {
			m := checkExample(t, unhex(t, ex.CBOR), ex.ID)
			if s, _ := m.SenderURI(); s.String() != ex.Sender {
				t.Errorf("sender %s, want %s", s, ex.Sender)
			}
			if r, _ := m.RoomURI(); r.String() != ex.Room {
				t.Errorf("room %s, want %s", r, ex.Room)
			}
			switch text, ok := m.PlainText(); {
			case ok != (ex.Text != nil):
				t.Errorf("PlainText: %q, %v; want text: %v", text, ok, ex.Text != nil)
			case ok && text != *ex.Text:
				t.Errorf("PlainText: %q, want %q", text, *ex.Text)
			}
		})
	}
}

// TestTruncated: no proper prefix of a message is a message, and nothing may follow one.
func TestTruncated(t *testing.T) {
	for _, ex := range examples(t) {
		b := unhex(t, ex.CBOR)
		for n := range b {
			if _, err := content.Decode(b[:n]); err == nil {
				t.Errorf("%s: the first %d of %d octets decode", ex.Name, n, len(b))
			}
		}
		if _, err := content.Decode(append(b, 0xf6)); err == nil {
			t.Errorf("%s: decodes with an octet after it", ex.Name)
		}
	}
}
