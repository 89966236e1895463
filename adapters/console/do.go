package console

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Request is what a user wants done.
type Request struct {
	As     string `json:"as"`
	Do     string `json:"do"`             // a verb of verbs
	Room   string `json:"room,omitempty"` // a URI, or the name of a room of this provider
	ID     string `json:"id,omitempty"`   // the request's own name: the same again is done once; empty: a random one
	Text   string `json:"text,omitempty"`
	To     string `json:"to,omitempty"` // the message that is answered, edited, deleted, reacted to, reported
	User   string `json:"user,omitempty"`
	Role   string `json:"role,omitempty"`   // name or number
	Preset string `json:"preset,omitempty"` // create: cooperative, strict, moderated
	Reason string `json:"reason,omitempty"`
}

// Reply says that a request was taken, or answers a question. What becomes of it comes as a Line with Own set to ID.
type Reply struct {
	ID       string        `json:"id,omitempty"`
	Error    string        `json:"error,omitempty"`
	Room     *RoomReply    `json:"room,omitempty"`
	Rooms    []RoomReply   `json:"rooms,omitempty"`
	Contacts []ContactLine `json:"contacts,omitempty"`
	Text     string        `json:"text,omitempty"`
}

// RoomReply is a room as its users see it.
type RoomReply struct {
	URI          string            `json:"uri"`
	Name         string            `json:"name,omitempty"`
	Subject      string            `json:"subject,omitempty"`
	Participants map[string]string `json:"participants"` // user to the name of their role
	Banned       []string          `json:"banned,omitempty"`
	Roles        map[string]string `json:"roles,omitempty"` // number to name
	Offline      bool              `json:"offline,omitempty"`
	Gone         bool              `json:"gone,omitempty"`
}

// ContactLine is a contact of the user.
type ContactLine struct {
	User    string `json:"user"`
	Room    string `json:"room,omitempty"`
	Grants  string `json:"grants"`
	Granted string `json:"granted"`
}

// maxRequest bounds a request: a message's limit, and room for the rest.
const maxRequest = 1 << 20

func (a *Adapter) serveDo(w http.ResponseWriter, r *http.Request) {
	a.requests.Add(1)
	var req Request
	b, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil || len(b) > maxRequest || json.Unmarshal(b, &req) != nil {
		refuse(w, fault.New(fault.Malformed, "this is no request"))
		return
	}
	reply, err := a.do(r.Context(), &req)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(reply)
}

// do carries a request out, or hands it in as an intent.
func (a *Adapter) do(ctx context.Context, req *Request) (*Reply, error) {
	h, err := a.ready(ctx)
	if err != nil {
		return nil, err
	}
	user, err := a.user(ctx, h, req.As)
	if err != nil {
		return nil, err
	}
	if done, reply, err := a.people(ctx, h, user, req); done || err != nil {
		return reply, err
	}
	room, err := parseRoom(req.Room, h.Domain())
	if err != nil {
		return nil, err
	}
	switch req.Do {
	case "report":
		id, err := content.ParseMessageID(req.To)
		if err != nil {
			return nil, fault.New(fault.Malformed, "which message? Its id has 64 hexadecimal digits")
		}
		return &Reply{}, h.Report(ctx, user, room, id, req.Reason, req.Text)
	case "safety":
		other, err := parseUser(req.User, h.Domain())
		if err != nil {
			return nil, fault.Newf(fault.Malformed, "%q is no user", clip(req.User))
		}
		number, err := h.SafetyNumber(ctx, user, other, room)
		return &Reply{Text: number}, err
	}
	if req.Do == "who" {
		r, err := a.room(ctx, h, room)
		if err != nil {
			return nil, err
		}
		return &Reply{Room: r}, nil
	}
	in, err := a.intent(ctx, h, user, room, req)
	if err != nil {
		return nil, err
	}
	if err := h.Intake(ctx, *in); err != nil {
		return nil, err
	}
	return &Reply{ID: in.OriginID}, nil
}

// people does what is about people, not about a room.
func (a *Adapter) people(ctx context.Context, h adapter.Host, user mimiuri.URI, req *Request) (done bool, reply *Reply, err error) {
	consent := map[string]adapter.ConsentAction{"ask": adapter.AskConsent, "grant": adapter.GrantConsent, "refuse": adapter.RefuseConsent, "forget": adapter.ForgetConsent}
	switch req.Do {
	case "rooms":
		uris, err := h.Rooms(ctx)
		if err != nil {
			return true, nil, err
		}
		reply = &Reply{Rooms: []RoomReply{}}
		for _, u := range uris {
			r, err := a.room(ctx, h, u)
			if err == nil && r.Participants[user.String()] != "" {
				reply.Rooms = append(reply.Rooms, *r)
			}
		}
		return true, reply, nil
	case "contacts":
		list, err := h.Contacts(ctx, user)
		reply = &Reply{Contacts: []ContactLine{}}
		for _, c := range list {
			l := ContactLine{User: c.User.String(), Grants: consentNames[c.Grants], Granted: consentNames[c.Granted]}
			if !c.Room.IsZero() {
				l.Room = c.Room.String()
			}
			reply.Contacts = append(reply.Contacts, l)
		}
		return true, reply, err
	case "ask", "grant", "refuse", "forget", "block", "unblock", "direct":
	default:
		return false, nil, nil
	}
	other, err := parseUser(req.User, h.Domain())
	if err != nil {
		return true, nil, fault.Newf(fault.Malformed, "%q is no user", clip(req.User))
	}
	switch req.Do {
	case "block":
		err = h.Block(ctx, user, other)
	case "unblock":
		err = h.Unblock(ctx, user, other)
	case "direct":
		room, err := h.DirectRoom(ctx, user, other)
		return true, &Reply{Room: &RoomReply{URI: room.String()}}, err
	default:
		err = h.Consent(ctx, user, other, mimiuri.URI{}, consent[req.Do])
	}
	return true, &Reply{}, err
}

// intent makes the intent of a request about a room.
func (a *Adapter) intent(ctx context.Context, h adapter.Host, user, room mimiuri.URI, req *Request) (*adapter.Intent, error) {
	in := &adapter.Intent{Room: room, Actor: user, OriginID: req.ID, Reason: req.Reason, OriginTime: time.Now()}
	if in.OriginID == "" {
		in.OriginID = rand.Text()
	}
	target := func(kind adapter.IntentKind) (err error) {
		in.Kind = kind
		if in.Target, err = parseUser(req.User, h.Domain()); err != nil {
			return fault.Newf(fault.Malformed, "%q is no user", clip(req.User))
		}
		return nil
	}
	set := func(m adapter.MetadataChange) { in.Kind, in.Metadata = adapter.SetMetadata, &m }
	open := func(v bool) { in.Kind, in.Policy = adapter.SetPolicy, &adapter.PolicyChange{Open: &v} }
	var err error
	switch req.Do {
	case "say", "reply", "edit", "delete", "react":
		in.Kind = adapter.SendMessage
		in.Content, err = message(req)
	case "create":
		in.Kind, in.Name, in.Preset = adapter.CreateRoom, req.Text, adapter.Preset(req.Preset)
	case "join":
		in.Kind = adapter.JoinRoom
	case "leave":
		in.Kind = adapter.LeaveRoom
	case "destroy":
		in.Kind = adapter.DestroyRoom
	case "invite":
		if err = target(adapter.Invite); err == nil && req.Role != "" {
			in.Role, err = a.role(ctx, h, room, req.Role)
		}
	case "kick":
		err = target(adapter.Remove)
	case "ban":
		err = target(adapter.Ban)
	case "unban":
		err = target(adapter.Unban)
	case "role":
		if err = target(adapter.ChangeRole); err == nil {
			in.Role, err = a.role(ctx, h, room, req.Role)
		}
	case "name":
		set(adapter.MetadataChange{Name: &req.Text})
	case "subject":
		set(adapter.MetadataChange{Subject: &req.Text})
	case "description":
		set(adapter.MetadataChange{Description: &req.Text})
	case "open":
		open(true)
	case "close":
		open(false)
	default:
		err = fault.Newf(fault.Malformed, "there is no %q; /help lists what there is", clip(req.Do))
	}
	return in, err
}

func message(req *Request) (*content.Message, error) {
	if req.Do == "say" && req.To == "" {
		if req.Text == "" {
			return nil, fault.New(fault.Malformed, "there is no text")
		}
		return content.Text(req.Text), nil
	}
	to, err := content.ParseMessageID(req.To)
	if err != nil {
		return nil, fault.New(fault.Malformed, "which message? Its id has 64 hexadecimal digits")
	}
	switch req.Do {
	case "edit":
		return content.Edit(to, nil, content.TextPart(req.Text)), nil
	case "delete":
		return content.Delete(to, nil), nil
	case "react":
		return content.React(to, req.Text), nil
	}
	return content.Reply(to, content.TextPart(req.Text)), nil
}

// role finds a role of the room by its name or number.
func (a *Adapter) role(ctx context.Context, h adapter.Host, room mimiuri.URI, name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	r, _, err := h.Room(ctx, room)
	if err != nil {
		return 0, err
	}
	var names []string
	for _, role := range r.Roles {
		if strings.EqualFold(role.Name, strings.NewReplacer("-", "_", " ", "_").Replace(name)) {
			return role.Index, nil
		}
		names = append(names, role.Name)
	}
	return 0, fault.Newf(fault.Malformed, "there is no role %q; there are %s", clip(name), strings.Join(names, ", "))
}

func (a *Adapter) room(ctx context.Context, h adapter.Host, room mimiuri.URI) (*RoomReply, error) {
	r, ok, err := h.Room(ctx, room)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fault.New(fault.NotFound, "this room is not known here")
	}
	out := &RoomReply{URI: room.String(), Name: r.Name, Subject: r.Subject, Participants: map[string]string{}, Roles: map[string]string{}, Offline: r.Offline, Gone: r.Gone}
	for _, p := range r.Participants {
		name := p.RoleName
		if name == "" {
			name = strconv.FormatUint(uint64(p.Role), 10)
		}
		out.Participants[p.User.String()] = name
	}
	for _, b := range r.Banned {
		out.Banned = append(out.Banned, b.String())
	}
	for _, role := range r.Roles {
		out.Roles[strconv.FormatUint(uint64(role.Index), 10)] = role.Name
	}
	return out, nil
}
