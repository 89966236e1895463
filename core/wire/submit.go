package wire

import (
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// SubmitMessageRequest sends an application message (section "Submit a Message").
type SubmitMessageRequest struct {
	Protocol   Protocol
	Message    *mls.MLSMessage // a PrivateMessage with application content
	SendingURI mimiuri.URI     // the user, a participant
}

// Marshal gives the encoding.
func (q *SubmitMessageRequest) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Uint8(uint8(q.Protocol))
		q.Message.MarshalTLS(w)
		writeURI(w, q.SendingURI)
	})
}

// ParseSubmitMessageRequest reads the body of a submitMessage request.
func ParseSubmitMessageRequest(b []byte) (*SubmitMessageRequest, error) {
	q := new(SubmitMessageRequest)
	err := parse("SubmitMessageRequest", MaxSubmit, b, func(r *tlspl.Reader) {
		q.Protocol = readProtocol(r)
		q.Message = readMessage(r)
		if r.Err() == nil && !isApplication(q.Message) {
			r.Failf("%v with %v instead of an application message", q.Message.WireFormat, q.Message.ContentType())
		}
		q.SendingURI = readURI(r, mimiuri.User, false)
	})
	if err != nil {
		return nil, err
	}
	return q, nil
}

func isApplication(m *mls.MLSMessage) bool {
	return m.PrivateMessage != nil && m.ContentType() == mls.ContentApplication
}

// SubmitCode is the SubmitResponseCode.
type SubmitCode uint8

// Codes of a SubmitMessageResponse.
const (
	SubmitAccepted   SubmitCode = 0
	SubmitNotAllowed SubmitCode = 1
	EpochTooOld      SubmitCode = 2
)

var submitCodeNames = []string{"accepted", "notAllowed", "epochTooOld"}

func (c SubmitCode) String() string { return name("SubmitCode", submitCodeNames, uint8(c)) }

// SubmitMessageResponse answers a SubmitMessageRequest.
type SubmitMessageResponse struct {
	Protocol          Protocol
	Code              SubmitCode
	AcceptedTimestamp uint64 // SubmitAccepted: ms since the Unix epoch
	Frank             *Frank // SubmitAccepted; nil if the message was not franked
	CurrentEpoch      uint64 // EpochTooOld
}

// Marshal gives the encoding.
func (a *SubmitMessageResponse) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Uint8(uint8(a.Protocol))
		w.Uint8(uint8(a.Code))
		switch a.Code {
		case SubmitAccepted:
			w.Uint64(a.AcceptedTimestamp)
			writeFrank(w, a.Frank)
		case EpochTooOld:
			w.Uint64(a.CurrentEpoch)
		}
	})
}

// ParseSubmitMessageResponse reads the answer to a submitMessage request.
func ParseSubmitMessageResponse(b []byte) (*SubmitMessageResponse, error) {
	a := new(SubmitMessageResponse)
	err := parse("SubmitMessageResponse", MaxResponse, b, func(r *tlspl.Reader) {
		a.Protocol = readProtocol(r)
		a.Code = SubmitCode(r.Uint8())
		switch a.Code {
		case SubmitAccepted:
			a.AcceptedTimestamp = r.Uint64()
			a.Frank = readFrank(r)
		case SubmitNotAllowed:
		case EpochTooOld:
			a.CurrentEpoch = r.Uint64()
		default:
			r.Failf("status code %d", uint8(a.Code))
		}
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}
