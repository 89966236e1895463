package mls

import (
	"bytes"
	"errors"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// semiPrivateHall is a group of alice and bob whose hub reads their handshakes as
// an external receiver.
func semiPrivateHall(t testing.TB) (*hall, *ReceiverKey) {
	t.Helper()
	priv, pub, err := GenerateHPKEKey(suite1)
	must(t, err)
	key := &ReceiverKey{ExternalReceiver{pub, BasicCredential([]byte("hub"))}, priv}
	_, otherPub, err := GenerateHPKEKey(suite1)
	must(t, err)
	ext, err := Extensions(nil).WithExternalReceivers([]ExternalReceiver{{otherPub, BasicCredential([]byte("else"))}, key.Receiver})
	must(t, err)
	h := &hall{t: t, cfg: testConfig(), suite: suite1}
	can := WireFormats{semiPrivate.WireFormat}.Supported()
	g, err := CreateGroup(h.cfg, CreateOptions{Suite: suite1, GroupID: []byte("hall"), Leaf: newPerson(t, suite1, "alice").with(can), Extensions: ext})
	must(t, err)
	h.join(g)
	info, err := g.GroupInfo(0)
	must(t, err)
	h.hub, err = NewPublicGroup(h.cfg, info, g.Tree())
	must(t, err)
	kb := newPerson(t, suite1, "bob").keyPackageWith(t, h.cfg, can)
	h.commit(0, 0, CommitOptions{Proposals: []Proposal{addOf(kb)}, ForcePath: true}, kb)
	return h, key
}

func TestSemiPrivateMessage(t *testing.T) {
	points := semiPrivate
	defer func() { semiPrivate = points }()
	for name, c := range map[string]SemiPrivateCodePoints{
		"extension": points,
		"component": {WireFormat: 0xf00d, Component: 0x8008},
	} {
		t.Run(name, func(t *testing.T) {
			UseSemiPrivateMessage(c)
			h, key := semiPrivateHall(t)
			carol := newPerson(t, suite1, "carol").keyPackageWith(t, h.cfg, WireFormats{c.WireFormat}.Supported())

			// A proposal of bob, read by alice and the hub.
			m, pp, err := h.states[1].ProposeAs(1, addOf(carol), []byte("beside"), c.WireFormat)
			must(t, err)
			m = h.wire(m)
			if m.ContentType() != ContentProposal || m.Epoch() != 1 || string(m.GroupID()) != "hall" {
				t.Errorf("%v of epoch %d in %q", m.ContentType(), m.Epoch(), m.GroupID())
			}
			hp, err := h.hub.ReceiveSemiPrivate(m, key)
			must(t, err)
			ap, err := h.states[0].ReceiveProposal(m)
			must(t, err)
			if !bytes.Equal(hp.Ref, pp.Ref) || !bytes.Equal(ap.Ref, pp.Ref) || string(hp.AuthenticatedData) != "beside" {
				t.Error("references differ")
			}
			if _, err := h.states[0].ReceiveProposal(m); err == nil {
				t.Error("the proposal is taken twice")
			}

			// A Commit of alice covers it.
			out, err := h.states[0].Commit(0, CommitOptions{WireFormat: c.WireFormat, ForcePath: true})
			must(t, err)
			cm := h.wire(out.Message)
			if cm.SemiPrivateMessage == nil {
				t.Fatalf("sent as %v", cm.WireFormat)
			}
			s, err := h.hub.InspectSemiPrivate(cm, key)
			must(t, err)
			if len(s.Added) != 1 {
				t.Errorf("%d added", len(s.Added))
			}
			must(t, h.hub.VerifyGroupInfo(s, out.GroupInfo))
			must(t, h.hub.MergeCommit(s))
			_, err = h.states[1].Receive(cm)
			must(t, err)
			_, err = h.states[0].StageCommit(cm) // our own, come back
			must(t, err)
			_, err = h.states[0].MergePending(nil)
			must(t, err)
			g, err := JoinGroup(h.cfg, out.Welcome, out.Tree, []JoinKey{carol}, nil)
			must(t, err)
			h.join(g)
			h.check()
			h.chat()
		})
	}
}

func TestSemiPrivateRules(t *testing.T) {
	h, key := semiPrivateHall(t)
	out, err := h.states[0].Commit(0, CommitOptions{WireFormat: semiPrivate.WireFormat})
	must(t, err)
	broken := func(f func(*SemiPrivateMessage)) *MLSMessage {
		m := h.wire(out.Message)
		f(m.SemiPrivateMessage)
		return m
	}
	for name, c := range map[string]struct {
		m           *MLSMessage
		hub, member error
	}{
		"partial context hash": {m: broken(func(m *SemiPrivateMessage) { m.PartialContextHash[0] ^= 1 }), hub: ErrDecrypt, member: ErrPartialContext},
		"hash of the TBS":      {m: broken(func(m *SemiPrivateMessage) { m.FramedContentTBSHash[0] ^= 1 }), hub: ErrDecrypt, member: ErrDecrypt},
		"ciphertext":           {m: broken(func(m *SemiPrivateMessage) { m.Ciphertext[len(m.Ciphertext)-1] ^= 1 }), hub: ErrDecrypt, member: ErrDecrypt},
		"receivers":            {m: broken(func(m *SemiPrivateMessage) { m.Keys = m.Keys[:1] }), hub: ErrNotReceiver, member: ErrDecrypt},
		"epoch":                {m: broken(func(m *SemiPrivateMessage) { m.Epoch++ }), hub: ErrFutureEpoch, member: ErrFutureEpoch},
		"group":                {m: broken(func(m *SemiPrivateMessage) { m.GroupID = []byte("x") }), hub: ErrWrongGroup, member: ErrWrongGroup},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := h.hub.InspectSemiPrivate(c.m, key); !errors.Is(err, c.hub) {
				t.Errorf("hub: %v", err)
			}
			if _, err := h.states[1].StageCommit(c.m); !errors.Is(err, c.member) {
				t.Errorf("member: %v", err)
			}
		})
	}
	t.Run("content for receivers differs", func(t *testing.T) {
		// Sealed with a hash of other content.
		g := h.states[0]
		receivers, err := semiPrivateReceivers(g.gc)
		must(t, err)
		p := Proposal{&Update{LeafNode: *g.Leaf(0)}}
		ac, err := signFramed(g.locals[0].sig, semiPrivate.WireFormat, FramedContent{GroupID: g.GroupID(), Epoch: g.Epoch(), Sender: Sender{Type: SenderMember}, ContentType: ContentProposal, Proposal: &p}, g.gcBytes)
		must(t, err)
		m, _, err := g.s.sealSemiPrivate(g.cfg, g.st, g.secrets.senderData, receivers, ac, []byte("another context"))
		must(t, err)
		if _, err := h.hub.OpenSemiPrivate(NewMessage(m), key); !errors.Is(err, ErrFramedContentHash) {
			t.Errorf("hub: %v", err)
		}
		if _, err := h.states[1].ReceiveProposal(NewMessage(m)); !errors.Is(err, ErrFramedContentHash) {
			t.Errorf("member: %v", err)
		}
		// Without the GroupContext it can be read and not judged.
		if got, err := m.Open(suite1, key); err != nil || got.Content.Proposal.Type() != ProposalUpdate {
			t.Errorf("without the GroupContext: %v", err)
		}
	})
	t.Run("signature", func(t *testing.T) {
		g := h.states[0]
		receivers, err := semiPrivateReceivers(g.gc)
		must(t, err)
		p := Proposal{&Remove{1}}
		other := newPerson(t, suite1, "other")
		ac, err := signFramed(other.sig, semiPrivate.WireFormat, FramedContent{GroupID: g.GroupID(), Epoch: g.Epoch(), Sender: Sender{Type: SenderMember}, ContentType: ContentProposal, Proposal: &p}, g.gcBytes)
		must(t, err)
		m, _, err := g.s.sealSemiPrivate(g.cfg, g.st, g.secrets.senderData, receivers, ac, g.gcBytes)
		must(t, err)
		if _, err := h.hub.ReceiveSemiPrivate(NewMessage(m), key); !errors.Is(err, ErrSignature) {
			t.Errorf("hub: %v", err)
		}
		if _, err := h.states[1].ReceiveProposal(NewMessage(m)); !errors.Is(err, ErrSignature) {
			t.Errorf("member: %v", err)
		}
	})
	t.Run("group without the wire format", func(t *testing.T) {
		o, _, _ := pair(t, suite1, nil)
		if _, err := o.states[0].Commit(0, CommitOptions{WireFormat: semiPrivate.WireFormat}); !errors.Is(err, ErrWireFormat) {
			t.Errorf("%v", err)
		}
	})
	t.Run("application data", func(t *testing.T) {
		m := broken(func(m *SemiPrivateMessage) { m.ContentType = ContentApplication })
		if _, err := ParseMessage(m.Bytes()); err == nil {
			t.Error("parsed")
		}
	})
	t.Run("malformed receivers", func(t *testing.T) {
		e := Extensions{{semiPrivate.Extension, []byte{5}}}
		if _, err := e.ExternalReceivers(); err == nil {
			t.Error("read")
		}
		w := tlspl.NewWriter()
		writeVectorOf(w, []ExternalReceiver{{make([]byte, 32), BasicCredential(nil)}})
		e = h.hub.GroupContext().Extensions.Set(semiPrivate.Extension, w.Bytes())
		h.states[0].ClearPending()
		if _, err := h.states[0].Commit(0, CommitOptions{Proposals: []Proposal{{&GroupContextExtensions{e}}}}); !errors.Is(err, ErrPublicKey) {
			t.Errorf("receiver whose key is none: %v", err)
		}
	})
}
