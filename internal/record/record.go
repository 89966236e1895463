// Package record writes down what a provider exchanges with others, as it is before TLS encrypts it, and reads it
// back: for debugging, and for the demo, which searches it for the text of messages. A record is a file
// of JSON lines, appended to.
package record

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Entry is one body.
type Entry struct {
	Time      time.Time `json:"time"`
	Direction string    `json:"direction"` // "out": to the peer; "in": from it
	Peer      string    `json:"peer"`      // the other provider's domain
	Path      string    `json:"path"`      // of the request the body belongs to
	Body      []byte    `json:"body"`      // base64 in the file
}

// Writer appends entries to a file. Safe for concurrent use.
type Writer struct {
	mu sync.Mutex
	f  *os.File
}

// Open opens a record for appending, mode 0600.
func Open(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return &Writer{f: f}, nil
}

// Record appends one body. A failure to write is not reported: what is recorded goes on regardless.
func (w *Writer) Record(direction, peer, path string, body []byte) {
	line, err := json.Marshal(Entry{time.Now().UTC(), direction, peer, path, body})
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = w.f.Write(append(line, '\n'))
}

// Close closes the file.
func (w *Writer) Close() error { return w.f.Close() }

// Read returns the entries of a record that are complete; a line cut off by a crash is left out. An absent
// file is an empty record.
func Read(path string) ([]Entry, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	defer f.Close()
	var out []Entry
	for br := bufio.NewReader(f); ; {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("record: %w", err)
		}
		var e Entry
		// After a crash in the middle of a line the next entry stands behind its beginning.
		if json.Unmarshal(line, &e) != nil {
			if i := lastStart(line); i <= 0 || json.Unmarshal(line[i:], &e) != nil {
				continue
			}
		}
		out = append(out, e)
	}
}

func lastStart(line []byte) int {
	for i := len(line) - 1; i > 0; i-- {
		if line[i] == '{' {
			return i
		}
	}
	return -1
}
