package mls

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// TestDisorder is the model test with a network between: each party gets the
// hub's messages when it gets to them, some twice, some before their time, some
// in another order; letters are lost, doubled and out of order; two commit at
// once; answers are lost; parties restart from what they have stored. In each
// epoch every party must come to the same tree hash, context and exporter as all
// others and the hub; and what a party holds for its leaves must be, key by key,
// what each of them holds who is alone, from the day it came to the day it went.
func TestDisorder(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runDisorder(t, seed, 1000)
		})
	}
}

// party is a provider's state of the group, or a client's that is alone.
type party struct {
	name  string
	g     *Group
	st    *stored
	inbox []*MLSMessage // handshakes in the hub's order
	post  []letter
	// alone holds, for each leaf of g, what its client would hold by itself. It
	// gets the hub's messages and, of what the leaf itself made, the keys. Empty
	// until there is a second leaf.
	alone map[LeafIndex]*Group
}

type epochMark struct{ context, tree, exporter, authenticator []byte }

type disorder struct {
	t       *testing.T
	r       *rand.Rand
	cfg     *Config
	hub     *PublicGroup
	parties []*party
	past    []*MLSMessage // all handshakes the hub took
	marks   map[uint64]*epochMark
	names   int
	trace   []string
	did     map[string]int
	most    int // clients at once
}

func runDisorder(t *testing.T, seed uint64, steps int) {
	d := &disorder{t: t, r: rand.New(rand.NewPCG(seed, 12)), cfg: testConfig(), marks: map[uint64]*epochMark{}, did: map[string]int{}}
	d.cfg.PSKs = PSKFunc(func(id *PreSharedKeyID) ([]byte, error) {
		if id.Type == PSKExternal {
			return append([]byte("psk "), id.ID...), nil
		}
		return nil, errors.New("no such PSK")
	})
	g, err := CreateGroup(d.cfg, CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: d.person().leaf()})
	must(t, err)
	info, err := g.GroupInfo(0)
	must(t, err)
	d.hub, err = NewPublicGroup(d.cfg, info, g.Tree())
	must(t, err)
	d.add(g)
	d.mark()
	defer func() {
		if t.Failed() {
			for _, s := range d.trace[max(0, len(d.trace)-40):] {
				t.Log(s)
			}
		}
	}()
	for i := range steps {
		d.step()
		d.most = max(d.most, len(d.hub.Members()))
		if i%50 == 49 {
			d.settle()
		}
	}
	for _, what := range []string{"commit", "external", "resync", "race", "stale", "lost answer", "lost commit", "doubled", "early", "letter", "doubled letter", "lost letter", "restart", "psk", "removed",
		"add", "update", "remove", "leave", "proposals reordered", "commit before its proposal", "attached", "alone", "alone committed", "alone updated", "letter to one alone", "letter between sharers"} {
		if d.did[what] == 0 {
			t.Errorf("%q never came about", what)
		}
	}
	if d.most < 45 {
		t.Errorf("never more than %d clients", d.most)
	}
	t.Logf("%d epochs, %d members, %v", d.hub.Epoch(), len(d.hub.Members()), d.did)
}

func (d *disorder) log(format string, args ...any) {
	d.trace = append(d.trace, fmt.Sprintf("epoch %d: ", d.hub.Epoch())+fmt.Sprintf(format, args...))
}

func (d *disorder) person() *person {
	d.names++
	return newPerson(d.t, suite1, fmt.Sprint("p", d.names))
}

func (d *disorder) add(g *Group) *party {
	p := &party{name: fmt.Sprint("party ", d.names), g: g, st: &stored{rows: map[rowID][]byte{}}, alone: map[LeafIndex]*Group{}}
	p.st.save(d.t, g)
	d.parties = append(d.parties, p)
	return p
}

func (d *disorder) pick() *party { return d.parties[d.r.IntN(len(d.parties))] }

func (d *disorder) chance(percent int) bool { return d.r.IntN(100) < percent }

// mark notes the epoch the hub has come to; the exporter is filled in by the
// first party that gets there.
func (d *disorder) mark() {
	d.marks[d.hub.Epoch()] = &epochMark{context: d.hub.gcBytes, tree: d.freshHash(d.hub)}
}

// share readies a party with one leaf for a second one.
func (d *disorder) share(p *party) {
	if len(p.alone) == 0 {
		p.st.save(d.t, p.g)
		p.alone[p.g.LocalLeaves()[0]] = p.st.load(d.t, d.cfg)
	}
}

// freshHash is the tree hash as who gets the tree works it out, from nothing that was kept.
func (d *disorder) freshHash(g *PublicGroup) []byte {
	d.t.Helper()
	tr, err := treeFrom(g.s, g.Tree())
	must(d.t, err)
	h := tr.rootHash()
	if !bytes.Equal(h, g.gc.TreeHash) {
		d.t.Fatalf("the tree of epoch %d has not the hash of its context", g.Epoch())
	}
	return h
}

// agree holds a party's state against what others have come to in its epoch.
func (d *disorder) agree(who string, g *Group) {
	d.t.Helper()
	m := d.marks[g.Epoch()]
	if m == nil || !bytes.Equal(g.gcBytes, m.context) {
		d.t.Fatalf("%s: another context in epoch %d", who, g.Epoch())
	}
	if !bytes.Equal(g.tree.rootHash(), m.tree) {
		d.t.Fatalf("%s: another tree in epoch %d", who, g.Epoch())
	}
	s, err := g.ExportSecret("x", nil, 32)
	must(d.t, err)
	if m.exporter == nil {
		m.exporter, m.authenticator = s, g.EpochAuthenticator()
	} else if !bytes.Equal(m.exporter, s) || !bytes.Equal(m.authenticator, g.EpochAuthenticator()) {
		d.t.Fatalf("%s: another exporter or authenticator in epoch %d", who, g.Epoch())
	}
}

// agreeAlone holds a party's state against those of its leaves by themselves: it knows what they know, and nothing else.
func (d *disorder) agreeAlone(p *party) {
	d.t.Helper()
	if len(p.alone) == 0 && len(p.g.LocalLeaves()) == 1 {
		return
	}
	if locals := p.g.LocalLeaves(); !slices.Equal(locals, slices.Sorted(maps.Keys(p.alone))) {
		d.t.Fatalf("%s has leaves %v, alone are %v", p.name, locals, slices.Sorted(maps.Keys(p.alone)))
	}
	known := nodeKeys{}
	for l, g := range p.alone {
		who := fmt.Sprint(p.name, ", leaf ", l, " alone")
		d.agree(who, g)
		if !g.Complete(l) {
			d.t.Fatalf("%s: not complete", who)
		}
		for x, k := range g.keys {
			if shared := p.g.keys[x]; shared == nil || !bytes.Equal(shared.raw, k.raw) {
				d.t.Fatalf("%s knows another key of node %d", who, x)
			}
			known[x] = k
		}
		if len(p.alone) > 1 {
			d.did["alone"]++
		}
	}
	for x := range p.g.keys {
		if known[x] == nil {
			d.t.Fatalf("%s knows the key of node %d, which none of its leaves does", p.name, x)
		}
	}
}

// refused expects an error and a state as it was.
func (d *disorder) refused(p *party, what string, m *MLSMessage, want ...error) {
	d.t.Helper()
	before, err := p.g.MarshalEpoch()
	must(d.t, err)
	_, err = p.g.Receive(m)
	if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
		d.t.Fatalf("%s: %s message: %v", p.name, what, err)
	}
	after, err := p.g.MarshalEpoch()
	must(d.t, err)
	if !bytes.Equal(before, after) {
		d.t.Fatalf("%s: a %s message has changed the state", p.name, what)
	}
	d.did[what]++
}

// catchUp takes a party through its inbox, n messages of it.
func (d *disorder) catchUp(p *party, n int) {
	d.t.Helper()
	for ; n > 0 && len(p.inbox) > 0; n-- {
		if d.chance(3) {
			d.restart(p)
		}
		// One that was taken already.
		if i := len(d.past) - len(p.inbox) - 1 - d.r.IntN(4); i >= 0 && !slices.Contains(p.inbox, d.past[i]) && d.chance(10) {
			d.refused(p, "doubled", d.past[i], ErrEpochTooOld, ErrDuplicate)
		}
		// One of a later epoch, before its time.
		if last := p.inbox[len(p.inbox)-1]; last.Epoch() > p.g.Epoch() && d.chance(10) {
			d.refused(p, "early", last, ErrFutureEpoch)
		}
		d.reorder(p)
		m := p.inbox[0]
		p.inbox = p.inbox[1:]
		if m.ContentType() == ContentProposal {
			if _, err := p.g.ReceiveProposal(m); err != nil && !errors.Is(err, ErrDuplicate) {
				d.t.Fatalf("%s: proposal: %v", p.name, err)
			}
			for l, g := range p.alone {
				pp, err := g.ReceiveProposal(m)
				must(d.t, err)
				if k := p.g.updates[string(pp.Ref)]; k != nil && pp.Sender == (Sender{Type: SenderMember, Leaf: l}) {
					g.updates[string(pp.Ref)] = k // it is the leaf's own
					d.did["alone updated"]++
				}
			}
			continue
		}
		var own []byte
		if p.g.IsPending(m) {
			own = tlspl.Marshal(p.g.own)
		}
		s, err := p.g.StageCommit(m)
		if err != nil {
			d.t.Fatalf("%s: commit: %v", p.name, err)
		}
		must(d.t, p.g.MergeStaged(s))
		for l, g := range p.alone {
			var mine *Staged
			if s.Own && l == s.Committer {
				mine, err = g.MergePending(own)
				if len(p.alone) > 1 {
					d.did["alone committed"]++
				}
			} else if mine, err = g.StageCommit(m); err == nil {
				err = g.MergeStaged(mine)
			}
			if err != nil {
				d.t.Fatalf("%s: leaf %d alone: %v", p.name, l, err)
			}
			if mine.SelfRemoved {
				delete(p.alone, l)
			}
		}
		if s.SelfRemoved {
			d.log("%s is out", p.name)
			d.did["removed"]++
			d.parties = slices.DeleteFunc(d.parties, func(o *party) bool { return o == p })
			return
		}
		d.agree(p.name, p.g)
		d.agreeAlone(p)
	}
	p.st.save(d.t, p.g)
}

// reorder has the next two messages of an inbox come the other way round, if the first is a proposal.
func (d *disorder) reorder(p *party) {
	if len(p.inbox) < 2 || p.inbox[0].ContentType() != ContentProposal || !d.chance(30) {
		return
	}
	if next := p.inbox[1]; next.ContentType() == ContentProposal {
		p.inbox[0], p.inbox[1] = next, p.inbox[0]
		d.did["proposals reordered"]++
	} else if d.unknown(p, next) {
		d.did["commit before its proposal"]++
	}
}

// unknown tells whether a Commit refers to proposals that have not come; the state is as it was.
func (d *disorder) unknown(p *party, m *MLSMessage) bool {
	d.t.Helper()
	before, err := p.g.MarshalEpoch()
	must(d.t, err)
	_, err = p.g.StageCommit(m)
	var missing *UnknownProposalError
	if err != nil && !errors.As(err, &missing) {
		d.t.Fatalf("%s: a commit before its proposal: %v", p.name, err)
	}
	after, e := p.g.MarshalEpoch()
	must(d.t, e)
	if !bytes.Equal(before, after) {
		d.t.Fatalf("%s: a commit before its proposal has changed the state", p.name)
	}
	return err != nil
}

func (d *disorder) restart(p *party) {
	p.st.save(d.t, p.g)
	p.g = p.st.load(d.t, d.cfg)
	d.did["restart"]++
}

// spread gives what the hub took to all; the sender gets it too.
func (d *disorder) spread(m *MLSMessage) {
	d.past = append(d.past, m)
	for _, p := range d.parties {
		p.inbox = append(p.inbox, m)
	}
}

func (d *disorder) wire(m *MLSMessage) *MLSMessage {
	n, err := ParseMessage(m.Bytes())
	must(d.t, err)
	return n
}

// offer gives a Commit to the hub, which takes it or, if it is late, does not.
func (d *disorder) offer(m *MLSMessage, info *GroupInfo, epoch uint64) bool {
	d.t.Helper()
	m = d.wire(m)
	s, err := d.hub.InspectCommit(m)
	if epoch != d.hub.Epoch() {
		if !errors.Is(err, ErrEpochTooOld) {
			d.t.Fatalf("hub takes a late commit: %v", err)
		}
		return false
	}
	if err != nil {
		d.t.Fatalf("hub: %v", err)
	}
	must(d.t, d.hub.VerifyGroupInfo(s, info))
	must(d.t, d.hub.MergeCommit(s))
	d.mark()
	d.spread(m)
	return true
}

// leaving tells whether a pending proposal at the hub takes the leaf out.
func (d *disorder) leaving(l LeafIndex) bool {
	for _, p := range d.hub.Proposals() {
		switch b := p.Proposal.Body.(type) {
		case *Remove:
			if b.Removed == l {
				return true
			}
		case *SelfRemove:
			if p.Sender.Leaf == l {
				return true
			}
		}
	}
	return false
}

// actor is a leaf of p that is there and stays, as far as the hub knows.
func (d *disorder) actor(p *party) (LeafIndex, bool) {
	var can []LeafIndex
	for _, l := range p.g.LocalLeaves() {
		if d.hub.Leaf(l) != nil && !d.leaving(l) {
			can = append(can, l)
		}
	}
	if len(can) == 0 {
		return 0, false
	}
	return can[d.r.IntN(len(can))], true
}

func (d *disorder) step() {
	p := d.pick()
	k := d.r.IntN(100)
	if k >= 70 { // letters and reading need no one up to date
		switch {
		case k < 82:
			d.write(p)
		case k < 92:
			for range 4 {
				d.read(d.pick())
			}
		default:
			d.catchUp(p, 1+d.r.IntN(6))
		}
		return
	}
	// Most are up to date when they act, some are not and find out.
	if d.chance(85) {
		d.catchUp(p, len(p.inbox))
	}
	if !slices.Contains(d.parties, p) || len(d.parties) == 0 {
		if len(d.parties) == 0 {
			d.external(nil)
		}
		return
	}
	leaf, ok := d.actor(p)
	if !ok {
		d.external(nil)
		return
	}
	members := d.hub.Members()
	someone := members[d.r.IntN(len(members))].Leaf
	switch {
	case k < 8:
		d.propose(p, leaf, Proposal{&Update{}})
	case k < 12 && len(members) > 4:
		d.propose(p, leaf, Proposal{&Remove{someone}})
	case k < 15 && len(members) > 4:
		d.propose(p, leaf, Proposal{&SelfRemove{}})
	case k < 19:
		d.propose(p, leaf, Proposal{&AppDataUpdate{ComponentID: ComponentID(0x8000 + d.r.IntN(3)), Op: AppDataOpUpdate, Update: []byte{byte(d.r.Uint32())}}})
	case k < 22:
		d.did["psk"]++
		d.propose(p, leaf, Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte{byte(d.r.Uint32())}}}})
	case k < 26 && len(members) < 50:
		d.external(nil)
	case k < 29 && !d.leaving(someone):
		d.external(&someone)
	case k < 34:
		d.race(p, leaf)
	default:
		d.commit(p, leaf)
	}
}

func (d *disorder) propose(p *party, leaf LeafIndex, prop Proposal) {
	if r, ok := prop.Body.(*Remove); ok && p.g.Leaf(r.Removed) == nil {
		return // p does not know of this one yet
	}
	m, _, err := p.g.Propose(leaf, prop, nil)
	if errors.Is(err, ErrDuplicate) || errors.Is(err, ErrSelfRemoveTwice) {
		return
	}
	must(d.t, err)
	d.log("%s leaf %d proposes %v", p.name, leaf, prop.Type())
	switch prop.Body.(type) {
	case *Update:
		d.did["update"]++
	case *Remove:
		d.did["remove"]++
	case *SelfRemove:
		d.did["leave"]++
	}
	m = d.wire(m)
	_, err = d.hub.ReceiveProposal(m)
	switch {
	case m.Epoch() != d.hub.Epoch():
		if !errors.Is(err, ErrEpochTooOld) {
			d.t.Fatalf("hub takes a late proposal: %v", err)
		}
		d.did["stale"]++
		p.st.save(d.t, p.g)
	case err != nil:
		d.t.Fatalf("hub: %v", err)
	default:
		p.st.save(d.t, p.g)
		d.spread(m)
	}
}

// makeCommit has a leaf commit with some adds and removals.
func (d *disorder) makeCommit(p *party, leaf LeafIndex) (*CommitOutput, []JoinKey) {
	if p.g.PendingCommit() {
		if len(p.inbox) > 0 {
			return nil, nil // it may have been accepted: who forgets it now is locked out
		}
		p.g.ClearPending()
	}
	opts := CommitOptions{ForcePath: d.chance(50)}
	var keys []JoinKey
	if len(d.hub.Members()) < 46 {
		for range d.r.IntN(4) {
			k := d.person().keyPackage(d.t, d.cfg)
			keys, opts.Proposals = append(keys, k), append(opts.Proposals, addOf(k))
		}
	} else {
		for _, x := range p.g.Members() {
			if x.Leaf != leaf && d.chance(20) && !d.touched(p.g, x.Leaf) {
				opts.Proposals = append(opts.Proposals, Proposal{&Remove{x.Leaf}})
			}
		}
	}
	out, err := p.g.Commit(leaf, opts)
	if errors.Is(err, ErrLeafDeparting) {
		return nil, nil // p has a proposal the hub refused or that is still to be spread
	}
	must(d.t, err)
	p.st.save(d.t, p.g)
	return out, keys
}

func (d *disorder) touched(g *Group, l LeafIndex) bool {
	for _, p := range g.Proposals() {
		switch b := p.Proposal.Body.(type) {
		case *Remove:
			if b.Removed == l {
				return true
			}
		case *Update, *SelfRemove:
			if p.Sender.Leaf == l {
				return true
			}
		}
	}
	return false
}

func (d *disorder) commit(p *party, leaf LeafIndex) {
	epoch := p.g.Epoch()
	out, keys := d.makeCommit(p, leaf)
	if out == nil {
		return
	}
	if d.chance(5) {
		d.did["lost commit"]++
		return
	}
	if !d.offer(out.Message, out.GroupInfo, epoch) {
		d.did["stale"]++
		p.g.ClearPending()
		p.st.save(d.t, p.g)
		return
	}
	d.log("%s leaf %d commits, %d join", p.name, leaf, len(keys))
	d.did["add"] += len(keys)
	d.did["commit"]++
	if d.chance(20) {
		d.did["lost answer"]++ // it comes back through the inbox
		if d.chance(50) {
			d.restart(p)
		}
	} else {
		d.catchUp(p, len(p.inbox))
	}
	d.welcome(out, keys)
}

// welcome brings joiners in: some become leaves of a party that is there.
func (d *disorder) welcome(out *CommitOutput, keys []JoinKey) {
	if len(keys) == 0 {
		return
	}
	w := d.wire(NewMessage(out.Welcome)).Welcome
	n := 0
	var at *party
	if at = d.pick(); d.chance(60) {
		d.catchUp(at, len(at.inbox))
		if slices.Contains(d.parties, at) && at.g.Epoch() == d.hub.Epoch() {
			d.share(at)
			n = 1 + d.r.IntN(len(keys))
			must(d.t, at.g.AttachWelcome(w, keys[:n]))
			at.st.save(d.t, at.g)
			d.alone(at, out, w, keys[:n])
		}
	}
	if n < len(keys) {
		g, err := JoinGroup(d.cfg, w, out.Tree, keys[n:], nil)
		must(d.t, err)
		p := d.add(g)
		d.agree(p.name, g)
		d.alone(p, out, w, keys[n:])
	}
}

// alone has each of some joiners, who are leaves of a party, join by themselves, too.
func (d *disorder) alone(p *party, out *CommitOutput, w *Welcome, keys []JoinKey) {
	d.t.Helper()
	if len(p.g.LocalLeaves()) == 1 {
		return
	}
	for i := range keys {
		g, err := JoinGroup(d.cfg, w, out.Tree, keys[i:i+1], nil)
		must(d.t, err)
		p.alone[g.LocalLeaves()[0]] = g
	}
	d.agreeAlone(p)
}

// race has two parties commit in one epoch; the second is refused.
func (d *disorder) race(p *party, leaf LeafIndex) {
	q := d.pick()
	if q == p {
		return
	}
	d.catchUp(p, len(p.inbox))
	d.catchUp(q, len(q.inbox))
	if !slices.Contains(d.parties, p) || !slices.Contains(d.parties, q) {
		return
	}
	leaf, ok := d.actor(p)
	other, ok2 := d.actor(q)
	if !ok || !ok2 {
		return
	}
	epoch := d.hub.Epoch()
	first, keys := d.makeCommit(p, leaf)
	second, _ := d.makeCommit(q, other)
	if first == nil || second == nil {
		return
	}
	d.did["race"]++
	d.log("%s and %s commit at once", p.name, q.name)
	if !d.offer(first.Message, first.GroupInfo, epoch) || d.offer(second.Message, second.GroupInfo, epoch) {
		d.t.Fatal("the first is refused or the second taken")
	}
	// The second finds its Commit gone when it gets the first.
	d.catchUp(q, len(q.inbox))
	d.welcome(first, keys)
}

func (d *disorder) external(resync *LeafIndex) {
	p := d.person()
	opts := ExternalCommitOptions{Leaf: p.leaf(), Resync: resync}
	if resync != nil {
		opts.Leaf = LeafOptions{Credential: d.hub.Leaf(*resync).Credential, Signature: p.sig}
		d.did["resync"]++
	}
	for _, pp := range d.hub.Proposals() {
		m, err := ParseMessage(pp.Message)
		must(d.t, err)
		opts.ProposalRefs = append(opts.ProposalRefs, m)
	}
	epoch := d.hub.Epoch()
	g, out, err := ExternalCommit(d.cfg, d.hub.StoredGroupInfo(), d.hub.Tree(), opts)
	must(d.t, err)
	d.log("external commit, resync %v", resync)
	if !d.offer(out.Message, out.GroupInfo, epoch) {
		d.t.Fatal("refused")
	}
	d.did["external"]++
	if at := d.pick(); d.chance(50) {
		d.catchUp(at, len(at.inbox))
		if slices.Contains(d.parties, at) {
			d.share(at)
			s := &stored{rows: map[rowID][]byte{}}
			s.save(d.t, g)
			must(d.t, at.g.AttachGroup(s.load(d.t, d.cfg)))
			at.st.save(d.t, at.g)
			at.alone[g.LocalLeaves()[0]] = s.load(d.t, d.cfg)
			d.agreeAlone(at)
			d.did["attached"]++
			return
		}
	}
	n := d.add(g)
	d.agree(n.name, g)
}

func (d *disorder) write(p *party) {
	locals := p.g.LocalLeaves()
	text := fmt.Sprint("letter ", d.r.Uint64())
	from := locals[d.r.IntN(len(locals))]
	m, err := p.g.Encrypt(from, []byte(text), nil)
	must(d.t, err)
	p.st.save(d.t, p.g)
	m = d.wire(m)
	for _, o := range d.parties {
		if o == p {
			continue
		}
		if d.chance(15) {
			d.did["lost letter"]++
			continue
		}
		o.post = append(o.post, letter{m, text, m.Epoch()})
	}
	// Those who share the sender's state do not get it; alone they could read it.
	for l, g := range p.alone {
		if l == from || !d.chance(20) {
			continue
		}
		if a, err := g.Decrypt(m); err != nil || string(a.Content) != text || a.Sender != from {
			d.t.Fatalf("%s: leaf %d alone reads leaf %d: %v", p.name, l, from, err)
		}
		d.did["letter between sharers"]++
	}
}

// read has a party open some of its letters, in any order, some of them twice.
func (d *disorder) read(p *party) {
	for range min(8, len(p.post)) {
		i := d.r.IntN(len(p.post))
		l := p.post[i]
		if l.epoch > p.g.Epoch() {
			if _, err := p.g.Decrypt(l.m); !errors.Is(err, ErrFutureEpoch) {
				d.t.Fatalf("%s: letter of epoch %d in %d: %v", p.name, l.epoch, p.g.Epoch(), err)
			}
			continue
		}
		p.post = slices.Delete(p.post, i, i+1)
		a, err := p.g.Decrypt(l.m)
		if err != nil {
			// Too old, or of before the party came.
			if errors.Is(err, ErrEpochTooOld) {
				continue
			}
			d.t.Fatalf("%s: letter of epoch %d in %d: %v", p.name, l.epoch, p.g.Epoch(), err)
		}
		if string(a.Content) != l.text {
			d.t.Fatalf("%s: %q, not %q", p.name, a.Content, l.text)
		}
		d.did["letter"]++
		for leaf, g := range p.alone {
			if !d.chance(10) {
				continue
			}
			// One alone has not the epochs of before it came.
			b, err := g.Decrypt(l.m)
			if err != nil && !errors.Is(err, ErrEpochTooOld) || err == nil && (string(b.Content) != l.text || b.Sender != a.Sender || b.Generation != a.Generation) {
				d.t.Fatalf("%s: leaf %d alone: letter of epoch %d in %d: %v", p.name, leaf, l.epoch, p.g.Epoch(), err)
			}
			if err == nil {
				d.did["letter to one alone"]++
			}
		}
		if d.chance(20) {
			if _, err := p.g.Decrypt(l.m); !errors.Is(err, ErrReplay) {
				d.t.Fatalf("%s: a letter twice: %v", p.name, err)
			}
			d.did["doubled letter"]++
		}
	}
	p.st.save(d.t, p.g)
}

// settle has all catch up; then all are one, and every key fits its node.
func (d *disorder) settle() {
	d.t.Helper()
	for _, p := range slices.Clone(d.parties) {
		d.catchUp(p, len(p.inbox))
	}
	leaves := 0
	for _, p := range d.parties {
		if !bytes.Equal(p.g.gcBytes, d.hub.gcBytes) || !bytes.Equal(p.g.interim, d.hub.interim) {
			d.t.Fatalf("%s is not where the hub is: %d, %d", p.name, p.g.Epoch(), d.hub.Epoch())
		}
		leaves += len(p.g.locals)
		for x, priv := range p.g.keys {
			pub, err := p.g.s.kem.public(priv.raw)
			if err != nil || !bytes.Equal(pub, p.g.tree.publicKey(x)) {
				d.t.Fatalf("%s: the key of node %d does not fit", p.name, x)
			}
		}
	}
	if n := len(d.hub.Members()); leaves != n {
		d.t.Fatalf("%d members, %d local leaves", n, leaves)
	}
	b, err := d.hub.MarshalBinary()
	must(d.t, err)
	d.hub, err = LoadPublicGroup(d.cfg, b)
	must(d.t, err)
}
