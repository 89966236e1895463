package mls

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// RatchetRow is a piece of state that changes with each message. Kind is one of
// the Ratchet constants; Leaf is a node index for [RatchetNode] and
// [RatchetExport]. The first three fields are its key.
type RatchetRow struct {
	Epoch uint64
	Leaf  LeafIndex
	Kind  uint8
	Data  []byte // nil: delete the row
}

const epochStateVersion = 1

// MarshalEpoch writes all of the state but the ratchets: to be called and stored
// after the epoch, the proposals or the pending Commit changed, together with the
// rows of TakeRatchets. It holds secrets, and the whole tree: [Group.TakeState]
// spares that where only proposals or a pending Commit came.
func (g *Group) MarshalEpoch() ([]byte, error) {
	w := tlspl.NewWriter()
	w.Uint8(epochStateVersion)
	g.PublicGroup.marshal(w)
	w.Optional(g.secrets != nil, func(w *tlspl.Writer) {
		for _, f := range g.secrets.fields() {
			w.Opaque(*f)
		}
	})
	w.Vector(func(w *tlspl.Writer) {
		for _, x := range slices.Sorted(maps.Keys(g.keys)) {
			w.Uint32(uint32(x))
			w.Opaque(g.keys[x].raw)
		}
	})
	w.Vector(func(w *tlspl.Writer) {
		for _, l := range g.LocalLeaves() {
			w.Uint32(uint32(l))
			w.Uint64(g.locals[l].joined)
			g.locals[l].sig.marshalState(w)
		}
	})
	g.marshalOwn(w)
	w.Vector(func(w *tlspl.Writer) {
		for _, p := range g.past {
			g.marshalPast(w, p)
		}
	})
	return w.Bytes(), nil
}

// marshalOwn writes what the local leaves have proposed and committed.
func (g *Group) marshalOwn(w *tlspl.Writer) {
	w.Vector(func(w *tlspl.Writer) {
		for _, ref := range slices.Sorted(maps.Keys(g.updates)) {
			w.String(ref)
			w.Opaque(g.updates[ref].leaf.raw)
			g.updates[ref].sig.marshalState(w)
		}
	})
	w.Optional(g.own != nil, func(w *tlspl.Writer) { g.own.MarshalTLS(w) })
}

func readOwn(r *tlspl.Reader) (updates map[string]*updateKeys, own *pendingCommit) {
	updates = map[string]*updateKeys{}
	r.Vector(func(r *tlspl.Reader) {
		ref, leaf := r.String(), r.Opaque()
		updates[ref] = &updateKeys{&hpkeKey{raw: leaf}, readSignatureKey(r)}
	})
	r.Optional(func(r *tlspl.Reader) {
		own = new(pendingCommit)
		own.UnmarshalTLS(r)
	})
	return updates, own
}

const pendingStateVersion = 1

// MarshalPending writes the part of MarshalEpoch that changes within an epoch:
// pending proposals, keys of Updates, the pending Commit. It is as long as these
// are, however large the group. [Group.LoadPending] reads it. It holds secrets.
func (g *Group) MarshalPending() ([]byte, error) {
	w := tlspl.NewWriter()
	w.Uint8(pendingStateVersion)
	w.Opaque(g.s.hash(g.gcBytes))
	g.marshalProposals(w)
	g.marshalOwn(w)
	return w.Bytes(), nil
}

// LoadPending puts what MarshalPending wrote in place of what is pending. It
// fails with [ErrStale], and changes nothing, if that was written in another
// epoch: such a row is to be forgotten.
func (g *Group) LoadPending(b []byte) error {
	r := tlspl.NewReader(b)
	if v := r.Uint8(); r.Err() == nil && v != pendingStateVersion {
		r.Failf("state version %d", v)
	}
	at := r.Opaque()
	pending := readProposals(r)
	updates, own := readOwn(r)
	if err := r.Done(); err != nil {
		return fmt.Errorf("mls: load pending: %w: %w", ErrState, err)
	}
	if !bytes.Equal(at, g.s.hash(g.gcBytes)) {
		return fmt.Errorf("mls: load pending: %w", ErrStale)
	}
	g.setPending(pending)
	g.updates, g.own = updates, own
	g.savedPending = g.s.hash(b)
	return nil
}

// StateChange is what has to be stored of a group, nil where nothing has.
type StateChange struct {
	// Epoch is all of the state but the ratchets, for [LoadGroup]. A Pending
	// stored before is then to be deleted.
	Epoch []byte
	// Pending is for [Group.LoadPending], after LoadGroup.
	Pending []byte
}

// TakeState gives what changed since it, [LoadGroup] or [Group.LoadPending] was
// called last: the whole after a new epoch, new local leaves or a new GroupInfo,
// and no more than what is pending otherwise. It belongs into one transaction
// with TakeRatchets; where that fails, load the group again. MarshalEpoch, for
// those who store all of it each time, has no part in this.
func (g *Group) TakeState() (StateChange, error) {
	if g.saved != g.stamp() {
		b, err := g.MarshalEpoch()
		if err != nil {
			return StateChange{}, err
		}
		g.savedPending, err = g.pendingHash()
		g.saved = g.stamp()
		return StateChange{Epoch: b}, err
	}
	b, err := g.MarshalPending()
	if err != nil {
		return StateChange{}, err
	}
	if h := g.s.hash(b); !bytes.Equal(h, g.savedPending) {
		g.savedPending = h
		return StateChange{Pending: b}, nil
	}
	return StateChange{}, nil
}

// ForgetSaved has the next TakeState give the whole: for a group that was loaded
// from elsewhere than where its state is to be stored.
func (g *Group) ForgetSaved() { g.saved = stateStamp{} }

// stateStamp tells one state apart from another but for what is pending.
type stateStamp struct {
	context *byte // of the encoded GroupContext: the epoch
	info    *GroupInfo
	joined  int // how often leaves were attached
}

func (g *Group) stamp() stateStamp { return stateStamp{&g.gcBytes[0], g.info, g.attached} }

func (g *Group) pendingHash() ([]byte, error) {
	b, err := g.MarshalPending()
	return g.s.hash(b), err
}

// marshalPast writes a past epoch; of its tree only the leaves that differ from
// the current one, since nothing but senders is looked up there.
func (g *Group) marshalPast(w *tlspl.Writer, p *pastEpoch) {
	p.gc.MarshalTLS(w)
	w.Opaque(p.senderData)
	w.Opaque(p.resumption)
	w.Uint32(p.tree.leaves)
	w.Vector(func(w *tlspl.Writer) {
		for l := LeafIndex(0); uint32(l) < p.tree.leaves; l++ {
			n := p.tree.leaf(l)
			if n == g.tree.leaf(l) {
				continue
			}
			w.Uint32(uint32(l))
			w.Optional(n != nil, func(w *tlspl.Writer) { n.MarshalTLS(w) })
		}
	})
	w.Vector(func(w *tlspl.Writer) {
		for _, l := range p.locals {
			w.Uint32(uint32(l))
		}
	})
}

// TakeRatchets gives the rows that changed since it was called last, to be
// stored in one transaction with what changed them.
func (g *Group) TakeRatchets() []RatchetRow {
	out := g.gone
	g.gone = nil
	take := func(epoch uint64, t *secretTree, export bool) {
		for k := range t.dirty {
			kind := k.kind
			if export {
				kind = RatchetExport
			}
			out = append(out, RatchetRow{epoch, LeafIndex(k.index), kind, t.data(k)})
		}
		clear(t.dirty)
	}
	for _, p := range g.past {
		take(p.gc.Epoch, p.secrets, false)
	}
	if g.secrets != nil {
		take(g.gc.Epoch, g.st, false)
		take(g.gc.Epoch, g.exports.st, true)
	}
	return out
}

// LoadGroup reads a group from what MarshalEpoch wrote and all rows stored of
// it; rows of epochs that are no longer held are passed over. Nothing is
// verified again. The ratchets themselves are read when first used.
func LoadGroup(cfg *Config, epoch []byte, rows func(yield func(RatchetRow) bool)) (*Group, error) {
	r := tlspl.NewReader(epoch)
	g, err := readGroup(cfg, r)
	if err == nil {
		err = r.Done()
	}
	if err != nil {
		return nil, fmt.Errorf("mls: load group: %w: %w", ErrState, err)
	}
	g.saved = g.stamp()
	if g.savedPending, err = g.pendingHash(); err != nil {
		return nil, err
	}
	if rows != nil {
		rows(func(row RatchetRow) bool {
			g.putRow(row)
			return true
		})
	}
	return g, nil
}

func (g *Group) putRow(row RatchetRow) {
	if row.Data == nil {
		return
	}
	var t *secretTree
	switch {
	case g.secrets != nil && row.Epoch == g.gc.Epoch && row.Kind == RatchetExport:
		t = g.exports.st
	case g.secrets != nil && row.Epoch == g.gc.Epoch:
		t = g.st
	default:
		for _, p := range g.past {
			if p.gc.Epoch == row.Epoch {
				t = p.secrets
			}
		}
	}
	if t == nil {
		return
	}
	switch row.Kind {
	case RatchetNode, RatchetExport:
		t.nodes[nodeIndex(row.Leaf)] = row.Data
	default:
		t.raw[rowKey{row.Kind, uint32(row.Leaf)}] = row.Data
	}
}

func readGroup(cfg *Config, r *tlspl.Reader) (*Group, error) {
	if v := r.Uint8(); r.Err() == nil && v != epochStateVersion {
		r.Failf("state version %d", v)
	}
	pg := readPublicGroup(cfg, r)
	if r.Err() != nil {
		return nil, r.Err()
	}
	g := &Group{PublicGroup: pg, keys: nodeKeys{}, locals: map[LeafIndex]*localLeaf{}}
	r.Optional(func(r *tlspl.Reader) {
		g.secrets = new(epochSecrets)
		for _, f := range g.secrets.fields() {
			*f = r.Opaque()
		}
	})
	if g.secrets != nil {
		g.st = emptySecretTree(pg.s, pg.tree.leaves)
		g.exports = &exportTree{emptySecretTree(pg.s, exportLeaves)}
	}
	r.Vector(func(r *tlspl.Reader) {
		x := nodeIndex(r.Uint32())
		g.keys[x] = &hpkeKey{raw: r.Opaque()}
	})
	r.Vector(func(r *tlspl.Reader) {
		l, joined := LeafIndex(r.Uint32()), r.Uint64()
		g.locals[l] = &localLeaf{readSignatureKey(r), joined}
	})
	g.updates, g.own = readOwn(r)
	r.Vector(func(r *tlspl.Reader) { g.past = append(g.past, g.readPast(r)) })
	return g, r.Err()
}

func (g *Group) readPast(r *tlspl.Reader) *pastEpoch {
	p := &pastEpoch{gc: new(GroupContext)}
	p.gc.UnmarshalTLS(r)
	p.senderData = r.Opaque()
	p.resumption = r.Opaque()
	leaves := r.Uint32()
	changed := map[LeafIndex]*LeafNode{}
	r.Vector(func(r *tlspl.Reader) {
		l := LeafIndex(r.Uint32())
		var n *LeafNode
		r.Optional(func(r *tlspl.Reader) {
			n = new(LeafNode)
			n.UnmarshalTLS(r)
		})
		changed[l] = n
	})
	if r.Err() != nil {
		return p
	}
	last := LeafIndex(0)
	for l, n := range g.tree.members() {
		if _, other := changed[l]; !other && uint32(l) < leaves {
			changed[l] = n
		}
	}
	for l, n := range changed {
		if n != nil {
			last = max(last, l)
		}
	}
	if last >= maxLeaves || treeWidth(last) != leaves {
		r.Failf("tree of %d leaves", leaves)
		return p
	}
	p.gcBytes = tlspl.Marshal(p.gc)
	p.tree = newTree(g.s, leaves)
	p.tree.end = LeafIndex(leaves)
	for l, n := range changed {
		if n != nil {
			p.tree.mut(l.node()).leaf = n
		}
	}
	r.Vector(func(r *tlspl.Reader) { p.locals = append(p.locals, LeafIndex(r.Uint32())) })
	p.secrets = emptySecretTree(g.s, leaves)
	return p
}
