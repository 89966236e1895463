package mls

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

func (t *tree) rootHash() []byte { return t.hash(t.root()) }

// hash is the tree hash of x (RFC 9420 section 7.8). It is kept until something
// below changes.
func (t *tree) hash(x nodeIndex) []byte {
	if h := t.at(x).hash; h != nil {
		return h
	}
	var h []byte
	if x.isLeaf() {
		h = t.leafHash(x.leaf(), t.at(x).leaf)
	} else {
		l, r := t.hash(x.left()), t.hash(x.right())
		h = t.parentNodeHash(t.at(x).parent, l, r)
	}
	t.mut(x).hash = h
	return h
}

func (t *tree) leafHash(l LeafIndex, n *LeafNode) []byte {
	var w tlspl.Writer
	w.Uint8(1)
	w.Uint32(uint32(l))
	w.Optional(n != nil, func(w *tlspl.Writer) { n.MarshalTLS(w) })
	return t.s.hash(w.Bytes())
}

func (t *tree) parentNodeHash(p *ParentNode, left, right []byte) []byte {
	var w tlspl.Writer
	w.Uint8(2)
	w.Optional(p != nil, func(w *tlspl.Writer) { p.MarshalTLS(w) })
	w.Opaque(left)
	w.Opaque(right)
	return t.s.hash(w.Bytes())
}

// originalHash is the tree hash of x as if the leaves without, sorted, had not
// been added (RFC 9420 section 7.9, original_sibling_tree_hash).
func (t *tree) originalHash(x nodeIndex, without []LeafIndex) []byte {
	without = within(x, without)
	if len(without) == 0 {
		return t.hash(x)
	}
	if x.isLeaf() {
		return t.leafHash(x.leaf(), nil)
	}
	p := t.at(x).parent
	if p != nil {
		q := *p
		q.UnmergedLeaves = slices.DeleteFunc(slices.Clone(p.UnmergedLeaves), func(l LeafIndex) bool {
			_, found := slices.BinarySearch(without, l)
			return found
		})
		p = &q
	}
	return t.parentNodeHash(p, t.originalHash(x.left(), without), t.originalHash(x.right(), without))
}

// within gives the part of a sorted list of leaves that is below x.
func within(x nodeIndex, leaves []LeafIndex) []LeafIndex {
	first, end := x.span()
	i, _ := slices.BinarySearch(leaves, first)
	j, _ := slices.BinarySearch(leaves, end)
	return leaves[i:j]
}

// parentHash is the parent hash of p, which is to stand or stands at a node, with
// copath child s (RFC 9420 section 7.9).
func (t *tree) parentHash(p *ParentNode, s nodeIndex) []byte {
	var w tlspl.Writer
	w.Opaque(p.EncryptionKey)
	w.Opaque(p.ParentHash)
	w.Opaque(t.originalHash(s, p.UnmergedLeaves))
	return t.s.hash(w.Bytes())
}

// verifyParentHashes checks each parent node as RFC 9420 section 7.9.2 asks of
// a joiner: exactly one node below is chained to it.
func (t *tree) verifyParentHashes() error {
	var res []nodeIndex
	for x := nodeIndex(1); x < nodeIndex(2*t.leaves-1); x += 2 {
		p := t.at(x).parent
		if p == nil {
			continue
		}
		chained := 0
		for _, side := range [2][2]nodeIndex{{x.left(), x.right()}, {x.right(), x.left()}} {
			c, s := side[0], side[1]
			unmerged := within(c, p.UnmergedLeaves)
			// Resolution of C, D removed, must be the unmerged leaves below C.
			res = t.resolution(c, res[:0])
			if len(res) != len(unmerged)+1 {
				continue
			}
			d, rest := nodeIndex(0), 0
			for _, y := range res {
				if _, found := slices.BinarySearch(unmerged, y.leaf()); y.isLeaf() && found {
					rest++
				} else {
					d = y
				}
			}
			if rest != len(unmerged) {
				continue
			}
			var have []byte
			switch n := t.at(d); {
			case n.parent != nil:
				have = n.parent.ParentHash
			case n.leaf != nil && n.leaf.Source == LeafNodeCommit:
				have = n.leaf.ParentHash
			default:
				continue
			}
			if len(have) > 0 && bytes.Equal(have, t.parentHash(p, s)) {
				chained++
			}
		}
		if chained != 1 {
			return fmt.Errorf("mls: %w: node %d has %d chains", ErrParentHash, x, chained)
		}
	}
	return nil
}

// verifyLeaves checks the signatures of all leaves.
func (t *tree) verifyLeaves(groupID []byte) error {
	all := t.list()
	return inParallel(len(all), leafBatch, func(i int) error {
		if err := all[i].Node.verifySignature(t.s.id, groupID, all[i].Leaf); err != nil {
			return fmt.Errorf("mls: leaf %d: %w", all[i].Leaf, err)
		}
		return nil
	})
}

// leafBatch is how many leaves are verified at a time by one processor.
const leafBatch = 16

// verifyUnmerged checks the unmerged leaves (RFC 9420 section 12.4.3.1) and that
// no encryption key stands twice.
func (t *tree) verifyUnmerged() error {
	seen := map[string]bool{} // not made for all leaves at once: most may be blank
	for x := nodeIndex(0); x < nodeIndex(2*t.leaves-1); x++ {
		key := t.publicKey(x)
		if key == nil {
			continue
		}
		if seen[string(key)] {
			return fmt.Errorf("mls: %w: node %d", ErrDuplicateKey, x)
		}
		seen[string(key)] = true
		p := t.at(x).parent
		if p == nil {
			continue
		}
		for _, l := range p.UnmergedLeaves {
			if !x.covers(l) || t.leaf(l) == nil {
				return fmt.Errorf("mls: %w: unmerged leaf %d of node %d", ErrTree, l, x)
			}
			for y := l.node().parent(); y != x; y = y.parent() {
				q := t.at(y).parent
				if q == nil {
					continue
				}
				if _, found := slices.BinarySearch(q.UnmergedLeaves, l); !found {
					return fmt.Errorf("mls: %w: leaf %d is merged at node %d below %d", ErrTree, l, y, x)
				}
			}
		}
	}
	return nil
}
