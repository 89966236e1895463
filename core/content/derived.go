package content

import (
	"fmt"
	"math"
	"time"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Derived is MessageDerivedValues of the CDDL (section "Derived Data Values"): what a receiver knows about a message that is not in it.
type Derived struct {
	ID       MessageID
	Accepted time.Time // by the hub, to the millisecond
	Group    []byte    // the MLS group ID
	Leaf     uint32    // of the sender
	Client   mimiuri.URI
	User     mimiuri.URI
	Room     mimiuri.URI
}

// Encode gives the CBOR. A time before 1970 is an error.
func (d *Derived) Encode() ([]byte, error) {
	ms := d.Accepted.UnixMilli()
	if ms < 0 {
		return nil, fmt.Errorf("%w: encode: accepted before 1970", ErrMalformed)
	}
	b, err := encMode.Marshal([]any{d.ID[:], uint64(ms), nonNil(d.Group), d.Leaf, d.Client.String(), d.User.String(), d.Room.String()})
	if err != nil {
		return nil, fmt.Errorf("content: encode: %w", err)
	}
	return b, nil
}

// DecodeDerived reads derived values, with the strictness of Decode. A timestamp has to be a number of milliseconds: the extended
// time that the CDDL allows as well is not taken.
func DecodeDerived(b []byte) (*Derived, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d octets", ErrLimit, len(b))
	}
	r := &reader{b: b}
	d := &Derived{}
	r.array(7, "the values")
	if id := r.ref("messageId"); id != nil {
		d.ID = *id
	} else {
		r.fail(ErrMalformed, "messageId is null")
	}
	d.Accepted = time.UnixMilli(int64(r.uint(maxTimestamp*1000, "the timestamp"))).UTC()
	d.Group = r.bytes("mlsGroupId")
	d.Leaf = uint32(r.uint(math.MaxUint32, "senderLeafIndex"))
	for _, u := range []struct {
		to   *mimiuri.URI
		kind mimiuri.Kind
		what string
	}{{&d.Client, mimiuri.Client, "senderClientUrl"}, {&d.User, mimiuri.User, "senderUserUrl"}, {&d.Room, mimiuri.Room, "roomUrl"}} {
		s := r.text(u.what)
		if r.err != nil {
			return nil, r.err
		}
		var err error
		if *u.to, err = mimiuri.ParseKind(s, u.kind); err != nil {
			r.fail(ErrMalformed, "%s is no such MIMI URI", u.what)
		}
	}
	if r.err == nil && r.off != len(b) {
		r.fail(ErrMalformed, "there is something after the values")
	}
	if r.err != nil {
		return nil, r.err
	}
	return d, nil
}
