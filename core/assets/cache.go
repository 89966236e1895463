package assets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/port"
)

// CacheConfig says where copies lie and how much of them there may be.
type CacheConfig struct {
	Folder string           // belongs to the cache alone: what is in it at the start is removed
	Max    int64            // octets of all copies together; 0 is DefaultCache
	Each   int64            // octets of one copy; 0 is DefaultMaxFile
	Copies int              // open files, for each copy is one; 0 is DefaultCopies
	Life   time.Duration    // for how long a copy is used; 0 is an hour
	Time   time.Duration    // for how long a download may take; 0 is 15 minutes
	Now    func() time.Time // nil is time.Now
}

// DefaultCache is the size of a cache, in octets.
const DefaultCache int64 = 1 << 30

// DefaultCopies is how many copies there are at most: of small files, an open file each is what they cost.
const DefaultCopies = 1000

// Cache keeps copies of what was downloaded. A download that is under way is shared by all that want the same: each reads
// what has arrived so far and waits for more. Safe for concurrent use.
type Cache struct {
	cfg CacheConfig

	mu      sync.Mutex
	copies  map[string]*stored
	octets  int64
	closed  bool
	ctx     context.Context
	cancel  context.CancelFunc
	filling sync.WaitGroup
}

// stored is one copy, or one that is arriving. The file has no name any more once it is in use: it is gone when the last
// reader closes it, whatever happens.
type stored struct {
	c    *Cache
	key  string
	f    *os.File
	refs int // readers, the download, and one for the map; this and the next two are guarded by Cache.mu
	size int64
	used time.Time
	made time.Time

	arriving bool // guarded by Cache.mu, too
	cancel   context.CancelFunc

	mu      sync.Mutex
	meta    *port.Asset // size and type, nil before the download has begun
	arrived int64
	done    bool
	err     error
	more    chan struct{} // closed and made anew at each change
}

// OpenCache makes an empty cache.
func OpenCache(cfg CacheConfig) (*Cache, error) {
	if cfg.Max <= 0 {
		cfg.Max = DefaultCache
	}
	if cfg.Each <= 0 {
		cfg.Each = DefaultMaxFile
	}
	if cfg.Copies <= 0 {
		cfg.Copies = DefaultCopies
	}
	if cfg.Life <= 0 {
		cfg.Life = time.Hour
	}
	if cfg.Time <= 0 {
		cfg.Time = 15 * time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.RemoveAll(cfg.Folder); err != nil {
		return nil, fmt.Errorf("assets: cache: %w", err)
	}
	if err := os.MkdirAll(cfg.Folder, 0o700); err != nil {
		return nil, fmt.Errorf("assets: cache: %w", err)
	}
	c := &Cache{cfg: cfg, copies: map[string]*stored{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends the downloads under way and gives all space back. Readers that are still open keep their copy.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	for _, s := range c.copies {
		c.drop(s)
	}
	c.mu.Unlock()
	c.cancel()
	c.filling.Wait()
	os.Remove(c.cfg.Folder)
}

// Copy is an open copy. It is read once from its beginning by Read, or as a whole after Wait.
type Copy struct {
	s    *stored
	ctx  context.Context
	off  int64
	once sync.Once
}

// Get opens the copy of key, or has fetch get it. It returns when size and type are known, or fetch has failed. fetch is
// called on a goroutine with a context of its own: the download goes on if ctx ends while others want it, too. The
// caller closes the Body, which is a *Copy and reads until ctx ends.
func (c *Cache) Get(ctx context.Context, key string, fetch func(context.Context) (*port.Asset, error)) (*port.Asset, error) {
	s, err := c.open(key, fetch)
	if err != nil {
		return nil, err
	}
	cp := &Copy{s: s, ctx: ctx}
	for {
		s.mu.Lock()
		meta, more, err := s.meta, s.more, s.err
		s.mu.Unlock()
		switch {
		case meta != nil && err == nil:
			return &port.Asset{Body: cp, Size: meta.Size, Type: meta.Type, Expires: meta.Expires}, nil
		case err != nil:
			cp.Close()
			return nil, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			cp.Close()
			return nil, ctx.Err()
		}
	}
}

func (c *Cache) open(key string, fetch func(context.Context) (*port.Asset, error)) (*stored, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fault.New(fault.Unavailable, "this server is stopping")
	}
	now := c.cfg.Now()
	for _, s := range c.copies {
		if now.Sub(s.made) >= c.cfg.Life {
			c.drop(s)
		}
	}
	if s := c.copies[key]; s != nil {
		s.used = now
		s.refs++
		return s, nil
	}
	if len(c.copies) >= c.cfg.Copies && !c.dropOldest(nil) {
		return nil, errBusy()
	}
	f, err := os.CreateTemp(c.cfg.Folder, "*")
	if err != nil {
		return nil, fmt.Errorf("assets: cache: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("assets: cache: %w", err)
	}
	s := &stored{c: c, key: key, f: f, refs: 3, used: now, made: now, arriving: true, more: make(chan struct{})} // the map, the download, the caller
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.Time)
	s.cancel = cancel
	c.copies[key] = s
	c.filling.Add(1)
	go c.fill(ctx, s, fetch)
	return s, nil
}

// drop takes a copy out of the map. The caller holds mu.
func (c *Cache) drop(s *stored) {
	if c.copies[s.key] == s {
		delete(c.copies, s.key)
		c.release(s)
	}
}

// release gives a reference back. The caller holds mu.
func (c *Cache) release(s *stored) {
	if s.refs--; s.refs == 0 {
		s.f.Close()
		c.octets -= s.size
	}
}

func (s *stored) change(fn func()) {
	s.mu.Lock()
	fn()
	close(s.more)
	s.more = make(chan struct{})
	s.mu.Unlock()
}

// leave gives a reader's reference back, and ends a download that nobody waits for any more. The caller holds mu.
func (c *Cache) leave(s *stored) {
	others := 1 // the download
	if c.copies[s.key] == s {
		others++
	}
	if c.release(s); s.arriving && s.refs == others {
		c.drop(s)
		s.cancel()
	}
}

func (c *Cache) fill(ctx context.Context, s *stored, fetch func(context.Context) (*port.Asset, error)) {
	defer c.filling.Done()
	defer s.cancel()
	err := c.download(ctx, s, fetch)
	c.mu.Lock()
	s.arriving = false
	if err != nil {
		c.drop(s) // the next one tries again
	}
	c.release(s)
	c.mu.Unlock()
	s.change(func() { s.done, s.err = true, err })
}

func (c *Cache) download(ctx context.Context, s *stored, fetch func(context.Context) (*port.Asset, error)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("assets: panic while downloading: %v", p)
		}
	}()
	a, err := fetch(ctx)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.Size > c.cfg.Each {
		return errTooLarge(c.cfg.Each)
	}
	s.change(func() { s.meta = &port.Asset{Size: a.Size, Type: a.Type, Expires: a.Expires} })
	buf := make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := a.Body.Read(buf)
		if n > 0 {
			if at+int64(n) > c.cfg.Each {
				return errTooLarge(c.cfg.Each)
			}
			if err := c.grow(s, int64(n)); err != nil {
				return err
			}
			if _, err := s.f.WriteAt(buf[:n], at); err != nil {
				return fmt.Errorf("assets: cache: %w", err)
			}
			at += int64(n)
			s.change(func() { s.arrived = at })
		}
		switch {
		case errors.Is(err, io.EOF):
			if a.Size >= 0 && at != a.Size {
				return fault.Wrap(fault.Unavailable, "the file did not arrive whole", errors.New("assets: download: it is shorter than announced"))
			}
			s.change(func() { s.meta = &port.Asset{Size: at, Type: a.Type, Expires: a.Expires} })
			return nil
		case err != nil:
			return fault.Wrap(fault.Unavailable, "the file did not arrive whole", fmt.Errorf("assets: download: %w", err))
		}
	}
}

func errTooLarge(max int64) error {
	return fault.Newf(fault.TooLarge, "the file is larger than %s", size(max))
}

// grow makes space for n octets more, by dropping the copies that were used longest ago.
func (c *Cache) grow(s *stored, n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.octets+n > c.cfg.Max {
		if !c.dropOldest(s) {
			return errBusy()
		}
	}
	c.octets += n
	s.size += n
	return nil
}

// dropOldest drops the copy but one that was used longest ago; false if there is none that can be. The caller holds mu.
func (c *Cache) dropOldest(but *stored) bool {
	var oldest *stored
	for _, o := range c.copies {
		// What a copy takes that somebody reads, or that is arriving, is not free after a drop.
		if o != but && o.refs == 1 && (oldest == nil || o.used.Before(oldest.used)) {
			oldest = o
		}
	}
	if oldest == nil {
		return false
	}
	c.drop(oldest)
	return true
}

func errBusy() error {
	return &fault.Error{Kind: fault.Limited, Message: "too many downloads at the same time", RetryAfter: time.Minute}
}

// Read waits for octets that have not arrived yet.
func (r *Copy) Read(p []byte) (int, error) {
	for {
		s := r.s
		s.mu.Lock()
		arrived, done, err, more := s.arrived, s.done, s.err, s.more
		s.mu.Unlock()
		if r.off < arrived {
			n, err := s.f.ReadAt(p[:min(int64(len(p)), arrived-r.off)], r.off)
			r.off += int64(n)
			if n > 0 {
				err = nil
			}
			return n, err
		}
		switch {
		case err != nil:
			return 0, err
		case done:
			return 0, io.EOF
		}
		select {
		case <-more:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

// Wait blocks until all has arrived and gives it as something that can be read again, valid until Close.
func (r *Copy) Wait() (io.ReadSeeker, error) {
	for {
		r.s.mu.Lock()
		arrived, done, err, more := r.s.arrived, r.s.done, r.s.err, r.s.more
		r.s.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case done:
			return io.NewSectionReader(r.s.f, 0, arrived), nil
		}
		select {
		case <-more:
		case <-r.ctx.Done():
			return nil, r.ctx.Err()
		}
	}
}

// Close gives the copy back. Safe to call again.
func (r *Copy) Close() error {
	r.once.Do(func() {
		r.s.c.mu.Lock()
		defer r.s.c.mu.Unlock()
		r.s.c.leave(r.s)
	})
	return nil
}
