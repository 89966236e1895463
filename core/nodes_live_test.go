//go:build live

package core_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// balance forwards connections to the addresses in turn; one that does not answer is passed over.
func balance(t *testing.T, addrs ...string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for next := 0; ; next++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			var to net.Conn
			for i := range addrs {
				if to, err = net.Dial("tcp", addrs[(next+i)%len(addrs)]); err == nil {
					break
				}
			}
			if err != nil {
				c.Close()
				continue
			}
			go func() { io.Copy(to, c); to.Close() }()
			go func() { io.Copy(c, to); c.Close() }()
		}
	}()
	return ln.Addr().String()
}

// TestTwoNodes: two nodes of one provider, each in a process of its own, on one PostgreSQL. A peer reaches either of them, the
// adapter's link is at one. The one with the link and the rooms is killed, again and again; the other goes on. Nothing is lost or shown twice but
// as the same event, in a room kept here and in one kept elsewhere.
func TestTwoNodes(t *testing.T) {
	const kills, minLines = 4, 40
	pg, err := testnet.StartPostgres(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	t.Log("testtable: server", pg.Version)
	n, _ := newNetwork(t)
	var addrs []string
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, ln.Addr().String())
		ln.Close()
	}
	n.resolve["a.example"], n.resolve["b.example"] = balance(t, addrs[0], addrs[1]), addrs[2]
	shared := t.TempDir()
	nodes := []*child{newChild(t, n, "a.example", addrs[0]), newChild(t, n, "a.example", addrs[1])}
	for _, c := range nodes {
		c.conf.Shared, c.conf.Postgres, c.conf.Lease = shared, pg.URL("postgres"), 4*time.Second
		c.conf.URL = n.resolve["a.example"]
	}
	b := newChild(t, n, "b.example", addrs[2])
	for _, c := range append(nodes, b) {
		c.run()
	}

	// What is to be done at a.example is asked of one node; if that is killed, of the other, with the same id.
	var at struct {
		sync.Mutex
		node, orders int
	}
	do := func(o order) answer {
		at.Lock()
		at.orders++
		o.ID = fmt.Sprint("a-", at.orders)
		at.Unlock()
		for {
			at.Lock()
			c := nodes[at.node]
			at.Unlock()
			if a, err := c.try(line(t, o)); err == nil {
				return a
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	a := nodes[0]
	other := mimiuri.URI{Domain: "b.example", Kind: mimiuri.Room, ID: "other"}
	has := func(l []shown, kind adapter.EventKind, user string) bool {
		return slices.ContainsFunc(l, func(s shown) bool { return s.Kind == kind && s.User == user })
	}
	await := func(c *child, room mimiuri.URI, what string, ok func([]shown) bool) []shown {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			l, err := c.readRoom(room)
			if err != nil {
				t.Fatalf("%s: %v", c.conf.Domain, err)
			}
			if ok(l) {
				return l
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: waited in vain for %s in %s; shown are %d events", c.conf.Domain, what, room, len(l))
			}
		}
	}
	// The node that is started first need not be the one that gets the link.
	holder := make(chan int, 2)
	for i, c := range nodes {
		go func() {
			if _, err := c.try(line(t, order{ID: "first", Kind: adapter.CreateRoom, Actor: a.user("alice")})); err == nil {
				holder <- i
			}
		}()
	}
	at.node = <-holder
	do(order{Kind: adapter.Invite, Actor: a.user("alice"), Target: b.user("bob")})
	b.do(order{Room: other.String(), Kind: adapter.CreateRoom, Actor: b.user("bob")})
	b.do(order{Room: other.String(), Kind: adapter.Invite, Actor: b.user("bob"), Target: a.user("alice")})
	await(b, crashRoom, "bob to join", func(l []shown) bool { return has(l, adapter.Joined, "bob") })
	await(a, other, "alice to join", func(l []shown) bool { return has(l, adapter.Joined, "alice") })

	over := make(chan struct{})
	var wg sync.WaitGroup
	said := map[string][]string{}
	var mu sync.Mutex
	for _, room := range []mimiuri.URI{crashRoom, other} {
		for who, say := range map[string]func(order) answer{a.user("alice"): do, b.user("bob"): b.do} {
			name := mimiuri.MustParse(who).ID + " in " + room.ID
			wg.Go(func() {
				for k := 0; ; k++ {
					select {
					case <-over:
						if k >= minLines {
							return
						}
					default:
					}
					text := fmt.Sprint(name, " ", k)
					if r := say(order{Room: room.String(), Kind: adapter.SendMessage, Actor: who, Text: text}); r.Err != "" {
						t.Errorf("%s: %s", text, r.Err)
						return
					}
					mu.Lock()
					said[name] = append(said[name], text)
					mu.Unlock()
					time.Sleep(15 * time.Millisecond)
				}
			})
		}
	}
	for i := range kills {
		time.Sleep(700 * time.Millisecond)
		at.Lock()
		was := at.node
		at.node = 1 - was
		at.Unlock()
		c := nodes[was]
		c.stopped.Lock()
		c.proc.Process.Kill()
		c.mu.Lock() // what was asked of it has failed now
		c.proc.Wait()
		c.mu.Unlock()
		do(order{Kind: adapter.SendMessage, Actor: a.user("alice"), Text: fmt.Sprint("after kill ", i)})
		c.mu.Lock()
		c.start()
		c.mu.Unlock()
		c.stopped.Unlock()
	}
	close(over)
	wg.Wait()
	for i := range kills {
		said["kills"] = append(said["kills"], fmt.Sprint("after kill ", i))
	}
	for _, room := range []mimiuri.URI{crashRoom, other} {
		total := 0
		for name, texts := range said {
			if strings.HasSuffix(name, " in "+room.ID) || name == "kills" && room == crashRoom {
				total += len(texts)
			}
		}
		for _, c := range []*child{a, b} {
			l := await(c, room, fmt.Sprint(total, " messages"), func(l []shown) bool {
				k := 0
				for _, s := range l {
					if s.Kind == adapter.Message {
						k++
					}
				}
				return k >= total
			})
			got := map[string][]string{}
			k := 0
			for _, s := range l {
				switch {
				case s.Kind == adapter.Refused:
					t.Errorf("%s: %s was refused", c.conf.Domain, s.Origin)
				case s.Kind != adapter.Message:
				case strings.HasPrefix(s.Text, "after kill"):
					got["kills"] = append(got["kills"], s.Text)
					k++
				default:
					got[s.Sender+" in "+room.ID] = append(got[s.Sender+" in "+room.ID], s.Text)
					k++
				}
			}
			if k != total {
				t.Errorf("%s: %d messages were shown in %s of %d", c.conf.Domain, k, room, total)
			}
			for name, texts := range got {
				equal(t, c.conf.Domain+": "+name, texts, said[name])
			}
		}
	}
	t.Logf("%d messages, %d kills", len(slices.Concat(said["alice in crash"], said["bob in crash"], said["alice in other"], said["bob in other"], said["kills"])), kills)
}

// TestDestroyAtTheOtherNode: an admin need not know which node keeps a room.
func TestDestroyAtTheOtherNode(t *testing.T) {
	pg, err := testnet.StartPostgres(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	t.Log("testtable: server", pg.Version)
	_, ps := newNetwork(t, "a.example")
	a := ps[0]
	var cfg core.Config
	a.tune = func(c *core.Config) { c.Store.Postgres = pg.URL("postgres"); cfg = *c }
	a.start()
	room := open(t, a, a.user("amy"))
	cfg.Store.Node, cfg.Adapters = "second", []adapter.Adapter{newMemory()}
	cfg.Assets.Folder = t.TempDir()
	if cfg.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	cfg.Up = func() { close(up) }
	second, err := core.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- second.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-up
	if dropped, err := second.DropQueue(ctx, "peer", room.String(), "b.example"); dropped || err != nil {
		t.Errorf("dropping a queue that there is not: %v, %v", dropped, err)
	}
	if err := second.DestroyRoom(ctx, room); err != nil {
		t.Error(err)
	}
	a.await(room, "the end of the room", func(e adapter.Event) bool { return e.Kind == adapter.Closed })
	if err := second.DestroyRoom(ctx, room); !fault.Is(err, fault.NotFound) {
		t.Errorf("again: %v", err)
	}
}
