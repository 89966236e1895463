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
