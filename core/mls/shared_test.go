package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

const suite1 = X25519AES128GCMSHA256Ed25519

// commitAttaching is hall.commit whose joiners become leaves of state at.
func (h *hall) commitAttaching(i int, leaf LeafIndex, opts CommitOptions, at int, joiners ...JoinKey) {
	h.t.Helper()
	out, err := h.states[i].Commit(leaf, opts)
	must(h.t, err)
	h.settle()
	h.accept(i, out)
	must(h.t, h.states[at].AttachWelcome(h.wire(NewMessage(out.Welcome)).Welcome, joiners))
	h.settle()
	h.check()
}

func allComplete(t testing.TB, g *Group) {
	t.Helper()
	for _, l := range g.LocalLeaves() {
		if !g.Complete(l) {
			t.Fatalf("leaf %d is not complete", l)
		}
	}
}

// Joiners of a group a state is in already become leaves of that state, with or
// without a path in the Commit, made by a local or a foreign leaf.
func TestAttachWelcome(t *testing.T) {
	for _, path := range []bool{false, true} {
		for _, byLocal := range []bool{false, true} {
			t.Run(fmt.Sprintf("path=%v/byLocal=%v", path, byLocal), func(t *testing.T) {
				alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
				h := newHall(t, suite1, alice, nil)
				h.reload = true
				kb := bob.keyPackage(t, h.cfg)
				h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
				at, from, leaf := 1, 0, LeafIndex(0)
				if byLocal {
					from, leaf = 1, 1
				}
				var adds []Proposal
				var keys []JoinKey
				for i := range 5 {
					k := newPerson(t, suite1, fmt.Sprint("new", i)).keyPackage(t, h.cfg)
					keys, adds = append(keys, k), append(adds, addOf(k))
				}
				h.commitAttaching(from, leaf, CommitOptions{Proposals: adds, ForcePath: path}, at, keys...)
				if n := len(h.states[at].LocalLeaves()); n != 6 {
					t.Fatalf("%d local leaves", n)
				}
				allComplete(t, h.states[at])
				h.chat()
				// Each leaf can commit, and everyone can follow.
				for _, l := range h.states[at].LocalLeaves() {
					h.commit(at, l, CommitOptions{})
					allComplete(t, h.states[at])
				}
				h.commit(0, 0, CommitOptions{})
				h.chat()
				// Removing them one by one leaves the rest able to follow.
				for _, l := range h.states[at].LocalLeaves()[1:] {
					h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&Remove{l}}}})
					h.chat()
				}
				h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&Remove{1}}}})
				if h.states[at] != nil {
					t.Fatal("state without leaves goes on")
				}
			})
		}
	}
}

func TestAttachWelcomeOfAnotherEpoch(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	kb := bob.keyPackage(t, h.cfg)
	out := h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	h.commit(0, 0, CommitOptions{})
	if err := h.states[0].AttachWelcome(out.Welcome, []JoinKey{kb}); !errors.Is(err, ErrGroupInfoDiffers) {
		t.Fatal(err)
	}
	stranger := newPerson(t, suite1, "x").keyPackage(t, h.cfg)
	if err := h.states[0].AttachWelcome(out.Welcome, []JoinKey{stranger}); !errors.Is(err, ErrWelcomeNotForUs) {
		t.Fatal(err)
	}
	if n := len(h.states[0].LocalLeaves()); n != 1 {
		t.Fatalf("%d local leaves", n)
	}
}

// A user of a provider that is in the group joins from outside: the state
// processes the Commit as any other and then takes the leaf over, with the
// generations it has used.
func TestAttachGroup(t *testing.T) {
	alice, bob, carol := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob"), newPerson(t, suite1, "carol")
	h := newHall(t, suite1, alice, nil)
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	info, err := h.states[0].GroupInfo(0)
	must(t, err)
	g, out, err := ExternalCommit(h.cfg, info, h.hub.Tree(), ExternalCommitOptions{Leaf: carol.leaf()})
	must(t, err)
	h.accept(-1, out)
	first, err := g.Encrypt(2, []byte("first"), nil)
	must(t, err)
	must(t, h.states[1].AttachGroup(g))
	if got := h.states[1].LocalLeaves(); len(got) != 2 || got[1] != 2 {
		t.Fatalf("local leaves %v", got)
	}
	allComplete(t, h.states[1])
	second, err := h.states[1].Encrypt(2, []byte("second"), nil)
	must(t, err)
	for i, m := range []*MLSMessage{second, first} {
		a, err := h.states[0].Decrypt(m)
		must(t, err)
		if a.Generation != uint32(1-i) {
			t.Fatalf("message %d has generation %d", i, a.Generation)
		}
	}
	h.check()
	h.commit(1, 2, CommitOptions{})
	h.chat()
}

// After a loss of state one leaf comes back by resync, and others whose leaf key
// was kept are attached again. They are incomplete until paths have gone by, and
// follow through the leaf that is complete.
func TestIncompleteLeaves(t *testing.T) {
	for _, reload := range []bool{false, true} {
		t.Run(fmt.Sprintf("reload=%v", reload), func(t *testing.T) {
			alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
			h := newHall(t, suite1, alice, nil)
			h.reload = reload
			kb := bob.keyPackage(t, h.cfg)
			h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
			for i := range 6 {
				k := newPerson(t, suite1, fmt.Sprint("u", i)).keyPackage(t, h.cfg)
				h.commitAttaching(0, 0, CommitOptions{Proposals: []Proposal{addOf(k)}, ForcePath: true}, 1, k)
			}
			for _, l := range h.states[1].LocalLeaves() {
				h.commit(1, l, CommitOptions{})
			}
			lost := h.states[1]
			old := LeafIndex(1)
			g, out, err := ExternalCommit(h.cfg, h.hub.StoredGroupInfo(), h.hub.Tree(), ExternalCommitOptions{
				Leaf: LeafOptions{Credential: lost.Leaf(old).Credential, Signature: lost.SignatureKey(old)}, Resync: &old})
			must(t, err)
			h.states[1] = nil
			h.accept(-1, out)
			for _, l := range lost.LocalLeaves() {
				if l == old {
					continue
				}
				if err := g.AttachLeaf(l, lost.LeafKey(old), lost.SignatureKey(l)); err == nil {
					t.Fatal("attached with another leaf's key")
				}
				must(t, g.AttachLeaf(l, lost.LeafKey(l), lost.SignatureKey(l)))
			}
			at := h.join(g)
			h.check()
			incomplete := 0
			for _, l := range g.LocalLeaves() {
				if !g.Complete(l) {
					incomplete++
				}
			}
			if incomplete == 0 {
				t.Fatal("all leaves are complete: the test shows nothing")
			}
			h.chat()
			h.commit(0, 0, CommitOptions{})
			h.chat()
			// An incomplete leaf commits: it is complete then, and so on for all.
			for _, l := range h.states[at].LocalLeaves() {
				h.commit(at, l, CommitOptions{})
				h.commit(0, 0, CommitOptions{})
				if !h.states[at].Complete(l) {
					t.Fatalf("leaf %d has committed and is not complete", l)
				}
			}
			allComplete(t, h.states[at])
			// The first complete one goes, the others follow.
			h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&Remove{g.LocalLeaves()[0]}}}})
			h.commit(0, 0, CommitOptions{})
			h.chat()
		})
	}
}

// Two states make a Commit for one epoch: one is accepted, the other drops its
// own, which had a PrivateMessage's generation spent on it or not.
func TestCommitRace(t *testing.T) {
	for _, wire := range []WireFormat{WireFormatPublicMessage, WireFormatPrivateMessage} {
		t.Run(wire.String(), func(t *testing.T) {
			alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
			h := newHall(t, suite1, alice, nil)
			h.reload = true
			kb := bob.keyPackage(t, h.cfg)
			h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
			for range 3 {
				mine, err := h.states[1].Commit(1, CommitOptions{WireFormat: wire})
				must(t, err)
				if _, err := h.states[1].Commit(1, CommitOptions{}); !errors.Is(err, ErrPendingCommit) {
					t.Fatal(err)
				}
				h.settle()
				if !h.states[1].PendingCommit() || !bytes.Equal(h.states[1].PendingTag(), mine.ConfirmationTag) || !h.states[1].IsPending(mine.Message) {
					t.Fatal("the pending commit was not kept")
				}
				theirs, err := h.states[0].Commit(0, CommitOptions{WireFormat: wire})
				must(t, err)
				h.accept(0, theirs)
				if h.states[1].PendingCommit() {
					t.Fatal("the pending commit outlived its epoch")
				}
				if _, err := h.states[1].MergePending(mine.Pending); !errors.Is(err, ErrStale) {
					t.Fatal(err)
				}
				h.check()
				h.chat()
			}
			// Cleared, made again, taken up again from its bytes.
			_, err := h.states[1].Commit(1, CommitOptions{WireFormat: wire})
			must(t, err)
			h.states[1].ClearPending()
			out, err := h.states[1].Commit(1, CommitOptions{WireFormat: wire})
			must(t, err)
			h.states[1].ClearPending()
			h.settle()
			must(t, h.states[1].SetPending(out.Pending))
			h.settle()
			h.accept(-1, out)
			h.check()
			h.chat()
		})
	}
}

// Late messages decrypt in the epochs that are kept, after a reload too.
func TestPastEpochs(t *testing.T) {
	for _, reload := range []bool{false, true} {
		alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
		h := newHall(t, suite1, alice, nil)
		h.reload = reload
		kb := bob.keyPackage(t, h.cfg)
		h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
		var late []*MLSMessage
		for i := range 6 {
			for j := range 3 {
				m, err := h.states[1].Encrypt(1, []byte(fmt.Sprint(i, j)), nil)
				must(t, err)
				late = append(late, m)
			}
			// Bob's leaf changes, so that his node of the past is another one.
			h.commit(1, 1, CommitOptions{})
		}
		for i := len(late) - 1; i >= 0; i-- {
			a, err := h.states[0].Decrypt(late[i])
			h.settle()
			if i/3 < 3 {
				if !errors.Is(err, ErrEpochTooOld) {
					t.Fatalf("message %d: %v", i, err)
				}
				continue
			}
			must(t, err)
			if string(a.Content) != fmt.Sprint(i/3, i%3) || a.SenderNode == nil {
				t.Fatalf("message %d: %q", i, a.Content)
			}
			if _, err := h.states[0].Decrypt(late[i]); !errors.Is(err, ErrReplay) {
				t.Fatal(err)
			}
			if _, err := h.states[1].Decrypt(late[i]); !errors.Is(err, ErrOwnMessage) {
				t.Fatal(err)
			}
		}
		// Rows do not pile up: those of epochs gone are deleted.
		h.reload = true
		h.settle()
		for id := range h.stored[0].rows {
			if id.epoch+3 < h.states[0].Epoch() {
				t.Fatalf("row %+v is left", id)
			}
		}
	}
}

// A message that fails leaves the state as it was, to the byte.
func TestFailureLeavesState(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	a, b := h.states[0], h.states[1]
	a.TakeRatchets()
	before, err := a.MarshalEpoch()
	must(t, err)
	same := func(what string) {
		t.Helper()
		after, err := a.MarshalEpoch()
		must(t, err)
		if !bytes.Equal(before, after) || len(a.TakeRatchets()) != 0 {
			t.Fatalf("%s changed the state", what)
		}
	}
	app, err := b.Encrypt(1, []byte("x"), nil)
	must(t, err)
	prop, _, err := b.Propose(1, Proposal{&Update{}}, nil)
	must(t, err)
	priv, _, err := b.ProposeAs(1, Proposal{&AppEphemeral{ComponentID: 7}}, nil, WireFormatPrivateMessage)
	must(t, err)
	commit, err := b.Commit(1, CommitOptions{})
	must(t, err)
	for name, m := range map[string]*MLSMessage{"application": app, "proposal": prop, "private proposal": priv, "commit": commit.Message} {
		good := m.Bytes()
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 0x40
			m, err := ParseMessage(bad)
			if err != nil {
				continue
			}
			if _, err := a.Receive(m); err == nil {
				t.Fatalf("%s: byte %d changed and not found", name, i)
			}
			same(fmt.Sprintf("%s, byte %d", name, i))
		}
	}
	// The commit refers to proposals that were not received.
	var unknown *UnknownProposalError
	if _, err := a.StageCommit(commit.Message); !errors.As(err, &unknown) || len(unknown.Refs) != 1 {
		t.Fatal(err)
	}
	same("a commit with unknown proposals")
	// An insider's signature that does not verify, under the right keys.
	ac, err := signFramed(alice.sig, WireFormatPrivateMessage, FramedContent{GroupID: b.GroupID(), Epoch: b.Epoch(), Sender: Sender{Type: SenderMember, Leaf: 1},
		ContentType: ContentApplication, ApplicationData: []byte("forged")}, b.gcBytes)
	must(t, err)
	forged, err := b.protect(ac)
	must(t, err)
	if _, err := a.Decrypt(forged); !errors.Is(err, ErrSignature) {
		t.Fatal(err)
	}
	same("a forged signature")
	if _, err := a.Decrypt(app); err != nil {
		t.Fatal(err)
	}
}

func TestForwardLimit(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	h.cfg.MaxForward, h.cfg.MaxSkipped = 10, 5
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	var ms []*MLSMessage
	for range 25 {
		m, err := h.states[1].Encrypt(1, nil, nil)
		must(t, err)
		ms = append(ms, m)
	}
	if _, err := h.states[0].Decrypt(ms[11]); !errors.Is(err, ErrForward) {
		t.Fatal(err)
	}
	if _, err := h.states[0].Decrypt(ms[10]); err != nil {
		t.Fatal(err)
	}
	// Five skipped keys are kept, the newest ones.
	for i, want := range map[int]error{4: ErrReplay, 5: nil, 9: nil} {
		if _, err := h.states[0].Decrypt(ms[i]); !errors.Is(err, want) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

func TestPSK(t *testing.T) {
	alice, bob, carol := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob"), newPerson(t, suite1, "carol")
	h := newHall(t, suite1, alice, nil)
	h.reload = true
	known := true
	h.cfg.PSKs = PSKFunc(func(id *PreSharedKeyID) ([]byte, error) {
		if !known {
			return nil, errors.New("not here")
		}
		switch {
		case id.Type == PSKExternal && string(id.ID) == "shared":
			return []byte("a secret of both"), nil
		case id.Type == PSKApplication && id.Component == 0x8001:
			return append([]byte("component "), id.ID...), nil
		case id.Type == PSKResumption:
			// A joiner was not there and is told by other means.
			if p := h.states[0].ownResumption(id.GroupID, id.Epoch); p != nil {
				return p, nil
			}
		}
		return nil, errors.New("no such PSK")
	})
	kb, kc := bob.keyPackage(t, h.cfg), carol.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb), {&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte("shared")}}}}}, kb)
	h.commit(1, 1, CommitOptions{Proposals: []Proposal{
		{&PreSharedKey{PreSharedKeyID{Type: PSKApplication, Component: 0x8001, ID: []byte("x")}}},
		{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionApplication, GroupID: h.hub.GroupID(), Epoch: 1}}},
		addOf(kc),
	}}, kc)
	h.chat()
	_, _, err := h.states[0].Propose(0, Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, GroupID: h.hub.GroupID(), Epoch: 1}}}, nil)
	if !errors.Is(err, ErrPSKUsage) {
		t.Fatal(err)
	}
	out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte("shared")}}}}})
	must(t, err)
	known = false
	if _, err := h.states[1].StageCommit(out.Message); !errors.Is(err, ErrPSKUnknown) {
		t.Fatal(err)
	}
}

func TestSafeExport(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	h.reload = true
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	for _, id := range []ComponentID{0x8000, 0, 0xffff, 0x8001} {
		a, err := h.states[0].SafeExportSecret(id)
		must(t, err)
		b, err := h.states[1].SafeExportSecret(id)
		must(t, err)
		equal(t, "safe export", a, b)
		h.settle()
		if _, err := h.states[0].SafeExportSecret(id); !errors.Is(err, ErrSecretConsumed) {
			t.Fatal(err)
		}
	}
	h.commit(0, 0, CommitOptions{})
	if _, err := h.states[0].SafeExportSecret(0x8000); err != nil {
		t.Fatal(err)
	}
}

func TestSafeAAD(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	var d AppDataDictionary
	d.Set(ComponentSafeAAD, []byte{0})
	h := newHall(t, suite1, alice, Extensions{d.Extension()})
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	if _, err := h.states[0].Encrypt(0, nil, []byte("not framed")); !errors.Is(err, ErrSafeAAD) {
		t.Fatal(err)
	}
	aad := MarshalSafeAAD([]SafeAADItem{{0x8002, []byte("b")}, {0x8001, []byte("a")}})
	m, err := h.states[0].Encrypt(0, []byte("x"), aad)
	must(t, err)
	a, err := h.states[1].Decrypt(m)
	must(t, err)
	items, err := ParseSafeAAD(a.AAD)
	must(t, err)
	if len(items) != 2 || items[0].ID != 0x8001 || string(items[1].Data) != "b" {
		t.Fatalf("%+v", items)
	}
	m, err = h.states[0].Encrypt(0, []byte("x"), nil)
	must(t, err)
	if a, err = h.states[1].Decrypt(m); err != nil || !bytes.Equal(a.AAD, []byte{0}) {
		t.Fatalf("%x, %v", a.AAD, err)
	}
}

func TestReInit(t *testing.T) {
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	h.reload = true
	kb := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: suite1}}}})
	for _, g := range h.states {
		if g.Closed() == nil || string(g.Closed().GroupID) != "next" {
			t.Fatal("not closed")
		}
		if _, err := g.Encrypt(g.LocalLeaves()[0], nil, nil); !errors.Is(err, ErrReInitialised) {
			t.Fatal(err)
		}
		if _, err := g.Commit(g.LocalLeaves()[0], CommitOptions{}); !errors.Is(err, ErrReInitialised) {
			t.Fatal(err)
		}
	}
}

// Whatever members propose, a Commit can be made of it.
func TestSelection(t *testing.T) {
	h, people := rulesHall(t, nil)
	update := func(op AppDataOp, b string) Proposal {
		return Proposal{&AppDataUpdate{ComponentID: 0x8001, Op: op, Update: []byte(b)}}
	}
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{update(AppDataOpUpdate, "x")}})
	h.propose(1, 1, update(AppDataOpUpdate, "y"))
	h.propose(2, 2, update(AppDataOpRemove, ""))
	h.propose(2, 2, update(AppDataOpUpdate, "z"))
	h.propose(1, 1, addOf(people["dave"].keyPackage(t, h.cfg)))  // a member, who stays
	h.propose(1, 1, addOf(people["carol"].keyPackage(t, h.cfg))) // a member, who goes
	eve := people["eve"].keyPackage(t, h.cfg)
	h.propose(1, 1, addOf(eve))
	h.propose(0, 0, addOf(people["eve"].keyPackage(t, h.cfg)))
	h.propose(2, 2, Proposal{&SelfRemove{}})
	h.propose(3, 3, Proposal{&Update{}})
	h.propose(3, 3, Proposal{&Update{}})
	h.propose(1, 1, Proposal{&Update{}})
	h.propose(1, 1, Proposal{&ReInit{GroupID: []byte("n"), Version: MLS10, CipherSuite: suite1}})
	out, err := h.states[1].Commit(1, CommitOptions{})
	must(t, err)
	s, err := h.hub.InspectCommit(out.Message)
	must(t, err)
	if len(s.Added) != 2 || len(s.Removed) != 1 || len(s.Updated) != 1 || len(s.AppData) != 2 || s.ReInit != nil {
		t.Fatalf("%+v", s)
	}
	if b, _ := s.NewAppData.Get(0x8001); string(b) != "z" {
		t.Fatalf("%q", b)
	}
	h.accept(1, out)
	h.check()
	h.chat()
}

// A message of the next epoch shows that the pending Commit was accepted.
func TestPendingExplains(t *testing.T) {
	h, _ := rulesHall(t, nil)
	out, err := h.states[1].Commit(1, CommitOptions{})
	must(t, err)
	other := h.states[2]
	s, err := other.StageCommit(out.Message)
	must(t, err)
	must(t, other.MergeStaged(s))
	app, err := other.Encrypt(2, []byte("x"), nil)
	must(t, err)
	prop, _, err := other.Propose(2, Proposal{&Update{}}, nil)
	must(t, err)
	if !h.states[1].PendingExplains(app) || !h.states[1].PendingExplains(prop) {
		t.Error("not explained")
	}
	if h.states[0].PendingExplains(app) {
		t.Error("explained by nothing")
	}
	theirs, err := h.states[0].Commit(0, CommitOptions{})
	must(t, err)
	if h.states[0].PendingExplains(app) || h.states[0].PendingExplains(prop) {
		t.Error("explained by another commit")
	}
	if _, err := h.states[0].Decrypt(app); !errors.Is(err, ErrFutureEpoch) {
		t.Error(err)
	}
	if _, err := h.states[0].ReceiveProposal(prop); !errors.Is(err, ErrFutureEpoch) || !errors.Is(err, ErrWrongEpoch) {
		t.Error(err)
	}
	if _, err := other.StageCommit(theirs.Message); !errors.Is(err, ErrEpochTooOld) {
		t.Error(err)
	}
}

// A member that proposes what spoils every list it stands in cannot stop the
// group: it is left out.
func TestSpoilers(t *testing.T) {
	h, people := rulesHall(t, nil)
	// Two newcomers with one encryption key.
	eve := people["eve"].keyPackage(t, h.cfg)
	twin := newPerson(t, suite1, "twin").keyPackage(t, h.cfg)
	twin.KeyPackage.LeafNode.EncryptionKey = eve.KeyPackage.LeafNode.EncryptionKey
	must(t, twin.KeyPackage.LeafNode.sign(twin.Secrets.Signature, nil, 0))
	var w tlspl.Writer
	twin.KeyPackage.marshalBody(&w)
	var err error
	twin.KeyPackage.Signature, err = twin.Secrets.Signature.SignWithLabel("KeyPackageTBS", w.Bytes())
	must(t, err)
	h.propose(1, 1, addOf(twin))
	h.propose(1, 1, addOf(eve))
	h.propose(1, 1, Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte("unknown to all")}}})
	h.propose(2, 2, Proposal{&Update{}})
	out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&AppEphemeral{ComponentID: 1}}}})
	must(t, err)
	if s := out.Staged; len(s.Added) != 1 || len(s.Updated) != 1 || len(s.Unreferenced) != 2 || len(s.Proposals) != 3 {
		t.Fatalf("%+v", s)
	}
	h.accept(0, out)
	h.check()
	// What cannot be covered at all a hub does not take.
	plain := DefaultCapabilities()
	plain.Proposals = nil
	h.commit(0, 0, CommitOptions{Leaf: &LeafOptions{Capabilities: &plain}})
	m, _, err := h.states[1].Propose(1, Proposal{&SelfRemove{}}, nil)
	must(t, err)
	if _, err := h.hub.ReceiveProposal(m); !errors.Is(err, ErrProposalUnsupported) {
		t.Fatal(err)
	}
	if _, err := h.states[2].ReceiveProposal(m); err != nil {
		t.Fatal(err)
	}
	out, err = h.states[2].Commit(2, CommitOptions{})
	must(t, err)
	if len(out.Staged.Proposals) != 0 {
		t.Fatal("covered")
	}
	m, err = SignExternalProposal(h.cfg, h.hub.GroupContext(), 0, people["eve"].sig, Proposal{&GroupContextExtensions{Extensions{{0x4242, nil}}}}, nil)
	must(t, err)
	if _, err := h.hub.ReceiveProposal(m); err == nil {
		t.Fatal("accepted")
	}
}
