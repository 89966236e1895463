//go:build live

package matrix

import "testing"

// TestSynapse runs the tests in which the homeserver itself matters against Synapse, which most administrators run. It installs Synapse from the
// Python package index into an environment of its own.
func TestSynapse(t *testing.T) {
	for name, test := range onSynapse {
		t.Run(name, test)
	}
}

var onSynapse = map[string]func(*testing.T){
	"Messages":             TestMessages,
	"RoomState":            TestRoomState,
	"DirectAndAlias":       TestDirectAndAlias,
	"Upgrade":              TestUpgrade,
	"AddedFromElsewhere":   TestAddedFromElsewhere,
	"InvitedFromHere":      TestInvitedFromHere,
	"ManagedFromElsewhere": TestManagedFromElsewhere,
	"Outages":              TestOutages,
	"Uninstalled":          TestUninstalled,
	"PowerLevels":          TestPowerLevels,
	"Plumb":                TestPlumb,
	"NotTwice":             TestNotTwice,
	"Bot":                  TestBot,
}
