// Package matrix connects a Matrix homeserver to a MIMI provider, as an application service.
//
// # Names
//
// A local user @alice:example.org is mimi://DOMAIN/u/alice, a permitted user of another homeserver
// @bob:other.net is mimi://DOMAIN/u/bob:other.net. A user of another provider is shown as a ghost,
// @mimi_USER=PROVIDER:example.org, from which the URI can be read back (see names.go). The bot,
// sender_localpart of the registration, makes rooms and speaks for the bridge.
//
// # Portals
//
// A MIMI room with Matrix participants has one Matrix room, its portal. Either the bot makes it, when
// somebody elsewhere adds a local user, or a local user makes it by inviting a ghost into a room
// of their own. Its members are the room's participants: the local users themselves, and ghosts.
//
//	Matrix                                         MIMI
//	a user invites a ghost                         CreateRoom (first time), Invite
//	an invited local user joins                    Invite, by who invited them
//	a user leaves, or declines an invitation       LeaveRoom
//	a user kicks or bans somebody                  Remove
//	m.text, m.notice, m.emote                      SendMessage
//	the bot invites the user                       Joined, a local user
//	the ghost joins                                Joined, a remote user
//	the ghost leaves; the bot kicks the user       Left
//	the ghost speaks                               Message
//	a notice in reply, and the opposite act        Refused
//
// # What holds
//
// From Matrix: a transaction is answered with 200 once its events are in this adapter's database. They are
// carried out one at a time per Matrix room, in order, also after a crash; a transaction that is repeated, whole
// or grown, is known by its event IDs. Host.Intake is idempotent by event ID, so carrying one out twice
// does no harm.
//
// To Matrix: Deliver returns when the homeserver has acknowledged. Every event sent has a transaction ID made
// from the room's URI and the sequence number, and carries a mark; where the homeserver may have
// forgotten transaction IDs (this process is new, or a request got no answer) the timeline is searched for the mark
// first. So a message is shown exactly once, whoever crashes in between.
package matrix
