package testnet

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

//go:embed nioclient.py
var nioScript string

// nioPython is Debian's own Python: the one that Debian's python3-matrix-nio belongs to, whatever else is
// first in PATH.
const nioPython = "/usr/bin/python3"

// CheckNio reports whether matrix-nio is installed; the error names the command that installs it.
func CheckNio(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, nioPython, "-c", "import nio").CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("testnet: the Matrix client matrix-nio is missing: apt-get install -y python3-matrix-nio (%w: %s)", err, lastLines(string(out), 1))
}

// NioClient is a Matrix client that nobody here wrote (matrix-nio, a process of its own), logged in and
// syncing. All methods may be called concurrently; commands are carried out in the order given.
type NioClient struct {
	UserID string

	proc *Process
	in   *os.File
	dir  string

	mu      sync.Mutex
	next    int
	answers map[int]chan nioAnswer
	events  []NioEvent
	changed chan struct{} // closed and replaced whenever events grows or the client ends
	ended   error
}

// NioEvent is something a sync brought.
type NioEvent struct {
	Kind string          `json:"event"` // timeline, state, invite, leave, limited, synced, sync_error, fatal
	Room string          `json:"room"`
	Data json.RawMessage `json:"data"` // timeline, state: the event; invite: the list of stripped state
	Err  string          `json:"error"`
}

// Event is Data as a Matrix event, zero if it is none.
func (e NioEvent) Event() MatrixEvent {
	var ev MatrixEvent
	if e.Kind == "timeline" || e.Kind == "state" {
		_ = json.Unmarshal(e.Data, &ev)
	}
	return ev
}

// MatrixEvent is an event as a client sees it.
type MatrixEvent struct {
	ID       string         `json:"event_id"`
	Type     string         `json:"type"`
	Sender   string         `json:"sender"`
	StateKey *string        `json:"state_key"`
	Time     int64          `json:"origin_server_ts"` // Unix ms
	Content  map[string]any `json:"content"`
}

// Text is content.body of a message event, else "".
func (e MatrixEvent) Text() string {
	if e.Type != "m.room.message" {
		return ""
	}
	s, _ := e.Content["body"].(string)
	return s
}

// String is the content's field of that name if it is a string, else "".
func (e MatrixEvent) String(field string) string {
	s, _ := e.Content[field].(string)
	return s
}

// NioError is a refusal by the homeserver.
type NioError struct {
	Command, Code, Message string
}

func (e *NioError) Error() string {
	return fmt.Sprintf("testnet: matrix-nio: %s: %s: %s", e.Command, e.Code, e.Message)
}

type nioAnswer struct {
	ID    int    `json:"id"`
	OK    bool   `json:"ok"`
	Code  string `json:"code"`
	Error string `json:"error"`
	raw   json.RawMessage
}

// StartNio starts a client, logs user (a local part or a whole Matrix ID) in and starts to sync; it returns after
// the first sync. It ends with ctx or Stop.
func StartNio(ctx context.Context, homeserverURL, user, password string) (*NioClient, error) {
	if err := CheckNio(ctx); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mimibridge-nio-")
	if err != nil {
		return nil, fmt.Errorf("testnet: start matrix-nio: %w", err)
	}
	c := &NioClient{dir: dir, answers: map[int]chan nioAnswer{}, changed: make(chan struct{})}
	fail := func(err error) (*NioClient, error) {
		c.Stop()
		return nil, fmt.Errorf("testnet: start matrix-nio for %s: %w", user, err)
	}
	script := filepath.Join(dir, "nioclient.py")
	if err := os.WriteFile(script, []byte(nioScript), 0o600); err != nil {
		return fail(err)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	c.in = inW
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		return fail(err)
	}
	c.proc, err = Start(ctx, Command{
		Name: "matrix-nio", Path: nioPython, Args: []string{"-u", script},
		Log: filepath.Join(dir, "nio.log"), Stdin: inR, Stdout: outW,
	})
	inR.Close()
	outW.Close()
	if err != nil {
		outR.Close()
		return fail(err)
	}
	go c.read(outR)

	var resp struct {
		UserID string `json:"user_id"`
	}
	err = c.Do(ctx, "login", map[string]any{"homeserver": homeserverURL, "user": user, "password": password}, &resp)
	if err != nil {
		return fail(err)
	}
	c.UserID = resp.UserID
	if _, err := c.Wait(ctx, func(e NioEvent) bool { return e.Kind == "synced" }); err != nil {
		return fail(err)
	}
	return c, nil
}

// Stop ends the client.
func (c *NioClient) Stop() {
	if c.in != nil {
		c.in.Close()
	}
	if c.proc != nil {
		c.proc.Stop()
	}
	_ = os.RemoveAll(c.dir)
}

func (c *NioClient) read(out *os.File) {
	defer out.Close()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := append([]byte(nil), lines.Bytes()...)
		var a nioAnswer
		if json.Unmarshal(line, &a) == nil && a.ID != 0 {
			a.raw = line
			c.mu.Lock()
			ch := c.answers[a.ID]
			delete(c.answers, a.ID)
			c.mu.Unlock()
			if ch != nil {
				ch <- a
			}
			continue
		}
		var ev NioEvent
		if json.Unmarshal(line, &ev) != nil || ev.Kind == "" {
			continue
		}
		c.mu.Lock()
		c.events = append(c.events, ev)
		c.wake()
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = lines.Err()
	if c.ended == nil {
		c.ended = errors.New("the client has ended")
	}
	for id, ch := range c.answers {
		delete(c.answers, id)
		close(ch)
	}
	c.wake()
}

func (c *NioClient) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Do runs one command of nioclient.py and decodes its answer into out, if not nil. A refusal by the homeserver is
// a *NioError.
func (c *NioClient) Do(ctx context.Context, cmd string, args map[string]any, out any) error {
	c.mu.Lock()
	if c.ended != nil {
		err := c.ended
		c.mu.Unlock()
		return fmt.Errorf("testnet: matrix-nio: %s: %w", cmd, err)
	}
	c.next++
	id := c.next
	ch := make(chan nioAnswer, 1)
	c.answers[id] = ch
	msg := map[string]any{}
	for k, v := range args {
		msg[k] = v
	}
	msg["id"], msg["cmd"] = id, cmd
	line, err := json.Marshal(msg)
	if err == nil {
		_, err = c.in.Write(append(line, '\n'))
	}
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("testnet: matrix-nio: %s: %w", cmd, err)
	}
	select {
	case a, ok := <-ch:
		if !ok {
			return fmt.Errorf("testnet: matrix-nio: %s: the client has ended", cmd)
		}
		if !a.OK {
			return &NioError{Command: cmd, Code: a.Code, Message: a.Error}
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(a.raw, out)
	case <-ctx.Done():
		return fmt.Errorf("testnet: matrix-nio: %s: %w", cmd, ctx.Err())
	}
}

// Join joins a room by id or alias, or accepts an invitation to it.
func (c *NioClient) Join(ctx context.Context, room string) error {
	return c.Do(ctx, "join", map[string]any{"room": room}, nil)
}

// Leave leaves a room or declines an invitation.
func (c *NioClient) Leave(ctx context.Context, room string) error {
	return c.Do(ctx, "leave", map[string]any{"room": room}, nil)
}

// Invite invites a user.
func (c *NioClient) Invite(ctx context.Context, room, user string) error {
	return c.Do(ctx, "invite", map[string]any{"room": room, "user": user}, nil)
}

// Kick removes a user.
func (c *NioClient) Kick(ctx context.Context, room, user, reason string) error {
	return c.Do(ctx, "kick", map[string]any{"room": room, "user": user, "reason": reason}, nil)
}

// SendText sends an m.text message; txn may be empty. Sending twice with one txn sends once.
func (c *NioClient) SendText(ctx context.Context, room, body, txn string) (eventID string, err error) {
	return c.Send(ctx, room, "m.room.message", map[string]any{"msgtype": "m.text", "body": body}, txn)
}

// Send sends any event that is not state.
func (c *NioClient) Send(ctx context.Context, room, typ string, content map[string]any, txn string) (eventID string, err error) {
	var resp struct {
		EventID string `json:"event_id"`
	}
	err = c.Do(ctx, "send", map[string]any{"room": room, "type": typ, "content": content, "txn": txn}, &resp)
	return resp.EventID, err
}

// CreateRoom makes a private room and invites users.
func (c *NioClient) CreateRoom(ctx context.Context, name string, direct bool, invite ...string) (room string, err error) {
	var resp struct {
		Room string `json:"room"`
	}
	err = c.Do(ctx, "create_room", map[string]any{"name": name, "direct": direct, "invite": invite}, &resp)
	return resp.Room, err
}

// State is the room's current state.
func (c *NioClient) State(ctx context.Context, room string) ([]MatrixEvent, error) {
	var resp struct {
		Events []MatrixEvent `json:"events"`
	}
	err := c.Do(ctx, "state", map[string]any{"room": room}, &resp)
	return resp.Events, err
}

// Members maps the room's users to their membership ("join", "invite", "leave", "ban").
func (c *NioClient) Members(ctx context.Context, room string) (map[string]string, error) {
	state, err := c.State(ctx, room)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for _, ev := range state {
		if ev.Type == "m.room.member" && ev.StateKey != nil {
			m[*ev.StateKey] = ev.String("membership")
		}
	}
	return m, nil
}

// Messages is the whole timeline of the room that this user may see, oldest first, read anew from the
// homeserver.
func (c *NioClient) Messages(ctx context.Context, room string) ([]MatrixEvent, error) {
	var resp struct {
		Events []MatrixEvent `json:"events"`
	}
	err := c.Do(ctx, "messages", map[string]any{"room": room}, &resp)
	return resp.Events, err
}

// Events is everything the syncs have brought so far, in order.
func (c *NioClient) Events() []NioEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]NioEvent(nil), c.events...)
}

// Wait returns the first event, of all since the start, that match accepts; it waits for it until ctx ends.
func (c *NioClient) Wait(ctx context.Context, match func(NioEvent) bool) (NioEvent, error) {
	seen := 0
	for {
		c.mu.Lock()
		news, changed, ended := c.events[seen:len(c.events):len(c.events)], c.changed, c.ended
		seen = len(c.events)
		c.mu.Unlock()
		for _, ev := range news {
			if match(ev) {
				return ev, nil
			}
		}
		if ended != nil {
			log := ""
			if c.proc != nil {
				log = strings.TrimSpace(Tail(c.proc.LogPath(), 5))
			}
			return NioEvent{}, fmt.Errorf("testnet: matrix-nio %s: %w\n%s", c.UserID, ended, log)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return NioEvent{}, fmt.Errorf("testnet: matrix-nio %s: waiting for an event: %w", c.UserID, ctx.Err())
		}
	}
}

// WaitInvite waits until the user is invited to a room and returns its id. room "" means any.
func (c *NioClient) WaitInvite(ctx context.Context, room string) (string, error) {
	ev, err := c.Wait(ctx, func(e NioEvent) bool { return e.Kind == "invite" && (room == "" || e.Room == room) })
	return ev.Room, err
}

// WaitEvent waits for a timeline event of the room.
func (c *NioClient) WaitEvent(ctx context.Context, room string, match func(MatrixEvent) bool) (MatrixEvent, error) {
	ev, err := c.Wait(ctx, func(e NioEvent) bool { return e.Kind == "timeline" && e.Room == room && match(e.Event()) })
	return ev.Event(), err
}

// WaitText waits for a message event with this body in the room.
func (c *NioClient) WaitText(ctx context.Context, room, body string) (MatrixEvent, error) {
	ev, err := c.WaitEvent(ctx, room, func(e MatrixEvent) bool { return e.Text() == body })
	if err != nil {
		err = fmt.Errorf("waiting for %q: %w", body, err)
	}
	return ev, err
}
