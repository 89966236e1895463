package xmpp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// simple is a command that is done at once: the same as an ad-hoc command (XEP-0050) and as a line to the gateway, in which the fields
// stand one behind the other, the last one to the line's end.
type simple struct {
	node, name string
	usage      string // of the line, behind the node
	fields     []commandField
	run        func(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error)
}

type commandField struct {
	name, typ, label string
	required         bool
	options          []string
}

var simples = []simple{
	{"find", "Find people elsewhere", "FIELD DOMAIN VALUE", []commandField{
		{"field", "list-single", "By what", true, []string{"handle", "nick", "fullName", "email", "phone"}},
		{"domain", "text-single", "Their provider's domain", true, nil}, {"value", "text-single", "What exactly", true, nil}}, runFind},
	{"contacts", "List consents", "", nil, runContacts},
	{"ask", "Ask somebody for their consent", "PERSON [ROOM]", personRoom, consent(adapter.AskConsent, textDoneAsk)},
	{"allow", "Let somebody add you and write to you", "PERSON [ROOM]", personRoom, consent(adapter.GrantConsent, textDoneAllow)},
	{"refuse", "Refuse somebody, or take a consent back", "PERSON [ROOM]", personRoom, consent(adapter.RefuseConsent, textDoneRefuse)},
	{"blocked", "List who and what is blocked", "", nil, runBlocked},
	{"block", "Block a person, a room or a domain", "WHAT", blockFields, runBlock(true)},
	{"unblock", "Unblock a person, a room or a domain", "WHAT", blockFields, runBlock(false)},
	{"report", "Report a message", "ROOM MESSAGE REASON [NOTE]", []commandField{{"room", "text-single", "Room", true, nil},
		{"message", "text-single", "The message's stanza-id", true, nil}, {"reason", "list-single", "Reason", true, []string{"spam", "abuse", "other"}},
		{"note", "text-single", "Note", false, nil}}, runReport},
	{"safety", "Safety number with somebody", "PERSON [ROOM]", personRoom, runSafety},
	{"settings", "Settings", "[receipts|typing|mentions|avatar on|off] [consent ask|contacts|everyone|nobody]", []commandField{
		{settingReceipts, "list-single", "Tell others what was delivered and read", false, onOff},
		{settingTyping, "list-single", "Tell others that you are typing", false, onOff},
		{settingMentions, "list-single", "Send mentions while you are not in the room", false, onOff},
		{settingAvatar, "list-single", "Show people elsewhere your account's picture", false, onOff},
		{"consent", "list-single", "Who may add you to rooms", false, []string{"ask", "contacts", "everyone", "nobody"}}}, runSettings},
	{"profile", "What others may know of you", "[NAME]", []commandField{{"handle", "list-single", "To be found by your address", false, onOff}, {"name", "text-single", "Your name", false, nil}}, runProfile},
	{"plumb", "Connect a chat room of this server with a MIMI room", "CHATROOM ROOM [speakers|none]", []commandField{
		{"muc", "text-single", "Address of the chat room, of which you are an owner", true, nil}, {"room", "text-single", "Address or MIMI URI of the MIMI room", true, nil},
		{"puppets", "list-single", "Who speaks for people elsewhere: they themselves, or the bridge", false, []string{plumbSpeakers, plumbNone}}}, runPlumb},
	{"unplumb", "Take that connection away", "ROOM", []commandField{{"room", "text-single", "Address of either room", true, nil}}, runUnplumb},
	{"export", "Export what is stored of you", "", nil, runExport},
	{"delete", "Delete what is stored of you", "yes", []commandField{{"sure", "list-single", "Leave all rooms and delete everything?", true, []string{"no", "yes"}}}, runDelete},
}

var (
	personRoom  = []commandField{{"person", "text-single", "Address or MIMI URI of the person", true, nil}, {"room", "text-single", "For one room only", false, nil}}
	blockFields = []commandField{{"what", "text-single", "An address, a MIMI URI or a domain", true, nil}}
	onOff       = []string{"on", "off"}
)

func simpleOf(node string) *simple {
	for i := range simples {
		if simples[i].node == node {
			return &simples[i]
		}
	}
	return nil
}

// simpleCommand carries out a step of an ad-hoc command.
func (s *service) simpleCommand(ctx context.Context, c *simple, user mimiuri.URI, x *element, reply func(status string, kids ...*element) *element) (*element, error) {
	if x == nil && len(c.fields) > 0 {
		var fields []*element
		for _, f := range c.fields {
			value := ""
			if c.node == "settings" {
				var err error
				if value, err = s.settingNow(ctx, user, f.name); err != nil {
					return nil, err
				}
			}
			e := field(f.name, f.typ, f.label)
			if value != "" {
				e.add(textEl(nsData, "value", value))
			}
			if f.required {
				e.add(el(nsData, "required"))
			}
			for _, o := range f.options {
				e.add(el(nsData, "option", "label", o).add(textEl(nsData, "value", o)))
			}
			fields = append(fields, e)
		}
		f := form("form", "", fields...)
		f.add(textEl(nsData, "title", c.name))
		return reply("executing", el(nsCommands, "actions", "execute", "complete").add(el(nsCommands, "complete")), f), nil
	}
	if x != nil && x.attr("type") == "cancel" {
		return reply("canceled"), nil
	}
	v := make(map[string]string)
	for _, f := range c.fields {
		v[f.name] = cut(formValue(x, f.name), 2000)
		if f.required && v[f.name] == "" {
			return reply("completed", note("error", errFillIn(f.label).Text)), nil
		}
	}
	text, err := c.run(s, ctx, user, v)
	if err != nil {
		var own *stanzaError
		if !errors.As(err, &own) && fault.Temporary(err) {
			return nil, err
		}
		return reply("completed", note("error", publicText(err))), nil
	}
	return reply("completed", note("info", text)), nil
}

// simpleLine carries out a line to the gateway; ok is false if it is none of these commands, or not written as one.
func (s *service) simpleLine(user mimiuri.URI, words []string) (text string, ok bool) {
	c := simpleOf(strings.ToLower(words[0]))
	if c == nil {
		return "", false
	}
	args := words[1:]
	v := make(map[string]string)
	if c.node == "settings" {
		if len(args)%2 != 0 {
			return "", false
		}
		for i := 0; i < len(args); i += 2 {
			v[args[i]] = args[i+1]
		}
	} else {
		fields := c.fields
		if c.node == "profile" {
			fields = fields[1:]
		}
		for i, f := range fields {
			if i >= len(args) {
				if f.required {
					return "", false
				}
				break
			}
			v[f.name] = args[i]
			if i == len(fields)-1 {
				v[f.name] = strings.Join(args[i:], " ")
			}
		}
	}
	ctx, cancel := s.timeout()
	defer cancel()
	text, err := c.run(s, ctx, user, v)
	if err != nil {
		return textNotDone + publicText(err), true
	}
	return text, true
}

func (s *service) readPerson(text string) (mimiuri.URI, error) {
	u, ok := s.anyUser(text)
	if !ok {
		return u, s.errNobody()
	}
	return u, nil
}

func (s *service) readRoom(text string) (mimiuri.URI, error) {
	if text == "" {
		return mimiuri.URI{}, nil
	}
	u, ok := s.anyRoom(text)
	if !ok {
		return u, s.errNoRoomText()
	}
	return u, nil
}

func runFind(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
	list, err := s.host.Find(ctx, user, v["domain"], v["field"], v["value"])
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return textFoundNobody, nil
	}
	var lines []string
	for i, p := range list {
		if i >= 50 {
			break
		}
		lines = append(lines, strings.TrimSpace(s.userJID(p.User).String()+" "+cut(p.Name, 200)))
	}
	return strings.Join(lines, "\n"), nil
}

func runContacts(s *service, ctx context.Context, user mimiuri.URI, _ map[string]string) (string, error) {
	list, err := s.host.Contacts(ctx, user)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return textNoContacts, nil
	}
	say := func(c adapter.ConsentState) string {
		switch c {
		case adapter.ConsentAsking:
			return "asked, no answer yet"
		case adapter.ConsentAsked:
			return "asks"
		case adapter.ConsentGranted:
			return "yes"
		case adapter.ConsentRefused:
			return "no"
		case adapter.ConsentBlocked:
			return "blocked"
		}
		return "–"
	}
	var lines []string
	for _, c := range list {
		where := ""
		if !c.Room.IsZero() {
			where = " for " + s.roomJID(c.Room).String()
		}
		lines = append(lines, fmt.Sprintf("%s%s: may add you: %s; you may add them: %s", s.userJID(c.User), where, say(c.Grants), say(c.Granted)))
	}
	return strings.Join(lines, "\n"), nil
}

func consent(action adapter.ConsentAction, done string) func(*service, context.Context, mimiuri.URI, map[string]string) (string, error) {
	return func(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
		other, err := s.readPerson(v["person"])
		if err != nil {
			return "", err
		}
		u, err := s.readRoom(v["room"])
		if err != nil {
			return "", err
		}
		if err := s.host.Consent(ctx, user, other, u, action); err != nil {
			return "", err
		}
		if u.IsZero() {
			s.keepRoster(user, other)
		}
		return done, nil
	}
}

func runBlocked(s *service, ctx context.Context, user mimiuri.URI, _ map[string]string) (string, error) {
	list, err := s.host.Blocked(ctx, user)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return textNothingBlocked, nil
	}
	var lines []string
	for _, u := range list {
		switch u.Kind {
		case mimiuri.User:
			lines = append(lines, s.userJID(u).String())
		case mimiuri.Room:
			lines = append(lines, s.roomJID(u).String())
		default:
			lines = append(lines, u.Domain)
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n"), nil
}

// readTarget reads what is to be blocked: a MIMI URI, an address of a person or a room, or a domain.
func (s *service) readTarget(text string) (mimiuri.URI, error) {
	if u, err := mimiuri.Parse(text); err == nil {
		return u, nil
	}
	if strings.Contains(text, "@") {
		if u, ok := s.anyUser(text); ok {
			return u, nil
		}
		if u, ok := s.anyRoom(text); ok {
			return u, nil
		}
		return mimiuri.URI{}, errBlockWhat
	}
	u, err := mimiuri.New(text, mimiuri.Provider, "")
	if err != nil || !strings.Contains(text, ".") {
		return mimiuri.URI{}, errBlockWhat
	}
	return u, nil
}

func runBlock(on bool) func(*service, context.Context, mimiuri.URI, map[string]string) (string, error) {
	return func(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
		u, err := s.readTarget(v["what"])
		if err != nil {
			return "", err
		}
		if on {
			return textDoneBlock, s.host.Block(ctx, user, u)
		}
		return textDoneUnblock, s.host.Unblock(ctx, user, u)
	}
}

func runReport(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
	u, err := s.readRoom(v["room"])
	if err != nil {
		return "", err
	}
	id := idOf(v["message"])
	if id == nil {
		return "", errReportWhat
	}
	return textReported, s.host.Report(ctx, user, u, *id, v["reason"], cut(v["note"], 1000))
}

func runSafety(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
	other, err := s.readPerson(v["person"])
	if err != nil {
		return "", err
	}
	u, err := s.readRoom(v["room"])
	if err != nil {
		return "", err
	}
	n, err := s.host.SafetyNumber(ctx, user, other, u)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s\n%s", n, fmt.Sprintf(textSafety, s.domain, other.Domain)), nil
}

// settingNow is a setting as it is, in words.
func (s *service) settingNow(ctx context.Context, user mimiuri.URI, name string) (string, error) {
	if name == "consent" {
		return s.host.ConsentPolicy(ctx, user)
	}
	v, err := s.db.setting(ctx, user, name)
	switch {
	case v != "":
	case name == settingAvatar:
		v = "off"
	default:
		v = "on"
	}
	return v, err
}

func runSettings(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
	for name, value := range v {
		switch {
		case value == "":
		case name == "consent":
			if err := s.host.SetConsentPolicy(ctx, user, value); err != nil {
				return "", err
			}
		case (name == settingReceipts || name == settingTyping || name == settingMentions || name == settingAvatar) && (value == "on" || value == "off"):
			before, err := s.settingNow(ctx, user, name)
			if err == nil {
				err = s.db.set(user, name, value)
			}
			if err != nil {
				return "", err
			}
			if name == settingAvatar && value != before {
				s.refreshAvatar(user)
			}
		default:
			return "", errSetting
		}
	}
	var lines []string
	for _, name := range []string{settingReceipts, settingTyping, settingMentions, settingAvatar, "consent"} {
		now, err := s.settingNow(ctx, user, name)
		if err != nil {
			return "", err
		}
		lines = append(lines, name+": "+now)
	}
	return strings.Join(lines, "\n"), nil
}

func runProfile(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
	p := adapter.Profile{User: user, Name: cut(v["name"], 200), Fields: map[string]string{}}
	if old, ok, err := s.host.Profile(ctx, user); err != nil {
		return "", err
	} else if ok {
		p.Avatar = old.Avatar // a setting of its own
	}
	if v["handle"] == "on" {
		p.Fields["handle"] = user.ID
	}
	if err := s.host.SetProfile(ctx, user, p); err != nil {
		return "", err
	}
	return textDoneProfile, nil
}

// maxExport is the most octets of an export that go into a stanza.
const maxExport = 300 << 10

func runExport(s *service, ctx context.Context, user mimiuri.URI, _ map[string]string) (string, error) {
	b := &limited{max: maxExport}
	if err := s.host.Export(ctx, user, b); err != nil {
		return "", err
	}
	if b.over {
		return "", errExportLarge
	}
	return b.String(), nil
}

// limited takes what fits and notes what does not.
type limited struct {
	bytes.Buffer
	max  int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.max {
		l.over = true
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

func runDelete(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
	if v["sure"] != "yes" {
		return textNotDeleted, nil
	}
	if err := s.host.DeleteUser(ctx, user); err != nil {
		return "", err
	}
	return textDeleting, s.db.forget(user)
}

// forget removes what the adapter itself keeps of a person and does not need for rooms.
func (s *store) forget(user mimiuri.URI) error {
	defer s.forgetSettings()
	for _, table := range []string{"xmpp_setting", "xmpp_contact", "xmpp_read", "xmpp_sent"} {
		if err := s.exec(`DELETE FROM `+table+` WHERE person = $1`, user.String()); err != nil {
			return err
		}
	}
	return nil
}
