package record

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r")
	if got, err := Read(path); err != nil || len(got) != 0 {
		t.Fatalf("absent: %v %v", got, err)
	}
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte{0, '\n', '{', 0xff}
	w.Record("out", "b.example", "/notify", body)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// A crash in the middle of a line.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026-01-01T0`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got, err := Read(path); err != nil || len(got) != 1 || got[0].Path != "/notify" || !bytes.Equal(got[0].Body, body) {
		t.Fatalf("cut off: %v %v", got, err)
	}
	if w, err = Open(path); err != nil {
		t.Fatal(err)
	}
	w.Record("in", "b.example", "/update", nil)
	w.Close()
	if got, err := Read(path); err != nil || len(got) != 2 || got[1].Direction != "in" || got[1].Path != "/update" {
		t.Fatalf("after the crash: %v %v", got, err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", fi.Mode(), err)
	}
}
