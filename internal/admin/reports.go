package admin

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Report is a report of abuse, as it is printed. Text is a message's own: it is for the admin's eyes.
type Report struct {
	ID       string            `json:"id"`
	Room     string            `json:"room"`
	Time     time.Time         `json:"time"`
	Peer     string            `json:"peer"`
	Reporter string            `json:"reporter,omitempty"`
	Abuser   string            `json:"abuser"`
	Reason   uint8             `json:"reason"`
	Note     string            `json:"note,omitempty"`
	Messages []ReportedMessage `json:"messages"`
}

// ReportedMessage is a message of a report; that the abuser has sent it is proven.
type ReportedMessage struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Text string    `json:"text,omitempty"`
}

// maxReports bounds a list.
const maxReports = 1000

func reportOf(r *core.Report) Report {
	out := Report{ID: hex.EncodeToString(r.ID), Room: r.Room.String(), Time: r.Time, Peer: r.Peer, Abuser: r.Abuser.String(), Reason: r.Reason, Note: r.Note, Messages: []ReportedMessage{}}
	if !r.Reporter.IsZero() {
		out.Reporter = r.Reporter.String()
	}
	for _, m := range r.Messages {
		text, _, _ := m.Content.ReadableText(nil)
		out.Messages = append(out.Messages, ReportedMessage{m.ID.String(), m.Time, text})
	}
	return out
}

func (s *Server) reports(get func(string, func(*http.Request) (any, error)), post func(string, func(*http.Request, Query) (any, error))) {
	p := s.cfg.Provider
	get("/v1/reports", func(r *http.Request) (any, error) {
		list, err := p.Reports(r.Context(), maxReports)
		out := make([]Report, 0, len(list))
		for i := range list {
			out = append(out, reportOf(&list[i]))
		}
		return out, err
	})
	post("/v1/report/drop", func(r *http.Request, q Query) (any, error) {
		id, err := hex.DecodeString(q.Target)
		if err != nil {
			return nil, fault.New(fault.Malformed, "this is no id of a report")
		}
		return struct{}{}, p.DropReport(r.Context(), id)
	})
	post("/v1/room/destroy", func(r *http.Request, q Query) (any, error) {
		room, err := parse(q.Room, mimiuri.Room, p.Domain())
		if err != nil {
			return nil, err
		}
		return struct{}{}, p.DestroyRoom(r.Context(), room)
	})
	get("/v1/peer/rules", func(r *http.Request) (any, error) {
		list, err := p.PeerRules(r.Context())
		out := []PeerRule{}
		for _, one := range list {
			out = append(out, PeerRule{one.Domain, one.Allow, one.Config, one.Since})
		}
		return out, err
	})
	for name, fn := range map[string]func(context.Context, string) error{"allow": p.AllowPeer, "deny": p.DenyPeer, "forget": p.ForgetPeer} {
		post("/v1/peer/"+name, func(r *http.Request, q Query) (any, error) { return struct{}{}, fn(r.Context(), q.Peer) })
	}
	get("/v1/blocks", func(r *http.Request) (any, error) {
		list, err := p.Blocked(r.Context(), mimiuri.URI{})
		out := []string{}
		for _, u := range list {
			out = append(out, u.String())
		}
		return out, err
	})
	for name, fn := range map[string]func(context.Context, mimiuri.URI) error{"add": p.Block, "drop": p.Unblock} {
		post("/v1/block/"+name, func(r *http.Request, q Query) (any, error) {
			u, err := mimiuri.Parse(q.Target)
			if err != nil {
				return nil, fault.New(fault.Malformed, "this is no mimi: URI of a user, a room or a provider")
			}
			return struct{}{}, fn(r.Context(), u)
		})
	}
}

// PeerRule is what is decided about a peer.
type PeerRule struct {
	Domain string    `json:"domain"`
	Allow  bool      `json:"allow"`
	Config bool      `json:"config"` // it stands in the configuration
	Since  time.Time `json:"since,omitzero"`
}
