package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
)

// sealedColumn is a column whose values are sealed, and how the key of a row is made that is bound to them.
type sealedColumn struct {
	table, column string
	keys          []string // columns
	sep           string   // between them
	hex           bool     // the key is their hexadecimal form
}

// sealedColumns are all there are, but for the check in meta. A test holds it against what is sealed.
var sealedColumns = []sealedColumn{
	{table: "identity", column: "secret", keys: []string{"user"}},
	{table: "key_package", column: "secret", keys: []string{"ref"}},
	{table: "client_room", column: "state", keys: []string{"room_id"}},
	{table: "client_ratchet", column: "data", keys: []string{"room_id", "epoch", "leaf", "kind"}, sep: "/"},
	{table: "client_pending", column: "next", keys: []string{"room_id"}},
	{table: "intent", column: "payload", keys: []string{"room_id", "adapter", "actor", "origin"}, sep: "\x00"},
	{table: "event", column: "payload", keys: []string{"room_id", "seq"}, sep: "/"},
	{table: "hub_room", column: "keys", keys: []string{"room_id"}},
	{table: "abuse_report", column: "body", keys: []string{"hash"}, hex: true},
	{table: "node_request", column: "args", keys: []string{"id"}},
	{table: "node_request", column: "answer", keys: []string{"id"}},
}

// querier is a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, q string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, q string, args ...any) *sql.Row
}

// eachSealed calls fn for every sealed value of the column with its row's key.
func (c *sealedColumn) eachSealed(ctx context.Context, db querier, fn func(key string, sealed []byte) error) error {
	q := "SELECT " + c.column
	for _, k := range c.keys {
		q += ", " + k
	}
	rows, err := db.QueryContext(ctx, q+" FROM "+c.table+" WHERE "+c.column+" IS NOT NULL")
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer rows.Close()
	var sealed []byte
	parts := make([][]byte, len(c.keys))
	dest := []any{&sealed}
	for i := range parts {
		dest = append(dest, &parts[i])
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		key := string(bytes.Join(parts, []byte(c.sep)))
		if c.hex {
			key = hex.EncodeToString([]byte(key))
		}
		if err := fn(key, sealed); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}
