//go:build live

package assets_test

import (
	"testing"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestAllOnPostgres: whatever is tested here holds with PostgreSQL as well.
func TestAllOnPostgres(t *testing.T) { testnet.AgainOnPostgres(t) }
