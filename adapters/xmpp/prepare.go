package xmpp

import (
	"context"
	"database/sql"
)

// PrepareDB makes the adapter's tables in a database, or brings them up to date, as Run does: for who moves a database.
func PrepareDB(ctx context.Context, db *sql.DB) error { return (&store{db: db}).upgrade(ctx) }
