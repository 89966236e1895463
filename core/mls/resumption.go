package mls

import (
	"bytes"
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// SuccessorOptions is what a group that follows another starts with.
type SuccessorOptions struct {
	// Leaf is the creator's; a ReInit to another cipher suite needs another
	// signature key.
	Leaf LeafOptions
	// KeyPackages of the members besides the creator.
	KeyPackages []*KeyPackage
	// GroupID and Extensions of a branch; those of a reinitialised group are in
	// the ReInit.
	GroupID    []byte
	Extensions Extensions
	// TreeInWelcome puts the tree into the Welcome's GroupInfo.
	TreeInWelcome bool
}

// FollowReInit makes the group that a ReInit, committed in g, asks for, with a
// Welcome for the members in opts (RFC 9420 section 11.2). Whoever was in g must
// be among them, by Config.SameMember. The new group is at epoch 1 with its
// creator as the only local leaf. g stays as it is, for others may be first.
// Errors: [ErrNotReInitialised], [ErrSuccessorMembers], or another [RuleError].
func (g *Group) FollowReInit(opts SuccessorOptions) (*Group, *CommitOutput, error) {
	if g.closed == nil {
		return nil, nil, fmt.Errorf("mls: follow reinit: %w", ErrNotReInitialised)
	}
	if g.closed.Version != MLS10 {
		return nil, nil, fmt.Errorf("mls: follow reinit: %w: version %d", ErrKeyPackageSuite, g.closed.Version)
	}
	opts.GroupID, opts.Extensions = g.closed.GroupID, g.closed.Extensions
	n, out, err := g.succeed(opts, g.closed.CipherSuite, ResumptionReInit)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: follow reinit: %w", err)
	}
	return n, out, nil
}

// Branch makes a group of some of g's members with g's cipher suite, tied to
// g's current epoch (RFC 9420 section 11.3). Errors: [ErrSuccessorMembers] if
// someone is not in g by Config.SameMember, or another [RuleError].
func (g *Group) Branch(opts SuccessorOptions) (*Group, *CommitOutput, error) {
	n, out, err := g.succeed(opts, g.s.id, ResumptionBranch)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: branch: %w", err)
	}
	return n, out, nil
}

func (g *Group) succeed(opts SuccessorOptions, suite CipherSuite, usage ResumptionUsage) (*Group, *CommitOutput, error) {
	if g.secrets == nil {
		return nil, nil, ErrNotLocal
	}
	if bytes.Equal(opts.GroupID, g.gc.GroupID) {
		return nil, nil, fmt.Errorf("%w: the old group's ID", ErrSuccessorGroup)
	}
	cfg := *g.cfg
	cfg.PSKs = firstStore{ResumptionPSKs(g), g.cfg.PSKs}
	n, err := createGroup(&cfg, CreateOptions{Suite: suite, GroupID: opts.GroupID, Leaf: opts.Leaf, Extensions: opts.Extensions})
	if err != nil {
		return nil, nil, err
	}
	n.successor = true
	proposals := []Proposal{{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: usage, GroupID: g.gc.GroupID, Epoch: g.gc.Epoch}}}}
	for _, kp := range opts.KeyPackages {
		proposals = append(proposals, Proposal{&Add{*kp}})
	}
	out, err := n.commit(0, CommitOptions{Proposals: proposals, ForcePath: true, TreeInWelcome: opts.TreeInWelcome})
	if err != nil {
		return nil, nil, err
	}
	if _, err := n.MergePending(nil); err != nil {
		return nil, nil, err
	}
	if err := g.checkSuccessor(n.PublicGroup, usage, g.gc.Epoch); err != nil {
		return nil, nil, err
	}
	n.cfg = g.cfg
	return n, out, nil
}

// JoinSuccessor joins by the Welcome of a group that follows g, by ReInit or as a
// branch, and checks what RFC 9420 sections 11.2, 11.3 and 12.4.3.1 ask for that
// usage. tree and psks are as in [JoinGroup], which refuses such a Welcome.
func (g *Group) JoinSuccessor(welcome *Welcome, tree *RatchetTree, kps []JoinKey, psks PSKStore) (*Group, error) {
	var special *PreSharedKeyID
	store := PSKFunc(func(id *PreSharedKeyID) ([]byte, error) {
		if id.special() {
			special = id
		}
		return firstStore{ResumptionPSKs(g), psks}.PSK(id)
	})
	n, err := joinGroup(g.cfg, welcome, tree, kps, store, true)
	if err == nil {
		switch {
		case special == nil:
			err = fmt.Errorf("%w: none of reinit or branch", ErrWelcomePSK)
		case !bytes.Equal(special.GroupID, g.gc.GroupID):
			err = fmt.Errorf("%w: of another group", ErrWelcomePSK)
		default:
			err = g.checkSuccessor(n.PublicGroup, special.Usage, special.Epoch)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("mls: join successor: %w", err)
	}
	return n, nil
}

// checkSuccessor holds a new group at epoch 1 against g at an epoch.
func (g *Group) checkSuccessor(n *PublicGroup, usage ResumptionUsage, epoch uint64) error {
	if n.gc.Epoch != 1 {
		return fmt.Errorf("%w: epoch %d", ErrSuccessorGroup, n.gc.Epoch)
	}
	old := g.tree
	if usage == ResumptionReInit {
		r := g.closed
		switch {
		case r == nil || epoch != g.gc.Epoch:
			return ErrNotReInitialised
		case n.gc.Version != r.Version || n.gc.CipherSuite != r.CipherSuite:
			return fmt.Errorf("%w: version or suite", ErrSuccessorGroup)
		case !bytes.Equal(n.gc.GroupID, r.GroupID):
			return fmt.Errorf("%w: group ID", ErrSuccessorGroup)
		case !bytes.Equal(tlspl.Marshal(&n.gc.Extensions), tlspl.Marshal(&r.Extensions)):
			return fmt.Errorf("%w: extensions", ErrSuccessorGroup)
		}
		return g.cfg.membersIn(old, n.tree)
	}
	if n.gc.Version != g.gc.Version || n.gc.CipherSuite != g.gc.CipherSuite {
		return fmt.Errorf("%w: version or suite", ErrSuccessorGroup)
	}
	for _, p := range g.past {
		if p.gc.Epoch == epoch {
			old = p.tree
		}
	}
	return g.cfg.membersIn(n.tree, old)
}

// membersIn tells whether each member of a is one of b. Members that have the
// same credential are found by it; only for others is the application asked
// about each pair.
func (c *Config) membersIn(a, b *tree) error {
	known := map[string]bool{}
	for _, n := range b.members() {
		known[string(tlspl.Marshal(&n.Credential))] = true
	}
next:
	for l, n := range a.members() {
		if c.SameMember == nil {
			if !known[string(tlspl.Marshal(&n.Credential))] {
				return fmt.Errorf("%w: leaf %d", ErrSuccessorMembers, l)
			}
			continue
		}
		for _, o := range b.members() {
			if c.SameMember(n, o) {
				continue next
			}
		}
		return fmt.Errorf("%w: leaf %d", ErrSuccessorMembers, l)
	}
	return nil
}

// ResumptionPSKs is a store of the resumption PSKs of other groups, at the epochs
// they hold (RFC 9420 section 8.6); nil groups are passed over.
func ResumptionPSKs(groups ...*Group) PSKStore {
	return PSKFunc(func(id *PreSharedKeyID) ([]byte, error) {
		if id.Type == PSKResumption {
			for _, g := range groups {
				if g == nil {
					continue
				}
				if key := g.ownResumption(id.GroupID, id.Epoch); key != nil {
					return key, nil
				}
			}
		}
		return nil, ErrPSKUnknown
	})
}

// firstStore asks one store after the other.
type firstStore []PSKStore

func (f firstStore) PSK(id *PreSharedKeyID) ([]byte, error) {
	err := error(ErrPSKUnknown)
	for _, s := range f {
		if s == nil {
			continue
		}
		var key []byte
		if key, err = s.PSK(id); err == nil {
			return key, nil
		}
	}
	return nil, err
}
