package adapter

import (
	"context"
	"io"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// ConsentState is how a local user and somebody elsewhere stand to each other, one direction at a time
// (draft-ietf-mimi-protocol, "Consent"). There is one stored state per pair of users and direction, and per room.
type ConsentState uint8

const (
	ConsentNone    ConsentState = iota
	ConsentAsking               // the local user has asked, no answer yet
	ConsentAsked                // the other has asked, the local user has not answered
	ConsentGranted              // may be added to rooms and written to
	ConsentRefused              // said no, or took it back
	ConsentBlocked              // the local user does not want to hear of them; from outside like Refused and None
)

// Contact is the relation of a local user with a remote one. Grants is what the local user lets the other do,
// Granted what the other lets the local user do.
type Contact struct {
	User    mimiuri.URI // the other
	Room    mimiuri.URI // if the consent is for one room only, or zero
	Grants  ConsentState
	Granted ConsentState
	Since   time.Time
}

// ConsentAction is what a local user does about a contact.
type ConsentAction uint8

const (
	AskConsent    ConsentAction = iota + 1 // ask the other; "asking" until they answer or 30 days are over
	GrantConsent                           // let the other add and write; answers their question if there is one
	RefuseConsent                          // answer no, or take a grant back; closes the direct room to new messages
	ForgetConsent                          // drop only the own question
)

// ConsentEvent tells the adapter that a contact of a local user has changed by what the other side, a time limit or an admin did.
type ConsentEvent struct {
	Local   mimiuri.URI
	Contact Contact
	// Asked: the other has just asked, and the local user may answer. Answered: they have just answered.
	Asked, Answered bool
}

// ConsentAdapter is what an Adapter also implements if its network can show contacts and questions.
type ConsentAdapter interface {
	// DeliverConsent shows a change. As with Deliver it comes again until nil is returned.
	DeliverConsent(ctx context.Context, ev ConsentEvent) error
}

// InvitationAdapter is what an Adapter also implements if it wants to say how strangers ask under the consent policy "ask".
type InvitationAdapter interface {
	// InvitationAsks reports whether the network shows being added to a room as an invitation that the person accepts or
	// rejects. Then the invitation is the question: strangers may add local users, and the adapter should call Host.Consent with
	// GrantConsent or RefuseConsent for that room when the person has answered; a ConsentAdapter is still shown questions
	// that are about no single room. If false, a stranger's request is shown by DeliverConsent first, and their invitation
	// waits until the person grants it. Adapters that do not implement this count as true. It is constant. Of several adapters
	// the first decides; the setting people.ask goes before.
	InvitationAsks() bool
}

// Profile is what is known of a user elsewhere, as far as they let others know it.
type Profile struct {
	User   mimiuri.URI
	Name   string
	Avatar string // an https URI
	Fields map[string]string
}

// BlockTarget is what can be blocked: a user, a room or a whole domain (a URI of kind User, Room or Provider).
type BlockTarget = mimiuri.URI

// People is the part of Host about the people elsewhere: consent, discovery, blocking, reports. Errors that are not
// fault.Temporary are for the person.
type People interface {
	// Consent does something about the contact of a local user with another user, for one room only if room is not zero.
	// It is on disk when it returns nil; what has to be told to the other provider is told later. Limits
	// (requests an hour) give a fault.Limited with a sentence.
	Consent(ctx context.Context, local, other, room mimiuri.URI, action ConsentAction) error
	// Contacts lists the contacts of a local user, in the order of their URIs.
	Contacts(ctx context.Context, local mimiuri.URI) ([]Contact, error)
	// SetConsentPolicy and ConsentPolicy: ask, contacts, everyone or nobody.
	SetConsentPolicy(ctx context.Context, local mimiuri.URI, policy string) error
	ConsentPolicy(ctx context.Context, local mimiuri.URI) (string, error)

	// DirectRoom gives the direct room of two users, and makes it here if there is none; of two the one with the smaller URI.
	// The room may still be on its way when it returns: intents for it wait.
	DirectRoom(ctx context.Context, local, other mimiuri.URI) (mimiuri.URI, error)

	// Find asks a provider for users by one field: handle, nick, email, phone, fullName, oidc-sub … (identifierQuery). The answer has
	// only those who opted in to that field there. An empty domain is this provider's own users.
	Find(ctx context.Context, local mimiuri.URI, domain, field, value string) ([]Profile, error)
	// SetProfile says what others may know of a local user: p.Fields are the fields by which they may be found. An empty
	// profile takes all back.
	SetProfile(ctx context.Context, local mimiuri.URI, p Profile) error
	// Profile is what is known of a user: what they have published here, or what their provider told.
	Profile(ctx context.Context, user mimiuri.URI) (Profile, bool, error)

	// AnswerInvitation says that a local user has accepted or declined that somebody added them to a room, which the network shows
	// as an invitation: it grants or refuses consent for that room to whoever did. Declining is followed by a LeaveRoom. Without
	// an invitation that is open it does nothing.
	AnswerInvitation(ctx context.Context, local, room mimiuri.URI, accept bool) error

	// Block and Unblock are a local user's own list; Blocked lists it. Messages of blocked users are not shown to them,
	// requests and invitations of what is blocked are as if refused.
	Block(ctx context.Context, local mimiuri.URI, target BlockTarget) error
	Unblock(ctx context.Context, local mimiuri.URI, target BlockTarget) error
	Blocked(ctx context.Context, local mimiuri.URI) ([]BlockTarget, error)

	// Report sends a message, with what proves it, to the room's hub (reportAbuse). Only messages that were shown here and are
	// within the retention can be reported.
	Report(ctx context.Context, local, room mimiuri.URI, id content.MessageID, reason, note string) error

	// SafetyNumber is what two users compare: it verifies the bridges of their domains, not the persons.
	SafetyNumber(ctx context.Context, local, other, room mimiuri.URI) (string, error)

	// Export writes what is stored of a local user as a JSON document. Delete begins their removal, which goes on in the background
	// and over restarts: consent, rooms, rows, files, keys.
	Export(ctx context.Context, local mimiuri.URI, w io.Writer) error
	DeleteUser(ctx context.Context, local mimiuri.URI) error
}

// Files is the part of Host about attachments and avatars (MIMI assets).
type Files interface {
	// Upload encrypts what r gives, stores it as an asset of this provider and returns the content part for it. It
	// streams. size is a hint, -1 if unknown; above the user's quota or the limit for one file it fails with fault.TooLarge.
	Upload(ctx context.Context, local mimiuri.URI, r io.Reader, size int64, contentType, filename string) (content.Part, error)
	// Download opens the plaintext of a part of kind ExternalPart, fetched directly or through the hub, checked before the first
	// octet is given. The caller closes it. size is the plaintext's.
	Download(ctx context.Context, local, room mimiuri.URI, part *content.External) (body io.ReadCloser, size int64, err error)
	// Publish stores something for everybody to read, unencrypted (an avatar), and returns its https URI.
	Publish(ctx context.Context, local mimiuri.URI, r io.Reader, contentType string) (string, error)
	// FetchPublic opens what an https URI of a peer's asset domain has (an avatar). The caller closes it.
	FetchPublic(ctx context.Context, uri string) (body io.ReadCloser, contentType string, size int64, err error)
}

// Eraser is what an Adapter also implements if it keeps anything of users: mappings, profiles, settings. EraseUser forgets all
// of a local user who is being deleted; it is called again until it returns nil, and after a crash. By then they are out of all
// rooms, or 30 days have passed. Who has the same name later is somebody new.
type Eraser interface {
	EraseUser(ctx context.Context, user mimiuri.URI) error
}

// Unavailable implements People and Files by refusing everything, for hosts that have only a part, such as test twins.
type Unavailable struct{}

var (
	_ People = Unavailable{}
	_ Files  = Unavailable{}
)

var errUnavailable = fault.New(fault.Forbidden, "this is not available here")

func (Unavailable) Consent(context.Context, mimiuri.URI, mimiuri.URI, mimiuri.URI, ConsentAction) error {
	return errUnavailable
}
func (Unavailable) Contacts(context.Context, mimiuri.URI) ([]Contact, error) { return nil, nil }
func (Unavailable) SetConsentPolicy(context.Context, mimiuri.URI, string) error {
	return errUnavailable
}
func (Unavailable) ConsentPolicy(context.Context, mimiuri.URI) (string, error) { return "ask", nil }
func (Unavailable) DirectRoom(context.Context, mimiuri.URI, mimiuri.URI) (mimiuri.URI, error) {
	return mimiuri.URI{}, errUnavailable
}
func (Unavailable) Find(context.Context, mimiuri.URI, string, string, string) ([]Profile, error) {
	return nil, errUnavailable
}
func (Unavailable) SetProfile(context.Context, mimiuri.URI, Profile) error { return errUnavailable }
func (Unavailable) Profile(context.Context, mimiuri.URI) (Profile, bool, error) {
	return Profile{}, false, nil
}
func (Unavailable) AnswerInvitation(context.Context, mimiuri.URI, mimiuri.URI, bool) error {
	return nil
}
func (Unavailable) Block(context.Context, mimiuri.URI, BlockTarget) error   { return errUnavailable }
func (Unavailable) Unblock(context.Context, mimiuri.URI, BlockTarget) error { return errUnavailable }
func (Unavailable) Blocked(context.Context, mimiuri.URI) ([]BlockTarget, error) {
	return nil, nil
}
func (Unavailable) Report(context.Context, mimiuri.URI, mimiuri.URI, content.MessageID, string, string) error {
	return errUnavailable
}
func (Unavailable) SafetyNumber(context.Context, mimiuri.URI, mimiuri.URI, mimiuri.URI) (string, error) {
	return "", errUnavailable
}
func (Unavailable) Export(context.Context, mimiuri.URI, io.Writer) error { return errUnavailable }
func (Unavailable) DeleteUser(context.Context, mimiuri.URI) error        { return errUnavailable }
func (Unavailable) Upload(context.Context, mimiuri.URI, io.Reader, int64, string, string) (content.Part, error) {
	return content.Part{}, errUnavailable
}
func (Unavailable) Download(context.Context, mimiuri.URI, mimiuri.URI, *content.External) (io.ReadCloser, int64, error) {
	return nil, 0, errUnavailable
}
func (Unavailable) Publish(context.Context, mimiuri.URI, io.Reader, string) (string, error) {
	return "", errUnavailable
}
func (Unavailable) FetchPublic(context.Context, string) (io.ReadCloser, string, int64, error) {
	return nil, "", 0, errUnavailable
}

// History has nothing: for hosts that keep no events.
func (Unavailable) History(context.Context, mimiuri.URI, []uint64) ([]Event, error) { return nil, nil }

// Pending has nothing: for hosts that carry out intents at once.
func (Unavailable) Pending(context.Context, mimiuri.URI, mimiuri.URI) ([]Pending, error) {
	return nil, nil
}
