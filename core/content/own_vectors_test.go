package content_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// ownVectors is testdata/vectors.json: for each structure what is in it, its octets, and what they mean. All octets were
// made with another implementation of CBOR, of the algorithms and of the hashes. Others may use the file.
type ownVectors struct {
	Status []struct {
		Name, CBOR string
		Entries    []struct {
			ID     string
			Status uint8
		}
	}
	Derived []struct {
		Name, CBOR, ID, Group, Client, User, Room string
		Accepted                                  int64 // ms since the Unix epoch
		Leaf                                      uint32
	}
	LastSeen []struct {
		Name, CBOR string
		IDs        []string
		External   []struct {
			ID, Scope string
			PEN       uint64
		}
	}
	Messages []struct {
		Name, CBOR, Meaning string
		Text                *string
	}
	External []struct {
		Name, Key, Nonce, AAD, ContentHash, Plaintext, Content string
		EncAlg                                                 uint16
		HashAlg                                                uint8
	}
}

func vectors(t testing.TB) (v ownVectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Status) == 0 || len(v.Derived) == 0 || len(v.LastSeen) == 0 || len(v.Messages) == 0 || len(v.External) == 0 {
		t.Fatal("vectors are missing")
	}
	return v
}

func messageID(t testing.TB, s string) content.MessageID {
	t.Helper()
	id, err := content.ParseMessageID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOwnStatus(t *testing.T) {
	for _, v := range vectors(t).Status {
		t.Run(v.Name, func(t *testing.T) {
			var want content.StatusReport
			for _, e := range v.Entries {
				want = append(want, content.MessageStatus{ID: messageID(t, e.ID), Status: content.Status(e.Status)})
			}
			got, err := content.DecodeStatus(unhex(t, v.CBOR))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("decoded %v, %v", got, err)
			}
			if b, err := want.Encode(); err != nil || hex.EncodeToString(b) != v.CBOR {
				t.Errorf("encoded %x, %v", b, err)
			}
			m, err := content.StatusMessage(want)
			if err != nil {
				t.Fatal(err)
			}
			if r, ok := m.StatusReport(); !ok || !reflect.DeepEqual(r, want) || m.Classify().Kind != content.KindStatus {
				t.Errorf("as a message: %v, %v, %v", r, ok, m.Classify().Kind)
			}
		})
	}
}

func TestOwnDerived(t *testing.T) {
	for _, v := range vectors(t).Derived {
		t.Run(v.Name, func(t *testing.T) {
			want := &content.Derived{ID: messageID(t, v.ID), Accepted: time.UnixMilli(v.Accepted).UTC(), Group: unhex(t, v.Group), Leaf: v.Leaf,
				Client: mimiuri.MustParse(v.Client), User: mimiuri.MustParse(v.User), Room: mimiuri.MustParse(v.Room)}
			got, err := content.DecodeDerived(unhex(t, v.CBOR))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("decoded %+v, %v", got, err)
			}
			if b, err := want.Encode(); err != nil || hex.EncodeToString(b) != v.CBOR {
				t.Errorf("encoded %x, %v", b, err)
			}
		})
	}
}

func TestOwnLastSeen(t *testing.T) {
	for _, v := range vectors(t).LastSeen {
		t.Run(v.Name, func(t *testing.T) {
			var want content.LastSeen
			for _, id := range v.IDs {
				want.IDs = append(want.IDs, messageID(t, id))
			}
			for _, e := range v.External {
				want.External = append(want.External, content.ExternalID{ID: unhex(t, e.ID), Scope: e.Scope, PEN: e.PEN})
			}
			m := content.Text("x")
			if err := m.SetLastSeen(want); err != nil {
				t.Fatal(err)
			}
			if b, _ := m.Extensions.Get(content.KeyLastSeen); hex.EncodeToString(b) != v.CBOR {
				t.Errorf("encoded %x", b)
			}
			if got, ok := m.LastSeen(); !ok || !reflect.DeepEqual(got, want) {
				t.Errorf("decoded %+v, %v", got, ok)
			}
		})
	}
}

func TestOwnMessages(t *testing.T) {
	for _, v := range vectors(t).Messages {
		t.Run(v.Name, func(t *testing.T) {
			b := unhex(t, v.CBOR)
			m, err := content.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(m); got != v.Meaning {
				t.Errorf("it is a\n%s, want\n%s", got, v.Meaning)
			}
			text, _, ok := m.ReadableText(nil)
			if ok != (v.Text != nil) || ok && text != *v.Text {
				t.Errorf("text %q, %v", text, ok)
			}
			if again, err := m.Encode(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("encoded again it is %x, %v", again, err)
			}
		})
	}
}

// TestBuilders: the builders make the messages of the vectors.
func TestBuilders(t *testing.T) {
	want := make(map[string]string)
	var any content.Message
	for _, v := range vectors(t).Messages {
		want[v.Name] = v.CBOR
		m, err := content.Decode(unhex(t, v.CBOR))
		if err != nil {
			t.Fatal(err)
		}
		any = *m
	}
	vs := vectors(t)
	a, b := messageID(t, vs.Status[4].Entries[0].ID), content.MessageID{}
	for _, e := range vs.LastSeen {
		if len(e.IDs) == 2 {
			b = messageID(t, e.IDs[1])
		}
	}
	status, err := content.StatusMessage(content.StatusReport{{ID: a, Status: content.StatusRead}})
	if err != nil {
		t.Fatal(err)
	}
	bob := mimiuri.MustParse("mimi://two.example/u/bob")
	unit := content.Unit(content.HTMLPart(`<p>x <img src="`+content.CID(5)+`"></p>`),
		content.Part{Disposition: content.Inline, Cardinality: content.SinglePart, ContentType: "image/png", Content: []byte{0x89}})
	in := func(lang, s string) content.Part { p := content.TextPart(s); p.Language = lang; return p }
	for name, m := range map[string]*content.Message{
		"text":       content.Text("hi"),
		"markdown":   content.Markdown("*hi* " + content.Mention(bob, "@Bob")),
		"reply":      content.Reply(a, content.MarkdownPart("yes")),
		"edit":       content.Edit(b, &a, content.MarkdownPart("yes!")),
		"delete":     content.Delete(b, nil),
		"reaction":   content.React(a, "👍"),
		"reactions":  content.React(a, "👍", "🎉"),
		"unlike":     content.Unlike(b, a),
		"session":    content.Join("https://one.example/join", "tea"),
		"expires at": content.Text("x").ExpireAt(time.Unix(1779619200, 5)), "expires after": content.Text("x").ExpireAfter(time.Minute),
		"status": status,
		"attachment": content.Attach("image/png", content.External{URL: "https://one.example/f/1", Size: 99, EncAlg: content.AEADAES128GCM, Key: make([]byte, 16), Nonce: make([]byte, 12),
			HashAlg: content.HashSHA256, ContentHash: make([]byte, 32), Description: "a cat", Filename: "cat.png"}),
		"alternatives, languages, unit": content.New(content.Alternatives(in("en", "hello"), in("fr", "bonjour"), unit)),
		"text with a file": content.New(content.Together(content.MarkdownPart("look"),
			content.ExternalBody(content.Attachment, "image/png", content.External{URL: "https://one.example/f/2"}))),
	} {
		t.Run(name, func(t *testing.T) {
			m.Salt = any.Salt
			m.SetSenderURI(ann)
			m.SetRoomURI(room)
			got, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(got) != want[name] {
				t.Errorf("got\n%x, want\n%s", got, want[name])
			}
		})
	}
}

func TestOwnExternal(t *testing.T) {
	for _, v := range vectors(t).External {
		t.Run(v.Name, func(t *testing.T) {
			e := content.External{EncAlg: v.EncAlg, Key: unhex(t, v.Key), Nonce: unhex(t, v.Nonce), AAD: unhex(t, v.AAD), HashAlg: v.HashAlg,
				ContentHash: unhex(t, v.ContentHash), Size: uint64(len(v.Content) / 2)}
			r, err := e.Decrypt(bytes.NewReader(unhex(t, v.Content)), 1000)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || hex.EncodeToString(got) != v.Plaintext {
				t.Errorf("got %x, %v", got, err)
			}
		})
	}
}
