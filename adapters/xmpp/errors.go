package xmpp

import (
	"errors"

	"github.com/mimibridge/mimibridge/core/fault"
)

// stanzaError is an error as RFC 6120 section 8.3 has it, with a text for the person.
type stanzaError struct {
	Type      string // auth, cancel, modify, wait
	Condition string
	Text      string
}

func (e *stanzaError) Error() string { return "xmpp: " + e.Condition + ": " + e.Text }

func (e *stanzaError) element(by string) *element {
	x := el("", "error", "type", e.Type, "by", by).add(el(nsStanzas, e.Condition))
	if e.Text != "" {
		x.add(&element{Space: nsStanzas, Local: "text", Attr: []attr{{"xml:lang", "en"}}, Text: e.Text})
	}
	return x
}

// toStanzaError says an error of the provider in XMPP's terms. Only what fault.Public gives goes out.
func toStanzaError(err error) *stanzaError {
	var e *stanzaError
	if errors.As(err, &e) {
		return e
	}
	text := fault.Public(err)
	switch fault.KindOf(err) {
	case fault.Malformed:
		return &stanzaError{"modify", "bad-request", text}
	case fault.Forbidden:
		return &stanzaError{"auth", "forbidden", text}
	case fault.NotFound:
		return &stanzaError{"cancel", "item-not-found", text}
	case fault.TooLarge:
		return &stanzaError{"modify", "not-acceptable", text}
	case fault.Conflict:
		return &stanzaError{"cancel", "conflict", text}
	case fault.Limited:
		return &stanzaError{"wait", "resource-constraint", text}
	case fault.Unavailable:
		return &stanzaError{"wait", "remote-server-timeout", text}
	}
	return &stanzaError{"wait", "internal-server-error", text}
}

// toJoinError is toStanzaError for a refused join. XEP-0045 section 7.2 gives two conditions meanings of
// their own: forbidden is a ban, conflict is about the nick.
func toJoinError(err error) *stanzaError {
	e := toStanzaError(err)
	switch {
	case e.Condition == "forbidden" && fault.Is(err, fault.Forbidden):
		return &stanzaError{"auth", "registration-required", e.Text}
	case e.Condition == "conflict" && fault.Is(err, fault.Conflict):
		return &stanzaError{"wait", "resource-constraint", e.Text}
	}
	return e
}

func errNotFound(text string) *stanzaError   { return &stanzaError{"cancel", "item-not-found", text} }
func errForbidden(text string) *stanzaError  { return &stanzaError{"auth", "forbidden", text} }
func errBadRequest(text string) *stanzaError { return &stanzaError{"modify", "bad-request", text} }
func errUnsupported(text string) *stanzaError {
	return &stanzaError{"cancel", "feature-not-implemented", text}
}
func errNotAcceptable(text string) *stanzaError {
	return &stanzaError{"modify", "not-acceptable", text}
}

// gone tells whether an error that came back from a resource means that nobody is there any more: then it
// occupies the room no longer. service-unavailable is what a server answers for a resource that has
// gone, and what XEP-0191 answers for somebody who blocks the room.
func gone(condition string) bool {
	switch condition {
	case "gone", "item-not-found", "jid-malformed", "recipient-unavailable", "redirect",
		"remote-server-not-found", "remote-server-timeout", "service-unavailable":
		return true
	}
	return false
}

// conditionOf reads the condition of an error stanza.
func conditionOf(kids []*element) string {
	e := find(kids, "", "error")
	if e == nil {
		return ""
	}
	for _, k := range e.Kids {
		if k.Space == nsStanzas && k.Local != "text" {
			return k.Local
		}
	}
	return ""
}
