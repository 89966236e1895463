package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Help is what a person may type.
const Help = `A line is a message. Lines that begin with a slash:
  /create [NAME]         make the room             /join   enter it     /leave   leave it for good
  /invite USER [ROLE]    add somebody              /kick USER [REASON]
  /ban USER [REASON]     /unban USER               /role USER ROLE      change somebody's role
  /name TEXT             /subject TEXT             /description TEXT    of the room
  /open  /close          whether whoever wants to may join              /destroy  end the room for all
  /reply N TEXT          /edit N TEXT              /delete N            /react N EMOJI   N as in [N]
  /ask USER  /grant USER /refuse USER  /contacts   consent              /block USER  /unblock USER
  /who                   who is in the room        /rooms   your rooms  /direct USER     talk with one person
  /report N NOTE         report a message to the room's provider        /safety USER   a number to compare
  /room ROOM             go on in another room     /help    /quit
A USER is name, name@domain or mimi://domain/u/name; a ROOM is name or mimi://domain/r/name.`

// Options of Chat.
type Options struct {
	Client *http.Client // reaches the daemon
	URL    string       // of the adapter's handler, without a slash at the end
	As     string
	Room   string // may be empty: all rooms are shown
	JSON   bool   // reads Requests and writes Lines and Replies, one JSON object a line
	Last   int    // how many old events are shown first
	In     io.Reader
	Out    io.Writer
}

// Chat talks until the input ends, /quit, or the daemon stops; then it returns nil or the daemon's error. After the end of
// the input it waits for the outcome of what was asked, at most for ten seconds.
func Chat(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &chat{Options: o, only: o.Room, open: map[string]bool{}, change: make(chan struct{}, 1)}
	q := url.Values{"as": {o.As}, "last": {strconv.Itoa(o.Last)}}
	if o.Room != "" {
		q.Set("room", o.Room)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL+"/events?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := o.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answerError(resp)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.read(resp.Body) }()
	typed := make(chan error, 1)
	go func() { typed <- c.write(ctx) }()
	select {
	case err = <-ended:
		return err
	case <-ctx.Done():
		return nil
	case err = <-typed:
	}
	late := time.After(10 * time.Second)
	for err == nil && c.waits() {
		select {
		case <-c.change:
		case <-late:
			return errors.New("what was asked for is still under way")
		case err := <-ended:
			return err
		case <-ctx.Done():
			return nil
		}
	}
	return err
}

type chat struct {
	Options
	only string // the room that the stream is of, or empty

	mu     sync.Mutex
	open   map[string]bool // requests whose outcome has not come
	early  map[string]bool // outcomes that came before the answer to their request
	ids    []string        // message IDs, in the order in which they were shown
	change chan struct{}
}

func (c *chat) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) > 0
}

func (c *chat) poke() {
	select {
	case c.change <- struct{}{}:
	default:
	}
}

// read shows what happens.
func (c *chat) read(body io.Reader) error {
	dec := json.NewDecoder(body)
	for {
		var l Line
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return errors.New("the daemon has ended the connection")
		} else if err != nil {
			return fmt.Errorf("the connection to the daemon: %w", err)
		}
		c.mu.Lock()
		c.show(&l)
		if l.Own != "" {
			if c.open[l.Own] {
				delete(c.open, l.Own)
			} else {
				if c.early == nil || len(c.early) > 1000 { // those of other terminals are among them
					c.early = map[string]bool{}
				}
				c.early[l.Own] = true
			}
		}
		c.mu.Unlock()
		c.poke()
	}
}

func (c *chat) show(l *Line) {
	if c.JSON {
		_ = json.NewEncoder(c.Out).Encode(l)
		return
	}
	if s := c.sentence(l); s != "" {
		fmt.Fprintf(c.Out, "%s %s\n", l.Time.Local().Format("15:04"), s)
	}
}

// printable keeps control characters of others off the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\ufffd'
		}
		return r
	}, s)
}

// sentence is a line for a person.
func (c *chat) sentence(l *Line) string {
	where := ""
	if l.Room != "" && c.Room == "" {
		where = short(l.Room) + " "
	}
	at := func(id string) string {
		if i := slices.Index(c.ids, id); i >= 0 {
			return fmt.Sprintf("[%d]", i+1)
		}
		return "an older message"
	}
	who, by := short(l.User), ""
	if l.Actor != "" && l.Actor != l.User {
		by = " by " + short(l.Actor)
	}
	reason := ""
	if l.Reason != "" {
		reason = ": " + l.Reason
	}
	s := ""
	switch l.Event {
	case "attached":
		return ""
	case "message", "session", "profile":
		c.ids = append(c.ids, l.ID)
		s = fmt.Sprintf("[%d] <%s> ", len(c.ids), short(l.Sender))
		if l.ReplyTo != "" {
			s += "(to " + at(l.ReplyTo) + ") "
		}
		s += l.Text
		for _, f := range l.Files {
			s += " (file: " + f + ")"
		}
	case "edit":
		s = fmt.Sprintf("<%s> corrects %s: %s", short(l.Sender), at(l.Target), l.Text)
	case "delete":
		s = fmt.Sprintf("<%s> retracts %s", short(l.Sender), at(l.Target))
	case "reaction", "changed reaction":
		s = fmt.Sprintf("<%s> %s to %s", short(l.Sender), strings.Join(l.Reactions, " "), at(l.Target))
	case "joined":
		s = "* " + who + " is in the room" + by
	case "left":
		s = "* " + who + " has left" + by + reason
	case "refused":
		s = "! refused: " + l.Error
	case "closed":
		s = "! the room is closed"
	case "metadata":
		s = "* the room's description was changed" + by
	case "policy":
		s = "* the room's rules were changed" + by
	case "role":
		s = fmt.Sprintf("* %s has role %d now%s", who, l.Role, by)
	case "banned":
		s = "* " + who + " is banned" + by + reason
	case "unbanned":
		s = "* " + who + " is banned no more" + by
	case "notice":
		s = "! " + l.Text
	case "contact":
		s = fmt.Sprintf("* contact %s: you let them %s, they let you %s", who, l.Grants, l.Granted)
		if l.Asked {
			s += " (they ask: /grant or /refuse)"
		}
	default:
		return ""
	}
	return where + printable(s)
}

// short is a URI as people write it.
func short(uri string) string {
	u, err := mimiuri.Parse(uri)
	if err != nil {
		return uri
	}
	switch u.Kind {
	case mimiuri.User:
		return u.ID + "@" + u.Domain
	case mimiuri.Room:
		return "#" + u.ID + "@" + u.Domain
	}
	return u.Domain
}

// write carries out what is typed, until the input ends.
func (c *chat) write(ctx context.Context) error {
	in := bufio.NewScanner(c.In)
	in.Buffer(make([]byte, 0, 64<<10), maxRequest)
	for in.Scan() {
		line := strings.TrimSuffix(in.Text(), "\r")
		if strings.TrimSpace(line) == "" {
			continue
		}
		req, quit, err := c.parse(line)
		if quit {
			return nil
		}
		var reply *Reply
		if err == nil && req != nil {
			req.As = c.As
			if req.Room == "" {
				req.Room = c.Room
			}
			reply, err = c.do(ctx, req)
		}
		c.mu.Lock()
		switch {
		case c.JSON && err != nil:
			_ = json.NewEncoder(c.Out).Encode(Reply{Error: err.Error()})
		case c.JSON && reply != nil:
			_ = json.NewEncoder(c.Out).Encode(reply)
		case err != nil:
			fmt.Fprintf(c.Out, "! %s\n", printable(err.Error()))
		case reply != nil:
			fmt.Fprint(c.Out, printable(reply.text()))
		}
		c.mu.Unlock()
	}
	return in.Err()
}

func (c *chat) do(ctx context.Context, req *Request) (*Reply, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/do", bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	resp, err := c.Client.Do(post)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, answerError(resp)
	}
	reply := new(Reply)
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(reply); err != nil {
		return nil, err
	}
	if reply.ID != "" && (c.only == "" || req.Room == c.only) {
		c.mu.Lock()
		if c.early[reply.ID] {
			delete(c.early, reply.ID)
		} else {
			c.open[reply.ID] = true
		}
		c.mu.Unlock()
	}
	return reply, nil
}

func answerError(resp *http.Response) error {
	var e struct {
		Error string `json:"error"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&e) != nil || e.Error == "" {
		return fmt.Errorf("the daemon answers %s", resp.Status)
	}
	return errors.New(e.Error)
}

// text is an answer for a person.
func (r *Reply) text() string {
	var b strings.Builder
	if r.Text != "" {
		b.WriteString(r.Text + "\n")
	}
	room := func(r *RoomReply) {
		fmt.Fprintf(&b, "%s %s\n", r.URI, r.Name)
		for _, u := range slices.Sorted(maps.Keys(r.Participants)) {
			fmt.Fprintf(&b, "  %-40s %s\n", short(u), r.Participants[u])
		}
		for _, u := range r.Banned {
			fmt.Fprintf(&b, "  %-40s banned\n", short(u))
		}
		if len(r.Roles) > 0 {
			fmt.Fprintf(&b, "  roles: %s\n", strings.Join(slices.Sorted(maps.Values(r.Roles)), ", "))
		}
	}
	if r.Room != nil {
		room(r.Room)
	}
	for i := range r.Rooms {
		room(&r.Rooms[i])
	}
	for _, c := range r.Contacts {
		fmt.Fprintf(&b, "  %-40s you: %s, they: %s\n", short(c.User), c.Grants, c.Granted)
	}
	return b.String()
}

// parse reads a line.
func (c *chat) parse(line string) (req *Request, quit bool, err error) {
	if c.JSON {
		req = new(Request)
		if err := json.Unmarshal([]byte(line), req); err != nil {
			return nil, false, errors.New("this is no JSON object of a request")
		}
		return req, req.Do == "quit", nil
	}
	if !strings.HasPrefix(line, "/") || strings.HasPrefix(line, "//") {
		return &Request{Do: "say", Text: strings.TrimPrefix(line, "/")}, false, nil
	}
	verb, rest, _ := strings.Cut(line[1:], " ")
	rest = strings.TrimSpace(rest)
	first, tail, _ := strings.Cut(rest, " ")
	tail = strings.TrimSpace(tail)
	req = &Request{Do: verb}
	switch verb {
	case "quit":
		return nil, true, nil
	case "help":
		fmt.Fprintln(c.Out, Help)
		return nil, false, nil
	case "room":
		if c.only != "" {
			return nil, false, errors.New("this chat is about one room; start it without one to go from room to room")
		}
		c.mu.Lock()
		c.Room = rest
		c.mu.Unlock()
		return nil, false, nil
	case "reply", "edit", "delete", "react", "report":
		n, err := strconv.Atoi(strings.Trim(first, "[]"))
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil || n < 1 || n > len(c.ids) {
			return nil, false, errors.New("which message? Write the number that stands before it in brackets")
		}
		req.To, req.Text = c.ids[n-1], tail
	case "invite", "role":
		req.User, req.Role = first, tail
	case "kick", "ban":
		req.User, req.Reason = first, tail
	case "unban", "ask", "grant", "refuse", "block", "unblock", "direct", "safety":
		req.User = rest
	default:
		req.Text = rest
	}
	return req, false, nil
}
