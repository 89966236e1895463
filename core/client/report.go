package client

import (
	"context"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/internal/mailbox"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// Report is adapter.People.Report: it returns when the room's hub has taken the report.
func (c *Client) Report(ctx context.Context, local, room mimiuri.URI, id content.MessageID, reason, note string) error {
	var e *store.Event
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		e, err = tx.MessageEvent(room.String(), id[:])
		return err
	})
	if err != nil {
		return err
	}
	var row eventRow
	if e != nil {
		if err := json.Unmarshal(e.Payload, &row); err != nil {
			return fmt.Errorf("client: stored event: %w", err)
		}
	}
	// What a user did not see is not there for them.
	if row.Kind != adapter.Message || string(row.ID) != string(id[:]) || !slices.Contains(row.Local, local.String()) {
		return fault.New(fault.NotFound, "this message is not kept any more, or was not shown to you")
	}
	if row.Frank == nil {
		return fault.New(fault.Forbidden, "the room's provider has not stamped this message, so nobody could believe the report")
	}
	frank, err := wire.ParseFrank(row.Frank)
	if err != nil {
		return fmt.Errorf("client: stored frank: %w", err)
	}
	if reason != "" && note != "" {
		reason += ": "
	}
	note = strings.ToValidUTF8(reason+note, "\uFFFD")
	if len(note) > wire.MaxNote {
		return fault.Newf(fault.TooLarge, "a note may have at most %d octets", wire.MaxNote)
	}
	report := &wire.AbuseReport{Reporter: local, Abuser: uri(row.Sender), Note: note,
		Messages: []wire.AbusiveMessage{{Content: row.Content, Frank: *frank, AcceptedTimestamp: uint64(row.TS)}}}
	return c.cfg.Hub.ReportAbuse(ctx, c.cfg.Domain, room, report.Marshal())
}

// Numbers of a safety number: docs/safety-numbers.md.
const (
	safetyLabel  = "mimibridge safety number 1"
	safetyRounds = 5200
)

// SafetyNumber is adapter.People.SafetyNumber: 60 digits in groups of five that are the same for both users, whoever
// asks, as long as their clients in the room are. A user who has no client in the room is NotFound.
func (c *Client) SafetyNumber(ctx context.Context, local, other, in mimiuri.URI) (string, error) {
	if local.Domain != c.cfg.Domain {
		return "", fault.New(fault.Forbidden, "only users of this provider act through it")
	}
	keys, err := mailbox.Ask(ctx, c.rooms, in.String(), func(r *room) (map[mimiuri.URI][][2][]byte, error) {
		if err := r.load(ctx); err != nil {
			return nil, err
		}
		if r.g == nil {
			return nil, fault.New(fault.NotFound, "there is no group of this room here")
		}
		keys := map[mimiuri.URI][][2][]byte{}
		for _, m := range r.g.Members() {
			if u, client, err := policy.LeafUser(m.Node); err == nil {
				keys[u] = append(keys[u], [2][]byte{[]byte(client.String()), m.Node.SignatureKey})
			}
		}
		return keys, nil
	})
	if err != nil {
		return "", err
	}
	if len(keys[local]) == 0 || len(keys[other]) == 0 {
		return "", fault.New(fault.NotFound, "one of the two is not in this room, or has no client in it yet")
	}
	halves := []string{userDigits(local, keys[local]), userDigits(other, keys[other])}
	if other.String() < local.String() {
		slices.Reverse(halves)
	}
	return strings.Join(halves, " "), nil
}

// userDigits gives the 30 digits of one user: of their URI, and of name and signature key of each of their clients.
func userDigits(user mimiuri.URI, clients [][2][]byte) string {
	slices.SortFunc(clients, func(a, b [2][]byte) int {
		if n := slices.Compare(a[0], b[0]); n != 0 {
			return n
		}
		return slices.Compare(a[1], b[1])
	})
	var in []byte
	add := func(b []byte) {
		in = binary.BigEndian.AppendUint32(in, uint32(len(b)))
		in = append(in, b...)
	}
	add([]byte(safetyLabel))
	add([]byte(user.String()))
	for _, c := range clients {
		add(c[0])
		add(c[1])
	}
	sum := sha512.Sum512(in)
	for range safetyRounds - 1 {
		sum = sha512.Sum512(append(sum[:], in...))
	}
	groups := make([]string, 6)
	for i := range groups {
		n := binary.BigEndian.Uint64(append([]byte{0, 0, 0}, sum[5*i:5*i+5]...))
		groups[i] = fmt.Sprintf("%05d", n%100_000)
	}
	return strings.Join(groups, " ")
}
