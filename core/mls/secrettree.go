package mls

import (
	"fmt"
	"math"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Kinds of a [RatchetRow].
const (
	RatchetHandshake   uint8 = 0 // the handshake ratchet of a leaf
	RatchetApplication uint8 = 1 // the application ratchet of a leaf
	RatchetNode        uint8 = 2 // a secret of the secret tree; Leaf is its node index
	RatchetExport      uint8 = 3 // a secret of the exporter tree; Leaf is its node index
)

// skippedKey is kept for a message that is late (RFC 9420 section 9.2).
type skippedKey struct {
	generation uint32
	key, nonce []byte
}

// ratchet is a sender's hash ratchet (RFC 9420 section 9.1). It is never
// changed, only replaced, so that what fails leaves no trace.
type ratchet struct {
	next    uint32 // generation secret belongs to
	secret  []byte
	skipped []skippedKey // by generation
}

func (r *ratchet) MarshalTLS(w *tlspl.Writer) {
	w.Uint32(r.next)
	w.Opaque(r.secret)
	w.Vector(func(w *tlspl.Writer) {
		for _, k := range r.skipped {
			w.Uint32(k.generation)
			w.Opaque(k.key)
			w.Opaque(k.nonce)
		}
	})
}

func (r *ratchet) UnmarshalTLS(rd *tlspl.Reader) {
	r.next = rd.Uint32()
	r.secret = rd.Opaque()
	rd.Vector(func(rd *tlspl.Reader) {
		r.skipped = append(r.skipped, skippedKey{rd.Uint32(), rd.Opaque(), rd.Opaque()})
	})
}

type rowKey struct {
	kind  uint8
	index uint32
}

// secretTree is RFC 9420 chapter 9: secrets of nodes until a leaf below them is
// used, then the ratchets of leaves. Rows that change are noted in dirty.
type secretTree struct {
	s      *suite
	leaves uint32
	nodes  map[nodeIndex][]byte
	rows   map[rowKey]*ratchet
	// raw are ratchets as stored, not read yet.
	raw   map[rowKey][]byte
	dirty map[rowKey]bool
}

func newSecretTree(s *suite, leaves uint32, encryption []byte) *secretTree {
	t := emptySecretTree(s, leaves)
	t.nodes[rootOf(leaves)] = encryption
	t.dirty[rowKey{RatchetNode, uint32(rootOf(leaves))}] = true
	return t
}

func emptySecretTree(s *suite, leaves uint32) *secretTree {
	return &secretTree{s: s, leaves: leaves, nodes: map[nodeIndex][]byte{}, rows: map[rowKey]*ratchet{},
		raw: map[rowKey][]byte{}, dirty: map[rowKey]bool{}}
}

// secretStep is a change of the tree that is worked out but not made.
type secretStep struct {
	key, nonce []byte
	generation uint32
	row        rowKey
	ratchet    *ratchet
	other      *ratchet // the leaf's other ratchet, if the leaf is opened now
	drop       []nodeIndex
	set        map[nodeIndex][]byte
}

func (t *secretTree) row(k rowKey) (*ratchet, error) {
	if r := t.rows[k]; r != nil {
		return r, nil
	}
	b, ok := t.raw[k]
	if !ok {
		return nil, nil
	}
	r := new(ratchet)
	if err := tlspl.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("mls: %w: ratchet: %w", ErrState, err)
	}
	t.rows[k] = r
	delete(t.raw, k)
	return r, nil
}

// open finds the ratchet of a leaf, deriving it from the nearest node above
// whose secret is left.
func (t *secretTree) open(l LeafIndex, kind uint8, st *secretStep) (*ratchet, error) {
	if uint32(l) >= t.leaves {
		return nil, fmt.Errorf("mls: %w: leaf %d", ErrDecrypt, l)
	}
	st.row = rowKey{kind, uint32(l)}
	if r, err := t.row(st.row); r != nil || err != nil {
		return r, err
	}
	x := l.node()
	for t.nodes[x] == nil {
		if x == rootOf(t.leaves) {
			return nil, fmt.Errorf("mls: %w: secrets of leaf %d are gone", ErrReplay, l)
		}
		x = x.parent()
	}
	secret := t.nodes[x]
	st.drop = append(st.drop, x)
	st.set = map[nodeIndex][]byte{}
	for !x.isLeaf() {
		left := t.s.expandWithLabel(secret, "tree", []byte("left"), t.s.nh)
		right := t.s.expandWithLabel(secret, "tree", []byte("right"), t.s.nh)
		if x.left().covers(l) {
			st.set[x.right()] = right
			x, secret = x.left(), left
		} else {
			st.set[x.left()] = left
			x, secret = x.right(), right
		}
	}
	var both [2]*ratchet
	for i, label := range []string{"handshake", "application"} {
		both[i] = &ratchet{secret: t.s.expandWithLabel(secret, label, nil, t.s.nh)}
	}
	st.other = both[1-kind]
	return both[kind], nil
}

func (t *secretTree) keyOf(secret []byte, generation uint32) (key, nonce, next []byte) {
	return t.s.deriveTreeSecret(secret, "key", generation, t.s.nk),
		t.s.deriveTreeSecret(secret, "nonce", generation, aeadNonceSize),
		t.s.deriveTreeSecret(secret, "secret", generation, t.s.nh)
}

// peek works out the key of a generation; the tree changes with commit only.
func (t *secretTree) peek(cfg *Config, l LeafIndex, kind uint8, generation uint32) (*secretStep, error) {
	st := &secretStep{generation: generation}
	r, err := t.open(l, kind, st)
	if err != nil {
		return nil, err
	}
	n := &ratchet{next: r.next, secret: r.secret, skipped: slices.Clone(r.skipped)}
	st.ratchet = n
	if generation < r.next {
		i, found := slices.BinarySearchFunc(n.skipped, generation, func(k skippedKey, g uint32) int {
			return int(int64(k.generation) - int64(g))
		})
		if !found {
			return nil, fmt.Errorf("mls: %w: generation %d of leaf %d", ErrReplay, generation, l)
		}
		st.key, st.nonce = n.skipped[i].key, n.skipped[i].nonce
		n.skipped = slices.Delete(n.skipped, i, i+1)
		return st, nil
	}
	if generation-r.next > cfg.maxForward() || generation == math.MaxUint32 {
		return nil, fmt.Errorf("mls: %w: %d after %d", ErrForward, generation, r.next)
	}
	for ; n.next <= generation; n.next++ {
		key, nonce, next := t.keyOf(n.secret, n.next)
		n.secret = next
		if n.next == generation {
			st.key, st.nonce = key, nonce
		} else {
			n.skipped = append(n.skipped, skippedKey{n.next, key, nonce})
		}
	}
	if over := len(n.skipped) - cfg.maxSkipped(); over > 0 {
		n.skipped = slices.Delete(n.skipped, 0, over)
	}
	return st, nil
}

// nextKey is peek of a leaf's first unused generation, for sending.
func (t *secretTree) nextKey(cfg *Config, l LeafIndex, kind uint8) (*secretStep, error) {
	r, err := t.open(l, kind, new(secretStep))
	if err != nil {
		return nil, err
	}
	return t.peek(cfg, l, kind, r.next)
}

// commit makes the change, and what was consumed is gone.
func (t *secretTree) commit(st *secretStep) {
	for _, x := range st.drop {
		delete(t.nodes, x)
		t.dirty[rowKey{RatchetNode, uint32(x)}] = true
	}
	for x, secret := range st.set {
		t.nodes[x] = secret
		t.dirty[rowKey{RatchetNode, uint32(x)}] = true
	}
	t.rows[st.row] = st.ratchet
	t.dirty[st.row] = true
	if st.other != nil {
		k := rowKey{1 - st.row.kind, st.row.index}
		t.rows[k] = st.other
		t.dirty[k] = true
	}
}

// adopt takes a leaf's ratchets over from another tree of the same epoch where
// they are further on.
func (t *secretTree) adopt(o *secretTree, l LeafIndex) error {
	for _, kind := range []uint8{RatchetHandshake, RatchetApplication} {
		theirs, err := o.row(rowKey{kind, uint32(l)})
		if err != nil {
			return err
		}
		st := new(secretStep)
		ours, err := t.open(l, kind, st)
		if err != nil {
			return err
		}
		if theirs == nil || theirs.next <= ours.next {
			continue
		}
		st.ratchet = theirs
		t.commit(st)
	}
	return nil
}

// data gives a row as stored, nil if there is none any more.
func (t *secretTree) data(k rowKey) []byte {
	if k.kind == RatchetNode {
		return t.nodes[nodeIndex(k.index)]
	}
	if r := t.rows[k]; r != nil {
		return tlspl.Marshal(r)
	}
	return t.raw[k]
}

// keys gives all rows there are.
func (t *secretTree) keys() []rowKey {
	var out []rowKey
	for x := range t.nodes {
		out = append(out, rowKey{RatchetNode, uint32(x)})
	}
	for k := range t.rows {
		out = append(out, k)
	}
	for k := range t.raw {
		out = append(out, k)
	}
	return out
}
