package core

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

const (
	uninstallTick = time.Second
	// maxSteps bounds what is kept of what has been done, for who asks late.
	maxSteps = 2000
)

// uninstalls takes the whole provider down. That it is to be done stands in the database, each step can be done again, and so
// it goes on after a crash: rooms kept here are closed; all local users are deleted, which takes back consent and leaves
// the rooms kept elsewhere; when other providers have been told and the network has been shown it, the adapters take back what
// they have put there. Files are left for when the process has ended.
type uninstalls struct {
	p    *Provider
	wake chan struct{} // capacity 1

	mu    sync.Mutex
	state store.Uninstall
	first int // the number of steps[0]
	steps []string
	waits []string
	began time.Time
}

// UninstallState is how far the removal of the whole provider is.
type UninstallState struct {
	Running bool     `json:"running"`
	Done    bool     `json:"done"`            // only files are left; stop the process
	Steps   []string `json:"steps"`           // what was done since the number asked for
	Next    int      `json:"next"`            // the number to ask for the next time
	Waits   []string `json:"waits,omitempty"` // what is waited for
	GivesUp bool     `json:"gives_up"`        // who cannot be reached is not waited for any more
}

func newUninstalls(p *Provider) *uninstalls { return &uninstalls{p: p, wake: make(chan struct{}, 1)} }

// load is called once, before anything is served.
func (u *uninstalls) load(ctx context.Context) error {
	err := u.p.store.View(ctx, func(tx *store.Tx) (err error) {
		u.state, err = tx.Uninstall()
		return err
	})
	switch {
	case err != nil:
		return err
	case u.state == store.Uninstalled:
		return fmt.Errorf("core: %w", store.ErrUninstalled)
	case u.state != store.NoUninstall:
		u.p.deletions.everybody()
		u.began = u.p.cfg.Now()
	}
	return nil
}

func (u *uninstalls) get() store.Uninstall {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state
}

func (u *uninstalls) put(ctx context.Context, s store.Uninstall) error {
	if err := u.p.store.Update(ctx, func(tx *store.Tx) error { return tx.PutUninstall(s) }); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state = s
	if u.began.IsZero() {
		u.began = u.p.cfg.Now()
	}
	return nil
}

// did tells a step, once.
func (u *uninstalls) did(step string) {
	u.p.cfg.Log.Info().Str("part", "uninstall").Msg(step)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.steps = append(u.steps, step)
	if n := len(u.steps) - maxSteps; n > 0 {
		u.steps, u.first = slices.Delete(u.steps, 0, n), u.first+n
	}
}

func (u *uninstalls) waiting(for_ []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.waits = for_
}

func (u *uninstalls) run(ctx context.Context) error {
	told := map[string]bool{} // adapters that are clean, since the start
	begun := false
	for {
		var tick <-chan time.Time
		if s := u.get(); s == store.Uninstalling || s == store.UninstallFast {
			if err := u.step(ctx, &begun, told); err != nil && ctx.Err() == nil {
				u.p.cfg.Log.Warn().Err(err).Msg("uninstalling did not get on; it is tried again")
				u.waiting([]string{"another try: " + publicOr(err, "something failed, the log says what")})
			}
			tick = time.After(uninstallTick)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-u.wake:
		case <-tick:
		}
	}
}

func publicOr(err error, or string) string {
	if text := fault.Public(err); text != "" {
		return text
	}
	return or
}

// step does what can be done now.
func (u *uninstalls) step(ctx context.Context, begun *bool, clean map[string]bool) error {
	p := u.p
	if !*begun {
		if err := u.begin(ctx); err != nil {
			return err
		}
		*begun = true
	}
	waits, err := u.waitsFor(ctx)
	if err != nil {
		return err
	}
	u.waiting(waits)
	if len(waits) > 0 {
		return nil
	}
	for _, h := range p.hosts {
		name := h.adapter.Name()
		a, ok := h.adapter.(adapter.Uninstaller)
		if !ok || clean[name] {
			continue
		}
		u.waiting([]string{"the adapter " + name + " to take back what it has put on its network"})
		if err := a.Uninstall(ctx, false, u.did); err != nil {
			if fault.Temporary(err) {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			p.cfg.Log.Error().Err(err).Str("adapter", name).Msg("not everything could be taken back")
			u.did(fmt.Sprintf("NOT DONE by the adapter %s: %s", name, publicOr(err, "the log says what")))
		}
		clean[name] = true
	}
	if err := u.put(ctx, store.Uninstalled); err != nil {
		return err
	}
	u.waiting(nil)
	u.did("nothing is left but files")
	return nil
}

// begin closes the rooms kept here and has all users be deleted. Rooms and users that this has been done for are not there any more.
func (u *uninstalls) begin(ctx context.Context) error {
	p := u.p
	p.deletions.everybody()
	rooms, users, err := u.have(ctx)
	if err != nil {
		return err
	}
	for _, r := range rooms {
		if !r.Hub {
			continue
		}
		room, err := mimiuri.ParseKind(r.URI, mimiuri.Room)
		if err != nil {
			return err
		}
		u.did("closing the room " + r.URI + r.followers())
		if err := p.DestroyRoom(ctx, room); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	for _, user := range users {
		u.did("removing the user " + user.String())
	}
	return p.deleteUsers(ctx, u.get() == store.UninstallFast, users...)
}

func (r *RoomInfo) followers() string {
	if len(r.Followers) == 0 {
		return ""
	}
	return ", telling " + strings.Join(r.Followers, ", ")
}

// have lists the open rooms and the local users of whom anything is stored.
func (u *uninstalls) have(ctx context.Context) (rooms []RoomInfo, users []mimiuri.URI, err error) {
	list, err := u.p.ListRooms(ctx)
	if err != nil {
		return nil, nil, err
	}
	rooms = slices.DeleteFunc(list, func(r RoomInfo) bool { return r.Status != "open" && r.Status != "new" })
	var names []string
	if err := u.p.store.View(ctx, func(tx *store.Tx) (err error) {
		names, err = tx.LocalUsers()
		return err
	}); err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		if user, err := mimiuri.ParseKind(n, mimiuri.User); err == nil && user.Domain == u.p.cfg.Domain {
			users = append(users, user)
		}
	}
	return rooms, users, nil
}

// waitsFor says what is still under way. In a hurry, what has waited for a minute since the start does not count.
func (u *uninstalls) waitsFor(ctx context.Context) (waits []string, err error) {
	p := u.p
	deleting, err := p.Deleting(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(deleting); n > 0 {
		waits = append(waits, fmt.Sprintf("%d users to be out of their rooms (%s …)", n, deleting[0]))
	}
	u.mu.Lock()
	late := u.state == store.UninstallFast && p.cfg.Now().Sub(u.began) >= deletionHurry
	u.mu.Unlock()
	if late {
		return waits, nil
	}
	queues, err := p.Queues(ctx)
	if err != nil {
		return nil, err
	}
	n := map[string]int{}
	for _, q := range queues {
		switch {
		case q.Kind == "peer" && q.Target != p.cfg.Domain:
			n[q.Target] += q.N
		case q.Kind == "event":
			n["the adapter "+q.Target] += q.N
		}
	}
	var untold map[string]int
	if err := p.store.View(ctx, func(tx *store.Tx) (err error) {
		untold, err = tx.Untold()
		return err
	}); err != nil {
		return nil, err
	}
	for peer, k := range untold {
		if peer != p.cfg.Domain {
			n[peer] += k
		}
	}
	for name, k := range n {
		waits = append(waits, fmt.Sprintf("%s to take %d messages", name, k))
	}
	slices.Sort(waits)
	return waits, nil
}

// Uninstall begins to take the provider down, or goes on; it works in the background and over restarts, and cannot be undone. With giveUp
// it does not wait for longer than a minute for who cannot be reached. Nobody can act here from now on.
func (p *Provider) Uninstall(ctx context.Context, giveUp bool) error {
	n, err := p.store.OtherNodes(ctx)
	switch {
	case err != nil:
		return err
	case n > 0:
		return fault.New(fault.Conflict, "other daemons use the same database; stop them first, their rooms come over here")
	}
	want := store.Uninstalling
	if giveUp {
		want = store.UninstallFast
	}
	switch have := p.uninstalls.get(); {
	case have >= want:
		return nil
	case have == store.Uninstalling: // the hurry comes late
		us, err := p.Deleting(ctx)
		if err != nil {
			return err
		}
		if err := p.deleteUsers(ctx, true, us...); err != nil {
			return err
		}
	}
	if err := p.uninstalls.put(ctx, want); err != nil {
		return err
	}
	p.deletions.everybody()
	select {
	case p.uninstalls.wake <- struct{}{}:
	default:
	}
	return nil
}

// UninstallPlan lists what Uninstall would do; nothing is changed.
func (p *Provider) UninstallPlan(ctx context.Context) (steps []string, err error) {
	rooms, users, err := p.uninstalls.have(ctx)
	if err != nil {
		return nil, err
	}
	for i := range rooms {
		if r := &rooms[i]; r.Hub {
			steps = append(steps, "close the room "+r.URI+r.followers())
		}
	}
	for i := range rooms {
		if r := &rooms[i]; !r.Hub {
			steps = append(steps, "leave the room "+r.URI)
		}
	}
	for _, u := range users {
		steps = append(steps, "remove the user "+u.String()+", telling their contacts")
	}
	for _, h := range p.hosts {
		if a, ok := h.adapter.(adapter.Uninstaller); ok {
			name := h.adapter.Name()
			if err := a.Uninstall(ctx, true, func(step string) { steps = append(steps, name+": "+step) }); err != nil {
				return nil, fault.Wrap(fault.Unavailable, "the adapter "+name+" cannot say what it would do; is its network up?", err)
			}
		}
	}
	return steps, nil
}

// Uninstalling gives how far it is, and the steps from the number from on.
func (p *Provider) Uninstalling(from int) UninstallState {
	u := p.uninstalls
	u.mu.Lock()
	defer u.mu.Unlock()
	s := UninstallState{Running: u.state != store.NoUninstall, Done: u.state == store.Uninstalled, GivesUp: u.state == store.UninstallFast,
		Next: u.first + len(u.steps), Waits: slices.Clone(u.waits), Steps: []string{}}
	if i := max(from-u.first, 0); i < len(u.steps) {
		s.Steps = slices.Clone(u.steps[i:])
	}
	return s
}
