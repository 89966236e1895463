package xmpp

import (
	"crypto/rand"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
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
		err = errNotParticipant
	}
	return
}

// Fields of the configuration form that change something; what else is in it says what MIMI rooms are like.
const (
	confName     = "muc#roomconfig_roomname"
	confDesc     = "muc#roomconfig_roomdesc"
	confPublic   = "muc#roomconfig_publicroom"
	confMembers  = "muc#roomconfig_membersonly"
	confMaxUsers = "muc#roomconfig_maxusers"
	confHistory  = "mimi#history"
)

// roomOwner is muc#owner (XEP-0045 section 10): the form is the room's metadata and policy; a new room is usable at once, and
// accepting its configuration without changes is what it is already.
func (s *service) roomOwner(in *packet, q *element) (*element, error) {
	user, u, info, _, err := s.inRoom(in)
	if err != nil {
		return nil, err
	}
	shadow := room{info: info}
	p, _ := participant(info, user)
	if a := shadow.standing(p).affiliation; a != "owner" && a != "admin" {
		return nil, errOwner
	}
	fresh, err := s.isNew(u)
	if err != nil {
		return nil, err
	}
	if in.typ == "get" {
		yes := func(b bool) string {
			if b {
				return "1"
			}
			return "0"
		}
		limit := "none"
		if info.MaxUsers > 0 {
			limit = strconv.FormatUint(uint64(info.MaxUsers), 10)
		}
		maxUsers := field(confMaxUsers, "list-single", "The most participants", limit)
		for _, v := range []string{"none", "10", "50", "200", "1000", limit} {
			maxUsers.add(el(nsData, "option", "label", v).add(textEl(nsData, "value", v)))
		}
		whois := field("muc#roomconfig_whois", "list-single", "Who sees real addresses", "anyone")
		whois.add(el(nsData, "option", "label", "everybody").add(textEl(nsData, "value", "anyone")))
		f := form("form", nsRoomConf,
			field(confName, "text-single", "Name", cut(roomName(info), 500)),
			field(confDesc, "text-single", "Description", cut(info.Description, 2000)),
			field(confPublic, "boolean", "Publicly listed", yes(info.Discoverable || fresh)),
			field(confMembers, "boolean", "Only for those who were invited", yes(!info.Open && !fresh)),
			field("muc#roomconfig_passwordprotectedroom", "boolean", "Needs a password (never)", "0"),
			field("muc#roomconfig_roomsecret", "text-private", "Password"),
			field(confHistory, "boolean", "Newcomers may read what was said before", yes(info.History || fresh)),
			maxUsers, whois,
			field("muc#roomconfig_persistentroom", "boolean", "Exists while nobody is in it (always)", "1"))
		f.add(textEl(nsData, "title", "Configuration of "+cut(roomName(info), 200)))
		return el(nsMUCOwner, "query").add(f), nil
	}
	if d := q.child(nsMUCOwner, "destroy"); d != nil {
		intent := adapter.Intent{Kind: adapter.DestroyRoom, Room: u, Actor: user, Reason: cut(d.text(nsMUCOwner, "reason"), 512)}
		if !can(info, user, policy.CanDestroyRoom) {
			if len(info.Participants) > 1 {
				return nil, errDestroy
			}
			intent.Kind = adapter.LeaveRoom
		}
		return nil, s.andAnswer(in, intent, func(bool) *element { return nil })
	}
	x := q.child(nsData, "x")
	switch {
	case x == nil:
		return nil, errNoForm
	case x.attr("type") == "cancel":
		return nil, nil
	}
	return nil, s.configure(in, user, u, info, x, fresh)
}

// configure carries out a submitted form: what is not in it stays as it is.
func (s *service) configure(in *packet, user, u mimiuri.URI, info adapter.Room, x *element, fresh bool) error {
	if truth(formValue(x, "muc#roomconfig_passwordprotectedroom")) || formValue(x, "muc#roomconfig_roomsecret") != "" {
		return errPassword
	}
	if v := formValue(x, "muc#roomconfig_whois"); v != "" && v != "anyone" {
		return errAnonymous
	}
	var meta adapter.MetadataChange
	if v, ok := given(x, confName); ok && v != roomName(info) {
		meta.Name = &v
	}
	if v, ok := given(x, confDesc); ok && v != info.Description {
		meta.Description = &v
	}
	for _, v := range []*string{meta.Name, meta.Description} {
		if v != nil && len(*v) > maxSubject {
			return errConfLong
		}
	}
	var pol adapter.PolicyChange
	flag := func(name string, now, negated bool) *bool {
		v, ok := given(x, name)
		if !ok || v != "0" && v != "1" && v != "true" && v != "false" {
			return nil
		}
		if b := truth(v) != negated; b != now {
			return &b
		}
		return nil
	}
	pol.Discoverable = flag(confPublic, info.Discoverable, false)
	pol.Open = flag(confMembers, info.Open, true)
	pol.History = flag(confHistory, info.History, false)
	if _, ok := given(x, confMembers); fresh && !ok {
		yes := true
		pol.Open = &yes
	}
	if fresh && pol.Open != nil && *pol.Open {
		// What is not said is as it is offered, also in an instant room (section 10.1.2), of which nothing is said: listed and with its
		// history, as open rooms of other services are.
		yes := true
		if _, ok := given(x, confPublic); !ok {
			pol.Discoverable = &yes
		}
		if _, ok := given(x, confHistory); !ok {
			pol.History = &yes
		}
	}
	if v, ok := given(x, confMaxUsers); ok {
		n := uint64(0)
		if v != "none" && v != "" {
			var err error
			if n, err = strconv.ParseUint(v, 10, 32); err != nil {
				return errConfNumber
			}
		}
		if m := uint32(n); m != info.MaxUsers {
			pol.MaxUsers = &m
		}
	}
	if fresh {
		if err := s.db.set(u, settingNew, ""); err != nil {
			return err
		}
	}
	var todo []adapter.Intent
	if meta != (adapter.MetadataChange{}) {
		todo = append(todo, adapter.Intent{Kind: adapter.SetMetadata, Room: u, Actor: user, Metadata: &meta})
	}
	if pol != (adapter.PolicyChange{}) {
		todo = append(todo, adapter.Intent{Kind: adapter.SetPolicy, Room: u, Actor: user, Policy: &pol})
	}
	if len(todo) == 0 {
		return nil
	}
	return s.inTurn(in, todo)
}

// given reads a field of a form; ok is false if it is not in it.
func given(x *element, name string) (string, bool) {
	for _, f := range x.Kids {
		if f.Space == nsData && f.Local == "field" && f.attr("var") == name {
			return strings.TrimSpace(f.text(nsData, "value")), true
		}
	}
	return "", false
}

// inTurn hands in intents one after the other, each when the one before has been carried out, and answers the request when
// all have, or with the first that was refused. It returns errLater, or why nothing was handed in.
func (s *service) inTurn(in *packet, todo []adapter.Intent) error {
	wait, err := s.start(in, todo[0])
	if err != nil {
		return err
	}
	go func() {
		for {
			if _, err := wait(); err != nil {
				s.refuse(in, err)
				return
			}
			if todo = todo[1:]; len(todo) == 0 {
				s.answer(in, nil)
				return
			}
			var err error
			if wait, err = s.start(in, todo[0]); err != nil {
				s.refuse(in, err)
				return
			}
		}
	}()
	return errLater
}

func truth(s string) bool { return s == "1" || s == "true" }

// roomAdmin is muc#admin (XEP-0045 section 9): the lists, affiliations as participation, MIMI roles and bans, roles as MIMI
// roles and removal.
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
		return nil, errItems
	}
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if in.typ == "get" {
		return s.adminList(r, info, items[0])
	}
	var todo []adapter.Intent
	for _, item := range items {
		list, err := s.adminChange(r, info, user, item)
		if err != nil {
			return nil, err
		}
		todo = append(todo, list...)
	}
	if len(todo) == 0 {
		return nil, nil
	}
	return nil, s.inTurn(in, todo)
}

// adminList lists those with an affiliation or a role. r.mu is held.
func (s *service) adminList(r *room, info adapter.Room, want *element) (*element, error) {
	out := el(nsMUCAdmin, "query")
	a, role := want.attr("affiliation"), want.attr("role")
	if a == "outcast" {
		for _, u := range info.Banned {
			out.add(el(nsMUCAdmin, "item", "affiliation", "outcast", "jid", s.userJID(u).String()))
		}
		return out, nil
	}
	for _, m := range r.list() {
		if m.is.affiliation == a || a == "" && m.is.role == role {
			out.add(el(nsMUCAdmin, "item", "affiliation", m.is.affiliation, "role", m.is.role, "jid", m.jid.String(), "nick", m.nick))
		}
	}
	return out, nil
}

// adminChange says what an item asks for. r.mu is held.
func (s *service) adminChange(r *room, info adapter.Room, user mimiuri.URI, item *element) ([]adapter.Intent, error) {
	var target mimiuri.URI
	if j := item.attr("jid"); j != "" {
		a, err := prepare(j)
		if err != nil {
			return nil, errAddress
		}
		var ok bool
		if target, ok = s.user(a.bare()); !ok {
			return nil, errNoUser
		}
	} else {
		m := r.nicks[nickKey(item.attr("nick"))]
		if m == nil {
			return nil, errNoNick
		}
		target = m.user
	}
	p, isIn := participant(info, target)
	banned := slices.Contains(info.Banned, target)
	reason := cut(item.text(nsMUCAdmin, "reason"), 512)
	one := func(i adapter.Intent) []adapter.Intent {
		i.Room, i.Actor, i.Target = info.URI, user, target
		if i.Kind == adapter.LeaveRoom {
			i.Target = mimiuri.URI{}
		}
		return []adapter.Intent{i}
	}
	change := func(want standing) ([]adapter.Intent, error) {
		role, ok := roleFor(info, user, p.Role, want)
		switch {
		case !ok:
			return nil, errNoRole
		case role == p.Role:
			return nil, nil
		}
		return one(adapter.Intent{Kind: adapter.ChangeRole, Role: role}), nil
	}
	switch a := item.attr("affiliation"); a {
	case "":
	case "outcast":
		switch {
		case banned:
			return nil, nil
		case target == user:
			return nil, errSelfBan
		case !can(info, user, policy.CanBan):
			return nil, errBan
		}
		return one(adapter.Intent{Kind: adapter.Ban, Reason: reason}), nil
	case "none":
		switch {
		case banned:
			return one(adapter.Intent{Kind: adapter.Unban}), nil
		case !isIn:
			return nil, nil
		case target == user:
			return one(adapter.Intent{Kind: adapter.LeaveRoom}), nil
		}
		return one(adapter.Intent{Kind: adapter.Remove, Reason: reason}), nil
	case "member", "admin", "owner":
		if isIn {
			if p.Role != 0 && r.standing(p).affiliation == a {
				return nil, nil
			}
			return change(standing{affiliation: a})
		}
		var todo []adapter.Intent
		if banned {
			todo = one(adapter.Intent{Kind: adapter.Unban})
		}
		invite := adapter.Intent{Kind: adapter.Invite}
		if a != "member" {
			role, ok := roleFor(info, user, 0, standing{affiliation: a})
			if !ok {
				return nil, errNoRole
			}
			invite.Role = role
		}
		return append(todo, one(invite)...), nil
	default:
		return nil, errAffiliation
	}
	switch role := item.attr("role"); {
	case !isIn:
		return nil, errNoNick
	case role == "none":
		if target == user {
			return nil, errSelfKick
		}
		h, _ := hint{Kind: hintCommand, Kick: true}.encode()
		return one(adapter.Intent{Kind: adapter.Remove, Reason: reason, Hint: h}), nil
	case role == "moderator":
		return change(standing{role: role})
	case role == "participant" && r.standing(p).affiliation == "admin":
		return change(standing{affiliation: "member", role: role}) // section 9.7: who was made a moderator is none any more
	case role == "visitor" || role == "participant":
		if a := r.standing(p).affiliation; a != "member" {
			return nil, errVoiceOfAdmin // XEP-0045 section 8.4
		}
		return change(standing{affiliation: "member", role: role})
	}
	return nil, errRole
}

// roomRegister is jabber:iq:register at a room (XEP-0045 section 7.10): whoever takes part is registered. Registering is
// choosing the nick, and to remove the registration is to leave for good.
func (s *service) roomRegister(in *packet, q *element) (*element, error) {
	user, u, info, _, err := s.inRoom(in)
	if err == errNotParticipant && info.Open {
		// Whoever may join may register, which is joining.
		if in.typ == "get" {
			return el(nsRegister, "query").add(textEl(nsRegister, "instructions", textRegister), el(nsRegister, "username")), nil
		}
		if q.child(nsRegister, "remove") != nil {
			return nil, nil
		}
		return nil, s.andAnswer(in, adapter.Intent{Kind: adapter.JoinRoom, Room: u, Actor: user}, func(bool) *element { return nil })
	}
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
		return nil, errNick
	}
	if other := r.nicks[nickKey(nick)]; other != nil && other != m {
		return nil, errNickTaken
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
	if intent.Hint == "" {
		intent.Hint, _ = hint{Kind: hintCommand}.encode()
	}
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
