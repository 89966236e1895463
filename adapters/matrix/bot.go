package matrix

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

const helpText = `This is the bridge to MIMI, the federation of messengers. Commands:
  find DOMAIN FIELD VALUE – users of a provider, by handle, nick, email, phone, fullName.
  id URI – the Matrix ID of a MIMI user (mimi://xmpp.example/u/romeo). Invite that ID into a room, and the room becomes a MIMI room.
  chat URI – a direct room with a user.
  create NAME – a new MIMI room. join URI – join one (mimi://xmpp.example/r/balcony). leave [URI] – leave one for good.
  consent – who may write to you, and who asks. ask URI, accept URI, refuse URI – about one of them. consent policy ask|contacts|everyone|nobody.
  block URI, unblock URI, blocked – users, rooms or domains that you do not want to hear of.
  safety URI – the safety number with a user. It verifies the bridges of your domains, not the persons.
  profile on|off – whether others can find you by your name here. receipts on|off – whether others see what you have read.
  policy follow ROOM|unfollow ROOM – a moderation policy list that holds in all MIMI rooms here (admins of the bridge).
  status – what the bridge knows of you. export – what is stored of you. delete – remove you from MIMI. help – this text.
In a MIMI room: invite URI, report REASON (in reply to a message), expire 1h|off, status, leave, destroy,
  relay on|off (users without permission speak through you), unplumb [dry] (take the bridge out). In another room: plumb URI.
In a room with more than the two of us, begin with !mimi. Leaving a Matrix room leaves its MIMI room.
Messages are encrypted between providers; the end of that encryption is this bridge, not your device.`

// call is a command and who gives it where.
type call struct {
	actor   mimiuri.URI
	user    id.UserID
	room    id.RoomID // "" from the provisioning API
	p       portal    // of room, if inPortal
	in      bool      // room is a portal
	private bool      // nobody else reads the answer
	origin  string    // what is unique about the command
	reply   id.EventID
	words   []string // after the command's name
}

func (c call) arg(i int) string {
	if i < len(c.words) {
		return c.words[i]
	}
	return ""
}

func (c call) rest(i int) string {
	if i < len(c.words) {
		return strings.Join(c.words[i:], " ")
	}
	return ""
}

// isCommand reports whether a message in a portal is for the bot, and takes the mark off.
func isCommand(body object) (line string, ok bool) {
	line, ok = strings.CutPrefix(strings.TrimSpace(withoutFallback(body.str("body"))), "!mimi")
	return line, ok && (line == "" || line[0] == ' ')
}

// onCommand answers what is said to the bot: in a room that is no portal, or with the mark before it.
func (b *bridge) onCommand(ctx context.Context, ev rawEvent, body object, p portal, isPortal bool) error {
	m, err := b.st.member(ctx, ev.RoomID, b.hs.bot)
	if err != nil || m.membership != "join" || ev.Type != "m.room.message" || body.str("msgtype") != "m.text" {
		return err
	}
	users, err := b.hs.joined(ctx, b.hs.bot, ev.RoomID)
	if err != nil {
		return err
	}
	line, addressed := isCommand(body)
	if !addressed {
		line = strings.TrimSpace(body.str("body"))
		if len(users) > 2 {
			return nil
		}
	}
	if _, ok := localURI(ev.Sender, b.server, b.domain); !ok {
		return nil
	}
	actor, ok := b.person(ev.Sender)
	if !ok {
		return b.say(ctx, ev.RoomID, ev.ID, "forbidden", "You may not use this bridge; its administrator can allow it.")
	}
	words := strings.Fields(clip(line, 4000))
	name := ""
	if len(words) > 0 {
		name, words = strings.ToLower(words[0]), words[1:]
	}
	c := call{actor: actor, user: ev.Sender, room: ev.RoomID, p: p, in: isPortal, private: len(users) <= 2, origin: string(ev.ID), words: words,
		reply: id.EventID(body.object("m.relates_to").object("m.in_reply_to").str("event_id"))}
	answer, err := b.command(ctx, name, c)
	if err != nil {
		if fault.Temporary(err) && !fault.Is(err, fault.Limited) {
			return err
		}
		answer = "That did not work: " + fault.Public(err) + "."
	}
	if answer == "" {
		return nil
	}
	return b.say(ctx, ev.RoomID, ev.ID, "answer", answer)
}

// command carries out a command and gives the answer, "" if something else will be the answer.
func (b *bridge) command(ctx context.Context, name string, c call) (string, error) {
	if f, ok := commands[name]; ok {
		return f(b, ctx, c)
	}
	return "There is no such command. Write help for those there are.", nil
}

var commands map[string]func(b *bridge, ctx context.Context, c call) (string, error)

func init() {
	commands = map[string]func(b *bridge, ctx context.Context, c call) (string, error){
		"": (*bridge).cmdHelp, "help": (*bridge).cmdHelp, "id": (*bridge).cmdID, "find": (*bridge).cmdFind, "chat": (*bridge).cmdChat,
		"create": (*bridge).cmdCreate, "join": (*bridge).cmdJoin, "leave": (*bridge).cmdLeave, "invite": (*bridge).cmdInvite,
		"consent": (*bridge).cmdConsent, "ask": (*bridge).cmdAsk, "accept": (*bridge).cmdAccept, "refuse": (*bridge).cmdRefuse,
		"block": (*bridge).cmdBlock, "unblock": (*bridge).cmdUnblock, "blocked": (*bridge).cmdBlocked, "report": (*bridge).cmdReport,
		"safety": (*bridge).cmdSafety, "profile": (*bridge).cmdProfile, "receipts": (*bridge).cmdReceipts, "expire": (*bridge).cmdExpire,
		"relay": (*bridge).cmdRelay, "policy": (*bridge).cmdPolicy, "plumb": (*bridge).cmdPlumb, "unplumb": (*bridge).cmdUnplumb, "destroy": (*bridge).cmdDestroy,
		"status": (*bridge).cmdStatus, "export": (*bridge).cmdExport, "delete": (*bridge).cmdDelete,
	}
}

func (b *bridge) cmdHelp(context.Context, call) (string, error) { return helpText, nil }

const (
	noUser   = "That is no MIMI user. They look like mimi://xmpp.example/u/romeo."
	noRoom   = "That is no MIMI room. They look like mimi://xmpp.example/r/balcony."
	onlyHere = "This has to be said in a MIMI room, with !mimi before it."
)

// target reads a user: a MIMI URI, or the Matrix ID that stands for one.
func (b *bridge) target(ctx context.Context, s string) (mimiuri.URI, bool) {
	if strings.HasPrefix(s, "@") {
		return b.uriOf(ctx, id.UserID(s))
	}
	uri, err := mimiuri.ParseKind(s, mimiuri.User)
	return uri, err == nil
}

func (b *bridge) cmdID(ctx context.Context, c call) (string, error) {
	uri, err := mimiuri.ParseKind(c.arg(0), mimiuri.User)
	if err != nil {
		return noUser, nil
	}
	if uri.Domain == b.domain {
		if mxid, ok := localID(uri, b.server, b.domain); ok {
			return fmt.Sprintf("%s is on Matrix: %s", uri, mxid), nil
		}
		return "There is no such user here.", nil
	}
	ghost, err := b.ensureGhost(ctx, uri)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s – invite this ID into a room.", ghost), nil
}

func (b *bridge) cmdFind(ctx context.Context, c call) (string, error) {
	if len(c.words) < 3 {
		return "Say where and by what: find xmpp.example handle romeo", nil
	}
	found, err := b.host.Find(ctx, c.actor, c.arg(0), c.arg(1), c.rest(2))
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "Nobody is found there by that.", nil
	}
	var t strings.Builder
	for i, p := range found {
		if i == 20 {
			fmt.Fprintf(&t, "\n… and %d more", len(found)-i)
			break
		}
		mxid, _ := b.anyID(p.User)
		fmt.Fprintf(&t, "\n%s %s – %s", clean(clip(p.Name, 100)), p.User, mxid)
	}
	return strings.TrimSpace(t.String()), nil
}

func (b *bridge) cmdChat(ctx context.Context, c call) (string, error) {
	other, ok := b.target(ctx, c.arg(0))
	if !ok {
		return noUser, nil
	}
	room, err := b.host.DirectRoom(ctx, c.actor, other)
	if err != nil {
		return "", err
	}
	if p, ok, err := b.st.portal(ctx, room); err != nil {
		return "", err
	} else if ok {
		if err := b.invitePerson(ctx, p, c.user); err != nil && fault.Temporary(err) {
			return "", err
		}
		return "You have a direct room with them already: " + string(p.room), nil
	}
	return "You will be invited to it.", nil
}

func (b *bridge) cmdCreate(ctx context.Context, c call) (string, error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	// The same command makes the same room, also when it is carried out again.
	uri, err := mimiuri.New(b.domain, mimiuri.Room, strings.TrimPrefix(txnID("create", string(c.user), c.origin), "mimi"))
	if c.origin == "" {
		uri, err = mimiuri.New(b.domain, mimiuri.Room, hex.EncodeToString(random[:]))
	}
	if err != nil {
		return "", err
	}
	err = b.host.Intake(ctx, adapter.Intent{Kind: adapter.CreateRoom, Room: uri, Actor: c.actor, Name: clip(c.rest(0), 200), OriginID: c.id(), Hint: string(c.room)})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("You will be invited to %s.", uri), nil
}

// id is the origin ID of an intent that a command leads to.
func (c call) id() string {
	if c.origin != "" {
		return c.origin
	}
	var random [12]byte
	_, _ = rand.Read(random[:])
	return "api-" + hex.EncodeToString(random[:])
}

func (b *bridge) cmdJoin(ctx context.Context, c call) (string, error) {
	uri, err := mimiuri.ParseKind(c.arg(0), mimiuri.Room)
	if err != nil {
		return noRoom, nil
	}
	return "", b.intake(ctx, c.room, adapter.Intent{Kind: adapter.JoinRoom, Room: uri, Actor: c.actor, OriginID: c.id()})
}

// commandSuffix ends the origin ID of an intent that leaves the Matrix room to the adapter.
const commandSuffix = "/command"

// roomOf is the MIMI room that a command is about: its argument, or the one that it is said in.
func (b *bridge) roomOf(c call, i int) (mimiuri.URI, bool) {
	if s := c.arg(i); strings.HasPrefix(s, "mimi:") {
		uri, err := mimiuri.ParseKind(s, mimiuri.Room)
		return uri, err == nil
	}
	return c.p.uri, c.in
}

func (b *bridge) cmdLeave(ctx context.Context, c call) (string, error) {
	uri, ok := b.roomOf(c, 0)
	if !ok {
		return noRoom, nil
	}
	return "", b.intake(ctx, c.room, adapter.Intent{Kind: adapter.LeaveRoom, Room: uri, Actor: c.actor, OriginID: c.id() + commandSuffix})
}

func (b *bridge) cmdInvite(ctx context.Context, c call) (string, error) {
	other, ok := b.target(ctx, c.arg(0))
	if !ok {
		return noUser, nil
	}
	uri, ok := b.roomOf(c, 1)
	if !ok {
		return onlyHere, nil
	}
	return "", b.intake(ctx, c.room, adapter.Intent{Kind: adapter.Invite, Room: uri, Actor: c.actor, Target: other, OriginID: c.id()})
}

var consentNames = map[adapter.ConsentState]string{
	adapter.ConsentNone: "nothing", adapter.ConsentAsking: "you have asked", adapter.ConsentAsked: "they ask",
	adapter.ConsentGranted: "yes", adapter.ConsentRefused: "no", adapter.ConsentBlocked: "blocked",
}

func (b *bridge) cmdConsent(ctx context.Context, c call) (string, error) {
	if c.arg(0) == "policy" {
		if c.arg(1) != "" {
			if err := b.host.SetConsentPolicy(ctx, c.actor, c.arg(1)); err != nil {
				return "", err
			}
		}
		policy, err := b.host.ConsentPolicy(ctx, c.actor)
		return "Who may write to you: " + policy, err
	}
	contacts, err := b.host.Contacts(ctx, c.actor)
	if err != nil {
		return "", err
	}
	if len(contacts) == 0 {
		return "There are no contacts, and nobody asks.", nil
	}
	var t strings.Builder
	for i, contact := range contacts {
		if i == 100 {
			fmt.Fprintf(&t, "\n… and %d more", len(contacts)-i)
			break
		}
		fmt.Fprintf(&t, "\n%s: they may write to you: %s; you to them: %s", contact.User, consentNames[contact.Grants], consentNames[contact.Granted])
	}
	return strings.TrimSpace(t.String()), nil
}

func (b *bridge) consent(ctx context.Context, c call, action adapter.ConsentAction, done string) (string, error) {
	other, ok := b.target(ctx, c.arg(0))
	if !ok {
		return noUser, nil
	}
	return done, b.host.Consent(ctx, c.actor, other, mimiuri.URI{}, action)
}

func (b *bridge) cmdAsk(ctx context.Context, c call) (string, error) {
	return b.consent(ctx, c, adapter.AskConsent, "They are asked; the answer is told here.")
}

func (b *bridge) cmdAccept(ctx context.Context, c call) (string, error) {
	return b.consent(ctx, c, adapter.GrantConsent, "They may write to you now.")
}

func (b *bridge) cmdRefuse(ctx context.Context, c call) (string, error) {
	return b.consent(ctx, c, adapter.RefuseConsent, "They may not write to you.")
}

// blockTarget reads a user, a room or a domain.
func (b *bridge) blockTarget(ctx context.Context, s string) (mimiuri.URI, bool) {
	if uri, ok := b.target(ctx, s); ok {
		return uri, true
	}
	if uri, err := mimiuri.Parse(s); err == nil {
		return uri, true
	}
	uri, err := mimiuri.Parse("mimi://" + s)
	return uri, err == nil && uri.Kind == mimiuri.Provider
}

func (b *bridge) cmdBlock(ctx context.Context, c call) (string, error) {
	target, ok := b.blockTarget(ctx, c.arg(0))
	if !ok {
		return "Name a user, a room or a domain.", nil
	}
	return fmt.Sprintf("You hear no more of %s.", target), b.host.Block(ctx, c.actor, target)
}

func (b *bridge) cmdUnblock(ctx context.Context, c call) (string, error) {
	target, ok := b.blockTarget(ctx, c.arg(0))
	if !ok {
		return "Name a user, a room or a domain.", nil
	}
	return fmt.Sprintf("%s is not blocked.", target), b.host.Unblock(ctx, c.actor, target)
}

func (b *bridge) cmdBlocked(ctx context.Context, c call) (string, error) {
	list, err := b.host.Blocked(ctx, c.actor)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "You have blocked nobody.", nil
	}
	var names []string
	for _, u := range list[:min(len(list), 200)] {
		names = append(names, u.String())
	}
	return strings.Join(names, "\n"), nil
}

func (b *bridge) cmdReport(ctx context.Context, c call) (string, error) {
	if !c.in || c.reply == "" {
		return "Say this in reply to the message, in its room: !mimi report spam", nil
	}
	k, ok, err := b.lookup(ctx, c.p, c.reply)
	if err != nil {
		return "", err
	}
	if !ok {
		return "The bridge does not know this message.", nil
	}
	reason := c.arg(0)
	if reason == "" {
		reason = "unspecified"
	}
	return "The message is reported to the provider that keeps this room.", b.host.Report(ctx, c.actor, c.p.uri, k.id, reason, clip(c.rest(1), 2000))
}

func (b *bridge) cmdSafety(ctx context.Context, c call) (string, error) {
	other, ok := b.target(ctx, c.arg(0))
	if !ok {
		return noUser, nil
	}
	number, err := b.host.SafetyNumber(ctx, c.actor, other, c.p.uri)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s\nIf it is the same at %s, the bridges of %s and %s have no other between them. It does not verify the person.", number, other, b.domain, other.Domain), nil
}

func (b *bridge) cmdProfile(ctx context.Context, c call) (string, error) {
	switch c.arg(0) {
	case "off":
		return "Nobody finds you any more.", b.host.SetProfile(ctx, c.actor, adapter.Profile{User: c.actor})
	case "on":
		var shown struct {
			Name   string `json:"displayname"`
			Avatar string `json:"avatar_url"`
		}
		if err := b.hs.profile(ctx, c.user, &shown); err != nil {
			return "", err
		}
		local, _, _ := splitID(c.user)
		p := adapter.Profile{User: c.actor, Name: clip(clean(shown.Name), 200), Fields: map[string]string{"handle": local}}
		if p.Name != "" {
			p.Fields["fullName"] = p.Name
		}
		if shown.Avatar != "" {
			var err error
			if p.Avatar, _, err = b.publishAvatar(ctx, c.actor, shown.Avatar); err != nil {
				return "", err
			}
		}
		return "Others can find you by your name and see your picture.", b.host.SetProfile(ctx, c.actor, p)
	}
	return "Say profile on or profile off.", nil
}

func (b *bridge) cmdReceipts(_ context.Context, c call) (string, error) {
	switch c.arg(0) {
	case "on":
		return "Others see what you have read.", b.st.set(receiptsKey(c.user), "")
	case "off":
		return "Others do not see what you have read.", b.st.set(receiptsKey(c.user), "off")
	}
	return "Say receipts on or receipts off.", nil
}

func (b *bridge) cmdExpire(_ context.Context, c call) (string, error) {
	if !c.in {
		return onlyHere, nil
	}
	if c.arg(0) == "off" {
		return "Messages do not disappear.", b.st.set(timerKey(c.p), "")
	}
	d, err := time.ParseDuration(strings.Replace(c.arg(0), "d", "h", 1))
	if err == nil && strings.HasSuffix(c.arg(0), "d") {
		d *= 24
	}
	if err != nil || d < time.Second || d > maxTimer {
		return "Say how long after reading messages disappear, such as expire 1h or expire 7d, or expire off.", nil
	}
	raw, err := json.Marshal(map[string]any{"type": "after_read", "timer": d.Milliseconds()})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("What is written here from now on disappears %s after it was read.", d), b.st.set(timerKey(c.p), string(raw))
}

// manages reports whether somebody may decide about the bridge in a portal: an admin of this provider, or of the MIMI room.
func (b *bridge) manages(ctx context.Context, c call, uri mimiuri.URI) (bool, error) {
	if b.host.Level(string(c.user)) >= adapter.LevelAdmin {
		return true, nil
	}
	r, ok, err := b.host.Room(ctx, uri)
	if err != nil || !ok {
		return false, err
	}
	return slices.ContainsFunc(r.Participants, func(p adapter.Participant) bool { return p.User == c.actor && p.Admin }), nil
}

const notAdmin = "Only an admin of the room may do this."

func (b *bridge) cmdRelay(ctx context.Context, c call) (string, error) {
	if !c.in {
		return onlyHere, nil
	}
	if ok, err := b.manages(ctx, c, c.p.uri); err != nil || !ok {
		return notAdmin, err
	}
	switch c.arg(0) {
	case "on":
		return "Users here who may not use the bridge speak in the MIMI room through you, with their name in the text.", b.st.set(relayKey(c.p), string(c.user))
	case "off":
		return "Users here who may not use the bridge are not heard in the MIMI room.", b.st.set(relayKey(c.p), "")
	}
	return "Say relay on or relay off.", nil
}

func relayKey(p portal) string { return "relay " + p.uri.String() }

// cmdUnplumb takes the bridge out of a room: everybody here leaves the MIMI room, and everybody of ours this one.
func (b *bridge) cmdUnplumb(ctx context.Context, c call) (string, error) {
	if !c.in {
		return onlyHere, nil
	}
	if ok, err := b.manages(ctx, c, c.p.uri); err != nil {
		return "", err
	} else if !ok {
		var now object
		if err := b.hs.state(ctx, b.hs.bot, c.room, "m.room.power_levels", "", &now); err != nil || powers(now)[c.user] < 100 {
			return notAdmin, nil
		}
	}
	locals, err := b.locals(ctx, c.p.uri)
	if err != nil {
		return "", err
	}
	ghosts, err := b.st.ghosts(ctx, c.room)
	if err != nil {
		return "", err
	}
	if c.arg(0) == "dry" {
		return fmt.Sprintf("%d users here would leave the MIMI room, and %d of the bridge this one; its alias and bridge state would be removed. Say unplumb to do it.", len(locals), ghosts), nil
	}
	return "The bridge leaves this room.", b.leaveMIMI(ctx, c.p, c.id())
}

// locals are the participants of a MIMI room who are this provider's.
func (b *bridge) locals(ctx context.Context, uri mimiuri.URI) (out []mimiuri.URI, err error) {
	r, _, err := b.host.Room(ctx, uri)
	for _, m := range r.Participants {
		if m.User.Domain == b.domain {
			out = append(out, m.User)
		}
	}
	return out, err
}

// leaveMIMI makes everybody here leave a MIMI room; when the last has left, the bridge leaves the Matrix room.
func (b *bridge) leaveMIMI(ctx context.Context, p portal, origin string) error {
	locals, err := b.locals(ctx, p.uri)
	if err != nil {
		return err
	}
	for _, u := range locals {
		err := b.intake(ctx, p.room, adapter.Intent{Kind: adapter.LeaveRoom, Room: p.uri, Actor: u, OriginID: origin + "/" + txnID(u.String())})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bridge) cmdDestroy(ctx context.Context, c call) (string, error) {
	uri, ok := b.roomOf(c, 0)
	if !ok {
		return onlyHere, nil
	}
	if !slices.Contains(c.words, "yes") {
		locals, err := b.locals(ctx, uri)
		if err != nil {
			return "", err
		}
		r, _, err := b.host.Room(ctx, uri)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("This removes everybody from the MIMI room for good, %d participants here and %d elsewhere; the users of the bridge, the alias and the state about the bridge go from the Matrix room. If you mean it: destroy yes",
			len(locals), len(r.Participants)-len(locals)), nil
	}
	return "", b.intake(ctx, c.room, adapter.Intent{Kind: adapter.DestroyRoom, Room: uri, Actor: c.actor, OriginID: c.id()})
}

func (b *bridge) cmdStatus(ctx context.Context, c call) (string, error) {
	if c.in {
		r, ok, err := b.host.Room(ctx, c.p.uri)
		if err != nil || !ok {
			return "The MIMI room is not there yet.", err
		}
		encrypted, err := b.encryptedRoom(ctx, c.room)
		if err != nil {
			return "", err
		}
		role := "none"
		if mine, ok := r.RoleOf(c.actor); ok {
			role = mine.Name
		}
		state := "in touch"
		if r.Offline {
			state = "cannot be reached now; what is written here waits"
		} else if r.Gone {
			state = "closed"
		}
		return fmt.Sprintf("%s\nkept by %s: %s\nparticipants: %d, your role: %s\nencrypted on Matrix: %v", r.URI, r.URI.Domain, state, len(r.Participants), role, encrypted), nil
	}
	rooms, err := b.host.Rooms(ctx)
	if err != nil {
		return "", err
	}
	var mine []string
	for _, uri := range rooms {
		if in, err := b.participant(ctx, uri, c.actor); err != nil {
			return "", err
		} else if in && len(mine) < 50 {
			mine = append(mine, uri.String())
		}
	}
	return fmt.Sprintf("You are %s, in %d MIMI rooms.\n%s", c.actor, len(mine), strings.Join(mine, "\n")), nil
}

func (b *bridge) cmdExport(ctx context.Context, c call) (string, error) {
	if !c.private || c.room == "" {
		return "Say this in a room with only the two of us.", nil
	}
	var doc bytes.Buffer
	if err := b.host.Export(ctx, c.actor, &doc); err != nil {
		return "", err
	}
	mxc, err := b.hs.upload(ctx, b.hs.bot, bytes.NewReader(doc.Bytes()), int64(doc.Len()), "application/json", "mimi-export.json")
	if err != nil {
		return "", err
	}
	_, err = b.sendEvent(ctx, b.hs.bot, c.room, "m.room.message", txnID("export", c.origin), time.Time{}, map[string]any{
		"msgtype": "m.file", "body": "mimi-export.json", "url": mxc, "info": map[string]any{"mimetype": "application/json", "size": doc.Len()},
	})
	return "", err
}

func (b *bridge) cmdDelete(ctx context.Context, c call) (string, error) {
	if c.arg(0) != "yes" {
		return "This takes you out of all MIMI rooms and removes what is stored of you. If you mean it: delete yes", nil
	}
	return "You are being removed from MIMI.", b.host.DeleteUser(ctx, c.actor)
}

// management is the room in which the bot talks with a person; it is made if there is none.
func (b *bridge) management(ctx context.Context, user id.UserID) (id.RoomID, error) {
	key := managementKey(user)
	stored, err := b.st.setting(ctx, key)
	if err != nil {
		return "", err
	}
	if room := id.RoomID(stored); room != "" {
		m, err := b.st.member(ctx, room, user)
		if err != nil || m.membership != "leave" && m.membership != "ban" {
			return room, err
		}
	}
	if err := b.ensureBot(ctx); err != nil {
		return "", err
	}
	room, err := b.hs.createRoom(ctx, map[string]any{
		"preset": "trusted_private_chat", "visibility": "private", "is_direct": true, "invite": []id.UserID{user},
		"topic": "The bridge to MIMI. Write help for what it can do.", "creation_content": map[string]any{"m.federate": b.cfg.Federate},
	})
	if err != nil {
		return "", err
	}
	if err := b.st.all(setMember(room, b.hs.bot, member{membership: "join", sender: b.hs.bot}), setMember(room, user, member{membership: "invite", sender: b.hs.bot}), putSetting(key, string(room))); err != nil {
		return "", err
	}
	return room, nil
}

// DeliverConsent implements adapter.ConsentAdapter.
func (a *Adapter) DeliverConsent(ctx context.Context, ev adapter.ConsentEvent) error {
	b, err := a.bridgeFor(ctx)
	if err != nil {
		return err
	}
	b.working.RLock()
	defer b.working.RUnlock()
	user, ok := b.local(ev.Local)
	if !ok || b.gone.Load() {
		return nil
	}
	other := ev.Contact.User
	if ev.Contact.Grants == adapter.ConsentRefused || ev.Contact.Granted == adapter.ConsentRefused {
		if err := b.endDirect(ctx, ev.Local, other); err != nil {
			return err
		}
	}
	text := ""
	switch {
	case ev.Asked:
		text = fmt.Sprintf("%s (%s) would like to write to you. Answer: accept %s – or: refuse %s", b.nameOf(ctx, other), other, other, other)
	case ev.Answered && ev.Contact.Granted == adapter.ConsentGranted:
		text = fmt.Sprintf("%s lets you write. To begin: chat %s", other, other)
	case ev.Answered:
		text = fmt.Sprintf("%s does not want to be written to.", other)
	default:
		return nil
	}
	room, err := b.management(ctx, user)
	if err != nil {
		return err
	}
	return b.say(ctx, room, "", fmt.Sprint("consent ", other, ev.Contact.Since.UnixMilli(), ev.Asked, ev.Contact.Granted), text)
}

// endDirect makes a ghost leave the direct room whose consent has ended.
func (b *bridge) endDirect(ctx context.Context, local, other mimiuri.URI) error {
	rooms, err := b.host.Rooms(ctx)
	if err != nil {
		return err
	}
	for _, uri := range rooms {
		r, ok, err := b.host.Room(ctx, uri)
		if err != nil {
			return err
		}
		has := func(u mimiuri.URI) bool {
			return slices.ContainsFunc(r.Participants, func(p adapter.Participant) bool { return p.User == u })
		}
		if !ok || !r.Direct || !has(local) || !has(other) {
			continue
		}
		p, ok, err := b.st.portal(ctx, uri)
		if err != nil {
			return err
		}
		if ok {
			ghost, _ := ghostID(other, b.server)
			if err := b.leaveAs(ctx, p.room, ghost, "they have taken their consent back"); err != nil {
				return err
			}
		}
	}
	return nil
}

// speaker is who can speak for the bridge in a Matrix room: the bot, else a ghost, "" if nobody is in it.
func (b *bridge) speaker(ctx context.Context, room id.RoomID) (id.UserID, error) {
	users, err := b.speakers(ctx, room, 1)
	if err != nil || len(users) == 0 {
		return "", err
	}
	return users[0], nil
}

func (b *bridge) speakers(ctx context.Context, room id.RoomID, n int) ([]id.UserID, error) {
	joined, err := b.st.membersOf(ctx, room, "join")
	if err != nil {
		return nil, err
	}
	var out []id.UserID
	for _, u := range joined {
		if u == b.hs.bot {
			out = append([]id.UserID{u}, out...)
		} else if isOurs(u, b.server) && len(out) < n {
			out = append(out, u)
		}
	}
	return out[:min(n, len(out))], nil
}

// say sends a notice, in reply to an event if there is one. It is sent once per room, event and key. Where nobody can
// speak it is left out.
func (b *bridge) say(ctx context.Context, room id.RoomID, replyTo id.EventID, key, text string) error {
	as, err := b.speaker(ctx, room)
	if err != nil {
		return err
	}
	if as == "" {
		b.log.Info().Str("matrix_room", string(room)).Str("notice", key).Msg("nobody of the bridge is in the room to say something")
		return nil
	}
	notice := map[string]any{"msgtype": "m.notice", "body": text, "m.mentions": struct{}{}}
	if replyTo != "" {
		notice["m.relates_to"] = map[string]any{"m.in_reply_to": map[string]any{"event_id": replyTo}}
	}
	_, err = b.sendEvent(ctx, as, room, "m.room.message", txnID("notice", string(room), string(replyTo), key), time.Time{}, notice)
	if err != nil && !fault.Temporary(err) {
		b.log.Info().Err(err).Str("matrix_room", string(room)).Str("notice", key).Msg("the bridge may not speak in the room")
		return nil
	}
	return err
}

func unmarshal(raw json.RawMessage, out any) error {
	if len(raw) == 0 {
		return errNotEvent
	}
	return json.Unmarshal(raw, out)
}
