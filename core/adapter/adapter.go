// Package adapter is the plugin interface between a MIMI provider and a chat network. An adapter
// translates: stanzas or events on its network's side, MIMI content and MIMI URIs on this side. It knows
// nothing of MLS, of the hub or of other providers. A Go module outside this project can be an adapter.
//
// # Life
//
// The provider calls Run once. The adapter serves its network until ctx is done and then returns nil; an
// error means it cannot go on, and it is started again after a pause.
//
// # From the network
//
// The adapter turns what a local user does into an Intent and calls Host.Intake. When Intake returns nil the
// intent is on disk and will be carried out, whatever crashes: only then may the network be told (a Matrix
// transaction answered). Intake is idempotent by (adapter, Intent.Room, Intent.Actor, Intent.OriginID): the same intent again
// is answered as before and done once. What becomes of an intent is told by an event: a Message or a
// membership event that carries the intent's Origin when it was accepted, a Refused event when it was not.
//
// # To the network
//
// The provider calls Adapter.Deliver for one event at a time per room, in the room's order, and for several
// rooms at once. An event counts as delivered when Deliver returns nil; until then, and after a crash, the same
// event (same Room and Seq) comes again. So an adapter derives its network's ids from Event.ID or from
// Room and Seq: a network that can tell a repetition then shows it once.
package adapter

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// Adapter connects one network. All methods may be called concurrently.
type Adapter interface {
	// Name is "xmpp", "matrix" …: lower-case, constant, the key of this adapter's rows and ids.
	Name() string

	// Run serves the network until ctx is done.
	Run(ctx context.Context, host Host) error

	// Deliver shows one event to all local participants. It may block (a server that is down) until ctx is
	// done; an error that is fault.Temporary is tried again with a growing pause, any other is logged,
	// counted and the event given up. Run has been called before, but may not be connected yet.
	Deliver(ctx context.Context, ev Event) error

	// LocalUser reports whether the user exists on the network, for key material: somebody elsewhere wants
	// to add them to a room. An error that is fault.Temporary makes the asker try later.
	LocalUser(ctx context.Context, user mimiuri.URI) (bool, error)
}

// BatchAdapter is what an Adapter also implements if several events of a room at once cost it less than one after the other.
type BatchAdapter interface {
	// DeliverBatch is Deliver for events of one room, in their order. It returns how many of them were delivered; fewer than all
	// only together with an error, which is about the next one and means what it means for Deliver.
	DeliverBatch(ctx context.Context, events []Event) (done int, err error)
}

// Level is what a person may do with this provider, by the permissions of the configuration.
type Level uint8

const (
	LevelNone Level = iota
	LevelUser
	LevelAdmin
)

// Host is what an adapter may ask of the provider. All methods may be called concurrently.
type Host interface {
	// Domain is the MIMI provider domain, for instance "example.org".
	Domain() string

	// Level returns what the person with this network id (bare JID "alice@example.org", Matrix ID
	// "@alice:example.org") may do. The configuration's rules are by id, by the network's domain and "*".
	Level(networkID string) Level

	// Intake stores an intent of a local user and returns; see the package comment. An error that is
	// not fault.Temporary is for the person: fault.Public(err) is a sentence they may read.
	Intake(ctx context.Context, in Intent) error

	// Room returns what is known of a room that has, had or is getting local participants; ok is false
	// for a room this provider is not in. The view is of what has been delivered and applied so far.
	Room(ctx context.Context, room mimiuri.URI) (r Room, ok bool, err error)

	// Rooms lists the rooms in which this provider has participants.
	Rooms(ctx context.Context) ([]mimiuri.URI, error)

	// History gives events of a room again that were delivered before, those with the sequence numbers seqs (at most 500), in their
	// order. What is not kept any more (retention) is left out, and Content is nil for a message whose text is not. Their content is
	// sealed at rest; an adapter keeps none in its own database and reads it here. What a user may see of it is Event.Local, or
	// more where Room.History says so.
	History(ctx context.Context, room mimiuri.URI, seqs []uint64) ([]Event, error)

	// Pending lists the messages of a local user in a room that this adapter has handed in and has not been shown yet, in their
	// order: what they write next may refer to one of these. Its message ID is fixed with Intake, so an intent that names it can be
	// handed in at once, and is carried out after it.
	Pending(ctx context.Context, room, actor mimiuri.URI) ([]Pending, error)

	// DB is this adapter's own database (a SQLite file or a PostgreSQL schema), for its own tables: the
	// mapping of ids, profiles. It is opened with foreign keys, WAL and synchronous=FULL, and is not sealed.
	DB() *sql.DB

	// Log is a logger with the adapter's name. Never log message text, tokens or keys.
	Log() zerolog.Logger

	People
	Files
}

// IntentKind says what a local user wants.
type IntentKind uint8

const (
	// CreateRoom makes Intent.Room, which must be of this provider's domain, with Actor as its only
	// participant. If it exists already the intent is Refused with fault.Conflict; the name of a room that is over (Room.Free)
	// may be used again.
	CreateRoom IntentKind = iota + 1
	// Invite adds Target to the room.
	Invite
	// JoinRoom makes Actor a participant of a room somewhere, if that room's policy lets them in.
	JoinRoom
	// LeaveRoom ends Actor's participation, all clients included. Refusing an invitation is leaving.
	LeaveRoom
	// Remove ends Target's participation (kick from the participant list).
	Remove
	// SendMessage sends Intent.Content: a message, reply, edit, reaction, retraction or status report.
	SendMessage
	// Ban gives Target the banned role: their clients leave the group and they cannot come back.
	Ban
	// Unban takes Target off the list of the banned; they are not added again.
	Unban
	// ChangeRole gives Target, who is a participant, the role with the index Intent.Role.
	ChangeRole
	// SetMetadata changes those parts of the room's metadata that are set in Intent.Metadata.
	SetMetadata
	// SetPolicy changes those parts of the room's policy that are set in Intent.Policy.
	SetPolicy
	// DestroyRoom removes everybody and closes the room for good.
	DestroyRoom
)

// Preset is what a new room is like (core/policy's presets).
type Preset string

const (
	Cooperative Preset = "cooperative" // everybody adds and removes others; the default
	Strict      Preset = "strict"      // only admins do
	Moderated   Preset = "moderated"   // guests and attendees read, speakers write
	Direct      Preset = "direct"      // two people for good; made by People.DirectRoom only
)

// MetadataChange holds the parts of the metadata that are to change; nil leaves a part as it is.
type MetadataChange struct {
	Name        *string
	Description *string // plain text
	Subject     *string
	Mood        *string
	Avatar      *string // an https URI (Files.Publish makes one), or empty
}

// PolicyChange holds the parts of a room's policy that are to change; nil leaves a part as it is.
type PolicyChange struct {
	// Open: whoever wants to may join (a preauthorisation without claims, for the role of an ordinary user).
	Open *bool
	// History: who joins may read what was sent before, as far as providers keep it.
	History *bool
	// Discoverable: the room may be listed.
	Discoverable *bool
	// MaxUsers limits the participants; 0 is no limit.
	MaxUsers *uint32
}

// Intent is one thing a local user wants done.
type Intent struct {
	Kind  IntentKind
	Room  mimiuri.URI // kind Room, always set
	Actor mimiuri.URI // the local user, kind User

	// OriginID is the network's own id of it: the Matrix event ID, the stanza's origin-id or id together
	// with the bare JID. At most 512 octets, never empty, unique per (adapter, room, actor).
	OriginID string

	Target   mimiuri.URI      // Invite, Remove, Ban, Unban, ChangeRole
	Name     string           // CreateRoom: the room's name, may be empty
	Preset   Preset           // CreateRoom: empty is Cooperative
	Role     uint32           // ChangeRole; Invite: the role to add them with, 0 is the preset's ordinary one
	Retract  bool             // Ban: what Target has sent is retracted as well, by messages of Actor, as far as it is known here
	Reason   string           // Remove, Ban: for the person concerned; at most 512 octets; shown within this provider only
	Metadata *MetadataChange  // SetMetadata
	Policy   *PolicyChange    // SetPolicy
	Content  *content.Message // SendMessage: without salt, senderUri and roomUri, which the provider sets

	// OriginTime is the network's timestamp, zero if it has none. It becomes senderTimestamp.
	OriginTime time.Time
	// Hint comes back in the Origin of the event, untouched; at most 1,024 octets (a resource, a nick).
	Hint string
}

// Origin names the intent that an event came from. It is nil for everything that others did.
type Origin struct {
	Adapter string
	ID      string // Intent.OriginID
	Hint    string
}

// Pending is a message that is on its way.
type Pending struct {
	ID      content.MessageID
	Origin  Origin
	Content *content.Message
}

// EventKind says what happened.
type EventKind uint8

const (
	// Message: Sender sent Content. For the local participants at that time, the sender included.
	Message EventKind = iota + 1
	// Joined: User is a participant from here on. Actor added them, or is User for a join on their own or
	// the creation of the room. The first event of a room in this provider is the Joined of its first local
	// user, preceded in Event.Room by who was there already.
	Joined
	// Left: User is no participant any more. Actor is User, or who removed them.
	Left
	// Refused: an intent (Origin, Intent) was not carried out for good. Err says why. Nothing else has
	// happened: the adapter undoes what its network shows already and tells the person.
	Refused
	// Closed: this provider can take no more part in the room (it is gone, or this provider lost access).
	Closed
	// Metadata: Room.Name or another part of the metadata has changed.
	Metadata
	// RoleChanged: User, who stays a participant, has another role (Room.Participants says which).
	RoleChanged
	// Policy: the room's policy (Room.Open, History …) or its list of roles has changed.
	Policy
	// Banned: User, participant or not, is banned. If they were a participant, a Left event with Banned set came before.
	Banned
	// Unbanned: User is banned no more.
	Unbanned
	// Notice is a sentence for Local from the provider about the room (its hub cannot be reached, is back …):
	// Event.Notice. It is shown as such, or left out, and never bridged.
	Notice
)

// Event is one thing that happened in a room, as the local participants are to see it.
type Event struct {
	Kind EventKind
	Room mimiuri.URI
	// Seq is this provider's sequence number of the event in the room: 1, 2, 3 …, the order in which events
	// are delivered. Room and Seq together are the event's stable name.
	Seq uint64
	// Time is the hub's acceptance time (for a Refused event, the time of the refusal), ms precision.
	Time   time.Time
	Origin *Origin // this provider's own intent, or nil

	ID      content.MessageID // Message: the MIMI message ID
	Sender  mimiuri.URI       // Message: the user
	Content *content.Message  // Message

	User    mimiuri.URI // Joined, Left, RoleChanged, Banned, Unbanned
	Actor   mimiuri.URI // all of these, Metadata and Policy; may be the hub (kind Provider)
	Role    uint32      // Joined, RoleChanged: the role that User has from here on
	Banned  bool        // Left: User is banned as well
	Closing bool        // Left: by an intent of this provider to destroy the room; Closed follows
	Reason  string      // Left, Banned: what the intent's actor gave as reason, if of this provider
	Notice  string      // Notice: a sentence

	Intent IntentKind  // Refused
	Target mimiuri.URI // Refused: the intent's actor is Actor, its target is Target
	Err    error       // Refused: for the person by fault.Public

	// Local are the local users who may see the event, in no order. It includes, for Joined and Left, the
	// user concerned if local.
	Local []mimiuri.URI
}

// Participant is a user of a room and what they may do.
type Participant struct {
	User     mimiuri.URI
	Role     uint32 // index into the room's roles_list; RoleName is for people
	RoleName string
	Send     bool // may send messages
	Admin    bool // may change the roles of others
}

// Role is an entry of the room's roles_list as an adapter needs it: what to map affiliations and power levels to.
type Role struct {
	Index        uint32
	Name         string
	Capabilities []policy.Capability
	Changes      []policy.RoleChanges // from which role to which its holders may move others; 0 is "not listed"
}

// Can reports whether the role holds the capability.
func (r Role) Can(c policy.Capability) bool { return slices.Contains(r.Capabilities, c) }

// Room is a snapshot of a room.
type Room struct {
	URI          mimiuri.URI
	Name         string
	Description  string // the first plain text one
	Subject      string
	Mood         string
	Avatar       string        // an https URI
	Participants []Participant // active ones, not the banned
	Banned       []mimiuri.URI
	Roles        []Role
	// Direct: a room of fixed membership with two people.
	Direct       bool
	Open         bool // whoever wants to may join
	History      bool // who joins may read what was sent before
	Discoverable bool
	MaxUsers     uint32 // 0: no limit
	// Offline: the hub has not been reached for some time. The room can be read; what is sent waits.
	Offline bool
	Gone    bool // Closed was or will be delivered
	// Free, with Gone: the room is over, and CreateRoom makes another one of its name.
	Free bool
}

// RoleOf gives a participant's role.
func (r *Room) RoleOf(user mimiuri.URI) (Role, bool) {
	for _, p := range r.Participants {
		if p.User == user {
			for _, role := range r.Roles {
				if role.Index == p.Role {
					return role, true
				}
			}
		}
	}
	return Role{}, false
}
