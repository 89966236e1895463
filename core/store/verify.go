package store

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
)

// Verified is what Verify found.
type Verified struct {
	Schema   int      `json:"schema"`
	Sealed   int      `json:"sealed"`             // sealed values that open
	Problems []string `json:"problems,omitempty"` // one sentence each, for the admin; none if all is well
}

// invariants are queries for rows that there must not be.
var invariants = []struct{ what, query string }{
	{"rooms kept here that have no row of their own", `SELECT count(*) FROM hub_room h WHERE NOT EXISTS (SELECT 1 FROM room r WHERE r.room_id=h.room_id)`},
	{"rooms with users that have no row of their own", `SELECT count(*) FROM client_room c WHERE NOT EXISTS (SELECT 1 FROM room r WHERE r.room_id=c.room_id)`},
	{"rooms with users that have no numbers", `SELECT count(*) FROM client_room c WHERE NOT EXISTS (SELECT 1 FROM client_count n WHERE n.room_id=c.room_id)`},
	{"rooms kept here whose log has no end", `SELECT count(*) FROM hub_room h WHERE NOT EXISTS (SELECT 1 FROM hub_end e WHERE e.room_id=h.room_id)`},
	{"log entries of rooms that are not kept here, or beyond the end of the log", `SELECT count(*) FROM hub_log l WHERE NOT EXISTS (SELECT 1 FROM hub_end h WHERE h.room_id=l.room_id AND l.seq<=h.last_seq)`},
	{"followers that are ahead of their room's log", `SELECT count(*) FROM hub_cursor c WHERE NOT EXISTS (SELECT 1 FROM hub_end h WHERE h.room_id=c.room_id AND c.last<=h.last_seq)`},
	{"followers whose batch lies beyond what is for them", `SELECT count(*) FROM hub_cursor WHERE batch>0 AND batch>last`},
	{"open rooms without a group", `SELECT count(*) FROM hub_room WHERE status=1 AND state IS NULL`},
	{"intents of rooms without users, or beyond their number", `SELECT count(*) FROM intent i WHERE NOT EXISTS (SELECT 1 FROM client_count c WHERE c.room_id=i.room_id AND i.seq<=c.last_intent)`},
	{"messages that wait for rooms without users, or beyond their number", `SELECT count(*) FROM inbox i WHERE NOT EXISTS (SELECT 1 FROM client_count c WHERE c.room_id=i.room_id AND i.seq<=c.last_inbox)`},
	{"events of rooms without users, or beyond their number", `SELECT count(*) FROM event e WHERE NOT EXISTS (SELECT 1 FROM client_count c WHERE c.room_id=e.room_id AND e.seq<=c.last_event)`},
	{"adapters that have shown more than there was", `SELECT count(*) FROM delivery d WHERE NOT EXISTS (SELECT 1 FROM client_count c WHERE c.room_id=d.room_id AND d.done<=c.last_event)`},
	{"ratchets of rooms that nobody here is in", `SELECT count(*) FROM client_ratchet x WHERE NOT EXISTS (SELECT 1 FROM client_room c WHERE c.room_id=x.room_id)`},
	{"requests under way of rooms that nobody here is in", `SELECT count(*) FROM client_pending x WHERE NOT EXISTS (SELECT 1 FROM client_room c WHERE c.room_id=x.room_id)`},
}

// Verify reads the whole database, which may be in use, and changes nothing: the file's integrity, whether the key is the
// right one and every sealed value opens, and what must hold between tables. progress, if set, is told what is looked at next. An error says
// that it could not be done.
func Verify(ctx context.Context, o Options, progress func(string)) (*Verified, error) {
	if progress == nil {
		progress = func(string) {}
	}
	sealer, err := NewSealer(o.Key)
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, sealer: sealer}
	db, err := s.openToRead()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("store: open the database: %w", err)
	}
	defer conn.Close()
	begin := "BEGIN"
	if s.postgres() {
		begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	}
	if _, err := conn.ExecContext(ctx, begin); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	v := &Verified{}
	problem := func(format string, args ...any) { v.Problems = append(v.Problems, fmt.Sprintf(format, args...)) }

	if !s.postgres() {
		progress("the file")
		if err := intact(ctx, conn, func(what string) { problem("the file is damaged: %s", what) }); err != nil {
			return nil, err
		}
		adapters, err := AdapterFiles(o.Path)
		if err != nil {
			return nil, err
		}
		for _, a := range adapters {
			progress("the file of the adapter " + a)
			beside := &Store{o: Options{Path: AdapterFile(o.Path, a)}}
			db, err := beside.openToRead()
			if err == nil {
				err = intact(ctx, db, func(what string) { problem("the file of the adapter %s is damaged: %s", a, what) })
				db.Close()
			}
			if err != nil {
				return nil, err
			}
		}
	}
	var text, domain, check []byte
	for key, dest := range map[string]*[]byte{"schema_version": &text, "domain": &domain, "seal_check": &check} {
		if err := conn.QueryRowContext(ctx, `SELECT value FROM meta WHERE key=?`, key).Scan(dest); err != nil {
			return nil, fmt.Errorf("store: this is no database of mimibridge, or one without %s: %w", key, err)
		}
	}
	v.Schema, _ = strconv.Atoi(string(text))
	if v.Schema != SchemaVersion {
		return nil, fmt.Errorf("store: the database has schema %d, this mimibridge works with %d: upgrade first", v.Schema, SchemaVersion)
	}
	if string(domain) != o.Domain {
		problem("the database belongs to the provider %q, the configuration says %q", domain, o.Domain)
	}
	if _, err := sealer.Open("meta", "seal_check", "value", check); err != nil {
		problem("the sealing key is not the one this database was made with")
		return v, nil
	}
	for _, c := range sealedColumns {
		progress("sealed values: " + c.table + "." + c.column)
		closed := 0
		err := c.eachSealed(ctx, conn, func(key string, sealed []byte) error {
			if _, err := sealer.Open(c.table, key, c.column, sealed); err != nil {
				closed++
			} else {
				v.Sealed++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if closed > 0 {
			problem("%d values of %s.%s do not open: they were changed, moved, or sealed with another key", closed, c.table, c.column)
		}
	}
	progress("what must hold between tables")
	for _, i := range invariants {
		var n int
		if err := conn.QueryRowContext(ctx, i.query).Scan(&n); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		if n > 0 {
			problem("there are %s: %d", i.what, n)
		}
	}
	return v, nil
}

// intact has SQLite check a whole file.
func intact(ctx context.Context, db querier, problem func(string)) error {
	rows, err := db.QueryContext(ctx, "PRAGMA integrity_check(20)")
	if err != nil {
		problem(err.Error())
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if line != "ok" {
			problem(line)
		}
	}
	if err := rows.Err(); err != nil {
		problem(err.Error())
	}
	return nil
}

// Database opens a database beside the store that has it, for what looks at it from outside, such as tests. It takes the store's SQL
// (see the package comment). The caller closes it.
func Database(o Options) (*sql.DB, error) {
	s := &Store{o: o}
	if s.postgres() {
		return s.openToRead()
	}
	db, err := sql.Open("sqlite", dsn(o.Path))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return db, nil
}

// openToRead opens the database beside those who use it.
func (s *Store) openToRead() (*sql.DB, error) {
	if s.postgres() {
		c, err := parsePostgres(s.o.Postgres, "")
		if err != nil {
			return nil, err
		}
		return postgresDB(c), nil
	}
	if _, err := os.Stat(s.o.Path); err != nil { // opening would make it
		return nil, fmt.Errorf("store: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(s.o.Path, "query_only(1)"))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return db, nil
}
