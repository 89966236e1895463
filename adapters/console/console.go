// Package console is an adapter without a network: its users sit at terminals, or are scripts, and reach the provider by
// HTTP through the daemon's admin socket. It is the example for who writes an adapter, and the way for an admin to
// try a link to another provider.
//
// # How an adapter is made, by this example
//
// An adapter implements adapter.Adapter. Run gets the adapter.Host and keeps it until the context is done (here: that
// is all; other adapters connect to a server in it). What local users want is turned into an adapter.Intent with an id of the network's own and given to
// Host.Intake (do.go): once Intake has returned nil, it will be carried out. What happens in rooms comes to Deliver, one
// event at a time per room, in order (this file): returning nil means that it was shown. LocalUser says who exists.
// Optional interfaces are found by type assertion: adapter.ConsentAdapter, for the questions of people elsewhere.
// Nothing else of the core is needed, and nothing else may be imported.
//
// # What it does not do
//
// A terminal keeps no history: events are held in memory, the last few thousand, for those that attach later. A network
// with a history of its own would store its ids in Host.DB instead, and make its message ids of Event.ID, so that an
// event that comes again after a crash is shown once. Whoever may open the admin socket may act as any user: there are no
// passwords here.
//
// # Protocol
//
// POST /do takes a Request and gives a Reply; GET /events?as=USER&room=URI&last=N streams Lines, one JSON object a line,
// from the last N on. Chat (chat.go) is the client of both.
package console

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// kept is how many lines are held for those that attach later, of all rooms together.
const kept = 5000

// Adapter implements adapter.Adapter and http.Handler. Safe for concurrent use.
type Adapter struct {
	mux      *http.ServeMux
	shown    atomic.Uint64
	requests atomic.Uint64

	mu    sync.Mutex
	host  adapter.Host
	users map[string]bool // who has used the console: they exist
	lines []entry         // the last of them is number next-1
	next  uint64
	more  chan struct{} // closed and made anew with each line
}

type entry struct {
	n     uint64
	local []mimiuri.URI // who may see it
	line  Line
}

var (
	_ adapter.Adapter        = (*Adapter)(nil)
	_ adapter.ConsentAdapter = (*Adapter)(nil)
)

// New makes the adapter. It serves once the provider runs it.
func New() *Adapter {
	a := &Adapter{mux: http.NewServeMux(), users: map[string]bool{}, more: make(chan struct{})}
	a.mux.HandleFunc("POST /do", a.serveDo)
	a.mux.HandleFunc("GET /events", a.serveEvents)
	return a
}

// Name implements adapter.Adapter.
func (a *Adapter) Name() string { return "console" }

// Counters are for metrics.
func (a *Adapter) Counters() map[string]uint64 {
	return map[string]uint64{"shown": a.shown.Load(), "requests": a.requests.Load()}
}

// PrepareDB makes the adapter's table in a database, as Run does: for who moves a database.
func PrepareDB(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS console_user (name TEXT NOT NULL PRIMARY KEY)`)
	return err
}

// Run implements adapter.Adapter: the users are read, then there is nothing to do but to be there.
func (a *Adapter) Run(ctx context.Context, host adapter.Host) error {
	db := host.DB()
	if err := PrepareDB(ctx, db); err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, `SELECT name FROM console_user`)
	if err != nil {
		return err
	}
	defer rows.Close()
	users := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		users[name] = true
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	a.mu.Lock()
	a.host, a.users = host, users
	a.wake()
	a.mu.Unlock()
	<-ctx.Done()
	a.mu.Lock()
	a.host = nil
	a.mu.Unlock()
	return nil
}

// ready gives the host; while the daemon starts it waits for some seconds.
func (a *Adapter) ready(ctx context.Context) (adapter.Host, error) {
	late := time.After(5 * time.Second)
	for {
		a.mu.Lock()
		host, more := a.host, a.more
		a.mu.Unlock()
		if host != nil {
			return host, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late:
			return nil, fault.New(fault.Unavailable, "the daemon is starting or stopping")
		}
	}
}

// LocalUser implements adapter.Adapter: whoever has used the console exists.
func (a *Adapter) LocalUser(ctx context.Context, user mimiuri.URI) (bool, error) {
	if _, err := a.ready(ctx); err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.users[user.ID], nil
}

// InvitationAsks implements adapter.InvitationAdapter: who is added to a room reads it, and leaves if they do not want to.
func (a *Adapter) InvitationAsks() bool { return true }

// user gives the URI of a local user and notes that they exist.
func (a *Adapter) user(ctx context.Context, h adapter.Host, name string) (mimiuri.URI, error) {
	u, err := a.lookUp(h, name)
	if err != nil {
		return u, err
	}
	a.mu.Lock()
	known := a.users[u.ID]
	a.mu.Unlock()
	if known {
		return u, nil
	}
	if _, err := h.DB().ExecContext(ctx, `INSERT INTO console_user (name) VALUES ($1) ON CONFLICT DO NOTHING`, u.ID); err != nil {
		return u, err
	}
	a.mu.Lock()
	a.users[u.ID] = true
	a.mu.Unlock()
	return u, nil
}

func (a *Adapter) lookUp(h adapter.Host, name string) (mimiuri.URI, error) {
	u, err := parseUser(name, h.Domain())
	if err == nil && u.Domain != h.Domain() {
		err = errors.New("elsewhere")
	}
	if err != nil {
		return u, fault.Newf(fault.Malformed, "%q is no user of %s", clip(name), h.Domain())
	}
	return u, nil
}

// Deliver implements adapter.Adapter: events that no user of the console may see are not kept.
func (a *Adapter) Deliver(_ context.Context, ev adapter.Event) error {
	a.append(ev.Local, func() Line { return eventLine(&ev) })
	return nil
}

// DeliverConsent implements adapter.ConsentAdapter.
func (a *Adapter) DeliverConsent(_ context.Context, ev adapter.ConsentEvent) error {
	a.append([]mimiuri.URI{ev.Local}, func() Line {
		l := Line{Event: "contact", User: ev.Contact.User.String(), Grants: consentNames[ev.Contact.Grants], Granted: consentNames[ev.Contact.Granted],
			Asked: ev.Asked, Answered: ev.Answered, Time: time.Now().UTC()}
		if !ev.Contact.Room.IsZero() {
			l.Room = ev.Contact.Room.String()
		}
		return l
	})
	return nil
}

func (a *Adapter) append(local []mimiuri.URI, line func() Line) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.ContainsFunc(local, func(u mimiuri.URI) bool { return a.users[u.ID] }) {
		return
	}
	a.shown.Add(1)
	e := entry{n: a.next, local: slices.Clone(local), line: line()}
	e.line.N = a.next + 1
	a.next++
	if len(a.lines) >= kept {
		a.lines = slices.Delete(a.lines, 0, kept/10)
	}
	a.lines = append(a.lines, e)
	a.wake()
}

// wake ends all waiting. The caller holds mu.
func (a *Adapter) wake() {
	close(a.more)
	a.more = make(chan struct{})
}

// since lists what a user may see from number n on, and what to wait on for more.
func (a *Adapter) since(user mimiuri.URI, room string, n uint64) (lines []Line, next uint64, more chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, _ := slices.BinarySearchFunc(a.lines, n, func(e entry, n uint64) int {
		switch {
		case e.n < n:
			return -1
		case e.n > n:
			return 1
		}
		return 0
	})
	for _, e := range a.lines[at:] {
		if slices.Contains(e.local, user) && (room == "" || e.line.Room == room || e.line.Room == "") {
			lines = append(lines, e.line)
		}
	}
	return lines, a.next, a.more
}

// ServeHTTP serves what the package comment describes.
func (a *Adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

func (a *Adapter) serveEvents(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	h, err := a.ready(ctx)
	if err != nil {
		refuse(w, err)
		return
	}
	q := r.URL.Query()
	user, err := a.user(ctx, h, q.Get("as"))
	if err != nil {
		refuse(w, err)
		return
	}
	room := q.Get("room")
	if room != "" {
		u, err := parseRoom(room, h.Domain())
		if err != nil {
			refuse(w, err)
			return
		}
		room = u.String()
	}
	last, err := strconv.Atoi(q.Get("last"))
	if err != nil || last < 0 {
		last = 0
	}
	after, err := strconv.ParseUint(q.Get("after"), 10, 64) // the number of the last line that was seen
	resumed := err == nil
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	lines, next, more := a.since(user, room, after)
	if !resumed {
		lines = lines[max(0, len(lines)-last):]
	}
	// The first line says that the stream is attached: what comes later will be seen.
	hello := Line{Event: "attached", User: user.String(), Room: room, Time: time.Now().UTC()}
	for lines = append([]Line{hello}, lines...); ; {
		for _, l := range lines {
			if enc.Encode(l) != nil {
				return
			}
		}
		if flush.Flush() != nil {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
		lines, next, more = a.since(user, room, next)
	}
}

// refuse answers with a sentence for the person.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch fault.KindOf(err) {
	case fault.Malformed, fault.TooLarge:
		status = http.StatusBadRequest
	case fault.Forbidden:
		status = http.StatusForbidden
	case fault.NotFound:
		status = http.StatusNotFound
	case fault.Conflict:
		status = http.StatusConflict
	case fault.Limited:
		status = http.StatusTooManyRequests
	case fault.Unavailable:
		status = http.StatusServiceUnavailable
	}
	text := fault.Public(err)
	if text == "" {
		text = "it failed; the log of the daemon says why"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

// parseUser reads a URI, "name" for a user of domain, or "name@other.domain".
func parseUser(s, domain string) (mimiuri.URI, error) {
	if strings.Contains(s, "://") {
		return mimiuri.ParseKind(s, mimiuri.User)
	}
	if at := strings.LastIndexByte(s, '@'); at > 0 {
		return mimiuri.New(s[at+1:], mimiuri.User, s[:at])
	}
	return mimiuri.New(domain, mimiuri.User, s)
}

// parseRoom reads a URI, or "name" for a room of domain.
func parseRoom(s, domain string) (u mimiuri.URI, err error) {
	if strings.Contains(s, "://") {
		u, err = mimiuri.ParseKind(s, mimiuri.Room)
	} else {
		u, err = mimiuri.New(domain, mimiuri.Room, s)
	}
	if err != nil {
		err = fault.Newf(fault.Malformed, "%q is no room: mimi://DOMAIN/r/NAME, or NAME for one of this provider", clip(s))
	}
	return u, err
}

func clip(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}

var consentNames = map[adapter.ConsentState]string{
	adapter.ConsentNone: "none", adapter.ConsentAsking: "asking", adapter.ConsentAsked: "asked",
	adapter.ConsentGranted: "granted", adapter.ConsentRefused: "refused", adapter.ConsentBlocked: "blocked",
}

// Line is one thing that happened, as it is shown.
type Line struct {
	Event string    `json:"event"` // attached, message, edit, delete, reaction …, joined, left, refused, closed, metadata, role, policy, banned, unbanned, notice, contact
	N     uint64    `json:"n,omitempty"`
	Room  string    `json:"room,omitempty"`
	Seq   uint64    `json:"seq,omitempty"`
	Time  time.Time `json:"time"`
	Own   string    `json:"own,omitempty"` // the id of the request that it comes from

	ID        string   `json:"id,omitempty"`     // of a message
	Sender    string   `json:"sender,omitempty"` // of a message
	Text      string   `json:"text,omitempty"`
	Target    string   `json:"target,omitempty"`   // the message that is edited, deleted, reacted to
	ReplyTo   string   `json:"reply_to,omitempty"` // the message that is answered
	Reactions []string `json:"reactions,omitempty"`
	Files     []string `json:"files,omitempty"` // names, or types of those that have none

	User   string `json:"user,omitempty"`
	Actor  string `json:"actor,omitempty"`
	Role   uint32 `json:"role,omitempty"`
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`

	Grants   string `json:"grants,omitempty"`
	Granted  string `json:"granted,omitempty"`
	Asked    bool   `json:"asked,omitempty"`
	Answered bool   `json:"answered,omitempty"`
}

var eventNames = map[adapter.EventKind]string{
	adapter.Joined: "joined", adapter.Left: "left", adapter.Refused: "refused", adapter.Closed: "closed", adapter.Metadata: "metadata",
	adapter.RoleChanged: "role", adapter.Policy: "policy", adapter.Banned: "banned", adapter.Unbanned: "unbanned", adapter.Notice: "notice",
}

func eventLine(ev *adapter.Event) Line {
	l := Line{Event: eventNames[ev.Kind], Room: ev.Room.String(), Seq: ev.Seq, Time: ev.Time, Reason: ev.Reason, Role: ev.Role, Text: ev.Notice}
	set := func(p *string, u mimiuri.URI) {
		if !u.IsZero() {
			*p = u.String()
		}
	}
	set(&l.User, ev.User)
	set(&l.Actor, ev.Actor)
	if ev.Origin != nil && ev.Origin.Adapter == "console" {
		l.Own = ev.Origin.ID
	}
	switch ev.Kind {
	case adapter.Message:
		c := ev.Content.Classify()
		l.Event, l.ID, l.Sender, l.Reactions = c.Kind.String(), ev.ID.String(), ev.Sender.String(), c.Reactions
		l.Text, _, _ = ev.Content.ReadableText(nil)
		if !c.Target.IsZero() {
			l.Target = c.Target.String()
		} else if c.InReplyTo != nil {
			l.ReplyTo = c.InReplyTo.String()
		}
		for _, f := range c.Files {
			name := f.Part.ContentType
			if f.Part.Cardinality == content.ExternalPart && f.Part.External.Filename != "" {
				name = f.Part.External.Filename
			}
			l.Files = append(l.Files, name)
		}
	case adapter.Refused:
		set(&l.User, ev.Target)
		l.Error = fault.Public(ev.Err)
	}
	return l
}
