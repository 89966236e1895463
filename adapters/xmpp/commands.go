package xmpp

import (
	"crypto/rand"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// adhoc is a command of XEP-0050. A command has one form, or none at a room, and keeps no state between the
// form and its submission.
type adhoc struct {
	node, name string
	atRoom     bool // offered at a room, too, for that room
}

var adhocs = []adhoc{
	{"leave", "Leave a room for good", true},
	{"create", "Make a room", false},
	{"join", "Take part in a room", false},
	{"invite", "Invite somebody to a room", true},
}

func isCommandNode(node string) bool { return commandOf(node) != nil || simpleOf(node) != nil }

func commandOf(node string) *adhoc {
	for i := range adhocs {
		if adhocs[i].node == node {
			return &adhocs[i]
		}
	}
	return nil
}

// commandItems lists the commands of an address.
func (s *service) commandItems(in *packet, q *element) (*element, error) {
	out := query(nsDiscoItem, q)
	if in.to.resource != "" {
		return nil, errService
	}
	if _, err := s.sender(in); err != nil {
		return out, nil
	}
	for _, c := range adhocs {
		if in.to.local == "" || c.atRoom {
			out.add(el(nsDiscoItem, "item", "jid", in.to.String(), "node", c.node, "name", c.name))
		}
	}
	if in.to.local == "" && in.st == s.toUser {
		for _, c := range simples {
			out.add(el(nsDiscoItem, "item", "jid", in.to.String(), "node", c.node, "name", c.name))
		}
	}
	return out, nil
}

// commandInfo is disco#info of a command, or of their list.
func (s *service) commandInfo(_ *packet, q *element) (*element, error) {
	out := query(nsDiscoInfo, q)
	if c := commandOf(q.attr("node")); c != nil {
		return out.add(identity("automation", "command-node", c.name)).add(features(nsCommands, nsData)...), nil
	}
	if c := simpleOf(q.attr("node")); c != nil {
		return out.add(identity("automation", "command-node", c.name)).add(features(nsCommands, nsData)...), nil
	}
	return out.add(identity("automation", "command-list", "Commands")), nil
}

// command carries out a step of a command, at the gateway or at a room.
func (s *service) command(in *packet, q *element) (*element, error) {
	if err := wants(in, "set"); err != nil {
		return nil, err
	}
	user, err := s.sender(in)
	if err != nil {
		return nil, err
	}
	c := commandOf(q.attr("node"))
	atRoom := in.st == s.toRoom
	simple := simpleOf(q.attr("node"))
	if simple != nil && !atRoom && in.to.local == "" && in.to.resource == "" {
		c = &adhoc{node: simple.node, name: simple.name}
	}
	if c != nil && s.listed(in.from.bare()) && !forListed(c.node) {
		return nil, errListed
	}
	if c == nil || in.to.resource != "" || atRoom && (in.to.local == "" || !c.atRoom) || !atRoom && in.to.local != "" {
		return nil, errNoCommand
	}
	session := q.attr("sessionid")
	if session == "" || len(session) > maxStanzaID {
		session = rand.Text()
	}
	reply := func(status string, kids ...*element) *element {
		return el(nsCommands, "command", "node", c.node, "sessionid", session, "status", status).add(kids...)
	}
	switch q.attr("action") {
	case "cancel":
		return reply("canceled"), nil
	case "", "execute", "next", "complete":
	default:
		return nil, errNoAction
	}

	var u mimiuri.URI
	x := q.child(nsData, "x")
	if simple != nil {
		ctx, cancel := s.timeout()
		defer cancel()
		return s.simpleCommand(ctx, simple, user, x, reply)
	}
	if atRoom {
		if u, err = s.roomAt(in); err != nil {
			return nil, err
		}
	}
	ask := func(fields ...*element) (*element, error) {
		f := form("form", "", fields...)
		f.add(textEl(nsData, "title", c.name))
		return reply("executing", el(nsCommands, "actions", "execute", "complete").add(el(nsCommands, "complete")), f), nil
	}
	fail := func(text string) (*element, error) {
		return reply("completed", note("error", text)), nil
	}

	// The form, if it is needed and has not been filled in.
	if x == nil && !(atRoom && c.node == "leave") {
		switch c.node {
		case "leave":
			rooms, err := s.roomsOf(user)
			if err != nil {
				return nil, err
			}
			if len(rooms) == 0 {
				return reply("completed", note("info", textNoRooms)), nil
			}
			f := field("room", "list-single", "Room")
			f.add(el(nsData, "required"))
			for _, r := range rooms {
				f.add(el(nsData, "option", "label", cut(roomName(r), 500)).add(textEl(nsData, "value", s.roomJID(r.URI).String())))
			}
			return ask(f)
		case "create":
			return ask(field("room", "text-single", "Name in the address").add(el(nsData, "required")), field("name", "text-single", "Name"))
		case "join":
			return ask(field("room", "text-single", "Address or MIMI URI of the room").add(el(nsData, "required")))
		case "invite":
			person := field("person", "text-single", "Address or MIMI URI of the person").add(el(nsData, "required"))
			if atRoom {
				return ask(person)
			}
			return ask(field("room", "text-single", "Address or MIMI URI of the room").add(el(nsData, "required")), person)
		}
	}
	if x != nil && x.attr("type") == "cancel" {
		return reply("canceled"), nil
	}

	if !atRoom {
		var ok bool
		if u, ok = s.anyRoom(formValue(x, "room")); !ok {
			return fail(s.errNoRoomText().Text)
		}
	}
	intent := adapter.Intent{Room: u, Actor: user}
	done := ""
	switch c.node {
	case "leave":
		info, ok, err := s.lookup(u)
		if err != nil {
			return nil, err
		}
		if _, isIn := participant(info, user); !ok || !isIn {
			return fail(errNotParticipant.Text)
		}
		intent.Kind, done = adapter.LeaveRoom, textLeft
	case "create":
		if u.Domain != s.domain {
			return fail(errMadeHere(u.Domain).Text)
		}
		intent.Kind, intent.Name, done = adapter.CreateRoom, cut(formValue(x, "name"), 200), "The room is "+s.roomJID(u).String()+"."
		if intent.Name == "" {
			intent.Name = cut(u.ID, 200)
		}
	case "join":
		intent.Kind, done = adapter.JoinRoom, textJoined
	case "invite":
		target, ok := s.anyUser(formValue(x, "person"))
		if !ok {
			return fail(s.errNobody().Text)
		}
		if err := s.mayInvite(user, target, u); err != nil {
			return fail(toStanzaError(err).Text)
		}
		intent.Kind, intent.Target, done = adapter.Invite, target, s.userJID(target).String()+" takes part in the room now."
	}
	return nil, s.andAnswer(in, intent, func(finished bool) *element {
		if !finished {
			done = textSlow
		}
		return reply("completed", note("info", done))
	})
}

func note(typ, text string) *element {
	return &element{Space: nsCommands, Local: "note", Attr: []attr{{"type", typ}}, Text: text}
}
