//go:build goolm

package matrix

import (
	"context"
	"testing"

	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// TestConfigureKeys: each setting about keys reaches the machine that keeps them.
func TestConfigureKeys(t *testing.T) {
	b := &bridge{cfg: Config{Keys: Keys{RatchetOnDecrypt: true, DeleteFullyUsedOnDecrypt: true, DeletePrevOnNewSession: true, DeleteOnDeviceDelete: true,
		Send: "cross-signed-verified", Share: "verified", KeepOnDeviceChange: true}}}
	m := &machines{b: b}
	var mach crypto.OlmMachine
	if err := m.configure(&mach); err != nil {
		t.Fatal(err)
	}
	if !mach.RatchetKeysOnDecrypt || !mach.DeleteFullyUsedKeysOnDecrypt || !mach.DeletePreviousKeysOnReceive || !mach.DeleteKeysOnDeviceDelete || !mach.DisableDeviceChangeKeyRotation ||
		mach.SendKeysMinTrust != id.TrustStateCrossSignedVerified || mach.ShareKeysMinTrust != id.TrustStateVerified {
		t.Errorf("%+v", &mach)
	}
	// Keys are given to nobody unless that is set.
	if r := mach.AllowKeyShare(context.Background(), &id.Device{Trust: id.TrustStateVerified}, event.RequestedKeyInfo{}); r == nil {
		t.Error("a key was given away")
	}
	b.cfg.Keys = Keys{AllowSharing: true}
	var plain crypto.OlmMachine
	if err := m.configure(&plain); err != nil {
		t.Fatal(err)
	}
	if plain.RatchetKeysOnDecrypt || plain.DeleteFullyUsedKeysOnDecrypt || plain.DeletePreviousKeysOnReceive || plain.DeleteKeysOnDeviceDelete || plain.DisableDeviceChangeKeyRotation ||
		plain.SendKeysMinTrust != id.TrustStateUnset || plain.ShareKeysMinTrust != id.TrustStateCrossSignedTOFU {
		t.Errorf("%+v", &plain)
	}
	if r := plain.AllowKeyShare(context.Background(), &id.Device{Trust: id.TrustStateBlacklisted}, event.RequestedKeyInfo{}); r == nil {
		t.Error("a device on the black list got a key")
	}
}
