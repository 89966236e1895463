package mls

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"math/bits"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/thomas-vilte/mls-go/framing"
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
	// Into new maps: one that held 10,000 stays as large, and is slow to go over.
	all, keys := g.locals, g.keys
	g.locals, g.keys = map[LeafIndex]*localLeaf{}, nodeKeys{}
	for l, ll := range all {
		if keep(l) {
			g.locals[l] = ll
		}
	}
	// A key is left to those below it.
	for x, k := range keys {
		first, end := x.span()
		for l := first; l < end; l++ {
			if g.locals[l] != nil {
				g.keys[x] = k
				break
			}
		}
	}
	g.TakeRatchets()
	return g
}

func (s *steady) one(b testing.TB, l LeafIndex) *Group {
	return s.fork(b, func(x LeafIndex) bool { return x == l })
}

var benchSizes = []int{2, 100, 1000, 10000}

var steadies = map[int]*steady{}

// sizes runs a benchmark for each group size. The groups are made once; no
// benchmark changes them but through forks.
func sizes(b *testing.B, f func(b *testing.B, s *steady)) {
	for _, n := range benchSizes {
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

// against reports how long op takes by how long base does, and what may be expected of it, if something is: the best of
// some rounds of each in turn, so that whatever else the machine does is in neither. The garbage of what came before is
// collected first: with a tree of 10,000 on the heap a collection takes longer than all rounds do, and everybody who
// allocates meanwhile has to help.
func against(b *testing.B, unit string, target float64, op, base func()) {
	b.Helper()
	b.StopTimer()
	runtime.GC()
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
	reportRatio(b, unit, target, best)
	b.StartTimer()
}

// The metrics are named for internal/benchtable, which makes a table of them.
func reportRatio(b *testing.B, unit string, target float64, best [2]time.Duration) {
	b.ReportMetric(float64(best[0])/float64(best[1]), "x/"+unit)
	b.ReportMetric(float64(best[1]), "ns/"+unit)
	if target > 0 {
		b.ReportMetric(target, "x/target")
	}
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
	sig  []byte // of path
}

func newBare(b testing.TB) *bare {
	k := &bare{b: b, s: &suites[suite1], aead: make([]byte, 16), path: make([]byte, 32)}
	var err error
	k.priv, err = hpke.DHKEM(ecdh.X25519()).GenerateKey()
	must(b, err)
	k.pub = k.priv.PublicKey()
	_, k.key, err = ed25519.GenerateKey(nil)
	must(b, err)
	k.sig = ed25519.Sign(k.key, k.path)
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
	_, err := hpke.Open(k.priv, hpke.HKDFSHA256(), hpke.AES128GCM(), k.path, ct)
	must(k.b, err)
}

func (k *bare) sign(n int) {
	for range n {
		ed25519.Sign(k.key, k.path)
	}
}

func (k *bare) verify(n int) {
	for range n {
		if !ed25519.Verify(k.key.Public().(ed25519.PublicKey), k.path, k.sig) {
			k.b.Fatal("not verified")
		}
	}
}

// BenchmarkCreate makes a group of so many members: its creator adds all others by one Commit and welcomes them. x/bare is
// against a seal for each and verifying the two signatures of each KeyPackage.
func BenchmarkCreate(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			cfg := testConfig()
			p := newPerson(b, suite1, "p")
			var adds []Proposal
			for i := range n - 1 {
				adds = append(adds, addOf(newPerson(b, suite1, fmt.Sprint("p", i)).keyPackage(b, cfg)))
			}
			b.ReportAllocs()
			op := func() {
				g, err := CreateGroup(cfg, CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: p.leaf()})
				must(b, err)
				_, err = g.Commit(0, CommitOptions{Proposals: adds})
				must(b, err)
				_, err = g.MergePending(nil)
				must(b, err)
			}
			for b.Loop() {
				op()
			}
			if n > 1000 {
				return // seconds a round
			}
			k := newBare(b)
			against(b, "bare", 0, op, func() {
				k.derive(3)
				k.seal(n - 1)
				k.sign(3)
				k.verify(2 * (n - 1))
			})
		})
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
		against(b, "bare", 1.5, op, bareEncrypt(b, g, 1))
	})
}

func bareEncrypt(b testing.TB, g *Group, leaf LeafIndex) func() {
	k := newBare(b)
	tbs := framedContentTBS(WireFormatPrivateMessage, &FramedContent{GroupID: g.gc.GroupID, Epoch: g.gc.Epoch, Sender: Sender{Type: SenderMember, Leaf: leaf},
		ContentType: ContentApplication, ApplicationData: []byte("hello")}, g.gcBytes)
	plain := make([]byte, 80)
	return func() {
		ed25519.Sign(k.key, tbs)
		for range 2 {
			_, err := k.s.seal(k.aead, k.aead[:12], nil, plain)
			must(b, err)
		}
		k.expand(5)
	}
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
		against(b, "bare", 1.3, op, bareDecrypt(b, g))
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
		against(b, "one", 1.1, op, base)
		b.ReportMetric((float64(h2-h1)-float64(h1-h0))/float64(len(many.locals)-1), "B/leaf")
		b.ReportMetric(4096, "B/target")
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
		against(b, "one", 1.1, op, func() { _, err := one.StageCommit(out.Message); must(b, err) })
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
		reportRatio(b, "one", 1.1, [2]time.Duration{best[1], best[0]})
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
		against(b, "bare", 1.5, op, func() {
			k.seal(seals)
			k.derive(len(nodes) + 2) // with the leaf's own and external_pub
			k.expand(2*len(nodes) + 15)
			k.sign(3)
		})
		b.ReportMetric(float64(seals), "seals")
	})
}

// BenchmarkProcess takes a Commit with a path and goes to its epoch. x/bare is against one HPKE open with a private key
// that is parsed already, the derivations from there to the root, the key schedule and the two verifications.
func BenchmarkProcess(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		committer, g := s.one(b, LeafIndex(s.n-1)), s.one(b, 0)
		next := func() *MLSMessage {
			out, err := committer.Commit(LeafIndex(s.n-1), CommitOptions{ForcePath: true})
			must(b, err)
			_, err = committer.MergePending(nil)
			must(b, err)
			return out.Message
		}
		op := func(m *MLSMessage) {
			staged, err := g.StageCommit(m)
			must(b, err)
			must(b, g.MergeStaged(staged))
		}
		// A group that was just loaded first works its hashes and index out.
		op(next())
		b.ResetTimer()
		for b.Loop() {
			b.StopTimer()
			m := next()
			b.StartTimer()
			op(m)
		}
		k := newBare(b)
		ct, err := hpke.Seal(k.pub, hpke.HKDFSHA256(), hpke.AES128GCM(), k.path, k.path)
		must(b, err)
		// A Commit is processed once, so that no round has more than one.
		b.StopTimer()
		best := [2]time.Duration{time.Hour, time.Hour}
		for range 100 {
			m := next()
			t := time.Now()
			op(m)
			best[0] = min(best[0], time.Since(t))
			t = time.Now()
			k.open(ct)
			k.derive(1) // the two share no node but the root
			k.expand(2 + 15)
			k.verify(2)
			best[1] = min(best[1], time.Since(t))
		}
		reportRatio(b, "bare", 1.5, best)
		b.StartTimer()
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

// BenchmarkAdd makes a Commit with an Add and no path, and its Welcome. x/bare is against the KeyPackage's two signatures
// verified, two made, external_pub, a seal and the key schedule.
func BenchmarkAdd(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		g := s.one(b, 1)
		k := newPerson(b, suite1, "new").keyPackage(b, s.cfg)
		op := func() {
			g.ClearPending()
			_, err := g.Commit(1, CommitOptions{Proposals: []Proposal{addOf(k)}})
			must(b, err)
		}
		for b.Loop() {
			op()
		}
		bare := newBare(b)
		against(b, "bare", 0, op, func() {
			bare.verify(2)
			bare.sign(2)
			bare.derive(1)
			bare.seal(1)
			bare.expand(17)
		})
	})
}

// BenchmarkWelcome makes the Welcome of such a Commit, with the tree inside. x/bare is against a signature, external_pub, a
// seal, and the AEAD over the GroupInfo.
func BenchmarkWelcome(b *testing.B) {
	sizes(b, func(b *testing.B, s *steady) {
		g := s.one(b, 1)
		k := newPerson(b, suite1, "new").keyPackage(b, s.cfg)
		out, err := g.Commit(1, CommitOptions{Proposals: []Proposal{addOf(k)}})
		must(b, err)
		st, secret := out.Staged.st, make([]byte, 32)
		op := func() {
			tree := Extensions{{ExtensionRatchetTree, tlspl.Marshal(st.tree.export())}}
			info, err := g.s.groupInfo(g.cfg, st.gc, out.ConfirmationTag, secret, 1, g.locals[1].sig, tree)
			must(b, err)
			_, err = g.s.welcome(st, nil, secret, secret, info)
			must(b, err)
		}
		for b.Loop() {
			op()
		}
		bare := newBare(b)
		info := make([]byte, len(tlspl.Marshal(st.tree.export())))
		against(b, "bare", 0, op, func() {
			ed25519.Sign(bare.key, info)
			bare.derive(1)
			bare.seal(1)
			_, err := bare.s.seal(bare.aead, bare.aead[:12], nil, info)
			must(b, err)
		})
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
		target := 0.0
		if s.n == 1000 {
			target = 1.5
		}
		benchJoin(b, s.cfg, out, k, target)
	})
}

func benchJoin(b *testing.B, cfg *Config, out *CommitOutput, k JoinKey, target float64) {
	op := func() {
		_, err := JoinGroup(cfg, out.Welcome, out.Tree, []JoinKey{k}, nil)
		must(b, err)
	}
	for b.Loop() {
		op()
	}
	type signed struct{ pub, msg, sig []byte }
	var all []signed
	for i, n := range out.Tree.Nodes {
		if n.Leaf != nil {
			all = append(all, signed{n.Leaf.SignatureKey, signContent("LeafNodeTBS", n.Leaf.tbs(out.GroupInfo.GroupContext.GroupID, LeafIndex(i/2))), n.Leaf.Signature})
		}
	}
	against(b, "bare", target, op, func() {
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
}

// BenchmarkX509 is joining where every leaf has a certificate by an intermediate CA, whose chain is verified up to the
// root. x/bare is against the leaves' signatures alone, as in BenchmarkJoin.
func BenchmarkX509(b *testing.B) {
	for _, n := range []int{2, 100, 1000} {
		b.Run(fmt.Sprint("Join/", n), func(b *testing.B) {
			ca := newTestCA(b)
			cfg := testConfig()
			cfg.VerifyCredential = func(c CredentialContext) error {
				_, err := c.Credential.VerifyChain(x509.VerifyOptions{Roots: ca.roots, CurrentTime: testTime, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
				return err
			}
			out, last := x509Group(b, cfg, ca, n)
			b.ReportAllocs()
			b.ResetTimer()
			benchJoin(b, cfg, out, last, 0)
		})
	}
}

// x509Group is a group of n members with certificates, as a Commit that adds all but the first welcomes them; the key is the
// last one's.
func x509Group(t testing.TB, cfg *Config, ca *testCA, n int) (*CommitOutput, JoinKey) {
	founder := newPerson(t, suite1, "founder")
	g, err := CreateGroup(cfg, CreateOptions{Suite: suite1, GroupID: []byte("g"), Leaf: LeafOptions{Credential: ca.credential(t, founder), Signature: founder.sig}})
	must(t, err)
	var last JoinKey
	var adds []Proposal
	for i := range n - 1 {
		p := newPerson(t, suite1, fmt.Sprint("p", i))
		kp, secrets, err := NewKeyPackage(cfg, suite1, KeyPackageOptions{Credential: ca.credential(t, p), Signature: p.sig})
		must(t, err)
		last = JoinKey{kp, secrets}
		adds = append(adds, addOf(last))
	}
	out, err := g.Commit(0, CommitOptions{Proposals: adds})
	must(t, err)
	return out, last
}

// testCA is a root and an intermediate authority.
type testCA struct {
	roots  *x509.CertPool
	issuer *x509.Certificate
	key    ed25519.PrivateKey
	serial int64
}

func newTestCA(b testing.TB) *testCA {
	ca := &testCA{roots: x509.NewCertPool()}
	var parent *x509.Certificate
	var parentKey ed25519.PrivateKey
	for _, name := range []string{"root", "intermediate"} {
		pub, key, err := ed25519.GenerateKey(nil)
		must(b, err)
		ca.serial++
		c := &x509.Certificate{SerialNumber: big.NewInt(ca.serial), Subject: pkix.Name{CommonName: name}, NotBefore: testTime.Add(-time.Hour),
			NotAfter: testTime.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		if parent == nil {
			parent, parentKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, parentKey)
		must(b, err)
		c, err = x509.ParseCertificate(der)
		must(b, err)
		if name == "root" {
			ca.roots.AddCert(c)
		}
		parent, parentKey = c, key
	}
	ca.issuer, ca.key = parent, parentKey
	return ca
}

func (ca *testCA) credential(b testing.TB, p *person) Credential {
	ca.serial++
	c := &x509.Certificate{SerialNumber: big.NewInt(ca.serial), Subject: pkix.Name{CommonName: p.name}, NotBefore: testTime.Add(-time.Hour),
		NotAfter: testTime.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, c, ca.issuer, ed25519.PublicKey(p.sig.Public()), ca.key)
	must(b, err)
	return X509Credential([][]byte{der, ca.issuer.Raw})
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

// BenchmarkParticipants is encryption with a participant list of so many users in the GroupContext, which every signature
// covers. x/bare is as in BenchmarkEncrypt, over the same bytes.
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
			op := func() {
				_, err := g.Encrypt(0, []byte("hello"), nil)
				must(b, err)
			}
			for b.Loop() {
				op()
			}
			against(b, "bare", 1.5, op, bareEncrypt(b, g, 0))
			b.ReportMetric(float64(len(g.gcBytes)), "B/context")
		})
	}
}

// BenchmarkCommitFlat is a Commit with a path in a group that was just made: no
// parent is filled, and the path is encrypted to every leaf.
func BenchmarkCommitFlat(b *testing.B) {
	for _, n := range benchSizes {
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

// BenchmarkPeer is mls-go at what it does too, for comparison in the same run: the names are those of our benchmarks. Its
// groups have all members added by one Commit, so that its CommitFlat stands beside ours; a Process is of such a Commit.
// Joining a group of 10,000 takes it minutes and 100 GB of allocation (both grow with the square), so nothing there has a
// second member.
func BenchmarkPeer(b *testing.B) {
	for _, n := range benchSizes {
		var p *peer
		run := func(name string, f func(b *testing.B)) {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				if p == nil {
					p = newPeerGroup(b, n)
				}
				b.ReportAllocs()
				b.ResetTimer()
				f(b)
			})
		}
		run("Create", func(b *testing.B) {
			for b.Loop() {
				m := newPeer(b, "founder")
				must(b, m.create([]byte("g")))
				for _, o := range p.others {
					_, err := m.g.AddMember(o.kp)
					must(b, err)
				}
				staged, err := m.g.Commit(m.sig, m.sig.PublicKey(), nil)
				must(b, err)
				secret := staged.JoinerSecret()
				must(b, m.g.MergeCommit(staged))
				kps := make([]*peerkeys.KeyPackage, len(p.others))
				for i, o := range p.others {
					kps[i] = o.kp
				}
				_, err = m.g.CreateWelcomeWithOpts(kps, m.sig, peergroup.WithJoinerSecret(secret), peergroup.WithStagedCommit(staged))
				must(b, err)
			}
		})
		run("Add", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				joiner := newPeer(b, "joiner")
				b.StartTimer()
				p.invite(b, joiner, nil)
				b.StopTimer()
				p.remove(b)
				b.StartTimer()
			}
		})
		run("Welcome", func(b *testing.B) {
			var took peerCost
			for b.Loop() {
				p.invite(b, newPeer(b, "joiner"), &took)
				p.remove(b)
			}
			b.ReportMetric(float64(took.time)/float64(b.N), "ns/op")
			b.ReportMetric(float64(took.bytes)/float64(b.N), "B/op")
		})
		run("Encrypt", func(b *testing.B) {
			for b.Loop() {
				_, err := p.g.SendMessage([]byte("hello"), p.sig)
				must(b, err)
			}
		})
		run("CommitFlat", func(b *testing.B) {
			for b.Loop() {
				staged, err := p.g.Commit(p.sig, p.sig.PublicKey(), nil)
				must(b, err)
				must(b, p.g.MergeCommit(staged))
			}
		})
		run("Save", func(b *testing.B) {
			for b.Loop() {
				_, err := p.g.MarshalState()
				must(b, err)
			}
		})
		run("Load", func(b *testing.B) {
			state, err := p.g.MarshalState()
			must(b, err)
			for b.Loop() {
				_, err := peergroup.UnmarshalGroupState(state)
				must(b, err)
			}
		})
		if n > 1000 {
			continue
		}
		run("Join", func(b *testing.B) {
			joiner := newPeer(b, "joiner")
			w := p.invite(b, joiner, nil)
			for b.Loop() {
				_, err := peergroup.JoinFromWelcome(w, joiner.kp, joiner.priv, nil)
				must(b, err)
			}
			p.remove(b)
		})
		run("Decrypt", func(b *testing.B) {
			j := p.second(b)
			for b.Loop() {
				b.StopTimer()
				m, err := p.g.SendMessage([]byte("hello"), p.sig)
				must(b, err)
				b.StartTimer()
				_, _, _, err = j.ReceiveApplicationMessage(m)
				must(b, err)
			}
			p.remove(b)
		})
		run("Process", func(b *testing.B) {
			j := p.second(b)
			for b.Loop() {
				b.StopTimer()
				m, _, err := p.commit(interopCommit{})
				must(b, err)
				msg, err := framing.UnmarshalMLSMessage(m)
				must(b, err)
				pub, _ := msg.AsPublic()
				b.StartTimer()
				must(b, j.ProcessPublicMessage(pub))
			}
			p.remove(b)
		})
	}
}

// peer is a member of mls-go in a group with others, who are only in the tree.
type peer struct {
	*mlsGoMember
	others []*mlsGoMember
}

func newPeerGroup(b testing.TB, n int) *peer {
	p := &peer{mlsGoMember: newPeer(b, "founder")}
	must(b, p.create([]byte("g")))
	for i := range n - 1 {
		m := newPeer(b, fmt.Sprint("p", i))
		p.others = append(p.others, m)
		_, err := p.g.AddMember(m.kp)
		must(b, err)
	}
	staged, err := p.g.Commit(p.sig, p.sig.PublicKey(), nil)
	must(b, err)
	must(b, p.g.MergeCommit(staged))
	return p
}

// peerCost is what part of an operation took.
type peerCost struct {
	time  time.Duration
	bytes uint64
}

// invite adds one more member and gives its Welcome; took, if not nil, gains what that alone took to make.
func (p *peer) invite(b testing.TB, joiner *mlsGoMember, took *peerCost) *peergroup.Welcome {
	_, err := p.g.AddMember(joiner.kp)
	must(b, err)
	staged, err := p.g.Commit(p.sig, p.sig.PublicKey(), nil)
	must(b, err)
	secret := staged.JoinerSecret()
	must(b, p.g.MergeCommit(staged))
	var m meter
	if took != nil {
		m.read()
	}
	t := time.Now()
	w, err := p.g.CreateWelcomeWithOpts([]*peerkeys.KeyPackage{joiner.kp}, p.sig, peergroup.WithJoinerSecret(secret), peergroup.WithStagedCommit(staged))
	must(b, err)
	if took != nil {
		took.time += time.Since(t)
		took.bytes += m.read()
	}
	return w
}

// remove takes the one whom invite added out again.
func (p *peer) remove(b testing.TB) {
	_, _, err := p.commit(interopCommit{remove: "joiner"})
	must(b, err)
}

func (p *peer) second(b testing.TB) *peergroup.Group {
	joiner := newPeer(b, "joiner")
	w := p.invite(b, joiner, nil)
	g, err := peergroup.JoinFromWelcome(w, joiner.kp, joiner.priv, nil)
	must(b, err)
	return g
}

func newPeer(b testing.TB, name string) *mlsGoMember {
	m := newMLSGoMember(b, suite1, name)
	_, err := m.keyPackage()
	must(b, err)
	return m
}
