package mls

import "math/bits"

// nodeIndex counts the nodes of the tree from left to right (RFC 9420 appendix
// C): leaves are even.
type nodeIndex uint32

// maxLeaves bounds a tree far above any use, so that no index overflows and what
// is stored of a tree with one leaf far out does not ask for much memory.
const maxLeaves = 1 << 24

func (l LeafIndex) node() nodeIndex { return nodeIndex(l) << 1 }

func (x nodeIndex) isLeaf() bool    { return x&1 == 0 }
func (x nodeIndex) leaf() LeafIndex { return LeafIndex(x >> 1) }

// level is 0 for leaves.
func (x nodeIndex) level() uint { return uint(bits.TrailingZeros32(^uint32(x))) }

// left and right are for parents only.
func (x nodeIndex) left() nodeIndex  { return x ^ 1<<(x.level()-1) }
func (x nodeIndex) right() nodeIndex { return x ^ 3<<(x.level()-1) }

// parent does not know where the tree ends.
func (x nodeIndex) parent() nodeIndex {
	k := x.level()
	return (x | 1<<k) &^ (1 << (k + 1))
}

func (x nodeIndex) sibling() nodeIndex {
	p := x.parent()
	if x < p {
		return p.right()
	}
	return p.left()
}

// span gives the leaves below x: from first up to but without end.
func (x nodeIndex) span() (first, end LeafIndex) {
	k := x.level()
	first = LeafIndex((x + 1 - 1<<k) >> 1)
	return first, first + 1<<k
}

// covers tells whether l is below x, or is x.
func (x nodeIndex) covers(l LeafIndex) bool {
	first, end := x.span()
	return first <= l && l < end
}

// rootOf is the root of a tree of n leaves, a power of two.
func rootOf(n uint32) nodeIndex { return nodeIndex(n - 1) }

// commonAncestor is the lowest node above both leaves.
func commonAncestor(a, b LeafIndex) nodeIndex {
	x, y := a.node(), b.node()
	k := uint(bits.Len32(uint32(x ^ y)))
	if k == 0 {
		return x
	}
	return x>>k<<k | (1<<(k-1) - 1)
}

// treeWidth is the number of leaves of the smallest tree that has leaf index l.
func treeWidth(l LeafIndex) uint32 { return 1 << bits.Len32(uint32(l)) }
