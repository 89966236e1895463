//go:build live

package store_test

import (
	"testing"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestAllOnPostgres: whatever is tested of the store holds on PostgreSQL as well.
func TestAllOnPostgres(t *testing.T) { testnet.AgainOnPostgres(t) }
