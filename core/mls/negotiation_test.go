package mls

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Code points for the tests, of the ranges for private use.
func init() {
	UseSemiPrivateMessage(SemiPrivateCodePoints{WireFormat: 0xf00d, Extension: 0xf00e})
}

// TestGREASE runs a group's life with nonsense in all places where RFC 9420
// section 13.5 wants it, and looks that it is there.
func TestGREASE(t *testing.T) {
	h := newHall(t, suite1, newPerson(t, suite1, "alice"), nil)
	h.cfg.GREASE = true
	nonsense := func(v uint16) bool { return v&0x0f0f == 0x0a0a }
	var kps []JoinKey
	for range 8 {
		k := newPerson(t, suite1, "p").keyPackage(t, h.cfg)
		n := &k.KeyPackage.LeafNode
		found := func(what string, ok bool) {
			t.Helper()
			if !ok {
				t.Errorf("no GREASE in %s", what)
			}
		}
		found("cipher suites", slices.ContainsFunc(n.Capabilities.CipherSuites, func(v CipherSuite) bool { return nonsense(uint16(v)) }))
		found("extensions", slices.ContainsFunc(n.Capabilities.Extensions, func(v ExtensionType) bool { return nonsense(uint16(v)) }))
		found("proposals", slices.ContainsFunc(n.Capabilities.Proposals, func(v ProposalType) bool { return nonsense(uint16(v)) }))
		found("credentials", slices.ContainsFunc(n.Capabilities.Credentials, func(v CredentialType) bool { return nonsense(uint16(v)) }))
		found("LeafNode extensions", slices.ContainsFunc(n.Extensions, func(x Extension) bool { return nonsense(uint16(x.Type)) }))
		found("KeyPackage extensions", slices.ContainsFunc(k.KeyPackage.Extensions, func(x Extension) bool { return nonsense(uint16(x.Type)) }))
		kps = append(kps, k)
	}
	for i, k := range kps {
		out := h.commit(i%len(h.states), LeafIndex(i%len(h.states)), CommitOptions{Proposals: []Proposal{addOf(k)}, ForcePath: i%2 == 0}, k)
		if !slices.ContainsFunc(out.GroupInfo.Extensions, func(x Extension) bool { return nonsense(uint16(x.Type)) }) {
			t.Error("no GREASE in the GroupInfo")
		}
	}
	h.chat()
	g, out, err := ExternalCommit(h.cfg, h.hub.StoredGroupInfo(), h.hub.Tree(), ExternalCommitOptions{Leaf: newPerson(t, suite1, "eve").leaf()})
	must(t, err)
	h.accept(-1, out)
	h.join(g)
	h.check()
	if len(defaultCapabilities.Extensions) != len(DefaultCapabilities().Extensions) {
		t.Error("GREASE has got into our own capabilities")
	}
}

var defaultCapabilities = DefaultCapabilities()

func (p *person) with(ext ...Extension) LeafOptions {
	o := p.leaf()
	c := DefaultCapabilities()
	c.Extensions = append(c.Extensions, 0xf00e)
	o.Capabilities, o.Extensions = &c, ext
	return o
}

func (p *person) keyPackageWith(t testing.TB, cfg *Config, ext ...Extension) JoinKey {
	t.Helper()
	o := p.with(ext...)
	kp, secrets, err := NewKeyPackage(cfg, suite1, KeyPackageOptions{Credential: o.Credential, Signature: o.Signature, Capabilities: o.Capabilities, LeafExtensions: o.Extensions})
	must(t, err)
	return JoinKey{kp, secrets}
}

func TestWireFormats(t *testing.T) {
	cfg := testConfig()
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	need := WireFormats{0xf00d, WireFormatPublicMessage}
	can := WireFormats{0xf00d}.Supported()
	ext := Extensions{need.Required()}
	if _, err := CreateGroup(cfg, CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: alice.leaf(), Extensions: ext}); !errors.Is(err, ErrWireFormat) {
		t.Errorf("creator without the format: %v", err)
	}
	g, err := CreateGroup(cfg, CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: alice.with(can), Extensions: ext})
	must(t, err)
	if f, err := g.GroupContext().Extensions.RequiredWireFormats(); err != nil || !slices.Equal(f, need) {
		t.Errorf("required: %v, %v", f, err)
	}
	kb := bob.keyPackage(t, cfg)
	if _, err := g.Commit(0, CommitOptions{Proposals: []Proposal{addOf(kb)}}); !errors.Is(err, ErrWireFormat) {
		t.Errorf("added without the format: %v", err)
	}
	kb = bob.keyPackageWith(t, cfg, can)
	out, err := g.Commit(0, CommitOptions{Proposals: []Proposal{addOf(kb)}})
	must(t, err)
	_, err = g.MergePending(nil)
	must(t, err)
	j, err := JoinGroup(cfg, out.Welcome, out.Tree, []JoinKey{kb}, nil)
	must(t, err)
	// An update that no longer supports it, by proposal and in a path.
	if _, _, err := j.ProposeUpdate(1, LeafOptions{Extensions: Extensions{}}, nil); !errors.Is(err, ErrWireFormat) {
		t.Errorf("update without the format: %v", err)
	}
	if _, err := j.Commit(1, CommitOptions{Leaf: &LeafOptions{Extensions: Extensions{}}}); !errors.Is(err, ErrWireFormat) {
		t.Errorf("path without the format: %v", err)
	}
	info, err := g.GroupInfo(0)
	must(t, err)
	if _, _, err := ExternalCommit(cfg, info, g.Tree(), ExternalCommitOptions{Leaf: newPerson(t, suite1, "eve").leaf()}); !errors.Is(err, ErrWireFormat) {
		t.Errorf("external commit without the format: %v", err)
	}
	// A new GroupContext that asks for what not all have.
	more := WireFormats{0xf00d, 0xf011}
	if _, err := g.Commit(0, CommitOptions{Proposals: []Proposal{{&GroupContextExtensions{Extensions{more.Required()}}}}}); !errors.Is(err, ErrWireFormat) {
		t.Errorf("GroupContextExtensions: %v", err)
	}
	bad := Extensions{{ExtensionRequiredWireFormats, []byte{1, 0}}}
	if _, err := g.Commit(0, CommitOptions{Proposals: []Proposal{{&GroupContextExtensions{bad}}}}); err == nil {
		t.Error("malformed required_wire_formats")
	}
}

func TestComponents(t *testing.T) {
	plain, rich := MediaType{Type: "text/plain", Parameters: []MediaParameter{{"charset", "UTF-8"}}}, MediaType{Type: "application/mimi-content"}
	leaf := func(types ...MediaType) Extension {
		var d AppDataDictionary
		d.SetComponents(ComponentAppComponents, ComponentContentMediaTypes, 0x8001)
		d.SetComponents(ComponentSafeAAD, 0x8001)
		d.SetMediaTypes(types...)
		return d.Extension()
	}
	var d AppDataDictionary
	d.SetComponents(ComponentAppComponents, 0x8001)
	d.SetMediaTypes(rich)
	cfg := testConfig()
	cfg.CheckComponents = true
	create := func(ext Extension) (*Group, error) {
		return CreateGroup(cfg, CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: newPerson(t, suite1, "alice").with(ext), Extensions: Extensions{d.Extension()}})
	}
	if _, err := create(leaf(plain)); !errors.Is(err, ErrComponent) {
		t.Errorf("creator without the media type: %v", err)
	}
	if _, err := create(AppDataDictionary{}.Extension()); !errors.Is(err, ErrComponent) {
		t.Errorf("creator without the component: %v", err)
	}
	g, err := create(leaf(rich, plain))
	must(t, err)
	poor := newPerson(t, suite1, "bob").keyPackageWith(t, cfg, leaf(plain))
	if _, err := g.Commit(0, CommitOptions{Proposals: []Proposal{addOf(poor)}}); !errors.Is(err, ErrComponent) {
		t.Errorf("added without the media type: %v", err)
	}
	if err := g.GroupContext().CheckComponents(&poor.KeyPackage.LeafNode); !errors.Is(err, ErrComponent) {
		t.Errorf("CheckComponents: %v", err)
	}
	// A component asked for later.
	var l AppDataDictionary
	l.SetComponents(ComponentSafeAAD, 0x8001, 0x8002)
	v, _ := l.Get(ComponentSafeAAD)
	if _, err := g.Commit(0, CommitOptions{Proposals: []Proposal{{&AppDataUpdate{ComponentID: ComponentSafeAAD, Op: AppDataOpUpdate, Update: v}}}}); !errors.Is(err, ErrComponent) {
		t.Errorf("AppDataUpdate: %v", err)
	}

	// Application framing: the first type of the group goes unnamed.
	gc := g.GroupContext()
	for _, m := range []MediaType{rich, plain, {}} {
		b, err := gc.FrameApplication(m, []byte("words"))
		must(t, err)
		f, err := gc.ReadApplication(b)
		must(t, err)
		want := m
		if m.Type == "" {
			want = rich
		}
		if !f.MediaType.Equal(want) || string(f.Content) != "words" {
			t.Errorf("%v comes back as %v, %q", m, f.MediaType, f.Content)
		}
		if m.Equal(rich) && b[0] != 0 {
			t.Error("the group's first type is written out")
		}
	}
	if !plain.Equal(MediaType{Type: "Text/Plain", Parameters: []MediaParameter{{"Charset", "UTF-8"}}}) || plain.Equal(MediaType{Type: "text/plain"}) {
		t.Error("media types compare wrongly")
	}
	if _, err := gc.ReadApplication([]byte{0xff}); err == nil {
		t.Error("malformed framing read")
	}
	bare := new(GroupContext)
	if f, err := bare.ReadApplication([]byte("x")); err != nil || string(f.Content) != "x" || f.MediaType.Type != "" {
		t.Errorf("without framing: %v, %v", f, err)
	}
	if err := tlspl.Unmarshal([]byte{0}, new(MediaTypeList)); err == nil {
		t.Error("empty list of media types read")
	}
}

func TestAppAck(t *testing.T) {
	var a AppAck
	for _, g := range []uint32{5, 3, 4, 9, 0, 1<<32 - 1, 1<<32 - 2, 5} {
		a.Add(2, g)
	}
	a.Add(1, 7)
	a.Add(2, 2)
	want := []MessageRange{{1, 7, 7}, {2, 0, 0}, {2, 2, 5}, {2, 9, 9}, {2, 1<<32 - 2, 1<<32 - 1}}
	if !slices.Equal(a.Ranges, want) {
		t.Errorf("ranges %v", a.Ranges)
	}
	p := a.Proposal()
	b, ok, err := AppAckOf(p.Body.(*AppEphemeral))
	if !ok || err != nil || !slices.Equal(b.Ranges, want) {
		t.Errorf("%v %v %v", b, ok, err)
	}
	if !b.Covers(2, 4) || b.Covers(2, 6) || b.Covers(3, 4) || b.Covers(1, 8) {
		t.Error("covers wrongly")
	}
	if _, ok, _ := AppAckOf(&AppEphemeral{ComponentID: 0x8000}); ok {
		t.Error("any AppEphemeral taken for an AppAck")
	}
	if _, _, err := AppAckOf(&AppEphemeral{ComponentID: ComponentAppAck, Data: []byte{12, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1}}); err == nil {
		t.Error("range that ends before it begins")
	}
	// As members use it.
	h, _, _ := pair(t, suite1, nil)
	var got AppAck
	for range 3 {
		m, err := h.states[0].Encrypt(0, []byte("x"), nil)
		must(t, err)
		d, err := h.states[1].Decrypt(m)
		must(t, err)
		got.Add(d.Sender, d.Generation)
	}
	h.propose(1, 1, got.Proposal())
	out, err := h.states[0].Commit(0, CommitOptions{})
	must(t, err)
	s, err := h.states[1].StageCommit(out.Message)
	must(t, err)
	if ack, ok, err := AppAckOf(s.Proposals[0].Proposal.Body.(*AppEphemeral)); err != nil || !ok || !ack.Covers(0, 2) || ack.Covers(0, 3) {
		t.Errorf("%v, %v", ack, err)
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newCert(t *testing.T, name string, pub ed25519.PublicKey, by *authority, ca bool, key ed25519.PrivateKey) []byte {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	parent, signer := tmpl, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(nil, tmpl, parent, pub, signer)
	must(t, err)
	return der
}

func newAuthority(t *testing.T, name string, by *authority) (*authority, []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	der := newCert(t, name, pub, by, true, key)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert, key}, der
}

// TestX509Chain has members with certificate chains, verified by the application.
func TestX509Chain(t *testing.T) {
	root, _ := newAuthority(t, "root", nil)
	middle, middleDER := newAuthority(t, "middle", root)
	stranger, _ := newAuthority(t, "stranger", nil)
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	cfg := testConfig()
	var seen []string
	cfg.VerifyCredential = func(ctx CredentialContext) error {
		cert, err := ctx.Credential.VerifyChain(x509.VerifyOptions{Roots: pool, CurrentTime: testTime, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			return err
		}
		seen = append(seen, cert.Subject.CommonName)
		if ctx.Replaces != nil {
			if old, err := x509.ParseCertificate(ctx.Replaces.Credential.Certificates[0]); err != nil || old.Subject.CommonName != cert.Subject.CommonName {
				return errors.New("another name")
			}
		}
		return nil
	}
	member := func(name string, by *authority) (LeafOptions, *person) {
		p := newPerson(t, suite1, name)
		return LeafOptions{Credential: X509Credential([][]byte{newCert(t, name, p.sig.Public(), by, false, nil), middleDER}), Signature: p.sig}, p
	}
	keyPackage := func(o LeafOptions) JoinKey {
		kp, secrets, err := NewKeyPackage(cfg, suite1, KeyPackageOptions{Credential: o.Credential, Signature: o.Signature})
		must(t, err)
		return JoinKey{kp, secrets}
	}
	alice, _ := member("alice", middle)
	g, err := CreateGroup(cfg, CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: alice})
	must(t, err)
	bob, _ := member("bob", middle)
	kb := keyPackage(bob)
	out, err := g.Commit(0, CommitOptions{Proposals: []Proposal{addOf(kb)}})
	must(t, err)
	_, err = g.MergePending(nil)
	must(t, err)
	j, err := JoinGroup(cfg, out.Welcome, out.Tree, []JoinKey{kb}, nil)
	must(t, err)
	if !slices.Contains(seen, "alice") || !slices.Contains(seen, "bob") {
		t.Errorf("the application has seen %v", seen)
	}
	eve, _ := member("eve", stranger)
	ke := keyPackage(eve)
	if _, err := g.Commit(0, CommitOptions{Proposals: []Proposal{addOf(ke)}}); !errors.Is(err, ErrCredential) {
		t.Errorf("untrusted chain: %v", err)
	}
	// The certificate of another key, and of none.
	stolen := newPerson(t, suite1, "bob")
	for name, c := range map[string]Credential{"another key": bob.Credential, "none": X509Credential(nil), "no certificate": X509Credential([][]byte{{1, 2, 3}})} {
		kp, _, err := NewKeyPackage(cfg, suite1, KeyPackageOptions{Credential: c, Signature: stolen.sig})
		must(t, err)
		if err := kp.Verify(cfg); !errors.Is(err, ErrCredential) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A certificate renewed, and one of another name, in a path.
	renewed, _ := member("bob", middle)
	c, err := j.Commit(1, CommitOptions{Leaf: &renewed})
	must(t, err)
	if _, err := g.Receive(c.Message); err != nil {
		t.Errorf("renewed: %v", err)
	}
	_, err = j.MergePending(nil)
	must(t, err)
	mallory, _ := member("mallory", middle)
	if _, err := j.Commit(1, CommitOptions{Leaf: &mallory}); !errors.Is(err, ErrCredential) {
		t.Errorf("another name: %v", err)
	}
}

func TestRatchetTreeOptions(t *testing.T) {
	h, _, _ := pair(t, suite1, nil)
	out, err := h.states[0].Commit(0, CommitOptions{})
	must(t, err)
	s, err := h.hub.InspectCommit(out.Message)
	must(t, err)
	for _, o := range []*RatchetTreeOption{DistributionServiceTree(), FullTree(out.Tree)} {
		var back RatchetTreeOption
		must(t, tlspl.Unmarshal(tlspl.Marshal(o), &back))
		tree, err := h.hub.CompleteTree(s, &back)
		must(t, err)
		if !bytes.Equal(tlspl.Marshal(tree), tlspl.Marshal(out.Tree)) {
			t.Errorf("representation %d: another tree", o.Representation)
		}
	}
	if _, err := h.hub.CompleteTree(nil, FullTree(out.Tree)); !errors.Is(err, ErrTreeHash) {
		t.Errorf("the next epoch's tree: %v", err)
	}
	if _, err := h.hub.CompleteTree(nil, &RatchetTreeOption{Representation: RatchetTreeOutOfBand}); !errors.Is(err, ErrTree) {
		t.Errorf("out of band: %v", err)
	}
	must(t, h.hub.MergeCommit(s))
	_, err = h.states[0].MergePending(nil)
	must(t, err)
	without, err := h.states[0].GroupInfo(0)
	must(t, err)
	within, err := h.states[0].GroupInfoWithTree(0)
	must(t, err)
	for _, info := range []*GroupInfo{without, within} {
		p := info.Partial()
		var back PartialGroupInfo
		must(t, tlspl.Unmarshal(tlspl.Marshal(p), &back))
		full, err := h.hub.CompleteGroupInfo(nil, &back)
		must(t, err)
		if !bytes.Equal(tlspl.Marshal(full), tlspl.Marshal(info)) {
			t.Errorf("presence %d: another GroupInfo", p.Presence)
		}
		back.Signature = bytes.Clone(back.Signature)
		back.Signature[0] ^= 1
		if _, err := h.hub.CompleteGroupInfo(nil, &back); !errors.Is(err, ErrGroupInfoSigner) {
			t.Errorf("presence %d, bad signature: %v", p.Presence, err)
		}
	}
}
