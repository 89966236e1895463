package fault_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/fault"
)

func TestProperties(t *testing.T) {
	inner := errors.New("row 17 of users is odd")
	for _, c := range []struct {
		err       error
		kind      fault.Kind
		temporary bool
		public    string
	}{
		{fault.New(fault.Forbidden, "you may not"), fault.Forbidden, false, "you may not"},
		{fault.Wrap(fault.Malformed, "", inner), fault.Malformed, false, "the request could not be understood"},
		{fault.Wrap(fault.Unavailable, "later", inner), fault.Unavailable, true, "later"},
		{fmt.Errorf("around: %w", fault.New(fault.Limited, "slow down")), fault.Limited, true, "slow down"},
		{fault.Wrap(fault.Internal, "secret detail", inner), fault.Internal, true, "an error on this server"},
		{inner, fault.Internal, true, "an error on this server"},
		{io.EOF, fault.Internal, true, "an error on this server"},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			if k := fault.KindOf(c.err); k != c.kind {
				t.Errorf("kind %v", k)
			}
			if fault.Temporary(c.err) != c.temporary {
				t.Errorf("temporary %v", !c.temporary)
			}
			p := fault.Public(c.err)
			if !strings.HasPrefix(p, c.public) || strings.Contains(p, "row 17") || strings.Contains(p, "secret") {
				t.Errorf("public %q", p)
			}
		})
	}
	if fault.Wrap(fault.Internal, "", nil) != nil || fault.Temporary(nil) {
		t.Error("nil is an error")
	}
	if fault.Is(inner, fault.Internal) || !fault.Is(fault.New(fault.Internal, ""), fault.Internal) {
		t.Error("Is reports what nobody marked")
	}
	if err := fault.Wrap(fault.Conflict, "x", inner); !errors.Is(err, inner) {
		t.Error("the inner error is lost")
	}
}
