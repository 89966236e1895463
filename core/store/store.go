package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite", pure Go

	"github.com/mimibridge/mimibridge/core/fault"
)

// Options says where the database is and how it is sealed.
type Options struct {
	Path string // the SQLite file; made with mode 0600 if absent, as are its WAL and lock files
	// Postgres, if not empty, is a connection string of PostgreSQL (a URL, or key=value pairs), and Path is not used.
	Postgres string
	Key      []byte // the sealing key, KeySize octets
	// NextKey, if not nil, is the key that takes the place of Key: both open, and this one seals. See Reseal.
	NextKey []byte
	Domain  string // the provider domain; a database belongs to one
	// Restored says that the database is a copy from earlier, which Open mostly finds out by itself: by the number of commits,
	// which stands in the lock file, too; on PostgreSQL by the server's identity and timeline and the database's number.
	// Group states in it must not be used any more, since their keys may have been.
	Restored bool
	// Node is a name for this node among those that share a PostgreSQL database. One that is started again under its name
	// ends its former life, and need not wait for that to lapse. It may be empty.
	Node string
	// Lease overrides NodeLease, for tests.
	Lease time.Duration
	// Checkpoint is how often SQLite's write-ahead log is emptied into the database, if anything was written: until then it
	// holds what was overwritten or deleted, keys that were used among it. 0 is a minute. Close does it, too.
	Checkpoint time.Duration
	// Trace, if not nil, is called with each statement before it runs: for tests that count work. It may be called concurrently.
	Trace func(query string)
}

// Store is an open database. Safe for concurrent use.
type Store struct {
	o      Options
	sealer *Sealer
	read   *sql.DB
	write  *sql.DB
	life   *sql.DB // for Beat alone, which must not wait; nil on SQLite
	conn   *sql.Conn
	lock   *os.File // nil on PostgreSQL
	nodeID string
	incarn []byte
	node   nodeState

	commits  uint64 // transactions so far
	restored bool
	schema   int  // the version that was found
	dry      bool // for Upgrade: undo it
	exists   bool // it must be a database of mimibridge already

	work chan *job
	quit chan struct{}
	done chan struct{}
	once sync.Once

	readers readers
}

type job struct {
	fn  func(*Tx) error
	err error
	ok  chan struct{}
}

// Tx is a transaction. It is valid only inside the closure it was given to, on that goroutine.
type Tx struct {
	s     *Store
	ctx   context.Context // for the driver; of a View on SQLite it never ends, see live
	live  context.Context // nil, or what ends a View
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // nil: statements are not kept prepared
	busy  map[string]bool      // of stmts, those whose rows are being read

	locked map[string]bool // rooms whose rows this closure has locked
	alone  bool            // not the writer's, see updateAlone
}

// ErrClosed is returned once Close was called.
var ErrClosed = fault.New(fault.Unavailable, "the store is closed")

// MaxBatch is how many closures share one transaction at most.
const MaxBatch = 256

func dsn(path string, query ...string) string {
	v := url.Values{"_pragma": append([]string{"busy_timeout(10000)", "foreign_keys(1)"}, query...)}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + v.Encode()
}

// Open opens the database, makes or upgrades its schema, and refuses if another process has it open.
func Open(ctx context.Context, o Options) (*Store, error) {
	sealer, err := newSealer(o.Key, o.NextKey)
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, sealer: sealer, node: newNodeState(), work: make(chan *job, MaxBatch), quit: make(chan struct{}), done: make(chan struct{})}
	if s.postgres() {
		err = s.openPostgres(ctx)
	} else {
		err = s.openSQLite(ctx)
	}
	if err != nil {
		s.closeFiles()
		return nil, err
	}
	go s.writer()
	return s, nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("store: another mimibridge has %s open; stop it first: %w", filepath.Base(path[:len(path)-len(".lock")]), err)
	}
	return f, nil
}

func (s *Store) postgres() bool { return s.o.Postgres != "" }

func (s *Store) openSQLite(ctx context.Context) (err error) {
	if s.lock, err = lockFile(s.o.Path + ".lock"); err != nil {
		return err
	}
	return s.openFile(ctx)
}

func (s *Store) openFile(ctx context.Context) error {
	o := &s.o
	f, err := os.OpenFile(o.Path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	f.Close()
	s.write, err = sql.Open("sqlite", dsn(o.Path, "auto_vacuum(incremental)", "journal_mode(WAL)", "synchronous(FULL)", "secure_delete(ON)", "wal_autocheckpoint(4000)"))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	s.restored = o.Restored
	if s.conn, err = s.write.Conn(ctx); err != nil {
		return fmt.Errorf("store: open %s: %w", o.Path, err)
	}
	if err := s.shrinkable(ctx); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := s.migrate(ctx, o.Domain); err != nil {
		return err
	}
	// What a savepoint might have to go back to; on disk it would be a file that is made anew, and 64 kB, for each.
	if _, err := s.conn.ExecContext(ctx, "PRAGMA temp_store=MEMORY"); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.read, err = sql.Open("sqlite", dsn(o.Path, "query_only(1)"))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.read.SetMaxOpenConns(maxReaders)
	s.readers.places = make(chan struct{}, maxReaders)
	return nil
}

func (s *Store) openPostgres(ctx context.Context) error {
	c, err := parsePostgres(s.o.Postgres, "")
	if err != nil {
		return err
	}
	s.write, s.read, s.life = postgresDB(c), postgresDB(c), postgresDB(c)
	s.write.SetMaxOpenConns(1)
	s.life.SetMaxOpenConns(1)
	s.read.SetMaxOpenConns(maxReaders)
	s.read.SetMaxIdleConns(maxReaders)
	s.restored = s.o.Restored
	if s.conn, err = s.write.Conn(ctx); err != nil {
		return fmt.Errorf("store: open the PostgreSQL database: %w", err)
	}
	return s.migrate(ctx, s.o.Domain)
}

// AdapterDB is the function of that name for this store's database.
func (s *Store) AdapterDB(ctx context.Context, name string) (*sql.DB, error) {
	return AdapterDB(ctx, s.o, name)
}

// AdapterDB opens a database of its own for an adapter: a SQLite file beside the provider's, or a PostgreSQL schema. It takes
// the same SQL as the store (see the package comment). The caller closes it.
func AdapterDB(ctx context.Context, o Options, name string) (*sql.DB, error) {
	if !adapterName.MatchString(name) {
		return nil, fmt.Errorf("store: %q is no name for an adapter's database", name)
	}
	if o.Postgres != "" {
		return postgresSchema(ctx, o.Postgres, "adapter_"+name)
	}
	file := AdapterFile(o.Path, name)
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	f.Close()
	db, err := openCached(dsn(file, "journal_mode(WAL)", "synchronous(FULL)") + "&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	db.SetMaxIdleConns(16) // to open one takes as long as dozens of statements
	if err := db.PingContext(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("store: open %s: %w", file, err)
	}
	return db, nil
}

// AdapterFile is where an adapter's database lies if the provider's is the SQLite file at path.
func AdapterFile(path, name string) string {
	return strings.TrimSuffix(path, filepath.Ext(path)) + "-" + name + ".db"
}

func (s *Store) migrate(ctx context.Context, domain string) (err error) {
	tx, err := s.conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer tx.Rollback()
	version := 0
	var n int
	there := `SELECT count(*) FROM sqlite_master WHERE name='meta'`
	if s.postgres() {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, schemaLock)); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		there = `SELECT count(*) FROM pg_tables WHERE schemaname=current_schema() AND tablename='meta'`
	}
	if err := tx.QueryRowContext(ctx, there).Scan(&n); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	get := func(key string) (string, error) {
		var v []byte
		err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key=?`, key).Scan(&v)
		if errors.Is(err, sql.ErrNoRows) {
			return "", nil
		}
		return string(v), err
	}
	set := func(key, value string) {
		if err == nil {
			_, err = tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value=excluded.value`, key, []byte(value))
		}
	}
	if n > 0 {
		v, err := get("schema_version")
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		version, _ = strconv.Atoi(v)
		oldest, err := get("oldest_reader")
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if n, _ := strconv.Atoi(oldest); n > SchemaVersion {
			return fmt.Errorf("store: the database has schema %s, which needs a mimibridge that knows schema %s; this one knows %d: install the newer version again or restore a backup from before the upgrade", v, oldest, SchemaVersion)
		}
		was, err := get("domain")
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if was != domain {
			return fmt.Errorf("store: the database belongs to the provider %q, the configuration says %q", was, domain)
		}
	}
	s.schema = version
	if s.exists {
		if n == 0 {
			return errors.New("store: this is no database of mimibridge")
		}
		if s.postgres() {
			if err := s.nobodyElse(ctx, tx); err != nil {
				return err
			}
		}
	}
	for ; version < len(upgrades); version++ {
		if _, err := tx.ExecContext(ctx, upgrades[version]); err != nil {
			return fmt.Errorf("store: upgrade to schema %d: %w", version+1, err)
		}
		set("schema_version", strconv.Itoa(version+1))
		set("oldest_reader", strconv.Itoa(OldestReader))
	}
	if n == 0 {
		set("domain", domain)
		set("incarnation", string(randomBytes(16)))
		set("node", hex.EncodeToString(randomBytes(8)))
		set("seal_check", string(s.sealer.Seal("meta", "seal_check", "value", []byte("mimibridge"))))
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	check, err := get("seal_check")
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if _, err := s.sealer.Open("meta", "seal_check", "value", []byte(check)); err != nil {
		return fmt.Errorf("%w; the key file must be the one this database was made with", err)
	}
	if s.nodeID, err = get("node"); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	inc, err := get("incarnation")
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.incarn = []byte(inc)
	if s.postgres() {
		s.nodeID = s.o.Node + "~" + hex.EncodeToString(randomBytes(8))
	}
	if err := s.compare(ctx, tx, n == 0); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if s.dry {
		return errDry
	}
	if s.postgres() {
		if err := s.join(ctx, tx); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// eventGap is left in each room's numbers of events when a copy from earlier is opened: those after the copy are used.
const eventGap = 1 << 20

// compare holds the number of commits in the database against that beside it. If the database is behind, it is a copy from
// earlier: it becomes another incarnation, and its group states are lost on purpose.
func (s *Store) compare(ctx context.Context, tx *sql.Tx, fresh bool) error {
	if s.postgres() {
		return s.comparePlace(ctx, tx, fresh)
	}
	var b []byte
	switch err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key='commits'`).Scan(&b); {
	case errors.Is(err, sql.ErrNoRows):
		if _, err := tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES ('commits', ?)`, make([]byte, 8)); err != nil {
			return err
		}
	case err != nil:
		return err
	case len(b) == 8:
		s.commits = binary.BigEndian.Uint64(b)
	}
	var beside [8]byte
	if n, _ := s.lock.ReadAt(beside[:], 0); n == 8 && !fresh {
		if was := binary.BigEndian.Uint64(beside[:]); was > s.commits {
			s.commits, s.restored = was, true
		}
	}
	if !s.restored || fresh {
		s.restored = false
		return nil
	}
	binary.BigEndian.PutUint64(beside[:], s.commits)
	if _, err := tx.ExecContext(ctx, `UPDATE meta SET value=? WHERE key='commits'`, beside[:]); err != nil {
		return err
	}
	return s.reincarnate(ctx, tx)
}

// comparePlace is compare on PostgreSQL, where several nodes commit.
func (s *Store) comparePlace(ctx context.Context, tx *sql.Tx, fresh bool) error {
	now, err := place(ctx, tx)
	if err != nil {
		return err
	}
	var was []byte
	if err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key='place'`).Scan(&was); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES ('place', ?) ON CONFLICT (key) DO UPDATE SET value=excluded.value`, []byte(now)); err != nil {
		return err
	}
	s.restored = !fresh && (s.restored || string(was) != now)
	if !s.restored {
		return nil
	}
	return s.reincarnate(ctx, tx)
}

// reincarnate makes the database another incarnation: what is known of the groups cannot be used again.
func (s *Store) reincarnate(ctx context.Context, tx *sql.Tx) error {
	s.incarn = randomBytes(16)
	for _, q := range []struct {
		query string
		args  []any
	}{
		{`UPDATE meta SET value=? WHERE key='incarnation'`, []any{s.incarn}},
		{`UPDATE room SET incarnation=?, fence=fence+1`, []any{s.incarn}},
		{`UPDATE client_room SET state=NULL`, nil},
		{`UPDATE client_count SET last_event=last_event+?`, []any{eventGap}},
		{`DELETE FROM client_ratchet`, nil},
		{`DELETE FROM client_pending`, nil},
		{`UPDATE intent SET status=0 WHERE status=1 AND request IS NULL`, nil},
	} {
		if _, err := tx.ExecContext(ctx, q.query, q.args...); err != nil {
			return err
		}
	}
	return nil
}

// Restored reports whether the database turned out to be a copy from earlier when it was opened.
func (s *Store) Restored() bool { return s.restored }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Close waits for what was handed to Update, then closes the files. Safe to call again.
func (s *Store) Close() error {
	s.once.Do(func() { close(s.quit) })
	<-s.done
	return nil
}

func (s *Store) closeFiles() {
	if s.conn != nil {
		if s.postgres() {
			s.part(context.Background())
		} else {
			// All of it into the one file, for those who copy it while nothing runs.
			s.conn.ExecContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)")
		}
		s.conn.Close()
	}
	s.readers.close()
	for _, db := range []*sql.DB{s.life, s.read, s.write} {
		if db != nil {
			db.Close()
		}
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

// Update runs fn in a transaction and returns nil once what it wrote is on disk. If fn returns an error or
// panics, what it wrote is undone and the error returned. fn must not block on anything but its Tx: every
// other writer waits. A cancelled ctx ends the wait only before fn was taken up.
//
// On a database shared by nodes, fn may be run a second time if it adds to a room that another node keeps.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	err := s.update(ctx, fn)
	if errors.Is(err, errElsewhere) {
		return s.updateAlone(ctx, fn)
	}
	return err
}

func (s *Store) update(ctx context.Context, fn func(*Tx) error) error {
	j := &job{fn: fn, ok: make(chan struct{})}
	select {
	case <-s.quit:
		return ErrClosed
	default:
	}
	select {
	case s.work <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return ErrClosed
	}
	select {
	case <-j.ok:
		return j.err
	case <-s.done:
		select { // it may have been the last one to be taken
		case <-j.ok:
			return j.err
		default:
			return ErrClosed
		}
	}
}

func (s *Store) writer() {
	tx := &Tx{s: s, ctx: context.Background(), conn: s.conn, stmts: map[string]*sql.Stmt{}, busy: map[string]bool{}}
	defer func() {
		for _, st := range tx.stmts {
			st.Close() // an open one would keep the file open
		}
		s.closeFiles()
		close(s.done)
	}()
	var tick <-chan time.Time
	if !s.postgres() {
		every := s.o.Checkpoint
		if every <= 0 {
			every = time.Minute
		}
		t := time.NewTicker(every)
		defer t.Stop()
		tick = t.C
	}
	emptied := ^uint64(0) // of a log that a crash left, nothing is known
	batch := make([]*job, 0, MaxBatch)
	for {
		batch = batch[:0]
		select {
		case j := <-s.work:
			batch = append(batch, j)
		case <-tick:
			if s.shrink() {
				emptied = ^s.commits
			}
			if s.commits != emptied && s.emptyLog() {
				emptied = s.commits
			}
			continue
		case <-s.quit:
			for { // what was taken in before the end is still done
				select {
				case j := <-s.work:
					batch = append(batch, j)
				default:
					s.run(tx, batch)
					return
				}
			}
		}
	fill:
		for len(batch) < MaxBatch {
			select {
			case j := <-s.work:
				batch = append(batch, j)
			default:
				break fill
			}
		}
		s.run(tx, batch)
	}
}

// shrinkable makes a database of the first version, whose file could only grow, one that gives space back. This
// writes all of it anew, once.
func (s *Store) shrinkable(ctx context.Context) error {
	var mode, pages int
	if err := s.conn.QueryRowContext(ctx, "PRAGMA auto_vacuum").Scan(&mode); err != nil || mode != 0 {
		return err
	}
	if err := s.conn.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil || pages == 0 {
		return err
	}
	if _, err := s.conn.ExecContext(ctx, "PRAGMA auto_vacuum=incremental"); err != nil {
		return err
	}
	_, err := s.conn.ExecContext(ctx, "VACUUM")
	return err
}

// Pages that deleted rows leave are used again; beyond minFree they are given back, not for longer than shrinkTime at once:
// writers wait.
const (
	minFree    = 256
	shrinkTime = 200 * time.Millisecond
)

func (s *Store) shrink() (some bool) {
	ctx := context.Background()
	for end := time.Now().Add(shrinkTime); time.Now().Before(end); {
		var free int
		if s.conn.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free) != nil || free <= minFree {
			return some
		}
		rows, err := s.conn.QueryContext(ctx, "PRAGMA incremental_vacuum(256)")
		if err != nil {
			return some
		}
		for rows.Next() { // each step moves a page
		}
		if rows.Close() != nil || rows.Err() != nil {
			return some
		}
		some = true
	}
	return some
}

// emptyLog writes SQLite's write-ahead log into the database and makes it empty. It does not wait long for readers, behind
// whom it cannot go: then it is false, and there is a next time.
func (s *Store) emptyLog() bool {
	ctx := context.Background()
	s.conn.ExecContext(ctx, "PRAGMA busy_timeout=100")
	defer s.conn.ExecContext(ctx, "PRAGMA busy_timeout=10000")
	var busy, frames, done int
	err := s.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &done)
	return err == nil && busy == 0
}

func (s *Store) run(tx *Tx, batch []*job) {
	if len(batch) == 0 {
		return
	}
	err := tx.begin()
	switch {
	case err != nil:
	case len(batch) == 1: // it has the transaction for itself, and needs no savepoint
		j := batch[0]
		if j.err = tx.call(j.fn); j.err == nil {
			err = tx.commit()
		}
		if err != nil || j.err != nil {
			if e := tx.exec0("ROLLBACK"); e != nil {
				j.err = errors.Join(j.err, e)
			}
		}
	default:
		for _, j := range batch {
			j.err = tx.attempt(j.fn)
		}
		if err = tx.commit(); err != nil {
			tx.exec0("ROLLBACK")
		}
	}
	for _, j := range batch {
		if err != nil {
			j.err = fmt.Errorf("store: commit: %w", err)
		}
		close(j.ok)
	}
}

func (tx *Tx) begin() error {
	if !tx.s.postgres() {
		return tx.exec0("BEGIN IMMEDIATE")
	}
	if tx.exec0("BEGIN") == nil {
		return nil
	}
	// The connection may be gone: the server was restarted. What was under way then has failed.
	clear(tx.stmts)
	tx.conn.Raw(func(any) error { return driver.ErrBadConn })
	tx.conn.Close()
	conn, err := tx.s.write.Conn(tx.ctx)
	if err != nil {
		return err
	}
	tx.conn, tx.s.conn = conn, conn
	return tx.exec0("BEGIN")
}

func (tx *Tx) commit() error {
	if tx.s.postgres() {
		return tx.exec0("COMMIT")
	}
	s := tx.s
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], s.commits+1)
	if err := tx.do(`UPDATE meta SET value=? WHERE key='commits'`, n[:]); err != nil {
		return err
	}
	if err := tx.exec0("COMMIT"); err != nil {
		return err
	}
	s.commits++
	s.lock.WriteAt(n[:], 0) // after the commit: it must never be ahead of what is on disk
	return nil
}

// exec0 runs what begins and ends transactions. On PostgreSQL it is not prepared: the driver looks at its text.
func (tx *Tx) exec0(q string) error {
	if tx.stmts == nil || tx.s.postgres() {
		_, err := tx.conn.ExecContext(tx.ctx, q)
		return err
	}
	st, err := tx.stmt(q)
	if err == nil {
		_, err = st.ExecContext(tx.ctx)
	}
	return err
}

func (tx *Tx) attempt(fn func(*Tx) error) (err error) {
	if err := tx.exec0("SAVEPOINT one"); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err = tx.call(fn); err == nil {
		if err = tx.exec0("RELEASE one"); err == nil {
			return nil
		}
		err = fmt.Errorf("store: %w", err) // fn has passed over a statement that failed
	}
	if e := tx.exec0("ROLLBACK TO one"); e != nil {
		err = errors.Join(err, e)
	}
	if e := tx.exec0("RELEASE one"); e != nil {
		err = errors.Join(err, e)
	}
	return err
}

// call runs fn; a panic becomes an error.
func (tx *Tx) call(fn func(*Tx) error) (err error) {
	tx.locked = nil
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store: panic in a transaction: %v", p)
		}
	}()
	return fn(tx)
}

// View runs fn in a read transaction: it sees one state of the database, which may be older than what an Update
// under way is writing, never older than one that has returned.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	select {
	case <-s.quit:
		return ErrClosed
	default:
	}
	if !s.postgres() {
		return s.viewFile(ctx, fn)
	}
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer conn.Close()
	tx := &Tx{s: s, ctx: ctx, conn: conn}
	// Also after a BEGIN that ctx interrupted: it may have begun, and the connection goes back to the pool.
	defer conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	if err := tx.exec0("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return fn(tx)
}

// Incarnation names this life of the database; a restored copy gets a new one.
func (s *Store) Incarnation() []byte { return s.incarn }

// NodeID names this node among those that share the database.
func (s *Store) NodeID() string { return s.nodeID }

// maxStmts is how many statements a connection keeps prepared. There are a few hundred texts, but for those made for a number of
// arguments.
const maxStmts = 1000

// stmt gives a prepared statement of the connection. SQLite makes a statement anew each time if a bare "LIMIT ?" is in it, since it plans
// by that number: hence "LIMIT 0+?" everywhere.
func (tx *Tx) stmt(q string) (*sql.Stmt, error) {
	if st, ok := tx.stmts[q]; ok {
		return st, nil
	}
	if len(tx.stmts) >= maxStmts {
		for old, st := range tx.stmts {
			if !tx.busy[old] {
				st.Close()
				delete(tx.stmts, old)
				break
			}
		}
	}
	st, err := tx.conn.PrepareContext(tx.ctx, q)
	if err != nil {
		return nil, err
	}
	tx.stmts[q] = st
	return st, nil
}

// query runs a query; done is to be called when its rows were read. One that is being read already, further up, is prepared once more.
func (tx *Tx) query(q string, args []any) (rows *sql.Rows, done func(), err error) {
	if tx.stmts == nil || tx.busy[q] {
		rows, err = tx.conn.QueryContext(tx.ctx, q, args...)
		return rows, func() {}, err
	}
	st, err := tx.stmt(q)
	if err != nil {
		return nil, nil, err
	}
	if rows, err = st.QueryContext(tx.ctx, args...); err != nil {
		return nil, nil, err
	}
	tx.busy[q] = true
	return rows, func() { delete(tx.busy, q) }, nil
}

// before is what every statement begins with.
func (tx *Tx) before(q string, args []any) error {
	if tx.live != nil && tx.live.Err() != nil {
		return fmt.Errorf("store: %w", tx.live.Err())
	}
	if tx.s.o.Trace != nil {
		tx.s.o.Trace(q)
	}
	return tx.fence(q, args)
}

func (tx *Tx) exec(q string, args ...any) (int64, error) {
	if err := tx.before(q, args); err != nil {
		return 0, err
	}
	var r sql.Result
	var err error
	if tx.stmts == nil {
		r, err = tx.conn.ExecContext(tx.ctx, q, args...)
	} else {
		var st *sql.Stmt
		if st, err = tx.stmt(q); err == nil {
			r, err = st.ExecContext(tx.ctx, args...)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	n, err := r.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	return n, nil
}

func (tx *Tx) do(q string, args ...any) error {
	_, err := tx.exec(q, args...)
	return err
}

// one scans the only row of a query; found is false if there is none.
func (tx *Tx) one(dest []any, q string, args ...any) (found bool, err error) {
	if err := tx.before(q, args); err != nil {
		return false, err
	}
	var row *sql.Row
	if tx.stmts == nil || tx.busy[q] {
		row = tx.conn.QueryRowContext(tx.ctx, q, args...)
	} else {
		st, err := tx.stmt(q)
		if err != nil {
			return false, fmt.Errorf("store: %w", err)
		}
		row = st.QueryRowContext(tx.ctx, args...)
	}
	switch err := row.Scan(dest...); {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("store: %w", err)
	}
	return true, nil
}

// each calls fn for every row; fn scans it.
func (tx *Tx) each(fn func(scan func(...any) error) error, q string, args ...any) error {
	if err := tx.before(q, args); err != nil {
		return err
	}
	rows, done, err := tx.query(q, args)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer done()
	defer rows.Close()
	for rows.Next() {
		if tx.live != nil && tx.live.Err() != nil {
			return fmt.Errorf("store: %w", tx.live.Err())
		}
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// texts reads the one column of a query.
func (tx *Tx) texts(q string, args ...any) (list []string, err error) {
	err = tx.each(func(scan func(...any) error) error {
		var s string
		if err := scan(&s); err != nil {
			return err
		}
		list = append(list, s)
		return nil
	}, q, args...)
	return list, err
}

// EnsureRoom makes the room's row if it is not there: this node owns it from then on.
func (tx *Tx) EnsureRoom(room string, now int64) error {
	return tx.do(`INSERT INTO room (room_id, owner, incarnation, created) VALUES (?, ?, ?, ?) ON CONFLICT (room_id) DO NOTHING`,
		room, tx.s.nodeID, tx.s.incarn, now)
}

// Rooms lists every room there is a row for.
func (tx *Tx) Rooms() (rooms []string, err error) {
	return tx.texts(`SELECT room_id FROM room ORDER BY room_id`)
}
