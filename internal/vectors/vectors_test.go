package vectors_test

import (
	"encoding/json"
	"testing"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/internal/vectors"
)

// TestValue: the forms that docs/vectors.md promises.
func TestValue(t *testing.T) {
	type kind uint8
	v := &struct {
		RoomURI    mimiuri.URI
		BigNumber  uint64
		Small      uint16
		Octets     []byte
		Fixed      [2]byte
		Kinds      []kind
		None       *int
		Credential mls.Credential
		hidden     int
	}{RoomURI: mimiuri.MustParse("mimi://a.example/r/x"), BigNumber: 1<<63 + 1, Small: 7, Octets: []byte{1, 255}, Kinds: []kind{3}, Credential: mls.BasicCredential([]byte("a")), hidden: 1}
	got, err := json.Marshal(vectors.Value(v))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"big_number":"9223372036854775809","credential":"00010161","fixed":"0000","kinds":[3],"none":null,"octets":"01ff","room_uri":"mimi://a.example/r/x","small":7}`
	if string(got) != want {
		t.Errorf("%s\nnot\n%s", got, want)
	}
}
