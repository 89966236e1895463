package core_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// way is a provider's way to hubs, in which a test stands. Each func may be nil; it decides about one request, which it
// carries out by calling next, or does not. It outlives restarts.
type way struct {
	mu     sync.Mutex
	update func(body []byte, next func([]byte) ([]byte, error)) ([]byte, error)
	submit func(body []byte, next func([]byte) ([]byte, error)) ([]byte, error)
}

func (w *way) set(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

// wayHub is a way to one hub.
type wayHub struct {
	port.Hub
	w *way
}

func (h wayHub) Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	f := (func([]byte, func([]byte) ([]byte, error)) ([]byte, error))(nil)
	h.w.set(func() { f = h.w.update })
	next := func(b []byte) ([]byte, error) { return h.Hub.Update(ctx, from, room, b) }
	if f == nil {
		return next(body)
	}
	return f(body, next)
}

func (h wayHub) Submit(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	f := (func([]byte, func([]byte) ([]byte, error)) ([]byte, error))(nil)
	h.w.set(func() { f = h.w.submit })
	next := func(b []byte) ([]byte, error) { return h.Hub.Submit(ctx, from, room, b) }
	if f == nil {
		return next(body)
	}
	return f(body, next)
}

// stand puts a test into a provider's way to hubs.
func (p *provider) stand() *way {
	w := &way{}
	p.wrap = func(h port.Hub) port.Hub { return wayHub{h, w} }
	return w
}

// door is a provider's door for hubs. in decides what becomes of one delivery; nil lets it in. What was let in is kept.
type door struct {
	inner port.Notify
	mu    sync.Mutex
	in    func(ctx context.Context, body []byte, let func([]byte) error) error
	taken [][]byte
}

func (d *door) set(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fn()
}

func (d *door) Notify(ctx context.Context, peer string, room mimiuri.URI, body []byte) error {
	d.mu.Lock()
	f := d.in
	d.mu.Unlock()
	let := func(b []byte) error {
		err := d.inner.Notify(context.WithoutCancel(ctx), peer, room, b)
		if err == nil {
			d.set(func() { d.taken = append(d.taken, b) })
		}
		return err
	}
	if f == nil {
		return let(body)
	}
	return f(ctx, body, let)
}

func (p *provider) guard() *door {
	d := &door{}
	p.in = func(n port.Notify) port.Notify {
		d.set(func() { d.inner = n })
		return d
	}
	return d
}

// loseAnswers carries requests out and loses the answers, from now on until the returned func is called. done is closed when
// the first was carried out.
func loseAnswers(w *way, which *func([]byte, func([]byte) ([]byte, error)) ([]byte, error)) (done chan struct{}, stop func()) {
	done = make(chan struct{})
	var once sync.Once
	w.set(func() {
		*which = func(body []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
			if _, err := next(body); err == nil {
				once.Do(func() { close(done) })
			}
			return nil, errLost
		}
	})
	return done, func() { w.set(func() { *which = nil }) }
}

func (p *provider) restart() {
	p.stop()
	p.start()
}

// sql opens the provider's database beside it.
func (p *provider) sql(t *testing.T, fn func(db *sql.DB) error) {
	t.Helper()
	db, err := store.Database(storeOptions(p.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := fn(db); err != nil {
		t.Fatal(err)
	}
}

func (p *provider) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	p.sql(t, func(db *sql.DB) error {
		_, err := db.Exec(query, args...)
		return err
	})
}

// digest is what tables hold: to see that nothing has changed.
func (p *provider) digest(t *testing.T, tables ...string) string {
	t.Helper()
	h := sha256.New()
	p.sql(t, func(db *sql.DB) error {
		for _, table := range tables {
			rows, err := db.Query("SELECT * FROM " + table)
			if err != nil {
				return err
			}
			defer rows.Close()
			cols, _ := rows.Columns()
			var lines []string
			for rows.Next() {
				v := make([]any, len(cols))
				for i := range v {
					v[i] = new(sql.RawBytes)
				}
				if err := rows.Scan(v...); err != nil {
					return err
				}
				line := table
				for _, x := range v {
					line += fmt.Sprintf(" %x", *x.(*sql.RawBytes))
				}
				lines = append(lines, line)
			}
			slices.Sort(lines)
			fmt.Fprintln(h, lines)
			if err := rows.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("%x", h.Sum(nil))
}

// agree waits until providers have the same MLS state of a room.
func agree(t *testing.T, room mimiuri.URI, ps ...*provider) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		var states []string
		for _, p := range ps {
			epoch, auth, err := p.core.Client.GroupState(context.Background(), room)
			states = append(states, fmt.Sprintf("%d %x %v", epoch, auth, err))
		}
		if len(slices.Compact(slices.Clone(states))) == 1 && !strings.Contains(states[0], "fault") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the MLS states do not agree: %q", states)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// talk lets each of the named users say something, and everybody read it: the room works. It returns what was said.
func talk(t *testing.T, room mimiuri.URI, tag string, who map[*provider]string) {
	t.Helper()
	for p, name := range who {
		p.mem.wait(t, name+" to be in the room at "+p.domain, func() bool {
			in := false
			for _, e := range p.mem.events[room] {
				if e.User == p.user(name) && (e.Kind == adapter.Joined || e.Kind == adapter.Left) {
					in = e.Kind == adapter.Joined
				}
			}
			return in
		})
	}
	for p, name := range who {
		text := tag + " from " + name
		p.say(room, name, text)
		for q := range who {
			q.mem.wait(t, fmt.Sprintf("%q at %s", text, q.domain), func() bool { return slices.Contains(q.texts(room), name+": "+text) })
		}
	}
	agree(t, room, slices.Collect(mapKeys(who))...)
	for p := range who {
		p.once(t, room)
	}
}

func mapKeys[K comparable, V any](m map[K]V) func(yield func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// once checks that nothing was shown twice: sequence numbers go up by one, message IDs are distinct, and nobody joins who is
// there or leaves who is not.
func (p *provider) once(t *testing.T, room mimiuri.URI) {
	t.Helper()
	p.mem.mu.Lock()
	defer p.mem.mu.Unlock()
	ids := map[string]bool{}
	here := map[mimiuri.URI]bool{}
	if l := p.mem.events[room]; len(l) > 0 && l[0].Seq != 1 {
		t.Errorf("%s: the first event has the number %d", p.domain, l[0].Seq)
	}
	for i, e := range p.mem.events[room] {
		if i > 0 && e.Seq != p.mem.events[room][i-1].Seq+1 && e.Seq < 1<<20 {
			t.Errorf("%s: event %d follows on %d", p.domain, e.Seq, p.mem.events[room][i-1].Seq)
		}
		switch e.Kind {
		case adapter.Message:
			if ids[e.ID.String()] {
				t.Errorf("%s: a message was shown twice", p.domain)
			}
			ids[e.ID.String()] = true
		case adapter.Joined:
			if here[e.User] {
				t.Errorf("%s: %s joined twice", p.domain, e.User)
			}
			here[e.User] = true
		case adapter.Left:
			delete(here, e.User)
		case adapter.Closed:
			clear(here)
		}
	}
}

// count is how many events of a room pass.
func (p *provider) count(room mimiuri.URI, ok func(adapter.Event) bool) (n int) {
	p.mem.mu.Lock()
	defer p.mem.mu.Unlock()
	for _, e := range p.mem.events[room] {
		if ok(e) {
			n++
		}
	}
	return n
}

func invite(p *provider, room mimiuri.URI, by string, target mimiuri.URI) string {
	return p.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: p.user(by), Target: target})
}

func leave(p *provider, room mimiuri.URI, who string) string {
	return p.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: p.user(who)})
}

func joined(user mimiuri.URI) func(adapter.Event) bool {
	return func(e adapter.Event) bool { return e.Kind == adapter.Joined && e.User == user }
}

func resyncs(p *provider) uint64 { return p.core.Client.Counters.Resyncs.Load() }

// log is what the hub of a room has accepted.
func (p *provider) log(t *testing.T, room mimiuri.URI) (all []*wire.FanoutMessage) {
	t.Helper()
	p.sql(t, func(db *sql.DB) error {
		rows, err := db.Query(`SELECT body FROM hub_log WHERE room_id=$1 ORDER BY seq`, room.String())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var b []byte
			if err := rows.Scan(&b); err != nil {
				return err
			}
			m, err := wire.ParseFanout(b)
			if err != nil {
				return err
			}
			all = append(all, m...)
		}
		return rows.Err()
	})
	return all
}

// copy stops the provider, copies its database and starts it again; restore does so the other way round.
func (p *provider) copy(t *testing.T) (restore func()) {
	t.Helper()
	p.stop()
	o := storeOptions(p.dir)
	if o.Postgres != "" {
		ctx, copied := context.Background(), o.Path+"-copy"
		if err := testnet.CopyPostgres(ctx, o.Path, copied); err != nil {
			t.Fatal(err)
		}
		p.start()
		return func() {
			p.stop()
			if err := testnet.CopyPostgres(ctx, copied, o.Path); err != nil {
				t.Fatal(err)
			}
			p.start()
		}
	}
	path := o.Path
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p.start()
	return func() {
		p.stop()
		for _, f := range []string{path + "-wal", path + "-shm"} {
			if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		p.start()
	}
}

// awaitResync waits until the provider has joined a room anew.
func (p *provider) awaitResync() {
	p.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); resyncs(p) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s does not join anew", p.domain)
		}
	}
}

// TestFaults forces each fault between a request and its answer, one by one. a keeps the room, with alice; bob is at b,
// carol at c.
func TestFaults(t *testing.T) {
	type world struct {
		a, b, c *provider
		room    mimiuri.URI
		toHub   *way  // b's
		door    *door // b's
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T, w *world)
	}{
		{"a commit is accepted, the answer lost, the follower restarted", func(t *testing.T, w *world) {
			accepted, heal := loseAnswers(w.toHub, &w.toHub.update)
			o := invite(w.b, w.room, "bob", w.a.user("amy"))
			<-accepted
			w.a.awaitJoined(w.room, w.a.user("amy"))
			w.b.stop()
			heal()
			w.b.start()
			if e := w.b.awaitJoined(w.room, w.a.user("amy")); e.Origin == nil || e.Origin.ID != o {
				t.Errorf("the Joined has the origin %v", e.Origin)
			}
			talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: "bob", w.c: "carol"})
			if resyncs(w.b) != 0 {
				t.Error("b has joined anew")
			}
		}},
		{"a commit is accepted, the answer lost, both restarted", func(t *testing.T, w *world) {
			accepted, heal := loseAnswers(w.toHub, &w.toHub.update)
			invite(w.b, w.room, "bob", w.b.user("ben"))
			<-accepted
			w.a.restart()
			w.b.stop()
			heal()
			w.b.start()
			w.b.awaitJoined(w.room, w.b.user("ben"))
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "ben", w.c: "carol"})
		}},
		{"proposals are accepted, the answer lost, the follower restarted", func(t *testing.T, w *world) {
			invite(w.b, w.room, "bob", w.b.user("ben"))
			w.b.awaitJoined(w.room, w.b.user("ben"))
			accepted, heal := loseAnswers(w.toHub, &w.toHub.update)
			o := leave(w.b, w.room, "bob")
			<-accepted
			w.a.awaitLeft(w.room, w.b.user("bob"))
			w.b.stop()
			heal()
			w.b.start()
			if e := w.b.awaitLeft(w.room, w.b.user("bob")); e.Origin == nil || e.Origin.ID != o {
				t.Errorf("the Left has the origin %v", e.Origin)
			}
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "ben", w.c: "carol"})
			if n := w.b.count(w.room, func(e adapter.Event) bool { return e.Kind == adapter.Refused }); n != 0 {
				t.Errorf("%d refusals", n)
			}
		}},
		{"proposals are accepted, and the hub has forgotten it", func(t *testing.T, w *world) {
			w.c.stop() // so that nobody but alice commits …
			w.a.stop()
			w.a.delay = func() time.Duration { return time.Hour }
			w.a.start()
			accepted, heal := loseAnswers(w.toHub, &w.toHub.update)
			o := leave(w.b, w.room, "bob")
			<-accepted
			w.a.awaitLeft(w.room, w.b.user("bob"))
			w.a.exec(t, `DELETE FROM hub_answer`)
			heal()
			if e := w.b.awaitLeft(w.room, w.b.user("bob")); e.Origin == nil || e.Origin.ID != o {
				t.Errorf("the Left has the origin %v", e.Origin)
			}
			w.c.start()
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.c: "carol"})
			w.b.once(t, w.room)
		}},
		{"the last member leaves, and the answer is lost", func(t *testing.T, w *world) {
			leave(w.a, w.room, "alice")
			w.b.awaitLeft(w.room, w.a.user("alice"))
			leave(w.c, w.room, "carol")
			w.b.awaitLeft(w.room, w.c.user("carol"))
			accepted, heal := loseAnswers(w.toHub, &w.toHub.update)
			o := leave(w.b, w.room, "bob")
			<-accepted
			heal()
			if e := w.b.awaitLeft(w.room, w.b.user("bob")); e.Origin == nil || e.Origin.ID != o {
				t.Errorf("the Left has the origin %v", e.Origin)
			}
			if e := w.b.awaitRefused(w.room, w.b.say(w.room, "bob", "anybody?")); !fault.Is(e.Err, fault.Forbidden) {
				t.Errorf("a message into a deserted room: %v", e.Err)
			}
		}},
		{"a commit is raced by another's", func(t *testing.T, w *world) {
			first := make(chan struct{})
			var once sync.Once
			w.toHub.set(func() {
				w.toHub.update = func(body []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
					once.Do(func() {
						invite(w.a, w.room, "alice", w.a.user("amy"))
						w.a.awaitJoined(w.room, w.a.user("amy"))
						close(first)
					})
					return next(body)
				}
			})
			o := invite(w.b, w.room, "bob", w.c.user("cleo"))
			<-first
			if e := w.b.awaitJoined(w.room, w.c.user("cleo")); e.Origin == nil || e.Origin.ID != o {
				t.Errorf("the Joined has the origin %v", e.Origin)
			}
			talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: "bob", w.c: "cleo"})
			if w.b.core.Client.Counters.CommitsLost.Load() == 0 {
				t.Error("no commit of b was overtaken: the test tests nothing")
			}
			if resyncs(w.b) != 0 {
				t.Error("b has joined anew")
			}
		}},
		{"wrongEpoch comes before the commit that tells why", func(t *testing.T, w *world) {
			told := make(chan struct{})
			w.door.set(func() {
				w.door.in = func(ctx context.Context, body []byte, let func([]byte) error) error {
					select {
					case <-told:
						return let(body)
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			})
			invite(w.a, w.room, "alice", w.a.user("amy"))
			w.a.awaitJoined(w.room, w.a.user("amy"))
			var once sync.Once
			w.toHub.set(func() {
				w.toHub.update = func(body []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
					answer, err := next(body)
					if res, e := wire.ParseUpdateRoomResponse(answer); err == nil && e == nil && res.Code == wire.WrongEpoch {
						once.Do(func() { close(told) })
					}
					return answer, err
				}
			})
			invite(w.b, w.room, "bob", w.b.user("ben"))
			w.b.awaitJoined(w.room, w.b.user("ben"))
			talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: "ben", w.c: "carol"})
			if resyncs(w.b) != 0 {
				t.Error("b has joined anew")
			}
		}},
		{"the hub has forgotten that it accepted a commit: the confirmation tags tell", func(t *testing.T, w *world) {
			accepted, heal := loseAnswers(w.toHub, &w.toHub.update)
			o := invite(w.b, w.room, "bob", w.a.user("amy"))
			<-accepted
			w.a.awaitJoined(w.room, w.a.user("amy"))
			w.a.exec(t, `DELETE FROM hub_answer`)
			heal()
			if e := w.b.awaitJoined(w.room, w.a.user("amy")); e.Origin == nil || e.Origin.ID != o {
				t.Errorf("the Joined has the origin %v", e.Origin)
			}
			talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: "bob", w.c: "carol"})
			if resyncs(w.b) != 0 {
				t.Error("b has joined anew")
			}
		}},
		{"the hub has forgotten that it accepted a commit: what comes after it tells", func(t *testing.T, w *world) {
			accepted, heal := loseAnswers(w.toHub, &w.toHub.update)
			o := invite(w.b, w.room, "bob", w.a.user("amy"))
			<-accepted
			w.a.awaitJoined(w.room, w.a.user("amy"))
			w.a.exec(t, `DELETE FROM hub_answer`)
			w.a.say(w.room, "amy", "hello")
			if e := w.b.awaitJoined(w.room, w.a.user("amy")); e.Origin == nil || e.Origin.ID != o {
				t.Errorf("the Joined has the origin %v", e.Origin)
			}
			equal(t, "b", w.b.awaitTexts(w.room, 1), []string{"amy: hello"})
			heal()
			talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: "bob", w.c: "carol"})
			if resyncs(w.b) != 0 {
				t.Error("b has joined anew")
			}
		}},
		{"a message is accepted, the answer lost, the epoch changes", func(t *testing.T, w *world) {
			accepted, heal := loseAnswers(w.toHub, &w.toHub.submit)
			w.b.say(w.room, "bob", "once")
			<-accepted
			invite(w.a, w.room, "alice", w.a.user("amy"))
			w.b.awaitJoined(w.room, w.a.user("amy"))
			w.b.stop()
			heal()
			w.b.start()
			w.b.awaitTexts(w.room, 1)
			talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: "bob", w.c: "carol"})
			for _, p := range []*provider{w.a, w.b, w.c} {
				if n := p.count(w.room, func(e adapter.Event) bool { return e.Kind == adapter.Message }); n != 4 {
					t.Errorf("%s shows %d messages, not 4", p.domain, n)
				}
			}
		}},
		{"a message is accepted, the hub has forgotten it, the epoch changes", func(t *testing.T, w *world) {
			accepted, heal := loseAnswers(w.toHub, &w.toHub.submit)
			w.b.say(w.room, "bob", "once")
			<-accepted
			invite(w.a, w.room, "alice", w.a.user("amy"))
			w.b.awaitJoined(w.room, w.a.user("amy"))
			w.a.exec(t, `DELETE FROM hub_answer`)
			heal()
			w.b.awaitTexts(w.room, 1)
			talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: "bob", w.c: "carol"})
			for _, p := range []*provider{w.a, w.b, w.c} {
				if n := p.count(w.room, func(e adapter.Event) bool { return e.Kind == adapter.Message }); n != 4 {
					t.Errorf("%s shows %d messages, not 4", p.domain, n)
				}
			}
		}},
		{"a commit that nobody else can process", func(t *testing.T, w *world) {
			// The hub cannot check a membership tag (RFC 9420 section 6.2), only members can.
			var spoiled atomic.Bool
			w.toHub.set(func() {
				w.toHub.update = func(body []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
					q, err := wire.ParseUpdateRequest(body)
					if err == nil && q.IsCommit() && !spoiled.Swap(true) {
						q.Message.PublicMessage.MembershipTag[0] ^= 1
						return next(q.Marshal())
					}
					return next(body)
				}
			})
			invite(w.b, w.room, "bob", w.b.user("ben"))
			w.b.awaitJoined(w.room, w.b.user("ben"))
			w.a.awaitJoined(w.room, w.b.user("ben"))
			w.c.awaitJoined(w.room, w.b.user("ben"))
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "ben", w.c: "carol"})
			if resyncs(w.a) == 0 || resyncs(w.c) == 0 {
				t.Error("nobody has joined anew: the test tests nothing")
			}
		}},
		{"the group's state is lost", func(t *testing.T, w *world) {
			for _, name := range []string{"ben", "bert"} {
				invite(w.b, w.room, "bob", w.b.user(name))
				w.b.awaitJoined(w.room, w.b.user(name))
			}
			w.b.stop()
			w.b.exec(t, `UPDATE client_room SET state=NULL`)
			w.b.exec(t, `DELETE FROM client_ratchet`)
			w.b.start()
			w.b.awaitResync() // what was said before is lost with the state
			for _, name := range []string{"bob", "ben", "bert"} {
				talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: name, w.c: "carol"})
			}
		}},
		{"the group's state is damaged", func(t *testing.T, w *world) {
			w.b.stop()
			w.b.exec(t, `UPDATE client_room SET state=$1`, make([]byte, 100))
			w.b.start()
			w.b.awaitResync()
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "bob", w.c: "carol"})
		}},
		{"an old state of the group, its leaves still in the tree", func(t *testing.T, w *world) {
			for _, name := range []string{"ben", "bert"} {
				invite(w.b, w.room, "bob", w.b.user(name))
				w.b.awaitJoined(w.room, w.b.user(name))
			}
			w.b.stop()
			w.b.exec(t, `CREATE TABLE kept AS SELECT * FROM client_room`)
			w.b.exec(t, `CREATE TABLE kept2 AS SELECT * FROM client_ratchet`)
			w.b.start()
			invite(w.a, w.room, "alice", w.a.user("amy"))
			w.b.awaitJoined(w.room, w.a.user("amy"))
			w.b.stop()
			w.b.exec(t, `UPDATE client_room SET state=(SELECT state FROM kept), epoch=(SELECT epoch FROM kept)`)
			w.b.exec(t, `DELETE FROM client_ratchet`)
			w.b.exec(t, `INSERT INTO client_ratchet SELECT * FROM kept2`)
			w.b.start()
			invite(w.a, w.room, "alice", w.a.user("abel"))
			w.b.awaitJoined(w.room, w.a.user("abel"))
			for _, name := range []string{"bob", "ben", "bert"} {
				talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: name, w.c: "carol"})
			}
			if n := resyncs(w.b); n != 1 {
				t.Errorf("b has joined anew %d times for three users", n)
			}
			// Those who were taken over know their own keys only. The one who knows all leaves.
			for _, name := range []string{"bob", "ben"} {
				leave(w.b, w.room, name)
				w.b.awaitLeft(w.room, w.b.user(name))
				talk(t, w.room, "without "+name, map[*provider]string{w.a: "amy", w.b: "bert", w.c: "carol"})
			}
			if n := resyncs(w.b); n != 1 {
				t.Errorf("b has joined anew %d times", n)
			}
		}},
		{"the database is a copy from earlier", func(t *testing.T, w *world) {
			invite(w.b, w.room, "bob", w.b.user("ben"))
			w.b.awaitJoined(w.room, w.b.user("ben"))
			restore := w.b.copy(t)
			talk(t, w.room, "that are forgotten", map[*provider]string{w.a: "alice", w.b: "bob", w.c: "carol"})
			epoch, _, err := w.b.core.Client.GroupState(context.Background(), w.room)
			if err != nil {
				t.Fatal(err)
			}
			logged := len(w.a.log(t, w.room))
			restore()
			// Said before it knows that it has to join anew: this waits, too.
			w.b.say(w.room, "bob", "in no known epoch")
			w.b.awaitResync()
			w.a.mem.wait(t, "what was said at once", func() bool { return slices.Contains(w.a.texts(w.room), "bob: in no known epoch") })
			// The keys of the epoch were used after the copy was made: with none of them anything is sent again.
			own := 0
			for _, m := range w.a.log(t, w.room)[logged:] {
				if m.Message.PrivateMessage == nil {
					continue
				}
				if own++; m.Message.Epoch() <= epoch {
					t.Errorf("a message is of epoch %d, the copy was of %d", m.Message.Epoch(), epoch)
				}
			}
			if own == 0 {
				t.Error("the hub has no message since the copy was put back")
			}
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "bob", w.c: "carol"})
			talk(t, w.room, "and", map[*provider]string{w.a: "alice", w.b: "ben", w.c: "carol"})
		}},
		{"the hub's database is a copy from earlier", func(t *testing.T, w *world) {
			restore := w.a.copy(t)
			invite(w.a, w.room, "alice", w.a.user("amy"))
			for _, p := range []*provider{w.b, w.c} {
				p.awaitJoined(w.room, w.a.user("amy"))
			}
			talk(t, w.room, "that are forgotten", map[*provider]string{w.a: "amy", w.b: "bob", w.c: "carol"})
			restore()
			w.b.say(w.room, "bob", "where is everybody?")
			w.c.say(w.room, "carol", "nobody knows")
			for _, p := range []*provider{w.a, w.b, w.c} {
				p.awaitResync()
			}
			for _, p := range []*provider{w.b, w.c} {
				p.awaitLeft(w.room, w.a.user("amy"))
			}
			agree(t, w.room, w.a, w.b, w.c)
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "bob", w.c: "carol"})
		}},
		{"a Welcome that cannot be used", func(t *testing.T, w *world) {
			w.door.set(func() {
				w.door.in = singly(func(m *wire.FanoutMessage, let func([]byte) error) error {
					if m.Message.Welcome != nil {
						m.Message.Welcome.EncryptedGroupInfo[0] ^= 1
					}
					return let(m.Marshal())
				})
			})
			invite(w.a, w.room, "alice", w.b.user("ben"))
			w.b.awaitJoined(w.room, w.b.user("ben"))
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "ben", w.c: "carol"})
			talk(t, w.room, "and", map[*provider]string{w.a: "alice", w.b: "bob", w.c: "carol"})
			leave(w.b, w.room, "ben")
			leave(w.b, w.room, "bob")
			w.a.awaitLeft(w.room, w.b.user("bob"))
			invite(w.a, w.room, "alice", w.b.user("bert")) // nobody of b is in the room
			w.b.awaitJoined(w.room, w.b.user("bert"))
			talk(t, w.room, "at last", map[*provider]string{w.a: "alice", w.b: "bert", w.c: "carol"})
		}},
		{"this provider is not let in any more", func(t *testing.T, w *world) {
			w.b.stop()
			w.a.intake(adapter.Intent{Kind: adapter.Remove, Room: w.room, Actor: w.a.user("alice"), Target: w.b.user("bob")})
			w.a.awaitLeft(w.room, w.b.user("bob"))
			w.b.exec(t, `UPDATE client_room SET state=NULL`)
			w.b.start()
			e := w.b.await(w.room, "the room to be closed", func(e adapter.Event) bool { return e.Kind == adapter.Closed })
			if !slices.Contains(e.Local, w.b.user("bob")) {
				t.Errorf("Closed is for %v", e.Local)
			}
			if r, _, err := w.b.mem.host.Room(context.Background(), w.room); err != nil || !r.Gone {
				t.Errorf("the room is %+v, %v", r, err)
			}
			invite(w.a, w.room, "alice", w.b.user("bob"))
			w.b.mem.wait(t, "bob to be back", func() bool {
				l := w.b.mem.events[w.room]
				return l[len(l)-1].Kind == adapter.Joined
			})
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.c: "carol"})
		}},
		{"every delivery comes twice, and all of them again", func(t *testing.T, w *world) {
			w.door.set(func() {
				w.door.in = func(ctx context.Context, body []byte, let func([]byte) error) error {
					return errors.Join(let(body), let(body))
				}
			})
			for i := range 3 {
				invite(w.a, w.room, "alice", w.b.user(fmt.Sprint("b", i)))
				w.b.awaitJoined(w.room, w.b.user(fmt.Sprint("b", i)))
				talk(t, w.room, fmt.Sprint("round ", i), map[*provider]string{w.a: "alice", w.b: "bob", w.c: "carol"})
			}
			var all [][]byte
			w.door.set(func() { all = slices.Clone(w.door.taken) })
			for _, b := range all {
				if err := w.b.core.Client.Notify(context.Background(), "b.example", w.room, b); err != nil {
					t.Errorf("a repetition: %v", err)
				}
			}
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "b2", w.c: "carol"})
			if resyncs(w.b) != 0 {
				t.Error("b has joined anew")
			}
		}},
		{"a Welcome comes before its commit", func(t *testing.T, w *world) {
			var late [][]byte
			w.door.set(func() {
				w.door.in = singly(func(m *wire.FanoutMessage, let func([]byte) error) error {
					if m.Message.Welcome == nil && m.Message.ContentType() == mls.ContentCommit {
						late = append(late, m.Marshal()) // acknowledged, and kept back
						return nil
					}
					if err := let(m.Marshal()); err != nil || m.Message.Welcome == nil {
						return err
					}
					for _, b := range late {
						if err := let(b); err != nil {
							return err
						}
					}
					late = nil
					return nil
				})
			})
			invite(w.a, w.room, "alice", w.b.user("ben"))
			w.b.awaitJoined(w.room, w.b.user("ben"))
			w.door.set(func() { w.door.in = nil })
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "ben", w.c: "carol"})
			talk(t, w.room, "and", map[*provider]string{w.a: "alice", w.b: "bob", w.c: "carol"})
			if resyncs(w.b) != 0 {
				t.Error("b has joined anew")
			}
		}},
		{"a Welcome comes after the next commit", func(t *testing.T, w *world) {
			var late []byte
			commits := 0
			w.door.set(func() {
				w.door.in = singly(func(m *wire.FanoutMessage, let func([]byte) error) error {
					if m.Message.Welcome != nil {
						late = m.Marshal()
						return nil
					}
					err := let(m.Marshal())
					if m.Message.ContentType() == mls.ContentCommit {
						commits++
					}
					if commits == 2 && late != nil {
						err = errors.Join(err, let(late))
						late = nil
					}
					return err
				})
			})
			invite(w.a, w.room, "alice", w.b.user("ben"))
			w.a.awaitJoined(w.room, w.b.user("ben"))
			invite(w.a, w.room, "alice", w.a.user("amy"))
			w.b.awaitJoined(w.room, w.a.user("amy"))
			talk(t, w.room, "after", map[*provider]string{w.a: "amy", w.b: "ben", w.c: "carol"})
			talk(t, w.room, "and", map[*provider]string{w.a: "amy", w.b: "bob", w.c: "carol"})
			if resyncs(w.b) != 0 {
				t.Error("b has joined anew")
			}
		}},
		{"messages come before the Welcome of who comes back", func(t *testing.T, w *world) {
			leave(w.b, w.room, "bob")
			w.b.awaitLeft(w.room, w.b.user("bob"))
			w.a.say(w.room, "alice", "not for bob")
			w.c.awaitTexts(w.room, 1)
			var late []byte
			w.door.set(func() {
				w.door.in = singly(func(m *wire.FanoutMessage, let func([]byte) error) error {
					if m.Message.Welcome != nil {
						late = m.Marshal()
						return nil
					}
					err := let(m.Marshal())
					if late != nil {
						err = errors.Join(err, let(late))
						late = nil
					}
					return err
				})
			})
			invite(w.a, w.room, "alice", w.b.user("bob"))
			w.a.mem.wait(t, "bob to be back", func() bool { return w.a.counted(w.room, joined(w.b.user("bob"))) == 2 })
			w.a.say(w.room, "alice", "for bob")
			equal(t, "b", w.b.awaitTexts(w.room, 1), []string{"alice: for bob"})
			talk(t, w.room, "after", map[*provider]string{w.a: "alice", w.b: "bob", w.c: "carol"})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, ps := newNetwork(t, "a.example", "b.example", "c.example")
			w := &world{a: ps[0], b: ps[1], c: ps[2]}
			w.toHub, w.door = w.b.stand(), w.b.guard()
			for _, p := range ps {
				p.t, p.wait = t, 400*time.Millisecond
				p.start()
			}
			w.room = open(t, w.a, w.b.user("bob"), w.c.user("carol"))
			w.b.awaitJoined(w.room, w.c.user("carol"))
			agree(t, w.room, ps...)
			c.do(t, w)
			for _, p := range ps {
				p.once(t, w.room)
			}
		})
	}
}

// counted is count for those who hold the lock.
func (p *provider) counted(room mimiuri.URI, ok func(adapter.Event) bool) (n int) {
	for _, e := range p.mem.events[room] {
		if ok(e) {
			n++
		}
	}
	return n
}

// singly takes a delivery apart.
func singly(each func(m *wire.FanoutMessage, let func([]byte) error) error) func(context.Context, []byte, func([]byte) error) error {
	var mu sync.Mutex
	return func(_ context.Context, body []byte, let func([]byte) error) error {
		mu.Lock()
		defer mu.Unlock()
		list, err := wire.ParseFanout(body)
		if err != nil {
			return err
		}
		for _, m := range list {
			if err := each(m, let); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestFirstEpoch: a room's creator, alone, can speak in epoch 0.
func TestFirstEpoch(t *testing.T) {
	_, ps := newNetwork(t, "a.example")
	a := ps[0].start()
	room := open(t, a)
	a.say(room, "alice", "anybody here?")
	equal(t, "a", a.awaitTexts(room, 1), []string{"alice: anybody here?"})
}
