package xmpp

import (
	"runtime/debug"
	"sync"

	"github.com/rs/zerolog"
)

// queues run work in order within a key and concurrently between keys. A key with work has a goroutine;
// without work it costs nothing. Work that panics is logged and dropped, and the key goes on.
type queues struct {
	log zerolog.Logger
	max int // waiting per key

	mu      sync.Mutex
	byKey   map[string][]func()
	running sync.WaitGroup
	closed  bool
}

func newQueues(max int, log zerolog.Logger) *queues {
	return &queues{log: log, max: max, byKey: make(map[string][]func())}
}

// post adds work to a key's queue. It never blocks; false means that the queue is full, or closed.
func (q *queues) post(key string, f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	list, active := q.byKey[key]
	if q.closed || len(list) >= q.max {
		return false
	}
	q.byKey[key] = append(list, f)
	if !active {
		q.running.Add(1)
		go q.work(key)
	}
	return true
}

func (q *queues) work(key string) {
	defer q.running.Done()
	for {
		q.mu.Lock()
		list := q.byKey[key]
		if len(list) == 0 {
			delete(q.byKey, key)
			q.mu.Unlock()
			return
		}
		// One at a time, so that what is counted against max is all that waits.
		f := list[0]
		list[0] = nil
		q.byKey[key] = list[1:]
		q.mu.Unlock()
		q.call(f)
	}
}

func (q *queues) call(f func()) {
	defer func() {
		if r := recover(); r != nil {
			q.log.Error().Interface("panic", r).Bytes("stack", debug.Stack()).Msg("handling a stanza failed")
		}
	}()
	f()
}

// close takes no more work and waits until what there is has been done.
func (q *queues) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.running.Wait()
}
