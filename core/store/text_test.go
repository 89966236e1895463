package store_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/mimibridge/mimibridge/core/store"
)

// TestOddText: what others call themselves may hold anything that Go's strings hold, on each database.
func TestOddText(t *testing.T) {
	s, ctx := openAt(t, filepath.Join(t.TempDir(), "db"), 1), context.Background()
	for _, name := range []string{"a\x00b", "\xff\xfe", "", "👍"} {
		p := store.Profile{User: "mimi://b.example/u/" + name, Found: true, Name: name, Expires: 1}
		if err := s.Update(ctx, func(tx *store.Tx) error { return tx.PutProfile(&p) }); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if err := s.View(ctx, func(tx *store.Tx) error {
			got, ok, err := tx.Profile(p.User)
			if !ok || (got.Name == "") != (name == "") {
				t.Errorf("%q came back as %q, %v", name, got.Name, ok)
			}
			return err
		}); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}
