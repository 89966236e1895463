package mls

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// seedMessages gives messages of all kinds to start from.
func seedMessages(f testing.TB) [][]byte {
	f.Helper()
	alice, bob := newPerson(f, suite1, "alice"), newPerson(f, suite1, "bob")
	h := newHall(f, suite1, alice, nil)
	kb := bob.keyPackage(f, h.cfg)
	out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{addOf(kb), {&AppDataUpdate{ComponentID: 1, Op: AppDataOpUpdate}}}, ForcePath: true, TreeInWelcome: true})
	must(f, err)
	prop, _, err := h.states[0].Propose(0, Proposal{&Update{}}, nil)
	must(f, err)
	priv, err := h.states[0].Encrypt(0, []byte("x"), nil)
	must(f, err)
	return [][]byte{out.Message.Bytes(), NewMessage(out.Welcome).Bytes(), NewMessage(out.GroupInfo).Bytes(), NewMessage(kb.KeyPackage).Bytes(), prop.Bytes(), priv.Bytes()}
}

// FuzzParseMessage: what parses re-encodes to its bytes, nothing panics.
func FuzzParseMessage(f *testing.F) {
	for _, b := range seedMessages(f) {
		f.Add(b)
	}
	// The official messages too, when they are at hand.
	if b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "vectors", "mls", "messages.json")); err == nil {
		var v []map[string]hexBytes
		must(f, json.Unmarshal(b, &v))
		for _, m := range v[:min(len(v), 20)] {
			for _, x := range m {
				f.Add([]byte(x))
			}
		}
	}
	var mem meter
	f.Fuzz(func(t *testing.T, b []byte) {
		mem.read()
		m, err := ParseMessage(b)
		if n := mem.read(); n > memoryFor(len(b)) {
			t.Fatalf("%d bytes allocate %d", len(b), n)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(m.Bytes(), b) {
			t.Fatal("does not re-encode to its bytes")
		}
		_, _, _ = m.GroupID(), m.Epoch(), m.ContentType()
	})
}

// FuzzTree: a tree that parses can be hashed and checked.
func FuzzTree(f *testing.F) {
	h := bigHall(f, 5)
	for _, l := range h.states[1].LocalLeaves() {
		out, err := h.states[1].Commit(l, CommitOptions{})
		must(f, err)
		h.accept(1, out)
		f.Add(tlspl.Marshal(out.Tree))
	}
	s := &suites[1]
	var m meter
	f.Fuzz(func(t *testing.T, b []byte) {
		rt := new(RatchetTree)
		m.read()
		if rt.UnmarshalBinary(b) != nil {
			return
		}
		// Taken apart it has twice as many nodes at most, and pages of them.
		if _, err := treeFrom(s, rt); err == nil {
			if n := m.read(); n > 4*memoryFor(len(b)) {
				t.Fatalf("a tree of %d bytes allocates %d", len(b), n)
			}
		}
		if !bytes.Equal(tlspl.Marshal(rt), b) {
			t.Fatal("does not re-encode to its bytes")
		}
		tr, err := treeFrom(s, rt)
		if err != nil {
			return
		}
		tr.rootHash()
		if tr.verifyUnmerged() == nil && tr.verifyParentHashes() == nil {
			for l := range tr.members() {
				tr.filteredPath(l)
			}
		}
	})
}

// FuzzReceive gives a hub and a member anything.
func FuzzReceive(f *testing.F) {
	alice, bob := newPerson(f, suite1, "alice"), newPerson(f, suite1, "bob")
	h := newHall(f, suite1, alice, nil)
	kb := bob.keyPackage(f, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	out, err := h.states[1].Commit(1, CommitOptions{})
	must(f, err)
	m, err := h.states[1].Encrypt(1, []byte("x"), nil)
	must(f, err)
	f.Add(out.Message.Bytes())
	f.Add(m.Bytes())
	var mem meter
	f.Fuzz(func(t *testing.T, b []byte) {
		mem.read()
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		_, _ = h.hub.ReceiveProposal(m)
		_, _ = h.hub.InspectCommit(m)
		_, _ = h.states[0].StageCommit(m)
		_, _ = h.states[0].Decrypt(m)
		// A ratchet may be wound on by MaxForward generations, and what is to be hashed or encrypted is encoded more than once.
		if n := mem.read(); n > 4*memoryFor(len(b))+4<<20 {
			t.Fatalf("%d bytes allocate %d", len(b), n)
		}
	})
}

type codec interface {
	tlspl.Marshaler
	tlspl.Unmarshaler
}

func codecOf[T any, P interface {
	*T
	codec
}]() (string, func() codec) {
	return strings.TrimPrefix(fmt.Sprintf("%T", new(T)), "*mls."), func() codec { return P(new(T)) }
}

// decoders are all there are, by the name of their type; TestDecodersAreFuzzed holds that.
var decoders = map[string]func() codec{}

func decoder(name string, f func() codec) { decoders[name] = f }

func init() {
	decoder(codecOf[AppAck]())
	decoder(codecOf[MessageRange]())
	decoder(codecOf[AppDataDictionary]())
	decoder(codecOf[ComponentsList]())
	decoder(codecOf[pendingCommit]())
	decoder(codecOf[MediaType]())
	decoder(codecOf[MediaParameter]())
	decoder(codecOf[MediaTypeList]())
	decoder(codecOf[ApplicationFraming]())
	decoder(codecOf[Credential]())
	decoder(codecOf[Extension]())
	decoder(codecOf[Extensions]())
	decoder(codecOf[ExternalSender]())
	decoder(codecOf[RequiredCapabilities]())
	decoder(codecOf[Sender]())
	decoder(codecOf[FramedContent]())
	decoder(codecOf[AuthenticatedContent]())
	decoder(codecOf[PublicMessage]())
	decoder(codecOf[PrivateMessage]())
	decoder(codecOf[MLSMessage]())
	decoder(codecOf[GroupContext]())
	decoder(codecOf[GroupInfo]())
	decoder(codecOf[GroupSecrets]())
	decoder(codecOf[EncryptedGroupSecrets]())
	decoder(codecOf[Welcome]())
	decoder(codecOf[KeyPackage]())
	decoder(codecOf[Capabilities]())
	decoder(codecOf[LeafNode]())
	decoder(codecOf[Proposal]())
	decoder(codecOf[Add]())
	decoder(codecOf[Update]())
	decoder(codecOf[Remove]())
	decoder(codecOf[PreSharedKey]())
	decoder(codecOf[ReInit]())
	decoder(codecOf[ExternalInit]())
	decoder(codecOf[GroupContextExtensions]())
	decoder(codecOf[AppDataUpdate]())
	decoder(codecOf[AppEphemeral]())
	decoder(codecOf[SelfRemove]())
	decoder(codecOf[ProposalOrRef]())
	decoder(codecOf[Commit]())
	decoder(codecOf[HPKECiphertext]())
	decoder(codecOf[UpdatePathNode]())
	decoder(codecOf[UpdatePath]())
	decoder(codecOf[PreSharedKeyID]())
	decoder(codecOf[ParentNode]())
	decoder(codecOf[RatchetTree]())
	decoder(codecOf[RatchetTreeOption]())
	decoder(codecOf[PartialGroupInfo]())
	decoder(codecOf[ExternalReceiver]())
	decoder(codecOf[KeyForExternalReceiver]())
	decoder(codecOf[SemiPrivateMessage]())
	decoder(codecOf[perMessageKey]())
	decoder(codecOf[WireFormats]())
	decoder(codecOf[ratchet]())
}

// TestDecodersAreFuzzed: every type of this package that reads bytes is among the decoders.
func TestDecodersAreFuzzed(t *testing.T) {
	files, err := filepath.Glob("*.go")
	must(t, err)
	method := regexp.MustCompile(`(?m)^func \(\w* ?\*?(\w+)\) UnmarshalTLS\(`)
	n := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		must(t, err)
		for _, m := range method.FindAllSubmatch(b, -1) {
			n++
			if decoders[string(m[1])] == nil {
				t.Errorf("%s: %s is not fuzzed", f, m[1])
			}
		}
	}
	if n != len(decoders) {
		t.Errorf("%d types read bytes, %d decoders are listed", n, len(decoders))
	}
}

// FuzzDecoders has every decoder read the same bytes: what is read is written as it was, without a panic, in memory that
// the input bounds.
func FuzzDecoders(f *testing.F) {
	var m meter
	for _, b := range seedMessages(f) {
		f.Add(b)
		f.Add(b[4:])
	}
	ack := AppAck{[]MessageRange{{1, 2, 3}}}
	types := MediaTypeList{{"text/plain", []MediaParameter{{"charset", "UTF-8"}}}}
	formats := WireFormats{0xf00d}
	for _, v := range []tlspl.Marshaler{&ack, &types, &formats, &ApplicationFraming{types[0], []byte("x")}, DistributionServiceTree(),
		&ExternalReceiver{make([]byte, 32), BasicCredential([]byte("r"))}, &PartialGroupInfo{Signature: []byte{1}},
		&ratchet{next: 3, secret: make([]byte, 32), skipped: []skippedKey{{1, make([]byte, 16), make([]byte, 12)}}}} {
		f.Add(tlspl.Marshal(v))
	}
	f.Add(MarshalSafeAAD([]SafeAADItem{{1, []byte("x")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m.read()
		for name, make := range decoders {
			v := make()
			err := tlspl.Unmarshal(b, v)
			if n := m.read(); n > memoryFor(len(b)) {
				t.Fatalf("%s of %d bytes allocates %d", name, len(b), n)
			}
			if err == nil && !bytes.Equal(tlspl.Marshal(v), b) {
				t.Fatalf("%s does not re-encode to its bytes", name)
			}
			if err == nil {
				m.read()
			}
		}
		// What travels inside extensions, and what is read by functions.
		e := Extensions{{semiPrivate.Extension, b}, {ExtensionRequiredCapabilities, b}, {ExtensionExternalSenders, b}, {ExtensionRatchetTree, b},
			{ExtensionExternalPub, b}, {ExtensionAppDataDictionary, b}, {ExtensionRequiredWireFormats, b}}
		_, _ = e.ExternalReceivers()
		_, _ = e.RequiredCapabilities()
		_, _ = e.ExternalSenders()
		_, _ = e.RatchetTree()
		_, _ = e.ExternalPub()
		_, _ = e.AppData()
		_, _ = e.RequiredWireFormats()
		_, _ = ParseSafeAAD(b)
		_, _ = new(GroupContext).ReadApplication(b)
		_ = new(KeyPackageSecrets).UnmarshalBinary(b)
		_ = new(SignatureKey).UnmarshalBinary(b)
		c := X509Credential([][]byte{b})
		_ = c.checkKey(nil)
		var a AppAck
		if tlspl.Unmarshal(b, &a) == nil {
			for _, r := range a.Ranges {
				a.Add(r.Sender, r.Last)
			}
		}
	})
}

// FuzzInsider signs any Commit or proposal as a member would, and any external Commit as a stranger would: what comes
// behind the signatures meets anything, too.
func FuzzInsider(f *testing.F) {
	alice, bob, eve := newPerson(f, suite1, "alice"), newPerson(f, suite1, "bob"), newPerson(f, suite1, "eve")
	h := newHall(f, suite1, alice, nil)
	kb := bob.keyPackage(f, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}, ForcePath: true}, kb)
	for range 2 {
		k := newPerson(f, suite1, fmt.Sprint("p", len(h.states))).keyPackage(f, h.cfg)
		h.commit(1, 1, CommitOptions{Proposals: []Proposal{addOf(k)}, ForcePath: true}, k)
	}
	ke := eve.keyPackage(f, h.cfg)
	out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{addOf(ke), {&Remove{2}}, {&AppDataUpdate{ComponentID: 1, Op: AppDataOpUpdate}}}})
	must(f, err)
	f.Add(tlspl.Marshal(out.Message.PublicMessage.Content.Commit), byte(0))
	info, err := h.states[0].GroupInfo(0)
	must(f, err)
	_, outside, err := ExternalCommit(h.cfg, info, h.hub.Tree(), ExternalCommitOptions{Leaf: eve.leaf()})
	must(f, err)
	f.Add(tlspl.Marshal(outside.Message.PublicMessage.Content.Commit), byte(1))
	for _, p := range []Proposal{addOf(ke), {&Remove{1}}, {&Remove{2}}, {&ReInit{Version: MLS10}}, {&GroupContextExtensions{Extensions{{ExtensionRequiredCapabilities, []byte{0, 0, 0}}}}},
		{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, Nonce: make([]byte, 32)}}}, {&SelfRemove{}}} {
		f.Add(tlspl.Marshal(&p), byte(2))
	}
	f.Fuzz(func(t *testing.T, b []byte, kind byte) {
		c := FramedContent{GroupID: h.hub.GroupID(), Epoch: h.hub.Epoch(), Sender: Sender{Type: SenderMember}, ContentType: ContentCommit}
		key := alice.sig
		if kind%3 == 2 {
			c.ContentType, c.Proposal = ContentProposal, new(Proposal)
			if tlspl.Unmarshal(b, c.Proposal) != nil {
				return
			}
		} else {
			c.Commit = new(Commit)
			if tlspl.Unmarshal(b, c.Commit) != nil {
				return
			}
			if p := c.Commit.Path; kind%3 == 1 && p != nil {
				c.Sender.Type, key = SenderNewMemberCommit, eve.sig
				p.LeafNode.SignatureKey = eve.sig.Public()
				must(t, p.LeafNode.sign(eve.sig, h.hub.GroupID(), 4))
			} else if p != nil {
				p.LeafNode.SignatureKey = alice.sig.Public()
				must(t, p.LeafNode.sign(alice.sig, h.hub.GroupID(), 0))
			}
		}
		ac, err := signFramed(key, WireFormatPublicMessage, c, h.hub.gcBytes)
		must(t, err)
		if c.Commit != nil {
			ac.Auth.ConfirmationTag = make([]byte, 32)
		}
		m, err := h.hub.s.publicMessage(ac, h.states[1].secrets.membership, h.hub.gcBytes)
		must(t, err)
		msg := NewMessage(m)
		hub := h.hub.Clone()
		if s, err := hub.InspectCommit(msg); err == nil {
			must(t, hub.MergeCommit(s))
			if _, err := hub.MarshalBinary(); err != nil {
				t.Fatal(err)
			}
		}
		if p, err := hub.ReceiveProposal(msg); err == nil {
			hub.DropProposal(p.Ref)
		}
		_, _ = h.states[1].StageCommit(msg)
		if p, err := h.states[1].ReceiveProposal(msg); err == nil {
			// Whatever was taken, a Commit can be made, by all but who is to be removed (RFC 9420 section 12.4).
			if _, err := h.states[1].Commit(1, CommitOptions{}); !errors.Is(err, ErrLeafDeparting) || *c.Proposal.Body.(*Remove) != (Remove{1}) {
				must(t, err)
			}
			h.states[1].ClearPending()
			h.states[1].DropProposal(p.Ref)
		}
	})
}

// FuzzJoin gives a joiner any GroupInfo and tree, signed and hashed as they should be, by Welcome and from outside.
func FuzzJoin(f *testing.F) {
	h := bigHall(f, 5)
	for _, l := range h.states[1].LocalLeaves() {
		h.commit(1, l, CommitOptions{})
	}
	eve := newPerson(f, suite1, "eve")
	k := eve.keyPackage(f, h.cfg)
	out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{addOf(k)}, ForcePath: true})
	must(f, err)
	f.Add(tlspl.Marshal(out.GroupInfo), tlspl.Marshal(out.Tree), []byte(nil))
	s := &suites[suite1]
	f.Fuzz(func(t *testing.T, i, tree, path []byte) {
		info, rt := new(GroupInfo), new(RatchetTree)
		if tlspl.Unmarshal(i, info) != nil || tlspl.Unmarshal(tree, rt) != nil {
			return
		}
		if info.GroupContext.CipherSuite != suite1 {
			return
		}
		if tr, err := treeFrom(s, rt); err == nil {
			info.GroupContext.TreeHash = tr.rootHash()
		}
		must(t, info.sign(h.states[0].locals[0].sig))
		gs := GroupSecrets{JoinerSecret: make([]byte, 32)}
		if len(path) > 0 {
			gs.PathSecret = path
		}
		_, _ = JoinGroup(h.cfg, sealWelcome(t, s, k, k, &gs, info), rt, []JoinKey{k}, nil)
		_, _, _ = ExternalCommit(h.cfg, info, rt, ExternalCommitOptions{Leaf: eve.leaf()})
	})
}

// FuzzLoad: stored state that was damaged is refused or read, and never panics.
func FuzzLoad(f *testing.F) {
	h := bigHall(f, 4)
	h.commit(0, 0, CommitOptions{})
	_, err := h.states[1].Commit(1, CommitOptions{})
	must(f, err)
	b, err := h.states[1].MarshalEpoch()
	must(f, err)
	f.Add(b)
	var m meter
	f.Fuzz(func(t *testing.T, b []byte) {
		m.read()
		g, err := LoadGroup(h.cfg, b, nil)
		if n := m.read(); n > 4*memoryFor(len(b))+4*16<<20 { // see TestPastTreeMemory
			t.Fatalf("%d bytes allocate %d", len(b), n)
		}
		if err != nil {
			return
		}
		if _, err := g.MarshalEpoch(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzLoadParts is FuzzLoad for the state of a hub, for what is pending, and for the rows of ratchets.
func FuzzLoadParts(f *testing.F) {
	h := bigHall(f, 4)
	g := h.states[1]
	_, _, err := g.Propose(1, Proposal{&Update{}}, nil)
	must(f, err)
	_, err = g.Commit(2, CommitOptions{})
	must(f, err)
	pending, err := g.MarshalPending()
	must(f, err)
	f.Add(pending)
	hub, err := h.hub.MarshalBinary()
	must(f, err)
	f.Add(hub)
	m, err := h.states[0].Encrypt(0, []byte("x"), nil)
	must(f, err)
	state, err := g.MarshalEpoch()
	must(f, err)
	for _, row := range g.TakeRatchets() {
		f.Add(row.Data)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := LoadPublicGroup(h.cfg, b); err == nil {
			if _, err := p.MarshalBinary(); err != nil {
				t.Fatal(err)
			}
		}
		g, err := LoadGroup(h.cfg, state, func(yield func(RatchetRow) bool) {
			_ = yield(RatchetRow{1, 0, RatchetApplication, b}) && yield(RatchetRow{1, 3, RatchetNode, b}) && yield(RatchetRow{1, 0, RatchetExport, b})
		})
		must(t, err)
		_ = g.LoadPending(b)
		_, _ = g.Decrypt(m)
		_, _ = g.SafeExportSecret(1)
		_, _ = g.MergePending(nil)
		g.TakeRatchets()
	})
}

// meter tells how much was allocated from one reading to the next, garbage included.
type meter uint64

func (m *meter) read() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	n := s.TotalAlloc - uint64(*m)
	*m = meter(s.TotalAlloc)
	return n
}

// What reading n bytes may allocate: the shortest elements of a vector, of a byte or two, become structures of some dozens,
// each has a Reader of its own, and the slice they are in is copied as it grows. Most of this is garbage at once. Whatever is
// read, there is something on top.
func memoryFor(n int) uint64 { return 200*uint64(n) + 32<<10 }

// TestDecoderMemory: no decoder allocates more than its input accounts for, whatever lengths stand in it and wherever a vector
// of the shortest elements begins.
func TestDecoderMemory(t *testing.T) {
	filler := func(n int, pattern ...byte) []byte {
		w := tlspl.NewWriter()
		w.Opaque(bytes.Repeat(pattern, n/len(pattern)))
		return w.Bytes()
	}
	claim := tlspl.NewWriter()
	claim.Varint(tlspl.MaxVector)
	tails := [][]byte{claim.Bytes(), filler(4096, 0), filler(4096, 2, 0), filler(4096, 0, 1, 0)}
	heads := [][]byte{nil}
	for _, seed := range seedMessages(t) {
		// Places a vector could begin at in the first bytes, with and without the MLSMessage around.
		for i := range min(len(seed), 48) {
			heads = append(heads, seed[i%2*4:max(i, 4)])
		}
	}
	for _, ones := range []byte{1, 2, 3} {
		heads = append(heads, []byte{ones}, []byte{0, ones}, []byte{0, 0, ones}, []byte{0, ones, 0, ones})
	}
	var m meter
	most := 0.0
	check := func(b []byte) {
		m.read()
		for name, decode := range decoders {
			_ = tlspl.Unmarshal(b, decode())
			n := m.read()
			if n > memoryFor(len(b)) {
				t.Fatalf("%s of %d bytes allocates %d: %x…", name, len(b), n, b[:min(len(b), 80)])
			}
			most = max(most, float64(n)/float64(len(b)+1<<10))
		}
	}
	for _, h := range heads {
		for _, tail := range tails {
			check(slices.Concat(h, tail))
		}
	}
	for _, tail := range [][]byte{filler(1<<20, 0), filler(1<<20, 2, 0)} {
		check(tail)
	}
	t.Logf("%d decoders, %d inputs; at most %.1f times the input and 1 kB", len(decoders), len(heads)*len(tails)+2, most)
}

// TestPastTreeMemory: a past epoch's tree may be wider than the current one; stored with a leaf far out, it does not cost what a
// tree full of leaves would.
func TestPastTreeMemory(t *testing.T) {
	h := bigHall(t, 4)
	h.commit(0, 0, CommitOptions{})
	g := h.states[1]
	far := newTree(g.s, maxLeaves)
	far.end = maxLeaves
	far.mut(LeafIndex(maxLeaves - 1).node()).leaf = g.tree.leaf(1)
	g.past[0].tree = far
	b, err := g.MarshalEpoch()
	must(t, err)
	var m meter
	m.read()
	again, err := LoadGroup(h.cfg, b, nil)
	if n := m.read(); n > memoryFor(len(b))+16<<20 {
		t.Errorf("%d bytes of state allocate %d", len(b), n)
	}
	must(t, err)
	if again.past[0].tree.leaf(maxLeaves-1) == nil || again.past[0].tree.leaf(0) != nil {
		t.Error("the past tree is another one")
	}
}

// FuzzSemiPrivate gives an external receiver and a member anything.
func FuzzSemiPrivate(f *testing.F) {
	h, key := semiPrivateHall(f)
	out, err := h.states[1].Commit(1, CommitOptions{WireFormat: semiPrivate.WireFormat})
	must(f, err)
	p, _, err := h.states[1].ProposeAs(1, Proposal{&Update{}}, nil, semiPrivate.WireFormat)
	must(f, err)
	f.Add(out.Message.Bytes())
	f.Add(p.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil || m.SemiPrivateMessage == nil {
			return
		}
		_, _ = m.SemiPrivateMessage.Open(suite1, key)
		_, _ = h.hub.InspectSemiPrivate(m, key)
		_, _ = h.states[0].StageCommit(m)
	})
}
