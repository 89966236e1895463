package admin

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
)

// TestBrokenOff: what breaks off in the middle is not taken for whole by who reads it: an export that ends early, for one.
func TestBrokenOff(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	s, err := New(Config{Socket: socket, Log: zerolog.Nop(), Console: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half of it")
		panic(http.ErrAbortHandler)
	})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	resp, err := NewClient(socket).HTTP.Get(Base + "/v1/console/x")
	if err != nil {
		return // before anything of it has come
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%q looks whole", b)
	}
}
