package xmpp

import (
	"crypto/rand"
	"fmt"
	"sort"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// routeUsers says what is handled at the users domain: the gateway itself, and the users elsewhere.
func (s *service) routeUsers() {
	st := func() *stream { return s.toUser }
	rt := s.userRoutes
	rt.NewRoute().Packet("message").HandlerFunc(s.on(st, s.userMessage))
	rt.NewRoute().Packet("presence").HandlerFunc(s.on(st, s.userPresence))
	iq := func(ns string, f func(*packet, *element) (*element, error)) {
		rt.NewRoute().Packet("iq").StanzaType("get", "set").IQNamespaces(ns).HandlerFunc(s.onIQ(st, f))
	}
	iq(nsPing, func(in *packet, _ *element) (*element, error) {
		if err := s.exists(in); err != nil {
			return nil, err
		}
		return nil, wants(in, "get")
	})
	iq(nsDiscoInfo, s.userInfo)
	iq(nsDiscoItem, s.userItems)
	iq(nsRegister, s.gatewayRegister)
	iq(nsGateway, s.gatewayPrompt)
	iq(nsCommands, s.command)
	iq(nsVCard, s.userVCard)
	iq(nsVCard4, s.userVCard)
	iq(nsPubSub, s.userPubSub)
	iq(nsSearch, s.search)
	iq(nsVersion, func(in *packet, q *element) (*element, error) {
		if in.to.local != "" {
			return nil, errService
		}
		return s.version(in, q)
	})
	s.routeRest(rt, st)
}

// exists tells whether an address at the users domain is the gateway or can be a user elsewhere.
func (s *service) exists(in *packet) error {
	if in.to.local == "" {
		return nil
	}
	if _, ok := s.contact(in.to.local); !ok {
		return errNoContact
	}
	return nil
}

// userInfo is disco#info at the gateway and at users elsewhere.
func (s *service) userInfo(in *packet, q *element) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	if err := s.exists(in); err != nil {
		return nil, err
	}
	node := q.attr("node")
	out := query(nsDiscoInfo, q)
	if in.to.local != "" {
		if node != "" && node != capsNode+"#"+capsVer {
			return nil, errNoNode
		}
		return out.add(identity("account", "registered", "")).add(features(contactFeatures...)...), nil
	}
	switch {
	case node == "":
		return out.add(identity("gateway", "mimi", "MIMI gateway")).add(features(
			nsDiscoInfo, nsDiscoItem, nsCommands, nsRegister, nsGateway, nsPing, nsVersion, nsDirect, nsSearch, nsVCard)...), nil
	case isCommandNode(node) || node == nsCommands:
		return s.commandInfo(in, q)
	}
	return nil, errNoNode
}

// userItems is disco#items: the rooms domain and the commands at the gateway, nothing at users elsewhere.
func (s *service) userItems(in *packet, q *element) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	if err := s.exists(in); err != nil {
		return nil, err
	}
	out := query(nsDiscoItem, q)
	switch {
	case in.to.local != "":
		return out, nil
	case q.attr("node") == nsCommands:
		return s.commandItems(in, q)
	case q.attr("node") != "":
		return nil, errNoNode
	}
	return out.add(el(nsDiscoItem, "item", "jid", s.rooms, "name", "MIMI rooms")), nil
}

// gatewayRegister is jabber:iq:register at the gateway: nobody needs to register.
func (s *service) gatewayRegister(in *packet, q *element) (*element, error) {
	if in.to.local != "" {
		return nil, errService
	}
	if _, err := s.sender(in); err != nil {
		return nil, err
	}
	switch {
	case in.typ == "get":
		return el(nsRegister, "query").add(el(nsRegister, "registered"),
			textEl(nsRegister, "instructions", "There is nothing to register: whoever may use this gateway can use it at once.")), nil
	case q.child(nsRegister, "remove") != nil:
		return nil, errNoRegistration
	}
	return nil, nil
}

// gatewayPrompt is jabber:iq:gateway (XEP-0100 section 5.4): a client asks for the address of somebody elsewhere.
func (s *service) gatewayPrompt(in *packet, q *element) (*element, error) {
	if in.to.local != "" {
		return nil, errService
	}
	if in.typ == "get" {
		return el(nsGateway, "query").add(
			textEl(nsGateway, "desc", "Enter the MIMI address of the person."),
			textEl(nsGateway, "prompt", "mimi://example.org/u/name")), nil
	}
	u, ok := s.anyUser(q.text(nsGateway, "prompt"))
	if !ok {
		return nil, errNoMIMI
	}
	j := s.userJID(u).String()
	return el(nsGateway, "query").add(textEl(nsGateway, "jid", j), textEl(nsGateway, "prompt", j)), nil
}

// userPresence handles subscriptions, see people.go, and probes. The gateway itself is a contact of whoever wants it.
func (s *service) userPresence(in *packet) {
	if s.plumbStanza(in) {
		return
	}
	from, to := in.to.bare().String(), in.from.bare().String()
	switch in.typ {
	case "subscribe", "subscribed", "unsubscribe", "unsubscribed":
		user, err := s.sender(in)
		if err == nil && in.to.local != "" {
			err = s.contactSubscription(in, user)
		}
		switch {
		case err != nil && in.typ == "subscribe":
			// A client shows no error of this kind: the answer is no, and the reason comes in words.
			s.reply(in.st, el("", "presence", "type", "unsubscribed", "from", from, "to", to).add(textEl("", "status", publicText(err))))
			if in.to.local != "" {
				s.reply(in.st, s.gatewayLine(to, from+": "+publicText(err)))
			}
		case err != nil:
			s.log.Warn().Err(err).Str("type", in.typ).Msg("a subscription was not carried out")
		case in.to.local != "":
		case in.typ == "subscribe":
			s.reply(in.st, el("", "presence", "type", "subscribed", "from", from, "to", to), el("", "presence", "from", from, "to", to))
		case in.typ == "unsubscribe":
			s.reply(in.st, el("", "presence", "type", "unsubscribed", "from", from, "to", to))
		}
	case "probe", "":
		user, err := s.sender(in)
		if err != nil {
			return
		}
		if in.to.local == "" {
			s.reply(in.st, el("", "presence", "from", from, "to", in.from.String()))
			return
		}
		other, ok := s.contact(in.to.local)
		if !ok {
			return
		}
		ctx, cancel := s.timeout()
		defer cancel()
		if is, err := s.db.hasContact(ctx, user, other); err == nil && is {
			s.reply(in.st, s.contactPresence(other).with(in.from.String()))
		}
	}
}

// userMessage handles messages to the gateway and to users elsewhere.
func (s *service) userMessage(in *packet) {
	if s.plumbStanza(in) || s.granted(in) || s.listNews(in) {
		return
	}
	if in.typ == "error" || in.typ == "headline" {
		return
	}
	if err := s.userMessageIn(in); err != nil {
		s.refuse(in, err)
	}
}

func (s *service) userMessageIn(in *packet) error {
	body, _ := bodyOf(in)
	x := find(in.kids, nsDirect, "x")
	if x == nil && body == "" && in.to.local == "" && find(in.kids, nsReporting, "report") == nil {
		return nil // typing, receipts and the like; an invitation of another room, too
	}
	user, err := s.sender(in)
	if err != nil {
		return err
	}
	if err := s.exists(in); err != nil {
		return err
	}
	if in.to.local != "" && s.listed(in.from.bare()) {
		return errListed
	}
	if rep := find(in.kids, nsReporting, "report"); rep != nil {
		return s.reported(in, user, rep)
	}
	switch {
	case in.typ == "groupchat":
		return errGroupchatToUser
	case in.to.local != "" && x != nil: // XEP-0249
		a, err := prepare(x.attr("jid"))
		if err != nil || a.domain != s.rooms {
			return s.errForeignRoom()
		}
		u, ok := s.addresses.room(a.local)
		if !ok {
			return errNoRoom
		}
		return s.invite(in, hintInvite, user, u, in.to.bare(), "direct", x.attr("reason"))
	case in.to.local != "":
		other, _ := s.contact(in.to.local)
		return s.directMessage(in, user, other)
	case body == "":
		return nil
	}
	return s.chat(in, user, body)
}

// chat is a line to the gateway. What cannot be answered at once is answered when it has been done, by the event
// that carries the hint.
func (s *service) chat(in *packet, user mimiuri.URI, line string) error {
	say := func(format string, args ...any) error {
		h := hint{Kind: hintChat, JID: in.from.String()}
		s.reply(s.toUser, s.chatLine(h, fmt.Sprintf(format, args...)))
		return nil
	}
	words := strings.Fields(line)
	if len(words) == 0 || len(line) > 4000 {
		return say("%s", helpText())
	}
	h, ok := hint{Kind: hintChat, JID: in.from.String()}.encode()
	if !ok {
		return errLongJID
	}
	id := in.id
	if id == "" {
		id = rand.Text()
	}
	intent := adapter.Intent{Actor: user, Hint: h, OriginID: originID(in.from, "chat", cut(id, maxStanzaID), shortHash(line))}
	cmd, args := strings.ToLower(words[0]), words[1:]
	if s.listed(in.from.bare()) && !forListed(cmd) {
		return say("%s", errListed.Text)
	}
	if len(args) > 0 {
		var ok bool
		if intent.Room, ok = s.anyRoom(args[0]); !ok && (cmd == "create" || cmd == "join" || cmd == "invite" || cmd == "leave") {
			return say("%s: %s", cut(args[0], 200), s.errNoRoomText().Text)
		}
	}
	switch {
	case cmd == "rooms" && len(args) == 0:
		rooms, err := s.roomsOf(user)
		if err != nil {
			return say("%s", fault.Public(err))
		}
		if len(rooms) == 0 {
			return say("%s", textNoRooms)
		}
		lines := make([]string, 0, len(rooms))
		for _, r := range rooms {
			lines = append(lines, fmt.Sprintf("%s – %s, %d participants", s.roomJID(r.URI), cut(roomName(r), 200), len(r.Participants)))
		}
		sort.Strings(lines)
		return say("%s", strings.Join(lines, "\n"))
	case cmd == "create" && len(args) > 0:
		if intent.Room.Domain != s.domain {
			return say("%s", errMadeHere(intent.Room.Domain).Text)
		}
		intent.Kind = adapter.CreateRoom
		intent.Name = cut(strings.Join(args[1:], " "), 200)
		if intent.Name == "" {
			intent.Name = cut(intent.Room.ID, 200)
		}
	case cmd == "join" && len(args) == 1:
		intent.Kind = adapter.JoinRoom
	case cmd == "invite" && len(args) == 2:
		target, ok := s.anyUser(args[1])
		if !ok {
			return say("%s: %s", cut(args[1], 200), s.errNobody().Text)
		}
		if err := s.mayInvite(user, target, intent.Room); err != nil {
			return say("%s", toStanzaError(err).Text)
		}
		intent.Kind, intent.Target = adapter.Invite, target
	case cmd == "leave" && len(args) == 1:
		info, ok, err := s.lookup(intent.Room)
		if err != nil {
			return say("%s", fault.Public(err))
		}
		if _, isIn := participant(info, user); !ok || !isIn {
			return say("%s: %s", s.roomJID(intent.Room), errNotParticipant.Text)
		}
		intent.Kind = adapter.LeaveRoom
	default:
		if text, ok := s.simpleLine(user, words); ok {
			return say("%s", text)
		}
		return say("%s", helpText())
	}
	if err := s.intake(intent); err != nil {
		return say("%s", textNotDone+fault.Public(err))
	}
	return nil
}

// mayInvite is what can be said of an invitation before the provider is asked.
func (s *service) mayInvite(user, target, u mimiuri.URI) error {
	if target.Domain == s.domain {
		j, ok := s.ownJID(target)
		if !ok || s.host.Level(j.String()) == adapter.LevelNone {
			return errTheirLevel
		}
	}
	info, ok, err := s.lookup(u)
	if err != nil {
		return err
	}
	if _, isIn := participant(info, user); !ok || !isIn {
		return errInviteOutside
	}
	return nil
}

// chatLine is a line of the gateway to somebody.
func (s *service) chatLine(h hint, text string) *element {
	return el("", "message", "type", "chat", "from", s.users, "to", h.JID).add(textEl("", "body", text))
}

// doneText says what an event means to whoever wanted it.
func doneText(s *service, ev adapter.Event) string {
	room := s.roomJID(ev.Room).String()
	switch {
	case ev.Kind == adapter.Left && ev.User == ev.Actor:
		return "You have left the room " + room + "."
	case ev.Kind == adapter.Left:
		return s.userJID(ev.User).String() + " takes part in the room " + room + " no more."
	case ev.Kind == adapter.Joined && ev.User == ev.Actor:
		return "You take part in the room " + room + " now. An invitation to enter it is on its way."
	case ev.Kind == adapter.Joined:
		return s.userJID(ev.User).String() + " takes part in the room " + room + " now."
	}
	return "Done: " + room
}
