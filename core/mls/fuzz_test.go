package mls

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// seedMessages gives messages of all kinds to start from.
func seedMessages(f *testing.F) [][]byte {
	f.Helper()
	alice, bob := newPerson(f, suite1, "alice"), newPerson(f, suite1, "bob")
	h := newHall(f, suite1, alice, nil)
	kb := bob.keyPackage(f, h.cfg)
	out, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{addOf(kb), {&AppDataUpdate{ComponentID: 1, Op: AppDataOpUpdate}}}, ForcePath: true, TreeInWelcome: true})
	must(f, err)
	prop, _, err := h.states[0].Propose(0, Proposal{&Update{}}, nil)
	must(f, err)
	priv, err := h.states[0].Encrypt(0, []byte("x"), nil)
	must(f, err)
	return [][]byte{out.Message.Bytes(), NewMessage(out.Welcome).Bytes(), NewMessage(out.GroupInfo).Bytes(), NewMessage(kb.KeyPackage).Bytes(), prop.Bytes(), priv.Bytes()}
}

// FuzzParseMessage: what parses re-encodes to its bytes, nothing panics.
func FuzzParseMessage(f *testing.F) {
	for _, b := range seedMessages(f) {
		f.Add(b)
	}
	// The official messages too, when they are at hand.
	if b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "vectors", "mls", "messages.json")); err == nil {
		var v []map[string]hexBytes
		must(f, json.Unmarshal(b, &v))
		for _, m := range v[:min(len(v), 20)] {
			for _, x := range m {
				f.Add([]byte(x))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		if !bytes.Equal(m.Bytes(), b) {
			t.Fatal("does not re-encode to its bytes")
		}
		_, _, _ = m.GroupID(), m.Epoch(), m.ContentType()
	})
}

// FuzzTree: a tree that parses can be hashed and checked.
func FuzzTree(f *testing.F) {
	h := bigHall(f, 5)
	for _, l := range h.states[1].LocalLeaves() {
		out, err := h.states[1].Commit(l, CommitOptions{})
		must(f, err)
		h.accept(1, out)
		f.Add(tlspl.Marshal(out.Tree))
	}
	s := &suites[1]
	f.Fuzz(func(t *testing.T, b []byte) {
		rt := new(RatchetTree)
		if rt.UnmarshalBinary(b) != nil {
			return
		}
		if !bytes.Equal(tlspl.Marshal(rt), b) {
			t.Fatal("does not re-encode to its bytes")
		}
		tr, err := treeFrom(s, rt)
		if err != nil {
			return
		}
		tr.rootHash()
		if tr.verifyUnmerged() == nil && tr.verifyParentHashes() == nil {
			for l := range tr.members() {
				tr.filteredPath(l)
			}
		}
	})
}

// FuzzReceive gives a hub and a member anything.
func FuzzReceive(f *testing.F) {
	alice, bob := newPerson(f, suite1, "alice"), newPerson(f, suite1, "bob")
	h := newHall(f, suite1, alice, nil)
	kb := bob.keyPackage(f, h.cfg)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}}, kb)
	out, err := h.states[1].Commit(1, CommitOptions{})
	must(f, err)
	m, err := h.states[1].Encrypt(1, []byte("x"), nil)
	must(f, err)
	f.Add(out.Message.Bytes())
	f.Add(m.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		_, _ = h.hub.ReceiveProposal(m)
		_, _ = h.hub.InspectCommit(m)
		_, _ = h.states[0].StageCommit(m)
		_, _ = h.states[0].Decrypt(m)
	})
}

func FuzzSmall(f *testing.F) {
	f.Add([]byte{0}, byte(0))
	f.Add(MarshalSafeAAD([]SafeAADItem{{1, []byte("x")}}), byte(1))
	type codec interface {
		tlspl.Marshaler
		tlspl.Unmarshaler
	}
	kinds := []func() codec{
		func() codec { return new(AppDataDictionary) },
		func() codec { return new(Proposal) },
		func() codec { return new(RatchetTreeOption) },
		func() codec { return new(PartialGroupInfo) },
		func() codec { return new(GroupSecrets) },
		func() codec { return new(Commit) },
		func() codec { return new(ComponentsList) },
	}
	f.Fuzz(func(t *testing.T, b []byte, k byte) {
		_, _ = ParseSafeAAD(b)
		v := kinds[int(k)%len(kinds)]()
		if tlspl.Unmarshal(b, v) == nil && !bytes.Equal(tlspl.Marshal(v), b) {
			t.Fatalf("%T does not re-encode to its bytes", v)
		}
	})
}

// FuzzLoad: stored state that was damaged is refused or read, and never panics.
func FuzzLoad(f *testing.F) {
	h := bigHall(f, 4)
	h.commit(0, 0, CommitOptions{})
	_, err := h.states[1].Commit(1, CommitOptions{})
	must(f, err)
	b, err := h.states[1].MarshalEpoch()
	must(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := LoadGroup(h.cfg, b, nil)
		if err != nil {
			return
		}
		if _, err := g.MarshalEpoch(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestParseMemory: a short message cannot make a decoder allocate much.
func TestParseMemory(t *testing.T) {
	deep := tlspl.NewWriter()
	deep.Uint16(1)
	deep.Uint16(uint16(WireFormatPublicMessage))
	deep.Varint(tlspl.MaxVector)
	inputs := [][]byte{deep.Bytes()}
	blank := tlspl.NewWriter()
	blank.Opaque(make([]byte, 1<<20)) // a tree of blank nodes
	proposals := tlspl.NewWriter()
	proposals.Vector(func(w *tlspl.Writer) {
		for range 1 << 18 {
			w.Uint8(2)
			w.Opaque(nil)
		}
	})
	proposals.Uint8(0)
	for _, b := range append(inputs, blank.Bytes(), proposals.Bytes()) {
		for _, v := range []tlspl.Unmarshaler{new(MLSMessage), new(RatchetTree), new(Commit)} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_ = tlspl.Unmarshal(b, v)
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > uint64(len(b))*200+1<<16 {
				t.Errorf("%T of %d bytes allocates %d", v, len(b), got)
			}
		}
	}
}

// FuzzSemiPrivate gives an external receiver and a member anything.
func FuzzSemiPrivate(f *testing.F) {
	h, key := semiPrivateHall(f)
	out, err := h.states[1].Commit(1, CommitOptions{WireFormat: semiPrivate.WireFormat})
	must(f, err)
	p, _, err := h.states[1].ProposeAs(1, Proposal{&Update{}}, nil, semiPrivate.WireFormat)
	must(f, err)
	f.Add(out.Message.Bytes())
	f.Add(p.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil || m.SemiPrivateMessage == nil {
			return
		}
		_, _ = m.SemiPrivateMessage.Open(suite1, key)
		_, _ = h.hub.InspectSemiPrivate(m, key)
		_, _ = h.states[0].StageCommit(m)
	})
}

// FuzzParts reads what travels inside extensions and components.
func FuzzParts(f *testing.F) {
	ack := AppAck{[]MessageRange{{1, 2, 3}}}
	types := MediaTypeList{{"text/plain", []MediaParameter{{"charset", "UTF-8"}}}}
	formats := WireFormats{0xf00d}
	for _, b := range [][]byte{tlspl.Marshal(&ack), tlspl.Marshal(&types), tlspl.Marshal(&formats), tlspl.Marshal(&ApplicationFraming{types[0], []byte("x")}),
		tlspl.Marshal(DistributionServiceTree()), MarshalSafeAAD([]SafeAADItem{{1, []byte("x")}}),
		tlspl.Marshal(&ExternalReceiver{make([]byte, 32), BasicCredential([]byte("r"))}), tlspl.Marshal(&PartialGroupInfo{Signature: []byte{1}})} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		type part interface {
			tlspl.Marshaler
			tlspl.Unmarshaler
		}
		for _, v := range []part{new(AppAck), new(MediaTypeList), new(WireFormats), new(ComponentsList), new(ApplicationFraming), new(RatchetTreeOption),
			new(PartialGroupInfo), new(ExternalReceiver), new(ExternalSender), new(AppDataDictionary), new(RequiredCapabilities), new(PreSharedKeyID), new(Proposal)} {
			if tlspl.Unmarshal(b, v) == nil && !bytes.Equal(tlspl.Marshal(v), b) {
				t.Fatalf("%T does not re-encode to its bytes", v)
			}
		}
		e := Extensions{{semiPrivate.Extension, b}}
		_, _ = e.ExternalReceivers()
		var a AppAck
		if tlspl.Unmarshal(b, &a) == nil {
			for _, r := range a.Ranges {
				a.Add(r.Sender, r.Last)
			}
		}
	})
}
