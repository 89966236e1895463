package mls

import (
	"bytes"
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// CommitOptions says what a Commit is to hold.
type CommitOptions struct {
	// Proposals by value.
	Proposals []Proposal
	AAD       []byte
	// WireFormat: 0 is WireFormatPublicMessage.
	WireFormat WireFormat
	// ForcePath adds a path where none is needed.
	ForcePath bool
	// Without leaves pending proposals out.
	Without []ProposalRef
	// Leaf changes the committer's leaf node; it forces a path.
	Leaf *LeafOptions
	// TreeInWelcome puts the tree into the Welcome's GroupInfo.
	TreeInWelcome bool
	// GroupInfoExtensions are added to the GroupInfo.
	GroupInfoExtensions Extensions
}

// CommitOutput is a Commit and what goes with it. Nothing of it counts before
// the Commit is accepted and merged.
type CommitOutput struct {
	Message *MLSMessage
	Welcome *Welcome // nil if the Commit adds no one
	// GroupInfo of the new epoch with external_pub, without the tree.
	GroupInfo *GroupInfo
	// Tree of the new epoch.
	Tree            *RatchetTree
	ConfirmationTag []byte
	// Pending is what [Group.MergePending] needs besides the group as it is. It
	// holds secrets.
	Pending []byte
	// Staged is the new epoch as it will be.
	Staged *StagedPublicCommit
}

// pendingCommit is a Commit of our own that was not merged: enough to work the
// next epoch out again.
type pendingCommit struct {
	epoch      uint64
	hash       []byte   // of the MLSMessage
	content    []byte   // the AuthenticatedContent with its confirmation tag
	pathSecret []byte   // the first one; nil without a path
	leafKey    *hpkeKey // nil without a path
	sig        *SignatureKey
	init       []byte // of an external Commit

	// public is the public side worked out, if the Commit was made in this
	// process.
	public *StagedPublicCommit
}

func (p *pendingCommit) MarshalTLS(w *tlspl.Writer) {
	w.Uint64(p.epoch)
	w.Opaque(p.hash)
	w.Opaque(p.content)
	w.Opaque(p.pathSecret)
	if p.leafKey == nil {
		w.Opaque(nil)
	} else {
		w.Opaque(p.leafKey.raw)
	}
	p.sig.marshalState(w)
	w.Opaque(p.init)
}

func (p *pendingCommit) UnmarshalTLS(r *tlspl.Reader) {
	p.epoch = r.Uint64()
	p.hash, p.content, p.pathSecret = r.Opaque(), r.Opaque(), r.Opaque()
	p.leafKey = &hpkeKey{raw: r.Opaque()}
	p.sig = readSignatureKey(r)
	if p.init = r.Opaque(); len(p.init) == 0 {
		p.init = nil
	}
}

// PendingCommit tells whether a Commit of our own waits to be merged.
func (g *Group) PendingCommit() bool { return g.own != nil }

// ClearPending forgets the pending Commit.
func (g *Group) ClearPending() { g.own = nil }

// PendingTag gives the confirmation tag of the pending Commit, nil without one:
// a GroupInfo of the next epoch that carries it tells that the Commit was
// accepted.
func (g *Group) PendingTag() []byte {
	if g.own == nil {
		return nil
	}
	ac := new(AuthenticatedContent)
	if tlspl.Unmarshal(g.own.content, ac) != nil {
		return nil
	}
	return ac.Auth.ConfirmationTag
}

// Commit makes a Commit by a local leaf that covers all pending proposals but
// the leaf's own Update and those superseded (RFC 9420 section 12.4.1), and
// opts.Proposals. It is held as pending and changes nothing until merged, apart
// from a generation of the handshake ratchet if it is a PrivateMessage. Errors:
// [ErrPendingCommit], [ErrLeafDeparting], [ErrNotLocal], or a [RuleError].
func (g *Group) Commit(leaf LeafIndex, opts CommitOptions) (*CommitOutput, error) {
	out, err := g.commit(leaf, opts)
	if err != nil {
		return nil, fmt.Errorf("mls: commit: %w", err)
	}
	return out, nil
}

func (g *Group) commit(leaf LeafIndex, opts CommitOptions) (*CommitOutput, error) {
	ll := g.locals[leaf]
	switch {
	case ll == nil || g.secrets == nil:
		return nil, fmt.Errorf("%w: %d", ErrNotLocal, leaf)
	case g.own != nil:
		return nil, ErrPendingCommit
	case g.closed != nil:
		return nil, ErrReInitialised
	}
	if opts.WireFormat == 0 {
		opts.WireFormat = WireFormatPublicMessage
	}
	sender := Sender{Type: SenderMember, Leaf: leaf}
	refs, err := g.selectPending(leaf, opts.Without)
	if err != nil {
		return nil, err
	}
	list := make([]StagedProposal, 0, len(refs)+len(opts.Proposals))
	for _, p := range refs {
		list = append(list, StagedProposal{p.Proposal, p.Sender, true, p.Ref})
	}
	for _, p := range opts.Proposals {
		if p.Body == nil {
			return nil, ErrProposalType
		}
		if p, err = fillPSK(g.cfg, g.s, p); err != nil {
			return nil, err
		}
		list = append(list, StagedProposal{Proposal: p, Sender: sender})
	}
	if err := g.cfg.checkLifetimes(list); err != nil {
		return nil, err
	}
	st, err := g.apply(list, sender)
	if err != nil {
		if st, err = g.applySome(list[:len(refs)], list[len(refs):], sender, err); err != nil {
			return nil, err
		}
	}
	own := &pendingCommit{epoch: g.gc.Epoch, sig: ll.sig}
	var path *pathMaker
	if st.pathNeeded || opts.ForcePath || opts.Leaf != nil {
		n, sig, priv, err := g.newLeafNode(leaf, opts.Leaf)
		if err != nil {
			return nil, err
		}
		path = &pathMaker{leaf: n, sig: sig}
		own.leafKey, own.sig = priv, sig
		if err := g.cfg.checkLeaf(g.s, n, st.gc, ReasonUpdate, g.tree.leaf(leaf)); err != nil {
			return nil, err
		}
	}
	return g.makeCommit(st, sender, ll.sig, own, path, opts)
}

type pathMaker struct {
	leaf *LeafNode
	sig  *SignatureKey
}

// makeCommit does the steps that a member's and an external Commit share (RFC
// 9420 section 12.4.1). key signs the message, own.sig what comes after it.
func (g *Group) makeCommit(st *staging, sender Sender, key *SignatureKey, own *pendingCommit, path *pathMaker, opts CommitOptions) (*CommitOutput, error) {
	commit := &Commit{Proposals: make([]ProposalOrRef, 0, len(st.list))}
	for i := range st.list {
		p := &st.list[i]
		if p.ByRef {
			commit.Proposals = append(commit.Proposals, ProposalOrRef{Ref: p.Ref})
		} else {
			commit.Proposals = append(commit.Proposals, ProposalOrRef{Proposal: &p.Proposal})
		}
	}
	var secrets *pathSecrets
	if path != nil {
		var err error
		if own.pathSecret, err = g.cfg.random(g.s.nh); err != nil {
			return nil, err
		}
		if secrets, err = st.tree.newPath(st.committer, path.leaf, path.sig, g.gc.GroupID, own.pathSecret); err != nil {
			return nil, err
		}
		if err := st.finishPath(secrets.steps); err != nil {
			return nil, err
		}
		st.provisional = st.contextBytes()
		if commit.Path, err = st.tree.encryptPath(st.committer, secrets, st.provisional, st.added); err != nil {
			return nil, err
		}
	}
	aad, err := outgoingAAD(g.gc, opts.AAD)
	if err != nil {
		return nil, err
	}
	ac, err := signFramed(key, opts.WireFormat, FramedContent{GroupID: g.gc.GroupID, Epoch: g.gc.Epoch, Sender: sender,
		AuthenticatedData: aad, ContentType: ContentCommit, Commit: commit}, g.gcBytes)
	if err != nil {
		return nil, err
	}
	// The confirmation tag needs the new key schedule, which needs the
	// transcript hash of the Commit without the tag.
	st.gc.ConfirmedTranscriptHash = g.s.confirmedHash(g.interim, ac)
	context := st.contextBytes()
	commitSecret := g.s.zero()
	if secrets != nil {
		commitSecret = secrets.commit
	}
	init := own.init
	if init == nil {
		init = g.secrets.init
	}
	psks, err := findPSKs(st.psks, g.ownResumption, g.cfg.PSKs)
	if err != nil {
		return nil, err
	}
	psk := g.s.pskSecret(psks)
	joiner := g.s.joinerSecret(init, commitSecret, context)
	epoch := g.s.epochSecrets(joiner, psk, context)
	ac.Auth.ConfirmationTag = g.s.mac(epoch.confirmation, st.gc.ConfirmedTranscriptHash)

	var msg *MLSMessage
	if sender.Type == SenderMember {
		msg, err = g.protect(ac)
	} else {
		var m *PublicMessage
		if m, err = g.s.publicMessage(ac, nil, nil); err == nil {
			msg = NewMessage(m)
		}
	}
	if err != nil {
		return nil, err
	}
	staged := g.finish(st, ac)
	out := &CommitOutput{Message: msg, ConfirmationTag: ac.Auth.ConfirmationTag, Tree: st.tree.export(), Staged: staged}
	if out.GroupInfo, err = g.s.groupInfo(g.cfg, st.gc, ac.Auth.ConfirmationTag, epoch.external, st.committer, own.sig, opts.GroupInfoExtensions); err != nil {
		return nil, err
	}
	if len(st.added) > 0 {
		info := out.GroupInfo
		if opts.TreeInWelcome {
			inside := opts.GroupInfoExtensions.Set(ExtensionRatchetTree, tlspl.Marshal(out.Tree))
			if info, err = g.s.groupInfo(g.cfg, st.gc, ac.Auth.ConfirmationTag, epoch.external, st.committer, own.sig, inside); err != nil {
				return nil, err
			}
		}
		if out.Welcome, err = g.s.welcome(st, secrets, joiner, psk, info); err != nil {
			return nil, err
		}
	}
	own.hash = g.s.hash(msg.Bytes())
	own.content = tlspl.Marshal(ac)
	own.public = staged
	out.Pending = tlspl.Marshal(own)
	g.own = own
	return out, nil
}

// welcome makes the Welcome of a Commit's Adds (RFC 9420 section 12.4.3.1).
func (s *suite) welcome(st *staging, path *pathSecrets, joiner, psk []byte, info *GroupInfo) (*Welcome, error) {
	key, nonce := s.welcomeKey(s.welcomeSecret(joiner, psk))
	sealed, err := s.seal(key, nonce, nil, tlspl.Marshal(info))
	if err != nil {
		return nil, err
	}
	w := &Welcome{CipherSuite: s.id, EncryptedGroupInfo: sealed}
	ids := make([]PreSharedKeyID, len(st.psks))
	for i, id := range st.psks {
		ids[i] = *id
	}
	w.Secrets = make([]EncryptedGroupSecrets, 0, len(st.addedLeaves))
	var plain [][]byte
	var initKeys [][]byte
	for _, a := range st.addedLeaves {
		if a.KeyPackage == nil {
			continue
		}
		gs := GroupSecrets{JoinerSecret: joiner, PSKs: ids}
		if path != nil {
			gs.PathSecret = path.at(commonAncestor(st.committer, a.Leaf))
		}
		ref, err := a.KeyPackage.Ref(s.id)
		if err != nil {
			return nil, err
		}
		w.Secrets = append(w.Secrets, EncryptedGroupSecrets{NewMember: ref})
		plain, initKeys = append(plain, tlspl.Marshal(&gs)), append(initKeys, a.KeyPackage.InitKey)
	}
	if err := inParallel(len(plain), sealBatch, func(i int) (err error) {
		w.Secrets[i].GroupSecrets, err = s.encryptWithLabel(initKeys[i], "Welcome", sealed, plain[i])
		return err
	}); err != nil {
		return nil, err
	}
	return w, nil
}

// stageOwn works out the epoch a Commit of our own leads to.
func (g *Group) stageOwn(own *pendingCommit) (*Staged, error) {
	if own.epoch != g.gc.Epoch {
		return nil, fmt.Errorf("mls: %w: made in epoch %d", ErrStale, own.epoch)
	}
	if own.public != nil && bytes.Equal(own.public.from, g.gcBytes) {
		s := *own.public
		s.Unreferenced = g.unreferenced(s.Proposals)
		return g.stageSecrets(&s, own)
	}
	ac := new(AuthenticatedContent)
	if err := tlspl.Unmarshal(own.content, ac); err != nil || ac.Content.Commit == nil {
		return nil, fmt.Errorf("mls: %w: pending commit: %v", ErrState, err)
	}
	public, err := g.stage(ac)
	if err != nil {
		return nil, err
	}
	return g.stageSecrets(public, own)
}

// MergePending merges a Commit of our own that was accepted: the one in memory
// or, if pending is not nil, one from CommitOutput.Pending. The group must be at
// the epoch it was made in and know the proposals it refers to.
func (g *Group) MergePending(pending []byte) (*Staged, error) {
	s, err := g.StagePending(pending)
	if err != nil {
		return nil, err
	}
	return s, g.MergeStaged(s)
}

// StagePending is MergePending without the merge.
func (g *Group) StagePending(pending []byte) (*Staged, error) {
	own := g.own
	if pending != nil {
		own = new(pendingCommit)
		if err := tlspl.Unmarshal(pending, own); err != nil {
			return nil, fmt.Errorf("mls: merge pending: %w: %w", ErrState, err)
		}
	}
	if own == nil {
		return nil, fmt.Errorf("mls: merge pending: %w", ErrNoPending)
	}
	s, err := g.stageOwn(own)
	if err != nil {
		return nil, fmt.Errorf("mls: merge pending: %w", err)
	}
	return s, nil
}

// SetPending takes a Commit of our own up again from CommitOutput.Pending, so
// that [Group.StageCommit] knows it when it comes back.
func (g *Group) SetPending(pending []byte) error {
	own := new(pendingCommit)
	if err := tlspl.Unmarshal(pending, own); err != nil {
		return fmt.Errorf("mls: set pending: %w: %w", ErrState, err)
	}
	if own.epoch != g.gc.Epoch {
		return fmt.Errorf("mls: set pending: %w: made in epoch %d", ErrStale, own.epoch)
	}
	g.own = own
	return nil
}

// PendingExplains tells whether a message of the next epoch was made by someone
// who has merged the Commit that is pending here: then it was accepted, though
// no one has said so. The message is not verified beyond that.
func (g *Group) PendingExplains(msg *MLSMessage) bool {
	if g.own == nil || !bytes.Equal(msg.GroupID(), g.gc.GroupID) || msg.Epoch() != g.gc.Epoch+1 {
		return false
	}
	s, err := g.stageOwn(g.own)
	if err != nil {
		return false
	}
	switch {
	case msg.PrivateMessage != nil:
		_, err := g.s.openSenderData(s.secrets.senderData, msg.PrivateMessage)
		return err == nil
	case msg.PublicMessage != nil && msg.PublicMessage.Content.Sender.Type == SenderMember:
		return g.s.verifyMembership(msg.PublicMessage, s.secrets.membership, s.next.gcBytes) == nil
	}
	return false
}

// IsPending tells whether msg is the Commit that is pending here.
func (g *Group) IsPending(msg *MLSMessage) bool {
	return g.own != nil && bytes.Equal(g.s.hash(msg.Bytes()), g.own.hash)
}
