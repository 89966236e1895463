package hub

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// maxReports is how many reports one provider may bring in a day.
const maxReports = 200

// ReportAbuse implements port.Hub (section "Report abuse"): what was reported is kept for the admin if every message in it
// went through this hub, in this room, from that sender, as its frank proves. The keys for that are kept for the
// room's life, and after it.
func (h *Hub) ReportAbuse(ctx context.Context, from string, room mimiuri.URI, body []byte) error {
	err := h.reportAbuse(ctx, from, room, body)
	switch {
	case fault.Is(err, fault.Malformed):
		h.Counters.Malformed.Add(1)
	case err != nil:
		h.Counters.Refused.Add(1)
	}
	return err
}

func (h *Hub) reportAbuse(ctx context.Context, from string, room mimiuri.URI, body []byte) error {
	report, err := wire.ParseAbuseReport(body)
	if err != nil {
		return err
	}
	if !report.Reporter.IsZero() && report.Reporter.Domain != from {
		return fault.New(fault.Forbidden, "the reporting user is of another provider")
	}
	id := room.String()
	var row *store.HubRoom
	member := from == h.cfg.Domain
	err = h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if row, err = tx.HubRoom(id); err == nil && !member {
			member, err = tx.IsFollower(id, from)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case row == nil || row.Status == store.HubPrepared || !member: // whether there is such a room is not for everybody
		return fault.New(fault.NotFound, "there is no such room here")
	}
	var keys roomKeys
	if err := keys.parse(row.Keys); err != nil {
		return fmt.Errorf("hub: keys of %s: %w", id, err)
	}
	for i := range report.Messages {
		if !keys.proves(room, report.Abuser, &report.Messages[i]) {
			return fault.Newf(fault.Forbidden, "message %d of the report is not one that this hub has passed on, in this room, from that sender", i+1)
		}
	}
	sum := sha256.New()
	sum.Write([]byte(id + "\x00"))
	sum.Write(body)
	hash := sum.Sum(nil)
	now := h.cfg.Now()
	err = h.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if again, err := tx.HasReport(hash); err != nil || again {
			return err
		}
		ok, err := tx.Use("peer "+mimiuri.Host(from), "report", now.Truncate(24*time.Hour).UnixMilli(), maxReports)
		if err != nil {
			return err
		}
		if !ok {
			return &fault.Error{Kind: fault.Limited, Message: "too many reports today", RetryAfter: time.Hour}
		}
		return tx.InsertReport(&store.Report{Hash: hash, Room: id, TS: now.UnixMilli(), Peer: from,
			Reporter: report.Reporter.String(), Abuser: report.Abuser.String(), Body: body})
	})
	if err != nil {
		return err
	}
	h.Counters.Reports.Add(1)
	h.cfg.Log.Warn().Str("room", id).Str("peer", from).Stringer("reported", report.Abuser).Int("messages", len(report.Messages)).Msg("abuse was reported; the admin can read it")
	return nil
}

// proves recomputes the frank of a message from what the message itself says ("Report abuse").
func (k *roomKeys) proves(room, abuser mimiuri.URI, a *wire.AbusiveMessage) bool {
	m, err := content.Decode(a.Content)
	if err != nil {
		return false
	}
	sender, ok := m.SenderURI()
	in, ok2 := m.RoomURI()
	if !ok || !ok2 || sender != abuser || in != room {
		return false
	}
	ctx := wire.ServerFrankingContext{Sender: sender, Room: room, AcceptedTimestamp: a.AcceptedTimestamp}
	return a.Frank.VerifyServer(k.HubKey, wire.FrankingTag(m.Salt, a.Content), ctx) &&
		a.Frank.Verify(k.franking.Public(), k.franking.Suite, ctx) == nil
}
