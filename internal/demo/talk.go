package demo

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/internal/record"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// script is the conversation, from the second act of Romeo and Juliet. The daemons are killed after line
// killAfter.
var script = []struct{ from, text string }{
	{"romeo", "But, soft! what light through yonder window breaks?"},
	{"juliet", "O Romeo, Romeo! wherefore art thou Romeo?"},
	{"romeo", "Shall I hear more, or shall I speak at this?"},
	{"juliet", "What's in a name? that which we call a rose by any other name would smell as sweet."},
	{"romeo", "I take thee at thy word: call me but love, and I'll be new baptized."},
	{"juliet", "What man art thou that thus bescreen'd in night so stumblest on my counsel?"},
	{"romeo", "My name, dear saint, is hateful to myself, because it is an enemy to thee."},
	{"juliet", "The orchard walls are high and hard to climb 🌹, and the place death."},
	{"romeo", "With love's light wings did I o'er-perch these walls."},
	{"juliet", "Good night, good night! Parting is such sweet sorrow."},
}

const killAfter = 4

// line is one line of the conversation under way.
type line struct {
	from, text string
	id         string // of the stanza, or the Matrix transaction
	sent       time.Time
	arrived    time.Time
	shownAs    string // the receiving network's id of it
}

func (l *line) to() string {
	if l.from == "romeo" {
		return "juliet"
	}
	return "romeo"
}

// patience is how long a step may take; it is far above what any step takes.
const patience = 90 * time.Second

// talk plays the conversation.
func (d *demo) talk(ctx, procs context.Context) error {
	if err := d.open(ctx); err != nil {
		return err
	}
	for i, s := range script {
		l := &line{from: s.from, text: s.text, id: fmt.Sprintf("balcony-%d", i+1)}
		d.lines = append(d.lines, l)
		switch i {
		case killAfter:
			// Two lines at once: romeo's is under way when the daemons die, juliet's is sent while they are down.
			if err := d.send(ctx, l); err != nil {
				return err
			}
			d.xmpp.proc.Kill()
			d.matrix.proc.Kill()
			d.sayf("\nkill -9 for both daemons, with romeo's line under way. Juliet speaks while they are down.\n")
		case killAfter + 1:
			if err := d.send(ctx, l); err != nil {
				return err
			}
			if err := d.restart(ctx, procs); err != nil {
				return err
			}
			if err := d.arrive(ctx, d.lines[i-1]); err != nil {
				return err
			}
			if err := d.arrive(ctx, l); err != nil {
				return err
			}
		default:
			if err := d.send(ctx, l); err != nil {
				return err
			}
			if err := d.arrive(ctx, l); err != nil {
				return err
			}
		}
	}
	return d.leave(ctx)
}

// open has romeo open the room and invite juliet, who joins.
func (d *demo) open(ctx context.Context) error {
	d.room = romeoRoom
	err := d.act(ctx, "romeo opens the room balcony: a MUC at the gateway, a MIMI room at xmpp.example", d.romeoOpens)
	if err != nil {
		return err
	}
	err = d.act(ctx, "romeo invites juliet, a user of matrix.example; she is invited on Matrix", func(ctx context.Context) (err error) {
		if err := d.romeoInvites(ctx, julietAtGateway); err != nil {
			return err
		}
		d.portal, err = d.juliet.WaitInvite(ctx, "")
		return err
	})
	if err != nil {
		return err
	}
	err = d.act(ctx, "juliet joins; both see each other in the room", func(ctx context.Context) error {
		if err := d.juliet.Join(ctx, d.portal); err != nil {
			return err
		}
		if _, err := d.romeosGhost(ctx, "join"); err != nil {
			return err
		}
		return d.romeoSees(ctx, "juliet")
	})
	d.sayf("")
	return err
}

// act does something that is not a line, and prints it with its time.
func (d *demo) act(ctx context.Context, what string, f func(context.Context) error) error {
	start := time.Now()
	if err := within(ctx, patience, what, f); err != nil {
		if ctx.Err() == nil {
			d.failed = true
			d.sayf("FAILED %s", what)
		}
		return err
	}
	d.sayf("ok %s (%d ms)", what, time.Since(start).Milliseconds())
	return nil
}

// romeosGhost waits until juliet sees romeo with the membership, and returns his Matrix ID.
func (d *demo) romeosGhost(ctx context.Context, membership string) (string, error) {
	ev, err := d.juliet.Wait(ctx, func(e testnet.NioEvent) bool {
		ev := e.Event()
		return e.Room == d.portal && ev.Type == "m.room.member" && ev.StateKey != nil &&
			strings.HasPrefix(*ev.StateKey, "@mimi_romeo=") && ev.String("membership") == membership
	})
	if err != nil {
		return "", err
	}
	return *ev.Event().StateKey, nil
}

// send has the line's sender send it.
func (d *demo) send(ctx context.Context, l *line) error {
	l.sent = time.Now()
	return within(ctx, patience, "send as "+l.from, func(ctx context.Context) error {
		if l.from == "romeo" {
			return d.romeoSays(ctx, l.text, l.id)
		}
		_, err := d.juliet.SendText(ctx, d.portal, l.text, l.id)
		return err
	})
}

// arrive waits until the other side shows the line and prints its way.
func (d *demo) arrive(ctx context.Context, l *line) error {
	err := within(ctx, patience, l.to()+" waits for the line", func(ctx context.Context) error {
		if l.from == "romeo" {
			ev, err := d.juliet.WaitText(ctx, d.portal, l.text)
			l.arrived, l.shownAs = time.Now(), ev.ID
			return err
		}
		id, err := d.romeoHears(ctx, l.text)
		l.arrived, l.shownAs = time.Now(), id
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			d.failed = true
			d.sayf("FAILED %s → %s: %s", l.from, l.to(), oneLine(l.text))
		}
		return err
	}
	d.sayf("ok %s → %s: %s", l.from, l.to(), oneLine(l.text))
	hops, err := d.hops(l)
	if err != nil {
		return err
	}
	for _, h := range hops {
		d.sayf("   %+6d ms  %s", h.at.Sub(l.sent).Milliseconds(), h.what)
	}
	return nil
}

// restart starts both daemons again and has romeo's client do what a client does when its room was gone.
func (d *demo) restart(ctx, procs context.Context) error {
	start := time.Now()
	for _, m := range []*daemon{d.xmpp, d.matrix} {
		if err := m.start(ctx, procs); err != nil {
			return err
		}
	}
	d.sayf("Both started again in %d ms, processes %d and %d.\n", time.Since(start).Milliseconds(), d.xmpp.proc.Pid(), d.matrix.proc.Pid())
	return within(ctx, patience, "romeo returns to the room", d.romeoReturns)
}

// leave has romeo leave by the gateway's command.
func (d *demo) leave(ctx context.Context) error {
	d.sayf("")
	return d.act(ctx, "romeo leaves by the gateway's command leave; juliet sees him go", func(ctx context.Context) error {
		if err := d.romeoLeaves(ctx); err != nil {
			return err
		}
		_, err := d.romeosGhost(ctx, "leave")
		return err
	})
}

// hop is one station of a line.
type hop struct {
	at   time.Time
	what string
}

// status is at the end of a recorded answer's path.
var status = regexp.MustCompile(`\b[1-5]\d\d$`)

// hops collects a line's stations: what both daemons logged of the message, and the requests between them.
func (d *demo) hops(l *line) ([]hop, error) {
	from, to, client, shown := d.xmpp, d.matrix, "slixmpp hands it to Prosody", "matrix-nio shows it to juliet, event "+l.shownAs
	if l.from == "juliet" {
		from, to, client, shown = d.matrix, d.xmpp, "matrix-nio hands it to Dendrite", "slixmpp shows it to romeo, stanza id "+l.shownAs
	}
	out := []hop{{l.sent, client}, {l.arrived, shown}}
	id, stations, err := d.trace(l, from, to)
	if err != nil {
		return nil, err
	}
	if id == "" {
		d.failed = true
		return append(out, hop{l.arrived, "FAILED: the daemons' logs do not tell of this message"}), nil
	}
	out = append(out, stations...)
	entries, err := record.Read(from.record)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Direction == "out" && !status.MatchString(e.Path) && len(e.Body) > 0 && !e.Time.Before(l.sent) && !e.Time.After(l.arrived) {
			out = append(out, hop{e.Time, fmt.Sprintf("%s → %s: POST %s, %d B, over mutual TLS", from.domain, e.Peer, endpoint(e.Path), len(e.Body))})
		}
	}
	slices.SortStableFunc(out, func(a, b hop) int { return a.at.Compare(b.at) })
	return out, nil
}

// trace finds a line in the logs of the two daemons, by its MIMI message ID. The receiver may have shown a message
// before the sender has logged that it was accepted, and a daemon that was killed may not have logged it at
// all: it is the receiver's ID that counts, and the sender has to know it.
func (d *demo) trace(l *line, from, to *daemon) (id string, out []hop, err error) {
	find := func(events []logLine, event, id string) *logLine {
		for i := range events {
			if e := &events[i]; e.Event == event && e.MessageID != "" && (e.MessageID == id || id == "" && !d.told[e.MessageID]) {
				return e
			}
		}
		return nil
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		sender, err := from.events(l.sent)
		if err != nil {
			return "", nil, err
		}
		receiver, err := to.events(l.sent)
		if err != nil {
			return "", nil, err
		}
		received := find(receiver, "received", "")
		if received == nil {
			if time.Now().After(end) {
				return "", nil, nil
			}
			continue
		}
		id := received.MessageID
		intake, sent, delivered := find(sender, "intake", id), find(sender, "sent", id), find(receiver, "delivered", id)
		if (intake == nil || sent == nil || delivered == nil) && time.Now().Before(end) {
			continue
		}
		if intake == nil && sent == nil {
			return "", nil, nil
		}
		d.told[id] = true
		for _, h := range []struct {
			at   *logLine
			what string
		}{
			{intake, from.domain + ": on disk, %d B of MIMI content, message ID " + id},
			{sent, from.domain + ": accepted by the room's hub, %d B of request"},
			{received, to.domain + ": decrypted, %d B of ciphertext, message ID " + id},
		} {
			if h.at != nil {
				out = append(out, hop{h.at.Time, fmt.Sprintf(h.what, h.at.Bytes)})
			}
		}
		if delivered != nil {
			out = append(out, hop{delivered.Time, to.domain + ": " + to.network + " has it"})
		}
		return id, out, nil
	}
}

// endpoint is a request path without the room's or user's URI: "/v1/notify".
func endpoint(path string) string {
	if i := strings.Index(path, "/mimi:"); i >= 0 {
		return path[:i]
	}
	if i := strings.Index(path, "/mimi%3"); i >= 0 {
		return path[:i]
	}
	return path
}

// requests prints every request between the two providers, in order, with its sizes.
func (d *demo) requests() error {
	type exchange struct {
		record.Entry
		from   string
		answer string
	}
	var all []exchange
	for _, m := range []*daemon{d.xmpp, d.matrix} {
		entries, err := record.Read(m.record)
		if err != nil {
			return err
		}
		for i, e := range entries {
			if e.Direction != "out" || status.MatchString(e.Path) {
				continue
			}
			x := exchange{Entry: e, from: m.domain, answer: "no answer"}
			for _, a := range entries[i+1:] {
				if code, ok := strings.CutPrefix(a.Path, e.Path+" "); ok && a.Direction == "in" {
					x.answer = fmt.Sprintf("%s, %d B", code, len(a.Body))
					break
				}
			}
			all = append(all, x)
		}
	}
	slices.SortStableFunc(all, func(a, b exchange) int { return a.Time.Compare(b.Time) })
	d.sayf("\nRequests between the providers, in order:")
	for i, x := range all {
		d.sayf("  %3d  %+7d ms  %-14s → %-14s  %-18s %6d B  answered %s", i+1, x.Time.Sub(all[0].Time).Milliseconds(), x.from, x.Peer, endpoint(x.Path), len(x.Body), x.answer)
	}
	return nil
}

// judge counts what arrived and searches the recorded traffic.
func (d *demo) judge() error {
	d.sayf("")
	for _, who := range []string{"juliet", "romeo"} {
		var want []string
		for _, l := range d.lines {
			if l.to() == who {
				want = append(want, l.text)
			}
		}
		got := d.heard(who)
		verdict, word := "ok", "in order, each once"
		if !slices.Equal(got, want) {
			d.failed = true
			verdict, word = "FAILED", fmt.Sprintf("not as sent: %q", got)
		}
		d.sayf("%s %s was sent %d lines and received %d, %s", verdict, who, len(want), len(got), word)
	}
	bodies, octets, found, control := 0, 0, 0, 0
	for _, m := range []*daemon{d.xmpp, d.matrix} {
		entries, err := record.Read(m.record)
		if err != nil {
			return err
		}
		for _, e := range entries {
			bodies++
			octets += len(e.Body)
			// The room's name shows that the search finds what is there: room URIs are not encrypted.
			control += bytes.Count(e.Body, []byte(roomURI))
			for _, l := range d.lines {
				found += bytes.Count(e.Body, []byte(l.text)) + bytes.Count(e.Body, []byte(l.text[:16]))
			}
		}
	}
	verdict := "ok"
	if found > 0 || control == 0 {
		d.failed = true
		verdict = "FAILED"
	}
	d.sayf("%s plaintext of the lines in the federation traffic, recorded in front of TLS: %d times in %d bodies of %d B (the room's URI, which is not secret: %d times)",
		verdict, found, bodies, octets, control)
	if d.failed {
		return ErrIncomplete
	}
	return nil
}
