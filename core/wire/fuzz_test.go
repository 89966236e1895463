package wire_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/fault"
)

// fuzz holds a parser to: no panic, only classified errors, and a struct that marshals to something that parses to the same
// again; to the input itself, but for the spelling of URIs.
func fuzz(f *testing.F, what string, exact bool) {
	var parse func([]byte) (any, []byte, error)
	for name, d := range doors(f) {
		if first, _, _ := strings.Cut(name, " "); strings.Trim(first, ",") == what {
			f.Add(d.marshal())
			parse = d.parse
		}
	}
	if parse == nil {
		f.Fatal("nothing to fuzz")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		_, again, err := parse(b)
		if err != nil {
			if !fault.Is(err, fault.Malformed) && !fault.Is(err, fault.TooLarge) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if exact && !bytes.Equal(again, b) {
			t.Fatalf("marshals to %x, was %x", again, b)
		}
		_, third, err := parse(again)
		if err != nil {
			t.Fatalf("does not parse again: %v", err)
		}
		if !bytes.Equal(third, again) {
			t.Fatalf("marshals to %x, then to %x", again, third)
		}
	})
}

func FuzzKeyMaterialRequest(f *testing.F)    { fuzz(f, "KeyMaterialRequest", true) }
func FuzzKeyMaterialResponse(f *testing.F)   { fuzz(f, "KeyMaterialResponse", false) }
func FuzzUpdateRequest(f *testing.F)         { fuzz(f, "UpdateRequest", true) }
func FuzzUpdateRoomResponse(f *testing.F)    { fuzz(f, "UpdateRoomResponse", true) }
func FuzzSubmitMessageRequest(f *testing.F)  { fuzz(f, "SubmitMessageRequest", false) }
func FuzzSubmitMessageResponse(f *testing.F) { fuzz(f, "SubmitMessageResponse", true) }
func FuzzFanout(f *testing.F)                { fuzz(f, "FanoutMessage", true) }
func FuzzGroupInfoRequest(f *testing.F)      { fuzz(f, "GroupInfoRequest", true) }
func FuzzGroupInfoResponse(f *testing.F)     { fuzz(f, "GroupInfoResponse", true) }
func FuzzGroupInfoRatchetTree(f *testing.F)  { fuzz(f, "GroupInfoRatchetTree", true) }
func FuzzFrank(f *testing.F)                 { fuzz(f, "Frank", true) }
func FuzzFrankingAgentData(f *testing.F)     { fuzz(f, "FrankingAgentData", true) }
func FuzzConsentEntry(f *testing.F)          { fuzz(f, "ConsentEntry", false) }
func FuzzAbuseReport(f *testing.F)           { fuzz(f, "AbuseReport", false) }
func FuzzIdentifierRequest(f *testing.F)     { fuzz(f, "IdentifierRequest", true) }
func FuzzIdentifierResponse(f *testing.F)    { fuzz(f, "IdentifierResponse", false) }
