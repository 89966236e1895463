package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strings"
)

// openCached opens a SQLite database whose connections keep their statements prepared, also those that are given as text each
// time: to prepare one takes several times as long as to run it.
func openCached(dsn string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn) // only for its driver; it opens nothing
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return sql.OpenDB(cachedConnector{db.Driver(), dsn}), nil
}

type cachedConnector struct {
	driver driver.Driver
	dsn    string
}

func (c cachedConnector) Driver() driver.Driver { return c.driver }

func (c cachedConnector) Connect(context.Context) (driver.Conn, error) {
	conn, err := c.driver.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	return &cachedConn{sqliteConn: conn.(sqliteConn), stmts: map[string]*cachedStmt{}}, nil
}

// sqliteConn is what the driver's connections can do.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type cachedConn struct {
	sqliteConn
	stmts map[string]*cachedStmt
}

type cachedStmt struct {
	driver.Stmt
	busy bool // its rows are being read
}

// keeps reports whether a statement is worth being kept: not what is run once, as a schema is.
func keeps(q string) bool {
	if len(q) > 4096 {
		return false
	}
	word, _, _ := strings.Cut(strings.TrimLeft(q, " \t\n"), " ")
	switch strings.ToUpper(word) {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "SAVEPOINT", "RELEASE", "ROLLBACK", "WITH":
		return true
	}
	return false
}

// stmt gives the prepared statement, nil if there is none that could be used now.
func (c *cachedConn) stmt(ctx context.Context, q string) (*cachedStmt, error) {
	if st := c.stmts[q]; st != nil {
		if st.busy {
			return nil, nil
		}
		return st, nil
	}
	if !keeps(q) {
		return nil, nil
	}
	if len(c.stmts) >= maxStmts {
		for old, st := range c.stmts {
			if !st.busy {
				st.Close()
				delete(c.stmts, old)
				break
			}
		}
	}
	s, err := c.PrepareContext(ctx, q)
	if err != nil {
		return nil, err
	}
	st := &cachedStmt{Stmt: s}
	c.stmts[q] = st
	return st, nil
}

func (c *cachedConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	st, err := c.stmt(ctx, q)
	if err != nil {
		return nil, err
	}
	if st == nil {
		return c.sqliteConn.ExecContext(ctx, q, args)
	}
	return st.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (c *cachedConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	st, err := c.stmt(ctx, q)
	if err != nil {
		return nil, err
	}
	if st == nil {
		return c.sqliteConn.QueryContext(ctx, q, args)
	}
	rows, err := st.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	st.busy = true
	return &cachedRows{rows, st}, nil
}

func (c *cachedConn) Close() error {
	for _, st := range c.stmts {
		st.Close()
	}
	clear(c.stmts)
	return c.sqliteConn.Close()
}

type cachedRows struct {
	driver.Rows
	st *cachedStmt
}

func (r *cachedRows) Close() error {
	r.st.busy = false
	return r.Rows.Close()
}
