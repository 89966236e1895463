//go:build live

package core_test

import (
	"testing"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestAllOnPostgres: whatever is tested of a provider holds with PostgreSQL as well. Left out are what looks into SQLite's files, and
// TestNoOracle, which counts every statement of a request: where nodes share a database, loops that look each second add theirs.
func TestAllOnPostgres(t *testing.T) {
	testnet.AgainOnPostgres(t, "TestForget", "TestUpgrade", "TestNoOracle")
}
