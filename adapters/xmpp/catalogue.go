package xmpp

// What people read: every refusal says what to do, or that nothing can be done.

const (
	textUnknown   = "[a message that this bridge cannot show as text]"
	textRetracted = "/me retracted a message, which this client does not support."
	textCall      = "Join the call:"
	textAsk       = "asks whether they may add you to rooms and write to you"
	textSearch    = "People elsewhere can be found by what they let themselves be found by. Fill in one field, exactly, and the domain of their provider."
	textAbout     = "I connect this server with MIMI, the federation of end-to-end encrypted messengers."
	textReported  = "The report has been sent to the provider that keeps the room."
)

var (
	errOMEMO          = errNotAcceptable("This message is encrypted by your client, and the bridge cannot read it. The room is encrypted by the bridge; switch encryption off in your client for this conversation.")
	errVoice          = errForbidden("You may not send messages in this room. Ask one of its moderators to let you speak.")
	errLongID         = errNotAcceptable("The id of the message, or your address, is too long. Please use a client that makes shorter ones.")
	errSubject        = errForbidden("You may not change the subject of this room. Its admins decide who may.")
	errSubjectLong    = errNotAcceptable("The subject is too long; please make it shorter than 2,048 octets.")
	errDirectRoom     = errNotAcceptable("This is a conversation with one person. Write to the person's own address.")
	errBusyRoom       = &stanzaError{"wait", "resource-constraint", "There is too much waiting in this room; please try again in a little while."}
	errCorrectUnknown = errNotFound("The message to be corrected is not known here, or was retracted. Please send it as a new one.")
	errCorrectOther   = errForbidden("Only one's own messages can be corrected; reply to it instead.")
	errCorrectKind    = errNotAcceptable("This cannot be corrected; please retract it and send a new one.")
	errRetractUnknown = errNotFound("The message to be retracted is not known here: it is too old, or was never in this room. Write a message that says so.")
	errRetractOther   = errForbidden("Only one's own messages can be retracted. Moderators of a room can remove messages of others.")
	errModerate       = errForbidden("Only moderators of this room may remove messages of others; ask one of them.")
	errReactUnknown   = errNotFound("The message to react to is not known here: it is too old, or was retracted. Reply with a message of your own.")
	errReactMany      = errNotAcceptable("At most 20 reactions to a message, each no longer than an emoji: please take one back first.")
)

var errNoNick = errNotFound("Nobody in this room has this nick; please choose one of the list of occupants.")

var errNoSuchItem = errNotFound("There is no such message in this archive; please begin again without it.")

var (
	errNotParticipant = errForbidden("You do not take part in this room; join it, or ask somebody in it to invite you.")
	errOwner          = errForbidden("Only the owners and admins of a room can do this; ask one of them.")
	errDestroy        = &stanzaError{"cancel", "not-allowed", "You may not destroy this room while others are in it; you can leave it."}
	errNoForm         = errBadRequest("This is no form. Ask for the form, and submit it filled in.")
	errPassword       = errNotAcceptable("MIMI rooms have no passwords; invite whom you want to let in.")
	errAnonymous      = errNotAcceptable("MIMI rooms hide no addresses from their participants; leave this setting as it is.")
	errConfLong       = errNotAcceptable("This name or description is too long; please make it shorter than 2,048 octets.")
	errConfNumber     = errNotAcceptable("The most participants is a number; write none for no limit.")
	errItems          = errBadRequest("A request is about one to 20 items; please send more in a request of their own.")
	errNoUser         = errNotFound("There is no user of this address; look at it once more, or find them by the command find of the gateway.")
	errNoRole         = &stanzaError{"cancel", "not-allowed", "This room has no such role that you may give them; ask one of its owners."}
	errBan            = errForbidden("You may not ban people in this room; ask one of its admins.")
	errSelfBan        = &stanzaError{"cancel", "conflict", "You cannot ban yourself; you can leave the room."}
	errSelfKick       = &stanzaError{"cancel", "not-allowed", "You cannot kick yourself; you can leave the room."}
	errAffiliation    = errBadRequest("There is no such affiliation; use owner, admin, member, none or outcast.")
	errVoiceOfAdmin   = &stanzaError{"cancel", "not-allowed", "Owners and admins always have voice; make them a member first."}
)

var (
	errSearch     = errNotAcceptable("There is nothing to look for; please fill in one of the fields.")
	errReportWhat = errNotAcceptable("A report names a message of a MIMI room by its stanza-id; please choose the message in the room, and report that.")
	errRoomAvatar = errForbidden("You may not change the picture of this room; ask one of its admins.")
	errPicture    = errNotAcceptable("A picture is a PNG, JPEG, GIF or WebP of at most 256 kB; please choose another one.")
)

const (
	textDoneAsk        = "They are asked. The answer comes as a change of their presence, or here."
	textDoneAllow      = "They may add you now."
	textDoneRefuse     = "They may not add you or write to you."
	textDoneBlock      = "Blocked."
	textDoneUnblock    = "Not blocked any more."
	textDoneProfile    = "Your profile is changed."
	textFoundNobody    = "Nobody was found. Only those are found who let themselves be found."
	textNoContacts     = "You have asked nobody, and nobody has asked you."
	textNothingBlocked = "Nothing is blocked."
	textSafety         = "Compare it with theirs by another way. It verifies the bridges of %s and %s, not the persons."
	textNotDeleted     = "Nothing was deleted. To leave all rooms and delete what is stored of you, say yes."
	textDeleting       = "You leave all rooms, and what is stored of you is being deleted."
)

var (
	errBlockWhat   = errNotFound("What can be blocked is a person, a room or a domain: an address, a MIMI URI, or a name such as example.org.")
	errSetting     = errNotAcceptable("The settings are receipts, typing, mentions and avatar, each on or off, and consent: ask, contacts, everyone or nobody.")
	errExportLarge = errNotAcceptable("This is too much for a message. The administrator can export it by the command line.")
)

// helpText is the answer to help, and to what is not understood.
func helpText() string {
	text := `I connect this server with MIMI, the federation of end-to-end encrypted messengers. Encryption ends at this gateway.
rooms – list the rooms you take part in
create ROOM [NAME] – make a room
join ROOM – take part in a room, if it lets you in
invite ROOM PERSON – make somebody a participant of a room
leave ROOM – leave a room for good; closing it in your client keeps you in
`
	for _, c := range simpleHelp {
		text += c + "\n"
	}
	return text + `help – this text
ROOM is a name here (balcony), the room's address or its MIMI URI. PERSON is an address or a MIMI URI such as mimi://example.org/u/name.
The same is offered as commands (ad-hoc) by clients that have them.`
}

var simpleHelp = func() (out []string) {
	for _, c := range []string{"find", "contacts", "ask", "allow", "refuse", "blocked", "block", "unblock", "report", "safety", "settings", "profile", "plumb", "unplumb", "export", "delete"} {
		x := simpleOf(c)
		line := c
		if x.usage != "" {
			line += " " + x.usage
		}
		out = append(out, line+" – "+x.name)
	}
	return out
}()

const (
	textFile = "[a file, %s (%s): this server does not let the gateway store files]"
	textLong = "(The whole text is attached.)"
)

var (
	errFileFetch = errNotAcceptable("The file could not be fetched from your server; please share it again.")
	errFileLarge = errNotAcceptable("The file is too large to be carried over; please share a smaller one, or a link to it.")
	errNoUpload  = &stanzaError{"cancel", "service-unavailable", "This server does not let the gateway store files; its administrator can allow that."}
)

// What is wrong with a stanza, or with the place it was sent to.
var (
	// errService is the answer to what is not offered at an address (RFC 6120 section 8.4).
	errService = &stanzaError{"cancel", "service-unavailable", "This is not offered at this address; what is, its service discovery says."}
	// errLevel is the answer to people whom the configuration does not let in.
	errLevel = errForbidden("Your address may not use this gateway. Its administrator decides who may.")
	// errListed is the answer to who is on a list.
	errListed = errForbidden("Your address is on a list of banned addresses that this server follows. You can leave rooms (leave), and delete what is stored of you (delete); its administrator knows which list it is.")
	// errUninstalled is the answer to everything once the bridge is being uninstalled.
	errUninstalled = &stanzaError{"cancel", "service-unavailable", "The bridge to MIMI is being removed from this server; its administrator knows more."}
	// errNoRoom is the answer at an address that is no room, or none that the asker may know of.
	errNoRoom = errNotFound("There is no such room here; join it under this name to make it, or look at its address once more.")

	errNotIn           = errNotAcceptable("You are not in this room. Join it first.")
	errNotIn404        = errNotFound("You are not in this room. Join it first.")
	errNoContact       = errNotFound("This is no address of a user elsewhere; such an address is name%domain in front of the @.")
	errNoNode          = errNotFound("There is nothing under this node; ask for the address alone.")
	errIQType          = errBadRequest("A request is of type get or set; please send it as one of these.")
	errIQShape         = errBadRequest("A request has an id and exactly one element; please send it so.")
	errAddress         = &stanzaError{"modify", "jid-malformed", "The address is not valid; please look at it once more."}
	errJIDArchive      = &stanzaError{"modify", "jid-malformed", "The address to look for is not valid; please look at it once more."}
	errPageLarge       = errNotAcceptable("These are too many messages at once; please ask for fewer.")
	errNoCommand       = errNotFound("There is no such command here; please choose one of the list of commands.")
	errNoAction        = errBadRequest("A command has no such action here; use execute, complete or cancel.")
	errNotThere        = &stanzaError{"wait", "recipient-unavailable", "They are not in the room just now. Write to their own address."}
	errNoRegistration  = errUnsupported("There is no registration to remove. To leave a room for good, use the command leave.")
	errNoMIMI          = errNotFound("This is no MIMI address of a person; one looks like mimi://example.org/u/name.")
	errGroupchatToUser = errBadRequest("This is no room; write to a person by a message of type chat.")
	errLongJID         = errNotAcceptable("Your address is too long; please connect with a shorter resource.")
	errLongNick        = errNotAcceptable("Your address and nick are too long together; please choose a shorter nick.")
	errNickMissing     = &stanzaError{"modify", "jid-malformed", "A nick is missing; put it behind the room's address and a slash."}
	errNick            = errNotAcceptable("Nothing of this nick can be shown; please choose another one.")
	errBanned          = errForbidden("You are banned from this room; ask one of its admins to let you in again.")
	errFull            = &stanzaError{"wait", "service-unavailable", "This room may not have more participants; please try again when somebody has left it."}
	errLocked          = errNotFound("This room is being made, and locked until its owner has configured it; please try again in a little while.")
	errOccupant        = errBadRequest("Only those who are in a room can ask about its occupants; join it first.")
	errNickTaken       = &stanzaError{"cancel", "conflict", "Somebody else in this room has this nick; please choose another one."}
	errGroupchatToNick = errBadRequest("Messages to a room go to the room's own address; leave the nick out.")
	errNotGroupchat    = errNotAcceptable("A room takes messages of type groupchat from those who have joined it; join it first.")
	errInviteMany      = &stanzaError{"wait", "policy-violation", "At most 20 people can be invited at once; please invite the others later."}
	errTheirLevel      = errForbidden("The user of this address may not use this gateway. Its administrator decides who may.")
	errInviteOutside   = errForbidden("Only those who take part in a room can invite others; join it first.")
	errRole            = errBadRequest("There is no such role; use moderator, participant, visitor or none.")
	errQueueFull       = &stanzaError{"wait", "resource-constraint", "There is too much waiting here; please try again in a little while."}
	errNoPicture       = errNotFound("They show no picture; there is nothing to be done.")
	errNoAnswer        = &stanzaError{"wait", "remote-server-timeout", "There was no answer in time; please try again later."}
)

// Refusals that name something.
func errWrongType(typ string) *stanzaError {
	return errBadRequest("This can only be asked in another way; send it with type " + typ + ".")
}

func errMadeHere(domain string) *stanzaError {
	return errNotAcceptable("A room cannot be made at " + domain + "; make it here, and invite people from there.")
}

func errFillIn(label string) *stanzaError {
	return errNotAcceptable("Something is missing; please fill in: " + label + ".")
}

func errAnswered(condition string) *stanzaError {
	return &stanzaError{"cancel", "item-not-found", "The other side refused it (" + condition + "); please try again later."}
}

func (s *service) errForeignRoom() *stanzaError {
	return errNotAcceptable("People elsewhere can be invited to MIMI rooms only; these are at " + s.rooms + ".")
}

func (s *service) errNobody() *stanzaError {
	return errNotFound("This is nobody; a person is an address such as alice@" + s.local + " or name%domain@" + s.users + ", or a MIMI URI such as mimi://example.org/u/name.")
}

func (s *service) errNoRoomText() *stanzaError {
	return errNotFound("This is no room; a room is a name here (balcony), an address at " + s.rooms + ", or a MIMI URI such as mimi://example.org/r/name.")
}

// errCut says why a stanza was read past.
func errCut(why cutoff) *stanzaError {
	return errNotAcceptable("This cannot be taken: " + why.String() + ". Please send less at once.")
}

const (
	textNoRooms  = "You take part in no room."
	textLeft     = "You have left the room."
	textJoined   = "You take part in the room now."
	textSlow     = "This is being carried out; it takes longer than usual."
	textRegister = "To register is to take part in this room."
	textClosed   = "This server can take no more part in the room."
	textNotDone  = "That was not done: "

	textUninstalled = "The bridge to MIMI is being removed from this server. What you write here is delivered to nobody elsewhere."
)
