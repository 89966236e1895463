package hub

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

const (
	batchCount = 64
	batchBytes = 4 << 20
	maxPause   = 5 * time.Minute
	// A peer that answers 4xx to something well-formed is broken; it is asked less often, and nothing is dropped.
	maxPauseRefused = time.Hour

	// Deliveries under way: a peer that hangs holds up its own rooms at most.
	peerSlots = 8
	allSlots  = 512

	// What a follower has not taken for so long is given up; it joins its rooms anew when it is back.
)

// queue is a follower's delivery: at most one goroutine, with one batch under way.
type queue struct {
	running bool
	again   bool          // something came while it was running
	kick    chan struct{} // ends a pause
	next    *batch        // what is to be sent next, if that is known already
}

// batch is what one request holds; its range is on disk.
type batch struct {
	entries []store.LogEntry
	hi      uint64
}

// Run delivers until ctx is done; it starts with what was left over. It cleans up once an hour.
func (h *Hub) Run(ctx context.Context) error {
	h.mu.Lock()
	h.ctx = ctx
	h.mu.Unlock()
	var qs []store.Queue
	if err := h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		qs, err = tx.Queues()
		return err
	}); err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it starts
		}
		return err
	}
	for _, q := range qs {
		h.start(q, nil)
	}
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := h.Clean(ctx); err != nil && ctx.Err() == nil {
			h.cfg.Log.Error().Err(err).Msg("cleaning up hub tables")
		}
		select {
		case <-ctx.Done():
			h.rooms.Close() // in this order: a room that still works may start deliveries
			h.workers.Wait()
			return nil
		case <-tick.C:
		}
	}
}

// Clean deletes what is kept no longer. Run does it by itself every hour. Of a room that is over nothing stays once all that
// retention knows is over, too; its keys are kept until then, for reports.
func (h *Hub) Clean(ctx context.Context) error {
	now, keep := h.cfg.Now(), h.cfg.Retention
	over := max(keep.Log, keep.Queues, keep.Answers, keep.Reports)
	var given []store.Queue
	err := h.cfg.Store.Update(ctx, func(tx *store.Tx) (err error) {
		given, err = tx.GiveUpQueues(now.Add(-keep.Queues).UnixMilli())
		return errors.Join(err,
			tx.ForgetAnswers(now.Add(-keep.Answers).UnixMilli()),
			tx.TrimReports(now.Add(-keep.Reports).UnixMilli()),
			tx.ExpireRoutes(now.UnixMilli()),
			tx.TrimLog(now.Add(-keep.Log).UnixMilli()),
			tx.TrimHubRooms(now.Add(-over).UnixMilli()))
	})
	if err != nil {
		return err
	}
	for _, q := range given {
		h.cfg.Log.Warn().Str("room", q.Room).Str("peer", q.Peer).Dur("after", keep.Queues).Msg("a follower has not taken its messages; the oldest are given up")
	}
	return nil
}

// Reload reads a room again, which was another node's, and starts its deliveries.
func (h *Hub) Reload(room string) {
	h.rooms.Reload(room)
	h.wake(room)
}

// wake starts the deliveries of a room.
func (h *Hub) wake(room string) {
	h.mu.Lock()
	ctx := h.ctx
	h.mu.Unlock()
	if ctx == nil {
		return
	}
	var peers []string
	if err := h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		peers, err = tx.RoomQueues(room)
		return err
	}); err != nil {
		if ctx.Err() == nil {
			h.cfg.Log.Error().Err(err).Str("room", room).Msg("reading the room's queues")
		}
		return
	}
	for _, p := range peers {
		h.start(store.Queue{Room: room, Peer: p}, nil)
	}
}

// start delivers what waits in a queue; next, if it is not nil, is the batch that is first in it.
func (h *Hub) start(q store.Queue, next *batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil || h.ctx.Err() != nil || !h.cfg.Store.Mine(q.Room) {
		return
	}
	w := h.queues[q]
	if w == nil {
		w = &queue{kick: make(chan struct{}, 1)}
		h.queues[q] = w
	}
	w.again = true
	if !w.running {
		w.running, w.next = true, next
		h.workers.Add(1)
		go h.work(h.ctx, q, w)
	}
}

// Retry ends the pauses of all queues to a peer that could not be reached: it is known to be back.
func (h *Hub) Retry(peer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for q, w := range h.queues {
		if q.Peer == peer {
			select {
			case w.kick <- struct{}{}:
			default:
			}
		}
	}
}

func (h *Hub) work(ctx context.Context, q store.Queue, w *queue) {
	defer h.workers.Done()
	pause := time.Duration(0)
	for {
		h.mu.Lock()
		if !w.again || ctx.Err() != nil {
			w.running = false
			delete(h.queues, q)
			h.mu.Unlock()
			return
		}
		w.again = false
		h.mu.Unlock()
		more, err := h.deliver(ctx, q, w)
		if err != nil || more {
			h.mu.Lock()
			w.again = true
			h.mu.Unlock()
		}
		if err == nil {
			pause = 0
			continue
		}
		if ctx.Err() != nil {
			continue
		}
		h.Counters.DeliveryFailed.Add(1)
		pause = nextPause(pause, err)
		h.cfg.Log.Warn().Err(err).Str("room", q.Room).Str("peer", q.Peer).Dur("again_in", pause).Msg("delivery failed; the queue is kept")
		kick := w.kick
		if unreachable := fault.Is(err, fault.Unavailable) && retryAfter(err) == 0; !unreachable {
			kick = nil // it was reached, and said no
		}
		select {
		case <-time.After(pause):
		case <-kick:
		case <-ctx.Done():
		}
	}
}

func nextPause(last time.Duration, err error) time.Duration {
	next := max(250*time.Millisecond, 2*last)
	limit := maxPause
	if !fault.Temporary(err) {
		limit = maxPauseRefused
		next = max(next, 2*time.Second)
	}
	if after := retryAfter(err); after > 0 {
		next = after
	}
	return min(next, limit)
}

func retryAfter(err error) time.Duration {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.RetryAfter
	}
	return 0
}

// enter waits for a place for a delivery to peer.
func (h *Hub) enter(ctx context.Context, peer string) (leave func(), err error) {
	h.mu.Lock()
	own := h.slots[peer]
	if own == nil {
		own = make(chan struct{}, peerSlots)
		h.slots[peer] = own
	}
	h.mu.Unlock()
	select {
	case own <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case h.all <- struct{}{}:
	case <-ctx.Done():
		<-own
		return nil, ctx.Err()
	}
	return func() { <-h.all; <-own }, nil
}

// deliver sends one batch; more is true if there may be another.
func (h *Hub) deliver(ctx context.Context, q store.Queue, w *queue) (more bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			h.cfg.Log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Str("room", q.Room).Str("peer", q.Peer).Msg("delivery panicked")
			err = fault.New(fault.Internal, "")
		}
	}()
	uri, err := mimiuri.ParseKind(q.Room, mimiuri.Room)
	if err != nil {
		return false, err
	}
	if q.Peer != h.cfg.Domain {
		leave, err := h.enter(ctx, q.Peer)
		if err != nil {
			return false, err
		}
		defer leave()
	}
	now := w.next
	w.next = nil
	if now == nil {
		now = &batch{}
		fresh := false
		err = h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			now.entries, now.hi, fresh, err = tx.NextBatch(q, batchCount, batchBytes)
			return err
		})
		if err != nil || len(now.entries) == 0 {
			return false, err
		}
		if fresh {
			if err := h.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.StartBatch(q, now.hi) }); err != nil {
				return false, err
			}
		}
	}
	entries := now.entries
	var body []byte
	for _, e := range entries {
		body = append(body, e.Body...)
	}
	if err := h.cfg.Notify.Notify(ctx, q.Peer, uri, body); err != nil {
		return false, err
	}
	// Acknowledged: forget it even if we are told to stop right now. What has come meanwhile is the next batch.
	next := &batch{}
	err = h.cfg.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) (err error) {
		more, err := tx.EndBatch(q, now.hi)
		if err != nil || !more {
			return err
		}
		fresh := false
		if next.entries, next.hi, fresh, err = tx.NextBatch(q, batchCount, batchBytes); err == nil && fresh && len(next.entries) > 0 {
			err = tx.StartBatch(q, next.hi)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	if len(next.entries) > 0 {
		w.next = next
	}
	h.Counters.Delivered.Add(uint64(len(entries)))
	h.cfg.Log.Debug().Str("event", "hub_fanout").Str("room", q.Room).Str("peer", q.Peer).Int("messages", len(entries)).Int64("ts", entries[len(entries)-1].TS).Int("bytes", len(body)).Msg("delivered")
	return w.next != nil, nil
}
