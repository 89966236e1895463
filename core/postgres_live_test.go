//go:build live

package core_test

import (
	"testing"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestAllOnPostgres: whatever is tested of a provider holds with PostgreSQL as well. Left out is what looks into SQLite's files:
// TestForget seeks keys in the database file and its log, TestUpgrade begins with files of an older schema, which only SQLite had.
func TestAllOnPostgres(t *testing.T) {
	testnet.AgainOnPostgres(t, "TestForget", "TestUpgrade")
}
