package mls

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// A leaf changes its signature key, credential and extensions, by Update and by
// Commit; the old key signs the message, the new one what comes after.
func TestRotation(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	h.reload = true
	var seen []CredentialContext
	h.cfg.VerifyCredential = func(c CredentialContext) error {
		seen = append(seen, c)
		return nil
	}
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)

	second, third := newPerson(t, suite1, "bob 2"), newPerson(t, suite1, "bob 3")
	var d AppDataDictionary
	d.Set(ComponentAppComponents, []byte{2, 0, 1})
	caps := DefaultCapabilities()
	caps.Credentials = []CredentialType{CredentialBasic}
	m, pp, err := h.states[1].ProposeUpdate(1, LeafOptions{Credential: BasicCredential([]byte("bob 2")), Signature: second.sig, Capabilities: &caps, Extensions: Extensions{d.Extension()}}, nil)
	must(t, err)
	h.broadcastProposal(m, 1)
	if h.hub.Proposal(pp.Ref) == nil {
		t.Fatal("the hub has it not by its reference")
	}
	seen = nil
	h.commit(0, 0, CommitOptions{})
	n := h.hub.Leaf(1)
	if !bytes.Equal(n.SignatureKey, second.sig.Public()) || string(n.Credential.Identity) != "bob 2" || len(n.Extensions) != 1 || len(n.Capabilities.Credentials) != 1 {
		t.Fatalf("%+v", n)
	}
	if !slices.ContainsFunc(seen, func(c CredentialContext) bool {
		return c.Reason == ReasonUpdate && c.Replaces != nil && string(c.Replaces.Credential.Identity) == "bob" && string(c.Credential.Identity) == "bob 2"
	}) {
		t.Fatalf("%+v", seen)
	}
	h.chat()
	h.commit(1, 1, CommitOptions{Leaf: &LeafOptions{Credential: BasicCredential([]byte("bob 3")), Signature: third.sig}})
	if n := h.hub.Leaf(1); !bytes.Equal(n.SignatureKey, third.sig.Public()) || len(n.Extensions) != 1 {
		t.Fatalf("%+v", n)
	}
	if h.states[1].SignatureKey(1).Public()[0] != third.sig.Public()[0] {
		t.Fatal("the state holds the old key")
	}
	h.chat()
	h.commit(1, 1, CommitOptions{})
	h.chat()
	if _, _, err := h.states[1].ProposeUpdate(1, LeafOptions{Signature: newPerson(t, P256AES128GCMSHA256P256, "x").sig}, nil); !errors.Is(err, ErrSignatureKey) {
		t.Fatal(err)
	}
}

// A state that was copied, and whose copy has moved a leaf to another key, gives
// the leaf up and goes on with the rest.
func TestLostLeaf(t *testing.T) {
	for _, byCommit := range []bool{false, true} {
		alice, bob, carol := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob"), newPerson(t, suite1, "carol")
		h := newHall(t, suite1, alice, nil)
		kb, kc := bob.keyPackage(t, h.cfg), carol.keyPackage(t, h.cfg)
		h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb), addOf(kc)}, ForcePath: true}, kb, kc)
		b, err := h.states[1].MarshalEpoch()
		must(t, err)
		double, err := LoadGroup(h.cfg, b, nil)
		must(t, err)
		other := LeafOptions{Signature: newPerson(t, suite1, "bob").sig}
		var out *CommitOutput
		if byCommit {
			out, err = double.Commit(1, CommitOptions{Leaf: &other})
		} else {
			var m *MLSMessage
			m, _, err = double.ProposeUpdate(1, other, nil)
			must(t, err)
			h.broadcastProposal(m, -1)
			out, err = h.states[0].Commit(0, CommitOptions{})
		}
		must(t, err)
		s, err := h.states[1].StageCommit(out.Message)
		must(t, err)
		if len(s.LostLocal) != 1 || s.LostLocal[0] != 1 || s.SelfRemoved || len(s.RemovedLocal) != 0 {
			t.Fatalf("%+v", s)
		}
		h.accept(-1, out)
		if got := h.states[1].LocalLeaves(); len(got) != 1 || got[0] != 2 {
			t.Fatal(got)
		}
		h.check()
		h.commit(1, 2, CommitOptions{})
		h.chat()
	}
}

// One Commit takes the last local leaf and brings another: the state goes on.
func TestReplaced(t *testing.T) {
	alice, bob, carol := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob"), newPerson(t, suite1, "carol")
	h := newHall(t, suite1, alice, nil)
	kb, kc := bob.keyPackage(t, h.cfg), carol.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	late, err := h.states[0].Encrypt(0, []byte("late"), nil)
	must(t, err)
	out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&Remove{1}}, addOf(kc)}})
	must(t, err)
	g := h.states[1]
	h.accept(0, out)
	if len(g.LocalLeaves()) != 0 || g.EpochAuthenticator() != nil {
		t.Fatal("the removed state goes on")
	}
	// It can be kept, and still reads what was sent before.
	keep := &stored{rows: map[rowID][]byte{}}
	keep.save(t, g)
	g = keep.load(t, h.cfg)
	if a, err := g.Decrypt(late); err != nil || string(a.Content) != "late" {
		t.Fatal(err)
	}
	for _, err := range []error{
		func() error { _, err := g.Encrypt(1, nil, nil); return err }(),
		func() error { _, err := g.Commit(1, CommitOptions{}); return err }(),
		func() error { _, err := g.ExportSecret("x", nil, 16); return err }(),
		func() error { _, err := g.SafeExportSecret(1); return err }(),
		func() error { _, err := g.GroupInfo(1); return err }(),
		func() error { _, err := g.StageCommit(out.Message); return err }(),
	} {
		if !errors.Is(err, ErrNotLocal) {
			t.Error(err)
		}
	}
	must(t, g.AttachWelcome(out.Welcome, []JoinKey{kc}))
	h.states[1] = g
	if at, ok := g.Joined(1); !ok || at != 2 {
		t.Fatalf("joined at %d", at)
	}
	h.check()
	h.chat()
	h.commit(1, 1, CommitOptions{})
	h.chat()
}

func TestKeyPackageSecrets(t *testing.T) {
	for _, suite := range CipherSuites() {
		p := newPerson(t, suite, "p")
		cfg := testConfig()
		kp, secrets, err := NewKeyPackage(cfg, suite, KeyPackageOptions{Credential: BasicCredential([]byte("p")), Signature: p.sig, LastResort: true})
		must(t, err)
		must(t, kp.Verify(cfg))
		if !kp.LastResort() {
			t.Error("not marked")
		}
		b, err := secrets.MarshalBinary()
		must(t, err)
		var again KeyPackageSecrets
		must(t, again.UnmarshalBinary(b))
		m, err := ParseMessage(NewMessage(kp).Bytes())
		must(t, err)
		h := newHall(t, suite, newPerson(t, suite, "alice"), nil)
		h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&Add{KeyPackage: *m.KeyPackage}}}, TreeInWelcome: true}, JoinKey{m.KeyPackage, &again})
		if again.UnmarshalBinary(b[:len(b)-1]) == nil || again.UnmarshalBinary(nil) == nil {
			t.Error("cut secrets accepted")
		}
	}
	if _, _, err := NewKeyPackage(testConfig(), 1, KeyPackageOptions{}); !errors.Is(err, ErrSignatureKey) {
		t.Error(err)
	}
}

func TestTreeInWelcome(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	kb := bob.keyPackage(t, h.cfg)
	for _, inside := range []bool{false, true} {
		out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{addOf(kb)}, TreeInWelcome: inside})
		must(t, err)
		h.states[0].ClearPending()
		if _, err := JoinGroup(h.cfg, out.Welcome, nil, []JoinKey{kb}, nil); (err == nil) != inside {
			t.Errorf("inside %v: %v", inside, err)
		}
		if _, err := JoinGroup(h.cfg, out.Welcome, out.Tree, []JoinKey{newPerson(t, suite1, "x").keyPackage(t, h.cfg)}, nil); !errors.Is(err, ErrWelcomeNotForUs) {
			t.Error(err)
		}
		if _, ok := out.GroupInfo.Extensions.Get(ExtensionRatchetTree); ok {
			t.Error("the tree is in the GroupInfo that is handed out")
		}
	}
}

func TestAppDataDictionary(t *testing.T) {
	var d AppDataDictionary
	for _, id := range []ComponentID{5, 1, 9, 5} {
		d.Set(id, []byte{byte(id)})
	}
	e := d.Clone()
	f := d
	d.Delete(5)
	d.Delete(77)
	d.Set(1, []byte("new"))
	if d.Len() != 2 || e.Len() != 3 || f.Len() != 3 {
		t.Fatal("copies are not independent")
	}
	if b, _ := f.Get(1); b[0] != 1 {
		t.Fatal("a copy by assignment was written to")
	}
	var ids []ComponentID
	for id := range e.All() {
		ids = append(ids, id)
	}
	if !slices.Equal(ids, []ComponentID{1, 5, 9}) {
		t.Fatal(ids)
	}
	got, err := Extensions{e.Extension()}.AppData()
	must(t, err)
	equal(t, "dictionary", tlspl.Marshal(&got), tlspl.Marshal(&e))
	for _, bad := range [][]byte{{6, 0, 2, 0, 0, 1, 0}, {6, 0, 1, 0, 0, 1, 0}, {1, 0}, {0, 0}} {
		if tlspl.Unmarshal(bad, new(AppDataDictionary)) == nil {
			t.Errorf("%x accepted", bad)
		}
		if _, err := ParseSafeAAD(bad); err == nil {
			t.Errorf("%x accepted as AAD", bad)
		}
	}
}

func TestTreeOptions(t *testing.T) {
	h := newHall(t, suite1, newPerson(t, suite1, "alice"), nil)
	for _, o := range []*RatchetTreeOption{
		FullTree(h.hub.Tree()),
		{Representation: RatchetTreeHTTPSURI, URL: []byte("https://a.example/t"), TreeSignature: []byte("s")},
		{Representation: RatchetTreeOutOfBand, TreeSignature: []byte("s")},
		{Representation: RatchetTreeDistributionService},
	} {
		b := tlspl.Marshal(o)
		var p RatchetTreeOption
		must(t, tlspl.Unmarshal(b, &p))
		equal(t, "option", tlspl.Marshal(&p), b)
	}
	for _, b := range [][]byte{{0}, {5}, {1, 0}} {
		if tlspl.Unmarshal(b, new(RatchetTreeOption)) == nil {
			t.Errorf("%x accepted", b)
		}
	}
	if tlspl.Unmarshal([]byte{4, 0, 0}, new(PartialGroupInfo)) == nil {
		t.Error("presence 4 accepted")
	}
}

// testProposal is a type the application registers.
type testProposal struct{ data []byte }

const testProposalType ProposalType = 0xf042

func (*testProposal) ProposalType() ProposalType     { return testProposalType }
func (p *testProposal) MarshalTLS(w *tlspl.Writer)   { w.Opaque(p.data) }
func (p *testProposal) UnmarshalTLS(r *tlspl.Reader) { p.data = r.Opaque() }
func init() {
	RegisterProposal(testProposalType, ProposalInfo{Name: "Test", New: func() ProposalBody { return new(testProposal) }, External: true})
}

func TestRegisteredProposal(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	p := Proposal{&testProposal{[]byte("x")}}
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{p}}); !errors.Is(err, ErrProposalUnsupported) {
		t.Fatal(err)
	}
	caps := DefaultCapabilities()
	caps.Proposals = append(caps.Proposals, testProposalType)
	h.commit(0, 0, CommitOptions{Leaf: &LeafOptions{Capabilities: &caps}})
	h.commit(1, 1, CommitOptions{Leaf: &LeafOptions{Capabilities: &caps}})
	h.propose(1, 1, p)
	out, err := h.states[0].Commit(0, CommitOptions{})
	must(t, err)
	s, err := h.hub.InspectCommit(h.wire(out.Message))
	must(t, err)
	if b := s.Proposals[0].Proposal.Body.(*testProposal); string(b.data) != "x" || s.Path {
		t.Fatalf("%+v", s)
	}
	h.accept(0, out)
	h.check()
	if _, err := ParseMessage([]byte{0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0xf0, 0x43}); !errors.Is(err, ErrProposalType) {
		t.Fatal(err)
	}
}

func TestDropProposal(t *testing.T) {
	h, _ := rulesHall(t, nil)
	pp := h.propose(1, 1, Proposal{&Update{}})
	for _, g := range []*PublicGroup{h.hub, h.states[0].PublicGroup} {
		g.DropProposal(pp.Ref)
		g.DropProposal(ProposalRef("unknown"))
		if len(g.Proposals()) != 0 || g.Proposal(pp.Ref) != nil {
			t.Fatal("still there")
		}
	}
	m, err := ParseMessage(pp.Message)
	must(t, err)
	if _, err := h.hub.ReceiveProposal(m); err != nil {
		t.Fatal(err)
	}
}

// A clone and what it was cloned from go separate ways.
func TestClone(t *testing.T) {
	h, _ := rulesHall(t, nil)
	c := h.hub.Clone()
	before, err := c.MarshalBinary()
	must(t, err)
	tree := tlspl.Marshal(c.Tree())
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&Remove{3}}}})
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(newPerson(t, suite1, "x").keyPackage(t, h.cfg))}})
	after, err := c.MarshalBinary()
	must(t, err)
	equal(t, "state", after, before)
	equal(t, "tree", tlspl.Marshal(c.Tree()), tree)
	equal(t, "hash", c.tree.rootHash(), c.GroupContext().TreeHash)
}
