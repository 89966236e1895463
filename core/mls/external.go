package mls

import (
	"fmt"
)

// ExternalCommitOptions says how to join from outside.
type ExternalCommitOptions struct {
	Leaf LeafOptions
	// Resync removes an old leaf of the same client.
	Resync *LeafIndex
	// Proposals by value: AppDataUpdate, AppEphemeral, PreSharedKey.
	Proposals []Proposal
	// ProposalRefs are pending proposals of the epoch; SelfRemoves that are
	// valid are referred to, all others ignored.
	ProposalRefs []*MLSMessage
	AAD          []byte
	// GroupInfoExtensions are added to the GroupInfo.
	GroupInfoExtensions Extensions
}

// ExternalCommit joins a group by its GroupInfo, which must carry external_pub
// (RFC 9420 section 12.4.3.2). tree is nil if it stands in the GroupInfo. The
// group comes back at the new epoch with the new leaf as its only local one; it
// is provisional until the Commit is accepted.
func ExternalCommit(cfg *Config, info *GroupInfo, tree *RatchetTree, opts ExternalCommitOptions) (*Group, *CommitOutput, error) {
	g, out, err := externalCommit(cfg, info, tree, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: external commit: %w", err)
	}
	return g, out, nil
}

func externalCommit(cfg *Config, info *GroupInfo, rt *RatchetTree, opts ExternalCommitOptions) (*Group, *CommitOutput, error) {
	if opts.Resync == nil {
		if err := cfg.checkNotIn(&info.GroupContext); err != nil {
			return nil, nil, err
		}
	}
	pg, err := newPublicGroup(cfg, info, rt)
	if err != nil {
		return nil, nil, err
	}
	s := pg.s
	externalPub, err := info.Extensions.ExternalPub()
	if err != nil {
		return nil, nil, err
	}
	if externalPub == nil {
		return nil, nil, fmt.Errorf("mls: %w", ErrNoExternalPub)
	}
	if opts.Leaf.Signature == nil || opts.Leaf.Signature.Suite.scheme() != s.sig {
		return nil, nil, ErrSignatureKey
	}
	g := &Group{PublicGroup: pg, keys: nodeKeys{}, locals: map[LeafIndex]*localLeaf{}, updates: map[string]*updateKeys{}}
	sender := Sender{Type: SenderNewMemberCommit}
	own := &pendingCommit{epoch: pg.gc.Epoch, sig: opts.Leaf.Signature}

	kemOutput, init, err := s.kem.sendExport(externalPub, externalInitLabel, s.nh)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: external init: %w: %v", ErrPublicKey, err)
	}
	own.init = init
	list := []StagedProposal{{Proposal: Proposal{&ExternalInit{kemOutput}}, Sender: sender}}
	var old *LeafNode
	if opts.Resync != nil {
		if old = pg.tree.leaf(*opts.Resync); old == nil {
			return nil, nil, fmt.Errorf("mls: %w: %d", ErrRemoveBlank, *opts.Resync)
		}
		list = append(list, StagedProposal{Proposal: Proposal{&Remove{*opts.Resync}}, Sender: sender})
	}
	for _, p := range opts.Proposals {
		if p.Body == nil {
			return nil, nil, ErrProposalType
		}
		if p, err = fillPSK(cfg, s, p); err != nil {
			return nil, nil, err
		}
		list = append(list, StagedProposal{Proposal: p, Sender: sender})
	}
	for _, m := range opts.ProposalRefs {
		pm := m.PublicMessage
		if pm == nil || pm.Content.ContentType != ContentProposal || pm.Content.Proposal.Type() != ProposalSelfRemove {
			continue
		}
		p, err := pg.ReceiveProposal(m)
		if err != nil || opts.Resync != nil && p.Sender.Leaf == *opts.Resync {
			continue
		}
		list = append(list, StagedProposal{p.Proposal, p.Sender, true, p.Ref})
	}
	st, err := pg.apply(list, sender)
	if err != nil {
		return nil, nil, err
	}
	leaf := &LeafNode{SignatureKey: opts.Leaf.Signature.Public(), Credential: opts.Leaf.Credential,
		Capabilities: capabilitiesOr(opts.Leaf.Capabilities), Source: LeafNodeCommit, Extensions: opts.Leaf.Extensions.Clone()}
	if err := cfg.grease(leaf); err != nil {
		return nil, nil, err
	}
	if own.leafKey, leaf.EncryptionKey, err = s.generateHPKE(cfg.rand()); err != nil {
		return nil, nil, err
	}
	if err := cfg.checkLeaf(s, leaf, st.gc, ReasonExternal, old); err != nil {
		return nil, nil, err
	}
	l, err := st.tree.nextFree()
	if err != nil {
		return nil, nil, err
	}
	st.tree.addAt(l, leaf)
	st.committer = l
	st.addedLeaves = append(st.addedLeaves, AddedLeaf{l, leaf, nil, sender})
	out, err := g.makeCommit(st, sender, own.sig, own, &pathMaker{leaf, own.sig}, CommitOptions{
		AAD: opts.AAD, WireFormat: WireFormatPublicMessage, GroupInfoExtensions: opts.GroupInfoExtensions,
	})
	if err != nil {
		return nil, nil, err
	}
	if _, err := g.MergePending(nil); err != nil {
		return nil, nil, err
	}
	if out.Pending, err = g.MarshalEpoch(); err != nil {
		return nil, nil, err
	}
	return g, out, nil
}
