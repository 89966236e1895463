package matrix

import (
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"
)

// rawEvent is what is read of a Matrix event (client-server API, "Room event format"). Content stays as it came:
// it is whatever a client wrote.
type rawEvent struct {
	ID        id.EventID
	Type      string
	RoomID    id.RoomID
	Sender    id.UserID
	StateKey  *string
	Timestamp int64 // Unix ms
	Content   json.RawMessage
	Unsigned  json.RawMessage
	Redacts   id.EventID // m.room.redaction before room version 11; later it is in the content
}

// UnmarshalJSON takes the keys exactly: a homeserver passes on keys it does not know, and with "Sender" another
// homeserver could name a sender of its choice to a parser that does not tell it from "sender".
func (ev *rawEvent) UnmarshalJSON(b []byte) error {
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	*ev = rawEvent{
		ID: id.EventID(o.str("event_id")), Type: o.str("type"), RoomID: id.RoomID(o.str("room_id")), Sender: id.UserID(o.str("sender")),
		Content: o["content"], Unsigned: o["unsigned"], Redacts: id.EventID(o.str("redacts")),
	}
	if raw, ok := o["state_key"]; ok {
		if err := json.Unmarshal(raw, &ev.StateKey); err != nil {
			return err
		}
	}
	if raw, ok := o["origin_server_ts"]; ok {
		_ = json.Unmarshal(raw, &ev.Timestamp)
	}
	return nil
}

// marshal writes the event as the homeserver would have sent it, as far as it is read.
func (ev rawEvent) marshal() []byte {
	o := map[string]any{"event_id": ev.ID, "type": ev.Type, "room_id": ev.RoomID, "sender": ev.Sender, "origin_server_ts": ev.Timestamp}
	if ev.StateKey != nil {
		o["state_key"] = *ev.StateKey
	}
	if ev.Content != nil {
		o["content"] = ev.Content
	}
	if ev.Redacts != "" {
		o["redacts"] = ev.Redacts
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil
	}
	return b
}

// Bounds of an event. 64 KiB is the specification's limit for the federation format; what the homeserver adds
// (unsigned, escapes) is not counted there.
const (
	maxEvent   = 1 << 20
	maxEventID = 255
	maxDepth   = 64
)

var (
	errNotEvent = errors.New("matrix: not an event")
	errTooDeep  = errors.New("matrix: JSON nested too deeply")
)

// parseEvent reads an event and checks what everything else relies on: ids, sender and room are there and of
// bearable size.
func parseEvent(b []byte) (rawEvent, error) {
	var ev rawEvent
	if len(b) > maxEvent || tooDeep(b) {
		return ev, errTooDeep
	}
	if err := json.Unmarshal(b, &ev); err != nil {
		return ev, errNotEvent
	}
	switch {
	case len(ev.ID) < 2 || len(ev.ID) > maxEventID || ev.ID[0] != '$',
		len(ev.RoomID) < 2 || len(ev.RoomID) > maxEventID || ev.RoomID[0] != '!',
		len(ev.Sender) < 2 || len(ev.Sender) > maxEventID || ev.Sender[0] != '@',
		ev.Type == "" || len(ev.Type) > maxEventID,
		ev.StateKey != nil && len(*ev.StateKey) > maxEventID:
		return ev, errNotEvent
	}
	return ev, nil
}

// tooDeep reports whether objects and arrays are nested more than maxDepth levels, without building anything.
func tooDeep(b []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// object is a JSON object whose keys are read exactly; encoding/json's structs take "Membership" for
// "membership".
type object map[string]json.RawMessage

func asObject(b json.RawMessage) object {
	var o object
	if json.Unmarshal(b, &o) != nil {
		return nil
	}
	return o
}

// str is the field if it is a string, else "".
func (o object) str(key string) string {
	var s string
	if raw, ok := o[key]; ok && json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func (o object) object(key string) object { return asObject(o[key]) }

// isMessage reports whether an event of this type says something that people expect to be passed on.
func isMessage(typ string) bool {
	switch typ {
	case "m.room.message", "m.room.encrypted", "m.sticker", "m.reaction", "m.room.redaction",
		"m.poll.start", "m.poll.response", "m.poll.end",
		"org.matrix.msc3381.poll.start", "org.matrix.msc3381.poll.response", "org.matrix.msc3381.poll.end":
		return true
	}
	return false
}
