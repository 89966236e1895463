package mls

import (
	"fmt"
	"iter"
	"slices"
)

// pageBits: a tree is kept in pages, and a clone shares them until one side
// writes. Staging a Commit in a group of 10,000 copies a few kilobytes.
const pageBits = 6

type slot struct {
	leaf   *LeafNode
	parent *ParentNode
	// hash is the tree hash of the subtree, nil if it is to be worked out. If it
	// is nil, so are those of all ancestors.
	hash []byte
}

func (s *slot) blank() bool { return s.leaf == nil && s.parent == nil }

type page struct {
	owner *owner
	slots [1 << pageBits]slot
}

// owner is an identity: a page may be written to by the tree it belongs to.
// It has a field because pointers to empty structures may be equal.
type owner struct{ _ byte }

// tree is a ratchet tree (RFC 9420 chapters 4 and 7). LeafNodes and ParentNodes
// in it are never changed, only replaced.
type tree struct {
	s      *suite
	leaves uint32 // a power of two
	pages  []*page
	owner  *owner
	// free: no leaf left of it is blank.
	free LeafIndex
	// end: all leaves from it on are blank, and so is what is above them alone.
	end LeafIndex
	// idx is made when first asked for.
	idx *treeIndex
	// changed are the nodes set since the tree was cloned, some more than once.
	changed []nodeIndex
}

func newTree(s *suite, leaves uint32) *tree {
	t := &tree{s: s, leaves: leaves, owner: new(owner)}
	t.pages = make([]*page, pagesFor(leaves))
	for i := range t.pages {
		t.pages[i] = &blankPage
	}
	return t
}

// blankPage belongs to no tree: who writes to it gets a copy.
var blankPage page

func pagesFor(leaves uint32) int { return int((uint64(leaves)*2 - 1 + 1<<pageBits - 1) >> pageBits) }

// clone is cheap: the pages are shared. Both trees then copy what they write.
// Hashes and index are worked out first, or each of the two would do it again.
func (t *tree) clone() *tree {
	t.rootHash()
	c := *t
	c.pages = slices.Clone(t.pages)
	c.owner = new(owner)
	t.owner = new(owner)
	c.idx = t.index().clone()
	c.changed = nil
	return &c
}

func (t *tree) at(x nodeIndex) *slot { return &t.pages[x>>pageBits].slots[x&(1<<pageBits-1)] }

// mut is at for writing.
func (t *tree) mut(x nodeIndex) *slot {
	p := t.pages[x>>pageBits]
	if p.owner != t.owner {
		q := *p
		q.owner = t.owner
		p = &q
		t.pages[x>>pageBits] = p
	}
	return &p.slots[x&(1<<pageBits-1)]
}

// touch drops the hashes that cover x.
func (t *tree) touch(x nodeIndex) {
	root := t.root()
	for {
		s := t.at(x)
		if s.hash != nil {
			t.mut(x).hash = nil
		}
		if x == root {
			return
		}
		x = x.parent()
	}
}

func (t *tree) setLeaf(l LeafIndex, n *LeafNode) {
	t.changed = append(t.changed, l.node())
	s := t.mut(l.node())
	t.idx.countLeaf(s.leaf, -1)
	t.idx.countLeaf(n, 1)
	s.leaf = n
	t.touch(l.node())
	if n == nil {
		t.free = min(t.free, l)
	} else {
		t.end = max(t.end, l+1)
	}
}

func (t *tree) setParent(x nodeIndex, n *ParentNode) {
	if n == nil && t.at(x).parent == nil {
		return
	}
	t.changed = append(t.changed, x)
	s := t.mut(x)
	t.idx.countParent(s.parent, -1)
	t.idx.countParent(n, 1)
	s.parent = n
	t.touch(x)
}

func (t *tree) root() nodeIndex { return rootOf(t.leaves) }

// leaf gives the node at l, nil if it is blank or outside.
func (t *tree) leaf(l LeafIndex) *LeafNode {
	if uint32(l) >= t.leaves {
		return nil
	}
	return t.at(l.node()).leaf
}

// members iterates over the leaves that are not blank.
func (t *tree) members() iter.Seq2[LeafIndex, *LeafNode] {
	return func(yield func(LeafIndex, *LeafNode) bool) {
		for l := LeafIndex(0); uint32(l) < t.leaves; l++ {
			if n := t.at(l.node()).leaf; n != nil && !yield(l, n) {
				return
			}
		}
	}
}

// directPath gives the ancestors of l upwards.
func (t *tree) directPath(l LeafIndex) []nodeIndex {
	var out []nodeIndex
	for x := l.node(); x != t.root(); {
		x = x.parent()
		out = append(out, x)
	}
	return out
}

// hasNodes tells whether the resolution of x is not empty.
func (t *tree) hasNodes(x nodeIndex) bool {
	if first, _ := x.span(); first >= t.end {
		return false
	}
	if !t.at(x).blank() {
		return true
	}
	return !x.isLeaf() && (t.hasNodes(x.left()) || t.hasNodes(x.right()))
}

// pathStep is a node of a filtered direct path with its child on the copath.
type pathStep struct{ node, copath nodeIndex }

// filteredPath is the filtered direct path of l (RFC 9420 section 4.1.2).
func (t *tree) filteredPath(l LeafIndex) []pathStep {
	var out []pathStep
	for x := l.node(); x != t.root(); x = x.parent() {
		if c := x.sibling(); t.hasNodes(c) {
			out = append(out, pathStep{x.parent(), c})
		}
	}
	return out
}

// resolution appends the resolution of x (RFC 9420 section 4.1.1) to out.
func (t *tree) resolution(x nodeIndex, out []nodeIndex) []nodeIndex {
	s := t.at(x)
	switch {
	case s.leaf != nil:
		return append(out, x)
	case s.parent != nil:
		out = append(out, x)
		for _, l := range s.parent.UnmergedLeaves {
			out = append(out, l.node())
		}
		return out
	case x.isLeaf():
		return out
	}
	return t.resolution(x.right(), t.resolution(x.left(), out))
}

// resolutionWithout leaves out leaves that the current Commit adds, as RFC 9420
// section 7.5 asks for.
func (t *tree) resolutionWithout(x nodeIndex, added map[LeafIndex]bool) []nodeIndex {
	r := t.resolution(x, nil)
	if len(added) == 0 {
		return r
	}
	return slices.DeleteFunc(r, func(x nodeIndex) bool { return x.isLeaf() && added[x.leaf()] })
}

// publicKey gives the encryption key at x, nil if it is blank.
func (t *tree) publicKey(x nodeIndex) []byte {
	s := t.at(x)
	switch {
	case s.leaf != nil:
		return s.leaf.EncryptionKey
	case s.parent != nil:
		return s.parent.EncryptionKey
	}
	return nil
}

// nextFree finds the leftmost blank leaf and extends the tree if there is none
// (RFC 9420 sections 7.7 and 12.1.1).
func (t *tree) nextFree() (LeafIndex, error) {
	for ; uint32(t.free) < t.leaves; t.free++ {
		if t.at(t.free.node()).leaf == nil {
			return t.free, nil
		}
	}
	if t.leaves >= maxLeaves {
		return 0, fmt.Errorf("mls: %w: too many leaves", ErrTree)
	}
	t.leaves *= 2
	t.idx = nil // one of the new size is made when needed
	for len(t.pages) < pagesFor(t.leaves) {
		t.pages = append(t.pages, &blankPage)
	}
	return t.free, nil
}

// add puts n at the leftmost blank leaf (RFC 9420 section 12.1.1).
func (t *tree) add(n *LeafNode) (LeafIndex, error) {
	l, err := t.nextFree()
	if err != nil {
		return 0, err
	}
	t.addAt(l, n)
	return l, nil
}

func (t *tree) addAt(l LeafIndex, n *LeafNode) {
	for _, x := range t.directPath(l) {
		p := t.at(x).parent
		if p == nil {
			continue
		}
		q := *p
		i, found := slices.BinarySearch(p.UnmergedLeaves, l)
		if !found {
			q.UnmergedLeaves = slices.Insert(slices.Clone(p.UnmergedLeaves), i, l)
		}
		t.setParent(x, &q)
	}
	t.setLeaf(l, n)
	if t.free == l {
		t.free++
	}
}

func (t *tree) blankPath(l LeafIndex) {
	for x := l.node(); x != t.root(); {
		x = x.parent()
		t.setParent(x, nil)
	}
}

// update replaces a leaf (RFC 9420 section 12.1.2).
func (t *tree) update(l LeafIndex, n *LeafNode) {
	t.setLeaf(l, n)
	t.blankPath(l)
}

// remove blanks a leaf and its path; truncate comes after the last one.
func (t *tree) remove(l LeafIndex) {
	t.setLeaf(l, nil)
	t.blankPath(l)
}

// truncate drops blank right halves (RFC 9420 section 7.7).
func (t *tree) truncate() {
	last := LeafIndex(0)
	for l := t.end; l > 0; l-- {
		if t.at((l - 1).node()).leaf != nil {
			last = l - 1
			break
		}
	}
	width := treeWidth(last)
	if width >= t.leaves {
		return
	}
	// What is cut from a page that stays is cleared: the tree may grow again.
	t.leaves, t.idx, t.end = width, nil, last+1
	t.pages = t.pages[:pagesFor(width)]
	for x := nodeIndex(2*width - 1); int(x) < len(t.pages)<<pageBits; x++ {
		if s := t.at(x); !s.blank() || s.hash != nil {
			*t.mut(x) = slot{}
		}
	}
}

// treeFrom takes a ratchet_tree apart (RFC 9420 section 12.4.3.3).
func treeFrom(s *suite, rt *RatchetTree) (*tree, error) {
	n := len(rt.Nodes)
	if n == 0 || n%2 == 0 || rt.Nodes[n-1].Leaf == nil {
		return nil, fmt.Errorf("mls: %w: it does not end with a leaf", ErrTree)
	}
	if n > 2*maxLeaves {
		return nil, fmt.Errorf("mls: %w: too many leaves", ErrTree)
	}
	t := newTree(s, treeWidth(LeafIndex(n/2)))
	t.end = LeafIndex(n/2) + 1
	for i, node := range rt.Nodes {
		x := nodeIndex(i)
		if node.Leaf != nil && !x.isLeaf() || node.Parent != nil && x.isLeaf() {
			return nil, fmt.Errorf("mls: %w: node %d is of the wrong kind", ErrTree, i)
		}
		if node != (TreeNode{}) {
			*t.mut(x) = slot{leaf: node.Leaf, parent: node.Parent}
		}
	}
	return t, nil
}

// export gives the ratchet_tree; nodes are shared.
func (t *tree) export() *RatchetTree {
	last := LeafIndex(0)
	for l := t.end; l > 0; l-- {
		if t.at((l - 1).node()).leaf != nil {
			last = l - 1
			break
		}
	}
	out := &RatchetTree{Nodes: make([]TreeNode, 2*last+1)}
	for i := range out.Nodes {
		s := t.at(nodeIndex(i))
		out.Nodes[i] = TreeNode{s.leaf, s.parent}
	}
	return out
}
