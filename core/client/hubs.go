package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/store"
)

// hubState is what is known of another provider's hub, for all rooms that it keeps. What a room notices by itself, when it asks
// for something, is the room's (room.since): this is for rooms in which nobody does anything.
type hubState struct {
	heard   time.Time     // when it last answered or told something
	since   time.Time     // since when it has not answered; zero: it has
	next    time.Time     // it is not asked before
	pause   time.Duration // the last pause, once it is gone
	gone    bool          // its rooms have been told that it is
	checked bool          // it was reached since the start, and rooms that were offline then have been told
}

const (
	hubsAtOnce  = 16
	maxHubPause = 15 * time.Minute
)

// quiet is how long nothing may be heard of a hub before it is asked whether it is there.
func (c *Client) quiet() time.Duration { return c.cfg.OfflineAfter * 5 / 2 }

func (c *Client) hub(domain string) *hubState {
	s := c.hubs[domain]
	if s == nil {
		s = &hubState{}
		c.hubs[domain] = s
	}
	return s
}

// heard notes that a hub is there.
func (c *Client) heard(domain string) {
	if domain == c.cfg.Domain {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.hub(domain)
	s.heard = c.cfg.Now()
	if !s.since.IsZero() {
		s.next = time.Time{} // it is asked at the next look, and its other rooms are told
	}
}

// watchHubs finds out that a hub of which nothing is heard is gone, and that it is back. Each hub is asked once whatever the
// number of its rooms, after some minutes of silence, and less and less often while it does not answer.
func (c *Client) watchHubs(ctx context.Context) {
	defer c.workers.Done()
	tick := time.NewTicker(max(c.cfg.OfflineAfter/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := c.lookForHubs(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error().Err(err).Msg("looking which hubs are there")
		}
	}
}

// lookForHubs asks the hubs whose time has come.
func (c *Client) lookForHubs(ctx context.Context) error {
	var rooms []string
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		rooms, err = tx.ClientRooms(store.ClientJoined)
		return err
	})
	if err != nil {
		return err
	}
	kept := map[string][]string{}
	for _, id := range rooms {
		if d := uri(id).Domain; d != c.cfg.Domain && c.cfg.Store.Mine(id) {
			kept[d] = append(kept[d], id)
		}
	}
	now := c.cfg.Now()
	var due []string
	c.mu.Lock()
	maps.DeleteFunc(c.hubs, func(d string, _ *hubState) bool { return kept[d] == nil })
	for d := range kept {
		s := c.hub(d)
		if silent := s.heard.IsZero() || now.Sub(s.heard) >= c.quiet(); !now.Before(s.next) && (silent || !s.since.IsZero()) {
			due = append(due, d)
		}
	}
	c.mu.Unlock()
	var wg sync.WaitGroup
	for part := range slices.Chunk(due, hubsAtOnce) {
		for _, d := range part {
			wg.Go(func() { c.ping(ctx, d, kept[d]) })
		}
		wg.Wait()
	}
	return nil
}

// ping asks one hub whether it is there, and tells its rooms if that is news.
func (c *Client) ping(ctx context.Context, domain string, rooms []string) {
	defer func() {
		if p := recover(); p != nil {
			c.cfg.Log.Error().Str("panic", fmt.Sprintf("%T", p)).Str("peer", domain).Msg("asking a hub whether it is there panicked")
		}
	}()
	err := c.cfg.Ping(ctx, domain)
	if ctx.Err() != nil {
		return
	}
	there := !fault.Is(err, fault.Unavailable) // one that the admin has denied is not asked, and not gone
	now := c.cfg.Now()
	c.mu.Lock()
	s := c.hub(domain)
	var lost, back bool
	if there {
		back = s.gone || !s.checked
		*s = hubState{heard: now, checked: true}
	} else {
		if s.since.IsZero() {
			s.since = now
		}
		lost = !s.gone && now.Sub(s.since) >= c.cfg.OfflineAfter
		s.gone = s.gone || lost
		if s.pause = max(c.cfg.OfflineAfter/2, time.Millisecond); s.gone {
			s.pause = min(max(s.pause, now.Sub(s.since)/2), max(maxHubPause, s.pause))
		}
		s.next = now.Add(s.pause)
	}
	since := s.since
	c.mu.Unlock()
	tell := func(id string, fn func(*room)) {
		c.rooms.Post(id, func(r *room) {
			fn(r)
			r.step()
		})
		select { // a group at a time: nobody is to notice
		case <-time.After(reconcilePause):
		case <-ctx.Done():
		}
	}
	switch {
	case lost:
		c.cfg.Log.Warn().Err(err).Str("peer", domain).Int("rooms", len(rooms)).Msg("a hub is gone; its rooms can be read, and what is written waits")
		for _, id := range rooms {
			tell(id, func(r *room) { r.hubSilent(since) })
		}
	case back:
		offline, err := c.offline(ctx, domain)
		if err != nil {
			c.cfg.Log.Error().Err(err).Str("peer", domain).Msg("reading which rooms are offline")
		}
		for _, id := range offline {
			tell(id, (*room).hubSpoke)
		}
	}
}

// offline lists the rooms of a hub that are shown as offline.
func (c *Client) offline(ctx context.Context, domain string) (rooms []string, err error) {
	err = c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		return tx.ClientViewsAt(domain, func(id string, b []byte) error {
			if !c.cfg.Store.Mine(id) {
				return nil
			}
			v, err := parseView(b)
			if err == nil && v.Offline {
				rooms = append(rooms, id)
			}
			return err
		})
	})
	return rooms, err
}
