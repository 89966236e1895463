package mls

import "fmt"

// exportTree is the Exporter Tree of draft-ietf-mls-extensions (section
// "Exported Secrets"): a secret tree of 2^16 leaves, one a ComponentID, without
// ratchets.
type exportTree struct{ st *secretTree }

const exportLeaves = 1 << 16

func newExportTree(s *suite, secret []byte) *exportTree {
	t := &exportTree{newSecretTree(s, exportLeaves, secret)}
	return t
}

// take gives the secret of a component and deletes all it came from.
func (t *exportTree) take(id ComponentID) ([]byte, error) {
	l := LeafIndex(id)
	x := l.node()
	for t.st.nodes[x] == nil {
		if x == rootOf(exportLeaves) {
			return nil, fmt.Errorf("mls: safe export: %w: component 0x%04x", ErrSecretConsumed, uint16(id))
		}
		x = x.parent()
	}
	s := t.st.s
	secret := t.st.nodes[x]
	drop := func(x nodeIndex) {
		delete(t.st.nodes, x)
		t.st.dirty[rowKey{RatchetNode, uint32(x)}] = true
	}
	keep := func(x nodeIndex, secret []byte) {
		t.st.nodes[x] = secret
		t.st.dirty[rowKey{RatchetNode, uint32(x)}] = true
	}
	drop(x)
	for !x.isLeaf() {
		left := s.expandWithLabel(secret, "tree", []byte("left"), s.nh)
		right := s.expandWithLabel(secret, "tree", []byte("right"), s.nh)
		if x.left().covers(l) {
			keep(x.right(), right)
			x, secret = x.left(), left
		} else {
			keep(x.left(), left)
			x, secret = x.right(), right
		}
	}
	return secret, nil
}
