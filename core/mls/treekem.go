package mls

import (
	"bytes"
	"fmt"
	"slices"
)

// nodeKeys is what is known of the tree's private keys: the union of what the
// local leaves know (RFC 9420 section 4.2: the private view).
type nodeKeys map[nodeIndex]*hpkeKey

// stagedKeys is nodeKeys as a Commit would leave them.
type stagedKeys = layer[nodeIndex, *hpkeKey]

// prune drops keys of nodes that are blank, gone, or hold another key than
// before. after is a clone of before that was changed.
func prune(k *stagedKeys, before, after *tree) {
	if after.leaves < before.leaves {
		for x := range k.base {
			if x > 2*rootOf(after.leaves) {
				k.drop(x)
			}
		}
	}
	for _, x := range after.changed {
		if x > 2*rootOf(after.leaves) || x > 2*rootOf(before.leaves) {
			k.drop(x)
		} else if a := after.publicKey(x); a == nil || !bytes.Equal(a, before.publicKey(x)) {
			k.drop(x)
		}
	}
}

// pathSecrets are those of a filtered direct path from the step First on; the
// last is followed by the commit secret (RFC 9420 section 7.4).
type pathSecrets struct {
	steps   []pathStep // the whole filtered direct path
	first   int
	secrets [][]byte // secrets[i] belongs to steps[first+i]
	commit  []byte
}

func (s *suite) derivePath(steps []pathStep, first int, secret []byte) *pathSecrets {
	p := &pathSecrets{steps: steps, first: first}
	for range steps[first:] {
		p.secrets = append(p.secrets, secret)
		secret = s.deriveSecret(secret, "path")
	}
	p.commit = secret
	return p
}

// at gives the path secret of node x, nil if it is not known.
func (p *pathSecrets) at(x nodeIndex) []byte {
	for i, st := range p.steps[p.first:] {
		if st.node == x {
			return p.secrets[i]
		}
	}
	return nil
}

// keysOf derives the key pairs, holds them against the tree (RFC 9420 section
// 7.5, step 6 of decrypting) and puts the private ones into keys.
func (t *tree) keysOf(p *pathSecrets, keys *stagedKeys) error {
	for i, secret := range p.secrets {
		x := p.steps[p.first+i].node
		priv, pub, err := t.s.kem.derive(t.s.deriveSecret(secret, "node"))
		if err != nil {
			return fmt.Errorf("mls: node key: %w", err)
		}
		if !bytes.Equal(pub, t.publicKey(x)) {
			return fmt.Errorf("mls: %w: node %d", ErrPathSecret, x)
		}
		keys.set(x, priv)
	}
	return nil
}

// setPath blanks the direct path of l, sets the keys of its filtered direct path
// and gives the parent hash for the leaf (RFC 9420 sections 7.5 and 7.9).
func (t *tree) setPath(l LeafIndex, steps []pathStep, keys [][]byte) []byte {
	t.blankPath(l)
	parentHash := []byte{}
	for i, st := range slices.Backward(steps) {
		p := &ParentNode{EncryptionKey: keys[i], ParentHash: parentHash}
		t.setParent(st.node, p)
		parentHash = t.parentHash(p, st.copath)
	}
	return parentHash
}

// newPath makes a path for l with node keys out of secret, the first path
// secret, and puts the leaf node, which it completes and signs, into the tree
// (RFC 9420 sections 7.4 and 7.5). Leaf must carry its new encryption key.
func (t *tree) newPath(l LeafIndex, leaf *LeafNode, key *SignatureKey, groupID, secret []byte) (*pathSecrets, error) {
	steps := t.filteredPath(l)
	p := t.s.derivePath(steps, 0, secret)
	pubs := make([][]byte, len(steps))
	for i, secret := range p.secrets {
		_, pub, err := t.s.kem.derive(t.s.deriveSecret(secret, "node"))
		if err != nil {
			return nil, fmt.Errorf("mls: node key: %w", err)
		}
		pubs[i] = pub
	}
	leaf.Source = LeafNodeCommit
	leaf.ParentHash = t.setPath(l, steps, pubs)
	if err := leaf.sign(key, groupID, l); err != nil {
		return nil, err
	}
	t.setLeaf(l, leaf)
	return p, nil
}

// encryptPath makes the UpdatePath of a path newPath made (RFC 9420 section
// 7.6). context is the provisional GroupContext, added the leaves the Commit adds.
func (t *tree) encryptPath(l LeafIndex, p *pathSecrets, context []byte, added map[LeafIndex]bool) (*UpdatePath, error) {
	up := &UpdatePath{LeafNode: *t.leaf(l), Nodes: make([]UpdatePathNode, len(p.steps))}
	type seal struct {
		to     nodeIndex
		secret []byte
		ct     *HPKECiphertext
	}
	var seals []seal
	for i, st := range p.steps {
		n := &up.Nodes[i]
		n.EncryptionKey = t.publicKey(st.node)
		to := t.resolutionWithout(st.copath, added)
		n.EncryptedPathSecret = make([]HPKECiphertext, len(to))
		for j, x := range to {
			seals = append(seals, seal{x, p.secrets[i], &n.EncryptedPathSecret[j]})
		}
	}
	return up, inParallel(len(seals), sealBatch, func(i int) (err error) {
		*seals[i].ct, err = t.s.encryptWithLabel(t.publicKey(seals[i].to), "UpdatePathNode", context, seals[i].secret)
		return err
	})
}

// sealBatch is how many secrets are encrypted at a time by one processor.
const sealBatch = 4

// mergePath puts a received path into the tree (RFC 9420 section 7.5) and gives
// the filtered direct path. The leaf node itself is checked by the caller.
func (t *tree) mergePath(l LeafIndex, up *UpdatePath, added map[LeafIndex]bool) ([]pathStep, error) {
	steps := t.filteredPath(l)
	if len(up.Nodes) != len(steps) {
		return nil, fmt.Errorf("mls: %w: %d nodes for a path of %d", ErrPath, len(up.Nodes), len(steps))
	}
	pubs := make([][]byte, len(steps))
	for i, st := range steps {
		n := &up.Nodes[i]
		if want := len(t.resolutionWithout(st.copath, added)); len(n.EncryptedPathSecret) != want {
			return nil, fmt.Errorf("mls: %w: %d ciphertexts for %d nodes", ErrPath, len(n.EncryptedPathSecret), want)
		}
		if err := t.s.checkHPKEPublic(n.EncryptionKey); err != nil {
			return nil, err
		}
		pubs[i] = n.EncryptionKey
	}
	if parentHash := t.setPath(l, steps, pubs); !bytes.Equal(parentHash, up.LeafNode.ParentHash) {
		return nil, fmt.Errorf("mls: %w: of the committer's leaf", ErrParentHash)
	}
	t.setLeaf(l, &up.LeafNode)
	return steps, nil
}

// decryptPath opens the lowest path secret that any of keys can (RFC 9420 section
// 7.5). keys must fit the tree as it was before the path was merged. Since the
// keys are the union of what the local leaves know, the lowest secret gives all
// that any of them may know.
func (t *tree) decryptPath(steps []pathStep, up *UpdatePath, keys *stagedKeys, context []byte, added map[LeafIndex]bool) (*pathSecrets, error) {
	for i, st := range steps {
		for j, x := range t.resolutionWithout(st.copath, added) {
			priv, ok := keys.get(x)
			if !ok {
				continue
			}
			secret, err := t.s.decryptWithLabel(priv, "UpdatePathNode", context, up.Nodes[i].EncryptedPathSecret[j])
			if err != nil {
				return nil, err
			}
			if len(secret) != t.s.nh {
				return nil, fmt.Errorf("mls: %w: of %d bytes", ErrPathSecret, len(secret))
			}
			return t.s.derivePath(steps, i, secret), nil
		}
	}
	return nil, fmt.Errorf("mls: %w", ErrNoPathKey)
}

// complete tells whether the keys hold all that leaf l should know: its own and
// that of each ancestor that is neither blank nor lists l as unmerged.
func (t *tree) complete(l LeafIndex, keys nodeKeys) bool {
	if t.leaf(l) == nil || keys[l.node()] == nil {
		return false
	}
	for x := l.node(); x != t.root(); {
		x = x.parent()
		p := t.at(x).parent
		if p == nil || keys[x] != nil {
			continue
		}
		if _, unmerged := slices.BinarySearch(p.UnmergedLeaves, l); !unmerged {
			return false
		}
	}
	return true
}
