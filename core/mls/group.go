package mls

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// localLeaf is a member this state acts for.
type localLeaf struct {
	sig    *SignatureKey
	joined uint64 // the first epoch the leaf was in
}

// updateKeys are the private keys of an Update that was proposed.
type updateKeys struct {
	leaf *hpkeKey
	sig  *SignatureKey
}

// pastEpoch decrypts late messages.
type pastEpoch struct {
	gc         *GroupContext
	gcBytes    []byte
	tree       *tree
	senderData []byte
	resumption []byte
	secrets    *secretTree
	locals     []LeafIndex
}

// Group is the state of any number of members of one group that are kept
// together: a PublicGroup, the key schedule, one map of the tree's private keys
// that is the union of what the local leaves know, and a signature key for each.
// At most one Commit is pending. Not safe for concurrent use.
//
// Rules of the shared state: a path is decrypted with whatever private key is
// known lowest down the committer's path; keys of nodes that were blanked or
// replaced go; a Commit by a local leaf encrypts to the other local leaves as to
// anyone, so that each of them could also be moved to a state of its own.
type Group struct {
	*PublicGroup
	secrets *epochSecrets
	st      *secretTree
	exports *exportTree
	keys    nodeKeys
	locals  map[LeafIndex]*localLeaf
	list    []LeafIndex // the keys of locals, sorted; nil if to be listed again
	updates map[string]*updateKeys
	own     *pendingCommit
	past    []*pastEpoch // the newest last
	// gone are rows to delete that no tree holds any more.
	gone []RatchetRow
	// What TakeState gave out last.
	saved        stateStamp
	savedPending []byte
	attached     int
}

// LeafOptions is what goes into a LeafNode of a local leaf. Where an existing
// leaf is updated, what is zero or nil stays as it is.
type LeafOptions struct {
	Credential   Credential
	Signature    *SignatureKey
	Capabilities *Capabilities // nil: DefaultCapabilities
	Lifetime     *Lifetime     // nil: 90 days from now
	Extensions   Extensions
}

// CreateOptions is what a new group starts with.
type CreateOptions struct {
	Suite   CipherSuite
	GroupID []byte
	Leaf    LeafOptions
	// Extensions are the GroupContext's.
	Extensions Extensions
}

// CreateGroup makes a group of one member, leaf 0 (RFC 9420 section 11).
func CreateGroup(cfg *Config, opts CreateOptions) (*Group, error) {
	g, err := createGroup(cfg, opts)
	if err != nil {
		return nil, fmt.Errorf("mls: create group: %w", err)
	}
	return g, nil
}

func createGroup(cfg *Config, opts CreateOptions) (*Group, error) {
	s, err := opts.Suite.impl()
	if err != nil {
		return nil, err
	}
	if opts.Leaf.Signature == nil || opts.Leaf.Signature.Suite.scheme() != s.sig {
		return nil, ErrSignatureKey
	}
	priv, pub, err := s.generateHPKE(cfg.rand())
	if err != nil {
		return nil, err
	}
	leaf := &LeafNode{EncryptionKey: pub, SignatureKey: opts.Leaf.Signature.Public(), Credential: opts.Leaf.Credential,
		Capabilities: capabilitiesOr(opts.Leaf.Capabilities), Source: LeafNodeKeyPackage, Lifetime: cfg.lifetimeOr(opts.Leaf.Lifetime),
		Extensions: opts.Leaf.Extensions.Clone()}
	if err := cfg.grease(leaf); err != nil {
		return nil, err
	}
	if err := leaf.sign(opts.Leaf.Signature, nil, 0); err != nil {
		return nil, err
	}
	t := newTree(s, 1)
	t.setLeaf(0, leaf)
	gc := &GroupContext{Version: MLS10, CipherSuite: opts.Suite, GroupID: bytes.Clone(opts.GroupID), TreeHash: t.rootHash(), Extensions: opts.Extensions.Clone()}
	pg := &PublicGroup{cfg: cfg, s: s, gc: &GroupContext{GroupID: gc.GroupID}, tree: t, byRef: map[string]*PendingProposal{}}
	if err := pg.checkContextExtensions(gc.Extensions); err != nil {
		return nil, err
	}
	pg.gc, pg.gcBytes = gc, tlspl.Marshal(gc)
	if err := cfg.checkLeaf(s, leaf, gc, ReasonKeyPackage, nil); err != nil {
		return nil, err
	}
	epoch, err := cfg.random(s.nh)
	if err != nil {
		return nil, err
	}
	g := &Group{PublicGroup: pg, keys: nodeKeys{0: priv}, locals: map[LeafIndex]*localLeaf{0: {opts.Leaf.Signature, 0}}, updates: map[string]*updateKeys{}}
	g.begin(s.secretsOf(epoch))
	g.tag = s.mac(g.secrets.confirmation, nil)
	g.interim = s.interimHash(nil, g.tag)
	return g, nil
}

// begin takes up the secrets of the current epoch.
func (g *Group) begin(e *epochSecrets) {
	g.secrets = e
	g.st = newSecretTree(g.s, g.tree.leaves, e.encryption)
	g.exports = newExportTree(g.s, e.appExport)
	e.encryption, e.appExport = nil, nil
}

// LocalLeaves lists the leaves this state acts for, in order.
func (g *Group) LocalLeaves() []LeafIndex { return slices.Clone(g.localList()) }

func (g *Group) localList() []LeafIndex {
	if g.list == nil {
		g.list = slices.Sorted(maps.Keys(g.locals))
	}
	return g.list
}

// IsLocal tells whether l is a local leaf.
func (g *Group) IsLocal(l LeafIndex) bool { return g.locals[l] != nil }

// Joined gives the first epoch in which the local leaf l was a member.
func (g *Group) Joined(l LeafIndex) (uint64, bool) {
	if ll := g.locals[l]; ll != nil {
		return ll.joined, true
	}
	return 0, false
}

// Complete tells whether all private keys leaf l should know are known. Paths
// can be followed only while some local leaf is complete; before the last one
// leaves, another should commit with a path.
func (g *Group) Complete(l LeafIndex) bool {
	return g.locals[l] != nil && g.tree.complete(l, g.keys)
}

// EpochAuthenticator is RFC 9420 section 8.7.
func (g *Group) EpochAuthenticator() []byte {
	if g.secrets == nil {
		return nil
	}
	return g.secrets.authentic
}

// ExportSecret is the MLS-Exporter (RFC 9420 section 8.5) for n bytes.
func (g *Group) ExportSecret(label string, context []byte, n int) ([]byte, error) {
	if g.secrets == nil {
		return nil, fmt.Errorf("mls: export: %w", ErrNotLocal)
	}
	return g.s.export(g.secrets.exporter, label, context, n)
}

// SafeExportSecret gives the exported secret of a component, once an epoch
// (draft-ietf-mls-extensions section "Exported Secrets"). It is a change of
// state that goes with the ratchets.
func (g *Group) SafeExportSecret(id ComponentID) ([]byte, error) {
	if g.secrets == nil {
		return nil, fmt.Errorf("mls: safe export: %w", ErrNotLocal)
	}
	return g.exports.take(id)
}

// GroupInfo makes a GroupInfo of the current epoch with external_pub and without
// the tree, signed by a local leaf (RFC 9420 section 12.4.3).
func (g *Group) GroupInfo(leaf LeafIndex) (*GroupInfo, error) {
	ll := g.locals[leaf]
	if ll == nil {
		return nil, fmt.Errorf("mls: group info: %w: %d", ErrNotLocal, leaf)
	}
	info, err := g.s.groupInfo(g.cfg, g.gc, g.tag, g.secrets.external, leaf, ll.sig, nil)
	if err != nil {
		return nil, fmt.Errorf("mls: group info: %w", err)
	}
	return info, nil
}

// GroupInfoWithTree is [Group.GroupInfo] with the ratchet_tree inside: what a
// client that has nothing else joins by.
func (g *Group) GroupInfoWithTree(leaf LeafIndex) (*GroupInfo, error) {
	ll := g.locals[leaf]
	if ll == nil || g.secrets == nil {
		return nil, fmt.Errorf("mls: group info: %w: %d", ErrNotLocal, leaf)
	}
	inside := Extensions{{ExtensionRatchetTree, tlspl.Marshal(g.tree.export())}}
	info, err := g.s.groupInfo(g.cfg, g.gc, g.tag, g.secrets.external, leaf, ll.sig, inside)
	if err != nil {
		return nil, fmt.Errorf("mls: group info: %w", err)
	}
	return info, nil
}

func (s *suite) groupInfo(cfg *Config, gc *GroupContext, tag, external []byte, signer LeafIndex, key *SignatureKey, ext Extensions) (*GroupInfo, error) {
	_, pub, err := s.kem.derive(external)
	if err != nil {
		return nil, err
	}
	w := tlspl.NewWriter()
	w.Opaque(pub)
	info := &GroupInfo{GroupContext: *gc.clone(), Extensions: ext.Set(ExtensionExternalPub, w.Bytes()), ConfirmationTag: tag, Signer: signer}
	if cfg.GREASE {
		v, err := cfg.randomGREASE()
		if err != nil {
			return nil, err
		}
		if info.Extensions, err = cfg.greaseExtensions(info.Extensions, ExtensionType(v)); err != nil {
			return nil, err
		}
	}
	return info, info.sign(key)
}

// MergeCommit would move the public half alone and fails; see [Group.MergeStaged].
func (g *Group) MergeCommit(*StagedPublicCommit) error {
	return fmt.Errorf("mls: merge commit: %w: a Group needs MergeStaged", ErrStale)
}

// ownResumption gives the resumption PSK of an epoch of this group that is
// held, nil otherwise.
func (g *Group) ownResumption(group []byte, epoch uint64) []byte {
	if !bytes.Equal(group, g.gc.GroupID) {
		return nil
	}
	if epoch == g.gc.Epoch && g.secrets != nil {
		return g.secrets.resumption
	}
	for _, p := range g.past {
		if p.gc.Epoch == epoch {
			return p.resumption
		}
	}
	return nil
}

// newLeafNode is the current node of a local leaf with what opts changes and a
// fresh encryption key; it is not signed yet.
func (g *Group) newLeafNode(l LeafIndex, opts *LeafOptions) (n *LeafNode, sig *SignatureKey, priv *hpkeKey, err error) {
	n = g.tree.leaf(l).clone()
	sig = g.locals[l].sig
	if opts != nil {
		if opts.Credential.Type != 0 {
			n.Credential = opts.Credential
		}
		if opts.Signature != nil {
			if opts.Signature.Suite.scheme() != g.s.sig {
				return nil, nil, nil, ErrSignatureKey
			}
			sig = opts.Signature
			n.SignatureKey = sig.Public()
		}
		if opts.Capabilities != nil {
			n.Capabilities = *opts.Capabilities
		}
		if opts.Extensions != nil {
			n.Extensions = opts.Extensions.Clone()
		}
		if opts.Capabilities != nil || opts.Extensions != nil {
			if err := g.cfg.grease(n); err != nil {
				return nil, nil, nil, err
			}
		}
	}
	n.Source, n.Lifetime, n.ParentHash = LeafNodeCommit, Lifetime{}, nil
	priv, n.EncryptionKey, err = g.s.generateHPKE(g.cfg.rand())
	return n, sig, priv, err
}

// Propose makes a proposal by a local leaf as a PublicMessage and keeps it as
// pending (RFC 9420 section 12.1). An [Update] with an empty LeafNode refreshes
// the leaf; its private key is kept until the epoch ends.
func (g *Group) Propose(leaf LeafIndex, p Proposal, aad []byte) (*MLSMessage, *PendingProposal, error) {
	return g.ProposeAs(leaf, p, aad, WireFormatPublicMessage)
}

// ProposeAs is Propose with the wire format, public or private.
func (g *Group) ProposeAs(leaf LeafIndex, p Proposal, aad []byte, wire WireFormat) (*MLSMessage, *PendingProposal, error) {
	if _, ok := p.Body.(*Update); ok {
		return g.proposeUpdate(leaf, nil, aad, wire)
	}
	m, pp, err := g.propose(leaf, p, aad, wire)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: propose %v: %w", p.Type(), err)
	}
	return m, pp, nil
}

// ProposeUpdate makes an Update that changes the leaf node by opts and gives it a
// fresh encryption key.
func (g *Group) ProposeUpdate(leaf LeafIndex, opts LeafOptions, aad []byte) (*MLSMessage, *PendingProposal, error) {
	return g.proposeUpdate(leaf, &opts, aad, WireFormatPublicMessage)
}

func (g *Group) proposeUpdate(leaf LeafIndex, opts *LeafOptions, aad []byte, wire WireFormat) (*MLSMessage, *PendingProposal, error) {
	if g.locals[leaf] == nil {
		return nil, nil, fmt.Errorf("mls: propose Update: %w: %d", ErrNotLocal, leaf)
	}
	n, sig, priv, err := g.newLeafNode(leaf, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: propose Update: %w", err)
	}
	n.Source = LeafNodeUpdate
	if err := n.sign(sig, g.gc.GroupID, leaf); err != nil {
		return nil, nil, fmt.Errorf("mls: propose Update: %w", err)
	}
	m, pp, err := g.propose(leaf, Proposal{&Update{LeafNode: *n}}, aad, wire)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: propose Update: %w", err)
	}
	g.updates[string(pp.Ref)] = &updateKeys{priv, sig}
	return m, pp, nil
}

func (g *Group) propose(leaf LeafIndex, p Proposal, aad []byte, wire WireFormat) (*MLSMessage, *PendingProposal, error) {
	ll := g.locals[leaf]
	if ll == nil {
		return nil, nil, fmt.Errorf("%w: %d", ErrNotLocal, leaf)
	}
	if g.closed != nil {
		return nil, nil, ErrReInitialised
	}
	if p.Body == nil {
		return nil, nil, ErrProposalType
	}
	if a, ok := p.Body.(*Add); ok {
		if err := g.cfg.checkLifetime(&a.KeyPackage.LeafNode); err != nil {
			return nil, nil, err
		}
	}
	p, err := fillPSK(g.cfg, g.s, p)
	if err != nil {
		return nil, nil, err
	}
	if aad, err = outgoingAAD(g.gc, aad); err != nil {
		return nil, nil, err
	}
	ac, err := signFramed(ll.sig, wire, FramedContent{GroupID: g.gc.GroupID, Epoch: g.gc.Epoch, Sender: Sender{Type: SenderMember, Leaf: leaf},
		AuthenticatedData: aad, ContentType: ContentProposal, Proposal: &p}, g.gcBytes)
	if err != nil {
		return nil, nil, err
	}
	msg, err := g.protect(ac)
	if err != nil {
		return nil, nil, err
	}
	pp, err := g.keepProposal(ac, msg.Bytes())
	if err != nil {
		return nil, nil, err
	}
	return msg, pp, nil
}

// protect frames signed handshake content with the keys of the current epoch.
// A PrivateMessage consumes a generation whatever becomes of the message.
func (g *Group) protect(ac *AuthenticatedContent) (*MLSMessage, error) {
	switch ac.WireFormat {
	case WireFormatPublicMessage:
		m, err := g.s.publicMessage(ac, g.secrets.membership, g.gcBytes)
		if err != nil {
			return nil, err
		}
		return NewMessage(m), nil
	case WireFormatPrivateMessage:
		m, step, err := g.s.sealPrivate(g.cfg, g.st, g.secrets.senderData, ac)
		if err != nil {
			return nil, err
		}
		g.st.commit(step)
		return NewMessage(m), nil
	}
	if ac.WireFormat == semiPrivate.WireFormat && ac.WireFormat != 0 {
		receivers, err := semiPrivateReceivers(g.gc)
		if err != nil {
			return nil, err
		}
		m, step, err := g.s.sealSemiPrivate(g.cfg, g.st, g.secrets.senderData, receivers, ac, g.gcBytes)
		if err != nil {
			return nil, err
		}
		g.st.commit(step)
		return NewMessage(m), nil
	}
	return nil, fmt.Errorf("%w: %v", ErrContentType, ac.WireFormat)
}

// unprotect opens a handshake message of the current epoch and verifies all but a
// confirmation tag. The step, if any, is to be committed when the message is
// taken.
func (g *Group) unprotect(msg *MLSMessage, want ContentType) (*AuthenticatedContent, *secretStep, error) {
	if g.secrets == nil {
		return nil, nil, ErrNotLocal
	}
	switch {
	case msg.PublicMessage != nil:
		m := msg.PublicMessage
		if err := g.checkFraming(&m.Content, want); err != nil {
			return nil, nil, err
		}
		if err := g.s.verifyMembership(m, g.secrets.membership, g.gcBytes); err != nil {
			return nil, nil, err
		}
		ac := m.AuthenticatedContent()
		return ac, nil, g.verifyContent(ac)
	case msg.PrivateMessage != nil:
		m := msg.PrivateMessage
		if err := g.checkFraming(&FramedContent{GroupID: m.GroupID, Epoch: m.Epoch, ContentType: m.ContentType, AuthenticatedData: m.AuthenticatedData}, want); err != nil {
			return nil, nil, err
		}
		sd, err := g.s.openSenderData(g.secrets.senderData, m)
		if err != nil {
			return nil, nil, err
		}
		if g.tree.leaf(sd.leaf) == nil {
			return nil, nil, fmt.Errorf("mls: %w: leaf %d is blank", ErrSender, sd.leaf)
		}
		if g.locals[sd.leaf] != nil {
			return nil, nil, fmt.Errorf("mls: %w: leaf %d", ErrOwnMessage, sd.leaf)
		}
		ac, step, err := g.s.openPrivate(g.cfg, g.st, sd, m)
		if err != nil {
			return nil, nil, err
		}
		return ac, step, g.verifyContent(ac)
	case msg.SemiPrivateMessage != nil:
		return g.unprotectSemiPrivate(msg.SemiPrivateMessage, want)
	}
	return nil, nil, fmt.Errorf("mls: %w: %v", ErrContentType, msg.WireFormat)
}

func (g *Group) unprotectSemiPrivate(m *SemiPrivateMessage, want ContentType) (*AuthenticatedContent, *secretStep, error) {
	c := &FramedContent{GroupID: m.GroupID, Epoch: m.Epoch, ContentType: m.ContentType, AuthenticatedData: m.AuthenticatedData}
	if err := g.checkFraming(c, want); err != nil {
		return nil, nil, err
	}
	if _, err := semiPrivateReceivers(g.gc); err != nil {
		return nil, nil, err
	}
	sd, err := g.s.openSenderData(g.secrets.senderData, m.private())
	if err != nil {
		return nil, nil, err
	}
	if g.tree.leaf(sd.leaf) == nil {
		return nil, nil, fmt.Errorf("mls: %w: leaf %d is blank", ErrSender, sd.leaf)
	}
	if g.locals[sd.leaf] != nil {
		return nil, nil, fmt.Errorf("mls: %w: leaf %d", ErrOwnMessage, sd.leaf)
	}
	step, err := g.st.peek(g.cfg, sd.leaf, RatchetHandshake, sd.generation)
	if err != nil {
		return nil, nil, err
	}
	ac, err := m.open(g.s, &perMessageKey{step.key, step.nonce, sd.guard, sd.leaf}, g.gcBytes)
	if err != nil {
		return nil, nil, err
	}
	return ac, step, g.verifyContent(ac)
}

// ReceiveProposal verifies and keeps a proposal, public or private, with its
// membership. Errors as in [PublicGroup.ReceiveProposal]; a proposal of a local
// leaf that is pending is [ErrDuplicate].
func (g *Group) ReceiveProposal(msg *MLSMessage) (*PendingProposal, error) {
	raw := msg.Bytes()
	// One of our own as a PrivateMessage could not be decrypted again.
	for _, p := range g.pending {
		if bytes.Equal(p.Message, raw) {
			return nil, fmt.Errorf("mls: receive proposal: %w", ErrDuplicate)
		}
	}
	ac, step, err := g.unprotect(msg, ContentProposal)
	if err != nil {
		return nil, fmt.Errorf("mls: receive proposal: %w", err)
	}
	p, err := g.keepProposal(ac, raw)
	if err != nil {
		return nil, fmt.Errorf("mls: receive proposal: %w", err)
	}
	if step != nil {
		g.st.commit(step)
	}
	return p, nil
}

// Received is what a message was.
type Received struct {
	Proposal    *PendingProposal
	Commit      *Staged // merged already
	Application *ApplicationMessage
}

// Receive takes a PublicMessage or PrivateMessage of any content: a proposal is
// kept, a Commit is staged and merged, application data decrypted.
func (g *Group) Receive(msg *MLSMessage) (*Received, error) {
	switch msg.ContentType() {
	case ContentProposal:
		p, err := g.ReceiveProposal(msg)
		if err != nil {
			return nil, err
		}
		return &Received{Proposal: p}, nil
	case ContentCommit:
		s, err := g.StageCommit(msg)
		if err != nil {
			return nil, err
		}
		if err := g.MergeStaged(s); err != nil {
			return nil, err
		}
		return &Received{Commit: s}, nil
	case ContentApplication:
		a, err := g.Decrypt(msg)
		if err != nil {
			return nil, err
		}
		return &Received{Application: a}, nil
	}
	return nil, fmt.Errorf("mls: receive: %w: %v", ErrContentType, msg.WireFormat)
}

// Staged is a Commit worked out to the new epoch and not merged.
type Staged struct {
	*StagedPublicCommit
	// RemovedLocal are the local leaves the Commit removes.
	RemovedLocal []LeafIndex
	// SelfRemoved: no local leaf is left. The new epoch's secrets are unknown;
	// after the merge only messages of past epochs can be decrypted.
	SelfRemoved bool
	// LostLocal are local leaves that stay members but whose new signature key is
	// not known here: they were updated by another state of the same client.
	LostLocal []LeafIndex
	// Own: the Commit is the one that was pending here.
	Own bool

	secrets *epochSecrets
	joiner  []byte
	keys    *stagedKeys
	locals  *layer[LeafIndex, *localLeaf]
	step    *secretStep
}

// StageCommit verifies a Commit and works the next epoch out (RFC 9420 section
// 12.4.2); the group does not change. The own pending Commit, come back, is
// known by its bytes.
func (g *Group) StageCommit(msg *MLSMessage) (*Staged, error) {
	if g.own != nil && bytes.Equal(g.s.hash(msg.Bytes()), g.own.hash) {
		s, err := g.stageOwn(g.own)
		if err != nil {
			return nil, fmt.Errorf("mls: stage commit: %w", err)
		}
		return s, nil
	}
	ac, step, err := g.unprotect(msg, ContentCommit)
	if err != nil {
		return nil, fmt.Errorf("mls: stage commit: %w", err)
	}
	if ac.WireFormat != WireFormatPublicMessage && ac.Content.Sender.Type != SenderMember {
		return nil, fmt.Errorf("mls: stage commit: %w", ErrSender)
	}
	public, err := g.stage(ac)
	if err != nil {
		return nil, fmt.Errorf("mls: stage commit: %w", err)
	}
	s, err := g.stageSecrets(public, nil)
	if err != nil {
		return nil, fmt.Errorf("mls: stage commit: %w", err)
	}
	s.step = step
	return s, nil
}

// stageSecrets works out the secret side of a staged Commit. own is set if a
// local leaf made it.
func (g *Group) stageSecrets(public *StagedPublicCommit, own *pendingCommit) (*Staged, error) {
	st := public.st
	s := &Staged{StagedPublicCommit: public, locals: newLayer(g.locals), keys: newLayer(g.keys), Own: own != nil}
	for _, r := range st.removed {
		if _, ok := s.locals.get(r.Leaf); ok {
			s.locals.drop(r.Leaf)
			s.RemovedLocal = append(s.RemovedLocal, r.Leaf)
		}
	}
	if own != nil {
		ll := &localLeaf{sig: own.sig, joined: st.gc.Epoch}
		if was := g.locals[st.committer]; was != nil && !public.External {
			ll.joined = was.joined
		}
		s.locals.set(st.committer, ll)
	}
	prune(s.keys, g.tree, st.tree)
	for _, u := range st.updated {
		ll, ok := s.locals.get(u.Leaf)
		if !ok {
			continue
		}
		// An Update whose key was lost leaves the leaf incomplete: it can
		// still commit, and then has a key again.
		if k := g.updates[string(u.Ref)]; k != nil {
			s.keys.set(u.Leaf.node(), k.leaf)
			s.locals.set(u.Leaf, &localLeaf{k.sig, ll.joined})
		}
		s.checkLost(u.Leaf)
	}
	if own == nil {
		s.checkLost(st.committer)
	}
	if s.locals.len() == 0 {
		s.SelfRemoved = true
		return s, nil
	}
	commitSecret := g.s.zero()
	if path := public.ac.Content.Commit.Path; path != nil {
		var p *pathSecrets
		var err error
		if own != nil {
			p = g.s.derivePath(st.steps, 0, own.pathSecret)
			s.keys.set(st.committer.node(), own.leafKey)
		} else {
			p, err = st.tree.decryptPath(st.steps, path, s.keys, st.provisional, st.added)
		}
		if err != nil {
			return nil, err
		}
		if err := st.tree.keysOf(p, s.keys); err != nil {
			return nil, err
		}
		commitSecret = p.commit
	}
	init := []byte(nil)
	switch {
	case own != nil && own.init != nil:
		init = own.init
	case st.init != nil:
		priv, _, err := g.s.kem.derive(g.secrets.external)
		if err != nil {
			return nil, err
		}
		if init, err = g.s.kem.receiveExport(priv, st.init.KEMOutput, externalInitLabel, g.s.nh); err != nil {
			return nil, fmt.Errorf("mls: external init: %w: %v", ErrDecrypt, err)
		}
	default:
		init = g.secrets.init
	}
	psks, err := findPSKs(st.psks, g.ownResumption, g.cfg.PSKs)
	if err != nil {
		return nil, err
	}
	context := public.next.gcBytes
	s.joiner = g.s.joinerSecret(init, commitSecret, context)
	s.secrets = g.s.epochSecrets(s.joiner, g.s.pskSecret(psks), context)
	if !g.s.checkMAC(s.secrets.confirmation, st.gc.ConfirmedTranscriptHash, public.ac.Auth.ConfirmationTag) {
		return nil, fmt.Errorf("mls: %w", ErrConfirmationTag)
	}
	return s, nil
}

// checkLost drops a local leaf whose signature key is another one now.
func (s *Staged) checkLost(l LeafIndex) {
	if ll, ok := s.locals.get(l); ok && !bytes.Equal(ll.sig.Public(), s.st.tree.leaf(l).SignatureKey) {
		s.locals.drop(l)
		s.LostLocal = append(s.LostLocal, l)
	}
}

// MergeStaged makes the staged Commit's epoch the current one. A pending Commit
// of our own is dropped; so are proposals and Update keys, as RFC 9420 has it.
// It fails with [ErrStale] if the group has moved since.
func (g *Group) MergeStaged(s *Staged) error {
	if !bytes.Equal(s.from, g.gcBytes) {
		return fmt.Errorf("mls: merge staged: %w", ErrStale)
	}
	if s.step != nil {
		g.st.commit(s.step)
	}
	g.retire()
	next := s.next
	// The staged Commit keeps its own view and the group goes on with another.
	g.PublicGroup = next.Clone()
	s.locals.apply(g.locals)
	s.keys.apply(g.keys)
	g.list = nil
	g.updates = map[string]*updateKeys{}
	g.own = nil
	if s.SelfRemoved {
		g.secrets, g.st, g.exports, g.keys = nil, nil, nil, nodeKeys{}
		return nil
	}
	e := *s.secrets
	g.begin(&e)
	return nil
}

// retire makes the current epoch a past one and drops those too old.
func (g *Group) retire() {
	if g.secrets == nil {
		return
	}
	g.discard(g.gc.Epoch, g.exports.st, true)
	g.past = append(g.past, &pastEpoch{gc: g.gc, gcBytes: g.gcBytes, tree: g.tree, senderData: g.secrets.senderData,
		resumption: g.secrets.resumption, secrets: g.st, locals: g.localList()})
	for len(g.past) > g.cfg.pastEpochs() {
		g.discard(g.past[0].gc.Epoch, g.past[0].secrets, false)
		g.past = g.past[1:]
	}
}

// discard has all rows of a secret tree deleted: those it holds, and those that
// went since TakeRatchets was called last.
func (g *Group) discard(epoch uint64, t *secretTree, export bool) {
	gone := func(k rowKey) {
		if export {
			k.kind = RatchetExport
		}
		g.gone = append(g.gone, RatchetRow{Epoch: epoch, Leaf: LeafIndex(k.index), Kind: k.kind})
	}
	for _, k := range t.keys() {
		gone(k)
	}
	for k := range t.dirty {
		if t.data(k) == nil {
			gone(k)
		}
	}
}

// ApplicationMessage is application data decrypted.
type ApplicationMessage struct {
	Sender     LeafIndex
	SenderNode *LeafNode // as it was in that epoch
	Epoch      uint64
	Generation uint32
	AAD        []byte
	Content    []byte
}

// Encrypt makes a PrivateMessage with application data by a local leaf (RFC 9420
// section 15). The ratchet has moved on when it returns: store it before the
// message leaves. Whether proposals are to be committed first (RFC 9420 section
// 12.4) is for the caller, who sees Proposals.
func (g *Group) Encrypt(leaf LeafIndex, content, aad []byte) (*MLSMessage, error) {
	m, err := g.encrypt(leaf, content, aad)
	if err != nil {
		return nil, fmt.Errorf("mls: encrypt: %w", err)
	}
	return m, nil
}

func (g *Group) encrypt(leaf LeafIndex, content, aad []byte) (*MLSMessage, error) {
	ll := g.locals[leaf]
	if ll == nil || g.secrets == nil {
		return nil, fmt.Errorf("%w: %d", ErrNotLocal, leaf)
	}
	if g.closed != nil {
		return nil, ErrReInitialised
	}
	aad, err := outgoingAAD(g.gc, aad)
	if err != nil {
		return nil, err
	}
	ac, err := signFramed(ll.sig, WireFormatPrivateMessage, FramedContent{GroupID: g.gc.GroupID, Epoch: g.gc.Epoch,
		Sender: Sender{Type: SenderMember, Leaf: leaf}, AuthenticatedData: aad, ContentType: ContentApplication, ApplicationData: content}, g.gcBytes)
	if err != nil {
		return nil, err
	}
	return g.protect(ac)
}

// Decrypt opens a PrivateMessage with application data of the current epoch or
// one of the past ones held. Errors: [ErrFutureEpoch], [ErrEpochTooOld],
// [ErrReplay], [ErrForward], [ErrOwnMessage] for one of a local leaf's,
// [ErrDecrypt], or a [RuleError]. The state is then as it was.
func (g *Group) Decrypt(msg *MLSMessage) (*ApplicationMessage, error) {
	a, err := g.decrypt(msg)
	if err != nil {
		return nil, fmt.Errorf("mls: decrypt: %w", err)
	}
	return a, nil
}

func (g *Group) decrypt(msg *MLSMessage) (*ApplicationMessage, error) {
	m := msg.PrivateMessage
	switch {
	case m == nil || m.ContentType != ContentApplication:
		return nil, fmt.Errorf("%w: %v", ErrContentType, msg.WireFormat)
	case !bytes.Equal(m.GroupID, g.gc.GroupID):
		return nil, ErrWrongGroup
	case m.Epoch > g.gc.Epoch:
		return nil, fmt.Errorf("%w: %d", ErrFutureEpoch, m.Epoch)
	}
	ep, err := g.epochOf(m.Epoch)
	if err != nil {
		return nil, err
	}
	sd, err := g.s.openSenderData(ep.senderData, m)
	if err != nil {
		return nil, err
	}
	leaf := ep.tree.leaf(sd.leaf)
	if leaf == nil {
		return nil, fmt.Errorf("%w: leaf %d is blank", ErrSender, sd.leaf)
	}
	if m.Epoch == g.gc.Epoch && g.locals[sd.leaf] != nil || slices.Contains(ep.locals, sd.leaf) {
		return nil, fmt.Errorf("%w: leaf %d", ErrOwnMessage, sd.leaf)
	}
	ac, step, err := g.s.openPrivate(g.cfg, ep.secrets, sd, m)
	if err != nil {
		return nil, err
	}
	if err := verifyFramed(g.s, leaf.SignatureKey, ac, ep.gcBytes); err != nil {
		return nil, err
	}
	if err := checkSafeAAD(ep.gc, m.AuthenticatedData); err != nil {
		return nil, err
	}
	ep.secrets.commit(step)
	return &ApplicationMessage{sd.leaf, leaf, m.Epoch, sd.generation, m.AuthenticatedData, ac.Content.ApplicationData}, nil
}

// epochOf gives what decrypts messages of an epoch. For the current one it does
// not list the local leaves: there may be a thousand, and this is done for each
// message.
func (g *Group) epochOf(epoch uint64) (*pastEpoch, error) {
	if epoch == g.gc.Epoch {
		if g.secrets == nil {
			return nil, ErrNotLocal
		}
		return &pastEpoch{gc: g.gc, gcBytes: g.gcBytes, tree: g.tree, senderData: g.secrets.senderData, secrets: g.st}, nil
	}
	for _, p := range g.past {
		if p.gc.Epoch == epoch {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: %d", ErrEpochTooOld, epoch)
}
