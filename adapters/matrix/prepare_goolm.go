//go:build goolm

package matrix

import (
	"context"
	"database/sql"
	"fmt"

	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix/crypto"
)

func prepareKeys(ctx context.Context, sqldb *sql.DB) error {
	dialect, version := "postgres", ""
	if err := sqldb.QueryRowContext(ctx, `SELECT sqlite_version()`).Scan(&version); err == nil {
		dialect = "sqlite3"
	}
	db, err := dbutil.NewWithDB(sqldb, dialect)
	if err == nil {
		err = crypto.NewSQLCryptoStore(db, nil, "", "", nil).DB.Upgrade(ctx)
	}
	if err != nil {
		return fmt.Errorf("matrix: open the keys: %w", err)
	}
	return nil
}
