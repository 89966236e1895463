package decode_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/internal/decode"
)

var (
	alice = mimiuri.MustParse("mimi://a.example/u/alice")
	room  = mimiuri.MustParse("mimi://a.example/r/x")
)

func show(t testing.TB, kind string, b []byte, o decode.Options) string {
	t.Helper()
	v, err := decode.Decode(kind, b, o)
	if err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(j)
}

func keyPackage(t testing.TB) *mls.KeyPackage {
	t.Helper()
	key, err := mls.GenerateSignatureKey(rand.Reader, 1)
	if err != nil {
		t.Fatal(err)
	}
	kp, _, err := mls.NewKeyPackage(&mls.Config{Now: time.Now}, 1, mls.KeyPackageOptions{
		Credential: mls.BasicCredential([]byte(policy.ClientURI(alice, "phone").String())), Signature: key})
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

// TestInput: raw, hexadecimal and base64 give the same.
func TestInput(t *testing.T) {
	m := content.Text("hello")
	if err := m.Stamp(rand.Reader, alice, room); err != nil {
		t.Fatal(err)
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := show(t, "content", b, decode.Options{})
	if id := content.ID(b, alice, room, m.Salt).String(); !strings.Contains(want, `"message_id":"`+id+`"`) || !strings.Contains(want, `"text":"hello"`) {
		t.Errorf("%s has not the ID %s", want, id)
	}
	hexed := hex.EncodeToString(b)
	for name, in := range map[string]string{
		"hex": hexed, "HEX, lines": strings.ToUpper(hexed[:20]) + "\n " + hexed[20:] + "\n", "base64": base64.StdEncoding.EncodeToString(b),
		"base64, raw": base64.RawStdEncoding.EncodeToString(b), "base64, URL": base64.URLEncoding.EncodeToString(b) + "\n",
	} {
		if got := show(t, "content", []byte(in), decode.Options{}); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	other := mimiuri.MustParse("mimi://a.example/r/y")
	if got := show(t, "content", b, decode.Options{Room: other}); !strings.Contains(got, content.ID(b, alice, other, m.Salt).String()) {
		t.Errorf("%s", got)
	}
}

func TestKeyPackage(t *testing.T) {
	kp := keyPackage(t)
	ref, err := kp.Ref(1)
	if err != nil {
		t.Fatal(err)
	}
	bare := tlspl.Marshal(kp)
	framed := tlspl.Marshal(mls.NewMessage(kp))
	for _, b := range [][]byte{bare, framed} {
		got := show(t, "keypackage", b, decode.Options{})
		for _, want := range []string{hex.EncodeToString(ref), alice.String(), "/d/alice/phone", `"valid":true`} {
			if !strings.Contains(got, want) {
				t.Errorf("%s has no %s", got, want)
			}
		}
	}
	bad := tlspl.Marshal(kp)
	bad[len(bad)-1] ^= 1
	if got := show(t, "keypackage", bad, decode.Options{}); !strings.Contains(got, `"valid":false`) {
		t.Errorf("a broken signature: %s", got)
	}
}

// TestProposalRef: the ref is the one that a group gives the same message.
func TestProposalRef(t *testing.T) {
	now := time.Now
	cfg := &mls.Config{Now: now}
	key, err := mls.GenerateSignatureKey(rand.Reader, 1)
	if err != nil {
		t.Fatal(err)
	}
	g, err := mls.CreateGroup(cfg, mls.CreateOptions{Suite: 1, GroupID: []byte(room.GroupOf().String()),
		Leaf: mls.LeafOptions{Credential: mls.BasicCredential([]byte(policy.ClientURI(alice, "phone").String())), Signature: key}})
	if err != nil {
		t.Fatal(err)
	}
	m, p, err := g.Propose(0, mls.Proposal{Body: &mls.Add{KeyPackage: *keyPackage(t)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref := hex.EncodeToString(p.Ref)
	got := show(t, "message", tlspl.Marshal(m), decode.Options{})
	if ref == "" || !strings.Contains(got, `"proposal_ref":"`+ref+`"`) || !strings.Contains(got, `"type":"Add"`) {
		t.Errorf("%s has not the ref %s", got, ref)
	}
}

func TestDirectory(t *testing.T) {
	got := show(t, "directory", []byte(`{"update": "https://a.example/v1/update/{roomId}", "notify": "http://a.example/{roomId}", "extra": 1, "groupInfo": "https://a.example/x"}`), decode.Options{})
	for _, want := range []string{`"unknown":["extra"]`, "notify is no https URL", "keyMaterial is missing", "groupInfo has not exactly one {variable}"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s has no %s", got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for kind, in := range map[string]string{"content": "hello", "keypackage": "\x00\x01", "message": "00", "welcome": "\xff", "groupinfo": "", "directory": "[]", "nonsense": "x"} {
		if v, err := decode.Decode(kind, []byte(in), decode.Options{}); err == nil || len(err.Error()) < 10 {
			t.Errorf("%s: %v, %v", kind, v, err)
		}
	}
	kp := tlspl.Marshal(mls.NewMessage(keyPackage(t)))
	if _, err := decode.Decode("welcome", kp, decode.Options{}); err == nil || !strings.Contains(err.Error(), "not a welcome") {
		t.Errorf("%v", err)
	}
	if _, err := decode.Decode("content", make([]byte, decode.MaxInput+1), decode.Options{}); err == nil {
		t.Error("too large, and taken")
	}
}

// FuzzDecode: nothing that comes makes it panic, and what it gives is JSON.
func FuzzDecode(f *testing.F) {
	m := content.Text("hello")
	b, _ := m.Encode()
	f.Add(uint8(0), b)
	f.Add(uint8(1), tlspl.Marshal(keyPackage(f)))
	f.Add(uint8(2), tlspl.Marshal(mls.NewMessage(keyPackage(f))))
	f.Add(uint8(5), []byte(`{"update": "https://a.example/{x}"}`))
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		v, err := decode.Decode(decode.Kinds[int(kind)%len(decode.Kinds)], b, decode.Options{})
		if err != nil {
			return
		}
		if _, err := json.Marshal(v); err != nil {
			t.Fatal(fmt.Errorf("%T: %w", v, err))
		}
	})
}
