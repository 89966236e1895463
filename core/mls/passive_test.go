package mls

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestVectorsPassive makes a file in the passive-client format that goes beyond what the official ones hold, under a
// name of its own, and has it run as TestVectors would: all suites, the tree inside and beside the Welcome, public and
// private handshakes, every proposal type by value and by reference, external and resumption PSKs, external senders,
// newcomers, external Commits with resync, a SelfRemove, a ReInit. Then it spoils the cases, and each must fail.
func TestVectorsPassive(t *testing.T) {
	var cases []passiveVector
	for i, suite := range CipherSuites() {
		for _, wire := range []WireFormat{WireFormatPublicMessage, WireFormatPrivateMessage} {
			cases = append(cases, *makePassive(t, suite, wire, (i+int(wire))%2 == 0))
		}
	}
	file, err := json.Marshal(cases)
	must(t, err)
	const name = "passive-of-our-own.json"
	run := vectorRunner(name)
	if run == nil || vectorRunner("unheard-of.json") != nil {
		t.Fatal("the wrong files are taken")
	}
	if n := runVectors(t, name, file, run); n != 14 {
		t.Errorf("%d cases", n)
	}
	for what, spoil := range map[string]func(v *passiveVector){
		"first authenticator": func(v *passiveVector) { v.Authenticator[0] ^= 1 },
		"last authenticator":  func(v *passiveVector) { v.Epochs[len(v.Epochs)-1].Authenticator[0] ^= 1 },
		"commit":              func(v *passiveVector) { b := v.Epochs[0].Commit; b[len(b)-1] ^= 1 },
		"lost proposal":       func(v *passiveVector) { v.Epochs[1].Proposals = v.Epochs[1].Proposals[1:] },
		"lost PSK":            func(v *passiveVector) { v.ExternalPSKs = nil },
		"lost epoch":          func(v *passiveVector) { v.Epochs = v.Epochs[1:] },
		"another's key":       func(v *passiveVector) { v.Init = v.Encryption },
	} {
		var v []passiveVector
		must(t, json.Unmarshal(file, &v))
		spoil(&v[0])
		if v[0].run() == nil {
			t.Errorf("%s: not found out", what)
		}
	}
}

// makePassive lets a group live and writes down what one of its members, bob, gets to see.
func makePassive(t *testing.T, suite CipherSuite, wire WireFormat, treeInside bool) *passiveVector {
	t.Helper()
	cfg := testConfig()
	cfg.PastEpochs = 100
	psk := passivePSK{[]byte("a PSK"), []byte("known to all who listen")}
	cfg.PSKs = PSKFunc(func(id *PreSharedKeyID) ([]byte, error) {
		if id.Type == PSKExternal && string(id.ID) == string(psk.ID) {
			return psk.PSK, nil
		}
		return nil, errors.New("no such PSK")
	})
	hub, bob, dave := newPerson(t, suite, "hub"), newPerson(t, suite, "bob"), newPerson(t, suite, "dave")
	kb, kd := bob.keyPackage(t, cfg), dave.keyPackage(t, cfg)
	// alice holds all members but bob, so that whatever she does he only hears of.
	alice, err := CreateGroup(cfg, CreateOptions{Suite: suite, GroupID: []byte("passive"), Leaf: newPerson(t, suite, "alice").leaf(),
		Extensions: Extensions{ExternalSendersExtension([]ExternalSender{{hub.sig.Public(), BasicCredential([]byte("hub"))}})}})
	must(t, err)
	external := Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: psk.ID}}}
	out, err := alice.Commit(0, CommitOptions{Proposals: []Proposal{addOf(kb), addOf(kd), external}, ForcePath: true, TreeInWelcome: treeInside})
	must(t, err)
	_, err = alice.MergePending(nil)
	must(t, err)
	must(t, alice.AttachWelcome(out.Welcome, []JoinKey{kd}))
	v := &passiveVector{CipherSuite: suite, ExternalPSKs: []passivePSK{psk}, KeyPackage: NewMessage(kb.KeyPackage).Bytes(), Signature: bob.sig.priv,
		Encryption: kb.Secrets.LeafKey, Init: kb.Secrets.InitKey, Welcome: NewMessage(out.Welcome).Bytes(), Authenticator: alice.EpochAuthenticator()}
	if !treeInside {
		v.Tree, err = out.Tree.MarshalBinary()
		must(t, err)
	}
	seen := map[ProposalType]int{}
	var heard []hexBytes
	propose := func(leaf LeafIndex, p Proposal, w WireFormat) {
		m, pp, err := alice.ProposeAs(leaf, p, []byte("aad"), w)
		if err != nil {
			t.Fatalf("%v: %v", p.Type(), err)
		}
		seen[pp.Proposal.Type()]++
		heard = append(heard, m.Bytes())
	}
	outside := func(m *MLSMessage, err error) {
		must(t, err)
		_, err = alice.ReceiveProposal(m)
		must(t, err)
		heard = append(heard, m.Bytes())
	}
	took := func(s *StagedPublicCommit, m *MLSMessage) {
		for _, p := range s.Proposals {
			seen[p.Proposal.Type()]++
		}
		v.Epochs = append(v.Epochs, passiveEpoch{heard, m.Bytes(), alice.EpochAuthenticator()})
		heard = nil
	}
	commit := func(leaf LeafIndex, opts CommitOptions) *CommitOutput {
		opts.WireFormat = wire
		out, err := alice.Commit(leaf, opts)
		must(t, err)
		s, err := alice.MergePending(nil)
		must(t, err)
		took(s.StagedPublicCommit, out.Message)
		return out
	}
	// A commit with an external Commit's sender, which is never a PrivateMessage.
	join := func(opts ExternalCommitOptions) {
		info, err := alice.GroupInfo(0)
		must(t, err)
		_, out, err := ExternalCommit(cfg, info, alice.Tree(), opts)
		must(t, err)
		r, err := alice.Receive(out.Message)
		must(t, err)
		took(r.Commit.StagedPublicCommit, out.Message)
	}

	commit(0, CommitOptions{}) // a path and no more
	propose(2, Proposal{&Update{}}, wire)
	propose(2, external, wire)
	propose(0, Proposal{&AppDataUpdate{ComponentID: 0x8001, Op: AppDataOpUpdate, Update: []byte("x")}}, wire)
	commit(0, CommitOptions{Proposals: []Proposal{{&AppEphemeral{ComponentID: 0x8001, Data: []byte("y")}}}})
	commit(2, CommitOptions{Proposals: []Proposal{{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionApplication, GroupID: alice.GroupID(), Epoch: 1}}}}})
	// Many come, so that the tree grows; each commits.
	var keys []JoinKey
	for i := range 5 {
		k := newPerson(t, suite, fmt.Sprint("late ", i)).keyPackage(t, cfg)
		keys = append(keys, k)
		propose(2, addOf(k), wire)
	}
	out = commit(0, CommitOptions{})
	must(t, alice.AttachWelcome(out.Welcome, keys))
	for _, l := range alice.LocalLeaves() {
		commit(l, CommitOptions{})
	}
	outside(SignExternalProposal(cfg, alice.GroupContext(), 0, hub.sig, Proposal{&Remove{3}}, nil))
	frank := newPerson(t, suite, "frank")
	kf := frank.keyPackage(t, cfg)
	outside(SignNewMemberProposal(cfg, alice.GroupContext(), frank.sig, kf.KeyPackage, nil))
	out = commit(2, CommitOptions{})
	must(t, alice.AttachWelcome(out.Welcome, []JoinKey{kf}))
	propose(4, Proposal{&Remove{5}}, wire)
	commit(0, CommitOptions{Proposals: []Proposal{{&Remove{6}}}})
	join(ExternalCommitOptions{Leaf: newPerson(t, suite, "eve").leaf(), Proposals: []Proposal{external}})
	two := LeafIndex(2)
	propose(4, Proposal{&SelfRemove{}}, WireFormatPublicMessage)
	leaving, err := ParseMessage(heard[0])
	must(t, err)
	join(ExternalCommitOptions{Leaf: dave.leaf(), Resync: &two, ProposalRefs: []*MLSMessage{leaving}})
	caps := RequiredCapabilities{Proposals: []ProposalType{ProposalSelfRemove}}
	propose(0, Proposal{&GroupContextExtensions{Extensions{caps.Extension()}}}, wire)
	commit(0, CommitOptions{})
	commit(0, CommitOptions{Proposals: []Proposal{{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionApplication, GroupID: alice.GroupID(), Epoch: 3}}}}})
	propose(0, Proposal{&ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: suite}}, wire)
	commit(0, CommitOptions{})
	for p, info := range proposalTypes {
		if seen[p] == 0 && p != testProposalType && !strings.HasPrefix(info.Name, "GREASE") {
			t.Errorf("no %v", p)
		}
	}
	return v
}
