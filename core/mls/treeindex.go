package mls

import (
	"hash/maphash"
	"maps"
	"slices"
)

// treeIndex counts what must be unique in a tree, so that a Commit is held
// against a group of 10,000 without a pass over it (RFC 9420 section 7.3). Keys
// are kept as seeded 64-bit hashes: two keys that share one would be taken for a
// key used twice, which no one can bring about who does not know the seed. Like
// the pages of the tree, shards are shared with clones until one side writes.
type treeIndex struct {
	seed   maphash.Seed
	shards []*indexShard
	owner  *owner
	// kinds counts the members with a credential type, able those who support it,
	// members all of them.
	kinds, able map[CredentialType]int
	members     int
}

type indexShard struct {
	owner   *owner
	entries []indexEntry
}

type indexEntry struct {
	hash uint64
	n    int32
}

// shardsFor keeps shards at some dozens of entries.
func shardsFor(leaves uint32) int { return int(max(1, leaves/8)) }

func (t *tree) index() *treeIndex {
	if t.idx == nil {
		x := &treeIndex{seed: maphash.MakeSeed(), owner: new(owner), kinds: map[CredentialType]int{}, able: map[CredentialType]int{}}
		x.shards = make([]*indexShard, shardsFor(t.leaves))
		for i := range x.shards {
			x.shards[i] = &indexShard{owner: x.owner}
		}
		for n := nodeIndex(0); n < nodeIndex(2*t.leaves-1); n++ {
			s := t.at(n)
			x.countLeaf(s.leaf, 1)
			x.countParent(s.parent, 1)
		}
		t.idx = x
	}
	return t.idx
}

func (x *treeIndex) clone() *treeIndex {
	if x == nil {
		return nil
	}
	c := *x
	c.shards, c.kinds, c.able = slices.Clone(x.shards), maps.Clone(x.kinds), maps.Clone(x.able)
	c.owner, x.owner = new(owner), new(owner)
	return &c
}

// Signature keys and encryption keys are unique each among themselves.
const (
	encryptionKeys = 'e'
	signatureKeys  = 's'
)

func (x *treeIndex) hash(kind byte, key []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(x.seed)
	h.WriteByte(kind)
	h.Write(key)
	return h.Sum64()
}

func (x *treeIndex) count(kind byte, key []byte) int {
	h := x.hash(kind, key)
	for _, e := range x.shards[h%uint64(len(x.shards))].entries {
		if e.hash == h {
			return int(e.n)
		}
	}
	return 0
}

func (x *treeIndex) add(kind byte, key []byte, n int32) {
	h := x.hash(kind, key)
	i := h % uint64(len(x.shards))
	s := x.shards[i]
	if s.owner != x.owner {
		s = &indexShard{x.owner, slices.Clone(s.entries)}
		x.shards[i] = s
	}
	for j := range s.entries {
		if s.entries[j].hash != h {
			continue
		}
		if s.entries[j].n += n; s.entries[j].n == 0 {
			s.entries[j] = s.entries[len(s.entries)-1]
			s.entries = s.entries[:len(s.entries)-1]
		}
		return
	}
	s.entries = append(s.entries, indexEntry{h, n})
}

func (x *treeIndex) countLeaf(l *LeafNode, n int) {
	if x == nil || l == nil {
		return
	}
	x.add(encryptionKeys, l.EncryptionKey, int32(n))
	x.add(signatureKeys, l.SignatureKey, int32(n))
	x.kinds[l.Credential.Type] += n
	// A type listed twice counts once.
	for i, c := range l.Capabilities.Credentials {
		if !contains(l.Capabilities.Credentials[:i], c) {
			x.able[c] += n
		}
	}
	x.members += n
}

func (x *treeIndex) countParent(p *ParentNode, n int) {
	if x == nil || p == nil {
		return
	}
	x.add(encryptionKeys, p.EncryptionKey, int32(n))
}
