package mls

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	// It ships a copy of the official vectors in its module, and is here for
	// that alone: see vectorDir.
	_ "github.com/thomas-vilte/mls-go/ciphersuite"

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

func (h hexBytes) MarshalJSON() ([]byte, error) {
	if h == nil {
		return []byte("null"), nil
	}
	return json.Marshal(hex.EncodeToString(h))
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
	t.Fatal("no vectors: set MLS_VECTORS to the folder test-vectors of mlswg/mls-implementations")
	return ""
}

// vectorFiles maps a file to what runs one of its cases.
var vectorFiles = map[string]func(t *testing.T, raw json.RawMessage){
	"crypto-basics.json":   vectorCryptoBasics,
	"deserialization.json": vectorDeserialization,
	"messages.json":        vectorMessages,

	"key-schedule.json":                   vectorKeySchedule,
	"message-protection.json":             vectorMessageProtection,
	"passive-client-handling-commit.json": vectorPassive,
	"passive-client-welcome.json":         vectorPassive,
	"psk_secret.json":                     vectorPSKSecret,
	"secret-tree.json":                    vectorSecretTree,
	"transcript-hashes.json":              vectorTranscriptHashes,
	"tree-math.json":                      vectorTreeMath,
	"tree-operations.json":                vectorTreeOperations,
	"tree-validation.json":                vectorTreeValidation,
	"treekem.json":                        vectorTreeKEM,
	"welcome.json":                        vectorWelcome,
}

// vectorRunner finds what runs a file's cases: any passive-*.json is in the format of a passive client.
func vectorRunner(name string) func(t *testing.T, raw json.RawMessage) {
	if run := vectorFiles[name]; run != nil {
		return run
	}
	if ok, _ := filepath.Match("passive-*.json", name); ok {
		return vectorPassive
	}
	return nil
}

func TestVectors(t *testing.T) {
	dir := vectorDir(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors in %s", dir)
	}
	sort.Strings(files)
	for name := range vectorFiles {
		// The module has no messages.json.
		if !slices.Contains(files, filepath.Join(dir, name)) {
			t.Logf("%s: not there", name)
			fmt.Printf("%s: not in this folder\n", name)
		}
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			run := vectorRunner(name)
			if run == nil {
				t.Fatalf("%s: no test knows this file", name)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n := runVectors(t, name, b, run)
			t.Logf("%s: %d cases", name, n)
			fmt.Printf("%s: %d cases\n", name, n)
		})
	}
}

// runVectors runs the cases of a file, and fails unless each has come to its end.
func runVectors(t *testing.T, name string, file []byte, run func(t *testing.T, raw json.RawMessage)) int {
	t.Helper()
	var cases []json.RawMessage
	if err := json.Unmarshal(file, &cases); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for i, c := range cases {
		t.Run(fmt.Sprint(i), func(t *testing.T) { run(t, c); ran++ })
	}
	if ran != len(cases) || ran == 0 {
		t.Errorf("%s: %d of %d cases ran to their end", name, ran, len(cases))
	}
	return len(cases)
}

func decode(t *testing.T, raw json.RawMessage, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

func equal(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: got %x, want %x", what, got, want)
	}
}

func must(t testing.TB, err error) {
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

func optionalNode(x *uint32, n nodeIndex) bool { return x != nil && *x == uint32(n) }

func vectorTreeMath(t *testing.T, raw json.RawMessage) {
	var v struct {
		NLeaves                      uint32 `json:"n_leaves"`
		NNodes                       uint32 `json:"n_nodes"`
		Root                         uint32
		Left, Right, Parent, Sibling []*uint32
	}
	decode(t, raw, &v)
	if v.NNodes != 2*v.NLeaves-1 || uint32(rootOf(v.NLeaves)) != v.Root || treeWidth(LeafIndex(v.NLeaves-1)) != v.NLeaves {
		t.Fatalf("%d leaves: root %d", v.NLeaves, rootOf(v.NLeaves))
	}
	for x := nodeIndex(0); x < nodeIndex(v.NNodes); x++ {
		if x.isLeaf() {
			if v.Left[x] != nil || v.Right[x] != nil {
				t.Fatalf("node %d has children", x)
			}
		} else if !optionalNode(v.Left[x], x.left()) || !optionalNode(v.Right[x], x.right()) {
			t.Fatalf("children of %d: %d, %d", x, x.left(), x.right())
		}
		if x == rootOf(v.NLeaves) {
			if v.Parent[x] != nil || v.Sibling[x] != nil {
				t.Fatal("the root has a parent")
			}
		} else if !optionalNode(v.Parent[x], x.parent()) || !optionalNode(v.Sibling[x], x.sibling()) {
			t.Fatalf("parent of %d: %d, sibling %d", x, x.parent(), x.sibling())
		}
		first, end := x.span()
		for l := LeafIndex(0); l < LeafIndex(v.NLeaves); l++ {
			below := false
			for y := l.node(); ; y = y.parent() {
				if y == x {
					below = true
				}
				if y == rootOf(v.NLeaves) {
					break
				}
			}
			if below != (first <= l && l < end) {
				t.Fatalf("span of %d: %d to %d", x, first, end)
			}
			if v.NLeaves > 64 {
				break
			}
		}
	}
}

func vectorSecretTree(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		SenderData  struct {
			Secret     hexBytes `json:"sender_data_secret"`
			Ciphertext hexBytes
			Key, Nonce hexBytes
		} `json:"sender_data"`
		Encryption hexBytes `json:"encryption_secret"`
		Leaves     [][]struct {
			Generation       uint32
			HandshakeKey     hexBytes `json:"handshake_key"`
			HandshakeNonce   hexBytes `json:"handshake_nonce"`
			ApplicationKey   hexBytes `json:"application_key"`
			ApplicationNonce hexBytes `json:"application_nonce"`
		}
	}
	decode(t, raw, &v)
	s := suiteOf(t, v.CipherSuite)
	key, nonce := s.senderDataKey(v.SenderData.Secret, v.SenderData.Ciphertext)
	equal(t, "sender data key", key, v.SenderData.Key)
	equal(t, "sender data nonce", nonce, v.SenderData.Nonce)
	cfg := testConfig()
	tree := newSecretTree(s, treeWidth(LeafIndex(len(v.Leaves)-1)), v.Encryption)
	for l, gens := range v.Leaves {
		for _, g := range gens {
			for kind, want := range map[uint8][2]hexBytes{RatchetHandshake: {g.HandshakeKey, g.HandshakeNonce}, RatchetApplication: {g.ApplicationKey, g.ApplicationNonce}} {
				st, err := tree.peek(cfg, LeafIndex(l), kind, g.Generation)
				must(t, err)
				tree.commit(st)
				equal(t, "key", st.key, want[0])
				equal(t, "nonce", st.nonce, want[1])
				if _, err := tree.peek(cfg, LeafIndex(l), kind, g.Generation); err == nil {
					t.Fatal("a consumed key was given out")
				}
			}
		}
	}
}

func vectorMessageProtection(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		GroupID     hexBytes    `json:"group_id"`
		Epoch       uint64
		TreeHash    hexBytes `json:"tree_hash"`
		Confirmed   hexBytes `json:"confirmed_transcript_hash"`
		Priv        hexBytes `json:"signature_priv"`
		Pub         hexBytes `json:"signature_pub"`
		Encryption  hexBytes `json:"encryption_secret"`
		SenderData  hexBytes `json:"sender_data_secret"`
		Membership  hexBytes `json:"membership_key"`

		Proposal        hexBytes
		ProposalPub     hexBytes `json:"proposal_pub"`
		ProposalPriv    hexBytes `json:"proposal_priv"`
		Commit          hexBytes
		CommitPub       hexBytes `json:"commit_pub"`
		CommitPriv      hexBytes `json:"commit_priv"`
		Application     hexBytes
		ApplicationPriv hexBytes `json:"application_priv"`
	}
	decode(t, raw, &v)
	s := suiteOf(t, v.CipherSuite)
	cfg := testConfig()
	gc := &GroupContext{Version: MLS10, CipherSuite: v.CipherSuite, GroupID: v.GroupID, Epoch: v.Epoch, TreeHash: v.TreeHash, ConfirmedTranscriptHash: v.Confirmed}
	context := tlspl.Marshal(gc)
	key, err := NewSignatureKey(v.CipherSuite, v.Priv)
	must(t, err)

	content := func(c *FramedContent) []byte {
		var w tlspl.Writer
		c.marshalContent(&w)
		return w.Bytes()
	}
	var app tlspl.Writer
	app.Opaque(v.Application)
	for _, c := range []struct {
		kind      ContentType
		raw       []byte
		pub, priv []byte
	}{
		{ContentProposal, v.Proposal, v.ProposalPub, v.ProposalPriv},
		{ContentCommit, v.Commit, v.CommitPub, v.CommitPriv},
		{ContentApplication, app.Bytes(), nil, v.ApplicationPriv},
	} {
		open := func(b []byte, tree *secretTree) *AuthenticatedContent {
			m, err := ParseMessage(b)
			must(t, err)
			var ac *AuthenticatedContent
			if m.PublicMessage != nil {
				must(t, s.verifyMembership(m.PublicMessage, v.Membership, context))
				ac = m.PublicMessage.AuthenticatedContent()
			} else {
				sd, err := s.openSenderData(v.SenderData, m.PrivateMessage)
				must(t, err)
				var st *secretStep
				ac, st, err = s.openPrivate(cfg, tree, sd, m.PrivateMessage)
				must(t, err)
				tree.commit(st)
			}
			must(t, verifyFramed(s, v.Pub, ac, context))
			if ac.Content.Sender != (Sender{Type: SenderMember, Leaf: 1}) {
				t.Fatalf("sender %v", ac.Content.Sender)
			}
			equal(t, "content", content(&ac.Content), c.raw)
			return ac
		}
		fresh := func() *secretTree { return newSecretTree(s, 2, bytes.Clone(v.Encryption)) }
		fc := FramedContent{GroupID: v.GroupID, Epoch: v.Epoch, Sender: Sender{Type: SenderMember, Leaf: 1}, ContentType: c.kind, AuthenticatedData: []byte("aad")}
		fc.unmarshalContent(tlspl.NewReader(c.raw))

		if c.pub != nil {
			open(c.pub, nil)
			ac, err := signFramed(key, WireFormatPublicMessage, fc, context)
			must(t, err)
			ac.Auth.ConfirmationTag = []byte("any tag at all")
			m, err := s.publicMessage(ac, v.Membership, context)
			must(t, err)
			open(NewMessage(m).Bytes(), nil)
		} else {
			ac, err := signFramed(key, WireFormatPublicMessage, fc, context)
			must(t, err)
			if _, err := s.publicMessage(ac, v.Membership, context); err == nil {
				t.Fatal("application data in a PublicMessage")
			}
		}
		open(c.priv, fresh())
		ac, err := signFramed(key, WireFormatPrivateMessage, fc, context)
		must(t, err)
		ac.Auth.ConfirmationTag = []byte("any tag at all")
		for _, cfg := range []*Config{cfg, {Padding: 256}} {
			m, _, err := s.sealPrivate(cfg, fresh(), v.SenderData, ac)
			must(t, err)
			open(NewMessage(m).Bytes(), fresh())
		}
	}
}

func vectorKeySchedule(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		GroupID     hexBytes    `json:"group_id"`
		Init        hexBytes    `json:"initial_init_secret"`
		Epochs      []struct {
			TreeHash      hexBytes `json:"tree_hash"`
			Commit        hexBytes `json:"commit_secret"`
			PSK           hexBytes `json:"psk_secret"`
			Confirmed     hexBytes `json:"confirmed_transcript_hash"`
			Context       hexBytes `json:"group_context"`
			Joiner        hexBytes `json:"joiner_secret"`
			Welcome       hexBytes `json:"welcome_secret"`
			Init          hexBytes `json:"init_secret"`
			SenderData    hexBytes `json:"sender_data_secret"`
			Encryption    hexBytes `json:"encryption_secret"`
			Exporter      hexBytes `json:"exporter_secret"`
			Authenticator hexBytes `json:"epoch_authenticator"`
			External      hexBytes `json:"external_secret"`
			Confirmation  hexBytes `json:"confirmation_key"`
			Membership    hexBytes `json:"membership_key"`
			Resumption    hexBytes `json:"resumption_psk"`
			ExternalPub   hexBytes `json:"external_pub"`
			Export        struct {
				Label   string
				Context hexBytes
				Length  int
				Secret  hexBytes
			} `json:"exporter"`
		}
	}
	decode(t, raw, &v)
	s := suiteOf(t, v.CipherSuite)
	init := []byte(v.Init)
	for i, e := range v.Epochs {
		gc := &GroupContext{Version: MLS10, CipherSuite: v.CipherSuite, GroupID: v.GroupID, Epoch: uint64(i), TreeHash: e.TreeHash, ConfirmedTranscriptHash: e.Confirmed}
		context := tlspl.Marshal(gc)
		equal(t, "group context", context, e.Context)
		psk := []byte(e.PSK)
		if psk == nil {
			psk = s.zero()
		}
		joiner := s.joinerSecret(init, e.Commit, context)
		equal(t, "joiner", joiner, e.Joiner)
		equal(t, "welcome", s.welcomeSecret(joiner, psk), e.Welcome)
		x := s.epochSecrets(joiner, psk, context)
		for _, p := range []struct {
			name      string
			got, want []byte
		}{
			{"init", x.init, e.Init}, {"sender data", x.senderData, e.SenderData}, {"encryption", x.encryption, e.Encryption},
			{"exporter", x.exporter, e.Exporter}, {"authenticator", x.authentic, e.Authenticator}, {"external", x.external, e.External},
			{"confirmation", x.confirmation, e.Confirmation}, {"membership", x.membership, e.Membership}, {"resumption", x.resumption, e.Resumption},
		} {
			equal(t, p.name, p.got, p.want)
		}
		_, pub, err := s.kem.derive(x.external)
		must(t, err)
		equal(t, "external pub", pub, e.ExternalPub)
		out, err := s.export(x.exporter, e.Export.Label, e.Export.Context, e.Export.Length)
		must(t, err)
		equal(t, "export", out, e.Export.Secret)
		init = x.init
	}
}

func vectorPSKSecret(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		PSKs        []struct {
			ID    hexBytes `json:"psk_id"`
			PSK   hexBytes
			Nonce hexBytes `json:"psk_nonce"`
		}
		Secret hexBytes `json:"psk_secret"`
	}
	decode(t, raw, &v)
	var in []pskValue
	for _, p := range v.PSKs {
		in = append(in, pskValue{&PreSharedKeyID{Type: PSKExternal, ID: p.ID, Nonce: p.Nonce}, p.PSK})
	}
	equal(t, "psk_secret", suiteOf(t, v.CipherSuite).pskSecret(in), v.Secret)
}

func vectorTranscriptHashes(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite     CipherSuite `json:"cipher_suite"`
		ConfirmationKey hexBytes    `json:"confirmation_key"`
		Content         hexBytes    `json:"authenticated_content"`
		Before          hexBytes    `json:"interim_transcript_hash_before"`
		Confirmed       hexBytes    `json:"confirmed_transcript_hash_after"`
		Interim         hexBytes    `json:"interim_transcript_hash_after"`
	}
	decode(t, raw, &v)
	s := suiteOf(t, v.CipherSuite)
	ac := new(AuthenticatedContent)
	must(t, tlspl.Unmarshal(v.Content, ac))
	equal(t, "authenticated content", tlspl.Marshal(ac), v.Content)
	if ac.Content.Commit == nil {
		t.Fatal("no commit")
	}
	confirmed := s.confirmedHash(v.Before, ac)
	equal(t, "confirmed", confirmed, v.Confirmed)
	if !s.checkMAC(v.ConfirmationKey, confirmed, ac.Auth.ConfirmationTag) {
		t.Fatal("confirmation tag")
	}
	equal(t, "interim", s.interimHash(confirmed, ac.Auth.ConfirmationTag), v.Interim)
}

func vectorWelcome(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		Init        hexBytes    `json:"init_priv"`
		Signer      hexBytes    `json:"signer_pub"`
		KeyPackage  hexBytes    `json:"key_package"`
		Welcome     hexBytes
	}
	decode(t, raw, &v)
	kp, err := ParseMessage(v.KeyPackage)
	must(t, err)
	w, err := ParseMessage(v.Welcome)
	must(t, err)
	o, err := openWelcome(w.Welcome, []JoinKey{{kp.KeyPackage, &KeyPackageSecrets{InitKey: v.Init}}}, true, nil)
	must(t, err)
	must(t, o.info.verifySignature(v.Signer))
	gc := &o.info.GroupContext
	e := o.s.epochSecrets(o.secret, o.psk, tlspl.Marshal(gc))
	if !o.s.checkMAC(e.confirmation, gc.ConfirmedTranscriptHash, o.info.ConfirmationTag) {
		t.Fatal("confirmation tag")
	}
}

func readTree(t *testing.T, s *suite, b []byte) *tree {
	t.Helper()
	rt := new(RatchetTree)
	must(t, rt.UnmarshalBinary(b))
	tr, err := treeFrom(s, rt)
	must(t, err)
	equal(t, "tree", tlspl.Marshal(tr.export()), b)
	return tr
}

func vectorTreeOperations(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		Before      hexBytes    `json:"tree_before"`
		Proposal    hexBytes
		Sender      LeafIndex `json:"proposal_sender"`
		HashBefore  hexBytes  `json:"tree_hash_before"`
		After       hexBytes  `json:"tree_after"`
		HashAfter   hexBytes  `json:"tree_hash_after"`
	}
	decode(t, raw, &v)
	s := suiteOf(t, v.CipherSuite)
	before := readTree(t, s, v.Before)
	equal(t, "hash before", before.rootHash(), v.HashBefore)
	tr := before.clone()
	p := new(Proposal)
	must(t, tlspl.Unmarshal(v.Proposal, p))
	switch b := p.Body.(type) {
	case *Add:
		_, err := tr.add(&b.KeyPackage.LeafNode)
		must(t, err)
	case *Update:
		tr.update(v.Sender, &b.LeafNode)
	case *Remove:
		tr.remove(b.Removed)
		tr.truncate()
	default:
		t.Fatalf("proposal %v", p.Type())
	}
	equal(t, "tree after", tlspl.Marshal(tr.export()), v.After)
	equal(t, "hash after", tr.rootHash(), v.HashAfter)
	equal(t, "clone's origin", tlspl.Marshal(before.export()), v.Before)
	equal(t, "clone's origin's hash", before.rootHash(), v.HashBefore)
}

func vectorTreeValidation(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		Tree        hexBytes
		GroupID     hexBytes `json:"group_id"`
		Resolutions [][]nodeIndex
		TreeHashes  []hexBytes `json:"tree_hashes"`
	}
	decode(t, raw, &v)
	s := suiteOf(t, v.CipherSuite)
	tr := readTree(t, s, v.Tree)
	for x := nodeIndex(0); x < nodeIndex(2*tr.leaves-1); x++ {
		equal(t, fmt.Sprintf("tree hash of %d", x), tr.hash(x), v.TreeHashes[x])
		if got := tr.resolution(x, nil); fmt.Sprint(got) != fmt.Sprint(v.Resolutions[x]) && len(got)+len(v.Resolutions[x]) > 0 {
			t.Fatalf("resolution of %d: %v", x, got)
		}
		if tr.hasNodes(x) != (len(v.Resolutions[x]) > 0) {
			t.Fatalf("hasNodes of %d", x)
		}
	}
	must(t, tr.verifyParentHashes())
	must(t, tr.verifyUnmerged())
	for l, n := range tr.members() {
		must(t, n.verifySignature(s.id, v.GroupID, l))
	}
	// A changed parent hash or key is found.
	for x := nodeIndex(1); x < nodeIndex(2*tr.leaves-1); x += 2 {
		p := tr.at(x).parent
		if p == nil {
			continue
		}
		for _, bad := range []*ParentNode{
			{EncryptionKey: append([]byte{1}, p.EncryptionKey...), ParentHash: p.ParentHash, UnmergedLeaves: p.UnmergedLeaves},
			{EncryptionKey: p.EncryptionKey, ParentHash: append([]byte{1}, p.ParentHash...), UnmergedLeaves: p.UnmergedLeaves},
		} {
			c := tr.clone()
			c.setParent(x, bad)
			if c.verifyParentHashes() == nil {
				t.Fatalf("node %d: forged and not found", x)
			}
		}
	}
}

func vectorTreeKEM(t *testing.T, raw json.RawMessage) {
	var v struct {
		CipherSuite CipherSuite `json:"cipher_suite"`
		GroupID     hexBytes    `json:"group_id"`
		Epoch       uint64
		Confirmed   hexBytes `json:"confirmed_transcript_hash"`
		Tree        hexBytes `json:"ratchet_tree"`
		Leaves      []struct {
			Index      LeafIndex
			Encryption hexBytes `json:"encryption_priv"`
			Signature  hexBytes `json:"signature_priv"`
			Secrets    []struct {
				Node   nodeIndex
				Secret hexBytes `json:"path_secret"`
			} `json:"path_secrets"`
		} `json:"leaves_private"`
		Paths []struct {
			Sender    LeafIndex
			Path      hexBytes   `json:"update_path"`
			Secrets   []hexBytes `json:"path_secrets"`
			Commit    hexBytes   `json:"commit_secret"`
			HashAfter hexBytes   `json:"tree_hash_after"`
		} `json:"update_paths"`
	}
	decode(t, raw, &v)
	s := suiteOf(t, v.CipherSuite)
	tr := readTree(t, s, v.Tree)
	keys := map[LeafIndex]nodeKeys{}
	sigs := map[LeafIndex]*SignatureKey{}
	for _, l := range v.Leaves {
		k := nodeKeys{l.Index.node(): {raw: l.Encryption}}
		for _, p := range l.Secrets {
			known := newLayer(k)
			must(t, tr.keysOf(&pathSecrets{steps: []pathStep{{node: p.Node}}, secrets: [][]byte{p.Secret}}, known))
			known.apply(k)
		}
		for x, priv := range k {
			pub, err := s.kem.public(priv.raw)
			must(t, err)
			equal(t, "public key", pub, tr.publicKey(x))
		}
		if !tr.complete(l.Index, k) {
			t.Fatalf("leaf %d is not complete", l.Index)
		}
		keys[l.Index] = k
		var err error
		sigs[l.Index], err = NewSignatureKey(v.CipherSuite, l.Signature)
		must(t, err)
	}
	gc := &GroupContext{Version: MLS10, CipherSuite: v.CipherSuite, GroupID: v.GroupID, Epoch: v.Epoch, ConfirmedTranscriptHash: v.Confirmed}
	follow := func(up *UpdatePath, sender LeafIndex, secrets []hexBytes, commit, hash []byte) {
		after := tr.clone()
		steps, err := after.mergePath(sender, up, nil)
		must(t, err)
		must(t, up.LeafNode.verifySignature(v.CipherSuite, v.GroupID, sender))
		must(t, after.verifyParentHashes())
		equal(t, "tree hash after", after.rootHash(), hash)
		gc.TreeHash = after.rootHash()
		context := tlspl.Marshal(gc)
		for l, k := range keys {
			if l == sender {
				continue
			}
			p, err := after.decryptPath(steps, up, newLayer(k), context, nil)
			must(t, err)
			if secrets != nil {
				equal(t, "path secret", p.secrets[0], secrets[l])
			}
			equal(t, "commit secret", p.commit, commit)
			staged := newLayer(k)
			prune(staged, tr, after)
			must(t, after.keysOf(p, staged))
			mine := maps.Clone(k)
			staged.apply(mine)
			if !after.complete(l, mine) {
				t.Fatalf("leaf %d is not complete after the path", l)
			}
		}
	}
	for _, p := range v.Paths {
		up := new(UpdatePath)
		must(t, tlspl.Unmarshal(p.Path, up))
		follow(up, p.Sender, p.Secrets, p.Commit, p.HashAfter)

		// A path of our own in its place.
		cfg := testConfig()
		secret, err := cfg.random(s.nh)
		must(t, err)
		leaf := tr.leaf(p.Sender).clone()
		_, leaf.EncryptionKey, err = s.generateHPKE(cfg.rand())
		must(t, err)
		after := tr.clone()
		ps, err := after.newPath(p.Sender, leaf, sigs[p.Sender], v.GroupID, secret)
		must(t, err)
		gc.TreeHash = after.rootHash()
		mine, err := after.encryptPath(p.Sender, ps, tlspl.Marshal(gc), nil)
		must(t, err)
		follow(mine, p.Sender, nil, ps.commit, after.rootHash())
	}
}

// passiveVector is the life of a client that only listens.
type passiveVector struct {
	CipherSuite   CipherSuite    `json:"cipher_suite"`
	ExternalPSKs  []passivePSK   `json:"external_psks"`
	KeyPackage    hexBytes       `json:"key_package"`
	Signature     hexBytes       `json:"signature_priv"`
	Encryption    hexBytes       `json:"encryption_priv"`
	Init          hexBytes       `json:"init_priv"`
	Welcome       hexBytes       `json:"welcome"`
	Tree          hexBytes       `json:"ratchet_tree"` // null where it stands in the Welcome
	Authenticator hexBytes       `json:"initial_epoch_authenticator"`
	Epochs        []passiveEpoch `json:"epochs"`
}

type passivePSK struct {
	ID  hexBytes `json:"psk_id"`
	PSK hexBytes `json:"psk"`
}

type passiveEpoch struct {
	Proposals     []hexBytes `json:"proposals"`
	Commit        hexBytes   `json:"commit"`
	Authenticator hexBytes   `json:"epoch_authenticator"`
}

func vectorPassive(t *testing.T, raw json.RawMessage) {
	var v passiveVector
	decode(t, raw, &v)
	must(t, v.run())
}

// run joins by the Welcome and follows the epochs.
func (v *passiveVector) run() error {
	cfg := testConfig()
	cfg.PSKs = PSKFunc(func(id *PreSharedKeyID) ([]byte, error) {
		for _, p := range v.ExternalPSKs {
			if id.Type == PSKExternal && bytes.Equal(id.ID, p.ID) {
				return p.PSK, nil
			}
		}
		return nil, fmt.Errorf("no PSK %x", id.ID)
	})
	// A resumption PSK may be of any epoch there was, and whom a credential names is not judged.
	cfg.PastEpochs = len(v.Epochs) + 1
	cfg.VerifyCredential = func(CredentialContext) error { return nil }
	kp, err := ParseMessage(v.KeyPackage)
	if err != nil {
		return err
	}
	if kp.KeyPackage == nil {
		return fmt.Errorf("key_package is a %v", kp.WireFormat)
	}
	sig, err := NewSignatureKey(v.CipherSuite, v.Signature)
	if err != nil {
		return err
	}
	if !bytes.Equal(sig.Public(), kp.KeyPackage.LeafNode.SignatureKey) {
		return errors.New("signature_priv is not the KeyPackage's")
	}
	for _, k := range []struct{ priv, pub []byte }{{v.Encryption, kp.KeyPackage.LeafNode.EncryptionKey}, {v.Init, kp.KeyPackage.InitKey}} {
		if pub, err := HPKEPublicKey(v.CipherSuite, k.priv); err != nil || !bytes.Equal(pub, k.pub) {
			return fmt.Errorf("private key of %x: %x, %w", k.pub, pub, err)
		}
	}
	w, err := ParseMessage(v.Welcome)
	if err != nil {
		return err
	}
	if w.Welcome == nil {
		return fmt.Errorf("welcome is a %v", w.WireFormat)
	}
	var rt *RatchetTree
	if v.Tree != nil {
		rt = new(RatchetTree)
		if err := rt.UnmarshalBinary(v.Tree); err != nil {
			return err
		}
	}
	g, err := JoinGroup(cfg, w.Welcome, rt, []JoinKey{{kp.KeyPackage, &KeyPackageSecrets{InitKey: v.Init, LeafKey: v.Encryption, Signature: sig}}}, nil)
	if err != nil {
		return err
	}
	if !bytes.Equal(g.EpochAuthenticator(), v.Authenticator) {
		return errors.New("initial_epoch_authenticator differs")
	}
	keep := &stored{rows: map[rowID][]byte{}}
	for i, e := range v.Epochs {
		// Each epoch begins with the state as it would come from a store.
		if err := keep.put(g); err != nil {
			return err
		}
		if g, err = keep.get(cfg); err != nil {
			return err
		}
		// What is refused matters if the Commit refers to it, which it then cannot follow.
		var refused error
		for j, b := range e.Proposals {
			m, err := ParseMessage(b)
			if err == nil {
				_, err = g.ReceiveProposal(m)
			}
			if err != nil {
				refused = errors.Join(refused, fmt.Errorf("proposal %d: %w", j, err))
			}
		}
		m, err := ParseMessage(e.Commit)
		if err == nil {
			_, err = g.Receive(m)
		}
		if err != nil {
			return fmt.Errorf("epoch %d, commit: %w", i, errors.Join(err, refused))
		}
		if !bytes.Equal(g.EpochAuthenticator(), e.Authenticator) {
			return fmt.Errorf("epoch %d: epoch_authenticator differs", i)
		}
	}
	return nil
}
