package testnet

import (
	"os"
	"path/filepath"
)

// DendriteBuilt reports whether BuildDendrite has nothing to do.
func DendriteBuilt() bool {
	cache, err := os.UserCacheDir()
	if err != nil {
		return false
	}
	_, want, err := dendriteModule()
	return err == nil && built(filepath.Join(cache, "mimibridge", "dendrite-"+DendriteVersion, "built-from"), want)
}

// SynapseBuilt reports whether BuildSynapse has nothing to do.
func SynapseBuilt() bool {
	cache, err := os.UserCacheDir()
	return err == nil && built(filepath.Join(cache, "mimibridge", "synapse-"+SynapseVersion, "installed"), SynapseVersion)
}
