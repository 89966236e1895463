package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// connector makes connections to PostgreSQL that understand this project's SQL: they change its text (dialect.go), take
// and give truth values as 0 and 1 as SQLite does, and never take a COMMIT for done that was none.
type connector struct{ driver.Connector }

func postgresDB(c *pgx.ConnConfig) *sql.DB {
	return sql.OpenDB(connector{stdlib.GetConnector(*c)})
}

// parsePostgres reads a connection string: a URL, or key=value pairs as libpq has them. The error does not show it,
// since a password may be in it.
func parsePostgres(dsn, schema string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New(`store: the PostgreSQL connection string cannot be read; it is like "postgres://user:password@host/database"`)
	}
	def := func(key, value string) {
		if _, ok := c.RuntimeParams[key]; !ok {
			c.RuntimeParams[key] = value
		}
	}
	def("application_name", "mimibridge")
	def("synchronous_commit", "on") // what is acknowledged is on disk
	def("lock_timeout", "10s")
	def("idle_in_transaction_session_timeout", "60s") // a node that hangs must not keep its locks
	if schema != "" {
		c.RuntimeParams["search_path"] = schema
	}
	return c, nil
}

// PostgresName gives a connection string without what is secret, as PostgreSQL's own programs take it; "" if it cannot be read.
func PostgresName(dsn string) string {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", c.Host, c.Port, c.User, c.Database)
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &pgConn{conn.(*stdlib.Conn)}, nil
}

type pgConn struct{ *stdlib.Conn }

func (c *pgConn) Prepare(q string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), q)
}

func (c *pgConn) PrepareContext(ctx context.Context, q string) (driver.Stmt, error) {
	st, err := c.Conn.PrepareContext(ctx, postgresText(q))
	if err != nil {
		return nil, err
	}
	return pgStmt{st.(*stdlib.Stmt)}, nil
}

// errNotCommitted: a statement failed, and nobody went back behind it. PostgreSQL answers COMMIT with a ROLLBACK then,
// which is no error to it.
var errNotCommitted = errors.New("store: the transaction had failed before it was to be committed")

func (c *pgConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if q == "COMMIT" && c.Conn.Conn().PgConn().TxStatus() == 'E' {
		return nil, errNotCommitted
	}
	return c.Conn.ExecContext(ctx, postgresText(q), args)
}

func (c *pgConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	return pgRowsOf(c.Conn.QueryContext(ctx, postgresText(q), args))
}

// CheckNamedValue makes arguments what every driver takes, truth values numbers, and of what PostgreSQL has no text for, which
// peers may send in names, a replacement character.
func (c *pgConn) CheckNamedValue(v *driver.NamedValue) (err error) {
	if v.Value, err = driver.DefaultParameterConverter.ConvertValue(v.Value); err != nil {
		return err
	}
	switch x := v.Value.(type) {
	case bool:
		v.Value = number(x)
	case string:
		if !utf8.ValidString(x) || strings.IndexByte(x, 0) >= 0 {
			v.Value = strings.ReplaceAll(strings.ToValidUTF8(x, "\uFFFD"), "\x00", "\uFFFD")
		}
	}
	return nil
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

type pgStmt struct{ *stdlib.Stmt }

func (s pgStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return pgRowsOf(s.Stmt.QueryContext(ctx, args))
}

func pgRowsOf(rows driver.Rows, err error) (driver.Rows, error) {
	if err != nil {
		return nil, err
	}
	return pgRows{rows.(*stdlib.Rows)}, nil
}

type pgRows struct{ *stdlib.Rows }

func (r pgRows) Next(dest []driver.Value) error {
	if err := r.Rows.Next(dest); err != nil {
		return err
	}
	for i, v := range dest {
		if b, ok := v.(bool); ok {
			dest[i] = number(b)
		}
	}
	return nil
}

// ColumnTypeScanType of a truth value follows Next.
func (r pgRows) ColumnTypeScanType(i int) reflect.Type {
	if t := r.Rows.ColumnTypeScanType(i); t.Kind() != reflect.Bool {
		return t
	}
	return reflect.TypeFor[int64]()
}

// schemaLock is the advisory lock under which schemas are made and upgraded: "mimi".
const schemaLock = 0x6d696d69

var adapterName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,40}$`)

// postgresSchema makes a schema if it is not there, and gives a pool of connections for which it is the only one.
func postgresSchema(ctx context.Context, dsn, schema string) (*sql.DB, error) {
	c, err := parsePostgres(dsn, schema)
	if err != nil {
		return nil, err
	}
	db := postgresDB(c)
	err = func() error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, schemaLock)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS `+schema); err != nil {
			return err
		}
		return tx.Commit()
	}()
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("store: open the PostgreSQL schema %s: %w", schema, err)
	}
	return db, nil
}

// place names the PostgreSQL database and its history. A dump that was restored elsewhere, a server that was restored to
// an earlier time, and one whose standby took over are another place: what was committed last may be missing there.
func place(ctx context.Context, tx *sql.Tx) (string, error) {
	var s string
	err := tx.QueryRowContext(ctx, `SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || (SELECT timeline_id FROM pg_control_checkpoint())
		|| '/' || (SELECT oid FROM pg_database WHERE datname=current_database())`).Scan(&s)
	return s, err
}
