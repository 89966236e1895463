package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// bound gives what is bound to the sealed values of a row with this key.
func (c *sealedColumn) bound(key []any) string {
	parts := make([]string, len(key))
	for i, k := range key {
		switch k := k.(type) {
		case []byte:
			parts[i] = string(k)
		default:
			parts[i] = fmt.Sprint(k)
		}
	}
	b := strings.Join(parts, c.sep)
	if c.hex {
		b = hex.EncodeToString([]byte(b))
	}
	return b
}

// resealBatch is how many rows share a transaction.
const resealBatch = 256

// Reseal seals every value anew that is not sealed with Options.NextKey. Each transaction leaves a database that both keys
// open, so it can be interrupted at any time and called again; when it has returned nil, Key opens nothing any more.
// progress, if not nil, is called after each transaction; an error of it ends the work.
func (s *Store) Reseal(ctx context.Context, progress func(table string, sealed int) error) error {
	if s.sealer.old == nil {
		return fmt.Errorf("store: there is no key to seal anew with")
	}
	if s.Shared() { // rooms of the nodes that ran before: nobody else runs now
		for {
			rooms, err := s.Adopt(ctx)
			if err != nil {
				return err
			}
			if len(rooms) == 0 {
				break
			}
		}
	}
	// The last is the check: it says with which key the database is opened.
	for _, c := range append(slices.Clone(sealedColumns), sealedColumn{table: "meta", column: "value", keys: []string{"key"}}) {
		if err := s.resealColumn(ctx, &c, progress); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) resealColumn(ctx context.Context, c *sealedColumn, progress func(string, int) error) error {
	keys := strings.Join(c.keys, ", ")
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(c.keys)), ", ")
	where := make([]string, len(c.keys))
	for i, k := range c.keys {
		where[i] = k + "=?"
	}
	only := ""
	if c.table == "meta" {
		only = " AND key='seal_check'"
	}
	update := fmt.Sprintf(`UPDATE %s SET %s=? WHERE %s`, c.table, c.column, strings.Join(where, " AND "))
	var after []any
	total := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		type row struct {
			key    []any
			sealed []byte
		}
		var rows []row
		q := fmt.Sprintf(`SELECT %s, %s FROM %s WHERE %s IS NOT NULL%s`, keys, c.column, c.table, c.column, only)
		args := append([]any{}, after...)
		if after != nil {
			q += fmt.Sprintf(` AND (%s) > (%s)`, keys, marks)
		}
		q += fmt.Sprintf(` ORDER BY %s LIMIT 0+?`, keys)
		args = append(args, resealBatch)
		if err := s.View(ctx, func(tx *Tx) error {
			return tx.each(func(scan func(...any) error) error {
				r := row{key: make([]any, len(c.keys))}
				dest := make([]any, 0, len(c.keys)+1)
				for i := range r.key {
					dest = append(dest, &r.key[i])
				}
				if err := scan(append(dest, &r.sealed)...); err != nil {
					return err
				}
				rows = append(rows, r)
				return nil
			}, q, args...)
		}); err != nil {
			return err
		}
		if len(rows) == 0 {
			return nil
		}
		n := 0
		if err := s.Update(ctx, func(tx *Tx) error {
			n = 0
			for _, r := range rows {
				if s.sealer.current(r.sealed) {
					continue
				}
				key := c.bound(r.key)
				plain, err := s.sealer.Open(c.table, key, c.column, r.sealed)
				if errors.Is(err, ErrUnseal) {
					continue // damaged before: no key opens it
				}
				if err != nil {
					return err
				}
				if err := tx.do(update, append([]any{s.sealer.Seal(c.table, key, c.column, plain)}, r.key...)...); err != nil {
					return err
				}
				n++
			}
			return nil
		}); err != nil {
			return err
		}
		total += n
		after = rows[len(rows)-1].key
		if progress != nil {
			if err := progress(c.table, total); err != nil {
				return err
			}
		}
	}
}
