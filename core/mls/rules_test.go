package mls

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// forge signs a Commit of leaf of state i that no one has validated.
func (h *hall) forge(i int, leaf LeafIndex, c *Commit) *MLSMessage {
	h.t.Helper()
	g := h.states[i]
	ac, err := signFramed(g.locals[leaf].sig, WireFormatPublicMessage, FramedContent{GroupID: g.GroupID(), Epoch: g.Epoch(),
		Sender: Sender{Type: SenderMember, Leaf: leaf}, ContentType: ContentCommit, Commit: c}, g.gcBytes)
	must(h.t, err)
	ac.Auth.ConfirmationTag = make([]byte, 32)
	m, err := g.s.publicMessage(ac, g.secrets.membership, g.gcBytes)
	must(h.t, err)
	return NewMessage(m)
}

// forgeOutside is forge for an external Commit whose path's leaf has key sig.
func (h *hall) forgeOutside(sig *SignatureKey, c *Commit) *MLSMessage {
	h.t.Helper()
	ac, err := signFramed(sig, WireFormatPublicMessage, FramedContent{GroupID: h.hub.GroupID(), Epoch: h.hub.Epoch(),
		Sender: Sender{Type: SenderNewMemberCommit}, ContentType: ContentCommit, Commit: c}, h.hub.gcBytes)
	must(h.t, err)
	ac.Auth.ConfirmationTag = make([]byte, 32)
	m, err := h.hub.s.publicMessage(ac, nil, nil)
	must(h.t, err)
	return NewMessage(m)
}

func byValue(ps ...Proposal) []ProposalOrRef {
	out := make([]ProposalOrRef, len(ps))
	for i := range ps {
		out[i].Proposal = &ps[i]
	}
	return out
}

// rulesHall has alice and bob, carol and dave in states of their own; leaves 0
// to 3, with filled parents.
func rulesHall(t *testing.T, ext Extensions) (*hall, map[string]*person) {
	t.Helper()
	people := map[string]*person{}
	for _, n := range []string{"alice", "bob", "carol", "dave", "eve", "frank"} {
		people[n] = newPerson(t, suite1, n)
	}
	h := newHall(t, suite1, people["alice"], ext)
	for i, n := range []string{"bob", "carol", "dave"} {
		k := people[n].keyPackage(t, h.cfg)
		h.commit(i, LeafIndex(i), CommitOptions{Proposals: []Proposal{addOf(k)}, ForcePath: true}, k)
	}
	return h, people
}

// rejects expects that the hub and, where it is no matter of secrets, a member
// refuse msg for want.
func (h *hall) rejects(msg *MLSMessage, want error) {
	h.t.Helper()
	if _, err := h.hub.InspectCommit(msg); !errors.Is(err, want) {
		h.t.Errorf("hub: %v, want %v", err, want)
	}
	if _, err := h.states[1].StageCommit(msg); !errors.Is(err, want) {
		h.t.Errorf("member: %v, want %v", err, want)
	}
	var r *RuleError
	if _, err := h.hub.InspectCommit(msg); !errors.As(err, &r) || r.Section == "" {
		h.t.Errorf("%v is no rule", err)
	}
}

func TestListRules(t *testing.T) {
	h, people := rulesHall(t, nil)
	eve := people["eve"].keyPackage(t, h.cfg)
	eve2 := people["eve"].keyPackage(t, h.cfg)
	bob2 := people["bob"].keyPackage(t, h.cfg)
	psk := PreSharedKeyID{Type: PSKExternal, ID: []byte("x"), Nonce: make([]byte, 32)}
	update := func(op AppDataOp) Proposal { return Proposal{&AppDataUpdate{ComponentID: 0x8001, Op: op}} }
	expired, expiredSecrets, err := NewKeyPackage(h.cfg, suite1, KeyPackageOptions{Credential: BasicCredential([]byte("eve")), Signature: people["eve"].sig,
		Lifetime: &Lifetime{1, 2}})
	must(t, err)
	badSig := *eve.KeyPackage
	badSig.Signature = bytes.Clone(badSig.Signature)
	badSig.Signature[3] ^= 1
	otherSuite := newPerson(t, P256AES128GCMSHA256P256, "eve").keyPackage(t, h.cfg)
	sameInit := *eve.KeyPackage
	sameInit.InitKey = sameInit.LeafNode.EncryptionKey

	for name, c := range map[string]struct {
		list []Proposal
		want error
	}{
		"update by the committer":       {[]Proposal{{&Update{LeafNode: *h.hub.Leaf(0)}}}, ErrUpdateByCommitter},
		"remove of the committer":       {[]Proposal{{&Remove{0}}}, ErrRemoveCommitter},
		"two removes of a leaf":         {[]Proposal{{&Remove{2}}, {&Remove{2}}}, ErrConflictingProposals},
		"remove of a blank leaf":        {[]Proposal{{&Remove{17}}}, ErrRemoveBlank},
		"one client twice":              {[]Proposal{addOf(eve), addOf(eve2)}, ErrDuplicateAdd},
		"a member again":                {[]Proposal{addOf(bob2)}, ErrAlreadyMember},
		"one PSK twice":                 {[]Proposal{{&PreSharedKey{psk}}, {&PreSharedKey{psk}}}, ErrDuplicatePSK},
		"PSK nonce":                     {[]Proposal{{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, Nonce: []byte{1}}}}}, ErrPSKNonce},
		"PSK usage":                     {[]Proposal{{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionReInit, Nonce: make([]byte, 32)}}}}, ErrPSKUsage},
		"two contexts":                  {[]Proposal{{&GroupContextExtensions{}}, {&GroupContextExtensions{}}}, ErrMultipleGCE},
		"ReInit and more":               {[]Proposal{{&ReInit{Version: MLS10, CipherSuite: 1}}, {&Remove{1}}}, ErrReInitNotAlone},
		"ReInit backwards":              {[]Proposal{{&ReInit{Version: 0, CipherSuite: 1}}}, ErrReInitVersion},
		"ExternalInit":                  {[]Proposal{{&ExternalInit{}}}, ErrExternalInitInside},
		"SelfRemove by value":           {[]Proposal{{&SelfRemove{}}}, ErrSelfRemoveByValue},
		"update and remove":             {[]Proposal{update(AppDataOpUpdate), update(AppDataOpRemove)}, ErrAppDataConflict},
		"remove twice":                  {[]Proposal{update(AppDataOpRemove), update(AppDataOpRemove)}, ErrAppDataConflict},
		"remove of nothing":             {[]Proposal{update(AppDataOpRemove)}, ErrAppDataAbsent},
		"key package of another suite":  {[]Proposal{addOf(otherSuite)}, ErrKeyPackageSuite},
		"key package signature":         {[]Proposal{{&Add{KeyPackage: badSig}}}, ErrKeyPackageSignature},
		"init key is the leaf's":        {[]Proposal{{&Add{KeyPackage: sameInit}}}, ErrInitKey},
		"required capability not there": {[]Proposal{{&GroupContextExtensions{Extensions{(&RequiredCapabilities{Extensions: []ExtensionType{0x4242}}).Extension()}}}}, ErrRequiredCapabilities},
		"extension not supported":       {[]Proposal{{&GroupContextExtensions{Extensions{{0x4242, nil}}}}}, ErrUnsupportedGCE},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			if _, err := h.states[0].Commit(0, CommitOptions{Proposals: c.list}); !errors.Is(err, c.want) {
				t.Errorf("creating: %v, want %v", err, c.want)
			}
			h.rejects(h.forge(0, 0, &Commit{Proposals: byValue(c.list...)}), c.want)
		})
	}
	h.t = t

	// Expired: not to be chosen, and a hub does not take it, but who follows does.
	t.Run("lifetime", func(t *testing.T) {
		if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&Add{KeyPackage: *expired}}}}); !errors.Is(err, ErrLifetime) {
			t.Error(err)
		}
		if err := expired.Verify(h.cfg); !errors.Is(err, ErrLifetime) {
			t.Error(err)
		}
		now := testTime
		h.cfg.Now = func() time.Time { return time.Unix(1, 0) }
		out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&Add{KeyPackage: *expired}}}})
		must(t, err)
		h.states[0].ClearPending()
		h.cfg.Now = func() time.Time { return now }
		if _, err := h.hub.InspectCommit(out.Message); !errors.Is(err, ErrLifetime) {
			t.Error(err)
		}
		if _, err := h.states[1].StageCommit(out.Message); err != nil {
			t.Error(err)
		}
		if _, err := JoinGroup(h.cfg, out.Welcome, out.Tree, []JoinKey{{expired, expiredSecrets}}, nil); err != nil {
			t.Error(err)
		}
	})

	// By reference: conflicts are possible only so.
	t.Run("references", func(t *testing.T) {
		h.t = t
		up := h.propose(1, 1, Proposal{&Update{}})
		rm := h.propose(2, 2, Proposal{&Remove{1}})
		h.rejects(h.forge(0, 0, &Commit{Proposals: []ProposalOrRef{{Ref: up.Ref}, {Ref: rm.Ref}}}), ErrConflictingProposals)
		h.rejects(h.forge(0, 0, &Commit{Proposals: []ProposalOrRef{{Ref: rm.Ref}, {Ref: rm.Ref}}}), ErrConflictingProposals)
		var unknown *UnknownProposalError
		if _, err := h.hub.InspectCommit(h.forge(0, 0, &Commit{Proposals: []ProposalOrRef{{Ref: ProposalRef("nothing")}}})); !errors.As(err, &unknown) {
			t.Error(err)
		}
		h.rejects(h.forge(0, 0, &Commit{Proposals: []ProposalOrRef{{Ref: rm.Ref}}}), ErrPathRequired)
		h.rejects(h.forge(0, 0, &Commit{}), ErrPathRequired)
		m, err := ParseMessage(rm.Message)
		must(t, err)
		if _, err := h.hub.ReceiveProposal(m); !errors.Is(err, ErrDuplicate) {
			t.Error(err)
		}
		sr := h.propose(3, 3, Proposal{&SelfRemove{}})
		if _, _, err := h.states[3].ProposeAs(3, Proposal{&SelfRemove{}}, []byte("again"), WireFormatPublicMessage); !errors.Is(err, ErrSelfRemoveTwice) {
			t.Error(err)
		}
		if _, _, err := h.states[2].ProposeAs(2, Proposal{&SelfRemove{}}, nil, WireFormatPrivateMessage); !errors.Is(err, ErrSelfRemoveSender) {
			t.Error(err)
		}
		// The creator chooses: Remove before Update; SelfRemove before Remove.
		h.propose(0, 0, Proposal{&Remove{3}})
		out, err := h.states[0].Commit(0, CommitOptions{})
		must(t, err)
		s, err := h.hub.InspectCommit(out.Message)
		must(t, err)
		if len(s.Removed) != 2 || len(s.Updated) != 0 || len(s.Unreferenced) != 2 {
			t.Errorf("%+v", s)
		}
		for _, r := range s.Removed {
			if (r.Leaf == 3) != r.SelfRemove {
				t.Errorf("leaf %d: SelfRemove %v", r.Leaf, r.SelfRemove)
			}
		}
		h.states[0].ClearPending()
		if _, err := h.states[0].Commit(0, CommitOptions{Without: []ProposalRef{sr.Ref, rm.Ref}}); err != nil {
			t.Error(err)
		}
		h.states[0].ClearPending()
	})
}

func TestPathRules(t *testing.T) {
	h, people := rulesHall(t, nil)
	g := h.states[0]
	out, err := g.Commit(0, CommitOptions{})
	must(t, err)
	g.ClearPending()
	good := out.Message.PublicMessage.Content.Commit.Path
	for name, c := range map[string]struct {
		change func(p *UpdatePath)
		want   error
	}{
		"source":                  {func(p *UpdatePath) { p.LeafNode.Source = LeafNodeUpdate }, ErrLeafSource},
		"old key":                 {func(p *UpdatePath) { p.LeafNode.EncryptionKey = h.hub.Leaf(0).EncryptionKey }, ErrEncryptionKeyReused},
		"another's key":           {func(p *UpdatePath) { p.LeafNode.EncryptionKey = h.hub.Leaf(2).EncryptionKey }, ErrDuplicateKey},
		"old path key":            {func(p *UpdatePath) { p.Nodes[1].EncryptionKey = h.hub.tree.publicKey(3) }, ErrPathKeyReused},
		"parent hash":             {func(p *UpdatePath) { p.LeafNode.ParentHash = bytes.Repeat([]byte{1}, 32) }, ErrParentHash},
		"node key":                {func(p *UpdatePath) { _, p.Nodes[0].EncryptionKey, _ = GenerateHPKEKey(suite1) }, ErrParentHash},
		"no node":                 {func(p *UpdatePath) { p.Nodes = p.Nodes[:1] }, ErrPath},
		"no ciphertext":           {func(p *UpdatePath) { p.Nodes[1].EncryptedPathSecret = nil }, ErrPath},
		"not a key":               {func(p *UpdatePath) { p.LeafNode.EncryptionKey = []byte{1} }, ErrPublicKey},
		"capabilities":            {func(p *UpdatePath) { p.LeafNode.Capabilities.Versions = nil }, ErrCapabilities},
		"credentials":             {func(p *UpdatePath) { p.LeafNode.Capabilities.Credentials = []CredentialType{1, 9} }, nil},
		"own credential":          {func(p *UpdatePath) { p.LeafNode.Capabilities.Credentials = nil }, ErrCapabilities},
		"other name":              {func(p *UpdatePath) { p.LeafNode.Credential = BasicCredential([]byte("mallory")) }, ErrCredential},
		"extension":               {func(p *UpdatePath) { p.LeafNode.Extensions = Extensions{{0x4242, nil}} }, ErrExtensionUnlisted},
		"another's signature key": {func(p *UpdatePath) { p.LeafNode.SignatureKey = people["bob"].sig.Public() }, ErrLeafSignature},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			var p UpdatePath
			must(t, tlspl.Unmarshal(tlspl.Marshal(good), &p))
			c.change(&p)
			must(t, p.LeafNode.sign(people["alice"].sig, g.GroupID(), 0))
			msg := h.forge(0, 0, &Commit{Path: &p})
			if c.want != nil {
				h.rejects(msg, c.want)
			} else if _, err := h.hub.InspectCommit(msg); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("leaf signature", func(t *testing.T) {
		h.t = t
		p := *good
		p.LeafNode.Signature = bytes.Clone(p.LeafNode.Signature)
		p.LeafNode.Signature[0] ^= 1
		h.rejects(h.forge(0, 0, &Commit{Path: &p}), ErrLeafSignature)
	})
	t.Run("path secret", func(t *testing.T) {
		// A hub cannot see this one, a member can.
		var p UpdatePath
		must(t, tlspl.Unmarshal(tlspl.Marshal(good), &p))
		p.Nodes[0].EncryptedPathSecret[0].Ciphertext[0] ^= 1
		if _, err := h.states[1].StageCommit(h.forge(0, 0, &Commit{Path: &p})); !errors.Is(err, ErrDecrypt) {
			t.Error(err)
		}
	})
	t.Run("confirmation tag", func(t *testing.T) {
		msg := h.forge(0, 0, &Commit{Path: good})
		if _, err := h.hub.InspectCommit(msg); err != nil {
			t.Error(err)
		}
		if _, err := h.states[1].StageCommit(msg); !errors.Is(err, ErrConfirmationTag) {
			t.Error(err)
		}
	})
	t.Run("membership tag", func(t *testing.T) {
		m := *out.Message.PublicMessage
		m.MembershipTag = bytes.Clone(m.MembershipTag)
		m.MembershipTag[0] ^= 1
		if _, err := h.states[1].StageCommit(NewMessage(&m)); !errors.Is(err, ErrMembershipTag) {
			t.Error(err)
		}
		if _, err := h.hub.InspectCommit(NewMessage(&m)); err != nil {
			t.Error(err)
		}
	})
	t.Run("group and epoch", func(t *testing.T) {
		h.t = t
		m := *out.Message.PublicMessage
		m.Content.GroupID = []byte("other")
		h.rejects(NewMessage(&m), ErrWrongGroup)
		m = *out.Message.PublicMessage
		m.Content.Epoch++
		h.rejects(NewMessage(&m), ErrWrongEpoch)
		m = *out.Message.PublicMessage
		m.Content.Sender.Leaf = 9
		if _, err := h.hub.InspectCommit(NewMessage(&m)); !errors.Is(err, ErrSender) {
			t.Error(err)
		}
		m.Content.Sender.Leaf = 1
		if _, err := h.hub.InspectCommit(NewMessage(&m)); !errors.Is(err, ErrSignature) {
			t.Error(err)
		}
	})
}

func TestExternalRules(t *testing.T) {
	h, people := rulesHall(t, nil)
	info, err := h.states[0].GroupInfo(0)
	must(t, err)
	_, out, err := ExternalCommit(h.cfg, info, h.hub.Tree(), ExternalCommitOptions{Leaf: people["eve"].leaf()})
	must(t, err)
	good := out.Message.PublicMessage.Content.Commit
	rm := h.propose(2, 2, Proposal{&Remove{1}})
	init := good.Proposals[0]
	frank := newPerson(t, suite1, "frank").keyPackage(t, h.cfg)
	add := addOf(frank)
	for name, c := range map[string]struct {
		proposals []ProposalOrRef
		want      error
	}{
		"no init":           {nil, ErrExternalInitCount},
		"two inits":         {[]ProposalOrRef{init, init}, ErrExternalInitCount},
		"an add":            {[]ProposalOrRef{init, {Proposal: &add}}, ErrExternalCommit},
		"a context":         {[]ProposalOrRef{init, {Proposal: &Proposal{&GroupContextExtensions{}}}}, ErrExternalCommit},
		"two removes":       {[]ProposalOrRef{init, {Proposal: &Proposal{&Remove{1}}}, {Proposal: &Proposal{&Remove{2}}}}, ErrExternalRemoves},
		"a remove by ref":   {[]ProposalOrRef{init, {Ref: rm.Ref}}, ErrExternalByRef},
		"another's removal": {[]ProposalOrRef{init, {Proposal: &Proposal{&Remove{1}}}}, ErrCredential},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			msg := h.forgeOutside(people["eve"].sig, &Commit{Proposals: c.proposals, Path: good.Path})
			if _, err := h.hub.InspectCommit(msg); !errors.Is(err, c.want) && !(c.want == ErrCredential && errors.Is(err, ErrLeafSignature)) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	h.t = t
	if _, err := h.hub.InspectCommit(h.forgeOutside(people["eve"].sig, &Commit{Proposals: good.Proposals})); !errors.Is(err, ErrPathRequired) {
		t.Error(err)
	}
	one := LeafIndex(1)
	if _, _, err := ExternalCommit(h.cfg, info, h.hub.Tree(), ExternalCommitOptions{Leaf: people["eve"].leaf(), Resync: &one}); !errors.Is(err, ErrCredential) {
		t.Error(err)
	}
	bare := *info
	bare.Extensions = nil
	must(t, bare.sign(people["alice"].sig))
	if _, _, err := ExternalCommit(h.cfg, &bare, h.hub.Tree(), ExternalCommitOptions{Leaf: people["eve"].leaf()}); !errors.Is(err, ErrNoExternalPub) {
		t.Error(err)
	}
}

func TestJoinRules(t *testing.T) {
	h, people := rulesHall(t, nil)
	info, err := h.states[0].GroupInfo(0)
	must(t, err)
	resign := func(f func(i *GroupInfo)) *GroupInfo {
		var i GroupInfo
		must(t, tlspl.Unmarshal(tlspl.Marshal(info), &i))
		f(&i)
		must(t, i.sign(people["alice"].sig))
		return &i
	}
	tree := func(f func(rt *RatchetTree)) *RatchetTree {
		rt := new(RatchetTree)
		must(t, rt.UnmarshalBinary(tlspl.Marshal(h.hub.Tree())))
		f(rt)
		return rt
	}
	// A tree that is forged and hashed anew, so that only its own rules find it.
	hashed := func(rt *RatchetTree) *GroupInfo {
		tr, err := treeFrom(h.hub.s, rt)
		must(t, err)
		return resign(func(i *GroupInfo) { i.GroupContext.TreeHash = tr.rootHash() })
	}
	same := tree(func(*RatchetTree) {})
	badLeaf := tree(func(rt *RatchetTree) { rt.Nodes[4].Leaf.Signature[0] ^= 1 })
	badParent := tree(func(rt *RatchetTree) { rt.Nodes[3].Parent.ParentHash = []byte{1} })
	badKey := tree(func(rt *RatchetTree) { rt.Nodes[3].Parent.EncryptionKey = rt.Nodes[2].Leaf.EncryptionKey })
	badUnmerged := tree(func(rt *RatchetTree) {
		rt.Nodes[1].Parent = &ParentNode{EncryptionKey: rt.Nodes[3].Parent.EncryptionKey[:31], UnmergedLeaves: []LeafIndex{3}}
	})
	for name, c := range map[string]struct {
		info *GroupInfo
		tree *RatchetTree
		want error
	}{
		"good":            {info, same, nil},
		"no tree":         {info, nil, ErrTree},
		"tree hash":       {resign(func(i *GroupInfo) { i.GroupContext.TreeHash = make([]byte, 32) }), same, ErrTreeHash},
		"signer":          {func() *GroupInfo { i := *info; i.Signer = 1; return &i }(), same, ErrGroupInfoSigner},
		"blank signer":    {func() *GroupInfo { i := *info; i.Signer = 77; return &i }(), same, ErrGroupInfoSigner},
		"leaf signature":  {hashed(badLeaf), badLeaf, ErrLeafSignature},
		"parent hash":     {hashed(badParent), badParent, ErrParentHash},
		"duplicate key":   {hashed(badKey), badKey, ErrDuplicateKey},
		"unmerged leaves": {hashed(badUnmerged), badUnmerged, ErrTree},
		"suite":           {resign(func(i *GroupInfo) { i.GroupContext.CipherSuite = 99 }), same, ErrCipherSuite},
	} {
		t.Run(name, func(t *testing.T) {
			if c.info.GroupContext.CipherSuite == 99 {
				c.info.Signature = nil
			}
			if _, err := NewPublicGroup(h.cfg, c.info, c.tree); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	if err := h.hub.VerifyGroupInfo(nil, resign(func(i *GroupInfo) { i.ConfirmationTag = make([]byte, 32) })); !errors.Is(err, ErrGroupInfoDiffers) {
		t.Error(err)
	}
	// Leaf 0 signed, and leaf 2 made the last Commit.
	if err := h.hub.VerifyGroupInfo(nil, info); !errors.Is(err, ErrGroupInfoSigner) {
		t.Error(err)
	}
	ours, err := h.states[2].GroupInfo(2)
	must(t, err)
	must(t, h.hub.VerifyGroupInfo(nil, ours))
	full, err := h.hub.CompleteGroupInfo(nil, ours.Partial())
	must(t, err)
	equal(t, "completed GroupInfo", tlspl.Marshal(full), tlspl.Marshal(ours))
}

func TestCapabilityRules(t *testing.T) {
	cfg := testConfig()
	alice, bob := newPerson(t, suite1, "alice"), newPerson(t, suite1, "bob")
	h := newHall(t, suite1, alice, nil)
	plain := DefaultCapabilities()
	plain.Proposals = nil
	kp, secrets, err := NewKeyPackage(cfg, suite1, KeyPackageOptions{Credential: BasicCredential([]byte("bob")), Signature: bob.sig, Capabilities: &plain})
	must(t, err)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&Add{KeyPackage: *kp}}}}, JoinKey{kp, secrets})
	up := Proposal{&AppDataUpdate{ComponentID: 0x8001, Op: AppDataOpUpdate}}
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{up}}); !errors.Is(err, ErrProposalUnsupported) {
		t.Error(err)
	}
	// In the Commit that removes the one who does not know it, it may stand.
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{up, {&Remove{1}}}}); err != nil {
		t.Error(err)
	}
	h.states[0].ClearPending()
	required := Extensions{(&RequiredCapabilities{Proposals: []ProposalType{ProposalAppDataUpdate}}).Extension()}
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&GroupContextExtensions{required}}}}); !errors.Is(err, ErrRequiredCapabilities) {
		t.Error(err)
	}
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&Remove{1}}}})
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{{&GroupContextExtensions{required}}}})
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&Add{KeyPackage: *kp}}}}); !errors.Is(err, ErrCapabilities) {
		t.Error(err)
	}
	var d AppDataDictionary
	d.Set(0x8001, []byte("x"))
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&GroupContextExtensions{required.WithAppData(d)}}}}); !errors.Is(err, ErrAppDataGCE) {
		t.Error(err)
	}
	h.cfg.ApplyAppData = func(ComponentID, []byte, [][]byte) ([]byte, error) { return nil, errors.New("no") }
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{up}}); !errors.Is(err, ErrAppDataInvalid) {
		t.Error(err)
	}
	h.cfg.ApplyAppData = nil
	h.cfg.VerifyCredential = func(c CredentialContext) error {
		if string(c.Credential.Identity) == "bob" {
			return errors.New("not bob")
		}
		return nil
	}
	if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{addOf(bob.keyPackage(t, cfg))}}); !errors.Is(err, ErrCredential) {
		t.Error(err)
	}
}

func TestExternalSenderRules(t *testing.T) {
	hubKey := newPerson(t, suite1, "hub")
	h, people := rulesHall(t, Extensions{ExternalSendersExtension([]ExternalSender{{hubKey.sig.Public(), BasicCredential([]byte("hub"))}})})
	gc := h.hub.GroupContext()
	if _, err := SignExternalProposal(h.cfg, gc, 0, hubKey.sig, Proposal{&SelfRemove{}}, nil); !errors.Is(err, ErrProposalSender) {
		t.Error(err)
	}
	for _, p := range []Proposal{{&Update{LeafNode: *h.hub.Leaf(1)}}, {&SelfRemove{}}, {&ExternalInit{}}} {
		m, err := signOutside(h.cfg, gc, Sender{Type: SenderExternal}, hubKey.sig, p, nil)
		must(t, err)
		if _, err := h.hub.ReceiveProposal(m); !errors.Is(err, ErrProposalSender) {
			t.Error(err)
		}
	}
	m, err := SignExternalProposal(h.cfg, gc, 0, people["bob"].sig, Proposal{&Remove{1}}, nil)
	must(t, err)
	if _, err := h.hub.ReceiveProposal(m); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	m, err = SignExternalProposal(h.cfg, gc, 1, hubKey.sig, Proposal{&Remove{1}}, nil)
	must(t, err)
	if _, err := h.hub.ReceiveProposal(m); !errors.Is(err, ErrSender) {
		t.Error(err)
	}
	// One by the hub and one by a newcomer are committed.
	m, err = SignExternalProposal(h.cfg, gc, 0, hubKey.sig, Proposal{&Remove{1}}, []byte("why"))
	must(t, err)
	h.broadcastProposal(m, -1)
	eve := people["eve"].keyPackage(t, h.cfg)
	m, err = SignNewMemberProposal(h.cfg, gc, people["eve"].sig, eve.KeyPackage, nil)
	must(t, err)
	h.broadcastProposal(m, -1)
	h.commit(2, 2, CommitOptions{}, eve)
	h.chat()
}
