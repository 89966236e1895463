package core

import (
	"context"
	"fmt"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// Report is a report of abuse in a room kept here, for the admin. Its messages are proven: this provider has passed them on
// as they are. What the reporter says about them is not.
type Report struct {
	ID       []byte // for DropReport
	Room     mimiuri.URI
	Time     time.Time
	Peer     string      // the provider that brought it
	Reporter mimiuri.URI // zero if they are not named; Peer vouches for it
	Abuser   mimiuri.URI
	Reason   uint8 // AbuseType; none is registered yet
	Note     string
	Messages []ReportedMessage
}

// ReportedMessage is a message of a report.
type ReportedMessage struct {
	ID      content.MessageID
	Time    time.Time // when this provider accepted it
	Content *content.Message
}

// Reports lists up to limit reports of abuse, the newest first. It shows message texts: it is for the admin's eyes.
func (p *Provider) Reports(ctx context.Context, limit int) ([]Report, error) {
	var rows []store.Report
	if err := p.store.View(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.Reports(limit)
		return err
	}); err != nil {
		return nil, err
	}
	out := make([]Report, 0, len(rows))
	for i := range rows {
		r, err := openReport(&rows[i])
		if err != nil {
			return nil, fmt.Errorf("core: stored report: %w", err)
		}
		out = append(out, r)
	}
	return out, nil
}

func openReport(row *store.Report) (r Report, err error) {
	a, err := wire.ParseAbuseReport(row.Body)
	if err != nil {
		return r, err
	}
	r = Report{ID: row.Hash, Time: time.UnixMilli(row.TS).UTC(), Peer: row.Peer, Reporter: a.Reporter, Abuser: a.Abuser, Reason: uint8(a.Reason), Note: a.Note}
	if r.Room, err = mimiuri.ParseKind(row.Room, mimiuri.Room); err != nil {
		return r, err
	}
	for _, m := range a.Messages {
		c, err := content.Decode(m.Content)
		if err != nil {
			return r, err
		}
		r.Messages = append(r.Messages, ReportedMessage{ID: content.ID(m.Content, a.Abuser, r.Room, c.Salt),
			Time: time.UnixMilli(int64(m.AcceptedTimestamp)).UTC(), Content: c})
	}
	return r, nil
}

// DropReport forgets a report that has been dealt with.
func (p *Provider) DropReport(ctx context.Context, id []byte) error {
	return p.store.Update(ctx, func(tx *store.Tx) error {
		found, err := tx.DeleteReport(id)
		if err == nil && !found {
			err = fault.New(fault.NotFound, "there is no such report")
		}
		return err
	})
}

// Report is adapter.People.Report.
func (h *host) Report(ctx context.Context, local, room mimiuri.URI, id content.MessageID, reason, note string) error {
	if err := h.ownUser(local); err != nil {
		return err
	}
	return h.p.Client.Report(ctx, local, room, id, reason, note)
}

// SafetyNumber is adapter.People.SafetyNumber.
func (h *host) SafetyNumber(ctx context.Context, local, other, room mimiuri.URI) (string, error) {
	return h.p.Client.SafetyNumber(ctx, local, other, room)
}
