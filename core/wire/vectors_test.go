package wire_test

import (
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/wire"
	"github.com/mimibridge/mimibridge/internal/vectors"
)

// TestVectors: testdata/vectors.json has every struct of this package, in every form; docs/vectors.md describes it.
func TestVectors(t *testing.T) {
	var codecs []vectors.Codec
	for name, d := range doors(t) {
		first, rest, _ := strings.Cut(name, " ")
		c := vectors.Codec{Struct: strings.Trim(first, ","), Name: rest, Octets: d.marshal(),
			Decode: func(b []byte) (any, error) { v, _, err := d.parse(b); return v, err },
			Encode: func(v any) (b []byte) {
				if list, ok := v.([]*wire.FanoutMessage); ok {
					for _, m := range list {
						b = append(b, m.Marshal()...)
					}
					return b
				}
				return v.(interface{ Marshal() []byte }).Marshal()
			}}
		if c.Struct == "FanoutMessage" && strings.HasPrefix(rest, "all") {
			continue // several, one behind the other
		}
		codecs = append(codecs, c)
	}
	vectors.Test(t, "testdata/vectors.json", ".", codecs, "Fanout") // ParseFanout reads FanoutMessages
}
