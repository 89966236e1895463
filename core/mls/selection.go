package mls

import (
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// selectPending chooses the pending proposals a Commit by leaf covers, so that
// the list is valid whatever members have proposed (RFC 9420 section 12.2): of
// several for one leaf a SelfRemove goes before a Remove before the newest
// Update; of several additions of one client the first, and none of a client
// that stays; the newest GroupContextExtensions; for each component of the
// app_data_dictionary what agrees with the first AppDataUpdate; PSKs that are
// known; a ReInit only if it is all there is. It fails with [ErrLeafDeparting] if leaf is to go.
func (g *Group) selectPending(leaf LeafIndex, without []ProposalRef) ([]*PendingProposal, error) {
	skip := map[string]bool{}
	for _, r := range without {
		skip[string(r)] = true
	}
	chosen := map[*PendingProposal]bool{}
	forLeaf := map[LeafIndex]*PendingProposal{}
	adds := map[string]*PendingProposal{}
	psks := map[string]bool{}
	data := map[ComponentID]AppDataOp{}
	var context, reInit *PendingProposal
	for _, p := range g.pending {
		if skip[string(p.Ref)] {
			continue
		}
		target, one := p.Sender.Leaf, false
		switch b := p.Proposal.Body.(type) {
		case *Update:
			one = p.Sender != (Sender{Type: SenderMember, Leaf: leaf})
		case *Remove:
			target, one = b.Removed, true
		case *SelfRemove:
			one = true
		case *GroupContextExtensions:
			context = p
		case *ReInit:
			reInit = p
		case *Add:
			key := string(b.KeyPackage.LeafNode.SignatureKey)
			if adds[key] == nil && g.cfg.checkLifetime(&b.KeyPackage.LeafNode) == nil {
				adds[key] = p
			}
		case *PreSharedKey:
			id := string(tlspl.Marshal(&b.PSK))
			_, err := findPSKs([]*PreSharedKeyID{&b.PSK}, g.ownResumption, g.cfg.PSKs)
			chosen[p] = !psks[id] && err == nil
			psks[id] = true
		case *AppDataUpdate:
			op, seen := data[b.ComponentID]
			chosen[p] = !seen || op == b.Op && op == AppDataOpUpdate
			if !seen {
				data[b.ComponentID] = b.Op
			}
		default:
			chosen[p] = true
		}
		if !one {
			continue
		}
		if target == leaf {
			return nil, fmt.Errorf("%w: %d", ErrLeafDeparting, leaf)
		}
		if b := forLeaf[target]; b == nil || removalRank(p) >= removalRank(b) {
			forLeaf[target] = p
		}
	}
	if len(adds) > 0 {
		for l, n := range g.tree.members() {
			if adds[string(n.SignatureKey)] != nil && (forLeaf[l] == nil || removalRank(forLeaf[l]) == 0) {
				delete(adds, string(n.SignatureKey))
			}
		}
	}
	for _, p := range adds {
		chosen[p] = true
	}
	for _, p := range forLeaf {
		chosen[p] = true
	}
	if context != nil {
		chosen[context] = true
	}
	// The order received, since some are applied in the order of the list.
	var out []*PendingProposal
	for _, p := range g.pending {
		if chosen[p] {
			out = append(out, p)
		}
	}
	if len(out) == 0 && reInit != nil {
		out = append(out, reInit)
	}
	return slices.Clip(out), nil
}

// applySome is for pending proposals that cannot stand together in a way
// selectPending does not see, such as two that bring one key: a member could
// stop all Commits with them. Those that fit one after the other are taken. why
// is what was wrong with all of them.
func (g *Group) applySome(refs, values []StagedProposal, sender Sender, why error) (*staging, error) {
	st, err := g.apply(values, sender)
	if err != nil || len(refs) == 0 {
		return nil, why
	}
	var taken []StagedProposal
	for _, p := range refs {
		try := append(slices.Clip(append(slices.Clone(taken), p)), values...)
		if s, err := g.apply(try, sender); err == nil {
			st, taken = s, append(taken, p)
		}
	}
	return st, nil
}

func removalRank(p *PendingProposal) int {
	switch p.Proposal.Type() {
	case ProposalSelfRemove:
		return 2
	case ProposalRemove:
		return 1
	}
	return 0
}
