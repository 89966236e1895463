//go:build live

package core_test

import (
	"testing"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestAllOnPostgres: whatever is tested of a provider holds with PostgreSQL as well.
func TestAllOnPostgres(t *testing.T) { testnet.AgainOnPostgres(t, "TestForget", "TestUpgrade") }
