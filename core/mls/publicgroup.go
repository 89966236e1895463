package mls

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Member is a leaf that is not blank.
type Member struct {
	Leaf LeafIndex
	Node *LeafNode
}

// PendingProposal is a proposal received and not yet committed.
type PendingProposal struct {
	Ref      ProposalRef
	Proposal Proposal
	Sender   Sender
	// AuthenticatedData is the AAD it came with.
	AuthenticatedData []byte
	Message           []byte // the MLSMessage

	content []byte // the AuthenticatedContent
}

// PublicGroup is the public state of a group: what a Delivery Service that reads
// the handshake keeps, and the half of a [Group] without secrets. Not safe for
// concurrent use; Clone makes one that is independent.
type PublicGroup struct {
	cfg     *Config
	s       *suite
	gc      *GroupContext
	gcBytes []byte
	tree    *tree
	interim []byte
	tag     []byte
	// signer made the last Commit, or signed the GroupInfo the group came from.
	signer LeafIndex
	info   *GroupInfo // verified GroupInfo of this epoch, without ratchet_tree
	closed *ReInit    // the group was closed by it
	// successor: the group is being made to follow another.
	successor bool

	pending []*PendingProposal
	byRef   map[string]*PendingProposal
}

// NewPublicGroup takes a group up from its GroupInfo and tree, which may stand
// in the GroupInfo (then tree is nil). It verifies what a joiner verifies (RFC
// 9420 section 12.4.3.1): tree hash, parent hashes, leaves, and the GroupInfo's
// signature. The confirmation tag is beyond a non-member.
func NewPublicGroup(cfg *Config, info *GroupInfo, tree *RatchetTree) (*PublicGroup, error) {
	g, err := newPublicGroup(cfg, info, tree)
	if err != nil {
		return nil, fmt.Errorf("mls: new public group: %w", err)
	}
	return g, nil
}

func newPublicGroup(cfg *Config, info *GroupInfo, rt *RatchetTree) (*PublicGroup, error) {
	gc := info.GroupContext.clone()
	s, err := gc.CipherSuite.impl()
	if err != nil {
		return nil, err
	}
	if rt == nil {
		if rt, err = info.Extensions.RatchetTree(); err != nil {
			return nil, err
		}
		if rt == nil {
			return nil, fmt.Errorf("mls: %w: no ratchet tree", ErrTree)
		}
	}
	t, err := treeFrom(s, rt)
	if err != nil {
		return nil, err
	}
	signer := t.leaf(info.Signer)
	if signer == nil {
		return nil, fmt.Errorf("mls: %w: leaf %d is blank", ErrGroupInfoSigner, info.Signer)
	}
	if err := info.verifySignature(signer.SignatureKey); err != nil {
		return nil, fmt.Errorf("mls: %w: %w", ErrGroupInfoSigner, err)
	}
	g := &PublicGroup{cfg: cfg, s: s, gc: gc, gcBytes: tlspl.Marshal(gc), tree: t, tag: info.ConfirmationTag,
		interim: s.interimHash(gc.ConfirmedTranscriptHash, info.ConfirmationTag), signer: info.Signer, byRef: map[string]*PendingProposal{}}
	if err := g.verifyTree(); err != nil {
		return nil, err
	}
	g.keepInfo(info)
	return g, nil
}

func (g *PublicGroup) keepInfo(info *GroupInfo) {
	// The signature covers the extensions, so a GroupInfo with the tree inside
	// cannot be served without; it is not kept twice.
	i := *info
	if _, ok := info.Extensions.Get(ExtensionRatchetTree); !ok {
		g.info = &i
	}
}

// verifyTree checks a tree as a joiner does (RFC 9420 section 12.4.3.1).
func (g *PublicGroup) verifyTree() error {
	t := g.tree
	if !bytes.Equal(t.rootHash(), g.gc.TreeHash) {
		return fmt.Errorf("mls: %w", ErrTreeHash)
	}
	if err := t.verifyUnmerged(); err != nil {
		return err
	}
	if err := t.verifyParentHashes(); err != nil {
		return err
	}
	if err := t.verifyLeaves(g.gc.GroupID); err != nil {
		return err
	}
	// Certificate chains cost more than the signatures did.
	members := t.list()
	if err := inParallel(len(members), leafBatch, func(i int) error {
		if err := g.cfg.checkLeaf(g.s, members[i].Node, g.gc, ReasonTree, nil); err != nil {
			return fmt.Errorf("mls: leaf %d: %w", members[i].Leaf, err)
		}
		return nil
	}); err != nil {
		return err
	}
	all := make([]LeafIndex, len(members))
	for i, m := range members {
		all[i] = m.Leaf
	}
	for x := nodeIndex(1); x < nodeIndex(2*t.leaves-1); x += 2 {
		if p := t.at(x).parent; p != nil {
			if err := g.s.checkHPKEPublic(p.EncryptionKey); err != nil {
				return fmt.Errorf("mls: node %d: %w", x, err)
			}
		}
	}
	if err := t.checkNew(all, nil); err != nil {
		return err
	}
	senders, err := g.gc.Extensions.ExternalSenders()
	if err != nil {
		return err
	}
	for i := range senders {
		if err := g.cfg.verifyCredential(CredentialContext{
			Credential: &senders[i].Credential, SignatureKey: senders[i].SignatureKey, GroupContext: g.gc, Reason: ReasonExternalSender,
		}); err != nil {
			return fmt.Errorf("mls: external sender %d: %w", i, err)
		}
	}
	return nil
}

// Clone gives an independent copy; the tree is shared until one side changes it.
// The copies may then be used by different goroutines.
func (g *PublicGroup) Clone() *PublicGroup {
	c := *g
	c.tree = g.tree.clone()
	c.pending = slices.Clone(g.pending)
	c.byRef = make(map[string]*PendingProposal, len(g.pending))
	for _, p := range g.pending {
		c.byRef[string(p.Ref)] = p
	}
	return &c
}

// GroupContext gives the current one; it must not be changed.
func (g *PublicGroup) GroupContext() *GroupContext { return g.gc }

// Epoch of the group.
func (g *PublicGroup) Epoch() uint64 { return g.gc.Epoch }

// GroupID of the group; not to be changed.
func (g *PublicGroup) GroupID() []byte { return g.gc.GroupID }

// CipherSuite of the group.
func (g *PublicGroup) CipherSuite() CipherSuite { return g.s.id }

// ConfirmationTag of the Commit that began the epoch.
func (g *PublicGroup) ConfirmationTag() []byte { return g.tag }

// Members lists the leaves from left to right; the nodes must not be changed.
func (g *PublicGroup) Members() []Member { return g.tree.list() }

func (t *tree) list() []Member {
	var out []Member
	for l, n := range t.members() {
		out = append(out, Member{l, n})
	}
	return out
}

// Leaf gives the node at l, nil if it is blank or there is none.
func (g *PublicGroup) Leaf(l LeafIndex) *LeafNode { return g.tree.leaf(l) }

// Tree gives the ratchet tree; its nodes must not be changed.
func (g *PublicGroup) Tree() *RatchetTree { return g.tree.export() }

// AppData gives the app_data_dictionary of the GroupContext.
func (g *PublicGroup) AppData() AppDataDictionary {
	d, err := g.gc.Extensions.AppData()
	if err != nil {
		return AppDataDictionary{} // never: checked when it came
	}
	return d
}

// ExternalSenders gives the senders of the external_senders extension.
func (g *PublicGroup) ExternalSenders() []ExternalSender {
	s, err := g.gc.Extensions.ExternalSenders()
	if err != nil {
		return nil // never: checked when it came
	}
	return s
}

// StoredGroupInfo gives the last GroupInfo verified for the current epoch,
// without a ratchet_tree, or nil. It must not be changed.
func (g *PublicGroup) StoredGroupInfo() *GroupInfo { return g.info }

// Closed gives the ReInit that closed the group, or nil.
func (g *PublicGroup) Closed() *ReInit { return g.closed }

// Proposals gives the pending proposals in the order received.
func (g *PublicGroup) Proposals() []PendingProposal {
	out := make([]PendingProposal, len(g.pending))
	for i, p := range g.pending {
		out[i] = *p
	}
	return out
}

// Proposal gives the pending proposal of a reference, or nil.
func (g *PublicGroup) Proposal(ref ProposalRef) *PendingProposal { return g.byRef[string(ref)] }

// checkFraming is what RFC 9420 chapter 6 asks of handshake content of this
// group, but for signatures.
func (g *PublicGroup) checkFraming(c *FramedContent, want ContentType) error {
	switch {
	case !bytes.Equal(c.GroupID, g.gc.GroupID):
		return fmt.Errorf("mls: %w", ErrWrongGroup)
	case c.ContentType != want:
		return fmt.Errorf("mls: %w: %v", ErrContentType, c.ContentType)
	case c.Epoch > g.gc.Epoch:
		return fmt.Errorf("mls: %w: %w: %d, not %d", ErrWrongEpoch, ErrFutureEpoch, c.Epoch, g.gc.Epoch)
	case c.Epoch < g.gc.Epoch:
		return fmt.Errorf("mls: %w: %w: %d, not %d", ErrWrongEpoch, ErrEpochTooOld, c.Epoch, g.gc.Epoch)
	case g.closed != nil:
		return fmt.Errorf("mls: %w", ErrReInitialised)
	}
	return checkSafeAAD(g.gc, c.AuthenticatedData)
}

// checkSafeAAD: where the GroupContext has the component safe_aad,
// authenticated data is framed (draft-ietf-mls-extensions section "Safe
// Additional Authenticated Data"). None at all is let pass.
func checkSafeAAD(gc *GroupContext, aad []byte) error {
	if len(aad) == 0 {
		return nil
	}
	d, err := gc.Extensions.AppData()
	if err != nil {
		return err
	}
	if _, ok := d.Get(ComponentSafeAAD); !ok {
		return nil
	}
	if _, err := ParseSafeAAD(aad); err != nil {
		return fmt.Errorf("mls: %w: %w", ErrSafeAAD, err)
	}
	return nil
}

// outgoingAAD checks AAD to be sent, and frames none as an empty list.
func outgoingAAD(gc *GroupContext, aad []byte) ([]byte, error) {
	if len(aad) > 0 {
		return aad, checkSafeAAD(gc, aad)
	}
	d, err := gc.Extensions.AppData()
	if err != nil {
		return nil, err
	}
	if _, ok := d.Get(ComponentSafeAAD); ok {
		return MarshalSafeAAD(nil), nil
	}
	return nil, nil
}

// signatureKeyOf finds the key that must have signed (RFC 9420 section 6.1).
func (g *PublicGroup) signatureKeyOf(c *FramedContent) ([]byte, error) {
	switch c.Sender.Type {
	case SenderMember:
		n := g.tree.leaf(c.Sender.Leaf)
		if n == nil {
			return nil, fmt.Errorf("mls: %w: leaf %d is blank", ErrSender, c.Sender.Leaf)
		}
		return n.SignatureKey, nil
	case SenderExternal:
		senders, err := g.gc.Extensions.ExternalSenders()
		if err != nil {
			return nil, err
		}
		if c.ContentType != ContentProposal || uint64(c.Sender.Index) >= uint64(len(senders)) {
			return nil, fmt.Errorf("mls: %w: %v", ErrSender, c.Sender)
		}
		return senders[c.Sender.Index].SignatureKey, nil
	case SenderNewMemberProposal:
		if c.ContentType == ContentProposal {
			if a, ok := c.Proposal.Body.(*Add); ok {
				return a.KeyPackage.LeafNode.SignatureKey, nil
			}
			return nil, fmt.Errorf("mls: %w: %v", ErrProposalSender, c.Proposal.Type())
		}
	case SenderNewMemberCommit:
		if c.ContentType == ContentCommit {
			if c.Commit.Path == nil {
				return nil, fmt.Errorf("mls: %w: external commit", ErrPathRequired)
			}
			return c.Commit.Path.LeafNode.SignatureKey, nil
		}
	}
	return nil, fmt.Errorf("mls: %w: %v", ErrSender, c.Sender)
}

func (g *PublicGroup) verifyContent(ac *AuthenticatedContent) error {
	key, err := g.signatureKeyOf(&ac.Content)
	if err != nil {
		return err
	}
	return verifyFramed(g.s, key, ac, g.gcBytes)
}

// ReceiveProposal verifies and keeps a proposal that came as a PublicMessage. A
// membership tag is beyond a non-member. Errors: [ErrDuplicate] if it is pending
// already, a [RuleError] if it is not valid; the group is then as it was.
func (g *PublicGroup) ReceiveProposal(msg *MLSMessage) (*PendingProposal, error) {
	m := msg.PublicMessage
	if m == nil {
		return nil, fmt.Errorf("mls: receive proposal: %w: %v", ErrContentType, msg.WireFormat)
	}
	if err := g.checkFraming(&m.Content, ContentProposal); err != nil {
		return nil, fmt.Errorf("mls: receive proposal: %w", err)
	}
	ac := m.AuthenticatedContent()
	if err := g.verifyContent(ac); err != nil {
		return nil, fmt.Errorf("mls: receive proposal: %w", err)
	}
	return g.receiveProposal(ac, msg.Bytes())
}

func (g *PublicGroup) receiveProposal(ac *AuthenticatedContent, raw []byte) (*PendingProposal, error) {
	if a, ok := ac.Content.Proposal.Body.(*Add); ok {
		if err := g.cfg.checkLifetime(&a.KeyPackage.LeafNode); err != nil {
			return nil, fmt.Errorf("mls: receive proposal: %w", err)
		}
	}
	if err := g.checkAlone(ac.Content.Proposal, ac.Content.Sender); err != nil {
		return nil, fmt.Errorf("mls: receive proposal: %w", err)
	}
	p, err := g.keepProposal(ac, raw)
	if err != nil {
		return nil, fmt.Errorf("mls: receive proposal: %w", err)
	}
	return p, nil
}

// checkAlone refuses what no Commit could cover unless it changed the
// membership too. A Delivery Service does not pass it on; a member that is sent
// it all the same keeps it, since a Commit may refer to it.
func (g *PublicGroup) checkAlone(p *Proposal, sender Sender) error {
	if err := g.checkSupported(map[ProposalType]bool{p.Type(): true}, nil); err != nil {
		return err
	}
	switch b := p.Body.(type) {
	case *GroupContextExtensions:
		gc := g.gc.clone()
		gc.Extensions = b.Extensions
		return g.tree.checkContext(gc, g.cfg.CheckComponents)
	case *Update:
		if sender.Type == SenderMember && g.tree.leaf(sender.Leaf) != nil {
			t := g.tree.clone()
			t.update(sender.Leaf, &b.LeafNode)
			return t.checkNew([]LeafIndex{sender.Leaf}, nil)
		}
	}
	return nil
}

// checkLifetimes holds the KeyPackages of a list against the clock.
func (c *Config) checkLifetimes(list []StagedProposal) error {
	for _, p := range list {
		if a, ok := p.Proposal.Body.(*Add); ok {
			if err := c.checkLifetime(&a.KeyPackage.LeafNode); err != nil {
				return fmt.Errorf("mls: add: %w", err)
			}
		}
	}
	return nil
}

// proposalRef is RFC 9420 section 5.2.
func (s *suite) proposalRef(content []byte) ProposalRef {
	return s.refHash("MLS 1.0 Proposal Reference", content)
}

// keepProposal stores a proposal whose signature was verified.
func (g *PublicGroup) keepProposal(ac *AuthenticatedContent, msg []byte) (*PendingProposal, error) {
	content := tlspl.Marshal(ac)
	ref := g.s.proposalRef(content)
	if g.byRef[string(ref)] != nil {
		return nil, fmt.Errorf("mls: %w", ErrDuplicate)
	}
	p := ac.Content.Proposal
	if err := g.checkProposal(p, ac.Content.Sender, g.gc, g.tree); err != nil {
		return nil, err
	}
	switch b := p.Body.(type) {
	case *SelfRemove:
		if ac.WireFormat != WireFormatPublicMessage {
			return nil, fmt.Errorf("mls: %w", ErrSelfRemoveSender)
		}
		for _, q := range g.pending {
			if q.Proposal.Type() == ProposalSelfRemove && q.Sender == ac.Content.Sender {
				return nil, fmt.Errorf("mls: %w", ErrSelfRemoveTwice)
			}
		}
	case *ExternalInit:
		return nil, fmt.Errorf("mls: %w", ErrExternalInitInside)
	case *AppDataUpdate:
		if _, had := g.AppData().Get(b.ComponentID); !had && b.Op == AppDataOpRemove {
			return nil, fmt.Errorf("mls: %w: 0x%04x", ErrAppDataAbsent, uint16(b.ComponentID))
		}
	}
	pp := &PendingProposal{Ref: ref, Proposal: *p, Sender: ac.Content.Sender, AuthenticatedData: ac.Content.AuthenticatedData, Message: msg, content: content}
	g.pending = append(g.pending, pp)
	g.byRef[string(ref)] = pp
	return pp, nil
}

// DropProposal forgets a pending proposal; unknown is no error. Other members
// may still commit it, and then it must be received again first.
func (g *PublicGroup) DropProposal(ref ProposalRef) {
	if g.byRef[string(ref)] == nil {
		return
	}
	delete(g.byRef, string(ref))
	g.pending = slices.DeleteFunc(slices.Clone(g.pending), func(p *PendingProposal) bool { return bytes.Equal(p.Ref, ref) })
}

// StagedPublicCommit is a Commit that was checked but not merged. It is valid
// for the group it was made from, at the epoch it was made in.
type StagedPublicCommit struct {
	Sender     Sender
	Committer  LeafIndex // the sender's leaf in the new epoch
	SenderLeaf *LeafNode // as it was, or the new leaf of an external Commit
	External   bool
	Resync     bool // an external Commit that removes a leaf by Remove
	Path       bool
	// AuthenticatedData of the Commit.
	AuthenticatedData []byte

	Added     []AddedLeaf
	Removed   []RemovedLeaf
	Updated   []UpdatedLeaf
	AppData   []AppDataChange
	Proposals []StagedProposal // all of them, in the order of the Commit
	ReInit    *ReInit
	// NewAppData is the dictionary after the Commit.
	NewAppData AppDataDictionary
	NewEpoch   uint64
	// Unreferenced are the pending proposals the Commit leaves out.
	Unreferenced []ProposalRef

	from []byte // GroupContext it applies to
	next *PublicGroup
	st   *staging
	ac   *AuthenticatedContent
}

// NewMembers lists the members after the Commit.
func (s *StagedPublicCommit) NewMembers() []Member { return s.next.Members() }

// NewLeaf gives the leaf at l after the Commit, nil if it is blank.
func (s *StagedPublicCommit) NewLeaf(l LeafIndex) *LeafNode { return s.next.Leaf(l) }

// NewContext gives the GroupContext after the Commit; not to be changed.
func (s *StagedPublicCommit) NewContext() *GroupContext { return s.next.gc }

// NewTree gives the tree after the Commit.
func (s *StagedPublicCommit) NewTree() *RatchetTree { return s.next.Tree() }

// ConfirmationTag of the Commit.
func (s *StagedPublicCommit) ConfirmationTag() []byte { return s.next.tag }

// InspectCommit checks a Commit that came as a PublicMessage as far as a
// non-member can (RFC 9420 section 12.4.2): all but membership and confirmation
// tag and the path secrets. The group does not change. A reference to a proposal
// that was not received is an [*UnknownProposalError].
func (g *PublicGroup) InspectCommit(msg *MLSMessage) (*StagedPublicCommit, error) {
	m := msg.PublicMessage
	if m == nil {
		return nil, fmt.Errorf("mls: inspect commit: %w: %v", ErrContentType, msg.WireFormat)
	}
	if err := g.checkFraming(&m.Content, ContentCommit); err != nil {
		return nil, fmt.Errorf("mls: inspect commit: %w", err)
	}
	ac := m.AuthenticatedContent()
	if err := g.verifyContent(ac); err != nil {
		return nil, fmt.Errorf("mls: inspect commit: %w", err)
	}
	return g.inspect(ac)
}

func (g *PublicGroup) inspect(ac *AuthenticatedContent) (*StagedPublicCommit, error) {
	s, err := g.stage(ac)
	if err == nil {
		err = g.cfg.checkLifetimes(s.Proposals)
	}
	if err != nil {
		return nil, fmt.Errorf("mls: inspect commit: %w", err)
	}
	return s, nil
}

// stage works out the public side of a Commit whose signature was verified.
func (g *PublicGroup) stage(ac *AuthenticatedContent) (*StagedPublicCommit, error) {
	c, sender := ac.Content.Commit, ac.Content.Sender
	list, err := g.resolve(c, sender)
	if err != nil {
		return nil, err
	}
	st, err := g.apply(list, sender)
	if err != nil {
		return nil, err
	}
	if c.Path == nil && (st.pathNeeded || sender.Type == SenderNewMemberCommit) {
		return nil, fmt.Errorf("mls: %w", ErrPathRequired)
	}
	if c.Path != nil {
		if err := g.applyPath(st, sender, c.Path); err != nil {
			return nil, err
		}
		st.provisional = st.contextBytes()
	}
	return g.finish(st, ac), nil
}

// finish sets transcript hashes and makes the next group.
func (g *PublicGroup) finish(st *staging, ac *AuthenticatedContent) *StagedPublicCommit {
	c, sender := ac.Content.Commit, ac.Content.Sender
	st.gc.ConfirmedTranscriptHash = g.s.confirmedHash(g.interim, ac)
	next := &PublicGroup{cfg: g.cfg, s: g.s, gc: st.gc, gcBytes: st.contextBytes(), tree: st.tree, tag: ac.Auth.ConfirmationTag,
		interim: g.s.interimHash(st.gc.ConfirmedTranscriptHash, ac.Auth.ConfirmationTag), signer: st.committer, closed: st.reInit,
		byRef: map[string]*PendingProposal{}}
	s := &StagedPublicCommit{
		Sender: sender, Committer: st.committer, External: sender.Type == SenderNewMemberCommit, Path: c.Path != nil,
		AuthenticatedData: ac.Content.AuthenticatedData,
		Added:             st.addedLeaves, Removed: st.removed, Updated: st.updated, AppData: st.appData, Proposals: st.list,
		ReInit: st.reInit, NewAppData: st.newAppData, NewEpoch: st.gc.Epoch,
		from: g.gcBytes, next: next, st: st, ac: ac,
	}
	if s.External {
		s.SenderLeaf = st.tree.leaf(st.committer)
		for _, r := range st.removed {
			s.Resync = s.Resync || !r.SelfRemove
		}
	} else {
		s.SenderLeaf = g.tree.leaf(sender.Leaf)
	}
	s.Unreferenced = g.unreferenced(st.list)
	return s
}

// unreferenced are the pending proposals a list leaves out.
func (g *PublicGroup) unreferenced(list []StagedProposal) []ProposalRef {
	covered := map[string]bool{}
	for _, p := range list {
		if p.ByRef {
			covered[string(p.Ref)] = true
		}
	}
	var out []ProposalRef
	for _, p := range g.pending {
		if !covered[string(p.Ref)] {
			out = append(out, p.Ref)
		}
	}
	return out
}

// MergeCommit makes the staged Commit's epoch the current one; pending proposals
// go. It fails with [ErrStale] if the group has moved since.
func (g *PublicGroup) MergeCommit(s *StagedPublicCommit) error {
	if !bytes.Equal(s.from, g.gcBytes) {
		return fmt.Errorf("mls: merge commit: %w", ErrStale)
	}
	*g = *s.next
	// The staged commit keeps a view of its own, should it be asked later.
	s.next = g.Clone()
	return nil
}

// VerifyGroupInfo holds a GroupInfo a committer sent against the epoch s leads to
// or, if s is nil, against the current one: same context and confirmation tag,
// signed by the committer's new leaf (RFC 9420 section 12.4.3). It is then what
// [PublicGroup.StoredGroupInfo] gives in that epoch.
func (g *PublicGroup) VerifyGroupInfo(s *StagedPublicCommit, info *GroupInfo) error {
	at := g
	if s != nil {
		at = s.next
	}
	if !bytes.Equal(tlspl.Marshal(&info.GroupContext), at.gcBytes) || !bytes.Equal(info.ConfirmationTag, at.tag) {
		return fmt.Errorf("mls: verify group info: %w", ErrGroupInfoDiffers)
	}
	leaf := at.tree.leaf(info.Signer)
	if leaf == nil || info.Signer != at.signer {
		return fmt.Errorf("mls: verify group info: %w: leaf %d", ErrGroupInfoSigner, info.Signer)
	}
	if err := info.verifySignature(leaf.SignatureKey); err != nil {
		return fmt.Errorf("mls: verify group info: %w: %w", ErrGroupInfoSigner, err)
	}
	at.keepInfo(info)
	return nil
}

// CompleteGroupInfo completes a PartialGroupInfo with what the group knows of the
// epoch s leads to, or of the current one if s is nil, and verifies it
// (draft-mahy-mls-ratchet-tree-options section "Conveying the GroupInfo").
func (g *PublicGroup) CompleteGroupInfo(s *StagedPublicCommit, p *PartialGroupInfo) (*GroupInfo, error) {
	at := g
	if s != nil {
		at = s.next
	}
	if _, ok := p.Extensions.Get(ExtensionRatchetTree); ok {
		return nil, fmt.Errorf("mls: complete group info: %w: ratchet_tree in a PartialGroupInfo", ErrGroupInfoDiffers)
	}
	info := &GroupInfo{GroupContext: *at.gc.clone(), Extensions: p.Extensions.Clone(), ConfirmationTag: at.tag, Signer: at.signer, Signature: p.Signature}
	if p.Presence == RatchetTreeNone || p.Presence == RatchetTreeRemoved {
		if err := g.VerifyGroupInfo(s, info); err != nil {
			return nil, err
		}
		return info, nil
	}
	// The draft does not say where in the list the tree stood, and the signature
	// covers it: the ends first, then between.
	if len(p.Extensions) > maxPartialExtensions {
		return nil, fmt.Errorf("mls: complete group info: %w: %d extensions", ErrGroupInfoDiffers, len(p.Extensions))
	}
	tree := Extension{ExtensionRatchetTree, tlspl.Marshal(at.tree.export())}
	var err error
	for i := range len(p.Extensions) + 1 {
		info.Extensions = slices.Insert(p.Extensions.Clone(), len(p.Extensions)-i, tree)
		if err = g.VerifyGroupInfo(s, info); err == nil {
			return info, nil
		}
	}
	return nil, err
}

// maxPartialExtensions bounds the signatures tried for one PartialGroupInfo.
const maxPartialExtensions = 8

// CompleteTree gives the ratchet tree that o stands for in the epoch s leads to,
// or in the current one if s is nil (draft-mahy-mls-ratchet-tree-options section
// "Conveying the Ratchet Tree"): what a Delivery Service hands to joiners. A full
// tree must be the group's; for distributionService it is taken from the group,
// which is how a hub that reads all handshakes holds it. The other
// representations are for the caller to fetch and give as a full one.
func (g *PublicGroup) CompleteTree(s *StagedPublicCommit, o *RatchetTreeOption) (*RatchetTree, error) {
	at := g
	if s != nil {
		at = s.next
	}
	switch o.Representation {
	case RatchetTreeFull:
		if o.Tree == nil || !bytes.Equal(tlspl.Marshal(o.Tree), tlspl.Marshal(at.tree.export())) {
			return nil, fmt.Errorf("mls: complete tree: %w", ErrTreeHash)
		}
		return o.Tree, nil
	case RatchetTreeDistributionService:
		return at.tree.export(), nil
	}
	return nil, fmt.Errorf("mls: complete tree: %w: representation %d is to be fetched", ErrTree, o.Representation)
}

// SignExternalProposal makes a proposal by the external sender of that index
// (RFC 9420 section 12.1.8).
func SignExternalProposal(cfg *Config, gc *GroupContext, senderIndex uint32, key *SignatureKey, p Proposal, aad []byte) (*MLSMessage, error) {
	info, ok := proposalTypes[p.Type()]
	if !ok || !info.External {
		return nil, fmt.Errorf("mls: external proposal: %w: %v", ErrProposalSender, p.Type())
	}
	return signOutside(cfg, gc, Sender{Type: SenderExternal, Index: senderIndex}, key, p, aad)
}

// SignNewMemberProposal makes an Add by the client that wants to join (RFC 9420
// section 12.1.8); key is that of the KeyPackage.
func SignNewMemberProposal(cfg *Config, gc *GroupContext, key *SignatureKey, kp *KeyPackage, aad []byte) (*MLSMessage, error) {
	return signOutside(cfg, gc, Sender{Type: SenderNewMemberProposal}, key, Proposal{&Add{KeyPackage: *kp}}, aad)
}

func signOutside(cfg *Config, gc *GroupContext, sender Sender, key *SignatureKey, p Proposal, aad []byte) (*MLSMessage, error) {
	s, err := gc.CipherSuite.impl()
	if err != nil {
		return nil, err
	}
	if p, err = fillPSK(cfg, s, p); err != nil {
		return nil, err
	}
	if aad, err = outgoingAAD(gc, aad); err != nil {
		return nil, fmt.Errorf("mls: external proposal: %w", err)
	}
	ac, err := signFramed(key, WireFormatPublicMessage, FramedContent{
		GroupID: gc.GroupID, Epoch: gc.Epoch, Sender: sender, AuthenticatedData: aad, ContentType: ContentProposal, Proposal: &p,
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("mls: external proposal: %w", err)
	}
	m, err := s.publicMessage(ac, nil, nil)
	if err != nil {
		return nil, err
	}
	return NewMessage(m), nil
}

// fillPSK gives a PreSharedKey proposal without a nonce a fresh one.
func fillPSK(cfg *Config, s *suite, p Proposal) (Proposal, error) {
	b, ok := p.Body.(*PreSharedKey)
	if !ok || len(b.PSK.Nonce) > 0 {
		return p, nil
	}
	nonce, err := cfg.random(s.nh)
	if err != nil {
		return p, err
	}
	id := b.PSK
	id.Nonce = nonce
	return Proposal{&PreSharedKey{id}}, nil
}

const publicStateVersion = 1

// MarshalBinary writes the group: context, tree, hashes, tag, GroupInfo and
// pending proposals.
func (g *PublicGroup) MarshalBinary() ([]byte, error) {
	w := tlspl.NewWriter()
	g.marshal(w)
	return w.Bytes(), nil
}

func (g *PublicGroup) marshal(w *tlspl.Writer) {
	w.Uint8(publicStateVersion)
	g.gc.MarshalTLS(w)
	g.tree.export().MarshalTLS(w)
	w.Opaque(g.interim)
	w.Opaque(g.tag)
	w.Uint32(uint32(g.signer))
	w.Optional(g.info != nil, func(w *tlspl.Writer) { g.info.MarshalTLS(w) })
	w.Optional(g.closed != nil, func(w *tlspl.Writer) { g.closed.MarshalTLS(w) })
	g.marshalProposals(w)
}

func (g *PublicGroup) marshalProposals(w *tlspl.Writer) {
	w.Vector(func(w *tlspl.Writer) {
		for _, p := range g.pending {
			w.Opaque(p.content)
			w.Opaque(p.Message)
		}
	})
}

func readProposals(r *tlspl.Reader) (out []*PendingProposal) {
	r.Vector(func(r *tlspl.Reader) {
		content, msg := r.Opaque(), r.Opaque()
		ac := new(AuthenticatedContent)
		if err := tlspl.Unmarshal(content, ac); err != nil || ac.Content.Proposal == nil {
			r.Failf("pending proposal: %v", err)
			return
		}
		out = append(out, &PendingProposal{Proposal: *ac.Content.Proposal, Sender: ac.Content.Sender,
			AuthenticatedData: ac.Content.AuthenticatedData, Message: msg, content: content})
	})
	return out
}

// setPending takes proposals that were read.
func (g *PublicGroup) setPending(list []*PendingProposal) {
	g.pending, g.byRef = list, make(map[string]*PendingProposal, len(list))
	for _, p := range list {
		p.Ref = g.s.proposalRef(p.content)
		g.byRef[string(p.Ref)] = p
	}
}

// LoadPublicGroup reads what MarshalBinary wrote. Nothing is verified again: the
// bytes are trusted as the state they were.
func LoadPublicGroup(cfg *Config, b []byte) (*PublicGroup, error) {
	r := tlspl.NewReader(b)
	g := readPublicGroup(cfg, r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("mls: load public group: %w: %w", ErrState, err)
	}
	return g, nil
}

func readPublicGroup(cfg *Config, r *tlspl.Reader) *PublicGroup {
	g := &PublicGroup{cfg: cfg, gc: new(GroupContext)}
	if v := r.Uint8(); r.Err() == nil && v != publicStateVersion {
		r.Failf("state version %d", v)
	}
	g.gc.UnmarshalTLS(r)
	rt := new(RatchetTree)
	rt.UnmarshalTLS(r)
	g.interim = r.Opaque()
	g.tag = r.Opaque()
	g.signer = LeafIndex(r.Uint32())
	r.Optional(func(r *tlspl.Reader) {
		g.info = new(GroupInfo)
		g.info.UnmarshalTLS(r)
	})
	r.Optional(func(r *tlspl.Reader) {
		g.closed = new(ReInit)
		g.closed.UnmarshalTLS(r)
	})
	pending := readProposals(r)
	if r.Err() != nil {
		return nil
	}
	var err error
	if g.s, err = g.gc.CipherSuite.impl(); err == nil {
		g.tree, err = treeFrom(g.s, rt)
	}
	if err != nil {
		r.Fail(err)
		return nil
	}
	g.gcBytes = tlspl.Marshal(g.gc)
	g.setPending(pending)
	return g
}
