package mls

import (
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// MessageRange is a run of application messages of one sender in the current
// epoch, both ends included (draft-ietf-mls-extensions section "AppAck").
type MessageRange struct {
	Sender      LeafIndex
	First, Last uint32 // generations
}

// MarshalTLS writes r.
func (m *MessageRange) MarshalTLS(w *tlspl.Writer) {
	w.Uint32(uint32(m.Sender))
	w.Uint32(m.First)
	w.Uint32(m.Last)
}

// UnmarshalTLS reads m; a range that ends before it begins is a failure.
func (m *MessageRange) UnmarshalTLS(r *tlspl.Reader) {
	*m = MessageRange{LeafIndex(r.Uint32()), r.Uint32(), r.Uint32()}
	if r.Err() == nil && m.Last < m.First {
		r.Failf("range of generations from %d to %d", m.First, m.Last)
	}
}

// AppAck acknowledges application messages of an epoch. It travels in an
// [AppEphemeral] of the component app_ack, so that suppressing it stops the group
// (draft-ietf-mls-extensions section "AppAck"). Ranges made by Add are sorted and
// do not touch.
type AppAck struct{ Ranges []MessageRange }

// MarshalTLS writes a.
func (a *AppAck) MarshalTLS(w *tlspl.Writer) { writeVectorOf(w, a.Ranges) }

// UnmarshalTLS reads a.
func (a *AppAck) UnmarshalTLS(r *tlspl.Reader) { a.Ranges = vectorOf[MessageRange](r) }

// Add notes a message as received.
func (a *AppAck) Add(sender LeafIndex, generation uint32) {
	i, _ := slices.BinarySearchFunc(a.Ranges, MessageRange{Sender: sender, First: generation}, func(r, want MessageRange) int {
		switch {
		case r.Sender != want.Sender:
			return int(int64(r.Sender) - int64(want.Sender))
		case uint64(r.Last)+1 < uint64(want.First):
			return -1
		case r.First > want.First && r.First-want.First > 1:
			return 1
		}
		return 0
	})
	if i == len(a.Ranges) || a.Ranges[i].Sender != sender || uint64(a.Ranges[i].First) > uint64(generation)+1 || uint64(a.Ranges[i].Last)+1 < uint64(generation) {
		a.Ranges = slices.Insert(a.Ranges, i, MessageRange{sender, generation, generation})
		return
	}
	r := &a.Ranges[i]
	r.First, r.Last = min(r.First, generation), max(r.Last, generation)
	if n := i + 1; n < len(a.Ranges) && a.Ranges[n].Sender == sender && uint64(a.Ranges[n].First) <= uint64(r.Last)+1 {
		r.Last = max(r.Last, a.Ranges[n].Last)
		a.Ranges = slices.Delete(a.Ranges, n, n+1)
	}
}

// Covers tells whether a message is acknowledged.
func (a *AppAck) Covers(sender LeafIndex, generation uint32) bool {
	return slices.ContainsFunc(a.Ranges, func(r MessageRange) bool {
		return r.Sender == sender && r.First <= generation && generation <= r.Last
	})
}

// Proposal gives a as the AppEphemeral that carries it.
func (a *AppAck) Proposal() Proposal {
	return Proposal{&AppEphemeral{ComponentID: ComponentAppAck, Data: tlspl.Marshal(a)}}
}

// AppAckOf reads the AppAck of an AppEphemeral; ok is false for one of another
// component.
func AppAckOf(p *AppEphemeral) (a *AppAck, ok bool, err error) {
	if p.ComponentID != ComponentAppAck {
		return nil, false, nil
	}
	a = new(AppAck)
	if err := tlspl.Unmarshal(p.Data, a); err != nil {
		return nil, true, fmt.Errorf("mls: app_ack: %w", err)
	}
	return a, true, nil
}
