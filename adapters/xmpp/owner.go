package xmpp

import (
	"crypto/rand"
	"database/sql"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// inRoom finds the room a request is about, and the asker in it.
func (s *service) inRoom(in *packet) (user, u mimiuri.URI, info adapter.Room, p adapter.Participant, err error) {
	if user, err = s.sender(in); err != nil {
		return
	}
	if in.to.local == "" || in.to.resource != "" {
		err = errService
		return
	}
	if u, err = s.roomAt(in); err != nil {
		return
	}
	var ok bool
	if info, ok, err = s.lookup(u); err != nil {
		return
	}
	if !ok {
		err = errNoRoom
		return
	}
	if p, ok = participant(info, user); !ok {
		err = errForbidden("You do not take part in this room.")
	}
	return
}

// roomOwner is muc#owner (XEP-0045 section 10): the configuration, which is what MIMI rooms are like and
// cannot be changed from here; a new room is usable at once, and submitting a form to it is accepted. Destroying
// a room is leaving it, for its only participant.
func (s *service) roomOwner(in *packet, q *element) (*element, error) {
	user, u, info, p, err := s.inRoom(in)
	if err != nil {
		return nil, err
	}
	if !p.Admin {
		return nil, errForbidden("Only the owners of a room can do this.")
	}
	if in.typ == "get" {
		return el(nsMUCOwner, "query").add(form("form", nsRoomConf,
			field("muc#roomconfig_roomname", "text-single", "Name", cut(roomName(info), 500)),
			field("muc#roomconfig_membersonly", "boolean", "Only for participants", "1"),
			field("muc#roomconfig_persistentroom", "boolean", "Exists while nobody is in it", "1"),
			field("muc#roomconfig_publicroom", "boolean", "Publicly listed", "0"),
			field("muc#roomconfig_whois", "list-single", "Who sees real addresses", "anyone"))), nil
	}
	if d := q.child(nsMUCOwner, "destroy"); d != nil {
		if len(info.Participants) > 1 {
			return nil, &stanzaError{"cancel", "not-allowed", "A room with others in it cannot be destroyed from here; you can leave it."}
		}
		return nil, s.andAnswer(in, adapter.Intent{Kind: adapter.LeaveRoom, Room: u, Actor: user}, func(bool) *element { return nil })
	}
	x := q.child(nsData, "x")
	switch {
	case x == nil:
		return nil, errBadRequest("This is no form.")
	case x.attr("type") == "cancel":
		return nil, nil
	}
	if truth(formValue(x, "muc#roomconfig_passwordprotectedroom")) || formValue(x, "muc#roomconfig_roomsecret") != "" {
		return nil, errNotAcceptable("MIMI rooms have no passwords; people are let in by invitation.")
	}
	return nil, nil
}

func truth(s string) bool { return s == "1" || s == "true" }

// roomAdmin is muc#admin (XEP-0045 section 9) as far as it means participation: the lists, affiliation member as an
// invitation, affiliation none as the end of a participation.
func (s *service) roomAdmin(in *packet, q *element) (*element, error) {
	user, u, info, _, err := s.inRoom(in)
	if err != nil {
		return nil, err
	}
	var items []*element
	for _, k := range q.Kids {
		if k.Space == nsMUCAdmin && k.Local == "item" {
			items = append(items, k)
		}
	}
	if len(items) == 0 || len(items) > 20 {
		return nil, errBadRequest("Between one and 20 items, please.")
	}
	if in.typ == "get" {
		want, wantRole := items[0].attr("affiliation"), items[0].attr("role")
		out := el(nsMUCAdmin, "query")
		r, _, err := s.at(u)
		defer s.release(r)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, m := range r.list() {
			if a := affiliation(m.role); a == want || want == "" && wantRole == role(m.role) {
				out.add(el(nsMUCAdmin, "item", "affiliation", a, "role", role(m.role), "jid", m.jid.String(), "nick", m.nick))
			}
		}
		return out, nil
	}
	if len(items) != 1 {
		return nil, errUnsupported("One change at a time, please.")
	}
	item := items[0]
	if item.attr("jid") == "" {
		return nil, errUnsupported("Roles cannot be changed from here.")
	}
	a, err := prepare(item.attr("jid"))
	if err != nil {
		return nil, &stanzaError{"modify", "jid-malformed", "The address is not valid."}
	}
	target, ok := s.user(a.bare())
	if !ok {
		return nil, errNotFound("There is no user of this address.")
	}
	_, isIn := participant(info, target)
	intent := adapter.Intent{Room: u, Actor: user, Target: target}
	switch item.attr("affiliation") {
	case "member":
		if isIn {
			return nil, nil
		}
		intent.Kind = adapter.Invite
	case "none":
		if !isIn {
			return nil, nil
		}
		intent.Kind = adapter.Remove
		if target == user {
			intent.Kind, intent.Target = adapter.LeaveRoom, mimiuri.URI{}
		}
	default:
		return nil, errUnsupported("Affiliations other than member and none cannot be set from here.")
	}
	return nil, s.andAnswer(in, intent, func(bool) *element { return nil })
}

// roomRegister is jabber:iq:register at a room (XEP-0045 section 7.10): whoever takes part is registered. Registering is
// choosing the nick, and to remove the registration is to leave for good.
func (s *service) roomRegister(in *packet, q *element) (*element, error) {
	user, u, _, _, err := s.inRoom(in)
	if err != nil {
		return nil, err
	}
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return nil, err
	}
	if in.typ == "set" && q.child(nsRegister, "remove") != nil {
		return nil, s.andAnswer(in, adapter.Intent{Kind: adapter.LeaveRoom, Room: u, Actor: user}, func(bool) *element { return nil })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.members[user]
	if m == nil {
		return nil, errNotIn
	}
	if in.typ == "get" {
		return el(nsRegister, "query").add(el(nsRegister, "registered"), textEl(nsRegister, "username", m.nick)), nil
	}
	want := formValue(q.child(nsData, "x"), "muc#register_roomnick")
	if want == "" {
		want = strings.TrimSpace(q.text(nsRegister, "username"))
	}
	nick := cleanNick(want)
	if nick == "" {
		return nil, errNotAcceptable("This nick cannot be shown.")
	}
	if other := r.nicks[nickKey(nick)]; other != nil && other != m {
		return nil, &stanzaError{"cancel", "conflict", "Somebody else in this room has this nick."}
	}
	if nick == m.nick {
		return nil, nil
	}
	if err := s.db.write(func(tx *sql.Tx) error { return putNick(tx, r.uri, nickRow{user, nick, m.name}) }); err != nil {
		return nil, err
	}
	out := r.renamed(m, nick, nil)
	for _, x := range r.ordered() {
		if x.m == m {
			out = append(out, r.presence(m, "100", "110").with(x.full))
		} else if m.shown {
			out = append(out, r.presence(m).with(x.full))
		}
	}
	return nil, r.send(out...)
}

// roomModerate is XEP-0425, in its present and its first form: somebody else's message is retracted.
func (s *service) roomModerate(in *packet, q *element) (*element, error) {
	user, u, info, _, err := s.inRoom(in)
	if err != nil {
		return nil, err
	}
	if in.typ != "set" || q.Space == nsModerate && q.child(nsRetract, "retract") == nil || q.Space == nsFasten && q.child(nsModerate0, "moderate") == nil {
		return nil, errService
	}
	ctx, cancel := s.timeout()
	defer cancel()
	c, err := s.composeModeration(ctx, q.attr("id"), talk{room: u, user: user}, mayDelete(info, user))
	if err != nil || c == nil {
		return nil, err
	}
	return nil, s.andAnswer(in, adapter.Intent{Kind: adapter.SendMessage, Room: u, Actor: user, Content: c}, func(bool) *element { return nil })
}

// answerWait is how long a request waits for its intent to be carried out. After that it is answered as
// accepted: the provider has it on disk and goes on trying.
const answerWait = 15 * time.Second

// andAnswer hands in an intent for a request, and answers the request when it is known what became of it, or, with
// done false, when that takes long. It returns errLater, or why the intent was not taken.
func (s *service) andAnswer(in *packet, intent adapter.Intent, result func(done bool) *element) error {
	wait, err := s.start(in, intent)
	if err != nil {
		return err
	}
	go func() {
		done, err := wait()
		if err != nil {
			s.refuse(in, err)
			return
		}
		s.answer(in, result(done))
	}()
	return errLater
}

// start hands in an intent; wait waits for a while until it has been carried out, and tells whether it has.
func (s *service) start(in *packet, intent adapter.Intent) (wait func() (done bool, err error), err error) {
	intent.OriginID = originID(in.from, "iq", cut(in.id, maxStanzaID), rand.Text())
	intent.Hint, _ = hint{Kind: hintCommand}.encode()
	done, stop, err := s.await(intent.OriginID)
	if err != nil {
		return nil, err
	}
	if err := s.intake(intent); err != nil {
		stop()
		return nil, err
	}
	return func() (bool, error) {
		defer stop()
		t := time.NewTimer(answerWait)
		defer t.Stop()
		select {
		case ev := <-done:
			if ev.Kind != adapter.Refused {
				return true, nil
			}
			if ev.Err == nil {
				return false, fault.New(fault.Forbidden, "")
			}
			return false, ev.Err
		case <-t.C:
			return false, nil
		case <-s.ctx.Done():
			return false, errNotRunning
		}
	}, nil
}
