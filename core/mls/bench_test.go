package mls

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"testing"
	"time"

	peergroup "github.com/thomas-vilte/mls-go/group"
	peerkeys "github.com/thomas-vilte/mls-go/keypackages"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// bigHall is a group of n members: two states, the first with leaf 0, the second
// with all others. No parent of the tree is filled.
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

// steady is a group of n members as it is once everyone has committed: all
// parents filled, no leaf unmerged.
type steady struct {
	n   int
	cfg *Config
	all *Group // every leaf
	hub *PublicGroup
}

func newSteady(b testing.TB, n int) *steady {
	b.Helper()
	h := bigHall(b, n)
	h.cfg.MaxForward = 1 << 20
	g := h.states[1]
	must(b, g.AttachLeaf(0, h.states[0].LeafKey(0), h.states[0].SignatureKey(0)))
	// The paths are put into the tree without the Commits that would bring them,
	// which would take n log n encryptions. In bit-reversed order, the upper
	// levels are filled first.
	width := bits.Len(uint(g.tree.leaves - 1))
	for i := range g.tree.leaves {
		l := LeafIndex(bits.Reverse32(i) >> (32 - width))
		if g.locals[l] == nil || l%2 == 0 && g.tree.leaf(l+1) != nil {
			continue
		}
		leaf := g.tree.leaf(l).clone()
		priv, pub, err := g.s.generateHPKE(rand.Reader)
		must(b, err)
		leaf.EncryptionKey = pub
		secret, err := g.cfg.random(g.s.nh)
		must(b, err)
		g.tree.idx = nil
		p, err := g.tree.newPath(l, leaf, g.locals[l].sig, g.gc.GroupID, secret)
		must(b, err)
		g.keys[l.node()] = priv
		known := newLayer(g.keys)
		must(b, g.tree.keysOf(p, known))
		known.apply(g.keys)
	}
	gc := g.gc.clone()
	gc.TreeHash = g.tree.rootHash()
	g.gc, g.gcBytes = gc, tlspl.Marshal(gc)
	info, err := g.GroupInfo(LeafIndex(n - 1))
	must(b, err)
	hub, err := NewPublicGroup(h.cfg, info, g.Tree())
	must(b, err)
	return &steady{n, h.cfg, g, hub}
}

// fork gives a state with some of the leaves only, or the others.
func (s *steady) fork(b testing.TB, keep func(LeafIndex) bool) *Group {
	b.Helper()
	state, err := s.all.MarshalEpoch()
	must(b, err)
	g, err := LoadGroup(s.cfg, state, nil)
	must(b, err)
	for x, secret := range s.all.st.nodes {
		g.st.nodes[x] = secret
	}
	for l := range g.locals {
		if !keep(l) {
			delete(g.locals, l)
		}
	}
	// A key is left to those below it.
	for x := range g.keys {
		first, end := x.span()
		has := false
		for l := first; l < end && !has; l++ {
			has = g.locals[l] != nil
		}
		if !has {
			delete(g.keys, x)
		}
	}
	g.TakeRatchets()
	return g
}

func (s *steady) one(b testing.TB, l LeafIndex) *Group {
	return s.fork(b, func(x LeafIndex) bool { return x == l })
}

var steadies = map[int]*steady{}

// sizes runs a benchmark for each group size. The groups are made once; no
// benchmark changes them but through forks.
func sizes(b *testing.B, f func(b *testing.B, s *steady)) {
	for _, n := range []int{2, 100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if steadies[n] == nil {
				steadies[n] = newSteady(b, n)
			}
			b.ReportAllocs()
			b.ResetTimer()
			f(b, steadies[n])
		})
	}
}

// against reports how long op takes by how long base does: the best of some
// rounds of each in turn, so that whatever else the machine does is in neither.
func against(b *testing.B, unit string, op, base func()) {
	b.Helper()
	b.StopTimer()
	time1 := func(f func(), n int) time.Duration {
		t := time.Now()
		for range n {
			f()
		}
		return time.Since(t) / time.Duration(n)
	}
	n := int(4*time.Millisecond/(time1(op, 1)+1)) + 1
	m := int(4*time.Millisecond/(time1(base, 1)+1)) + 1
	best := [2]time.Duration{time.Hour, time.Hour}
	for range 10 {
		best[0] = min(best[0], time1(op, n))
		best[1] = min(best[1], time1(base, m))
	}
	b.ReportMetric(float64(best[0])/float64(best[1]), unit)
	b.StartTimer()
}

// bare is what operations are made of, without a protocol.
type bare struct {
	b    testing.TB
	s    *suite
	pub  hpke.PublicKey
	priv hpke.PrivateKey
	key  ed25519.PrivateKey
	aead []byte
	path []byte
	raw  []byte // priv
}

func newBare(b testing.TB) *bare {
	k := &bare{b: b, s: &suites[suite1], aead: make([]byte, 16), path: make([]byte, 32)}
	var err error
	k.priv, err = hpke.DHKEM(ecdh.X25519()).GenerateKey()
	must(b, err)
	k.pub = k.priv.PublicKey()
	k.raw, err = k.priv.Bytes()
	must(b, err)
	_, k.key, err = ed25519.GenerateKey(nil)
	must(b, err)
	return k
}

func (k *bare) expand(n int) {
	for range n {
		k.s.expandWithLabel(k.path, "x", nil, 32)
	}
}

func (k *bare) seal(n int) {
	for range n {
		_, err := hpke.Seal(k.pub, hpke.HKDFSHA256(), hpke.AES128GCM(), k.path, k.path)
		must(k.b, err)
	}
}

func (k *bare) derive(n int) {
	for range n {
		sk, err := hpke.DHKEM(ecdh.X25519()).DeriveKeyPair(k.path)
		must(k.b, err)
		sk.PublicKey().Bytes()
	}
}

func (k *bare) open(ct []byte) {
	// DeserializePrivateKey works the public half out.
	priv, err := hpke.DHKEM(ecdh.X25519()).NewPrivateKey(k.raw)
	must(k.b, err)
	_, err = hpke.Open(priv, hpke.HKDFSHA256(), hpke.AES128GCM(), k.path, ct)
	must(k.b, err)
}

func BenchmarkCreate(b *testing.B) {
	b.ReportAllocs()
	p := newPerson(b, suite1, "p")
	cfg := testConfig()
	for b.Loop() {
		_, err := CreateGroup(cfg, CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: p.leaf()})
		must(b, err)
	}
}

// BenchmarkEncrypt: x/bare is against a signature over the same bytes, two AEAD
// operations and five KDF expansions.
func BenchmarkEncrypt(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		g := s.one(b, 1)
		op := func() {
			_, err := g.Encrypt(1, []byte("hello"), nil)
			must(b, err)
		}
		for b.Loop() {
			op()
		}
		k := newBare(b)
		tbs := framedContentTBS(WireFormatPrivateMessage, &FramedContent{GroupID: g.gc.GroupID, Epoch: g.gc.Epoch, Sender: Sender{Type: SenderMember, Leaf: 1},
			ContentType: ContentApplication, ApplicationData: []byte("hello")}, g.gcBytes)
		plain := make([]byte, 80)
		against(b, "x/bare", op, func() {
			ed25519.Sign(k.key, tbs)
			for range 2 {
				_, err := k.s.seal(k.aead, k.aead[:12], nil, plain)
				must(b, err)
			}
			k.expand(5)
		})
	})
}

// BenchmarkDecrypt: x/bare is against a verification, two AEAD operations and
// five KDF expansions.
func BenchmarkDecrypt(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		sender, g := s.one(b, 1), s.one(b, 0)
		letters := newLetters(b, sender)
		op := func() {
			_, err := g.Decrypt(letters.next())
			must(b, err)
		}
		benchLetters(b, letters, op)
		against(b, "x/bare", op, bareDecrypt(b, g))
	})
}

func bareDecrypt(b testing.TB, g *Group) func() {
	k := newBare(b)
	tbs := framedContentTBS(WireFormatPrivateMessage, &FramedContent{GroupID: g.gc.GroupID, Epoch: g.gc.Epoch, Sender: Sender{Type: SenderMember, Leaf: 1},
		ContentType: ContentApplication, ApplicationData: []byte("hello")}, g.gcBytes)
	sig := ed25519.Sign(k.key, tbs)
	pub := k.key.Public().(ed25519.PublicKey)
	ct, err := k.s.seal(k.aead, k.aead[:12], nil, make([]byte, 80))
	must(b, err)
	return func() {
		if !ed25519.Verify(pub, tbs, sig) {
			b.Fatal("not verified")
		}
		for range 2 {
			_, err := k.s.open(k.aead, k.aead[:12], nil, ct)
			must(b, err)
		}
		k.expand(5)
	}
}

// letters are made ahead, so that making them is not timed.
type letters struct {
	b    testing.TB
	g    *Group
	made []*MLSMessage
}

func newLetters(b testing.TB, g *Group) *letters { return &letters{b: b, g: g} }

func (l *letters) fill(n int) {
	for len(l.made) < n {
		m, err := l.g.Encrypt(1, []byte("hello"), nil)
		must(l.b, err)
		l.made = append(l.made, m)
	}
}

func (l *letters) next() *MLSMessage {
	if len(l.made) == 0 {
		l.fill(1)
	}
	m := l.made[0]
	l.made = l.made[1:]
	return m
}

func benchLetters(b *testing.B, l *letters, op func()) {
	for b.Loop() {
		if len(l.made) == 0 {
			b.StopTimer()
			l.fill(500)
			b.StartTimer()
		}
		op()
	}
	// against takes 10 rounds of at most 4 ms and the ones before.
	b.StopTimer()
	l.fill(2000)
	b.StartTimer()
}

// BenchmarkManyLocal is receiving with a thousand local leaves: x/one against one
// leaf, for a message, for a Commit staged and for one merged; and B/leaf what a state holds for each beyond the first.
func BenchmarkManyLocal(b *testing.B) {
	if steadies[1000] == nil {
		steadies[1000] = newSteady(b, 1000)
	}
	s := steadies[1000]
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	h0 := heap()
	one := s.one(b, 2)
	h1 := heap()
	many := s.fork(b, func(l LeafIndex) bool { return l != 1 && l != 3 })
	h2 := heap()
	b.Run("message", func(b *testing.B) {
		sender := s.one(b, 1)
		a, c := newLetters(b, sender), newLetters(b, sender)
		op := func() { _, err := many.Decrypt(a.next()); must(b, err) }
		base := func() { _, err := one.Decrypt(c.next()); must(b, err) }
		benchLetters(b, a, op)
		c.made, a.made = a.made[1000:], a.made[:1000]
		against(b, "x/one", op, base)
		b.ReportMetric((float64(h2-h1)-float64(h1-h0))/float64(len(many.locals)-1), "B/leaf")
	})
	b.Run("commit", func(b *testing.B) {
		// The committer is the one leaf's sibling: both open the lowest path secret
		// and derive all of the path, as whoever knows all leaves must.
		committer := s.one(b, 3)
		out, err := committer.Commit(3, CommitOptions{ForcePath: true})
		must(b, err)
		op := func() { _, err := many.StageCommit(out.Message); must(b, err) }
		for b.Loop() {
			op()
		}
		against(b, "x/one", op, func() { _, err := one.StageCommit(out.Message); must(b, err) })
	})
	b.Run("merge", func(b *testing.B) {
		// The epochs go by, so the best of each is taken on the way.
		committer := s.one(b, 3)
		best := [2]time.Duration{time.Hour, time.Hour}
		for b.Loop() {
			b.StopTimer()
			out, err := committer.Commit(3, CommitOptions{ForcePath: true})
			must(b, err)
			_, err = committer.MergePending(nil)
			must(b, err)
			for i, g := range []*Group{one, many} {
				if i == 1 {
					b.StartTimer()
				}
				t := time.Now()
				_, err = g.Receive(out.Message)
				must(b, err)
				best[i] = min(best[i], time.Since(t))
			}
		}
		b.ReportMetric(float64(best[1])/float64(best[0]), "x/one")
	})
	runtime.KeepAlive(one)
	runtime.KeepAlive(many)
}

// BenchmarkCommitPath: x/bare is against the path's HPKE seals, node key
// derivations with their KDF steps, the key schedule and the three signatures: of
// the leaf, the Commit and the GroupInfo.
func BenchmarkCommitPath(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		g := s.one(b, 1)
		var out *CommitOutput
		op := func() {
			g.ClearPending()
			var err error
			out, err = g.Commit(1, CommitOptions{ForcePath: true})
			must(b, err)
		}
		for b.Loop() {
			op()
		}
		k := newBare(b)
		nodes := out.Message.PublicMessage.Content.Commit.Path.Nodes
		seals := 0
		for _, n := range nodes {
			seals += len(n.EncryptedPathSecret)
		}
		against(b, "x/bare", op, func() {
			k.seal(seals)
			k.derive(len(nodes) + 2) // with the leaf's own and external_pub
			k.expand(2*len(nodes) + 15)
			for range 3 {
				ed25519.Sign(k.key, k.path)
			}
		})
		b.ReportMetric(float64(seals), "seals")
	})
}

// BenchmarkProcessCommit: x/bare is against one HPKE open with a private key that
// is kept serialised, the derivations from there to the root, the key schedule and
// the two verifications.
func BenchmarkProcessCommit(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		committer, g := s.one(b, LeafIndex(s.n-1)), s.one(b, 0)
		out, err := committer.Commit(LeafIndex(s.n-1), CommitOptions{ForcePath: true})
		must(b, err)
		op := func() {
			_, err := g.StageCommit(out.Message)
			must(b, err)
		}
		for b.Loop() {
			op()
		}
		k := newBare(b)
		ct, err := hpke.Seal(k.pub, hpke.HKDFSHA256(), hpke.AES128GCM(), k.path, k.path)
		must(b, err)
		sig, pub := ed25519.Sign(k.key, k.path), k.key.Public().(ed25519.PublicKey)
		against(b, "x/bare", op, func() {
			k.open(ct)
			k.derive(1) // the two share no node but the root
			k.expand(2 + 15)
			for range 2 {
				if !ed25519.Verify(pub, k.path, sig) {
					b.Fatal("not verified")
				}
			}
		})
	})
}

// BenchmarkInspect is a hub that checks a Commit with a path.
func BenchmarkInspect(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		out, err := s.one(b, 1).Commit(1, CommitOptions{ForcePath: true})
		must(b, err)
		for b.Loop() {
			_, err := s.hub.InspectCommit(out.Message)
			must(b, err)
		}
	})
}

// BenchmarkAdd makes a Commit with an Add and no path, and its Welcome.
func BenchmarkAdd(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		g := s.one(b, 1)
		k := newPerson(b, suite1, "new").keyPackage(b, s.cfg)
		for b.Loop() {
			g.ClearPending()
			_, err := g.Commit(1, CommitOptions{Proposals: []Proposal{addOf(k)}})
			must(b, err)
		}
	})
}

// BenchmarkJoin: x/bare is against verifying the leaves' signatures alone, on all
// processors.
func BenchmarkJoin(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		g := s.one(b, 1)
		k := newPerson(b, suite1, "new").keyPackage(b, s.cfg)
		out, err := g.Commit(1, CommitOptions{Proposals: []Proposal{addOf(k)}, ForcePath: true})
		must(b, err)
		op := func() {
			_, err := JoinGroup(s.cfg, out.Welcome, out.Tree, []JoinKey{k}, nil)
			must(b, err)
		}
		for b.Loop() {
			op()
		}
		type signed struct{ pub, msg, sig []byte }
		var all []signed
		for i, n := range out.Tree.Nodes {
			if n.Leaf != nil {
				all = append(all, signed{n.Leaf.SignatureKey, signContent("LeafNodeTBS", n.Leaf.tbs(g.gc.GroupID, LeafIndex(i/2))), n.Leaf.Signature})
			}
		}
		against(b, "x/bare", op, func() {
			var wg sync.WaitGroup
			procs := runtime.GOMAXPROCS(0)
			for w := range procs {
				wg.Go(func() {
					for i := w; i < len(all); i += procs {
						if !ed25519.Verify(all[i].pub, all[i].msg, all[i].sig) {
							panic("not verified")
						}
					}
				})
			}
			wg.Wait()
		})
	})
}

func BenchmarkSave(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		g := s.one(b, 1)
		for b.Loop() {
			state, err := g.MarshalEpoch()
			must(b, err)
			b.ReportMetric(float64(len(state)), "bytes")
		}
	})
}

// BenchmarkSaveProposal is what a proposal adds to store.
func BenchmarkSaveProposal(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		g := s.one(b, 1)
		_, _, err := g.Propose(1, Proposal{&Update{}}, nil)
		must(b, err)
		for b.Loop() {
			state, err := g.MarshalPending()
			must(b, err)
			b.ReportMetric(float64(len(state)), "bytes")
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		state, err := s.one(b, 1).MarshalEpoch()
		must(b, err)
		for b.Loop() {
			_, err := LoadGroup(s.cfg, state, nil)
			must(b, err)
		}
	})
}

// BenchmarkParticipants is encryption with a participant list in the
// GroupContext, which every signature covers.
func BenchmarkParticipants(b *testing.B) {
	for _, users := range []int{0, 1000, 10000} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			var d AppDataDictionary
			if users > 0 {
				d.Set(0x8001, make([]byte, 40*users))
			}
			g, err := CreateGroup(testConfig(), CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: newPerson(b, suite1, "p").leaf(), Extensions: Extensions{d.Extension()}})
			must(b, err)
			b.ReportAllocs()
			for b.Loop() {
				_, err := g.Encrypt(0, []byte("hello"), nil)
				must(b, err)
			}
		})
	}
}

// BenchmarkCommitFlat is a Commit with a path in a group that was just made: no
// parent is filled, and the path is encrypted to every leaf.
func BenchmarkCommitFlat(b *testing.B) {
	for _, n := range []int{2, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := bigHall(b, n).states[0]
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				g.ClearPending()
				_, err := g.Commit(0, CommitOptions{ForcePath: true})
				must(b, err)
			}
		})
	}
}

// BenchmarkPeer is mls-go at what it does too, for comparison in the same run:
// the names are those of our benchmarks. Its groups have all members added by one
// Commit, so that its CommitFlat stands beside ours.
func BenchmarkPeer(b *testing.B) {
	for _, n := range []int{2, 100, 1000} {
		var g *peergroup.Group
		var sender *mlsGoMember
		made := false
		setup := func(b *testing.B) {
			b.StopTimer()
			defer b.StartTimer()
			if made {
				return
			}
			made = true
			sender = newPeer(b, "founder")
			must(b, sender.create([]byte("g")))
			for i := range n - 1 {
				m := newPeer(b, fmt.Sprint("p", i))
				_, err := sender.g.AddMember(m.kp)
				must(b, err)
			}
			staged, err := sender.g.Commit(sender.sig, sender.sig.PublicKey(), nil)
			must(b, err)
			must(b, sender.g.MergeCommit(staged))
			g = sender.g
		}
		b.Run(fmt.Sprint("Encrypt/", n), func(b *testing.B) {
			setup(b)
			b.ReportAllocs()
			for b.Loop() {
				_, err := g.SendMessage([]byte("hello"), sender.sig)
				must(b, err)
			}
		})
		b.Run(fmt.Sprint("CommitFlat/", n), func(b *testing.B) {
			setup(b)
			b.ReportAllocs()
			for b.Loop() {
				staged, err := g.Commit(sender.sig, sender.sig.PublicKey(), nil)
				must(b, err)
				must(b, g.MergeCommit(staged))
			}
		})
		b.Run(fmt.Sprint("Join/", n), func(b *testing.B) {
			setup(b)
			b.StopTimer()
			joiner, w := invitePeer(b, g, sender)
			b.StartTimer()
			b.ReportAllocs()
			for b.Loop() {
				_, err := peergroup.JoinFromWelcome(w, joiner.kp, joiner.priv, nil)
				must(b, err)
			}
		})
		b.Run(fmt.Sprint("Decrypt/", n), func(b *testing.B) {
			setup(b)
			b.StopTimer()
			joiner, w := invitePeer(b, g, sender)
			j, err := peergroup.JoinFromWelcome(w, joiner.kp, joiner.priv, nil)
			must(b, err)
			b.StartTimer()
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				m, err := g.SendMessage([]byte("hello"), sender.sig)
				must(b, err)
				b.StartTimer()
				_, _, _, err = j.ReceiveApplicationMessage(m)
				must(b, err)
			}
		})
	}
}

// invitePeer adds one more member and gives its Welcome.
func invitePeer(b testing.TB, g *peergroup.Group, sender *mlsGoMember) (*mlsGoMember, *peergroup.Welcome) {
	joiner := newPeer(b, "joiner")
	_, err := g.AddMember(joiner.kp)
	must(b, err)
	staged, err := g.Commit(sender.sig, sender.sig.PublicKey(), nil)
	must(b, err)
	secret := staged.JoinerSecret()
	must(b, g.MergeCommit(staged))
	w, err := g.CreateWelcomeWithOpts([]*peerkeys.KeyPackage{joiner.kp}, sender.sig, peergroup.WithJoinerSecret(secret), peergroup.WithStagedCommit(staged))
	must(b, err)
	return joiner, w
}

func newPeer(b testing.TB, name string) *mlsGoMember {
	m := newMLSGoMember(b, suite1, name)
	_, err := m.keyPackage()
	must(b, err)
	return m
}
