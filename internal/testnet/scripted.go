package testnet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// debianPython is Debian's own Python: the one that Debian's python3-… packages belong to, whatever else is
// first in PATH.
const debianPython = "/usr/bin/python3"

// scripted is a program that is driven by JSON lines: commands {"id", "cmd", …} on its standard input, answers
// {"id", "ok", …} and events on its standard output. E is the type of its events. All methods may be
// called concurrently; commands are carried out in the order given.
type scripted[E any] struct {
	name string
	proc *Process
	in   *os.File
	dir  string
	// script is the program's file, if it is not in dir.
	script string

	mu      sync.Mutex
	next    int
	answers map[int]chan scriptAnswer
	events  []E
	changed chan struct{} // closed and replaced whenever events grows or the program ends
	ended   error
}

type scriptAnswer struct {
	ID    int    `json:"id"`
	OK    bool   `json:"ok"`
	Code  string `json:"code"`
	Error string `json:"error"`
	raw   json.RawMessage
}

// ScriptError is a command that a server or a client refused.
type ScriptError struct {
	Client, Command string
	Code            string // the network's own condition or code
	Message         string
}

func (e *ScriptError) Error() string {
	return fmt.Sprintf("testnet: %s: %s: %s: %s", e.Client, e.Command, e.Code, e.Message)
}

// startScript starts a Python program with the text given. parse turns an event's line into an E; ok is
// false for one that is to be ignored.
func startScript[E any](ctx context.Context, name, script string, parse func([]byte) (ev E, ok bool)) (*scripted[E], error) {
	return startScriptIn(ctx, name, "", "client.py", script, debianPython, parse, "-u")
}

// startScriptIn is startScript for any interpreter. The program lies in the folder beside, where it finds its libraries, under
// a name of the pattern; without one in the folder of its log.
func startScriptIn[E any](ctx context.Context, name, beside, pattern, script, interpreter string, parse func([]byte) (ev E, ok bool), flags ...string) (*scripted[E], error) {
	dir, err := os.MkdirTemp("", "mimibridge-"+name+"-")
	if err != nil {
		return nil, fmt.Errorf("testnet: start %s: %w", name, err)
	}
	s := &scripted[E]{name: name, dir: dir, answers: make(map[int]chan scriptAnswer), changed: make(chan struct{})}
	fail := func(err error) (*scripted[E], error) {
		s.Stop()
		return nil, fmt.Errorf("testnet: start %s: %w", name, err)
	}
	path := filepath.Join(dir, pattern)
	if beside != "" {
		f, err := os.CreateTemp(beside, pattern)
		if err != nil {
			return fail(err)
		}
		path, s.script = f.Name(), f.Name()
		f.Close()
	}
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		return fail(err)
	}
	program, err := exec.LookPath(interpreter)
	if err != nil {
		return fail(err)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	s.in = inW
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		return fail(err)
	}
	s.proc, err = Start(ctx, Command{
		Name: name, Path: program, Args: append(flags, path),
		Log: filepath.Join(dir, "client.log"), Stdin: inR, Stdout: outW,
	})
	inR.Close()
	outW.Close()
	if err != nil {
		outR.Close()
		return fail(err)
	}
	go s.read(outR, parse)
	return s, nil
}

// Stop ends the program and removes its folder.
func (s *scripted[E]) Stop() {
	if s.in != nil {
		s.in.Close()
	}
	if s.proc != nil {
		s.proc.Stop()
	}
	_ = os.RemoveAll(s.dir)
	if s.script != "" {
		_ = os.Remove(s.script)
	}
}

// Process is the program's process.
func (s *scripted[E]) Process() *Process { return s.proc }

func (s *scripted[E]) read(out *os.File, parse func([]byte) (E, bool)) {
	defer out.Close()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := append([]byte(nil), lines.Bytes()...)
		var a scriptAnswer
		if json.Unmarshal(line, &a) == nil && a.ID != 0 {
			a.raw = line
			s.mu.Lock()
			ch := s.answers[a.ID]
			delete(s.answers, a.ID)
			s.mu.Unlock()
			if ch != nil {
				ch <- a
			}
			continue
		}
		if ev, ok := parse(line); ok {
			s.mu.Lock()
			s.events = append(s.events, ev)
			s.wake()
			s.mu.Unlock()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended = lines.Err(); s.ended == nil {
		s.ended = errors.New("the client has ended")
	}
	for id, ch := range s.answers {
		delete(s.answers, id)
		close(ch)
	}
	s.wake()
}

func (s *scripted[E]) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Do carries out one command and decodes its answer into out, if not nil. A refusal is a *ScriptError.
func (s *scripted[E]) Do(ctx context.Context, cmd string, args map[string]any, out any) error {
	s.mu.Lock()
	if s.ended != nil {
		err := s.ended
		s.mu.Unlock()
		return fmt.Errorf("testnet: %s: %s: %w", s.name, cmd, err)
	}
	s.next++
	id := s.next
	ch := make(chan scriptAnswer, 1)
	s.answers[id] = ch
	msg := map[string]any{}
	for k, v := range args {
		msg[k] = v
	}
	msg["id"], msg["cmd"] = id, cmd
	line, err := json.Marshal(msg)
	if err == nil {
		_, err = s.in.Write(append(line, '\n'))
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("testnet: %s: %s: %w", s.name, cmd, err)
	}
	select {
	case a, ok := <-ch:
		if !ok {
			return fmt.Errorf("testnet: %s: %s: the client has ended; end of its log:\n%s", s.name, cmd, s.tail())
		}
		if !a.OK {
			return &ScriptError{Client: s.name, Command: cmd, Code: a.Code, Message: a.Error}
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(a.raw, out)
	case <-ctx.Done():
		return fmt.Errorf("testnet: %s: %s: %w", s.name, cmd, ctx.Err())
	}
}

// Events is everything that has come so far, in order.
func (s *scripted[E]) Events() []E {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]E(nil), s.events...)
}

// Mark is the number of events that have come so far, for WaitSince.
func (s *scripted[E]) Mark() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.events)
}

// Wait returns the first event, of all since the start, that match accepts; it waits for it until ctx ends.
func (s *scripted[E]) Wait(ctx context.Context, match func(E) bool) (E, error) {
	return s.WaitSince(ctx, 0, match)
}

// WaitSince is Wait for the events after a Mark.
func (s *scripted[E]) WaitSince(ctx context.Context, mark int, match func(E) bool) (E, error) {
	var none E
	for {
		s.mu.Lock()
		news, changed, ended := s.events[mark:len(s.events):len(s.events)], s.changed, s.ended
		mark = len(s.events)
		s.mu.Unlock()
		for _, ev := range news {
			if match(ev) {
				return ev, nil
			}
		}
		if ended != nil {
			return none, fmt.Errorf("testnet: %s: %w; end of its log:\n%s", s.name, ended, s.tail())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return none, fmt.Errorf("testnet: %s: waiting for an event: %w", s.name, ctx.Err())
		}
	}
}

func (s *scripted[E]) tail() string {
	if s.proc == nil {
		return ""
	}
	return strings.TrimSpace(Tail(s.proc.LogPath(), 5))
}
