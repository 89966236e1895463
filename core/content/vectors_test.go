package content_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/mimibridge/mimibridge/core/content"
)

// draftIDs are the message IDs of the example files of draft-ietf-mimi-content.
var draftIDs = map[string]string{
	"attachment":   "0176180c7d19a925021fe446d241134d05c38e0d999cdc0f39c391d2377ed9d1",
	"conferencing": "01496d15a8dba28d7397f9868b70768e4a67f765d5b5b1ae9e03848c5fdeb0ba",
	"delete":       "011d9efc78d04d4dcf4d82b07d5199bbef37011c1f0c7e004b6111c6dda504b4",
	"edit":         "014028c0deddbdea56bec26172f6ede953d11024cb82b8192b5e2aea62d7fb47",
	"expiring":     "01e59db8173939facc2c8a4a0f0ae8d0c7a11a81239626630c9464a8d6717a03",
	"mention":      "018d825adf9f6be00dcafc5704c4102f5022e74219d0b603e4ba7622654042af",
	"mention-html": "01967ff8e9a66819738ad5cf26d2e0388a3b81d86b0f61d129c077d043ee2a4e",
	"multipart-1":  "01da5a515ec5db42cc4dcc19b90c3c31245d8a1cfcce11318f24eb11dce0990e",
	"multipart-2":  "01d65918c6c51c8e76546337276ae6f4bfd873d867d5cb57c76bcdca3d999dd7",
	"multipart-3":  "01cfebeadbdb83c1eefb6403ba4852daf8bbbf9cd53bf5035a74d5d741950c9f",
	"original":     "017ce54837404c3696e0c747b985cb172716d0ed0a3d249ca63ace7d82a096f4",
	"reaction":     "0158c4288911e50a8f6be3f47746b6682f10fd91bc8c05557aa589a3157aff68",
	"reply":        "015354973c2b65ca937bf1e035ae53a5ab80e947afa43d46920d4202e5cc0b27",
	"unlike":       "013aadbb8f313253c8930f4e93c6ca54b2ed06d258185bdcec3870534c8a4ec4",
}

// TestDraftExamples: each example of the draft decodes, has the message ID the draft gives, and encodes to the octets
// it came as. The files are looked for in $MIMI_CONTENT_VECTORS and beside the checkout; without them the
// same rules run over this package's own testdata (example_messages_test.go), and the log says so.
func TestDraftExamples(t *testing.T) {
	dir := os.Getenv("MIMI_CONTENT_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors", "mimi-content")
		if _, err := os.Stat(dir); err != nil {
			t.Log("no example files of the draft here (MIMI_CONTENT_VECTORS names their folder): only the package's own examples are tested")
			return
		}
	}
	for name, want := range draftIDs {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(dir, name+".cbor"))
			if err != nil {
				t.Fatal(err)
			}
			checkExample(t, b, want)
		})
	}
}

func checkExample(t *testing.T, b []byte, want string) *content.Message {
	t.Helper()
	m, err := content.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	sender, ok := m.SenderURI()
	room, ok2 := m.RoomURI()
	if !ok || !ok2 {
		t.Fatal("senderUri or roomUri is missing")
	}
	if got := content.ID(b, sender, room, m.Salt); got.String() != want {
		t.Errorf("message ID %s, want %s", got, want)
	}
	again, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, b) {
		t.Errorf("encoded again it is\n%x, want\n%x", again, b)
	}
	return m
}
