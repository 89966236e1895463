package mls

import (
	"bytes"
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

type pskValue struct {
	id  *PreSharedKeyID
	key []byte
}

// pskSecret chains the PSKs of a Commit (RFC 9420 section 8.4).
func (s *suite) pskSecret(psks []pskValue) []byte {
	out := s.zero()
	for i, p := range psks {
		var w tlspl.Writer
		p.id.MarshalTLS(&w)
		w.Uint16(uint16(i))
		w.Uint16(uint16(len(psks)))
		in := s.expandWithLabel(s.extract(s.zero(), p.key), "derived psk", w.Bytes(), s.nh)
		out = s.extract(in, out)
	}
	return out
}

// special tells a PSK that stands for reinitialisation or branching.
func (p *PreSharedKeyID) special() bool {
	return p.Type == PSKResumption && p.Usage != ResumptionApplication
}

// check is RFC 9420 section 12.1.4. successor: the Commit sets up a group that
// follows another.
func (p *PreSharedKeyID) check(s *suite, successor bool) error {
	if p.special() && !successor {
		return fmt.Errorf("mls: %w: %d", ErrPSKUsage, p.Usage)
	}
	if len(p.Nonce) != s.nh {
		return fmt.Errorf("mls: %w: %d", ErrPSKNonce, len(p.Nonce))
	}
	return nil
}

// findPSKs looks keys up: resumption PSKs of the group itself in its epochs, all
// else in the stores, of which nil ones are passed over.
func findPSKs(ids []*PreSharedKeyID, own func(group []byte, epoch uint64) []byte, stores ...PSKStore) ([]pskValue, error) {
	out := make([]pskValue, 0, len(ids))
	for _, id := range ids {
		var key []byte
		if id.Type == PSKResumption && own != nil {
			key = own(id.GroupID, id.Epoch)
		}
		var last error
		for _, st := range stores {
			if key == nil && st != nil {
				key, last = st.PSK(id)
			}
		}
		if key == nil {
			if last != nil {
				return nil, fmt.Errorf("mls: %w: %w", ErrPSKUnknown, last)
			}
			return nil, fmt.Errorf("mls: %w", ErrPSKUnknown)
		}
		out = append(out, pskValue{id, bytes.Clone(key)})
	}
	return out, nil
}
