//go:build live

package matrix

import (
	"testing"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestStoreOnPostgres: what is tested of the adapter without a server of its network holds with PostgreSQL as well.
func TestStoreOnPostgres(t *testing.T) { testnet.AgainOnPostgres(t) }
