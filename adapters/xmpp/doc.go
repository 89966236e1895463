// Package xmpp is the adapter for XMPP servers: an external component (XEP-0114) that shows every MIMI room as a
// multi-user chat (XEP-0045) and every user elsewhere as a contact.
//
// # Addresses
//
// Two component domains, as a room and a user may have the same name:
//
//	mimi.example.org                        the gateway: chat, ad-hoc commands, discovery
//	al%wire.example@mimi.example.org        mimi://wire.example/u/al
//	balcony@rooms.mimi.example.org          mimi://example.org/r/balcony, a room of this provider
//	club%hub.example@rooms.mimi.example.org mimi://hub.example/r/club
//	alice@example.org                       mimi://example.org/u/alice
//	bob@other.net                           mimi://example.org/u/bob@other.net, if the configuration lets him
//
// A room of this provider has no "%host": it is what people type. Each URI has exactly one address, and what
// merely decodes to it is not found, so that no room or person is two; address.go has the rules.
//
// # Streams
//
// stream.go keeps one connection for each domain: dial, TLS if configured, handshake, deadlines, a limit for each
// stanza, pings, and a fresh stream after a growing pause whenever one ends. filter.go stands in front of
// gosrc.io/xmpp's parser and hands it nothing but the stanzas' attributes: what is inside arrives as raw
// elements and is read here, leniently. Of that library the stanza types, stanza.NextPacket and the
// router's Match and HandlePacket are used. A stanza over a limit is answered with an error and read past; the
// stream stays up.
//
// The readers only sort stanzas into queues: one for each room, and one for each user at the gateway.
// A queue that is full is answered with resource-constraint.
//
// # Confirmation
//
// XEP-0114 has no acknowledgements. Behind the stanzas of an event goes a ping to the server (XEP-0199); a server
// handles a component's stanzas in order, so its answer says that they have been handled, and only then Deliver
// returns nil. One ping is under way at a time and confirms whatever went before it, for all rooms. An event
// that comes again before it was confirmed is shown by the very same stanzas; after a crash, by stanzas
// with the same ids: a message's id is its sender's, or the MIMI message ID, its stanza-id by the room (XEP-0359) is the
// MIMI message ID, other ids are made from room and sequence number. DeliverBatch takes several events at
// the cost of one round trip. ejabberd deals what comes for both domains out to both connections; then one is closed, and
// the other serves both (stream.merge).
//
// # Participant and occupant
//
// A MIMI participant is an affiliation, a resource in the room is a presence. Presence that ends, an error that comes
// back, a block (XEP-0191) end a resource's occupancy and nothing else; the bridge stands in for each participant as one
// more session, so that others go on seeing them: people elsewhere as present, local ones as away for
// long (xa). Participation ends by the ad-hoc command leave at the gateway or at the room, by "leave ROOM" in a chat with the
// gateway, by jabber:iq:register remove at the room, by declining an invitation, and by affiliation none.
//
// Who joins a room that does not exist at this provider creates it; who joins one without taking part in it asks
// the provider to join, and enters when that has happened. A local user whom somebody made a participant,
// and who is not there, is invited by the room.
//
// A message is shown to nobody, its sender included, before the room's hub has accepted it. The same message sent again,
// by its origin-id, or by id and text, is the same message: it is answered with the one that was shown.
//
// Occupants and nicks are in the adapter's database. After a restart they go on without joining again: self-pings
// (XEP-0410) are answered, messages sent, and whoever has gone is found out by an empty message that comes
// back. So are the ids of messages in both worlds (messages.go). Text is never in this database, as it is not sealed: what a
// joiner is shown of the past, the archive (archive.go) and quotations are read from the provider by Host.History.
//
// # Messages
//
// compose.go makes MIMI content of stanzas, render.go stanzas of MIMI content. In a room stanzas refer to a message by its
// stanza-id, which is the MIMI ID, but for corrections, which use the id of the first stanza; in a chat always by the stanza's id.
// A message may refer to one of the same person that the hub has not accepted yet: its ID is fixed already (Host.Pending). A conversation with
// one person elsewhere is a direct room, shown as a chat (direct.go). Files go by the server's upload service (files.go).
//
// # People
//
// A subscription is a consent (people.go). What a person can do is offered as ad-hoc commands and, by the same table, as lines to the
// gateway (commands.go, simple.go). What people are told stands in catalogue.go.
//
// # What is kept
//
// Ids of messages for as long as the provider keeps ids, all of a user until EraseUser (erase.go), everything until Uninstall (uninstall.go).
//
// # Limits
//
// Presence of the 201st and later participants of a room is shown once they speak. What MIMI rooms do not have (passwords, hidden
// addresses) is refused with the reason. docs/xmpp.md lists feature by feature what is tested, and what Smack's tests say.
package xmpp
