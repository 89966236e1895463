package policy

import (
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/internal/vectors"
)

// TestVectors: testdata/vectors.json has every component of this package; docs/vectors.md describes it.
func TestVectors(t *testing.T) {
	var list []vectors.Codec
	for _, c := range codecs() {
		name, rest, _ := strings.Cut(c.name, ",")
		for here, draft := range draftNames {
			if name == draft {
				name = here
			}
		}
		list = append(list, vectors.Codec{Struct: name, Name: strings.TrimSpace(rest), Octets: unhex(t, c.hex), Decode: c.dec, Encode: c.enc})
	}
	vectors.Test(t, "testdata/vectors.json", ".", list, "State")
}

// draftNames are the names of structs in the draft where they are others than here.
var draftNames = map[string]string{"ParticipantList": "ParticipantListData", "RoomMetadata": "RoomMetaData", "JoinLinks": "JoinLinksData", "MediaTypes": "MediaTypeList"}
