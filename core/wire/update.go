package wire

import (
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// GroupInfoOption carries a GroupInfo or what a hub cannot know of it. Exactly one field is set.
type GroupInfoOption struct {
	Full    *mls.GroupInfo
	Partial *mls.PartialGroupInfo
}

// Values of GroupInfoRepresentation.
const (
	groupInfoFull    = 1
	groupInfoPartial = 2
)

func (o *GroupInfoOption) marshal(w *tlspl.Writer) {
	switch {
	case o.Full != nil:
		w.Uint8(groupInfoFull)
		o.Full.MarshalTLS(w)
	case o.Partial != nil:
		w.Uint8(groupInfoPartial)
		o.Partial.MarshalTLS(w)
	default:
		w.Uint8(0) // reserved: no parser takes it
	}
}

func (o *GroupInfoOption) unmarshal(r *tlspl.Reader) {
	switch rep := r.Uint8(); rep {
	case groupInfoFull:
		o.Full = new(mls.GroupInfo)
		o.Full.UnmarshalTLS(r)
	case groupInfoPartial:
		o.Partial = new(mls.PartialGroupInfo)
		o.Partial.UnmarshalTLS(r)
	default:
		r.Failf("GroupInfoRepresentation %d", rep)
	}
}

// UpdateRequest is the HandshakeBundle of section "Update Room State": a Commit with what belongs to it, or one or
// more proposals.
type UpdateRequest struct {
	Message *mls.MLSMessage // a PublicMessage with a Commit or a Proposal

	// With a Commit. Welcome and GroupInfo have no ratchet_tree extension.
	Welcome   *mls.Welcome // nil if nobody is added
	GroupInfo GroupInfoOption
	Tree      mls.RatchetTreeOption

	// With a Proposal: further ones, PublicMessages.
	MoreProposals []*mls.MLSMessage
}

// IsCommit reports whether the bundle is that of a Commit.
func (q *UpdateRequest) IsCommit() bool { return q.Message.ContentType() == mls.ContentCommit }

// Marshal gives the encoding.
func (q *UpdateRequest) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		q.Message.MarshalTLS(w)
		if !q.IsCommit() {
			writeMessages(w, q.MoreProposals)
			return
		}
		w.Optional(q.Welcome != nil, func(w *tlspl.Writer) { q.Welcome.MarshalTLS(w) })
		q.GroupInfo.marshal(w)
		q.Tree.MarshalTLS(w)
	})
}

// ParseUpdateRequest reads the body of an update request. Nothing of MLS is verified.
func ParseUpdateRequest(b []byte) (*UpdateRequest, error) {
	q := new(UpdateRequest)
	err := parse("UpdateRequest", MaxBody, b, func(r *tlspl.Reader) {
		q.Message = readMessage(r)
		switch {
		case r.Err() != nil:
		case q.Message.PublicMessage == nil:
			r.Failf("%v instead of a PublicMessage", q.Message.WireFormat)
		case q.IsCommit():
			r.Optional(func(r *tlspl.Reader) {
				q.Welcome = new(mls.Welcome)
				q.Welcome.UnmarshalTLS(r)
			})
			q.GroupInfo.unmarshal(r)
			q.Tree.UnmarshalTLS(r)
		case q.Message.ContentType() == mls.ContentProposal:
			q.MoreProposals = readProposals(r)
		default:
			r.Failf("content type %v", q.Message.ContentType())
		}
	})
	if err != nil {
		return nil, err
	}
	return q, nil
}

// UpdateCode is the UpdateResponseCode.
type UpdateCode uint8

// Codes of an UpdateRoomResponse.
const (
	UpdateSuccess   UpdateCode = 0
	WrongEpoch      UpdateCode = 1
	NotAllowed      UpdateCode = 2
	InvalidProposal UpdateCode = 3
)

var updateCodeNames = []string{"success", "wrongEpoch", "notAllowed", "invalidProposal"}

func (c UpdateCode) String() string { return name("UpdateCode", updateCodeNames, uint8(c)) }

// UpdateRoomResponse answers an UpdateRequest.
type UpdateRoomResponse struct {
	Code              UpdateCode
	Description       string            // for people
	AcceptedTimestamp uint64            // UpdateSuccess: ms since the Unix epoch
	CurrentEpoch      uint64            // WrongEpoch
	InvalidProposals  []mls.ProposalRef // InvalidProposal; may be empty
}

// Marshal gives the encoding.
func (a *UpdateRoomResponse) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Uint8(uint8(a.Code))
		w.String(a.Description)
		switch a.Code {
		case UpdateSuccess:
			w.Uint64(a.AcceptedTimestamp)
		case WrongEpoch:
			w.Uint64(a.CurrentEpoch)
		case InvalidProposal:
			w.Vector(func(w *tlspl.Writer) {
				for _, ref := range a.InvalidProposals {
					w.Opaque(ref)
				}
			})
		}
	})
}

// ParseUpdateRoomResponse reads the answer to an update request.
func ParseUpdateRoomResponse(b []byte) (*UpdateRoomResponse, error) {
	a := new(UpdateRoomResponse)
	err := parse("UpdateRoomResponse", MaxResponse, b, func(r *tlspl.Reader) {
		a.Code = UpdateCode(r.Uint8())
		a.Description = r.String()
		if !utf8.ValidString(a.Description) {
			r.Failf("the description is not UTF-8")
		}
		switch a.Code {
		case UpdateSuccess:
			a.AcceptedTimestamp = r.Uint64()
		case WrongEpoch:
			a.CurrentEpoch = r.Uint64()
		case NotAllowed:
		case InvalidProposal:
			r.Vector(func(r *tlspl.Reader) {
				readCount(r, len(a.InvalidProposals), MaxProposals, "references")
				a.InvalidProposals = append(a.InvalidProposals, r.Opaque())
			})
		default:
			r.Failf("response code %d", uint8(a.Code))
		}
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}
