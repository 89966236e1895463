package mls

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// StagedProposal is a proposal a Commit covers.
type StagedProposal struct {
	Proposal Proposal
	Sender   Sender // of the proposal: by value the committer
	ByRef    bool
	Ref      ProposalRef // if ByRef
}

// AddedLeaf is a member a Commit brings.
type AddedLeaf struct {
	Leaf       LeafIndex
	Node       *LeafNode
	KeyPackage *KeyPackage // nil for the sender of an external Commit
	ProposedBy Sender
}

// RemovedLeaf is a member a Commit removes.
type RemovedLeaf struct {
	Leaf       LeafIndex
	Node       *LeafNode
	ProposedBy Sender
	SelfRemove bool
}

// UpdatedLeaf is a member whose LeafNode an Update proposal replaces.
type UpdatedLeaf struct {
	Leaf     LeafIndex
	Old, New *LeafNode
	Ref      ProposalRef
}

// AppDataChange is an AppDataUpdate with where it came from.
type AppDataChange struct {
	AppDataUpdate
	ProposedBy Sender
	ByRef      bool
	Ref        ProposalRef
}

// staging is a group with a list of proposals applied (RFC 9420 section 12.3),
// and later the path.
type staging struct {
	gc    *GroupContext // epoch, extensions and, in the end, hashes are new
	tree  *tree
	list  []StagedProposal
	added map[LeafIndex]bool

	addedLeaves []AddedLeaf
	removed     []RemovedLeaf
	updated     []UpdatedLeaf
	appData     []AppDataChange
	newAppData  AppDataDictionary
	psks        []*PreSharedKeyID
	init        *ExternalInit
	reInit      *ReInit
	pathNeeded  bool

	committer   LeafIndex
	steps       []pathStep
	provisional []byte // the provisional GroupContext
}

// checkProposal is RFC 9420 section 12.1 for one proposal by itself: its sender
// and what its type asks. gc is the context it is judged in.
func (g *PublicGroup) checkProposal(p *Proposal, sender Sender, gc *GroupContext, t *tree) error {
	info, ok := proposalTypes[p.Type()]
	if !ok {
		return fmt.Errorf("mls: %w: 0x%04x", ErrProposalType, uint16(p.Type()))
	}
	switch sender.Type {
	case SenderExternal:
		if !info.External {
			return fmt.Errorf("mls: %w: %v", ErrProposalSender, p.Type())
		}
	case SenderNewMemberProposal:
		if p.Type() != ProposalAdd {
			return fmt.Errorf("mls: %w: %v", ErrProposalSender, p.Type())
		}
	}
	switch b := p.Body.(type) {
	case *Add:
		if err := b.KeyPackage.verify(g.cfg, gc); err != nil {
			return fmt.Errorf("mls: add: %w", err)
		}
	case *Update:
		if sender.Type != SenderMember {
			return fmt.Errorf("mls: %w: Update", ErrProposalSender)
		}
		old := g.tree.leaf(sender.Leaf)
		if old == nil {
			return fmt.Errorf("mls: update: %w", ErrSender)
		}
		if b.LeafNode.Source != LeafNodeUpdate {
			return fmt.Errorf("mls: %w: %d in an Update", ErrLeafSource, b.LeafNode.Source)
		}
		if bytes.Equal(b.LeafNode.EncryptionKey, old.EncryptionKey) {
			return fmt.Errorf("mls: update: %w", ErrEncryptionKeyReused)
		}
		if err := b.LeafNode.verifySignature(g.s.id, gc.GroupID, sender.Leaf); err != nil {
			return fmt.Errorf("mls: update: %w", err)
		}
		if err := g.cfg.checkLeaf(g.s, &b.LeafNode, gc, ReasonUpdate, old); err != nil {
			return fmt.Errorf("mls: update: %w", err)
		}
	case *Remove:
		if t.leaf(b.Removed) == nil {
			return fmt.Errorf("mls: %w: %d", ErrRemoveBlank, b.Removed)
		}
	case *PreSharedKey:
		return b.PSK.check(g.s, g.successor && g.gc.Epoch == 0)
	case *ReInit:
		if b.Version < gc.Version {
			return fmt.Errorf("mls: %w", ErrReInitVersion)
		}
	case *GroupContextExtensions:
		return g.checkContextExtensions(b.Extensions)
	case *SelfRemove:
		if sender.Type != SenderMember || t.leaf(sender.Leaf) == nil {
			return fmt.Errorf("mls: %w", ErrSelfRemoveSender)
		}
	}
	return nil
}

// checkContextExtensions judges new GroupContext extensions by themselves.
func (g *PublicGroup) checkContextExtensions(e Extensions) error {
	if _, err := e.RequiredCapabilities(); err != nil {
		return err
	}
	senders, err := e.ExternalSenders()
	if err != nil {
		return err
	}
	if _, err := e.AppData(); err != nil {
		return err
	}
	if _, err := e.RequiredWireFormats(); err != nil {
		return err
	}
	receivers, err := e.ExternalReceivers()
	if err != nil {
		return err
	}
	for i := range receivers {
		if err := g.s.checkHPKEPublic(receivers[i].PublicKey); err != nil {
			return fmt.Errorf("mls: external receiver %d: %w", i, err)
		}
	}
	old, _ := g.gc.Extensions.Get(ExtensionExternalSenders)
	if now, ok := e.Get(ExtensionExternalSenders); ok && !bytes.Equal(old, now) {
		for i := range senders {
			if err := g.cfg.verifyCredential(CredentialContext{
				Credential: &senders[i].Credential, SignatureKey: senders[i].SignatureKey, GroupContext: g.gc, Reason: ReasonExternalSender,
			}); err != nil {
				return fmt.Errorf("mls: external sender %d: %w", i, err)
			}
		}
	}
	rc, err := g.gc.Extensions.RequiredCapabilities()
	if err != nil {
		return err
	}
	// draft-ietf-mls-extensions, "Updating Application Data in the
	// GroupContext": where all members know AppDataUpdate, only it may change
	// the dictionary.
	if rc != nil && contains(rc.Proposals, ProposalAppDataUpdate) {
		was, had := g.gc.Extensions.Get(ExtensionAppDataDictionary)
		now, has := e.Get(ExtensionAppDataDictionary)
		if had != has || !bytes.Equal(was, now) {
			return fmt.Errorf("mls: %w", ErrAppDataGCE)
		}
	}
	return nil
}

// resolve finds the proposals a Commit covers.
func (g *PublicGroup) resolve(c *Commit, sender Sender) ([]StagedProposal, error) {
	list := make([]StagedProposal, 0, len(c.Proposals))
	var missing []ProposalRef
	for _, p := range c.Proposals {
		if p.Proposal != nil {
			list = append(list, StagedProposal{Proposal: *p.Proposal, Sender: sender})
			continue
		}
		known := g.byRef[string(p.Ref)]
		if known == nil {
			missing = append(missing, p.Ref)
			continue
		}
		list = append(list, StagedProposal{known.Proposal, known.Sender, true, known.Ref})
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("mls: commit: %w", &UnknownProposalError{missing})
	}
	return list, nil
}

// checkList is the part of RFC 9420 section 12.2 that looks at the list alone.
func (g *PublicGroup) checkList(list []StagedProposal, committer Sender) error {
	external := committer.Type == SenderNewMemberCommit
	touched := map[LeafIndex]bool{}
	adds := map[string]bool{}
	psks := map[string]bool{}
	seen := map[string]bool{}
	var inits, removes, gces, reInits int
	touch := func(l LeafIndex) error {
		if touched[l] {
			return fmt.Errorf("mls: %w: %d", ErrConflictingProposals, l)
		}
		touched[l] = true
		return nil
	}
	for i := range list {
		p := &list[i]
		info, ok := proposalTypes[p.Proposal.Type()]
		if !ok {
			return fmt.Errorf("mls: %w: 0x%04x", ErrProposalType, uint16(p.Proposal.Type()))
		}
		if p.ByRef {
			if seen[string(p.Ref)] {
				return fmt.Errorf("mls: %w: one reference twice", ErrConflictingProposals)
			}
			seen[string(p.Ref)] = true
		}
		if info.RefOnly && !p.ByRef {
			return fmt.Errorf("mls: %w: %v", ErrSelfRemoveByValue, p.Proposal.Type())
		}
		if external {
			if !info.InExternalCommit {
				return fmt.Errorf("mls: %w: %v", ErrExternalCommit, p.Proposal.Type())
			}
			if p.ByRef && !info.RefOnly {
				return fmt.Errorf("mls: %w: %v", ErrExternalByRef, p.Proposal.Type())
			}
		}
		switch b := p.Proposal.Body.(type) {
		case *Add:
			key := string(b.KeyPackage.LeafNode.SignatureKey)
			if adds[key] {
				return fmt.Errorf("mls: %w", ErrDuplicateAdd)
			}
			adds[key] = true
		case *Update:
			if p.Sender == committer {
				return fmt.Errorf("mls: %w", ErrUpdateByCommitter)
			}
			if err := touch(p.Sender.Leaf); err != nil {
				return err
			}
		case *Remove:
			removes++
			if committer.Type == SenderMember && b.Removed == committer.Leaf {
				return fmt.Errorf("mls: %w", ErrRemoveCommitter)
			}
			if err := touch(b.Removed); err != nil {
				return err
			}
		case *SelfRemove:
			if p.Sender.Type != SenderMember {
				return fmt.Errorf("mls: %w", ErrSelfRemoveSender)
			}
			if committer.Type == SenderMember && p.Sender.Leaf == committer.Leaf {
				return fmt.Errorf("mls: %w", ErrRemoveCommitter)
			}
			if err := touch(p.Sender.Leaf); err != nil {
				return err
			}
		case *PreSharedKey:
			id := string(tlspl.Marshal(&b.PSK))
			if psks[id] {
				return fmt.Errorf("mls: %w", ErrDuplicatePSK)
			}
			psks[id] = true
		case *ReInit:
			reInits++
		case *ExternalInit:
			inits++
			if !external {
				return fmt.Errorf("mls: %w", ErrExternalInitInside)
			}
		case *GroupContextExtensions:
			gces++
		}
	}
	switch {
	case gces > 1:
		return fmt.Errorf("mls: %w", ErrMultipleGCE)
	case reInits > 0 && len(list) > 1:
		return fmt.Errorf("mls: %w", ErrReInitNotAlone)
	case external && inits != 1:
		return fmt.Errorf("mls: %w: %d", ErrExternalInitCount, inits)
	case external && removes > 1:
		return fmt.Errorf("mls: %w", ErrExternalRemoves)
	}
	return nil
}

// apply validates a list and applies it to a copy of the group (RFC 9420 sections
// 12.2 and 12.3, with the order of draft-ietf-mls-extensions).
func (g *PublicGroup) apply(list []StagedProposal, committer Sender) (*staging, error) {
	if err := g.checkList(list, committer); err != nil {
		return nil, err
	}
	st := &staging{gc: g.gc.clone(), tree: g.tree.clone(), list: list, added: map[LeafIndex]bool{}, committer: committer.Leaf}
	st.gc.Epoch++
	st.pathNeeded = len(list) == 0

	types := map[ProposalType]bool{}
	newContext := false
	for i := range list {
		types[list[i].Proposal.Type()] = true
		st.pathNeeded = st.pathNeeded || proposalTypes[list[i].Proposal.Type()].Path
		if b, ok := list[i].Proposal.Body.(*GroupContextExtensions); ok {
			if err := g.checkProposal(&list[i].Proposal, list[i].Sender, st.gc, st.tree); err != nil {
				return nil, err
			}
			st.gc.Extensions = b.Extensions.Clone()
			newContext = true
		}
	}
	for i := range list {
		if list[i].Proposal.Type() == ProposalGroupContextExtensions {
			continue
		}
		if err := g.checkProposal(&list[i].Proposal, list[i].Sender, st.gc, g.tree); err != nil {
			return nil, err
		}
	}
	if err := g.checkSupported(types, list); err != nil {
		return nil, err
	}
	var fresh []LeafIndex
	for _, p := range list {
		if b, ok := p.Proposal.Body.(*Update); ok {
			l := p.Sender.Leaf
			st.updated = append(st.updated, UpdatedLeaf{l, st.tree.leaf(l), &b.LeafNode, p.Ref})
			st.tree.update(l, &b.LeafNode)
			fresh = append(fresh, l)
		}
	}
	for _, p := range list {
		if _, ok := p.Proposal.Body.(*SelfRemove); ok {
			st.remove(p, p.Sender.Leaf, true)
		}
	}
	for _, p := range list {
		if b, ok := p.Proposal.Body.(*Remove); ok {
			st.remove(p, b.Removed, false)
		}
	}
	if len(st.removed) > 0 {
		st.tree.truncate()
	}
	for _, p := range list {
		b, ok := p.Proposal.Body.(*Add)
		if !ok {
			continue
		}
		l, err := st.tree.add(&b.KeyPackage.LeafNode)
		if err != nil {
			return nil, err
		}
		st.added[l] = true
		st.addedLeaves = append(st.addedLeaves, AddedLeaf{l, &b.KeyPackage.LeafNode, &b.KeyPackage, p.Sender})
		fresh = append(fresh, l)
	}
	for _, p := range list {
		switch b := p.Proposal.Body.(type) {
		case *PreSharedKey:
			st.psks = append(st.psks, &b.PSK)
		case *ExternalInit:
			st.init = b
		case *ReInit:
			st.reInit = b
		case *AppDataUpdate:
			st.appData = append(st.appData, AppDataChange{*b, p.Sender, p.ByRef, p.Ref})
		}
	}
	if err := g.applyAppData(st); err != nil {
		return nil, err
	}
	if newContext || len(st.appData) > 0 && g.cfg.CheckComponents {
		if err := st.tree.checkContext(st.gc, g.cfg.CheckComponents); err != nil {
			return nil, err
		}
	}
	if err := st.tree.checkNew(fresh, nil); err != nil {
		return nil, err
	}
	return st, nil
}

func (st *staging) remove(p StagedProposal, l LeafIndex, self bool) {
	st.removed = append(st.removed, RemovedLeaf{l, st.tree.leaf(l), p.Sender, self})
	st.tree.remove(l)
}

// applyAppData works the AppDataUpdates out (draft-ietf-mls-extensions section
// "Updating Application Data in the GroupContext").
func (g *PublicGroup) applyAppData(st *staging) error {
	dict, err := st.gc.Extensions.AppData()
	if err != nil {
		return err
	}
	st.newAppData = dict
	if len(st.appData) == 0 {
		return nil
	}
	var order []ComponentID
	updates := map[ComponentID][][]byte{}
	removes := map[ComponentID]int{}
	for _, c := range st.appData {
		if updates[c.ComponentID] == nil && removes[c.ComponentID] == 0 {
			order = append(order, c.ComponentID)
		}
		if c.Op == AppDataOpRemove {
			removes[c.ComponentID]++
		} else {
			updates[c.ComponentID] = append(updates[c.ComponentID], c.Update)
		}
	}
	for _, id := range order {
		old, had := dict.Get(id)
		ups, n := updates[id], removes[id]
		switch {
		case n > 1 || n == 1 && len(ups) > 0:
			return fmt.Errorf("mls: %w: 0x%04x", ErrAppDataConflict, uint16(id))
		case n == 1 && !had:
			return fmt.Errorf("mls: %w: 0x%04x", ErrAppDataAbsent, uint16(id))
		case n == 1:
			dict.Delete(id)
			continue
		}
		data := ups[len(ups)-1]
		if g.cfg.ApplyAppData != nil {
			if !had {
				old = nil
			} else if old == nil {
				old = []byte{}
			}
			if data, err = g.cfg.ApplyAppData(id, old, ups); err != nil {
				return fmt.Errorf("mls: %w: 0x%04x: %w", ErrAppDataInvalid, uint16(id), err)
			}
		}
		dict.Set(id, data)
	}
	st.newAppData = dict
	st.gc.Extensions = st.gc.Extensions.WithAppData(dict)
	return nil
}

// checkSupported: a type that is not a default one is supported by all who
// process the Commit, that is all but those it adds or removes (RFC 9420 section
// 12.2).
func (g *PublicGroup) checkSupported(types map[ProposalType]bool, list []StagedProposal) error {
	rc, err := g.gc.Extensions.RequiredCapabilities()
	if err != nil {
		return err
	}
	gone := map[LeafIndex]bool{}
	for _, p := range list {
		switch b := p.Proposal.Body.(type) {
		case *Remove:
			gone[b.Removed] = true
		case *SelfRemove:
			gone[p.Sender.Leaf] = true
		}
	}
	for t := range types {
		// What is required was checked when each member came.
		if t.isDefault() || rc != nil && contains(rc.Proposals, t) {
			continue
		}
		for l, n := range g.tree.members() {
			if !gone[l] && !n.Capabilities.SupportsProposal(t) {
				return fmt.Errorf("mls: %w: %v, leaf %d", ErrProposalUnsupported, t, l)
			}
		}
	}
	return nil
}

// checkContext: all members support what a new GroupContext asks (RFC 9420
// section 12.1.7).
func (t *tree) checkContext(gc *GroupContext, components bool) error {
	rc, err := gc.Extensions.RequiredCapabilities()
	if err != nil {
		return err
	}
	for l, n := range t.members() {
		if err := n.Capabilities.Supports(rc); err != nil {
			return fmt.Errorf("mls: %w: leaf %d: %w", ErrRequiredCapabilities, l, err)
		}
		for _, x := range gc.Extensions {
			if !n.Capabilities.SupportsExtension(x.Type) {
				return fmt.Errorf("mls: %w: 0x%04x, leaf %d", ErrUnsupportedGCE, uint16(x.Type), l)
			}
		}
		if err := checkWireFormats(gc, n); err != nil {
			return fmt.Errorf("mls: leaf %d: %w", l, err)
		}
		if components {
			if err := checkComponents(gc, n); err != nil {
				return fmt.Errorf("mls: leaf %d: %w", l, err)
			}
		}
	}
	return nil
}

// checkNew is the part of RFC 9420 section 7.3 that holds new leaves, and parent
// nodes with new keys, against the rest of the tree: keys are unique, credential
// types supported by all.
func (t *tree) checkNew(leaves []LeafIndex, parents []nodeIndex) error {
	if len(leaves) == 0 && len(parents) == 0 {
		return nil
	}
	x := t.index()
	for _, l := range leaves {
		n := t.leaf(l)
		if x.count(encryptionKeys, n.EncryptionKey) > 1 {
			return fmt.Errorf("mls: %w: encryption key of leaf %d", ErrDuplicateKey, l)
		}
		if x.count(signatureKeys, n.SignatureKey) > 1 {
			return fmt.Errorf("mls: %w: %w: signature key of leaf %d", ErrAlreadyMember, ErrDuplicateKey, l)
		}
		if k := n.Credential.Type; x.able[k] != x.members {
			return fmt.Errorf("mls: %w: 0x%04x of leaf %d", ErrCredentialType, uint16(k), l)
		}
		for k, members := range x.kinds {
			if members > 0 && !n.Capabilities.SupportsCredential(k) {
				return fmt.Errorf("mls: %w: 0x%04x by leaf %d", ErrCredentialType, uint16(k), l)
			}
		}
	}
	for _, p := range parents {
		if x.count(encryptionKeys, t.publicKey(p)) > 1 {
			return fmt.Errorf("mls: %w: encryption key of node %d", ErrDuplicateKey, p)
		}
	}
	return nil
}

// applyPath validates a Commit's path and merges it (RFC 9420 section 12.4.2).
func (g *PublicGroup) applyPath(st *staging, sender Sender, path *UpdatePath) error {
	leaf := &path.LeafNode
	var old *LeafNode
	reason := ReasonUpdate
	if sender.Type == SenderNewMemberCommit {
		reason = ReasonExternal
		for _, r := range st.removed {
			if !r.SelfRemove {
				old = r.Node
			}
		}
		l, err := st.tree.nextFree()
		if err != nil {
			return err
		}
		st.tree.addAt(l, leaf)
		st.committer = l
		st.addedLeaves = append(st.addedLeaves, AddedLeaf{l, leaf, nil, sender})
	} else {
		old = st.tree.leaf(sender.Leaf)
	}
	if leaf.Source != LeafNodeCommit {
		return fmt.Errorf("mls: %w: %d in a path", ErrLeafSource, leaf.Source)
	}
	if old != nil && bytes.Equal(old.EncryptionKey, leaf.EncryptionKey) {
		return fmt.Errorf("mls: commit: %w", ErrEncryptionKeyReused)
	}
	if err := leaf.verifySignature(g.s.id, g.gc.GroupID, st.committer); err != nil {
		return fmt.Errorf("mls: commit: %w", err)
	}
	if err := g.cfg.checkLeaf(g.s, leaf, st.gc, reason, old); err != nil {
		return fmt.Errorf("mls: commit: %w", err)
	}
	// Keys of the path may not stand anywhere in the tree before; where they do
	// not get overwritten checkNew finds them.
	for _, x := range st.tree.directPath(st.committer) {
		key := st.tree.publicKey(x)
		if key == nil {
			continue
		}
		if bytes.Equal(key, leaf.EncryptionKey) || slices.ContainsFunc(path.Nodes, func(n UpdatePathNode) bool { return bytes.Equal(n.EncryptionKey, key) }) {
			return fmt.Errorf("mls: %w", ErrPathKeyReused)
		}
	}
	steps, err := st.tree.mergePath(st.committer, path, st.added)
	if err != nil {
		return err
	}
	return st.finishPath(steps)
}

// finishPath notes the path and checks its keys against the tree.
func (st *staging) finishPath(steps []pathStep) error {
	st.steps = steps
	nodes := make([]nodeIndex, len(steps))
	for i, s := range steps {
		nodes[i] = s.node
	}
	return st.tree.checkNew([]LeafIndex{st.committer}, nodes)
}

// contextBytes encodes the GroupContext with the staged tree's hash: the
// provisional one until the transcript hash is set.
func (st *staging) contextBytes() []byte {
	st.gc.TreeHash = st.tree.rootHash()
	return tlspl.Marshal(st.gc)
}
