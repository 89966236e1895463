package core_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/people"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// memory is an adapter whose network is this process: a twin of a chat network without its servers. What Deliver was
// given is kept by room.
type memory struct {
	name string

	mu     sync.Mutex
	host   adapter.Host
	events map[mimiuri.URI][]adapter.Event
	cond   chan struct{} // closed and made anew at each event
	fail   func(adapter.Event) error
	users  map[string]bool // nil: everybody exists
}

func newMemory() *memory {
	return &memory{name: "memory", events: map[mimiuri.URI][]adapter.Event{}, cond: make(chan struct{})}
}

func (m *memory) Name() string { return m.name }

func (m *memory) Run(ctx context.Context, h adapter.Host) error {
	m.mu.Lock()
	m.host = h
	m.mu.Unlock()
	m.signal()
	<-ctx.Done()
	return nil
}

func (m *memory) signal() {
	m.mu.Lock()
	close(m.cond)
	m.cond = make(chan struct{})
	m.mu.Unlock()
}

func (m *memory) Deliver(_ context.Context, ev adapter.Event) error {
	m.mu.Lock()
	fail := m.fail
	m.mu.Unlock()
	if fail != nil {
		if err := fail(ev); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.events[ev.Room] = append(m.events[ev.Room], ev)
	m.mu.Unlock()
	m.signal()
	return nil
}

func (m *memory) LocalUser(_ context.Context, u mimiuri.URI) (bool, error) {
	return m.users == nil || m.users[u.ID], nil
}

// provider is one MIMI provider of a test network. It can be stopped and started again with its files.
type provider struct {
	t      testing.TB
	net    *network
	domain string
	dir    string
	ln     net.Listener
	addr   string
	mem    *memory
	wrap   func(port.Hub) port.Hub
	in     func(port.Notify) port.Notify
	wait   time.Duration // core.Config.Patience
	gone   time.Duration // core.Config.OfflineAfter
	tune   func(*core.Config)
	quiet  bool // logs errors only
	delay  func() time.Duration
	empty  time.Duration // store.Options.Checkpoint

	people core.PeopleConfig // its limits are none unless a test sets them
	as     func(*memory) adapter.Adapter
	now    func() time.Time
	trace  func(string)

	core   *core.Provider
	cancel context.CancelFunc
	done   chan struct{}
	seq    atomic.Uint64
}

type network struct {
	t       testing.TB
	ca      *x509.Certificate
	caKey   *ecdsa.PrivateKey
	roots   *x509.CertPool
	mu      sync.Mutex
	resolve map[string]string
	all     []*provider
}

// newNetwork makes providers that are not started. The test runs beside others from here on: each has its own network.
func newNetwork(t *testing.T, domains ...string) (*network, []*provider) {
	t.Helper()
	t.Parallel()
	n := emptyNetwork(t)
	for _, d := range domains {
		n.provider(d)
	}
	return n, n.all
}

// emptyNetwork has an authority for certificates and no providers yet.
func emptyNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{t: t, roots: x509.NewCertPool(), resolve: map[string]string{}}
	var err error
	if n.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Now().Add(90 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &n.caKey.PublicKey, n.caKey)
	if err != nil {
		t.Fatal(err)
	}
	n.ca, _ = x509.ParseCertificate(der)
	n.roots.AddCert(n.ca)
	t.TempDir() // its removal is the first to be registered: what is removed has to be stopped before
	t.Cleanup(func() {
		for _, p := range n.all {
			p.stop()
		}
	})
	return n
}

// provider adds one that is not started.
func (n *network) provider(domain string) *provider {
	n.t.Helper()
	p := &provider{t: n.t, net: n, domain: domain, dir: n.t.TempDir(), mem: newMemory()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	p.ln, p.addr = ln, ln.Addr().String()
	n.resolve[domain] = p.addr
	n.all = append(n.all, p)
	return p
}

func (n *network) certificate(domain string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: domain}, DNSNames: []string{domain}, NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, n.ca, &key.PublicKey, n.caKey)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// storeOptions are those of the database of a provider in dir: a SQLite file, or a PostgreSQL database if the tests run with one.
func storeOptions(dir string) store.Options {
	o := store.Options{Path: filepath.Join(dir, "mimi.db"), Key: make([]byte, store.KeySize), Node: filepath.Base(dir)}
	var err error
	if o.Postgres, err = testnet.PostgresAt(context.Background(), o.Path); err != nil {
		panic(err)
	}
	return o
}

func (p *provider) start() *provider {
	p.t.Helper()
	if p.ln == nil {
		var err error
		for range 100 {
			if p.ln, err = net.Listen("tcp", p.addr); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	cert, err := p.net.certificate(p.domain)
	if err != nil {
		p.t.Fatal(err)
	}
	level := zerolog.WarnLevel
	if p.quiet {
		level = zerolog.ErrorLevel
	}
	if os.Getenv("MIMI_TEST_LOG") != "" {
		level = zerolog.DebugLevel
	}
	log := zerolog.New(zerolog.ConsoleWriter{Out: testWriter{p.t}, NoColor: true}).Level(level).With().Timestamp().Str("provider", p.domain).Logger()
	delay := p.delay
	if delay == nil {
		delay = func() time.Duration { return 20 * time.Millisecond }
	}
	storage := storeOptions(p.dir)
	storage.Checkpoint, storage.Trace = p.empty, p.trace
	var own adapter.Adapter = p.mem
	if p.as != nil {
		own = p.as(p.mem)
	}
	if p.people.Limits == (people.Limits{}) {
		p.people.Limits = people.Limits{ConsentRequests: -1, RoomsADay: -1, Invites: -1, Lookups: -1, Rooms: -1}
	}
	cfg := core.Config{
		People: p.people,
		Domain: p.domain,
		Store:  storage,
		Now:    p.now,
		Federation: federation.Config{
			Certificate: func() (*tls.Certificate, error) { return cert, nil },
			Roots:       p.net.roots, BaseURL: "https://" + p.addr, Resolve: p.net.resolve,
			Limits: federation.Limits{GraceTimeout: 20 * time.Millisecond}, // tests stop often
		},
		Listener: p.ln, Adapters: []adapter.Adapter{own}, Level: func(string) adapter.Level { return adapter.LevelUser },
		Log: log, CommitDelay: delay, WrapHub: p.wrap, WrapNotify: p.in, Patience: p.wait, OfflineAfter: p.gone,
	}
	if p.tune != nil {
		p.tune(&cfg)
	}
	c, err := core.New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.ln = nil
	ctx, cancel := context.WithCancel(context.Background())
	p.core, p.cancel, p.done = c, cancel, make(chan struct{})
	done := p.done
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			p.t.Errorf("%s: %v", p.domain, err)
		}
	}()
	p.mem.wait(p.t, "the adapter to run", func() bool { return p.mem.host != nil })
	return p
}

func (p *provider) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	<-p.done
	p.cancel = nil
	p.mem.mu.Lock()
	p.mem.host = nil
	p.mem.mu.Unlock()
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	defer func() { recover() }() // a goroutine that logs after the test's end
	w.t.Log(string(b[:max(len(b)-1, 0)]))
	return len(b), nil
}

// wait blocks until ok is true. The limit is generous: it says "hangs", not "slow".
func (m *memory) wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		m.mu.Lock()
		c := m.cond
		good := ok()
		m.mu.Unlock()
		if good {
			return
		}
		select {
		case <-c:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (p *provider) user(name string) mimiuri.URI {
	return mimiuri.URI{Domain: p.domain, Kind: mimiuri.User, ID: name}
}

func (p *provider) room(name string) mimiuri.URI {
	return mimiuri.URI{Domain: p.domain, Kind: mimiuri.Room, ID: name}
}

// intake hands in an intent and returns its origin id.
func (p *provider) intake(in adapter.Intent) string {
	p.t.Helper()
	if in.OriginID == "" {
		in.OriginID = fmt.Sprintf("o%d", p.seq.Add(1))
	}
	if err := p.mem.host.Intake(context.Background(), in); err != nil {
		p.t.Fatalf("%s: intake: %v", p.domain, err)
	}
	return in.OriginID
}

func (p *provider) say(room mimiuri.URI, user, text string) string {
	p.t.Helper()
	return p.intake(adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: p.user(user), Content: content.Text(text)})
}

// texts are the messages of a room as they were shown, by sender.
func (p *provider) texts(room mimiuri.URI) []string {
	var l []string
	for _, e := range p.mem.events[room] {
		if e.Kind == adapter.Message {
			s, _ := e.Content.PlainText()
			l = append(l, e.Sender.ID+": "+s)
		}
	}
	return l
}

func (p *provider) awaitTexts(room mimiuri.URI, n int) []string {
	p.t.Helper()
	p.mem.wait(p.t, fmt.Sprintf("%d messages at %s", n, p.domain), func() bool { return len(p.texts(room)) >= n })
	p.mem.mu.Lock()
	defer p.mem.mu.Unlock()
	return p.texts(room)
}

// await waits for an event.
func (p *provider) await(room mimiuri.URI, what string, ok func(adapter.Event) bool) adapter.Event {
	p.t.Helper()
	var found adapter.Event
	p.mem.wait(p.t, p.domain+": "+what, func() bool {
		i := slices.IndexFunc(p.mem.events[room], ok)
		if i >= 0 {
			found = p.mem.events[room][i]
		}
		return i >= 0
	})
	return found
}

func (p *provider) awaitJoined(room, user mimiuri.URI) adapter.Event {
	p.t.Helper()
	return p.await(room, user.String()+" to join", func(e adapter.Event) bool { return e.Kind == adapter.Joined && e.User == user })
}

func (p *provider) awaitLeft(room, user mimiuri.URI) adapter.Event {
	p.t.Helper()
	return p.await(room, user.String()+" to leave", func(e adapter.Event) bool { return e.Kind == adapter.Left && e.User == user })
}

func (p *provider) awaitRefused(room mimiuri.URI, origin string) adapter.Event {
	p.t.Helper()
	return p.await(room, "refusal of "+origin, func(e adapter.Event) bool {
		return e.Kind == adapter.Refused && e.Origin != nil && e.Origin.ID == origin
	})
}

// open makes a room at a with alice and brings in the others.
func open(t *testing.T, a *provider, others ...mimiuri.URI) mimiuri.URI {
	t.Helper()
	room := a.room("Balcony-ß")
	a.intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: a.user("alice"), Name: "Balcony"})
	a.awaitJoined(room, a.user("alice"))
	for _, u := range others {
		a.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("alice"), Target: u})
	}
	for _, u := range others {
		a.awaitJoined(room, u)
		for _, p := range a.net.all {
			if p.domain == u.Domain {
				p.awaitJoined(room, u)
			}
		}
	}
	return room
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

func TestConversation(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"), c.user("carol"))

	j := b.awaitJoined(room, b.user("bob"))
	if j.Actor != a.user("alice") || j.Origin != nil {
		t.Errorf("bob's Joined names %s as actor, origin %v", j.Actor, j.Origin)
	}
	r, ok, err := b.mem.host.Room(context.Background(), room)
	if err != nil || !ok || r.Name != "Balcony" || len(r.Participants) < 2 {
		t.Errorf("b sees the room as %+v, %v, %v", r, ok, err)
	}

	id := a.say(room, "alice", "one")
	a.awaitTexts(room, 1)
	b.awaitTexts(room, 1)
	b.say(room, "bob", "two")
	c.awaitTexts(room, 2)
	c.say(room, "carol", "three")
	want := []string{"alice: one", "bob: two", "carol: three"}
	for _, p := range ps {
		equal(t, p.domain, p.awaitTexts(room, 3), want)
	}
	own := a.await(room, "own message", func(e adapter.Event) bool { return e.Kind == adapter.Message && e.Origin != nil && e.Origin.ID == id })
	theirs := b.await(room, "alice's message", func(e adapter.Event) bool { return e.Kind == adapter.Message && e.Sender == a.user("alice") })
	if own.ID != theirs.ID || !own.Time.Equal(theirs.Time) || theirs.Origin != nil {
		t.Errorf("alice's message is %s at %s to her and %s at %s to bob", own.ID, own.Time, theirs.ID, theirs.Time)
	}
	if s, ok := theirs.Content.SenderURI(); !ok || s != a.user("alice") {
		t.Errorf("senderUri is %s", s)
	}

	// A participant of a follower invites somebody of the hub, and one of its own.
	b.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: b.user("bob"), Target: a.user("amy")})
	b.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: b.user("bob"), Target: b.user("ben")})
	a.awaitJoined(room, a.user("amy"))
	c.awaitJoined(room, b.user("ben"))
	b.awaitJoined(room, b.user("ben"))
	b.say(room, "ben", "four")
	a.awaitTexts(room, 4)
	a.say(room, "amy", "five")
	want = append(want, "ben: four", "amy: five")
	for _, p := range ps {
		equal(t, p.domain, p.awaitTexts(room, 5), want)
	}

	// The same intent again is done once.
	b.intake(adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: b.user("bob"), OriginID: "same", Content: content.Text("six")})
	b.intake(adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: b.user("bob"), OriginID: "same", Content: content.Text("six")})
	b.say(room, "bob", "seven")
	want = append(want, "bob: six", "bob: seven")
	for _, p := range ps {
		equal(t, p.domain, p.awaitTexts(room, 7), want)
	}
}

func TestLeaveAndComeBack(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	b.say(room, "bob", "hello")
	a.awaitTexts(room, 1)

	o := b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: b.user("bob")})
	if e := b.awaitLeft(room, b.user("bob")); e.Origin == nil || e.Origin.ID != o || e.Actor != b.user("bob") {
		t.Errorf("bob's Left is %+v", e)
	}
	if e := a.awaitLeft(room, b.user("bob")); e.Actor != b.user("bob") {
		t.Errorf("alice is told that %s removed bob", e.Actor)
	}
	refused := b.say(room, "bob", "too late")
	if e := b.awaitRefused(room, refused); !fault.Is(e.Err, fault.Forbidden) {
		t.Errorf("a message after leaving: %v", e.Err)
	}
	a.say(room, "alice", "alone")
	a.awaitTexts(room, 2)

	a.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("alice"), Target: b.user("bob")})
	b.mem.wait(t, "bob to be back", func() bool {
		n := 0
		for _, e := range b.mem.events[room] {
			if e.Kind == adapter.Joined && e.User == b.user("bob") {
				n++
			}
		}
		return n == 2
	})
	b.say(room, "bob", "again")
	equal(t, "a", a.awaitTexts(room, 3), []string{"bob: hello", "alice: alone", "bob: again"})
	equal(t, "b", b.awaitTexts(room, 2), []string{"bob: hello", "bob: again"})

	// The creator leaves the room to the follower's user, who goes on alone through the hub.
	a.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: a.user("alice")})
	a.awaitLeft(room, a.user("alice"))
	b.awaitLeft(room, a.user("alice"))
	b.say(room, "bob", "echo")
	equal(t, "b", b.awaitTexts(room, 3), []string{"bob: hello", "bob: again", "bob: echo"})
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: b.user("bob")})
	b.mem.wait(t, "bob to leave again", func() bool {
		n := 0
		for _, e := range b.mem.events[room] {
			if e.Kind == adapter.Left && e.User == b.user("bob") {
				n++
			}
		}
		return n == 2
	})
}

func TestRemove(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"), b.user("ben"))
	o := a.intake(adapter.Intent{Kind: adapter.Remove, Room: room, Actor: a.user("alice"), Target: b.user("bob")})
	if e := a.awaitLeft(room, b.user("bob")); e.Origin == nil || e.Origin.ID != o {
		t.Errorf("the Left of a removal has the origin %v", e.Origin)
	}
	if e := b.awaitLeft(room, b.user("bob")); e.Actor != a.user("alice") {
		t.Errorf("bob was removed by %s", e.Actor)
	}
	refused := b.say(room, "bob", "no")
	b.awaitRefused(room, refused)
	b.say(room, "ben", "still here")
	equal(t, "a", a.awaitTexts(room, 1), []string{"ben: still here"})
}

func TestRefusals(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	b.mem.users = map[string]bool{"bob": true}
	room := open(t, a, b.user("bob"))
	for _, c := range []struct {
		name string
		in   adapter.Intent
		kind fault.Kind
	}{
		{"a room that exists", adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: a.user("mallory")}, fault.Conflict},
		{"a user who does not exist or does not want to", adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("alice"), Target: b.user("nobody")}, fault.Forbidden},
		{"who is there already", adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("alice"), Target: b.user("bob")}, fault.Conflict},
		{"a message from outside", adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: a.user("mallory"), Content: content.Text("x")}, fault.Forbidden},
		{"joining without being asked", adapter.Intent{Kind: adapter.JoinRoom, Room: room, Actor: a.user("mallory")}, fault.Forbidden},
		{"removing a stranger", adapter.Intent{Kind: adapter.Remove, Room: room, Actor: a.user("alice"), Target: b.user("nobody")}, fault.NotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := a.intake(c.in)
			if e := a.awaitRefused(room, o); !fault.Is(e.Err, c.kind) || fault.Public(e.Err) == "" {
				t.Errorf("refused with %v, want %v", e.Err, c.kind)
			}
		})
	}
	for _, c := range []struct {
		name string
		in   adapter.Intent
		kind fault.Kind
	}{
		{"a foreign actor", adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: b.user("bob"), OriginID: "x", Content: content.Text("x")}, fault.Forbidden},
		{"no origin id", adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: a.user("alice")}, fault.Malformed},
		{"a room elsewhere", adapter.Intent{Kind: adapter.CreateRoom, Room: b.room("x"), Actor: a.user("alice"), OriginID: "x"}, fault.Forbidden},
		{"an unknown room", adapter.Intent{Kind: adapter.SendMessage, Room: a.room("nowhere"), Actor: a.user("alice"), OriginID: "x", Content: content.Text("x")}, fault.NotFound},
		{"no content", adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: a.user("alice"), OriginID: "x"}, fault.Malformed},
		{"too much content", adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: a.user("alice"), OriginID: "x", Content: content.Text(string(make([]byte, 1<<20)))}, fault.TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := a.mem.host.Intake(context.Background(), c.in); !fault.Is(err, c.kind) {
				t.Errorf("intake gives %v, want %v", err, c.kind)
			}
		})
	}
	// Nothing of it has harmed the room.
	b.say(room, "bob", "fine")
	equal(t, "a", a.awaitTexts(room, 1), []string{"bob: fine"})
}

// TestPeerDown: what is sent while a provider is down waits for it, in order.
func TestPeerDown(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	b.stop()
	var want []string
	for i := range 20 {
		a.say(room, "alice", fmt.Sprint(i))
		want = append(want, fmt.Sprintf("alice: %d", i))
	}
	a.awaitTexts(room, 20)
	b.start()
	equal(t, "b", b.awaitTexts(room, 20), want)

	// And the other way: the hub is down, the follower's users go on writing.
	a.stop()
	for i := range 5 {
		b.say(room, "bob", fmt.Sprint(i))
		want = append(want, fmt.Sprintf("bob: %d", i))
	}
	a.start()
	equal(t, "a", a.awaitTexts(room, 25), want)
}

// TestRestart: all state comes back from disk, in the middle of a conversation.
func TestRestart(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	var want []string
	for i := range 12 {
		if i%3 == 1 {
			a.stop()
			a.start()
		}
		if i%3 == 2 {
			b.stop()
			b.start()
		}
		if i%2 == 0 {
			a.say(room, "alice", fmt.Sprint(i))
			want = append(want, fmt.Sprintf("alice: %d", i))
		} else {
			b.say(room, "bob", fmt.Sprint(i))
			want = append(want, fmt.Sprintf("bob: %d", i))
		}
		a.awaitTexts(room, i+1)
		b.awaitTexts(room, i+1)
	}
	equal(t, "a", a.awaitTexts(room, 12), want)
	equal(t, "b", b.awaitTexts(room, 12), want)
}

// TestAdapterFailure: an event that an adapter cannot show now is kept and holds up only its own room.
func TestAdapterFailure(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	var down atomic.Bool
	down.Store(true)
	b.mem.mu.Lock()
	b.mem.fail = func(e adapter.Event) error {
		if down.Load() && e.Kind == adapter.Message {
			return fault.New(fault.Unavailable, "server down")
		}
		return nil
	}
	b.mem.mu.Unlock()
	a.say(room, "alice", "one")
	a.say(room, "alice", "two")
	a.awaitTexts(room, 2)
	down.Store(false)
	equal(t, "b", b.awaitTexts(room, 2), []string{"alice: one", "alice: two"})
}

// lossy loses answers, after the request was carried out, or requests.
type lossy struct {
	port.Hub
	update, submit func(n int) (before, after bool)
	updates        atomic.Int64
	submits        atomic.Int64
}

var errLost = fault.Wrap(fault.Unavailable, "", errors.New("lost on purpose"))

func (l *lossy) lose(ctx context.Context, n int, f func(int) (bool, bool), do func() ([]byte, error)) ([]byte, error) {
	before, after := false, false
	if f != nil {
		before, after = f(n)
	}
	if before {
		return nil, errLost
	}
	b, err := do()
	if after {
		return nil, errLost
	}
	return b, err
}

func (l *lossy) Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return l.lose(ctx, int(l.updates.Add(1)), l.update, func() ([]byte, error) { return l.Hub.Update(ctx, from, room, body) })
}

func (l *lossy) Submit(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return l.lose(ctx, int(l.submits.Add(1)), l.submit, func() ([]byte, error) { return l.Hub.Submit(ctx, from, room, body) })
}

// TestLostAnswers: an update or a message that was accepted, but whose answer was lost, is sent again with the same
// octets and counts once.
func TestLostAnswers(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	odd := func(n int) (bool, bool) { return n%4 == 1, n%4 == 2 }
	for _, p := range ps {
		p.wrap = func(h port.Hub) port.Hub { return &lossy{Hub: h, update: odd, submit: odd} }
		p.start()
	}
	room := open(t, a, b.user("bob"))
	var want []string
	for i := range 8 {
		a.say(room, "alice", fmt.Sprint(i))
		a.awaitTexts(room, 2*i+1)
		b.awaitTexts(room, 2*i+1)
		b.say(room, "bob", fmt.Sprint(i))
		a.awaitTexts(room, 2*i+2)
		b.awaitTexts(room, 2*i+2)
		want = append(want, fmt.Sprintf("alice: %d", i), fmt.Sprintf("bob: %d", i))
	}
	b.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: b.user("bob"), Target: b.user("ben")})
	a.awaitJoined(room, b.user("ben"))
	b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: b.user("bob")})
	a.awaitLeft(room, b.user("bob"))
	b.say(room, "ben", "end")
	want = append(want, "ben: end")
	equal(t, "a", a.awaitTexts(room, 17), want)
	equal(t, "b", b.awaitTexts(room, 17), want)
}

// TestRacingCommits: users of three providers add others at the same time. One commit an epoch wins; nobody's intent
// is lost.
func TestRacingCommits(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"), c.user("carol"))
	who := map[*provider]string{a: "alice", b: "bob", c: "carol"}
	for round := range 4 {
		for _, p := range ps {
			p.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: p.user(who[p]), Target: ps[(round+1)%3].user(fmt.Sprintf("u%d-%s", round, who[p]))})
			p.say(room, who[p], fmt.Sprint(round))
		}
	}
	for _, p := range ps {
		for round := range 4 {
			for _, name := range who {
				p.awaitJoined(room, ps[(round+1)%3].user(fmt.Sprintf("u%d-%s", round, name)))
			}
		}
		texts := p.awaitTexts(room, 12)
		for _, name := range who {
			var mine []string
			for _, s := range texts {
				if s[:len(name)] == name {
					mine = append(mine, s)
				}
			}
			equal(t, p.domain+" "+name, mine, []string{name + ": 0", name + ": 1", name + ": 2", name + ": 3"})
		}
	}
	// The last to join can speak, so their state is good.
	last := ps[(3+1)%3]
	last.say(room, "u3-alice", "hello from the newest")
	for _, p := range ps {
		p.await(room, "the newest to speak", func(e adapter.Event) bool { return e.Kind == adapter.Message && e.Sender == last.user("u3-alice") })
	}
}
