package mls

import (
	"fmt"
	"testing"
)

// bigHall is a group of n members: two states, the first with leaf 0, the second
// with all others.
func bigHall(b testing.TB, n int) *hall {
	b.Helper()
	h := newHall(b, suite1, newPerson(b, suite1, "founder"), nil)
	var keys []JoinKey
	var adds []Proposal
	for i := range n - 1 {
		k := newPerson(b, suite1, fmt.Sprint("p", i)).keyPackage(b, h.cfg)
		keys, adds = append(keys, k), append(adds, addOf(k))
	}
	out, err := h.states[0].Commit(0, CommitOptions{Proposals: adds})
	must(b, err)
	h.accept(0, out)
	g, err := JoinGroup(h.cfg, out.Welcome, out.Tree, keys, nil)
	must(b, err)
	h.join(g)
	return h
}

func sizes(b *testing.B, f func(b *testing.B, h *hall)) {
	for _, n := range []int{10, 1000, 10000} {
		if n > 1000 && testing.Short() {
			continue
		}
		h := bigHall(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) { f(b, h) })
	}
}

func BenchmarkEncrypt(b *testing.B) {
	sizes(b, func(b *testing.B, h *hall) {
		for b.Loop() {
			_, err := h.states[1].Encrypt(1, []byte("hello"), nil)
			must(b, err)
			h.states[1].TakeRatchets()
		}
	})
}

func BenchmarkDecrypt(b *testing.B) {
	sizes(b, func(b *testing.B, h *hall) {
		for b.Loop() {
			b.StopTimer()
			m, err := h.states[1].Encrypt(1, []byte("hello"), nil)
			must(b, err)
			b.StartTimer()
			_, err = h.states[0].Decrypt(m)
			must(b, err)
			h.states[0].TakeRatchets()
		}
	})
}

// BenchmarkInspect is a hub that checks and merges Commits without a path, and
// with one in a tree whose parents are filled along the way.
func BenchmarkInspect(b *testing.B) {
	for _, path := range []bool{false, true} {
		b.Run(fmt.Sprintf("path=%v", path), func(b *testing.B) {
			sizes(b, func(b *testing.B, h *hall) {
				for b.Loop() {
					b.StopTimer()
					out, err := h.states[0].Commit(0, CommitOptions{ForcePath: path, Proposals: []Proposal{{&AppDataUpdate{ComponentID: 0x8000, Op: AppDataOpUpdate, Update: []byte{1}}}}})
					must(b, err)
					b.StartTimer()
					s, err := h.hub.InspectCommit(out.Message)
					must(b, err)
					must(b, h.hub.MergeCommit(s))
					b.StopTimer()
					_, err = h.states[0].MergePending(nil)
					must(b, err)
					b.StartTimer()
				}
			})
		})
	}
}

func BenchmarkCommit(b *testing.B) {
	sizes(b, func(b *testing.B, h *hall) {
		for b.Loop() {
			_, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&AppDataUpdate{ComponentID: 0x8000, Op: AppDataOpUpdate, Update: []byte{1}}}}})
			must(b, err)
			_, err = h.states[0].MergePending(nil)
			must(b, err)
		}
	})
}

func BenchmarkJoin(b *testing.B) {
	sizes(b, func(b *testing.B, h *hall) {
		info, err := h.states[0].GroupInfo(0)
		must(b, err)
		tree := h.states[0].Tree()
		for b.Loop() {
			_, err := NewPublicGroup(h.cfg, info, tree)
			must(b, err)
		}
	})
}

func BenchmarkSaveLoad(b *testing.B) {
	sizes(b, func(b *testing.B, h *hall) {
		for b.Loop() {
			state, err := h.states[1].MarshalEpoch()
			must(b, err)
			_, err = LoadGroup(h.cfg, state, nil)
			must(b, err)
			b.ReportMetric(float64(len(state)), "bytes")
		}
	})
}
