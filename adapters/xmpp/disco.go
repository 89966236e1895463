package xmpp

import (
	"runtime/debug"
	"strconv"
	"strings"

	gosrc "gosrc.io/xmpp"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// routeRest answers what no other route has taken: requests with an error, answers not at all.
func (s *service) routeRest(rt *gosrc.Router, st func() *stream) {
	rt.NewRoute().Packet("iq").StanzaType("get", "set").HandlerFunc(s.onIQ(st, func(*packet, *element) (*element, error) {
		return nil, errService
	}))
	rt.NewRoute().Packet("iq").StanzaType("result", "error").HandlerFunc(s.on(st, func(in *packet) {
		s.answered(in)
		// Answers to what an occupant was asked by the room: only an error says something.
		if in.st == s.toRoom && in.typ == "error" && in.from.resource != "" {
			s.log.Debug().Str("condition", conditionOf(in.kids)).Msg("an answer that nobody waits for")
		}
	}))
	rt.NewRoute().Packet("iq").HandlerFunc(s.on(st, func(in *packet) {
		s.refuse(in, errIQType)
	}))
}

// query begins an answer about an address, or a node at it.
func query(space string, asked *element) *element {
	return el(space, "query", "node", asked.attr("node"))
}

func identity(category, typ, name string) *element {
	return el(nsDiscoInfo, "identity", "category", category, "type", typ, "name", name)
}

func features(list ...string) []*element {
	var out []*element
	for _, f := range list {
		out = append(out, el(nsDiscoInfo, "feature", "var", f))
	}
	return out
}

func wants(in *packet, typ string) error {
	if in.typ != typ {
		return errWrongType(typ)
	}
	return nil
}

// roomInfo is disco#info at the rooms domain, at a room, and at an occupant.
func (s *service) roomInfo(in *packet, q *element) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	node := q.attr("node")
	out := query(nsDiscoInfo, q)
	if in.to.local == "" {
		if node != "" {
			return nil, errNoNode
		}
		return out.add(identity("conference", "text", "MIMI rooms")).add(features(
			nsDiscoInfo, nsDiscoItem, nsMUC, nsPing, nsVersion, nsSID, nsOccupant, nsStableID)...), nil
	}
	u, err := s.roomAt(in)
	if err != nil {
		return nil, err
	}
	info, ok, err := s.lookup(u)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errNoRoom
	}
	user, isUser := s.person(in.from.bare())
	_, isIn := participant(info, user)
	isIn = isIn && isUser
	if in.to.resource != "" {
		return nil, s.occupantAsked(in, u)
	}
	if node == "x-roomuser-item" { // XEP-0045 section 7.12: one's own nick
		r, _, err := s.at(u)
		defer s.release(r)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if m := r.members[user]; isIn && m != nil {
			out.add(identity("conference", "text", m.nick))
		}
		return out, nil
	}
	if isCommandNode(node) || node == nsCommands {
		return s.commandInfo(in, q)
	}
	if node != "" {
		return nil, errNoNode
	}
	name := u.ID
	known := isIn || info.Discoverable
	if known && info.Name != "" {
		name = info.Name
	}
	either := func(cond bool, yes, no string) string {
		if cond {
			return yes
		}
		return no
	}
	moderated := false
	for _, role := range info.Roles {
		st := standingOf(role)
		moderated = moderated || st.affiliation == "member" && st.role == "visitor"
	}
	out.add(identity("conference", "text", cut(name, 500))).add(features(
		nsDiscoInfo, nsDiscoItem, nsMUC, nsPing, nsVersion, nsSID, nsOccupant, nsStableID, nsCommands, nsRegister,
		nsMAM, nsMAMExtended, nsModerate, nsModerate0, nsRetract+"#tombstone", nsVCard,
		either(info.Discoverable, "muc_public", "muc_hidden"), either(info.Open, "muc_open", "muc_membersonly"),
		either(moderated, "muc_moderated", "muc_unmoderated"), "muc_nonanonymous", "muc_persistent", "muc_unsecured")...)
	if known {
		f := form("result", nsRoomInfo,
			field("muc#roominfo_description", "text-single", "", cut(either(info.Description != "", info.Description, info.Name), 2000)),
			field("muc#roominfo_occupants", "text-single", "", strconv.Itoa(len(info.Participants))),
			field("muc#roominfo_subject", "text-single", "", cut(info.Subject, 500)),
			field("muc#roominfo_subjectmod", "boolean", "", either(can(info, user, policy.CanChangeRoomSubject), "1", "0")),
			field(confName, "text-single", "", cut(name, 500)))
		if info.MaxUsers > 0 {
			f.add(field(confMaxUsers, "text-single", "", strconv.FormatUint(uint64(info.MaxUsers), 10)))
		}
		if hash := s.avatarHash(info.Avatar); hash != "" {
			f.add(field("muc#roominfo_avatarhash", "text-multi", "", hash))
		}
		out.add(f)
	}
	return out, nil
}

// roomItems is disco#items: one's own rooms at the rooms domain, the occupants at a room. Rooms are shown only to
// those who take part in them.
func (s *service) roomItems(in *packet, q *element) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	out := query(nsDiscoItem, q)
	user, isUser := s.person(in.from.bare())
	if in.to.local == "" {
		if q.attr("node") != "" || !isUser {
			return out, nil
		}
		rooms, err := s.listedFor(user)
		if err != nil {
			return nil, err
		}
		for _, r := range rooms {
			out.add(el(nsDiscoItem, "item", "jid", s.roomJID(r.URI).String(), "name", cut(roomName(r), 500)))
		}
		return out, nil
	}
	u, err := s.roomAt(in)
	if err != nil {
		return nil, err
	}
	if in.to.resource != "" {
		return nil, s.occupantAsked(in, u)
	}
	if q.attr("node") == nsCommands {
		return s.commandItems(in, q)
	}
	r, ok, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errNoRoom
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.attr("node") != "" || r.members[user] == nil && !(isUser && r.info.Open && r.info.Discoverable) {
		return out, nil
	}
	for _, m := range r.list() {
		out.add(el(nsDiscoItem, "item", "jid", r.jid.with(m.nick).String(), "name", m.nick))
	}
	return out, nil
}

// occupantAsked refuses what is asked of an occupant (XEP-0045 section 6.6): they are not asked on behalf of others.
func (s *service) occupantAsked(in *packet, u mimiuri.URI) error {
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[in.from.String()] == nil {
		return errOccupant
	}
	return errService
}

func roomName(r adapter.Room) string {
	if r.Name != "" {
		return r.Name
	}
	return r.URI.ID
}

// roomPing is XEP-0199 at the rooms domain and at rooms, and XEP-0410 at an occupant: whether the
// asking resource is in the room is known here, also after a restart, so nobody else is asked.
func (s *service) roomPing(in *packet, _ *element) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	if in.to.resource == "" {
		return nil, nil
	}
	u, err := s.roomAt(in)
	if err != nil {
		return nil, err
	}
	r, ok, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	se := r.sessions[in.from.String()]
	switch target := r.nicks[nickKey(in.to.resource)]; {
	case !ok || se == nil:
		return nil, errNotIn
	case target == se.m:
		return nil, nil
	case target == nil:
		return nil, errNoNick
	}
	return nil, errService
}

// version is XEP-0092.
func (s *service) version(in *packet, _ *element) (*element, error) {
	if err := wants(in, "get"); err != nil {
		return nil, err
	}
	v := "unknown"
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		v = b.Main.Version
	}
	return el(nsVersion, "query").add(textEl(nsVersion, "name", "mimibridge"), textEl(nsVersion, "version", v)), nil
}

// form makes a data form (XEP-0004) with its type in a hidden field.
func form(typ, formType string, fields ...*element) *element {
	x := el(nsData, "x", "type", typ)
	if formType != "" {
		x.add(field("FORM_TYPE", "hidden", "", formType))
	}
	return x.add(fields...)
}

func field(name, typ, label string, values ...string) *element {
	f := el(nsData, "field", "var", name, "type", typ, "label", label)
	for _, v := range values {
		f.add(textEl(nsData, "value", v))
	}
	return f
}

// formValue reads the first value of a field of a submitted form.
func formValue(x *element, name string) string {
	if x == nil {
		return ""
	}
	for _, f := range x.Kids {
		if f.Space == nsData && f.Local == "field" && f.attr("var") == name {
			return strings.TrimSpace(f.text(nsData, "value"))
		}
	}
	return ""
}

// formValues reads all values of a field of a submitted form.
func formValues(x *element, name string) (out []string) {
	if x == nil {
		return nil
	}
	for _, f := range x.Kids {
		if f.Space == nsData && f.Local == "field" && f.attr("var") == name {
			for _, v := range f.Kids {
				if v.Space == nsData && v.Local == "value" {
					out = append(out, strings.TrimSpace(v.Text))
				}
			}
		}
	}
	return out
}
