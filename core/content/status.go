package content

import (
	"fmt"
	"math"
)

// MediaTypeStatus is the media type of a StatusReport (draft-mahy-mimi-message-status-01).
const MediaTypeStatus = "application/mimi-message-status"

// MaxReports is how many messages a report may tell of. The draft sets no limit; this is more than a client has unread.
const MaxReports = 10000

// Status is what became of a message at the sender of the report (section "Delivery Reporting and Read Receipts"). Values without a
// name here, 7 to 255, are kept.
type Status uint8

const (
	StatusUnread    Status = iota // not read yet
	StatusDelivered               // a client received it
	StatusRead                    // the user read it
	StatusExpired                 // expired, so that it cannot be read any more
	StatusDeleted                 // deleted, here or by somebody who may retract it
	StatusHidden                  // hidden here, for example archived
	StatusError                   // known, but something went wrong with it
)

var statusNames = [...]string{"unread", "delivered", "read", "expired", "deleted", "hidden", "error"}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// MayFollow reports whether a message that was in status old, by the same reporter, can be in status s now; the draft leaves it to
// implementers. What is gone stays gone, what was received is not received again, and unknown values pass.
func (s Status) MayFollow(old Status) bool {
	switch {
	case s == old:
		return false
	case old > StatusError || s > StatusError:
		return true
	case old == StatusDeleted, old == StatusExpired && s != StatusDeleted:
		return false
	case s == StatusDelivered:
		return old == StatusError
	case s == StatusError:
		return false // it arrived before
	}
	return true
}

// MessageStatus is PerMessageStatus of the CDDL.
type MessageStatus struct {
	ID     MessageID
	Status Status
}

// StatusReport is MessageStatusReport of the CDDL: what became of messages of one room. Of two entries for one message
// the later counts.
type StatusReport []MessageStatus

// Encode gives the CBOR of a report. A report that DecodeStatus would not take is an error.
func (r StatusReport) Encode() ([]byte, error) {
	if len(r) > MaxReports {
		return nil, fmt.Errorf("%w: encode: a report on %d messages", ErrLimit, len(r))
	}
	list := make([]any, len(r))
	for i := range r {
		list[i] = []any{r[i].ID[:], uint8(r[i].Status)}
	}
	b, err := encMode.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("content: encode: %w", err)
	}
	return b, nil
}

// DecodeStatus reads a report, with the strictness of Decode.
func DecodeStatus(b []byte) (StatusReport, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d octets", ErrLimit, len(b))
	}
	r := &reader{b: b}
	n := r.want(majorArray, "the report")
	if n > MaxReports {
		r.fail(ErrLimit, "a report on more than %d messages", MaxReports)
	}
	var report StatusReport
	for ; n > 0 && r.err == nil; n-- {
		r.array(2, "an entry")
		id := r.ref("a message ID")
		if id == nil {
			r.fail(ErrMalformed, "a message ID is null")
		}
		s := Status(r.uint(math.MaxUint8, "a status"))
		if r.err == nil {
			report = append(report, MessageStatus{*id, s})
		}
	}
	if r.err == nil && r.off != len(b) {
		r.fail(ErrMalformed, "there is something after the report")
	}
	if r.err != nil {
		return nil, r.err
	}
	return report, nil
}

// StatusMessage puts a report into a message of its own. The report has to be one that can be encoded.
func StatusMessage(r StatusReport) (*Message, error) {
	b, err := r.Encode()
	if err != nil {
		return nil, err
	}
	return New(Part{Cardinality: SinglePart, ContentType: MediaTypeStatus, Content: b}), nil
}

// StatusReport gives the report that a message is, ok false if it is none or one that does not decode.
func (m *Message) StatusReport() (r StatusReport, ok bool) {
	if !isStatus(&m.Body) {
		return nil, false
	}
	r, err := DecodeStatus(m.Body.Content)
	return r, err == nil
}
