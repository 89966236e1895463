package testnet

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os/exec"
)

//go:embed nioclient.py
var nioScript string

// CheckNio reports whether matrix-nio is installed; the error names the command that installs it.
func CheckNio(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, debianPython, "-c", "import nio").CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("testnet: the Matrix client matrix-nio is missing: apt-get install -y python3-matrix-nio (%w: %s)", err, lastLines(string(out), 1))
}

// NioClient is a Matrix client that nobody here wrote (matrix-nio, a process of its own), logged in and
// syncing. Its Do takes any command of nioclient.py.
type NioClient struct {
	*scripted[NioEvent]
	UserID string
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
	Redacts  string         `json:"redacts"`
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

// StartNio starts a client, logs user (a local part or a whole Matrix ID) in and starts to sync; it returns after
// the first sync. It ends with ctx or Stop.
func StartNio(ctx context.Context, homeserverURL, user, password string) (*NioClient, error) {
	if err := CheckNio(ctx); err != nil {
		return nil, err
	}
	s, err := startScript(ctx, "matrix-nio", nioScript, func(line []byte) (ev NioEvent, ok bool) {
		return ev, json.Unmarshal(line, &ev) == nil && ev.Kind != ""
	})
	if err != nil {
		return nil, err
	}
	c := &NioClient{scripted: s}
	fail := func(err error) (*NioClient, error) {
		c.Stop()
		return nil, fmt.Errorf("testnet: start matrix-nio for %s: %w", user, err)
	}
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
