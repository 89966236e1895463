package client

import (
	"encoding/hex"
	"encoding/json"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/store"
)

// maxRetract is how many messages of somebody who is banned are retracted at most, the latest ones.
const maxRetract = 500

// retract has a local user retract what target has sent to the room, as far as it is known here, by messages like any other:
// they follow the ban in the order of the room. They have no origin, so that the actor's own network shows them as well.
func (r *room) retract(tx *store.Tx, actor, target string) error {
	ids, err := tx.MessagesOf(r.id, target, maxRetract)
	if err != nil {
		return err
	}
	for _, b := range ids {
		id := content.MessageID(b)
		var thread *content.MessageID
		if ev, err := tx.MessageEvent(r.id, b); err != nil {
			return err
		} else if ev != nil {
			var row eventRow
			if err := json.Unmarshal(ev.Payload, &row); err != nil {
				return err
			}
			if m, err := content.Decode(row.Content); err == nil {
				switch m.Classify().Kind {
				case content.KindMessage, content.KindReaction, content.KindSession:
				default: // an edit, a retraction, a receipt: nothing that stands for itself
					continue
				}
				thread = m.InReplyTo
			}
		}
		in := &adapter.Intent{Kind: adapter.SendMessage, Room: r.uri, Actor: uri(actor), OriginID: "retract-" + hex.EncodeToString(b), Content: content.Delete(id, thread)}
		p, mid, err := r.c.prepare(in)
		if err != nil {
			return err
		}
		payload, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if _, err := tx.InsertIntent(&store.Intent{Room: r.id, Actor: actor, Origin: in.OriginID, Payload: payload, MessageID: mid[:], Created: r.now().UnixMilli()}); err != nil {
			return err
		}
	}
	return nil
}
