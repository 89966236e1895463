package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

const (
	gatewayDomain = "mimi." + xmppDomain
	roomsDomain   = "rooms." + gatewayDomain
	uploadDomain  = "upload." + xmppDomain

	romeoJID        = "romeo@" + xmppDomain
	romeoRoom       = "balcony@" + roomsDomain
	julietAtGateway = "juliet%" + matrixDomain + "@" + gatewayDomain
)

func (d *demo) startProsody(ctx, procs context.Context) error {
	cert, key, err := d.ca.Issue("prosody", xmppDomain)
	if err != nil {
		return err
	}
	d.prosody, err = testnet.StartProsody(procs, testnet.ProsodyOptions{
		Dir: filepath.Join(d.dir, "prosody"), Domain: xmppDomain, Users: map[string]string{"romeo": romeoPassword, "mercutio": romeoPassword},
		MUC: d.conference, Upload: uploadDomain, Components: []string{gatewayDomain, roomsDomain}, Secret: componentSecret, CertFile: cert, KeyFile: key,
	})
	return err
}

func (d *demo) startDendrite(ctx, procs context.Context) (err error) {
	d.dendrite, err = testnet.StartDendrite(procs, testnet.DendriteOptions{
		ServerName: matrixDomain, Registrations: []string{d.matrix.registration()}, // Dir is left to it: in memory, where possible
	})
	if err != nil {
		return err
	}
	for _, name := range []string{"juliet", "nurse"} {
		if err := d.dendrite.CreateUser(ctx, name, julietPassword); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) startClients(ctx, procs context.Context) (err error) {
	if d.romeo, err = testnet.StartSlix(procs, d.prosody.C2S, romeoJID, romeoPassword, d.ca.File()); err != nil {
		return err
	}
	d.juliet, err = testnet.StartNio(procs, d.dendrite.URL, "juliet", julietPassword)
	return err
}

func (d *demo) romeoOpens(ctx context.Context) error {
	// The component may not be connected yet: a client would be told so, and its user would try again.
	for {
		ev, err := d.romeo.Join(ctx, romeoRoom, "romeo")
		var refused *testnet.ScriptError
		switch {
		case err == nil && ev.HasStatus(201):
			return d.romeo.Instant(ctx, romeoRoom)
		case err == nil:
			return fmt.Errorf("the room was there before")
		case !errors.As(err, &refused) || refused.Code != "service-unavailable" && refused.Code != "remote-server-not-found":
			return err
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (d *demo) romeoInvites(ctx context.Context, jid string) error {
	return d.romeo.Invite(ctx, romeoRoom, jid, "Come to the balcony")
}

// romeoSees waits until somebody is in the room with the nick.
func (d *demo) romeoSees(ctx context.Context, nick string) error {
	_, err := d.romeo.Wait(ctx, func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && e.Type == "" && e.Bare() == romeoRoom && strings.HasPrefix(e.Nick(), nick)
	})
	return err
}

func (d *demo) romeoSays(ctx context.Context, text, id string) error {
	return d.romeo.Say(ctx, romeoRoom, text, id)
}

// romeoHears waits for a line and returns the id that the room gave it.
func (d *demo) romeoHears(ctx context.Context, text string) (string, error) {
	ev, err := d.romeo.WaitMessage(ctx, romeoRoom, text)
	return ev.StanzaID, err
}

// reflected reports whether the room has shown romeo his own message with this id.
func (d *demo) reflected(id string) bool {
	return slices.ContainsFunc(d.romeo.Events(), func(e testnet.SlixEvent) bool {
		return e.Kind == "message" && e.Type == "groupchat" && e.Bare() == romeoRoom && e.ID == id
	})
}

// romeoReturns does what a client does for a message that it has not seen come back: it sends it again with the same
// id. His occupancy outlived the daemon; he need not join again.
func (d *demo) romeoReturns(ctx context.Context) error {
	for _, l := range d.lines {
		if l.from != "romeo" || d.reflected(l.id) {
			continue
		}
		d.sayf("The room has not shown romeo his line yet: his client sends it again, with the same id.\n")
		for !d.reflected(l.id) {
			if err := d.romeoSays(ctx, l.text, l.id); err != nil {
				return err
			}
			wait, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := d.romeo.Wait(wait, func(testnet.SlixEvent) bool { return d.reflected(l.id) })
			cancel()
			if err != nil && ctx.Err() != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) romeoLeaves(ctx context.Context) error {
	res, err := d.romeo.Command(ctx, gatewayDomain, "leave", map[string]string{"room": romeoRoom})
	if err == nil && res.Status != "completed" {
		err = fmt.Errorf("the command leave ended as %q: %s", res.Status, strings.Join(res.Notes, "; "))
	}
	return err
}

// heard lists the lines of the other that somebody was shown, in the order shown. XMPP has no acknowledgements
// between server and component: after a crash a stanza may come again with the same stanza-id, which clients
// know it by; it counts once.
func (d *demo) heard(who string) (texts []string) {
	seen := map[string]bool{}
	add := func(id, text string) {
		if !seen[id] {
			seen[id] = true
			texts = append(texts, text)
		}
	}
	if who == "romeo" {
		for _, e := range d.romeo.Events() {
			if e.Kind == "message" && e.Type == "groupchat" && e.Bare() == romeoRoom && e.Body != "" && e.Nick() != "romeo" {
				add(e.StanzaID, e.Body)
			}
		}
		return texts
	}
	for _, e := range d.juliet.Events() {
		ev := e.Event()
		if e.Room == d.portal && ev.Type == "m.room.message" && strings.HasPrefix(ev.Sender, "@mimi_romeo=") {
			add(ev.ID, ev.Text())
		}
	}
	return texts
}
