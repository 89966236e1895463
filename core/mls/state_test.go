package mls

import (
	"bytes"
	"errors"
	"testing"
)

// TestTakeState holds what TakeState gives out against what MarshalEpoch would.
func TestTakeState(t *testing.T) {
	h := bigHall(t, 100)
	g := h.states[1]
	st := &stored{rows: map[rowID][]byte{}}
	take := func() StateChange {
		t.Helper()
		c, err := g.TakeState()
		must(t, err)
		if c.Epoch != nil {
			st.epoch, st.pending = c.Epoch, nil
		} else if c.Pending != nil {
			st.pending = c.Pending
		}
		// What is stored makes the very same group.
		l := st.load(t, h.cfg)
		want, err := g.MarshalEpoch()
		must(t, err)
		have, err := l.MarshalEpoch()
		must(t, err)
		if !bytes.Equal(want, have) {
			t.Fatal("what was stored is another state")
		}
		if c, err := l.TakeState(); err != nil || c.Epoch != nil || c.Pending != nil {
			t.Fatalf("just loaded, and %d and %d bytes to store: %v", len(c.Epoch), len(c.Pending), err)
		}
		return c
	}
	if c := take(); c.Epoch == nil {
		t.Fatal("a new group is not given out")
	}
	if c := take(); c.Epoch != nil || c.Pending != nil {
		t.Fatal("given out twice")
	}
	epoch := len(st.epoch)
	small := func(what string) {
		t.Helper()
		c := take()
		if c.Epoch != nil || c.Pending == nil {
			t.Fatalf("%s: %d bytes of epoch, %d pending", what, len(c.Epoch), len(c.Pending))
		}
		if len(c.Pending) > epoch/2 { // a path to leaves under blank parents is long
			t.Errorf("%s: %d bytes, all of it is %d", what, len(c.Pending), epoch)
		}
	}
	pp := h.propose(1, 1, Proposal{&Update{}})
	small("an Update")
	h.propose(0, 0, Proposal{&Update{}})
	small("a proposal received")
	g.DropProposal(pp.Ref)
	small("a proposal dropped")
	_, err := g.Commit(2, CommitOptions{})
	must(t, err)
	small("a Commit")
	g.ClearPending()
	small("a Commit cleared")
	before := st.pending
	h.commit(0, 0, CommitOptions{Without: []ProposalRef{pp.Ref}})
	if c := take(); c.Epoch == nil {
		t.Fatal("a new epoch is not given out")
	}
	if err := g.LoadPending(before); !errors.Is(err, ErrStale) {
		t.Errorf("what was pending in the epoch before: %v", err)
	}
	if err := g.LoadPending([]byte{1}); !errors.Is(err, ErrState) {
		t.Errorf("malformed: %v", err)
	}
	must(t, g.AttachLeaf(3, g.LeafKey(3), g.SignatureKey(3)))
	if c := take(); c.Epoch == nil {
		t.Error("attached leaves are not given out")
	}
	g.ForgetSaved()
	if c := take(); c.Epoch == nil {
		t.Error("not given out once more")
	}
}
