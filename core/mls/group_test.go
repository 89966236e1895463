package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

var testTime = time.Unix(1_800_000_000, 0)

func testConfig() *Config {
	return &Config{Now: func() time.Time { return testTime }}
}

// person is a client with a signature key.
type person struct {
	name string
	sig  *SignatureKey
}

func newPerson(t testing.TB, suite CipherSuite, name string) *person {
	t.Helper()
	k, err := GenerateSignatureKey(nil, suite)
	if err != nil {
		t.Fatal(err)
	}
	return &person{name, k}
}

func (p *person) leaf() LeafOptions {
	return LeafOptions{Credential: BasicCredential([]byte(p.name)), Signature: p.sig}
}

func (p *person) keyPackage(t testing.TB, cfg *Config) JoinKey {
	t.Helper()
	kp, secrets, err := NewKeyPackage(cfg, p.sig.Suite, KeyPackageOptions{Credential: BasicCredential([]byte(p.name)), Signature: p.sig})
	if err != nil {
		t.Fatal(err)
	}
	if err := kp.Verify(cfg); err != nil {
		t.Fatal(err)
	}
	return JoinKey{kp, secrets}
}

func addOf(k JoinKey) Proposal { return Proposal{&Add{KeyPackage: *k.KeyPackage}} }

// hall is a group as all of its parties see it: states of members, each of which
// may hold several leaves, and a hub.
type hall struct {
	t      testing.TB
	cfg    *Config
	suite  CipherSuite
	states []*Group
	hub    *PublicGroup
	// stored are what is kept of each state, if the hall reloads.
	stored []*stored
	reload bool
}

type rowID struct {
	epoch uint64
	leaf  LeafIndex
	kind  uint8
}

type stored struct {
	epoch, pending []byte
	rows           map[rowID][]byte
}

func (s *stored) save(t testing.TB, g *Group) {
	t.Helper()
	must(t, s.put(g))
}

func (s *stored) put(g *Group) error {
	c, err := g.TakeState()
	if err != nil {
		return err
	}
	if c.Epoch != nil {
		s.epoch, s.pending = c.Epoch, nil
	}
	if c.Pending != nil {
		s.pending = c.Pending
	}
	for _, r := range g.TakeRatchets() {
		id := rowID{r.Epoch, r.Leaf, r.Kind}
		if r.Data == nil {
			delete(s.rows, id)
		} else {
			s.rows[id] = bytes.Clone(r.Data)
		}
	}
	return nil
}

func (s *stored) load(t testing.TB, cfg *Config) *Group {
	t.Helper()
	g, err := s.get(cfg)
	must(t, err)
	return g
}

func (s *stored) get(cfg *Config) (*Group, error) {
	g, err := LoadGroup(cfg, s.epoch, func(yield func(RatchetRow) bool) {
		for id, b := range s.rows {
			if !yield(RatchetRow{id.epoch, id.leaf, id.kind, b}) {
				return
			}
		}
	})
	if err == nil && s.pending != nil {
		err = g.LoadPending(s.pending)
	}
	return g, err
}

func newHall(t testing.TB, suite CipherSuite, creator *person, ext Extensions) *hall {
	t.Helper()
	h := &hall{t: t, cfg: testConfig(), suite: suite}
	g, err := CreateGroup(h.cfg, CreateOptions{Suite: suite, GroupID: []byte("hall"), Leaf: creator.leaf(), Extensions: ext})
	if err != nil {
		t.Fatal(err)
	}
	h.join(g)
	info, err := g.GroupInfo(0)
	if err != nil {
		t.Fatal(err)
	}
	if h.hub, err = NewPublicGroup(h.cfg, info, g.Tree()); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hall) join(g *Group) int {
	h.states = append(h.states, g)
	h.stored = append(h.stored, &stored{rows: map[rowID][]byte{}})
	return len(h.states) - 1
}

// settle saves and loads every state and the hub.
func (h *hall) settle() {
	h.t.Helper()
	if !h.reload {
		return
	}
	for i, g := range h.states {
		if g == nil {
			continue
		}
		h.stored[i].save(h.t, g)
		h.states[i] = h.stored[i].load(h.t, h.cfg)
	}
	b, err := h.hub.MarshalBinary()
	if err != nil {
		h.t.Fatal(err)
	}
	if h.hub, err = LoadPublicGroup(h.cfg, b); err != nil {
		h.t.Fatal(err)
	}
}

// wire gives a message as the other side parses it.
func (h *hall) wire(m *MLSMessage) *MLSMessage {
	h.t.Helper()
	b := m.Bytes()
	n, err := ParseMessage(b)
	if err != nil {
		h.t.Fatal(err)
	}
	if !bytes.Equal(n.Bytes(), b) {
		h.t.Fatal("message does not re-encode to its bytes")
	}
	return n
}

// propose sends a proposal of a leaf of state i to all.
func (h *hall) propose(i int, leaf LeafIndex, p Proposal) *PendingProposal {
	h.t.Helper()
	m, pp, err := h.states[i].Propose(leaf, p, nil)
	if errors.Is(err, ErrDuplicate) {
		// Ed25519 is deterministic: the same words are the same proposal.
		return nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.broadcastProposal(m, i)
	return pp
}

func (h *hall) broadcastProposal(m *MLSMessage, except int) {
	h.t.Helper()
	m = h.wire(m)
	if _, err := h.hub.ReceiveProposal(m); err != nil {
		h.t.Fatalf("hub: %v", err)
	}
	for j, g := range h.states {
		if g == nil || j == except {
			continue
		}
		if _, err := g.ReceiveProposal(m); err != nil {
			h.t.Fatalf("state %d: %v", j, err)
		}
	}
	h.settle()
}

// commit makes a Commit by a leaf of state i and takes all to the next epoch.
// joiners become states of their own, or leaves of the state given by attach.
func (h *hall) commit(i int, leaf LeafIndex, opts CommitOptions, joiners ...JoinKey) *CommitOutput {
	h.t.Helper()
	out, err := h.states[i].Commit(leaf, opts)
	if err != nil {
		h.t.Fatal(err)
	}
	h.settle()
	h.accept(i, out)
	if len(joiners) > 0 {
		w := h.wire(NewMessage(out.Welcome)).Welcome
		g, err := JoinGroup(h.cfg, w, out.Tree, joiners, nil)
		if err != nil {
			h.t.Fatal(err)
		}
		h.join(g)
	}
	h.check()
	return out
}

// accept takes hub and states over a Commit; i made it, or is -1.
func (h *hall) accept(i int, out *CommitOutput) {
	h.t.Helper()
	m := h.wire(out.Message)
	if m.PublicMessage != nil {
		s, err := h.hub.InspectCommit(m)
		if err != nil {
			h.t.Fatalf("hub: %v", err)
		}
		if err := h.hub.VerifyGroupInfo(s, out.GroupInfo); err != nil {
			h.t.Fatalf("hub: %v", err)
		}
		if err := h.hub.MergeCommit(s); err != nil {
			h.t.Fatalf("hub: %v", err)
		}
	} else {
		var err error
		if h.hub, err = NewPublicGroup(h.cfg, out.GroupInfo, out.Tree); err != nil {
			h.t.Fatal(err)
		}
	}
	for j, g := range h.states {
		if g == nil {
			continue
		}
		var s *Staged
		var err error
		switch {
		case j == i && g.Epoch()%2 == 0:
			s, err = g.MergePending(nil)
		default:
			if s, err = g.StageCommit(m); err == nil {
				err = g.MergeStaged(s)
			}
		}
		if err != nil {
			h.t.Fatalf("state %d: %v", j, err)
		}
		if s.SelfRemoved {
			h.states[j] = nil
		}
	}
	h.settle()
}

// check holds all views against each other.
func (h *hall) check() {
	h.t.Helper()
	var secret []byte
	for j, g := range h.states {
		if g == nil {
			continue
		}
		if !bytes.Equal(g.gcBytes, h.hub.gcBytes) || !bytes.Equal(g.tag, h.hub.tag) || !bytes.Equal(g.interim, h.hub.interim) {
			h.t.Fatalf("state %d is not at the hub's epoch: %d, %d", j, g.Epoch(), h.hub.Epoch())
		}
		if !bytes.Equal(tlspl.Marshal(g.Tree()), tlspl.Marshal(h.hub.Tree())) {
			h.t.Fatalf("state %d: tree differs", j)
		}
		s, err := g.ExportSecret("test", []byte("x"), 32)
		if err != nil {
			h.t.Fatal(err)
		}
		if secret == nil {
			secret = s
		} else if !bytes.Equal(s, secret) {
			h.t.Fatalf("state %d: exported secret differs", j)
		}
		for x, priv := range g.keys {
			pub, err := g.s.kem.public(priv.raw)
			if err != nil || !bytes.Equal(pub, g.tree.publicKey(x)) {
				h.t.Fatalf("state %d: private key of node %d does not fit", j, x)
			}
		}
		for _, l := range g.LocalLeaves() {
			if g.Leaf(l) == nil {
				h.t.Fatalf("state %d: local leaf %d is blank", j, l)
			}
		}
	}
	// A tree taken from scratch is valid and has the same hash.
	t, err := treeFrom(h.hub.s, h.hub.Tree())
	if err != nil {
		h.t.Fatal(err)
	}
	if !bytes.Equal(t.rootHash(), h.hub.gc.TreeHash) {
		h.t.Fatal("cached tree hash is wrong")
	}
	if err := t.verifyParentHashes(); err != nil {
		h.t.Fatal(err)
	}
	if err := t.verifyUnmerged(); err != nil {
		h.t.Fatal(err)
	}
}

// chat sends a message from every local leaf to all others.
func (h *hall) chat() {
	h.t.Helper()
	for i, g := range h.states {
		if g == nil {
			continue
		}
		for _, l := range h.states[i].LocalLeaves() {
			text := []byte(fmt.Sprintf("from %d/%d", i, l))
			m, err := h.states[i].Encrypt(l, text, []byte("aad"))
			if err != nil {
				h.t.Fatal(err)
			}
			m = h.wire(m)
			for j, o := range h.states {
				if o == nil {
					continue
				}
				a, err := o.Decrypt(m)
				if j == i {
					if !errors.Is(err, ErrOwnMessage) {
						h.t.Fatalf("own message: %v", err)
					}
					continue
				}
				if err != nil {
					h.t.Fatalf("state %d: %v", j, err)
				}
				if !bytes.Equal(a.Content, text) || a.Sender != l || string(a.AAD) != "aad" {
					h.t.Fatalf("state %d: got %q of %d", j, a.Content, a.Sender)
				}
				if _, err := o.Decrypt(m); !errors.Is(err, ErrReplay) {
					h.t.Fatalf("state %d: second time: %v", j, err)
				}
			}
			h.settle()
		}
	}
}

func TestGroupLife(t *testing.T) {
	for _, suite := range CipherSuites() {
		for _, reload := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/reload=%v", suite, reload), func(t *testing.T) { groupLife(t, suite, reload) })
		}
	}
}

func groupLife(t *testing.T, suite CipherSuite, reload bool) {
	alice, bob, carol, dave := newPerson(t, suite, "alice"), newPerson(t, suite, "bob"), newPerson(t, suite, "carol"), newPerson(t, suite, "dave")
	h := newHall(t, suite, alice, nil)
	h.reload = reload
	h.settle()

	// Add without a path, then with one and two joiners in one state.
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	h.chat()
	kc, kd := carol.keyPackage(t, h.cfg), dave.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kc), addOf(kd)}, ForcePath: true}, kc, kd)
	h.chat()
	if got := h.states[2].LocalLeaves(); len(got) != 2 {
		t.Fatalf("local leaves %v", got)
	}
	// A local leaf commits for the other.
	h.commit(2, 2, CommitOptions{})
	h.chat()
	h.commit(1, 1, CommitOptions{})
	h.chat()

	// Updates by reference, of two parties, committed by a third.
	h.propose(1, 1, Proposal{&Update{}})
	h.propose(2, 3, Proposal{&Update{}})
	h.commit(0, 0, CommitOptions{})
	h.chat()

	// AppData.
	h.propose(1, 1, Proposal{&AppDataUpdate{ComponentID: 0x8001, Op: AppDataOpUpdate, Update: []byte("one")}})
	h.commit(2, 3, CommitOptions{Proposals: []Proposal{{&AppDataUpdate{ComponentID: 0x8001, Op: AppDataOpUpdate, Update: []byte("two")}}, {&AppEphemeral{ComponentID: 1, Data: []byte("x")}}}})
	if d, ok := h.states[0].AppData().Get(0x8001); !ok || string(d) != "two" {
		t.Fatalf("app data %q", d)
	}
	h.chat()

	// SelfRemove of one local leaf, the state goes on with the other.
	h.propose(2, 2, Proposal{&SelfRemove{}})
	if _, err := h.states[2].Commit(2, CommitOptions{}); !errors.Is(err, ErrLeafDeparting) {
		t.Fatalf("departing leaf commits: %v", err)
	}
	h.commit(2, 3, CommitOptions{})
	if got := h.states[2].LocalLeaves(); len(got) != 1 || got[0] != 3 {
		t.Fatalf("local leaves %v", got)
	}
	h.chat()

	// External join and resync.
	info, err := h.states[0].GroupInfo(0)
	must(t, err)
	eve := newPerson(t, suite, "eve")
	g, out, err := ExternalCommit(h.cfg, info, h.hub.Tree(), ExternalCommitOptions{Leaf: eve.leaf(),
		Proposals: []Proposal{{&AppDataUpdate{ComponentID: 0x8002, Op: AppDataOpUpdate, Update: []byte("eve")}}}})
	must(t, err)
	h.accept(-1, out)
	h.join(g)
	h.check()
	h.chat()

	// Resync of eve with bob's SelfRemove by reference.
	h.propose(1, 1, Proposal{&SelfRemove{}})
	h.propose(0, 0, Proposal{&Update{}}) // is left out
	var msgs []*MLSMessage
	for _, p := range h.hub.Proposals() {
		m, err := ParseMessage(p.Message)
		must(t, err)
		msgs = append(msgs, m)
	}
	old := g.LocalLeaves()[0]
	g2, out, err := ExternalCommit(h.cfg, h.hub.StoredGroupInfo(), h.hub.Tree(), ExternalCommitOptions{Leaf: eve.leaf(), Resync: &old, ProposalRefs: msgs})
	must(t, err)
	s, err := h.hub.InspectCommit(h.wire(out.Message))
	must(t, err)
	if !s.Resync || !s.External || len(s.Removed) != 2 || len(s.Unreferenced) != 1 {
		t.Fatalf("resync: %+v", s)
	}
	h.accept(-1, out)
	if h.states[1] != nil || h.states[3] != nil {
		t.Fatal("the removed are still there")
	}
	h.join(g2)
	h.check()
	h.chat()

	// Remove by an external sender is not allowed without the extension.
	hub := newPerson(t, suite, "hub")
	ext := Extensions{ExternalSendersExtension([]ExternalSender{{hub.sig.Public(), BasicCredential([]byte("hub"))}})}
	if m, err := SignExternalProposal(h.cfg, h.hub.GroupContext(), 0, hub.sig, Proposal{&Remove{3}}, nil); err != nil {
		t.Fatal(err)
	} else if _, err := h.hub.ReceiveProposal(m); !errors.Is(err, ErrSender) {
		t.Fatalf("external sender: %v", err)
	}
	d := h.hub.AppData()
	ext = ext.WithAppData(d)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&GroupContextExtensions{ext}}}})
	m, err := SignExternalProposal(h.cfg, h.hub.GroupContext(), 0, hub.sig, Proposal{&Remove{3}}, nil)
	must(t, err)
	h.broadcastProposal(m, -1)
	h.commit(0, 0, CommitOptions{})
	h.chat()

	// PrivateMessage handshakes: the hub must be told.
	fred := newPerson(t, suite, "fred")
	kf := fred.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kf)}, WireFormat: WireFormatPrivateMessage, ForcePath: true}, kf)
	h.chat()
}
