package store

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
)

// maxReaders is how many transactions read at a time.
const maxReaders = 8

// readers are SQLite's connections for reading. Each keeps its statements prepared: to prepare one takes several times as long as to run it.
// The one used last is used next, so that there are no more of them than are needed at once.
type readers struct {
	places chan struct{} // one for each View under way
	mu     sync.Mutex
	idle   []*Tx
	closed bool
}

// viewFile is View on SQLite. Its statements run without the end of ctx, which would cost a goroutine each: ctx is looked at between
// them, and between rows.
func (s *Store) viewFile(ctx context.Context, fn func(*Tx) error) error {
	r := &s.readers
	select {
	case r.places <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("store: %w", ctx.Err())
	}
	defer func() { <-r.places }()
	tx, err := s.reader(ctx)
	if err != nil {
		return err
	}
	tx.live = ctx
	defer func() { r.put(tx, tx.exec0("ROLLBACK")) }()
	if err := tx.exec0("BEGIN"); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return fn(tx)
}

func (s *Store) reader(ctx context.Context) (*Tx, error) {
	r := &s.readers
	r.mu.Lock()
	if n := len(r.idle); n > 0 {
		tx := r.idle[n-1]
		r.idle = r.idle[:n-1]
		r.mu.Unlock()
		return tx, nil
	}
	r.mu.Unlock()
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &Tx{s: s, ctx: context.Background(), conn: conn, stmts: map[string]*sql.Stmt{}, busy: map[string]bool{}}, nil
}

// put takes a connection back; failed says that it is not out of its transaction, and then it is used no more.
func (r *readers) put(tx *Tx, failed error) {
	tx.live = nil
	clear(tx.busy)
	r.mu.Lock()
	defer r.mu.Unlock()
	if failed == nil && !r.closed {
		r.idle = append(r.idle, tx)
		return
	}
	tx.closeReader()
}

func (tx *Tx) closeReader() {
	for _, st := range tx.stmts {
		st.Close() // an open one would keep the file open
	}
	tx.conn.Close()
}

// close closes what is idle now, and what is put back later.
func (r *readers) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, tx := range r.idle {
		tx.closeReader()
	}
	r.idle = nil
}
