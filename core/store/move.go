package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MoveAdapter is an adapter's database that moves along: the SQLite file From. Prepare makes its tables, in whichever database it is given,
// or brings them up to date.
type MoveAdapter struct {
	Name, From string
	Prepare    func(context.Context, *sql.DB) error
}

// Move copies the SQLite database in the file from, and those of the adapters, into the PostgreSQL database of o, which must have no rooms yet.
// The file from is changed: it is upgraded, and becomes another incarnation first, as by Restore. The provider's tables come last and in one
// transaction, so that what was interrupted is done again from the beginning. progress may be nil.
func Move(ctx context.Context, o Options, from string, adapters []MoveAdapter, progress func(string)) (err error) {
	if o.Postgres == "" {
		return errors.New("store: a database is moved into PostgreSQL only")
	}
	if progress == nil {
		progress = func(string) {}
	}
	file := o
	file.Postgres, file.Path, file.Restored = "", from, true
	if file.Key == nil {
		return errors.New("store: no key")
	}
	src, err := Open(ctx, file)
	if err != nil {
		return err
	}
	if err := src.Close(); err != nil {
		return err
	}
	dst, err := Open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	switch n, err := dst.OtherNodes(ctx); {
	case err != nil:
		return err
	case n > 0:
		return errors.New("store: another mimibridge uses this database; stop it first")
	}
	var rooms, users int
	if err := dst.read.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM room), (SELECT count(*) FROM identity)`).Scan(&rooms, &users); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if rooms+users > 0 {
		return fmt.Errorf("store: the PostgreSQL database is of a provider already (%d rooms): a backup of SQLite goes into an empty one", rooms)
	}
	for _, a := range adapters {
		progress("moving the database of the adapter " + a.Name)
		if err := moveAdapter(ctx, dst, a); err != nil {
			return fmt.Errorf("store: move the database of the adapter %s: %w", a.Name, err)
		}
	}
	progress("moving the provider's database")
	in, err := Database(file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := Database(o)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := moveTables(ctx, in, out, func(table, key string) bool {
		switch table {
		case "node", "lease", "node_request": // of nodes that are no more
			return false
		case "meta": // what a database knows of itself
			return key != "place" && key != "commits" && key != "node"
		}
		return true
	}); err != nil {
		return fmt.Errorf("store: move the database: %w", err)
	}
	return nil
}

func moveAdapter(ctx context.Context, dst *Store, a MoveAdapter) error {
	in, err := sql.Open("sqlite", dsn(a.From)+"&_txlock=immediate")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := dst.AdapterDB(ctx, a.Name)
	if err != nil {
		return err
	}
	defer out.Close()
	if a.Prepare != nil {
		if err := errors.Join(a.Prepare(ctx, in), a.Prepare(ctx, out)); err != nil {
			return err
		}
	}
	return moveTables(ctx, in, out, func(string, string) bool { return true })
}

// moveTables copies all rows of a SQLite database into the tables of the same names and columns, in place of what these have. take is asked
// for each table, and for each row of one whose first column is called key.
func moveTables(ctx context.Context, in, out *sql.DB, take func(table, key string) bool) error {
	tables, err := texts(ctx, in, `SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY rowid`)
	if err != nil {
		return err
	}
	tx, err := out.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for i := len(tables) - 1; i >= 0; i-- { // what refers to others was made after them
		if !take(tables[i], "") {
			continue
		}
		if tables[i] == "meta" {
			continue // its rows are replaced one by one
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM "`+tables[i]+`"`); err != nil {
			return fmt.Errorf("table %s: %w", tables[i], err)
		}
	}
	for _, table := range tables {
		if !take(table, "") {
			continue
		}
		if err := moveTable(ctx, in, tx, table, take); err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
	}
	return tx.Commit()
}

func moveTable(ctx context.Context, in *sql.DB, tx *sql.Tx, table string, take func(table, key string) bool) error {
	columns, err := texts(ctx, in, `SELECT name FROM pragma_table_info('`+table+`') ORDER BY cid`)
	if err != nil {
		return err
	}
	types := map[string]string{}
	rows, err := tx.QueryContext(ctx, `SELECT column_name, data_type FROM information_schema.columns WHERE table_schema=current_schema() AND table_name=?`, table)
	if err != nil {
		return err
	}
	for rows.Next() {
		var name, typ string
		if err := rows.Scan(&name, &typ); err != nil {
			rows.Close()
			return err
		}
		types[name] = typ
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, c := range columns {
		if types[c] == "" {
			return fmt.Errorf("PostgreSQL has no column %s", c)
		}
	}
	list := `"` + strings.Join(columns, `", "`) + `"`
	insert := `INSERT INTO "` + table + `" (` + list + `) VALUES (` + strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ") + `)`
	if table == "meta" {
		insert += ` ON CONFLICT (key) DO UPDATE SET value=excluded.value`
	}
	from, err := in.QueryContext(ctx, `SELECT `+list+` FROM "`+table+`"`)
	if err != nil {
		return err
	}
	defer from.Close()
	values, dest := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		dest[i] = &values[i]
	}
	for from.Next() {
		if err := from.Scan(dest...); err != nil {
			return err
		}
		if key, ok := values[0].(string); ok && columns[0] == "key" && !take(table, key) {
			continue
		}
		row := make([]any, len(columns))
		for i, v := range values {
			row[i] = postgresValue(v, types[columns[i]])
		}
		if _, err := tx.ExecContext(ctx, insert, row...); err != nil {
			return err
		}
	}
	return from.Err()
}

// postgresValue makes of what SQLite gives what a column takes: SQLite's columns have no types of their own.
func postgresValue(v any, typ string) any {
	switch x := v.(type) {
	case int64:
		if typ == "boolean" {
			return map[bool]string{true: "true", false: "false"}[x != 0]
		}
		if typ == "text" || strings.HasPrefix(typ, "character") {
			return fmt.Sprint(x)
		}
	case bool:
		if typ == "boolean" {
			return fmt.Sprint(x) // as text, which a column of truth values takes
		}
	case string:
		if typ == "bytea" {
			return []byte(x)
		}
	case []byte:
		if typ != "bytea" {
			return string(x)
		}
		if x == nil {
			return []byte{}
		}
	case time.Time:
		return x.UTC()
	}
	return v
}

func texts(ctx context.Context, db *sql.DB, q string) (list []string, err error) {
	rows, err := db.QueryContext(ctx, q)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
