package xmpp

import (
	"fmt"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
)

// What people read about plumbed rooms.

var (
	errPlumbAddress   = errNotAcceptable("The chat room is named by its address, such as square@conference.example.org.")
	errPlumbOurs      = errNotAcceptable("This is a MIMI room already, or a person. What can be connected is a chat room of the server's own conference service.")
	errPlumbElsewhere = errForbidden("Only chat rooms of this server's own conference service can be connected: of others the bridge could not know who is who.")
	errPlumbMode      = errNotAcceptable("Who speaks for people elsewhere is speakers (they themselves, while they speak) or none (the bridge).")
	errPlumbJoin      = errForbidden("You have to take part in the MIMI room. Join it first.")
	errPlumbTaken     = &stanzaError{"cancel", "conflict", "One of the two rooms is connected already. Take that connection away first: unplumb."}
	errPlumbOwner     = errForbidden("You have to be an owner of the chat room, and in it while you say this; join it, and try again.")
	errPlumbSilent    = &stanzaError{"wait", "remote-server-timeout", "The conference service did not answer in time; please try again."}
	errPlumbPrivate   = errNotAcceptable("This cannot be said to one person here. Write to their own address.")
	errPlumbDown      = fault.New(fault.Unavailable, "the chat room cannot be entered now; it will be tried again")
	errUnplumbWhat    = errNotFound("No room of this name is connected; look at its name once more.")
	errUnplumb        = errForbidden("Only who connected the room, its owners and the admins of the MIMI room may do this; ask one of them.")
)

func errPlumbEnter(cond string, bot addr) *stanzaError {
	return errNotAcceptable(fmt.Sprintf("The bridge (%s) cannot enter the chat room (%s). Make it a member or an admin of the room, then try again.", bot, cond))
}

func errPlumbBlind(bot addr) *stanzaError {
	return errNotAcceptable(fmt.Sprintf("The bridge cannot see who is who in the chat room. Make %s an admin of it, or let everybody see real addresses; then try again.", bot))
}

func errPlumbBridge(who string) *stanzaError {
	return &stanzaError{"cancel", "conflict", fmt.Sprintf("Another bridge is in the chat room (%s). With two of them everything would go round in a circle; take that one out first.", cut(who, 200))}
}

func textPlumbAsk(p *plumb) string {
	return fmt.Sprintf("I would like to connect this room with the chat room %s, of which I am an owner. What is said in one would be read in the other. An admin of this room answers with: agree %s – or: refuse %[2]s", p.muc, p.code)
}

const (
	textPlumbAsked  = "An admin of the MIMI room has to agree. They are asked in that room, within a day; you are told what they say."
	textPlumbMoved  = "This room is seen elsewhere now."
	textUnplumbed   = "This chat room is not connected with MIMI any more."
	textPlumbGoesOn = "The other bridge has gone. What is said from now on is carried over again."
	textPlumbClosed = "The MIMI room is over for this server. This chat room is not connected any more."
)

func textPlumbRefused(p *plumb) string {
	return fmt.Sprintf("An admin of the MIMI room does not want %s to be connected.", p.muc)
}

func textPlumbed(p *plumb, info adapter.Room) string {
	return fmt.Sprintf("This chat room is connected with the MIMI room %s (%s) now: what is said here is read by its %d participants, and by whoever joins it. End-to-end encryption ends at this server's gateway. To stay out of it, say \"leave %[2]s\" to %[4]s.", cut(roomName(info), 200), p.uri, len(info.Participants), p.s.users)
}

func textPlumbDone(p *plumb) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf("%s is %s now.", p.muc, p.uri)
	if p.bot.role != "moderator" {
		text += fmt.Sprintf(" Make %s an admin of the chat room, so that it can moderate and give voice.", p.bot.jid.bare())
	}
	return text
}

func textUnplumbDone(p *plumb) string {
	return fmt.Sprintf("%s is connected no more. The MIMI room is at %s.", p.muc, p.s.roomJID(p.uri))
}

func textPlumbInvite(p *plumb, by addr) string {
	return fmt.Sprintf("You take part in the MIMI room %s, by %s. It is seen in the chat room %s.", p.uri, by, p.muc)
}

func textPlumbSuspended(who string) string {
	return fmt.Sprintf("Another bridge is in this chat room (%s). Nothing is carried over between it and MIMI until that one has gone: everything would go round in a circle.", cut(who, 200))
}

func textPlumbNot(p *plumb, why string) string {
	return fmt.Sprintf("What you said in %s was not carried over to MIMI: %s", p.muc, why)
}

func textPlumbOut(p *plumb, destroyed bool) string {
	if destroyed {
		return fmt.Sprintf("The chat room %s was destroyed. The MIMI room goes on at %s.", p.muc, p.s.roomJID(p.uri))
	}
	return fmt.Sprintf("The bridge was put out of the chat room %s, which is connected no more. The MIMI room goes on at %s.", p.muc, p.s.roomJID(p.uri))
}
