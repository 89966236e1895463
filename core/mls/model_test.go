package mls

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestModel walks groups of providers with shared leaves through random
// histories; after every epoch all of them, and the hub, must agree on tree,
// context and exported secrets, and every private key must fit its node.
func TestModel(t *testing.T) {
	const steps = 300
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runModel(t, seed, steps)
		})
	}
}

type model struct {
	*hall
	r     *rand.Rand
	names int
	// letters are messages under way to each state.
	letters map[int][]letter
	trace   []string
}

type letter struct {
	m     *MLSMessage
	text  string
	epoch uint64
}

func runModel(t *testing.T, seed uint64, steps int) {
	m := &model{r: rand.New(rand.NewPCG(seed, 9420)), letters: map[int][]letter{}}
	m.hall = newHall(t, suite1, newPerson(t, suite1, "founder"), nil)
	defer func() {
		if t.Failed() {
			for _, s := range m.trace {
				t.Log(s)
			}
		}
	}()
	for range steps {
		m.step()
	}
	if m.hub.Epoch() < uint64(steps/6) {
		t.Fatalf("only %d epochs", m.hub.Epoch())
	}
}

func (m *model) log(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf("epoch %d: ", m.hub.Epoch())+fmt.Sprintf(format, args...))
}

func (m *model) alive() []int {
	var out []int
	for i, g := range m.states {
		if g != nil {
			out = append(out, i)
		}
	}
	return out
}

// actor picks a local leaf of some state that is not about to leave.
func (m *model) actor() (int, LeafIndex, bool) {
	leaving := map[LeafIndex]bool{}
	for _, p := range m.hub.Proposals() {
		switch b := p.Proposal.Body.(type) {
		case *Remove:
			leaving[b.Removed] = true
		case *SelfRemove:
			leaving[p.Sender.Leaf] = true
		}
	}
	type who struct {
		state int
		leaf  LeafIndex
	}
	var all []who
	for _, i := range m.alive() {
		for _, l := range m.states[i].LocalLeaves() {
			if !leaving[l] {
				all = append(all, who{i, l})
			}
		}
	}
	if len(all) == 0 {
		return 0, 0, false
	}
	w := all[m.r.IntN(len(all))]
	return w.state, w.leaf, true
}

func (m *model) newPerson() *person {
	m.names++
	return newPerson(m.t, suite1, fmt.Sprint("p", m.names))
}

// reloadOne stores a state and loads it again, so that reloads fall anywhere.
func (m *model) reloadOne() {
	all := m.alive()
	i := all[m.r.IntN(len(all))]
	m.stored[i].save(m.t, m.states[i])
	m.states[i] = m.stored[i].load(m.t, m.cfg)
}

func (m *model) step() {
	i, leaf, ok := m.actor()
	members := len(m.hub.Members())
	if !ok {
		// Everyone is leaving; an external Commit saves the group.
		m.external(-1, nil)
		return
	}
	switch k := m.r.IntN(100); {
	case k < 8:
		m.log("state %d leaf %d proposes an update", i, leaf)
		m.propose(i, leaf, Proposal{&Update{}})
	case k < 14 && members > 3:
		all := m.hub.Members()
		target := all[m.r.IntN(len(all))].Leaf
		m.log("state %d leaf %d proposes to remove %d", i, leaf, target)
		m.propose(i, leaf, Proposal{&Remove{target}})
	case k < 18 && members > 3:
		m.log("state %d leaf %d proposes to leave", i, leaf)
		m.propose(i, leaf, Proposal{&SelfRemove{}})
	case k < 22:
		m.log("state %d leaf %d proposes data", i, leaf)
		m.propose(i, leaf, Proposal{&AppDataUpdate{ComponentID: ComponentID(0x8000 + m.r.IntN(3)), Op: AppDataOpUpdate, Update: []byte{byte(m.r.Uint32())}}})
	case k < 45:
		m.commitRandom(i, leaf)
	case k < 49 && members < 40:
		at := -1
		if m.r.IntN(2) == 0 {
			at = i
		}
		m.external(at, nil)
	case k < 52:
		all := m.hub.Members()
		target := all[m.r.IntN(len(all))].Leaf
		m.external(-1, &target)
	case k < 75:
		m.write(i, leaf)
	case k < 90:
		m.deliver()
	default:
		m.reloadOne()
	}
}

func (m *model) commitRandom(i int, leaf LeafIndex) {
	opts := CommitOptions{ForcePath: m.r.IntN(2) == 0}
	if m.r.IntN(6) == 0 {
		opts.WireFormat = WireFormatPrivateMessage
	}
	var keys []JoinKey
	if len(m.hub.Members()) < 40 {
		for range m.r.IntN(4) {
			k := m.newPerson().keyPackage(m.t, m.cfg)
			keys = append(keys, k)
			opts.Proposals = append(opts.Proposals, addOf(k))
		}
	}
	if len(m.hub.Members()) > 12 && m.r.IntN(3) == 0 {
		for _, x := range m.hub.Members() {
			if x.Leaf != leaf && m.r.IntN(3) == 0 && !m.touched(x.Leaf) {
				opts.Proposals = append(opts.Proposals, Proposal{&Remove{x.Leaf}})
			}
		}
	}
	m.log("state %d leaf %d commits %d pending, %d by value, path %v, %v", i, leaf, len(m.hub.Proposals()), len(opts.Proposals), opts.ForcePath, opts.WireFormat)
	out, err := m.states[i].Commit(leaf, opts)
	must(m.t, err)
	if m.r.IntN(3) == 0 {
		m.stored[i].save(m.t, m.states[i])
		m.states[i] = m.stored[i].load(m.t, m.cfg)
	}
	m.accept(i, out)
	if len(keys) > 0 {
		// Some joiners become leaves of a state that is there, the rest a new one.
		w := m.wire(NewMessage(out.Welcome)).Welcome
		n := m.r.IntN(len(keys) + 1)
		if all := m.alive(); len(all) == 0 {
			n = 0
		} else if n > 0 {
			at := all[m.r.IntN(len(all))]
			m.log("%d joiners attach to state %d", n, at)
			must(m.t, m.states[at].AttachWelcome(w, keys[:n]))
		}
		if n < len(keys) {
			g, err := JoinGroup(m.cfg, w, out.Tree, keys[n:], nil)
			must(m.t, err)
			m.log("state %d joins with %v", m.join(g), g.LocalLeaves())
		}
	}
	m.after()
}

// touched tells whether a pending proposal concerns the leaf.
func (m *model) touched(l LeafIndex) bool {
	for _, p := range m.hub.Proposals() {
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

// external joins from outside, into state at or a new one, or replaces a leaf.
func (m *model) external(at int, resync *LeafIndex) {
	var info *GroupInfo
	if info = m.hub.StoredGroupInfo(); info == nil {
		m.t.Fatal("no GroupInfo at the hub")
	}
	p := m.newPerson()
	var opts ExternalCommitOptions
	if resync != nil {
		// Whoever holds the leaf signs; another state's leaf is as good.
		owner := m.states[m.holder(*resync)]
		p = &person{string(owner.Leaf(*resync).Credential.Identity), owner.SignatureKey(*resync)}
		opts.Resync = resync
	}
	opts.Leaf = p.leaf()
	for _, pp := range m.hub.Proposals() {
		if msg, err := ParseMessage(pp.Message); err == nil {
			opts.ProposalRefs = append(opts.ProposalRefs, msg)
		}
	}
	m.log("external commit, state %d, resync %v", at, resync)
	g, out, err := ExternalCommit(m.cfg, info, m.hub.Tree(), opts)
	must(m.t, err)
	m.accept(-1, out)
	if at >= 0 && m.states[at] != nil {
		must(m.t, m.states[at].AttachGroup(g))
	} else {
		m.join(g)
	}
	m.after()
}

func (m *model) holder(l LeafIndex) int {
	for _, i := range m.alive() {
		if m.states[i].IsLocal(l) {
			return i
		}
	}
	m.t.Fatalf("leaf %d is no one's", l)
	return 0
}

func (m *model) after() {
	m.check()
	for _, i := range m.alive() {
		for _, l := range m.states[i].LocalLeaves() {
			if !m.states[i].Complete(l) {
				m.t.Fatalf("state %d: leaf %d is not complete", i, l)
			}
		}
	}
	// Every member is somebody's, and only one's.
	n := 0
	for _, i := range m.alive() {
		n += len(m.states[i].LocalLeaves())
	}
	if n != len(m.hub.Members()) {
		m.t.Fatalf("%d members, %d local leaves", len(m.hub.Members()), n)
	}
}

func (m *model) write(i int, leaf LeafIndex) {
	text := fmt.Sprint("letter ", m.r.Uint64())
	msg, err := m.states[i].Encrypt(leaf, []byte(text), nil)
	must(m.t, err)
	msg = m.wire(msg)
	for _, j := range m.alive() {
		if j != i {
			m.letters[j] = append(m.letters[j], letter{msg, text, msg.Epoch()})
		}
	}
}

// deliver gives a state one of its letters, in any order.
func (m *model) deliver() {
	all := m.alive()
	j := all[m.r.IntN(len(all))]
	box := m.letters[j]
	if len(box) == 0 {
		return
	}
	k := m.r.IntN(len(box))
	l := box[k]
	box[k] = box[len(box)-1]
	m.letters[j] = box[:len(box)-1]
	a, err := m.states[j].Decrypt(l.m)
	if l.epoch+3 < m.states[j].Epoch() {
		if !errors.Is(err, ErrEpochTooOld) {
			m.t.Fatalf("a letter of epoch %d: %v", l.epoch, err)
		}
		return
	}
	must(m.t, err)
	if string(a.Content) != l.text {
		m.t.Fatalf("got %q, want %q", a.Content, l.text)
	}
}
