package mls

import (
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// ParentNode is RFC 9420 section 7.1. One in a tree must not be changed.
type ParentNode struct {
	EncryptionKey  []byte
	ParentHash     []byte
	UnmergedLeaves []LeafIndex // increasing
}

// MarshalTLS writes n.
func (n *ParentNode) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(n.EncryptionKey)
	w.Opaque(n.ParentHash)
	w.Varint(4 * len(n.UnmergedLeaves))
	for _, l := range n.UnmergedLeaves {
		w.Uint32(uint32(l))
	}
}

// UnmarshalTLS reads n; unmerged leaves that do not increase are a failure.
func (n *ParentNode) UnmarshalTLS(r *tlspl.Reader) {
	n.EncryptionKey = r.Opaque()
	n.ParentHash = r.Opaque()
	n.UnmergedLeaves = nil
	r.Vector(func(r *tlspl.Reader) {
		l := LeafIndex(r.Uint32())
		if k := len(n.UnmergedLeaves); k > 0 && n.UnmergedLeaves[k-1] >= l {
			r.Failf("unmerged leaf %d out of order", l)
			return
		}
		n.UnmergedLeaves = append(n.UnmergedLeaves, l)
	})
	n.UnmergedLeaves = slices.Clip(n.UnmergedLeaves)
}

// TreeNode is a node of a [RatchetTree]: a leaf, a parent or, with neither,
// blank.
type TreeNode struct {
	Leaf   *LeafNode
	Parent *ParentNode
}

// RatchetTree is the ratchet_tree of RFC 9420 section 12.4.3.3: the nodes from
// left to right without the blank ones at the end. Leaves are at even places.
type RatchetTree struct{ Nodes []TreeNode }

// MarshalTLS writes t as optional<Node> ratchet_tree<V>.
func (t *RatchetTree) MarshalTLS(w *tlspl.Writer) {
	w.Vector(func(w *tlspl.Writer) {
		for _, n := range t.Nodes {
			switch {
			case n.Leaf != nil:
				w.Uint8(1)
				w.Uint8(1)
				n.Leaf.MarshalTLS(w)
			case n.Parent != nil:
				w.Uint8(1)
				w.Uint8(2)
				n.Parent.MarshalTLS(w)
			default:
				w.Uint8(0)
			}
		}
	})
}

// UnmarshalTLS reads t. A leaf at a parent's place, a parent at a leaf's, or a
// blank node at the end is a failure.
func (t *RatchetTree) UnmarshalTLS(r *tlspl.Reader) {
	t.Nodes = nil
	r.Vector(func(r *tlspl.Reader) {
		var n TreeNode
		isLeaf := len(t.Nodes)%2 == 0
		r.Optional(func(r *tlspl.Reader) {
			switch k := r.Uint8(); {
			case k == 1 && isLeaf:
				n.Leaf = new(LeafNode)
				n.Leaf.UnmarshalTLS(r)
			case k == 2 && !isLeaf:
				n.Parent = new(ParentNode)
				n.Parent.UnmarshalTLS(r)
			default:
				r.Fail(fmt.Errorf("mls: %w: node type %d at %d", ErrTree, k, len(t.Nodes)))
			}
		})
		t.Nodes = append(t.Nodes, n)
	})
	t.Nodes = slices.Clip(t.Nodes)
	if n := len(t.Nodes); r.Err() == nil && (n == 0 || n%2 == 0 || t.Nodes[n-1] == TreeNode{}) {
		r.Fail(fmt.Errorf("mls: %w: it does not end with a leaf", ErrTree))
	}
}

// MarshalBinary gives the encoding of t.
func (t *RatchetTree) MarshalBinary() ([]byte, error) { return tlspl.Marshal(t), nil }

// UnmarshalBinary reads exactly one tree.
func (t *RatchetTree) UnmarshalBinary(b []byte) error {
	if err := tlspl.Unmarshal(b, t); err != nil {
		return wrapf(err, "ratchet tree")
	}
	return nil
}

// RatchetTreeRepresentation says how a tree is conveyed
// (draft-mahy-mls-ratchet-tree-options section "Conveying the Ratchet Tree").
type RatchetTreeRepresentation uint8

// Representations of a tree.
const (
	RatchetTreeFull                RatchetTreeRepresentation = 1
	RatchetTreeHTTPSURI            RatchetTreeRepresentation = 2
	RatchetTreeOutOfBand           RatchetTreeRepresentation = 3
	RatchetTreeDistributionService RatchetTreeRepresentation = 4
)

// RatchetTreeOption is the structure of that name in
// draft-mahy-mls-ratchet-tree-options.
type RatchetTreeOption struct {
	Representation RatchetTreeRepresentation
	Tree           *RatchetTree // with RatchetTreeFull
	URL            []byte       // with RatchetTreeHTTPSURI
	TreeSignature  []byte       // with RatchetTreeHTTPSURI and RatchetTreeOutOfBand
}

// DistributionServiceTree is the option that leaves the tree to the Delivery
// Service; see [PublicGroup.CompleteTree].
func DistributionServiceTree() *RatchetTreeOption {
	return &RatchetTreeOption{Representation: RatchetTreeDistributionService}
}

// FullTree is the option that carries t itself.
func FullTree(t *RatchetTree) *RatchetTreeOption {
	return &RatchetTreeOption{Representation: RatchetTreeFull, Tree: t}
}

// MarshalTLS writes o.
func (o *RatchetTreeOption) MarshalTLS(w *tlspl.Writer) {
	w.Uint8(uint8(o.Representation))
	switch o.Representation {
	case RatchetTreeFull:
		o.Tree.MarshalTLS(w)
	case RatchetTreeHTTPSURI:
		w.Opaque(o.URL)
		w.Opaque(o.TreeSignature)
	case RatchetTreeOutOfBand:
		w.Opaque(o.TreeSignature)
	}
}

// UnmarshalTLS reads o. The draft writes the full tree as a vector of Node; it
// is read as RFC 9420 section 12.4.3.3 has it, of optional<Node>, or blank
// nodes could not be told.
func (o *RatchetTreeOption) UnmarshalTLS(r *tlspl.Reader) {
	*o = RatchetTreeOption{Representation: RatchetTreeRepresentation(r.Uint8())}
	switch o.Representation {
	case RatchetTreeFull:
		o.Tree = new(RatchetTree)
		o.Tree.UnmarshalTLS(r)
	case RatchetTreeHTTPSURI:
		o.URL = r.Opaque()
		o.TreeSignature = r.Opaque()
	case RatchetTreeOutOfBand:
		o.TreeSignature = r.Opaque()
	case RatchetTreeDistributionService:
	default:
		r.Failf("ratchet tree representation %d", o.Representation)
	}
}

// RatchetTreePresence compares the ratchet_tree extension of two epochs
// (draft-mahy-mls-ratchet-tree-options section "Conveying the GroupInfo").
type RatchetTreePresence uint8

// Presences of the ratchet_tree extension.
const (
	RatchetTreeNone    RatchetTreePresence = 0
	RatchetTreePresent RatchetTreePresence = 1
	RatchetTreeRemoved RatchetTreePresence = 2
	RatchetTreeAdded   RatchetTreePresence = 3
)

// PartialGroupInfo is what a Delivery Service cannot make of a GroupInfo by
// itself (draft-mahy-mls-ratchet-tree-options).
type PartialGroupInfo struct {
	Presence   RatchetTreePresence
	Extensions Extensions // of the GroupInfo, without ratchet_tree
	Signature  []byte
}

// MarshalTLS writes p.
func (p *PartialGroupInfo) MarshalTLS(w *tlspl.Writer) {
	w.Uint8(uint8(p.Presence))
	p.Extensions.MarshalTLS(w)
	w.Opaque(p.Signature)
}

// UnmarshalTLS reads p.
func (p *PartialGroupInfo) UnmarshalTLS(r *tlspl.Reader) {
	p.Presence = RatchetTreePresence(r.Uint8())
	if p.Presence > RatchetTreeAdded {
		r.Failf("ratchet tree presence %d", p.Presence)
	}
	p.Extensions.UnmarshalTLS(r)
	p.Signature = r.Opaque()
}

// Partial gives the parts of g a Delivery Service lacks, for a group whose
// GroupInfos have the tree inside either always or never. For one that changes
// over, the caller sets Presence.
func (g *GroupInfo) Partial() *PartialGroupInfo {
	p := &PartialGroupInfo{RatchetTreeNone, g.Extensions.Without(ExtensionRatchetTree), g.Signature}
	if len(p.Extensions) != len(g.Extensions) {
		p.Presence = RatchetTreePresent
	}
	return p
}
