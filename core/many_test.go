package core_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// TestManyLocalUsers: thirty users of each of two providers come, write and go. Each provider holds one state for all of its
// users: a message is shown once for all, to those who are there.
func TestManyLocalUsers(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	const n = 30
	name := func(i int) string { return fmt.Sprintf("u%02d", i) }
	// Both ask for users of both, at the same time.
	for i := range n {
		by, who := a, "alice"
		if i%2 == 1 {
			by, who = b, "bob"
		}
		invite(by, room, who, a.user(name(i)))
		invite(by, room, who, b.user(name(i)))
	}
	for i := range n {
		for _, p := range ps {
			p.awaitJoined(room, a.user(name(i)))
			p.awaitJoined(room, b.user(name(i)))
		}
	}
	agree(t, room, a, b)
	everybody := []string{}
	for i := range n {
		for _, p := range ps {
			p.say(room, name(i), "hello")
			everybody = append(everybody, name(i)+": hello")
		}
	}
	slices.Sort(everybody)
	for _, p := range ps {
		got := p.awaitTexts(room, 2*n)
		slices.Sort(got)
		equal(t, p.domain, got, everybody)
		for _, e := range p.eventsOf(room) {
			if e.Kind == adapter.Message && len(e.Local) != n+1 {
				t.Fatalf("%s: a message is for %d of %d local users", p.domain, len(e.Local), n+1)
			}
		}
	}
	// Half of them go, some by themselves, some removed, and three come back.
	for i := range n {
		switch i % 4 {
		case 0:
			leave(a, room, name(i))
			leave(b, room, name(i))
		case 1:
			a.intake(adapter.Intent{Kind: adapter.Remove, Room: room, Actor: a.user("alice"), Target: b.user(name(i))})
			b.intake(adapter.Intent{Kind: adapter.Remove, Room: room, Actor: b.user("bob"), Target: a.user(name(i))})
		}
	}
	for i := range n {
		if i%4 < 2 {
			for _, p := range ps {
				p.awaitLeft(room, a.user(name(i)))
				p.awaitLeft(room, b.user(name(i)))
			}
		}
	}
	for _, i := range []int{0, 1, 4} {
		invite(a, room, "alice", b.user(name(i)))
	}
	for _, p := range ps {
		for _, i := range []int{0, 1, 4} {
			p.mem.wait(t, name(i)+" to be back", func() bool { return p.counted(room, joined(b.user(name(i)))) == 2 })
		}
	}
	talk(t, room, "after", map[*provider]string{a: name(2), b: name(4)})
	for p, want := range map[*provider]int{a: 15, b: 18} { // 14 of 30 stay, and who made the room or was asked first
		l := p.eventsOf(room)
		if e := l[len(l)-1]; e.Kind == adapter.Message && len(e.Local) != want {
			t.Errorf("%s: the last message is for %d local users, not %d", p.domain, len(e.Local), want)
		}
	}
	// All of b but one go, then that one too; a goes on alone.
	for i := range n {
		if i%4 >= 2 || i == 0 || i == 1 || i == 4 {
			leave(b, room, name(i))
		}
	}
	leave(b, room, "bob")
	a.awaitLeft(room, b.user("bob"))
	a.mem.wait(t, "b to be empty", func() bool {
		r, _, err := a.mem.host.Room(context.Background(), room)
		return err == nil && !slices.ContainsFunc(r.Participants, func(p adapter.Participant) bool { return p.User.Domain == "b.example" })
	})
	a.say(room, "alice", "alone")
	a.mem.wait(t, "alice's last word", func() bool { return slices.Contains(a.texts(room), "alice: alone") })
	for _, p := range ps {
		p.once(t, room)
		if r := resyncs(p); r != 0 {
			t.Errorf("%s has joined anew %d times", p.domain, r)
		}
	}
}

// eventsOf is a copy of what was shown.
func (p *provider) eventsOf(room mimiuri.URI) []adapter.Event {
	p.mem.mu.Lock()
	defer p.mem.mu.Unlock()
	return slices.Clone(p.mem.events[room])
}

// TestRandomComings: users of three providers come, write and go at random, with restarts. In the end everybody has the same
// state, and each provider has shown what the others have.
func TestRandomComings(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 7))
			_, ps := newNetwork(t, "a.example", "b.example", "c.example")
			for _, p := range ps {
				p.t = t
				p.start()
			}
			a := ps[0]
			room := open(t, a, ps[1].user("bob"), ps[2].user("carol"))
			fixed := []string{"alice", "bob", "carol"}
			said := 0
			for range 60 {
				i := rnd.IntN(3)
				p, who := ps[i], fixed[i]
				j := rnd.IntN(3)
				other := ps[j].user(fmt.Sprint("x", rnd.IntN(4)))
				switch k := rnd.IntN(12); {
				case k < 5:
					p.say(room, who, fmt.Sprint("line ", said))
					said++
				case k < 8:
					invite(p, room, who, other)
				case k < 9:
					p.intake(adapter.Intent{Kind: adapter.Remove, Room: room, Actor: p.user(who), Target: other})
				case k < 11:
					leave(ps[j], room, other.ID)
				default:
					p.restart()
				}
			}
			// Whatever was refused, was refused once; whatever was said by those who stayed, is there.
			for _, p := range ps {
				p.mem.wait(t, "all lines", func() bool {
					n := 0
					for _, s := range p.texts(room) {
						if strings.Contains(s, ": line ") {
							n++
						}
					}
					return n >= said
				})
			}
			talk(t, room, "after", map[*provider]string{ps[0]: "alice", ps[1]: "bob", ps[2]: "carol"})
			var want []string
			for _, p := range ps {
				r, _, err := p.mem.host.Room(context.Background(), room)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, m := range r.Participants {
					got = append(got, m.User.String())
				}
				slices.Sort(got)
				if want == nil {
					want = got
				}
				equal(t, "participants at "+p.domain, got, want)
				if r := resyncs(p); r != 0 {
					t.Errorf("%s has joined anew %d times", p.domain, r)
				}
			}
		})
	}
}

// TestFollowerThatFails: one follower answers errors or nothing at all; the others get everything, and it gets all of it, in
// order and once, when it is well again.
func TestFollowerThatFails(t *testing.T) {
	for _, x := range []struct {
		name string
		fail func(ctx context.Context) error
	}{
		{"500", func(context.Context) error { return fault.New(fault.Internal, "") }},
		{"503", func(context.Context) error { return &fault.Error{Kind: fault.Unavailable, RetryAfter: time.Second} }},
		{"400", func(context.Context) error { return fault.New(fault.Malformed, "what is this?") }},
		{"silence", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, ps := newNetwork(t, "a.example", "b.example", "c.example")
			a, b, c := ps[0], ps[1], ps[2]
			well := make(chan struct{})
			door := c.guard()
			for _, p := range ps {
				p.t = t
				p.start()
			}
			room := open(t, a, b.user("bob"), c.user("carol"))
			b.awaitJoined(room, c.user("carol"))
			asked := make(chan struct{}, 1000)
			door.set(func() {
				door.in = func(ctx context.Context, body []byte, let func([]byte) error) error {
					select {
					case <-well:
						return let(body)
					default:
						asked <- struct{}{}
					}
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					go func() {
						select {
						case <-well:
						case <-ctx.Done():
						}
						cancel()
					}()
					return x.fail(ctx)
				}
			})
			var want []string
			for i := range 10 {
				a.say(room, "alice", fmt.Sprint(i))
				want = append(want, fmt.Sprint("alice: ", i))
			}
			equal(t, "b", b.awaitTexts(room, 10), want)
			b.say(room, "bob", "and I")
			want = append(want, "bob: and I")
			equal(t, "a", a.awaitTexts(room, 11), want)
			<-asked
			close(well)
			c.say(room, "carol", "back") // who speaks is there
			want = append(want, "carol: back")
			c.awaitTexts(room, 12)
			got := c.texts(room)
			got = slices.DeleteFunc(got, func(s string) bool { return s == "carol: back" })
			equal(t, "c", got, want[:11])
			equal(t, "a", a.awaitTexts(room, 12), want)
			c.once(t, room)
		})
	}
}

// TestInvitingWhoIsAway: an invitation to a provider that cannot be reached holds up nothing, and is carried out once it can.
func TestInvitingWhoIsAway(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	room := open(t, a, b.user("bob"))
	c.stop()
	o := invite(b, room, "bob", c.user("carol"))
	b.say(room, "bob", "one")
	equal(t, "a", a.awaitTexts(room, 1), []string{"bob: one"})
	c.start()
	if e := b.awaitJoined(room, c.user("carol")); e.Origin == nil || e.Origin.ID != o {
		t.Errorf("the Joined has the origin %v", e.Origin)
	}
	c.awaitJoined(room, c.user("carol"))
	talk(t, room, "after", map[*provider]string{a: "alice", b: "bob", c: "carol"})
}
