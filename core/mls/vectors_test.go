package mls

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// hexBytes is a hex string in a vector; null is nil.
type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s == nil {
		*h = nil
		return nil
	}
	v, err := hex.DecodeString(*s)
	if err == nil && v == nil {
		v = []byte{}
	}
	*h = v
	return err
}

// vectorDir finds the vectors of mlswg/mls-implementations: the folder
// MLS_VECTORS names, the one kept beside the project, or those a test-only
// dependency ships.
func vectorDir(t *testing.T) string {
	if dir := os.Getenv("MLS_VECTORS"); dir != "" {
		return dir
	}
	const beside = "../../../shared/vectors/mls"
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/thomas-vilte/mls-go").Output()
	if dir := strings.TrimSpace(string(out)); err == nil && dir != "" {
		return filepath.Join(dir, "testdata", "mls-interop-testvectors", "test-vectors")
	}
	t.Skip("no vectors: set MLS_VECTORS")
	return ""
}

// vectorFiles maps a file to what runs one of its cases.
var vectorFiles = map[string]func(t *testing.T, raw json.RawMessage){
	"crypto-basics.json":   vectorCryptoBasics,
	"deserialization.json": vectorDeserialization,
	"messages.json":        vectorMessages,
}

func TestVectors(t *testing.T) {
	dir := vectorDir(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors in %s", dir)
	}
	sort.Strings(files)
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			run, ok := vectorFiles[name]
			if !ok {
				t.Fatalf("%s: no test knows this file", name)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var cases []json.RawMessage
			if err := json.Unmarshal(b, &cases); err != nil {
				t.Fatal(err)
			}
			ran := 0
			for i, c := range cases {
				t.Run(fmt.Sprint(i), func(t *testing.T) { run(t, c); ran++ })
			}
			if ran != len(cases) {
				t.Errorf("%s: %d of %d cases ran to their end", name, ran, len(cases))
			}
			t.Logf("%s: %d cases", name, len(cases))
			fmt.Printf("%s: %d cases\n", name, len(cases))
		})
	}
}

func decode(t *testing.T, raw json.RawMessage, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: got %x, want %x", what, got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func suiteOf(t *testing.T, id CipherSuite) *suite {
	t.Helper()
	s, err := id.impl()
	must(t, err)
	return s
}

func vectorCryptoBasics(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		RefHash     struct {
			Label      string
			Value, Out hexBytes
		} `json:"ref_hash"`
		Expand struct {
			Secret  hexBytes
			Label   string
			Context hexBytes
			Length  int
			Out     hexBytes
		} `json:"expand_with_label"`
		Derive struct {
			Secret hexBytes
			Label  string
			Out    hexBytes
		} `json:"derive_secret"`
		Tree struct {
			Secret     hexBytes
			Label      string
			Generation uint32
			Length     int
			Out        hexBytes
		} `json:"derive_tree_secret"`
		Sign struct {
			Priv, Pub, Content hexBytes
			Label              string
			Signature          hexBytes
		} `json:"sign_with_label"`
		Encrypt struct {
			Priv, Pub          hexBytes
			Label              string
			Context, Plaintext hexBytes
			KEMOutput          hexBytes `json:"kem_output"`
			Ciphertext         hexBytes
		} `json:"encrypt_with_label"`
	}
	decode(t, raw, &v)
	s := suiteOf(t, v.CipherSuite)
	equal(t, "RefHash", s.refHash(v.RefHash.Label, v.RefHash.Value), v.RefHash.Out)
	equal(t, "ExpandWithLabel", s.expandWithLabel(v.Expand.Secret, v.Expand.Label, v.Expand.Context, v.Expand.Length), v.Expand.Out)
	equal(t, "DeriveSecret", s.deriveSecret(v.Derive.Secret, v.Derive.Label), v.Derive.Out)
	equal(t, "DeriveTreeSecret", s.deriveTreeSecret(v.Tree.Secret, v.Tree.Label, v.Tree.Generation, v.Tree.Length), v.Tree.Out)

	must(t, VerifyWithLabel(s.id, v.Sign.Pub, v.Sign.Label, v.Sign.Content, v.Sign.Signature))
	key, err := NewSignatureKey(s.id, v.Sign.Priv)
	must(t, err)
	equal(t, "signature public key", key.Public(), v.Sign.Pub)
	sig, err := key.SignWithLabel(v.Sign.Label, v.Sign.Content)
	must(t, err)
	must(t, VerifyWithLabel(s.id, v.Sign.Pub, v.Sign.Label, v.Sign.Content, sig))
	if VerifyWithLabel(s.id, v.Sign.Pub, v.Sign.Label+"x", v.Sign.Content, sig) == nil {
		t.Fatal("verified under another label")
	}

	e := v.Encrypt
	pt, err := DecryptWithLabel(s.id, e.Priv, e.Label, e.Context, HPKECiphertext{e.KEMOutput, e.Ciphertext})
	must(t, err)
	equal(t, "plaintext", pt, e.Plaintext)
	ct, err := EncryptWithLabel(s.id, e.Pub, e.Label, e.Context, e.Plaintext)
	must(t, err)
	pt, err = DecryptWithLabel(s.id, e.Priv, e.Label, e.Context, ct)
	must(t, err)
	equal(t, "plaintext again", pt, e.Plaintext)
	pub, err := HPKEPublicKey(s.id, e.Priv)
	must(t, err)
	equal(t, "HPKE public key", pub, e.Pub)
}

func vectorDeserialization(t *testing.T, raw json.RawMessage) {
	var v struct {
		Header hexBytes `json:"vlbytes_header"`
		Length int
	}
	decode(t, raw, &v)
	r := tlspl.NewReader(v.Header)
	if n := r.Varint(); n != v.Length || r.Done() != nil {
		t.Fatalf("got %d, %v; want %d", n, r.Err(), v.Length)
	}
	w := tlspl.NewWriter()
	w.Varint(v.Length)
	equal(t, "header", w.Bytes(), v.Header)
}

func vectorMessages(t *testing.T, raw json.RawMessage) {
	var v map[string]hexBytes
	decode(t, raw, &v)
	type codec interface {
		tlspl.Marshaler
		tlspl.Unmarshaler
	}
	kinds := map[string]func() codec{
		"mls_welcome": func() codec { return new(MLSMessage) }, "mls_group_info": func() codec { return new(MLSMessage) },
		"mls_key_package": func() codec { return new(MLSMessage) }, "ratchet_tree": func() codec { return new(RatchetTree) },
		"group_secrets": func() codec { return new(GroupSecrets) }, "add_proposal": func() codec { return new(Add) },
		"update_proposal": func() codec { return new(Update) }, "remove_proposal": func() codec { return new(Remove) },
		"pre_shared_key_proposal": func() codec { return new(PreSharedKey) }, "re_init_proposal": func() codec { return new(ReInit) },
		"external_init_proposal":            func() codec { return new(ExternalInit) },
		"group_context_extensions_proposal": func() codec { return new(GroupContextExtensions) },
		"commit":                            func() codec { return new(Commit) },
		"public_message_application":        func() codec { return new(MLSMessage) }, "public_message_proposal": func() codec { return new(MLSMessage) },
		"public_message_commit": func() codec { return new(MLSMessage) }, "private_message": func() codec { return new(MLSMessage) },
	}
	for name, b := range v {
		kind, ok := kinds[name]
		if !ok {
			t.Fatalf("%s: unknown", name)
		}
		m := kind()
		if err := tlspl.Unmarshal(b, m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		equal(t, name, tlspl.Marshal(m), b)
		// Whatever is cut off is missed.
		if tlspl.Unmarshal(b[:len(b)-1], kind()) == nil {
			t.Fatalf("%s: accepted without its last byte", name)
		}
	}
	if len(v) != len(kinds) {
		t.Fatalf("%d of %d kinds", len(v), len(kinds))
	}
}
