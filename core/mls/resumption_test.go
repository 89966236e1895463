package mls

import (
	"bytes"
	"errors"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// pair is a group of alice and bob in states of their own.
func pair(t *testing.T, suite CipherSuite, ext Extensions) (*hall, *person, *person) {
	t.Helper()
	alice, bob := newPerson(t, suite, "alice"), newPerson(t, suite, "bob")
	h := newHall(t, suite, alice, ext)
	k := bob.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(k)}, ForcePath: true}, k)
	return h, alice, bob
}

func (h *hall) same(a, b *Group) {
	h.t.Helper()
	x, err := a.ExportSecret("x", nil, 32)
	must(h.t, err)
	y, err := b.ExportSecret("x", nil, 32)
	must(h.t, err)
	if !bytes.Equal(x, y) {
		h.t.Fatal("exporters differ")
	}
}

func TestFollowReInit(t *testing.T) {
	h, _, _ := pair(t, suite1, nil)
	if _, _, err := h.states[0].FollowReInit(SuccessorOptions{}); !errors.Is(err, ErrNotReInitialised) {
		t.Fatalf("without a ReInit: %v", err)
	}
	d := AppDataDictionary{}
	d.Set(0x8001, []byte("new"))
	// Another suite, so that other signature keys are needed too.
	re := &ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: P256AES128GCMSHA256P256, Extensions: Extensions{d.Extension()}}
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{{re}}})
	alice2, bob2, eve := newPerson(t, re.CipherSuite, "alice"), newPerson(t, re.CipherSuite, "bob"), newPerson(t, re.CipherSuite, "eve")
	ke := eve.keyPackage(t, h.cfg)

	// Someone other than who committed the ReInit sets the group up.
	if _, _, err := h.states[1].FollowReInit(SuccessorOptions{Leaf: bob2.leaf(), KeyPackages: []*KeyPackage{ke.KeyPackage}}); !errors.Is(err, ErrSuccessorMembers) {
		t.Fatalf("alice left behind: %v", err)
	}
	ka := alice2.keyPackage(t, h.cfg)
	n, out, err := h.states[1].FollowReInit(SuccessorOptions{Leaf: bob2.leaf(), KeyPackages: []*KeyPackage{ka.KeyPackage, ke.KeyPackage}})
	must(t, err)
	if n.Epoch() != 1 || string(n.GroupID()) != "next" || n.CipherSuite() != re.CipherSuite {
		t.Fatalf("new group %q, suite %v, epoch %d", n.GroupID(), n.CipherSuite(), n.Epoch())
	}
	if _, err := JoinGroup(h.cfg, out.Welcome, out.Tree, []JoinKey{ka}, ResumptionPSKs(h.states[0])); !errors.Is(err, ErrWelcomePSK) {
		t.Fatalf("joined as if it were any group: %v", err)
	}
	j, err := h.states[0].JoinSuccessor(out.Welcome, out.Tree, []JoinKey{ka}, nil)
	must(t, err)
	h.same(n, j)
	if v, _ := j.AppData().Get(0x8001); string(v) != "new" {
		t.Fatalf("extensions of the ReInit: %q", v)
	}
	m, err := j.Encrypt(j.LocalLeaves()[0], []byte("again"), nil)
	must(t, err)
	if a, err := n.Decrypt(m); err != nil || string(a.Content) != "again" {
		t.Fatalf("%v", err)
	}
	// The new group is a hub's like any other.
	info, err := n.GroupInfo(0)
	must(t, err)
	_, err = NewPublicGroup(h.cfg, info, n.Tree())
	must(t, err)

	// Who was not in the old group has not its secret.
	o, _, _ := pair(t, suite1, nil)
	if _, err := o.states[0].JoinSuccessor(out.Welcome, out.Tree, []JoinKey{ka}, nil); !errors.Is(err, ErrPSKUnknown) {
		t.Fatalf("a stranger: %v", err)
	}
}

// TestFollowReInitRules has the new group's creator break each rule of section
// 11.2; the joiner refuses.
func TestFollowReInitRules(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*ReInit)
		want   error
	}{
		"group ID": {func(r *ReInit) { r.GroupID = []byte("elsewhere") }, ErrSuccessorGroup},
		"extensions": {func(r *ReInit) {
			r.Extensions = Extensions{{Type: ExtensionRequiredCapabilities, Data: []byte{0, 0, 0}}}
		}, ErrSuccessorGroup},
	} {
		t.Run(name, func(t *testing.T) {
			h, alice, bob := pair(t, suite1, nil)
			h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: suite1}}}})
			forged := *h.states[0].closed
			c.change(&forged)
			h.states[0].closed = &forged
			kb := bob.keyPackage(t, h.cfg)
			_, out, err := h.states[0].FollowReInit(SuccessorOptions{Leaf: alice.leaf(), KeyPackages: []*KeyPackage{kb.KeyPackage}})
			must(t, err)
			if _, err := h.states[1].JoinSuccessor(out.Welcome, out.Tree, []JoinKey{kb}, nil); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	t.Run("no ReInit", func(t *testing.T) {
		h, alice, bob := pair(t, suite1, nil)
		h.states[0].closed = &ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: suite1}
		kb := bob.keyPackage(t, h.cfg)
		_, out, err := h.states[0].FollowReInit(SuccessorOptions{Leaf: alice.leaf(), KeyPackages: []*KeyPackage{kb.KeyPackage}})
		must(t, err)
		if _, err := h.states[1].JoinSuccessor(out.Welcome, out.Tree, []JoinKey{kb}, nil); !errors.Is(err, ErrNotReInitialised) {
			t.Errorf("%v", err)
		}
	})
}

func TestBranch(t *testing.T) {
	h, alice, bob := pair(t, suite1, nil)
	carol := newPerson(t, suite1, "carol")
	kc := carol.keyPackage(t, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kc)}}, kc)
	eve := newPerson(t, suite1, "eve")
	ke := eve.keyPackage(t, h.cfg)
	if _, _, err := h.states[0].Branch(SuccessorOptions{GroupID: []byte("sub"), Leaf: alice.leaf(), KeyPackages: []*KeyPackage{ke.KeyPackage}}); !errors.Is(err, ErrSuccessorMembers) {
		t.Fatalf("a stranger in the branch: %v", err)
	}
	if _, _, err := h.states[0].Branch(SuccessorOptions{GroupID: []byte("hall"), Leaf: alice.leaf()}); !errors.Is(err, ErrSuccessorGroup) {
		t.Fatalf("the same group ID: %v", err)
	}
	kb := bob.keyPackage(t, h.cfg)
	n, out, err := h.states[0].Branch(SuccessorOptions{GroupID: []byte("sub"), Leaf: alice.leaf(), KeyPackages: []*KeyPackage{kb.KeyPackage}, TreeInWelcome: true})
	must(t, err)
	// The old group goes on meanwhile; bob joins from its next epoch.
	h.commit(2, 2, CommitOptions{})
	j, err := h.states[1].JoinSuccessor(out.Welcome, nil, []JoinKey{kb}, nil)
	must(t, err)
	h.same(n, j)
	h.commit(0, 0, CommitOptions{})
	h.chat()

	// A Commit in a group that goes on may not carry such a PSK, nor may a Welcome
	// without one be taken for a successor's.
	p := Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, GroupID: h.hub.GroupID(), Epoch: h.hub.Epoch()}}}
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{p}}); !errors.Is(err, ErrPSKUsage) {
		t.Fatalf("branch PSK in a Commit: %v", err)
	}
	plain, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{addOf(ke)}})
	must(t, err)
	if _, err := h.states[1].JoinSuccessor(plain.Welcome, plain.Tree, []JoinKey{ke}, nil); !errors.Is(err, ErrWelcomePSK) {
		t.Fatalf("any Welcome as a successor's: %v", err)
	}
}

// TestBranchBySameMember has the application say who is the same.
func TestBranchBySameMember(t *testing.T) {
	h, _, _ := pair(t, suite1, nil)
	h.cfg.SameMember = func(a, b *LeafNode) bool { return a.Credential.Identity[0] == b.Credential.Identity[0] }
	a2, b2 := newPerson(t, suite1, "a-phone"), newPerson(t, suite1, "b-phone")
	kb := b2.keyPackage(t, h.cfg)
	n, out, err := h.states[0].Branch(SuccessorOptions{GroupID: []byte("sub"), Leaf: a2.leaf(), KeyPackages: []*KeyPackage{kb.KeyPackage}})
	must(t, err)
	j, err := h.states[1].JoinSuccessor(out.Welcome, out.Tree, []JoinKey{kb}, nil)
	must(t, err)
	h.same(n, j)
}

// TestPSKs: external, application and resumption PSKs of this and another group
// in one Commit, and with a joiner who has them or has not.
func TestPSKs(t *testing.T) {
	h, _, _ := pair(t, suite1, nil)
	other, _, _ := pair(t, suite1, nil)
	known := PSKFunc(func(id *PreSharedKeyID) ([]byte, error) {
		switch {
		case id.Type == PSKExternal && string(id.ID) == "outside":
			return []byte("secret from outside"), nil
		case id.Type == PSKApplication && id.Component == 0x8005 && string(id.ID) == "file":
			return []byte("what the file says"), nil
		}
		return ResumptionPSKs(nil, other.states[0]).PSK(id)
	})
	other.cfg.PSKs, h.cfg.PSKs = nil, known
	// Epochs of the own group are known without a store.
	h.commit(0, 0, CommitOptions{})
	carol := newPerson(t, suite1, "carol")
	kc := carol.keyPackage(t, h.cfg)
	list := []Proposal{
		{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte("outside")}}},
		{&PreSharedKey{PreSharedKeyID{Type: PSKApplication, Component: 0x8005, ID: []byte("file")}}},
		{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionApplication, GroupID: other.hub.GroupID(), Epoch: 1}}},
	}
	other.states[0].gc.GroupID = []byte("other")
	list[2].Body.(*PreSharedKey).PSK.GroupID = []byte("other")
	withOwn := append(list[:3:3], Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionApplication, GroupID: h.hub.GroupID(), Epoch: 1}}})
	h.commit(0, 0, CommitOptions{Proposals: withOwn})
	out := h.commit(0, 0, CommitOptions{Proposals: append(list, addOf(kc))})
	must(t, func() error { _, err := JoinGroup(h.cfg, out.Welcome, out.Tree, []JoinKey{kc}, nil); return err }())
	g, err := JoinGroup(testConfig(), out.Welcome, out.Tree, []JoinKey{kc}, known)
	must(t, err)
	h.same(g, h.states[0])
	if _, err := JoinGroup(testConfig(), out.Welcome, out.Tree, []JoinKey{kc}, nil); !errors.Is(err, ErrPSKUnknown) {
		t.Fatalf("joined without the PSKs: %v", err)
	}
	// A member with another value of one does not agree.
	c2, err := h.states[0].Commit(0, CommitOptions{Proposals: list[:1]})
	must(t, err)
	h.cfg.PSKs = PSKFunc(func(*PreSharedKeyID) ([]byte, error) { return []byte("something else"), nil })
	if _, err := h.states[1].StageCommit(c2.Message); !errors.Is(err, ErrConfirmationTag) {
		t.Fatalf("another PSK: %v", err)
	}
	h.cfg.PSKs = nil
	if _, err := h.states[1].StageCommit(c2.Message); !errors.Is(err, ErrPSKUnknown) {
		t.Fatalf("no PSK: %v", err)
	}
}

// TestLastResort has one KeyPackage added twice, and known in the Add by its mark.
func TestLastResort(t *testing.T) {
	cfg := testConfig()
	bob := newPerson(t, suite1, "bob")
	kp, secrets, err := NewKeyPackage(cfg, suite1, KeyPackageOptions{Credential: BasicCredential([]byte("bob")), Signature: bob.sig, LastResort: true})
	must(t, err)
	var again KeyPackage
	must(t, tlspl.Unmarshal(tlspl.Marshal(kp), &again))
	if !again.LastResort() {
		t.Fatal("the mark is lost on the wire")
	}
	for _, group := range []string{"one", "two"} {
		g, err := CreateGroup(cfg, CreateOptions{Suite: suite1, GroupID: []byte(group), Leaf: newPerson(t, suite1, "alice").leaf()})
		must(t, err)
		out, err := g.Commit(0, CommitOptions{Proposals: []Proposal{{&Add{again}}}})
		must(t, err)
		if !out.Staged.Added[0].KeyPackage.LastResort() {
			t.Fatal("not seen in the Add")
		}
		_, err = g.MergePending(nil)
		must(t, err)
		j, err := JoinGroup(cfg, out.Welcome, out.Tree, []JoinKey{{kp, secrets}}, nil)
		must(t, err)
		if string(j.GroupID()) != group {
			t.Fatalf("joined %q", j.GroupID())
		}
	}
}
