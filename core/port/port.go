// Package port holds the doors between the halves of a provider: what a follower may ask of a hub, what a
// hub tells a follower, and where key material comes from. core/hub and core/client implement them for what
// is kept here, core/federation for what is kept elsewhere, so that everything above is written once.
//
// Bodies are the octets of the protocol's structs (core/wire), in and out: a retry is the same octets, and what was
// answered once is answered again. Errors are fault errors; over HTTPS they are status codes. An
// outcome that the protocol has a code for (wrongEpoch, notAllowed …) is a response, not an error.
//
// All methods may be called concurrently and may block until ctx is done.
package port

import (
	"context"
	"io"
	"time"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/wire"
)

// Hub is what a follower, or a local client, may ask of a room's hub. from is the provider domain that asks,
// authenticated; for a local client it is the hub's own domain.
type Hub interface {
	// KeyMaterial claims KeyPackages of target for the room; the hub serves it or asks target's provider, and
	// remembers where the Welcome has to go (draft-ietf-mimi-protocol, "Fetch Key Material").
	// body is a KeyMaterialRequest, the result a KeyMaterialResponse.
	KeyMaterial(ctx context.Context, from string, room, target mimiuri.URI, body []byte) ([]byte, error)
	// Update takes an UpdateRequest, gives an UpdateRoomResponse. Idempotent by (from, SHA-256 of body) for 7 days.
	Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error)
	// Submit takes a SubmitMessageRequest, gives a SubmitMessageResponse. Idempotent as Update.
	Submit(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error)
	// GroupInfo takes a GroupInfoRequest, gives a GroupInfoResponse.
	GroupInfo(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error)
	// ReportAbuse takes an AbuseReport. nil says that it was accepted, not that anything will be done. Idempotent by room and
	// body as long as the report is kept.
	ReportAbuse(ctx context.Context, from string, room mimiuri.URI, body []byte) error
}

// Notify is how a hub fans out: body is one or more concatenated FanoutMessages of the room.
type Notify interface {
	// Notify returns nil once the follower has the messages on disk (201). peer is the follower's domain: the
	// one to reach on the way out, the own one on the way in. The sender is always the room's hub: the
	// server side has checked that before calling.
	Notify(ctx context.Context, peer string, room mimiuri.URI, body []byte) error
}

// Keys is a target provider's side of key material. from is the hub that asks (or the requester's
// provider, for direct requests without a room).
type Keys interface {
	KeyMaterial(ctx context.Context, from string, target mimiuri.URI, body []byte) ([]byte, error)
}

// People is what providers ask and tell each other about people (draft-ietf-mimi-protocol, "Convey explicit consent" and
// "Find internal address"); no hub is between them. from is the provider that asks, authenticated; peer is the one to
// reach on the way out, the own one on the way in. Consent is not signed: who sends stands for it, so the server side
// has checked before calling that from and peer are the providers of the users in the body.
type People interface {
	// RequestConsent takes a ConsentEntry that requests consent or cancels that. nil says only that it was received.
	RequestConsent(ctx context.Context, from, peer string, body []byte) error
	// UpdateConsent takes a ConsentEntry that grants or revokes. nil says only that it was received.
	UpdateConsent(ctx context.Context, from, peer string, body []byte) error
	// IdentifierQuery takes an IdentifierRequest, gives an IdentifierResponse.
	IdentifierQuery(ctx context.Context, from, peer string, body []byte) ([]byte, error)
}

// Rooms is what making a room takes at its own hub; there is no way to do it from elsewhere.
type Rooms interface {
	// Prepare makes the hub's keys for a new room, or returns those that exist.
	Prepare(ctx context.Context, room mimiuri.URI) (*Agents, error)
	// Create opens a prepared room with a group of one member: a GroupInfo of epoch 0 and its ratchet tree, as
	// octets. The same octets again succeed; another group for an open room is a Conflict.
	Create(ctx context.Context, room, creator mimiuri.URI, info, tree []byte) error
}

// Agents are a hub's public keys for a room, which its creator puts into the GroupContext.
type Agents struct {
	Sender   mls.ExternalSender     // external_senders entry (RFC 9420 section 12.1.8.1)
	Franking wire.FrankingAgentData // franking_agent component
}

// Asset is an open file: an attachment as it was encrypted, or something published.
type Asset struct {
	Body io.ReadCloser // an io.Seeker, too, if the file is complete here
	Size int64         // octets, -1 if it is not known yet
	// Type is the media type of what was published, "" for octets of no known type.
	Type    string
	Expires time.Time // when it will be gone; zero for never, or not known
}

// Assets is what is stored here for anybody who knows its name (section "Direct download").
type Assets interface {
	// Asset opens a file; the caller closes its Body. A name that is none, or of a file that is gone, is a NotFound fault.
	Asset(ctx context.Context, name string) (*Asset, error)
}

// Downloads is what a hub fetches for its followers (section "Download using a hub proxy").
type Downloads interface {
	// ProxyDownload opens what is at an https URL of the asset domain of this provider or of one of its peers; other
	// URLs are Forbidden. Body may still be arriving while it is read.
	ProxyDownload(ctx context.Context, from, downloadURL string) (*Asset, error)
}

// LinkLease names the lease of an adapter's link to its network: where nodes share a database, one of them has it.
func LinkLease(adapter string) string { return "link " + adapter }
