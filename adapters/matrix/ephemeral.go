package matrix

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// Redactions and receipts reach an application service in one of two ways. Synapse pushes both. Dendrite pushes neither,
// but shows them to the bot's /sync. Which it is is found out at every start, in a room of the bot's own: it redacts
// something and reads something there, and looks whether that is pushed.

// receipts are the events that receipts of the homeserver's people are stored as, so that they are carried out in their
// rooms' order, and once. content is that of an m.receipt event.
func (b *bridge) receipts(room id.RoomID, content json.RawMessage) (out []incoming) {
	if len(room) < 2 || len(room) > maxEventID || room[0] != '!' || tooDeep(content) {
		return nil
	}
	var byEvent map[string]struct {
		Read map[id.UserID]struct {
			Time int64 `json:"ts"`
		} `json:"m.read"`
	}
	if json.Unmarshal(content, &byEvent) != nil {
		return nil
	}
	for event, kinds := range byEvent {
		for user, r := range kinds.Read {
			if len(event) > maxEventID || len(user) > maxEventID || isOurs(user, b.server) {
				continue
			}
			if _, ok := b.person(user); !ok {
				continue
			}
			body, err := json.Marshal(map[string]any{
				"event_id": "$" + txnID("receipt", string(room), string(user), event), "room_id": room, "sender": user,
				"type": "m.receipt", "origin_server_ts": r.Time, "content": map[string]string{"event_id": event},
			})
			if err == nil {
				out = append(out, incoming{id: id.EventID("$" + txnID("receipt", string(room), string(user), event)), room: room, body: body})
			}
			if len(out) == 1000 {
				return out
			}
		}
	}
	slices.SortFunc(out, func(a, b incoming) int { return strings.Compare(string(a.id), string(b.id)) })
	return out
}

// ephemeral reads the ephemeral events of a transaction.
func (b *bridge) ephemeral(o object) (out []incoming) {
	for _, key := range []string{"ephemeral", "de.sorunome.msc2409.ephemeral"} {
		raw, ok := o[key]
		if !ok {
			continue
		}
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil {
			continue
		}
		for _, one := range list {
			ev := asObject(one)
			if ev.str("type") == "m.receipt" {
				b.pushedReceipts.Store(true)
				out = append(out, b.receipts(id.RoomID(ev.str("room_id")), ev["content"])...)
			}
		}
		break
	}
	return out
}

// probeType is the type of the event that is sent in the bot's room to be redacted.
const probeType = bridgeKey + ".probe"

// probe does in the bot's own room what the homeserver should push.
func (b *bridge) probe(ctx context.Context) error {
	if err := b.ensureBot(ctx); err != nil {
		return err
	}
	// The place from which on it would be fetched is fixed before anything is waited for: what is redacted meanwhile counts.
	switch since, err := b.st.setting(ctx, "sync"); {
	case err != nil:
		return err
	case since == "":
		if err := b.fetch(ctx); err != nil && !definite(err) { // some homeservers push, and let no application service sync
			return err
		}
	}
	stored, err := b.st.setting(ctx, "probe")
	if err != nil {
		return err
	}
	room := id.RoomID(stored)
	send := func() (id.EventID, error) {
		return b.hs.send(ctx, b.hs.bot, room, probeType, txnID("probe", strconv.FormatInt(time.Now().UnixNano(), 36)), time.Time{}, empty{})
	}
	var event id.EventID
	if room != "" {
		event, err = send()
	}
	if room == "" || definite(err) {
		room, err = b.hs.createRoom(ctx, map[string]any{
			"preset": "private_chat", "visibility": "private", "name": "MIMI bridge: what the homeserver pushes",
			"creation_content": map[string]any{"m.federate": false},
		})
		if err != nil {
			return err
		}
		if err := b.st.set("probe", string(room)); err != nil {
			return err
		}
		event, err = send()
	}
	if err != nil {
		return err
	}
	if err := b.hs.receipt(ctx, b.hs.bot, room, event); err != nil {
		return err
	}
	return b.hs.redact(ctx, b.hs.bot, room, event, txnID("probe", string(event)), "")
}

// pushes reports whether everything is pushed.
func (b *bridge) pushes() bool { return b.pushedReceipts.Load() && b.pushedRedactions.Load() }

// watch finds out what is pushed, and fetches the rest for as long as there is one.
func (b *bridge) watch(ctx context.Context) {
	if b.cfg.noProbe || b.gone.Load() {
		return
	}
	for failures := 0; ; failures++ {
		err := b.probe(ctx)
		if err == nil || ctx.Err() != nil {
			break
		}
		if b.seldom("probe") {
			b.log.Warn().Err(err).Msg("what the homeserver pushes could not be found out yet")
		}
		if !pause(ctx, min(time.Second<<min(failures, 6), time.Minute)) {
			return
		}
	}
	for range 30 {
		if b.pushes() || !pause(ctx, 100*time.Millisecond) {
			break
		}
	}
	if ctx.Err() != nil {
		return
	}
	if b.pushes() {
		b.log.Info().Msg("the homeserver pushes redactions and receipts")
		return
	}
	b.log.Info().Bool("redactions", b.pushedRedactions.Load()).Bool("receipts", b.pushedReceipts.Load()).
		Msg("the homeserver does not push redactions and receipts; they are fetched")
	for failures := 0; ctx.Err() == nil && !b.pushes() && !b.gone.Load(); {
		if err := b.fetch(ctx); err != nil {
			if ctx.Err() == nil && b.seldom("sync") {
				b.log.Warn().Err(err).Msg("redactions and receipts could not be fetched; trying again")
			}
			failures++
			pause(ctx, min(200*time.Millisecond<<min(failures, 8), 30*time.Second))
			continue
		}
		failures = 0
	}
}

// pause waits, unless ctx ends; then it returns false.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// syncTime is how long the homeserver may wait for something new.
const syncTime = 25 * time.Second

// fetch asks once for what is new since the last time and stores it.
func (b *bridge) fetch(ctx context.Context) error {
	since, err := b.st.setting(ctx, "sync")
	if err != nil {
		return err
	}
	answer, err := b.hs.sync(ctx, since)
	if err != nil {
		return err
	}
	var events []incoming
	for room, data := range answer.Rooms.Join {
		if since == "" {
			break // what was before is none of this adapter's business
		}
		chunk := data.Timeline.Events
		if data.Timeline.Limited && data.Timeline.PrevBatch != "" {
			earlier, err := b.missed(ctx, room, data.Timeline.PrevBatch)
			if err != nil {
				return err
			}
			chunk = append(earlier, chunk...)
		}
		for _, ev := range chunk {
			ev.RoomID = room
			body := ev.marshal()
			if ev, err := parseEvent(body); err == nil && ev.Type == "m.room.redaction" && b.wanted(ev) {
				events = append(events, incoming{id: ev.ID, room: room, body: body})
			}
		}
		for _, ev := range data.Ephemeral.Events {
			if ev.Type == "m.receipt" {
				events = append(events, b.receipts(room, ev.Content)...)
			}
		}
	}
	if len(events) > 0 {
		rooms, err := b.st.keep(events)
		if err != nil {
			return err
		}
		b.inbox.poke(rooms...)
	}
	if answer.Next == since {
		return nil
	}
	return b.st.set("sync", answer.Next)
}

// missed fetches redactions that came before those that a sync had room for, oldest first.
func (b *bridge) missed(ctx context.Context, room id.RoomID, from string) ([]rawEvent, error) {
	var out []rawEvent
	for range 10 {
		events, next, err := b.hs.history(ctx, b.hs.bot, room, from, 100, map[string]any{"types": []string{"m.room.redaction"}})
		if err != nil {
			return nil, err
		}
		out = append(out, events...)
		if next == "" || next == from || len(events) == 0 {
			break
		}
		from = next
	}
	slices.Reverse(out)
	return out, nil
}

// syncAnswer is what is read of an answer to /sync.
type syncAnswer struct {
	Next  string `json:"next_batch"`
	Rooms struct {
		Join map[id.RoomID]struct {
			Timeline struct {
				Events    []rawEvent `json:"events"`
				Limited   bool       `json:"limited"`
				PrevBatch string     `json:"prev_batch"`
			} `json:"timeline"`
			Ephemeral struct {
				Events []rawEvent `json:"events"`
			} `json:"ephemeral"`
		} `json:"join"`
	} `json:"rooms"`
}

const syncFilter = `{"room":{"timeline":{"types":["m.room.redaction"],"limit":100},"state":{"not_types":["*"],"lazy_load_members":true},` +
	`"ephemeral":{"types":["m.receipt"]},"account_data":{"not_types":["*"]}},"presence":{"not_types":["*"]},"account_data":{"not_types":["*"]}}`

func (h *homeserver) sync(ctx context.Context, since string) (answer syncAnswer, err error) {
	query := map[string]string{"filter": syncFilter, "timeout": fmt.Sprint(syncTime.Milliseconds())}
	if since == "" {
		query["timeout"] = "0"
	} else {
		query["since"] = since
	}
	err = h.do(ctx, "sync", http.MethodGet, h.bot, mautrix.ClientURLPath{"v3", "sync"}, query, nil, &answer)
	return answer, err
}
