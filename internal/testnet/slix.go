package testnet

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
)

//go:embed slixclient.py
var slixScript string

// CheckSlix reports whether slixmpp is installed; the error names the command that installs it.
func CheckSlix(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, debianPython, "-c", "import slixmpp").CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("testnet: the XMPP client slixmpp is missing: apt-get install -y python3-slixmpp (%w: %s)", err, lastLines(string(out), 1))
}

// SlixClient is an XMPP client that nobody here wrote (slixmpp, a process of its own), online. Its Do takes any
// command of slixclient.py.
type SlixClient struct {
	*scripted[SlixEvent]
	JID string // full
}

// SlixEvent is a stanza that came, or the end of the connection.
type SlixEvent struct {
	Kind      string            `json:"event"` // message, presence, understood, disconnected, fatal
	From      string            `json:"from"`
	To        string            `json:"to"`
	Type      string            `json:"type"`
	ID        string            `json:"id"`
	XML       string            `json:"xml"`
	Body      string            `json:"body"`
	Subject   *string           `json:"subject"`
	StanzaID  string            `json:"stanza_id"` // XEP-0359
	OriginID  string            `json:"origin_id"`
	Delayed   bool              `json:"delayed"` // XEP-0203
	Status    []int             `json:"status"`  // of a MUC
	Item      map[string]string `json:"item"`    // affiliation, role, jid, nick
	Invite    *SlixInvite       `json:"invite"`
	Condition string            `json:"condition"` // of an error
	Err       string            `json:"error"`     // its text

	// What the client itself understood of a message that came: correction, retraction, moderation, reactions, reply, displayed,
	// receipt; the message it is about, and what it says. Kind is "understood".
	What  string `json:"what"`
	Ref   string `json:"ref"`
	Value string `json:"value"`
}

// SlixInvite is a mediated invitation (XEP-0045 section 7.8.2).
type SlixInvite struct {
	From   string `json:"from"`
	Reason string `json:"reason"`
}

// Bare is the sender without its resource.
func (e SlixEvent) Bare() string {
	bare, _, _ := strings.Cut(e.From, "/")
	return bare
}

// Nick is the sender's resource: in a room, the nick.
func (e SlixEvent) Nick() string {
	_, nick, _ := strings.Cut(e.From, "/")
	return nick
}

// HasStatus reports whether the stanza has a MUC status code.
func (e SlixEvent) HasStatus(code int) bool {
	for _, s := range e.Status {
		if s == code {
			return true
		}
	}
	return false
}

// StartSlix starts a client and brings it online at the server that listens on addr. With caFile, a PEM file, it insists
// on STARTTLS and checks the server's certificate; without, it uses no TLS. It ends with ctx or Stop.
func StartSlix(ctx context.Context, addr, jid, password, caFile string) (*SlixClient, error) {
	if err := CheckSlix(ctx); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("testnet: start slixmpp: %w", err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("testnet: start slixmpp: %w", err)
	}
	s, err := startScript(ctx, "slixmpp", slixScript, func(line []byte) (ev SlixEvent, ok bool) {
		return ev, json.Unmarshal(line, &ev) == nil && ev.Kind != ""
	})
	if err != nil {
		return nil, err
	}
	c := &SlixClient{scripted: s}
	var resp struct {
		JID string `json:"jid"`
	}
	if err := c.Do(ctx, "connect", map[string]any{"jid": jid, "password": password, "host": host, "port": n, "ca": caFile}, &resp); err != nil {
		c.Stop()
		return nil, fmt.Errorf("testnet: start slixmpp for %s: %w", jid, err)
	}
	c.JID = resp.JID
	return c, nil
}

// Join enters a room and returns once the client is in it (status 110): the self-presence, or the error presence
// as a *ScriptError.
func (c *SlixClient) Join(ctx context.Context, room, nick string) (SlixEvent, error) {
	mark := c.Mark()
	if err := c.Do(ctx, "join", map[string]any{"room": room, "nick": nick}, nil); err != nil {
		return SlixEvent{}, err
	}
	ev, err := c.WaitSince(ctx, mark, func(e SlixEvent) bool {
		return e.Kind == "presence" && e.Bare() == room && (e.Type == "error" || e.Type == "" && e.HasStatus(110))
	})
	if err == nil && ev.Type == "error" {
		err = &ScriptError{Client: c.name, Command: "join " + room, Code: ev.Condition, Message: ev.Err}
	}
	return ev, err
}

// Part leaves a room's occupancy, not its membership.
func (c *SlixClient) Part(ctx context.Context, room, nick string) error {
	return c.Do(ctx, "part", map[string]any{"room": room, "nick": nick}, nil)
}

// Instant accepts the default configuration of a room that has just been made.
func (c *SlixClient) Instant(ctx context.Context, room string) error {
	return c.Do(ctx, "instant", map[string]any{"room": room}, nil)
}

// Invite sends a mediated invitation to a JID.
func (c *SlixClient) Invite(ctx context.Context, room, jid, reason string) error {
	return c.Do(ctx, "invite", map[string]any{"room": room, "jid": jid, "reason": reason}, nil)
}

// Say sends a groupchat message with this id, as stanza and as origin id; empty lets the client choose. It returns once
// the client has handed it to the socket.
func (c *SlixClient) Say(ctx context.Context, room, body, id string) error {
	return c.Do(ctx, "message", map[string]any{"to": room, "type": "groupchat", "body": body, "mid": id}, nil)
}

// Chat sends a message to one person.
func (c *SlixClient) Chat(ctx context.Context, to, body, id string) error {
	return c.Do(ctx, "message", map[string]any{"to": to, "type": "chat", "body": body, "mid": id}, nil)
}

// Raw sends XML as it is.
func (c *SlixClient) Raw(ctx context.Context, xml string) error {
	return c.Do(ctx, "raw", map[string]any{"xml": xml}, nil)
}

// IQ sends an iq of the type with the payload, XML, and returns the result, XML. An error is a *ScriptError.
func (c *SlixClient) IQ(ctx context.Context, typ, to, payload string) (string, error) {
	var resp struct {
		XML string `json:"xml"`
	}
	err := c.Do(ctx, "iq", map[string]any{"type": typ, "to": to, "payload": payload}, &resp)
	return resp.XML, err
}

// CommandResult is how an ad-hoc command ended.
type CommandResult struct {
	Status string              `json:"status"`
	Notes  []string            `json:"notes"`
	Fields map[string][]string `json:"fields"`
	XML    string              `json:"xml"`
}

// Command runs an ad-hoc command (XEP-0050) to its end, giving the fields it asks for.
func (c *SlixClient) Command(ctx context.Context, to, node string, fields map[string]string) (CommandResult, error) {
	var resp CommandResult
	err := c.Do(ctx, "command", map[string]any{"to": to, "node": node, "fields": fields}, &resp)
	return resp, err
}

// WaitMessage waits for a groupchat message with this text in the room; delayed ones count.
func (c *SlixClient) WaitMessage(ctx context.Context, room, body string) (SlixEvent, error) {
	ev, err := c.Wait(ctx, func(e SlixEvent) bool {
		return e.Kind == "message" && e.Type == "groupchat" && e.Bare() == room && e.Body == body
	})
	if err != nil {
		err = fmt.Errorf("waiting for %q: %w", body, err)
	}
	return ev, err
}
