// Package fault gives errors the two properties that everybody who handles one needs: whether trying
// again can help, and what the other side (a peer provider, a person on XMPP or Matrix) may read of it.
//
// The text of Error() is for the log of this provider. It may name rooms, users and peers, but never keys,
// tokens or message text. What goes out is only what Public returns.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what sort of failure it is. Protocol layers map it to their own codes: HTTP status, XMPP
// error condition, Matrix errcode.
type Kind uint8

const (
	Internal    Kind = iota // ours to mend; the other side learns nothing of it
	Malformed               // the input cannot be parsed or contradicts itself
	Forbidden               // understood, and not allowed
	NotFound                // no such room, user or object, as far as the asker may know
	TooLarge                // over a size limit
	Conflict                // overtaken by something else; rebuild and try again
	Limited                 // over a rate or a quota; RetryAfter says when
	Unavailable             // a peer, a server or a store cannot be reached now
)

var kindNames = [...]string{"internal", "malformed", "forbidden", "not found", "too large", "conflict", "limited", "unavailable"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Error is an error with a Kind and a sentence that may leave this provider.
type Error struct {
	Kind       Kind
	Message    string        // for the other side: a sentence without secrets, may be empty
	RetryAfter time.Duration // for Limited and Unavailable, zero if unknown
	Err        error         // for the log, may be nil
}

// New makes an error of kind k whose message the other side may read.
func New(k Kind, message string) *Error { return &Error{Kind: k, Message: message} }

// Newf is New with a format. Everything in it may be read by the other side.
func Newf(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// Wrap gives err the kind k and a message the other side may read. A nil err stays nil.
func Wrap(k Kind, message string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: k, Message: message, Err: err}
}

func (e *Error) Error() string {
	switch {
	case e.Err == nil && e.Message == "":
		return e.Kind.String()
	case e.Err == nil:
		return e.Kind.String() + ": " + e.Message
	case e.Message == "":
		return e.Kind.String() + ": " + e.Err.Error()
	}
	return e.Kind.String() + ": " + e.Message + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost *Error in err's chain, Internal if there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of kind k. Internal is reported only for an error marked as such.
func Is(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

// Temporary reports whether the same request may succeed later without being changed. An error that
// nobody classified counts as temporary: work is retried rather than lost.
func Temporary(err error) bool {
	if err == nil {
		return false
	}
	switch KindOf(err) {
	case Internal, Limited, Unavailable:
		return true
	}
	return false
}

// Public returns what the other side may read: never empty, never the inner error.
func Public(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Message != "" && e.Kind != Internal {
		return e.Message
	}
	switch KindOf(err) {
	case Malformed:
		return "the request could not be understood"
	case Forbidden:
		return "this is not allowed"
	case NotFound:
		return "there is no such thing here"
	case TooLarge:
		return "this is too large"
	case Conflict:
		return "something else came first; please try again"
	case Limited:
		return "too many requests; please wait a little"
	case Unavailable:
		return "the other side cannot be reached now; it will be tried again"
	}
	return "an error on this server; its administrator can find it in the log"
}
