package core_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/hub"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// The rates are of two processors shared by all sides. What counts is how much of the baseline's a thing reaches: a bare HTTPS
// POST with mutual TLS whose body goes into the same group-commit writer, synchronous=FULL, at the same concurrency.

const benchRooms = 64

// unlimited are limits that do not hold up a benchmark.
var unlimited = federation.Limits{PeerRate: 1 << 20, PerPeer: 1024, InFlight: 2048, GraceTimeout: 20 * time.Millisecond}

// took gathers how long each of many things took.
type took struct {
	mu   sync.Mutex
	all  []time.Duration
	used time.Duration // processor time of the process when it began
	heap uint64        // octets allocated by then
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// processorTime is what the process has used of the processors so far. On a busy machine it tells more than the clock.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (t *took) add(d time.Duration) {
	t.mu.Lock()
	t.all = append(t.all, d)
	t.mu.Unlock()
}

// messages is how many there are in one run: so many that it has settled, whatever go test asks for.
func messages(b *testing.B, least int) int { return max(b.N, least) }

// report adds the rate and the quantiles, and gives the rate.
func (t *took) report(b *testing.B, elapsed time.Duration) float64 {
	b.ReportMetric(float64((processorTime()-t.used).Microseconds())/float64(len(t.all)), "cpu-µs/msg")
	slices.Sort(t.all)
	at := func(q float64) float64 {
		return float64(t.all[int(q*float64(len(t.all)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(float64(allocated()-t.heap)/float64(len(t.all)), "B/op")
	b.ReportMetric(0, "allocs/op")
	rate := float64(len(t.all)) / elapsed.Seconds()
	b.ReportMetric(rate, "msg/s")
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(0, "ns/op")
	return rate
}

// workers runs n things on so many goroutines, each of which does its own one after the other.
func workers(b *testing.B, count, n int, do func(worker, i int) error) *took {
	t := &took{all: make([]time.Duration, 0, n), used: processorTime(), heap: allocated()}
	var wg sync.WaitGroup
	for w := range count {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; i < n; i += count {
				start := time.Now()
				if err := do(w, i); err != nil {
					b.Error(err)
					return
				}
				t.add(time.Since(start))
			}
		}()
	}
	wg.Wait()
	return t
}

// benchHub is a hub behind HTTPS with rooms of one sender, bob, and the users of stub followers, who answer and do no more.
type benchHub struct {
	b      *testing.B
	n      *network
	hub    *hub.Hub
	sender *federation.Client
	rooms  []mimiuri.URI
	groups []*mls.Group
	keys   *mls.SignatureKey
	count  atomic.Int64 // messages that followers have
}

var benchBob = mimiuri.MustParse("mimi://b.example/u/bob")

func benchLeaf(key *mls.SignatureKey, user mimiuri.URI) mls.LeafOptions {
	return mls.LeafOptions{Credential: mls.BasicCredential([]byte(policy.ClientURI(user, "1").String())), Signature: key, Extensions: mls.Extensions{policy.LeafAppData().Extension()}}
}

// federate gives a domain's way out and in; ports is what it answers to.
func (h *benchHub) federate(domain string, ports federation.Ports) (*federation.Client, *federation.Server, net.Listener, federation.Config) {
	h.b.Helper()
	cert, err := h.n.certificate(domain)
	if err != nil {
		h.b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.b.Fatal(err)
	}
	h.n.resolve[domain] = ln.Addr().String()
	cfg := federation.Config{Domain: domain, Certificate: func() (*tls.Certificate, error) { return cert, nil }, Roots: h.n.roots, BaseURL: "https://" + ln.Addr().String(),
		Resolve: h.n.resolve, Limits: unlimited, Log: zerolog.Nop()}
	return federation.NewClient(cfg), federation.NewServer(cfg, ports), ln, cfg
}

func (h *benchHub) serve(s *federation.Server, ln net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ctx, ln)
	}()
	h.b.Cleanup(func() { cancel(); <-done })
}

// stub is a follower that acknowledges everything.
type stub struct{ h *benchHub }

func (s stub) Notify(_ context.Context, _ string, _ mimiuri.URI, body []byte) error {
	l, err := wire.ParseFanout(body)
	if err != nil {
		return err
	}
	for _, m := range l {
		if m.Message.PrivateMessage != nil {
			s.h.count.Add(1)
		}
	}
	return nil
}

// benchKeys gives KeyPackages of the followers' users.
type benchKeys struct{ cfg *mls.Config }

func (k benchKeys) KeyMaterial(_ context.Context, _ string, target mimiuri.URI, _ []byte) ([]byte, error) {
	key, err := mls.GenerateSignatureKey(nil, hub.Suite)
	if err != nil {
		return nil, err
	}
	leaf := benchLeaf(key, target)
	kp, _, err := mls.NewKeyPackage(k.cfg, hub.Suite, mls.KeyPackageOptions{Credential: leaf.Credential, Signature: key, LeafExtensions: leaf.Extensions})
	if err != nil {
		return nil, err
	}
	return (&wire.KeyMaterialResponse{Protocol: wire.MLS10, UserURI: target, Clients: []wire.ClientKeyMaterial{{ClientURI: policy.ClientURI(target, "1"), KeyPackage: kp}}}).Marshal(), nil
}

type benchNotify struct{ fed *federation.Client }

func (n benchNotify) Notify(ctx context.Context, peer string, room mimiuri.URI, body []byte) error {
	return n.fed.Notify(ctx, peer, room, body)
}

func newBenchHub(b *testing.B, rooms, followers int) *benchHub {
	b.Helper()
	h := &benchHub{b: b, n: emptyNetwork(b)}
	cfg := &mls.Config{Now: time.Now, ApplyAppData: policy.ApplyAppData, VerifyCredential: func(mls.CredentialContext) error { return nil }}
	o := storeOptions(b.TempDir())
	o.Domain = "a.example"
	st, err := store.Open(context.Background(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { st.Close() })
	var notify benchNotify
	out, _, ln, fc := h.federate("a.example", federation.Ports{})
	notify.fed = out
	h.hub = hub.New(hub.Config{Domain: "a.example", Store: st, MLS: cfg, Keys: benchKeys{cfg}, Notify: notify, Now: time.Now, Log: zerolog.Nop()})
	h.serve(federation.NewServer(fc, federation.Ports{Hub: h.hub}), ln)
	var users []mimiuri.URI
	for i := range followers {
		d := fmt.Sprintf("f%02d.example", i)
		_, s, ln, _ := h.federate(d, federation.Ports{Notify: stub{h}})
		h.serve(s, ln)
		users = append(users, mimiuri.URI{Domain: d, Kind: mimiuri.User, ID: "u"})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.hub.Run(ctx)
	}()
	b.Cleanup(func() { cancel(); <-done })
	h.sender, _, _, _ = h.federate("b.example", federation.Ports{})
	if h.keys, err = mls.GenerateSignatureKey(nil, hub.Suite); err != nil {
		b.Fatal(err)
	}
	for i := range rooms {
		h.room(cfg, mimiuri.URI{Domain: "a.example", Kind: mimiuri.Room, ID: fmt.Sprintf("r%d", i)}, users)
	}
	return h
}

// room makes a room of bob and the users.
func (h *benchHub) room(cfg *mls.Config, room mimiuri.URI, users []mimiuri.URI) {
	b, ctx := h.b, context.Background()
	b.Helper()
	agents, err := h.hub.Prepare(ctx, room)
	if err != nil {
		b.Fatal(err)
	}
	dict, err := policy.Cooperative(policy.RoomOptions{Room: room, Creator: benchBob, FrankingAgent: agents.Franking.Marshal()})
	if err != nil {
		b.Fatal(err)
	}
	required := mls.RequiredCapabilities{Extensions: []mls.ExtensionType{mls.ExtensionAppDataDictionary}, Proposals: []mls.ProposalType{mls.ProposalAppDataUpdate, mls.ProposalSelfRemove}}
	g, err := mls.CreateGroup(cfg, mls.CreateOptions{Suite: hub.Suite, GroupID: []byte(room.GroupOf().String()), Leaf: benchLeaf(h.keys, benchBob),
		Extensions: mls.Extensions{required.Extension(), mls.ExternalSendersExtension([]mls.ExternalSender{agents.Sender}), dict.Extension()}})
	if err != nil {
		b.Fatal(err)
	}
	info, err := g.GroupInfo(0)
	if err != nil {
		b.Fatal(err)
	}
	if err := h.hub.Create(ctx, room, benchBob, tlspl.Marshal(info), tlspl.Marshal(g.Tree())); err != nil {
		b.Fatal(err)
	}
	pol, err := policy.ParseState(g.AppData())
	if err != nil {
		b.Fatal(err)
	}
	var list []policy.Participant
	var proposals []mls.Proposal
	for _, u := range users {
		list = append(list, policy.Participant{User: u, Role: policy.RoleOrdinaryUser})
		q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: benchBob, TargetUser: u, RoomID: room, Suites: []mls.CipherSuite{hub.Suite}, Credential: benchLeaf(h.keys, benchBob).Credential}
		if err := q.Sign(h.keys); err != nil {
			b.Fatal(err)
		}
		body, err := h.hub.KeyMaterial(ctx, "b.example", room, u, q.Marshal())
		if err != nil {
			b.Fatal(err)
		}
		a, err := wire.ParseKeyMaterialResponse(body)
		if err != nil {
			b.Fatal(err)
		}
		proposals = append(proposals, mls.Proposal{Body: &mls.Add{KeyPackage: *a.Clients[0].KeyPackage}})
	}
	proposals = append(proposals, policy.ListChange(policy.AddParticipantUpdate(pol, list)).Proposal())
	out, err := g.Commit(0, mls.CommitOptions{Proposals: proposals, AAD: mls.MarshalSafeAAD(nil)})
	if err != nil {
		b.Fatal(err)
	}
	q := &wire.UpdateRequest{Message: out.Message, Welcome: out.Welcome, GroupInfo: wire.GroupInfoOption{Partial: out.GroupInfo.Partial()}, Tree: *mls.DistributionServiceTree()}
	res, err := h.hub.Update(ctx, "b.example", room, q.Marshal())
	if err != nil {
		b.Fatal(err)
	}
	if a, err := wire.ParseUpdateRoomResponse(res); err != nil || a.Code != wire.UpdateSuccess {
		b.Fatalf("%+v, %v", a, err)
	}
	if _, err := g.MergePending(nil); err != nil {
		b.Fatal(err)
	}
	h.rooms, h.groups = append(h.rooms, room), append(h.groups, g)
}

// sealed are n submitMessage requests, encrypted beforehand, for the rooms in turn.
func (h *benchHub) sealed(n int) (bodies [][]byte) {
	h.b.Helper()
	for i := range n {
		r := i % len(h.rooms)
		var salt [16]byte
		binary.BigEndian.PutUint64(salt[:], uint64(i))
		text := content.Text(fmt.Sprintf("message %d, and some more to make it as long as messages are", i))
		b, err := text.Encode()
		if err != nil {
			h.b.Fatal(err)
		}
		m, err := h.groups[r].Encrypt(0, b, mls.MarshalSafeAAD([]mls.SafeAADItem{wire.FrankAAD(wire.FrankingTag(salt, b))}))
		if err != nil {
			h.b.Fatal(err)
		}
		bodies = append(bodies, (&wire.SubmitMessageRequest{Protocol: wire.MLS10, Message: m, SendingURI: benchBob}).Marshal())
	}
	return bodies
}

func (h *benchHub) submit(room mimiuri.URI, body []byte) error {
	b, err := h.sender.Submit(context.Background(), "", room, body)
	if err != nil {
		return err
	}
	a, err := wire.ParseSubmitMessageResponse(b)
	if err == nil && a.Code != wire.SubmitAccepted {
		err = fmt.Errorf("the hub says %v", a.Code)
	}
	return err
}

// bareServer stores each body it is sent, and nothing more.
func bareServer(b *testing.B) (post func([]byte) error) {
	n := emptyNetwork(b)
	cert, err := n.certificate("a.example")
	if err != nil {
		b.Fatal(err)
	}
	o := storeOptions(b.TempDir())
	o.Domain = "a.example"
	st, err := store.Open(context.Background(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { st.Close() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}, ClientCAs: n.roots, ClientAuth: tls.RequireAndVerifyClientCert},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil {
				hash := sha256.Sum256(body)
				err = st.Update(r.Context(), func(tx *store.Tx) error { return tx.PutAnswer("r", "b", hash[:], body, 1) })
			}
			if err != nil {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			w.WriteHeader(http.StatusCreated)
		})}
	go srv.ServeTLS(ln, "", "")
	b.Cleanup(func() { srv.Close() })
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: n.roots, Certificates: []tls.Certificate{*cert}, ServerName: "a.example"}, ForceAttemptHTTP2: true}}
	b.Cleanup(c.CloseIdleConnections)
	return func(body []byte) error {
		res, err := c.Post("https://"+ln.Addr().String()+"/", "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
		if res.StatusCode != http.StatusCreated {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	}
}

// BenchmarkSpeed has messages of 64 rooms under way at once, one of each room.
func BenchmarkSpeed(b *testing.B) {
	var base float64
	whole := b // what outlives one run of a part
	ratio := func(b *testing.B, rate, least float64) {
		if base > 0 {
			b.ReportMetric(rate/base, "of-baseline")
			if least > 0 {
				b.ReportMetric(least, "of-baseline/least")
			}
		}
	}
	b.Run("baseline", func(b *testing.B) {
		post := bareServer(b)
		body := make([]byte, 500)
		n := messages(b, 2000)
		bodies := make([][]byte, n)
		for i := range bodies {
			bodies[i] = slices.Clone(body)
			binary.BigEndian.PutUint64(bodies[i], uint64(i))
		}
		b.ResetTimer()
		start := time.Now()
		t := workers(b, benchRooms, n, func(_, i int) error { return post(bodies[i]) })
		base = t.report(b, time.Since(start))
	})
	b.Run("hub", func(b *testing.B) {
		h := newBenchHub(b, benchRooms, 1)
		n := messages(b, 2000)
		bodies := h.sealed(n)
		b.ResetTimer()
		start := time.Now()
		t := workers(b, benchRooms, n, func(w, i int) error { return h.submit(h.rooms[w], bodies[i]) })
		for h.count.Load() < int64(n) && !b.Failed() { // the follower has it all
			time.Sleep(time.Millisecond)
		}
		ratio(b, t.report(b, time.Since(start)), 0.4)
	})
	var talk *benchTalk
	clients := func(name string, writer func() *provider, least float64) {
		b.Run(name, func(b *testing.B) {
			if talk == nil {
				talk = newBenchTalk(whole, benchRooms)
			}
			b.ResetTimer()
			start := time.Now()
			t := workers(b, benchRooms, messages(b, 2000), func(w, _ int) error { return talk.say(writer(), w) })
			ratio(b, t.report(b, time.Since(start)), least)
		})
	}
	// The writer's provider keeps the room, or is a follower as the reader's. In either case the room has users of three providers.
	clients("clients-of-hub", func() *provider { return talk.a }, 0)
	clients("clients", func() *provider { return talk.b }, 0.2)
	b.Run("one-room", func(b *testing.B) {
		if talk == nil {
			talk = newBenchTalk(whole, benchRooms)
		}
		b.ResetTimer()
		start := time.Now()
		t := workers(b, 1, messages(b, 300), func(int, int) error { return talk.say(talk.b, 0) })
		ratio(b, t.report(b, time.Since(start)), 0)
	})
}

// BenchmarkFanout sends messages of one room to fifty followers; one is done when the last of them has it.
func BenchmarkFanout(b *testing.B) {
	const followers = 50
	h := newBenchHub(b, 1, followers)
	n := messages(b, 50)
	bodies := h.sealed(n)
	b.ResetTimer()
	start := time.Now()
	t := workers(b, 1, n, func(_, i int) error {
		want := h.count.Load() + followers
		if err := h.submit(h.rooms[0], bodies[i]); err != nil {
			return err
		}
		for h.count.Load() < want {
			time.Sleep(100 * time.Microsecond)
		}
		return nil
	})
	elapsed := time.Since(start)
	t.report(b, elapsed)
	b.ReportMetric(float64(n*followers)/elapsed.Seconds(), "delivered/s")
}

// benchTalk is users of one follower who write to users of another through a hub.
type benchTalk struct {
	a, b, c *provider
	rooms   []mimiuri.URI
	seq     atomic.Int64
	waits   sync.Map // text → chan struct{}
}

// quick is an adapter that tells only who waits for a text.
type quick struct {
	*memory
	talk *benchTalk
}

func (q quick) Deliver(ctx context.Context, ev adapter.Event) error {
	if ev.Kind != adapter.Message {
		return q.memory.Deliver(ctx, ev)
	}
	s, _ := ev.Content.PlainText()
	if c, ok := q.talk.waits.LoadAndDelete(s); ok {
		close(c.(chan struct{}))
	}
	return nil
}

func newBenchTalk(b *testing.B, rooms int) *benchTalk {
	b.Helper()
	n := emptyNetwork(b)
	t := &benchTalk{}
	for i, p := range []**provider{&t.a, &t.b, &t.c} {
		*p = n.provider(fmt.Sprintf("%c.example", 'a'+i))
		(*p).tune = func(c *core.Config) { c.Federation.Limits, c.RefreshMessages = unlimited, 1<<30 }
		(*p).quiet = true
	}
	t.b.as = func(m *memory) adapter.Adapter { return quick{m, &benchTalk{}} }
	t.a.as = t.b.as
	t.c.as = func(m *memory) adapter.Adapter { return quick{m, t} }
	for _, p := range n.all {
		p.start()
	}
	var wg sync.WaitGroup
	for i := range rooms {
		room := t.a.room(fmt.Sprintf("r%d", i))
		t.rooms = append(t.rooms, room)
		wg.Add(1)
		go func() {
			defer wg.Done()
			t.a.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: t.a.user("alice")})
			for _, u := range []mimiuri.URI{t.b.user("bob"), t.c.user("carol")} {
				t.a.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: t.a.user("alice"), Target: u})
			}
			t.b.awaitJoined(room, t.c.user("carol"))
			t.c.awaitJoined(room, t.c.user("carol"))
		}()
	}
	wg.Wait()
	return t
}

// say has a user of p write in a room and waits until carol is shown it.
func (t *benchTalk) say(p *provider, room int) error {
	i := t.seq.Add(1)
	text := fmt.Sprintf("message %d, and some more to make it as long as messages are", i)
	c := make(chan struct{})
	t.waits.Store(text, c)
	user := map[*provider]string{t.a: "alice", t.b: "bob"}[p]
	err := p.mem.host.Intake(context.Background(), adapter.Intent{Kind: adapter.SendMessage, Room: t.rooms[room], Actor: p.user(user), OriginID: strconv.FormatInt(i, 10), Content: content.Text(text)})
	if err != nil {
		return err
	}
	select {
	case <-c:
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("message %d did not arrive", i)
	}
}

// BenchmarkIdleRooms starts a provider with 10,000 rooms (MIMI_BENCH_ROOMS) in which nothing happens, and has all of them
// looked through once.
func BenchmarkIdleRooms(b *testing.B) {
	rooms := 10_000
	if s := os.Getenv("MIMI_BENCH_ROOMS"); s != "" {
		var err error
		if rooms, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	n := emptyNetwork(b)
	p := n.provider("a.example")
	p.quiet = true
	p.as = func(m *memory) adapter.Adapter { return quick{m, &benchTalk{}} }
	p.start()
	var wg sync.WaitGroup
	for w := range benchRooms {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := w; i < rooms; i += benchRooms {
				p.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: p.room(fmt.Sprintf("r%d", i)), Actor: p.user("alice")})
			}
		}()
	}
	wg.Wait()
	p.mem.wait(b, "the rooms", func() bool { return len(p.mem.events) == rooms })
	p.stop()
	p.mem.events = map[mimiuri.URI][]adapter.Event{}
	// All that the process has in memory, nothing subtracted: SQLite's share is not on the heap, and the test's own is small.
	memory := func() float64 {
		debug.FreeOSMemory()
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return float64(m.Sys-m.HeapReleased) / 1e6
		}
		var kb float64
		if i := bytes.Index(b, []byte("VmRSS:")); i >= 0 {
			fmt.Sscan(string(b[i+len("VmRSS:"):]), &kb)
		}
		return kb * 1024 / 1e6
	}
	var start, used, look, after float64
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		p.start()
		start += time.Since(began).Seconds() * 1000
		used = max(used, memory())
		began = time.Now()
		if _, err := p.core.Reconcile(context.Background()); err != nil {
			b.Fatal(err)
		}
		look += time.Since(began).Seconds()
		after = max(after, memory())
		p.stop()
	}
	b.ReportMetric(start/float64(b.N), "start-ms")
	b.ReportMetric(2000, "start-ms/most")
	b.ReportMetric(used, "MB")
	b.ReportMetric(200, "MB/most")
	b.ReportMetric(look/float64(b.N), "reconcile-s")
	b.ReportMetric(after, "MB-after")
	b.ReportMetric(200, "MB-after/most")
	b.ReportMetric(0, "ns/op")
}
