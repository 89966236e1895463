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
	errLongID         = errNotAcceptable("The id of the message, or your address, is too long.")
	errSubject        = errForbidden("You may not change the subject of this room. Its admins decide who may.")
	errSubjectLong    = errNotAcceptable("The subject is too long; please make it shorter than 2,048 octets.")
	errDirectRoom     = errNotAcceptable("This is a conversation with one person. Write to the person's own address.")
	errBusyRoom       = &stanzaError{"wait", "resource-constraint", "There is too much waiting in this room; please try again in a little while."}
	errCorrectUnknown = errNotFound("The message to be corrected is not known here, or was retracted. Please send it as a new one.")
	errCorrectOther   = errForbidden("Only one's own messages can be corrected.")
	errCorrectKind    = errNotAcceptable("This cannot be corrected; please retract it and send a new one.")
	errRetractUnknown = errNotFound("The message to be retracted is not known here.")
	errRetractOther   = errForbidden("Only one's own messages can be retracted. Moderators of a room can remove messages of others.")
	errModerate       = errForbidden("Only moderators of this room may remove messages of others.")
	errReactUnknown   = errNotFound("The message to react to is not known here.")
	errReactMany      = errNotAcceptable("At most 20 reactions to a message, and each no longer than an emoji, please.")
)

var errNoNick = errNotFound("Nobody in this room has this nick.")

var errNoSuchItem = errNotFound("There is no such message in this archive; please begin again without it.")

var (
	errNotParticipant = errForbidden("You do not take part in this room.")
	errOwner          = errForbidden("Only the owners and admins of a room can do this.")
	errDestroy        = &stanzaError{"cancel", "not-allowed", "You may not destroy this room while others are in it; you can leave it."}
	errNoForm         = errBadRequest("This is no form.")
	errPassword       = errNotAcceptable("MIMI rooms have no passwords; people are let in by invitation.")
	errAnonymous      = errNotAcceptable("MIMI rooms hide no addresses from their participants.")
	errConfLong       = errNotAcceptable("This name or description is too long.")
	errConfNumber     = errNotAcceptable("The most participants is a number, or none for no limit.")
	errItems          = errBadRequest("Between one and 20 items, please.")
	errNoUser         = errNotFound("There is no user of this address.")
	errNoRole         = &stanzaError{"cancel", "not-allowed", "This room has no such role that you may give them."}
	errBan            = errForbidden("You may not ban people in this room.")
	errSelfBan        = &stanzaError{"cancel", "conflict", "You cannot ban yourself; you can leave the room."}
	errSelfKick       = &stanzaError{"cancel", "not-allowed", "You cannot kick yourself; you can leave the room."}
	errAffiliation    = errBadRequest("An affiliation is one of owner, admin, member, none and outcast.")
	errVoiceOfAdmin   = &stanzaError{"cancel", "not-allowed", "Owners and admins always have voice."}
)

var (
	errSearch     = errNotAcceptable("Please fill in what to look for.")
	errReportWhat = errNotAcceptable("A report names a message of a MIMI room by its stanza-id.")
	errRoomAvatar = errForbidden("You may not change the picture of this room.")
	errPicture    = errNotAcceptable("A picture is a PNG, JPEG, GIF or WebP of at most 256 kB.")
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
	errFileLarge = errNotAcceptable("The file is too large to be carried over.")
	errNoUpload  = &stanzaError{"cancel", "service-unavailable", "This server does not let the gateway store files."}
)
