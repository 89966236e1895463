package matrix

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// Background work that panics begins anew, and what the panic says stays out of the log.
func TestSteadily(t *testing.T) {
	var log bytes.Buffer
	b := &bridge{log: zerolog.New(&log)}
	runs := 0
	b.steadily(t.Context(), "expiring", func(context.Context) {
		if runs++; runs < 3 {
			panic("what somebody wrote")
		}
	})
	if runs != 3 || b.panics.Load() != 2 {
		t.Errorf("%d runs, %d panics", runs, b.panics.Load())
	}
	if s := log.String(); strings.Count(s, "begins anew") != 2 || strings.Contains(s, "somebody") || !strings.Contains(s, "expiring") {
		t.Errorf("%s", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.steadily(ctx, "expiring", func(context.Context) { cancel(); panic("again") }) // returns
}
