//go:build !goolm

package matrix

import (
	"context"
	"database/sql"
)

// A program without encryption makes no tables for keys.
func prepareKeys(context.Context, *sql.DB) error { return nil }
