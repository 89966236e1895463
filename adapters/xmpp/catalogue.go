package xmpp

// What people read: every refusal says what to do, or that nothing can be done.

const (
	textUnknown   = "[a message that this bridge cannot show as text]"
	textRetracted = "/me retracted a message, which this client does not support."
	textCall      = "Join the call:"
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
