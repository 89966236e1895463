// Package mailbox gives every room one goroutine that owns its state.
package mailbox

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/fault"
)

// Pool runs at most one goroutine per key. It starts on demand, holds the state of its key, takes work in the order it
// was posted, and ends when nothing came for a while; the state is then dropped and made anew at need.
type Pool[S any] struct {
	make func(key string) S
	idle time.Duration
	log  zerolog.Logger

	mu     sync.Mutex
	boxes  map[string]*box[S]
	closed bool
	wg     sync.WaitGroup
}

type box[S any] struct {
	queue []func(S)
	stale bool          // the state is to be made anew before the next work
	wake  chan struct{} // capacity 1
}

// New makes a pool. newState is called on the key's goroutine; it must not block for long.
func New[S any](newState func(key string) S, idle time.Duration, log zerolog.Logger) *Pool[S] {
	return &Pool[S]{make: newState, idle: idle, log: log, boxes: map[string]*box[S]{}}
}

// Post has fn run on the key's goroutine and returns at once; false if the pool is closed.
func (p *Pool[S]) Post(key string, fn func(S)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	b := p.boxes[key]
	if b == nil {
		b = &box[S]{wake: make(chan struct{}, 1)}
		p.boxes[key] = b
		p.wg.Add(1)
		go p.serve(key, b)
	}
	b.queue = append(b.queue, fn)
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// Reload has the key's state made anew before whatever is posted from now on: what it was made from has changed.
func (p *Pool[S]) Reload(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.boxes[key]; b != nil {
		b.stale = true
	}
}

// Ask has fn run on the key's goroutine and gives what it returns. If ctx ends first fn may still run, and what it returns
// is lost. A panic of fn becomes an error.
func Ask[S, T any](ctx context.Context, p *Pool[S], key string, fn func(S) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	done := make(chan answer, 1)
	ok := p.Post(key, func(s S) {
		a := answer{err: fault.New(fault.Internal, "")}
		defer func() { done <- a }()
		v, err := fn(s)
		a = answer{v, err}
	})
	if !ok {
		var none T
		return none, fault.New(fault.Unavailable, "the server is stopping")
	}
	select {
	case a := <-done:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// Do is Ask for what has no result but an error.
func (p *Pool[S]) Do(ctx context.Context, key string, fn func(S) error) error {
	_, err := Ask(ctx, p, key, func(s S) (struct{}, error) { return struct{}{}, fn(s) })
	return err
}

// Close takes no more work, waits for what was posted, and ends all goroutines.
func (p *Pool[S]) Close() {
	p.mu.Lock()
	p.closed = true
	for _, b := range p.boxes {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Pool[S]) serve(key string, b *box[S]) {
	defer p.wg.Done()
	state := p.make(key)
	timer := time.NewTimer(p.idle)
	defer timer.Stop()
	for {
		p.mu.Lock()
		work := b.queue
		b.queue = nil
		if b.stale {
			b.stale, state = false, p.make(key)
		}
		if len(work) == 0 && p.closed {
			delete(p.boxes, key)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		for _, fn := range work {
			p.run(key, fn, &state)
		}
		if len(work) > 0 {
			continue
		}
		timer.Reset(p.idle)
		select {
		case <-b.wake:
		case <-timer.C:
			p.mu.Lock()
			if len(b.queue) == 0 {
				delete(p.boxes, key)
				p.mu.Unlock()
				return
			}
			p.mu.Unlock()
		}
	}
}

// run recovers: what serves a room may fail without ending the process. The state may be half changed then, so it is
// made anew.
func (p *Pool[S]) run(key string, fn func(S), state *S) {
	defer func() {
		if r := recover(); r != nil {
			p.log.Error().Str("room", key).Interface("panic", r).Bytes("stack", debug.Stack()).Msg("a room's goroutine panicked; its state is loaded again")
			*state = p.make(key)
		}
	}()
	fn(*state)
}
