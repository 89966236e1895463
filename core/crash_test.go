package core_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/people"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// childEnv, if set, makes the test's binary a provider: it is a childConfig.
const childEnv = "MIMI_TEST_PROVIDER"

func TestMain(m *testing.M) {
	if c := os.Getenv(childEnv); c != "" {
		if err := runChild(c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type childConfig struct {
	Domain, Dir, Addr, CA, Cert, Key string
	Resolve                          map[string]string

	Shared string        // where the database is and what is shown, if other nodes share them; otherwise Dir
	Lease  time.Duration // of the node

	Postgres string // the server to use, if not SQLite
	URL      string // where others reach it, if not at Addr
}

// order is a line on a child's standard input, answer one on its standard output.
type order struct {
	ID     string
	Room   string             // empty: crashRoom
	Kind   adapter.IntentKind // 0: tell the state of the group
	Actor  string
	Target string
	Text   string
}

type answer struct {
	ID    string
	Err   string `json:",omitempty"`
	State string `json:",omitempty"`
}

// shown is a line of the file of what a child's network was shown.
type shown struct {
	Room   string
	Seq    uint64
	Kind   adapter.EventKind
	Time   int64
	ID     string
	Sender string
	Text   string
	User   string
	Origin string
}

var crashRoom = mimiuri.URI{Domain: "a.example", Kind: mimiuri.Room, ID: "crash"}

// paper is an adapter whose network is a file.
type paper struct {
	f    *os.File
	host chan adapter.Host
}

func (p *paper) Name() string { return "paper" }

func (p *paper) Run(ctx context.Context, h adapter.Host) error {
	p.host <- h
	<-ctx.Done()
	return nil
}

func (p *paper) Deliver(_ context.Context, ev adapter.Event) error {
	s := shown{Room: ev.Room.String(), Seq: ev.Seq, Kind: ev.Kind, Time: ev.Time.UnixMilli(), ID: ev.ID.String(), Sender: ev.Sender.ID, User: ev.User.ID}
	if ev.Content != nil {
		s.Text, _ = ev.Content.PlainText()
	}
	if ev.Origin != nil {
		s.Origin = ev.Origin.ID
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = p.f.Write(append(b, '\n'))
	return err
}

func (p *paper) LocalUser(context.Context, mimiuri.URI) (bool, error) { return true, nil }

func (o *order) room() mimiuri.URI {
	if o.Room == "" {
		return crashRoom
	}
	return mimiuri.MustParse(o.Room)
}

func (c *childConfig) shared() string {
	if c.Shared != "" {
		return c.Shared
	}
	return c.Dir
}

// runChild is a provider until it is killed.
func runChild(config string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(c.shared(), "shown"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	var ln net.Listener
	for range 500 {
		if ln, err = net.Listen("tcp", c.Addr); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	if c.Postgres != "" {
		os.Setenv(testnet.PostgresEnv, c.Postgres)
	}
	a := &paper{f: f, host: make(chan adapter.Host, 1)}
	storage := storeOptions(c.shared())
	storage.Node, storage.Lease = filepath.Base(c.Dir), c.Lease
	p, err := core.New(core.Config{
		Domain: c.Domain, Store: storage,
		Federation: federation.Config{Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Roots: roots, BaseURL: "https://" + cmp.Or(c.URL, c.Addr), Resolve: c.Resolve},
		Listener:   ln, Adapters: []adapter.Adapter{a}, Log: zerolog.New(os.Stderr).Level(zerolog.DebugLevel).With().Timestamp().Logger(),
		CommitDelay: func() time.Duration { return 20 * time.Millisecond },
		// Guests come and go all the time here.
		People: core.PeopleConfig{Limits: people.Limits{ConsentRequests: -1, RoomsADay: -1, Invites: -1, Lookups: -1, Rooms: -1}},
	})
	if err != nil {
		return err
	}
	go func() {
		h := <-a.host
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			var o order
			if err := json.Unmarshal(in.Bytes(), &o); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			r := answer{ID: o.ID}
			if o.Kind == 0 {
				epoch, auth, err := p.Client.GroupState(context.Background(), o.room())
				r.State = fmt.Sprint(epoch, " ", hex.EncodeToString(auth), " ", err)
			} else {
				i := adapter.Intent{Kind: o.Kind, Room: o.room(), Actor: mimiuri.MustParse(o.Actor), OriginID: o.ID}
				if o.Target != "" {
					i.Target = mimiuri.MustParse(o.Target)
				}
				if o.Text != "" {
					i.Content = content.Text(o.Text)
				}
				if err := h.Intake(context.Background(), i); err != nil {
					r.Err = err.Error()
				}
			}
			b, _ := json.Marshal(r)
			os.Stdout.Write(append(b, '\n'))
		}
		os.Exit(0) // the test is gone
	}()
	return p.Run(context.Background())
}

// child is a provider in a process of its own.
type child struct {
	t    *testing.T
	conf childConfig

	mu      sync.Mutex // held over one order and its answer
	proc    *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	stopped sync.Mutex // held while the process is killed and started
	orders  int
}

// newChild prepares a provider of a domain at an address.
func newChild(t *testing.T, n *network, domain, addr string) *child {
	t.Helper()
	dir := t.TempDir()
	cert, err := n.certificate(domain)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, conf: childConfig{Domain: domain, Dir: dir, Addr: addr, Resolve: n.resolve,
		CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}}
	for file, block := range map[string]*pem.Block{
		c.conf.CA:   {Type: "CERTIFICATE", Bytes: n.ca.Raw},
		c.conf.Cert: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		c.conf.Key:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// run starts the child until the test's end.
func (c *child) run() {
	c.t.Helper()
	c.start()
	c.t.Cleanup(func() {
		c.kill(false)
		if c.t.Failed() {
			if b, err := os.ReadFile(filepath.Join(c.conf.Dir, "log")); err == nil {
				c.t.Logf("the log of %s at %s ends with\n%s", c.conf.Domain, c.conf.Addr, b[max(0, len(b)-20_000):])
			}
		}
	})
}

func (c *child) start() {
	c.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	b, _ := json.Marshal(c.conf)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+string(b))
	logs, err := os.OpenFile(filepath.Join(c.conf.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer logs.Close()
	cmd.Stderr = logs
	if c.in, err = cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.proc, c.out = cmd, bufio.NewReader(out)
}

// kill ends the process as nothing else does, and starts it again.
func (c *child) kill(again bool) {
	c.stopped.Lock()
	defer c.stopped.Unlock()
	c.proc.Process.Kill()
	c.mu.Lock() // an order that was under way has failed now
	defer c.mu.Unlock()
	c.proc.Wait()
	if again {
		c.start()
	}
}

// do gives an order until it is answered: after a crash the network repeats it, with the same id.
func (c *child) do(o order) answer {
	if o.ID == "" {
		c.mu.Lock()
		c.orders++
		o.ID = fmt.Sprint(c.conf.Domain, "-", c.orders)
		c.mu.Unlock()
	}
	b, _ := json.Marshal(o)
	for {
		a, err := c.try(append(b, '\n'))
		if err == nil {
			return a
		}
		c.stopped.Lock() // until it is up again
		c.stopped.Unlock()
	}
}

// line is an order as a child reads it.
func line(t *testing.T, o order) []byte {
	b, err := json.Marshal(o)
	if err != nil {
		t.Error(err)
	}
	return append(b, '\n')
}

func (c *child) try(line []byte) (a answer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.in.Write(line); err != nil {
		time.Sleep(time.Millisecond)
		return a, err
	}
	b, err := c.out.ReadBytes('\n')
	if err != nil {
		time.Sleep(time.Millisecond)
		return a, err
	}
	return a, json.Unmarshal(b, &a)
}

func (c *child) user(name string) string {
	return mimiuri.URI{Domain: c.conf.Domain, Kind: mimiuri.User, ID: name}.String()
}

// read gives what was shown of crashRoom, repetitions left out after they were found to be ones.
func (c *child) read() (list []shown, err error) { return c.readRoom(crashRoom) }

func (c *child) readRoom(room mimiuri.URI) (list []shown, err error) {
	b, err := os.ReadFile(filepath.Join(c.conf.shared(), "shown"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for line := range bytes.Lines(b) {
		if line[len(line)-1] != '\n' {
			break // half written when we looked
		}
		var s shown
		if err := json.Unmarshal(line, &s); err != nil {
			return nil, err
		}
		if s.Room != room.String() {
			continue
		}
		if n := len(list); n > 0 && list[n-1].Seq == s.Seq {
			if list[n-1] != s {
				return nil, fmt.Errorf("event %d was shown as %+v, and again as %+v", s.Seq, list[n-1], s)
			}
			continue
		}
		if s.Seq != uint64(len(list)+1) {
			return nil, fmt.Errorf("event %d was shown after event %d", s.Seq, len(list))
		}
		list = append(list, s)
	}
	return list, nil
}

// await waits until what was shown satisfies ok.
func (c *child) await(what string, ok func([]shown) bool) []shown {
	c.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		list, err := c.read()
		if err != nil {
			c.t.Fatalf("%s: %v", c.conf.Domain, err)
		}
		if ok(list) {
			return list
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: waited in vain for %s; shown are %d events", c.conf.Domain, what, len(list))
		}
	}
}

// TestCrash kills two providers, each in a process of its own, with SIGKILL at random moments of a conversation. Nothing that
// was taken in is lost, nothing is shown twice but as the same event, and what the room's own provider shows is in the
// hub's order.
func TestCrash(t *testing.T) {
	const kills, minLines = 20, 60
	n, _ := newNetwork(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var children []*child
	for _, d := range []string{"a.example", "b.example"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		n.resolve[d] = ln.Addr().String()
		ln.Close()
		children = append(children, newChild(t, n, d, n.resolve[d]))
	}
	for _, c := range children {
		c.run()
	}
	a, b := children[0], children[1]
	has := func(kind adapter.EventKind, user string) func([]shown) bool {
		return func(l []shown) bool {
			return slices.ContainsFunc(l, func(s shown) bool { return s.Kind == kind && s.User == user })
		}
	}
	a.do(order{Kind: adapter.CreateRoom, Actor: a.user("alice")})
	a.do(order{Kind: adapter.Invite, Actor: a.user("alice"), Target: b.user("bob")})
	b.await("bob to join", has(adapter.Joined, "bob"))

	// Both write, and bring in others, until the killing is over.
	over := make(chan struct{})
	var wg sync.WaitGroup
	said := make([][]string, 2)
	guests := make([][]string, 2)
	for i, c := range children {
		wg.Add(1)
		who := []string{"alice", "bob"}[i]
		go func() {
			defer wg.Done()
			for k := 0; ; k++ {
				select {
				case <-over:
					if k >= minLines {
						return
					}
				default:
				}
				text := fmt.Sprintf("%s %d", who, k)
				if r := c.do(order{Kind: adapter.SendMessage, Actor: c.user(who), Text: text}); r.Err != "" {
					t.Errorf("%s: %s", c.conf.Domain, r.Err)
					return
				}
				said[i] = append(said[i], text)
				if k%8 == 3 {
					guest := fmt.Sprintf("guest%d-%d", i, k)
					c.do(order{Kind: adapter.Invite, Actor: c.user(who), Target: children[k/8%2].user(guest)})
					guests[i] = append(guests[i], guest)
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
	}
	for range kills {
		time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond)
		children[rnd.IntN(2)].kill(true)
	}
	close(over)
	wg.Wait()

	messages := func(l []shown) (out []shown) {
		for _, s := range l {
			if s.Kind == adapter.Message {
				out = append(out, s)
			}
		}
		return out
	}
	total := len(said[0]) + len(said[1])
	times := map[string]int64{}
	for i, c := range children {
		c.await("all messages", func(l []shown) bool { return len(messages(l)) >= total })
		for _, g := range slices.Concat(guests...) {
			c.await(g+" to join", has(adapter.Joined, g))
		}
		list, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		origins := map[string]int{}
		last := map[string]int64{}
		for _, s := range list {
			switch s.Kind {
			case adapter.Message:
				seen[s.Text]++
				if s.Origin != "" {
					origins[s.Origin]++
				}
				if was, ok := times[s.ID]; ok && was != s.Time {
					t.Errorf("%s: message %s is of %d here and of %d there", c.conf.Domain, s.ID, s.Time, was)
				}
				times[s.ID] = s.Time
				// At the hub all is in one order; elsewhere an own message whose answer was late comes late.
				line := ""
				if i == 1 {
					line = s.Sender
				}
				if s.Time <= last[line] {
					t.Errorf("%s: message of %d shown after that of %d", c.conf.Domain, s.Time, last[line])
				}
				last[line] = s.Time
			case adapter.Joined:
				seen["joined "+s.User]++
			case adapter.Refused:
				t.Errorf("%s: %s was refused", c.conf.Domain, s.Origin)
			}
		}
		for _, text := range slices.Concat(said...) {
			if seen[text] != 1 {
				t.Errorf("%s: %q was shown %d times", c.conf.Domain, text, seen[text])
			}
		}
		for _, g := range slices.Concat(guests...) {
			if seen["joined "+g] != 1 {
				t.Errorf("%s: %s joined %d times", c.conf.Domain, g, seen["joined "+g])
			}
		}
		for o, k := range origins {
			if k != 1 {
				t.Errorf("%s: the intent %s was carried out %d times", c.conf.Domain, o, k)
			}
		}
		if got := len(messages(list)); got != total {
			t.Errorf("%s: %d messages were shown of %d", c.conf.Domain, got, total)
		}
	}
	// The order in which each sender wrote is that in which the other reads.
	for i, c := range []*child{b, a} {
		var got []string
		l, _ := c.read()
		for _, s := range messages(l) {
			if s.Sender == []string{"alice", "bob"}[i] {
				got = append(got, s.Text)
			}
		}
		equal(t, c.conf.Domain, got, said[i])
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		x, y := a.do(order{}).State, b.do(order{}).State
		if x == y {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the MLS states do not agree: %s, %s", x, y)
		}
	}
	a.do(order{Kind: adapter.SendMessage, Actor: a.user("alice"), Text: "still here"})
	b.do(order{Kind: adapter.SendMessage, Actor: b.user("bob"), Text: "so am I"})
	for _, c := range children {
		c.await("both can still write", func(l []shown) bool { return len(messages(l)) == total+2 })
	}
	t.Logf("%d messages, %d kills", total+2, kills)
}
