//go:build live

package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestBothEnds sends every kind of message through two providers, by the means of a real client on one network, and looks what a real client on
// the other makes of it.
func TestBothEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	dir := t.TempDir()
	binary := filepath.Join(dir, "mimibridge")
	build := exec.CommandContext(ctx, "go", "build", "-tags", "goolm", "-o", binary, "github.com/mimibridge/mimibridge/cmd/mimibridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var printed bytes.Buffer
	d := &demo{Options: Options{Binary: binary, Out: &printed}, told: map[string]bool{}, progress: &testnet.Progress{W: &printed}, dir: dir}
	procs, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.Cleanup(func() {
		d.stop()
		stop()
		if t.Failed() {
			for _, m := range []*daemon{d.xmpp, d.matrix} {
				if m != nil {
					t.Logf("the end of the log of %s:\n%s", m.domain, testnet.Tail(m.log, 30))
				}
			}
		}
	})
	if err := d.start(ctx, procs); err != nil {
		t.Fatal(err)
	}
	t.Logf("testtable: server %s", d.prosody.Version)
	t.Logf("testtable: server Dendrite %s", testnet.DendriteVersion)
	if err := d.open(ctx); err != nil {
		t.Fatal(err)
	}
	ghost, err := d.romeosGhost(ctx, "join")
	if err != nil {
		t.Fatal(err)
	}
	e := &ends{t: t, ctx: ctx, d: d, ghost: ghost}
	for _, kind := range []struct {
		name string
		f    func()
	}{
		{"text", e.text}, {"formatted text and mentions", e.formatted}, {"emotes", e.emotes}, {"replies", e.replies}, {"threads", e.threads}, {"reactions", e.reactions},
		{"edits", e.edits}, {"receipts", e.receipts}, {"locations", e.locations}, {"polls", e.polls}, {"files", e.files}, {"deleting", e.deleting},
	} {
		if !t.Run(kind.name, func(t *testing.T) {
			e.t = t
			kind.f()
		}) && ctx.Err() != nil {
			break
		}
	}
}

// ends is the conversation: what both have said last.
type ends struct {
	t     *testing.T
	ctx   context.Context
	d     *demo
	ghost string // of romeo

	his, hers message
}

// message is one message by the name that each network has for it.
type message struct{ stanza, event string }

func (e *ends) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// onMatrix waits for something that juliet's client is shown from romeo.
func (e *ends) onMatrix(what string, match func(testnet.MatrixEvent) bool) testnet.MatrixEvent {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 30*time.Second)
	defer cancel()
	ev, err := e.d.juliet.WaitEvent(ctx, e.d.portal, func(ev testnet.MatrixEvent) bool { return ev.Sender == e.ghost && match(ev) })
	if err != nil {
		e.t.Fatalf("juliet is not shown %s: %v", what, err)
	}
	return ev
}

// onXMPP waits for something that romeo's client is shown, or has understood.
func (e *ends) onXMPP(what string, match func(testnet.SlixEvent) bool) testnet.SlixEvent {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 30*time.Second)
	defer cancel()
	ev, err := e.d.romeo.Wait(ctx, match)
	if err != nil {
		e.t.Fatalf("romeo is not shown %s: %v", what, err)
	}
	return ev
}

func (e *ends) understood(what, ref, value string) testnet.SlixEvent {
	e.t.Helper()
	return e.onXMPP(what, func(ev testnet.SlixEvent) bool {
		return ev.Kind == "understood" && ev.What == what && ev.Ref == ref && ev.Value == value
	})
}

// sheSays sends an event as juliet, and waits until romeo is shown a message with this text.
func (e *ends) sheSays(content map[string]any, shown string) message {
	e.t.Helper()
	event, err := e.d.juliet.Send(e.ctx, e.d.portal, "m.room.message", content, "")
	e.must(err)
	return message{e.said(shown).StanzaID, event}
}

func (e *ends) said(shown string) testnet.SlixEvent {
	e.t.Helper()
	return e.onXMPP(shown, func(ev testnet.SlixEvent) bool {
		return ev.Kind == "message" && ev.Type == "groupchat" && strings.HasPrefix(ev.Nick(), "juliet") && strings.Contains(ev.Body, shown)
	})
}

// do has romeo's client do something in the room.
func (e *ends) do(cmd string, args map[string]any) {
	e.t.Helper()
	args["to"] = romeoRoom
	e.must(e.d.romeo.Do(e.ctx, cmd, args, nil))
}

// heSays sends a message as romeo, and waits until juliet is shown it and he has its stanza-id.
func (e *ends) heSays(text, id string) message {
	e.t.Helper()
	e.must(e.d.romeoSays(e.ctx, text, id))
	ev := e.onMatrix(text, func(ev testnet.MatrixEvent) bool { return ev.Text() == text })
	back := e.onXMPP("the reflection", func(ev testnet.SlixEvent) bool { return ev.Kind == "message" && ev.ID == id && ev.StanzaID != "" })
	return message{back.StanzaID, ev.ID}
}

func relation(ev testnet.MatrixEvent) map[string]any {
	r, _ := ev.Content["m.relates_to"].(map[string]any)
	return r
}

func (e *ends) text() {
	e.his = e.heSays("But, soft! what light?", "soft")
	e.hers = e.sheSays(map[string]any{"msgtype": "m.text", "body": "Ay me!"}, "Ay me!")
}

func (e *ends) formatted() {
	ev := e.sheSays(map[string]any{"msgtype": "m.text", "body": "Romeo, wherefore", "format": "org.matrix.custom.html",
		"formatted_body": `<a href="https://matrix.to/#/` + e.ghost + `">romeo</a>, <strong>wherefore</strong>`}, "*wherefore*")
	seen := e.onXMPP("the mention", func(s testnet.SlixEvent) bool { return s.StanzaID == ev.stanza })
	if !strings.Contains(seen.XML, "xmpp:romeo@"+xmppDomain) {
		e.t.Errorf("no mention in %s", seen.XML)
	}
	e.must(e.d.romeoSays(e.ctx, "it is the *east*", "east"))
	e.onMatrix("bold", func(ev testnet.MatrixEvent) bool {
		return strings.Contains(ev.String("formatted_body"), "<strong>east</strong>")
	})
}

func (e *ends) emotes() {
	e.sheSays(map[string]any{"msgtype": "m.emote", "body": "sighs"}, "sighs")
	e.must(e.d.romeoSays(e.ctx, "/me climbs the wall", "climbs"))
	e.onMatrix("an emote", func(ev testnet.MatrixEvent) bool {
		return ev.String("msgtype") == "m.emote" && strings.Contains(ev.Text(), "climbs the wall")
	})
}

func (e *ends) replies() {
	_, err := e.d.juliet.Send(e.ctx, e.d.portal, "m.room.message", map[string]any{"msgtype": "m.text", "body": "who is there?",
		"m.relates_to": map[string]any{"m.in_reply_to": map[string]any{"event_id": e.his.event}}}, "")
	e.must(err)
	e.understood("reply", e.his.stanza, "who is there?")
	e.do("reply", map[string]any{"body": "O, speak again", "author": romeoRoom + "/juliet", "ref": e.hers.stanza})
	e.onMatrix("a reply", func(ev testnet.MatrixEvent) bool {
		in, _ := relation(ev)["m.in_reply_to"].(map[string]any)
		return in["event_id"] == e.hers.event && strings.Contains(ev.Text(), "O, speak again")
	})
}

func (e *ends) threads() {
	e.sheSays(map[string]any{"msgtype": "m.text", "body": "within the thread", "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": e.his.event}}, "within the thread")
	seen := e.said("within the thread")
	if !strings.Contains(seen.XML, "<thread>") {
		e.t.Errorf("no thread in %s", seen.XML)
	}
}

func (e *ends) reactions() {
	_, err := e.d.juliet.Send(e.ctx, e.d.portal, "m.reaction", map[string]any{"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": e.his.event, "key": "🌹"}}, "")
	e.must(err)
	e.understood("reactions", e.his.stanza, "🌹")
	e.do("react", map[string]any{"ref": e.hers.stanza, "reactions": []string{"👍"}})
	e.onMatrix("a reaction", func(ev testnet.MatrixEvent) bool {
		return ev.Type == "m.reaction" && relation(ev)["event_id"] == e.hers.event && relation(ev)["key"] == "👍"
	})
}

func (e *ends) edits() {
	_, err := e.d.juliet.Send(e.ctx, e.d.portal, "m.room.message", map[string]any{"msgtype": "m.text", "body": "* Ay me, again!",
		"m.new_content": map[string]any{"msgtype": "m.text", "body": "Ay me, again!"}, "m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": e.hers.event}}, "")
	e.must(err)
	e.understood("correction", e.hers.stanza, "Ay me, again!")
	e.do("correct", map[string]any{"body": "But, soft! it is the sun", "ref": "soft", "mid": "soft-2"})
	e.onMatrix("an edit", func(ev testnet.MatrixEvent) bool {
		fresh, _ := ev.Content["m.new_content"].(map[string]any)
		return relation(ev)["rel_type"] == "m.replace" && relation(ev)["event_id"] == e.his.event && fresh["body"] == "But, soft! it is the sun"
	})
}

func (e *ends) receipts() {
	late := e.heSays("stay but a little", "stay")
	e.must(e.d.juliet.Do(e.ctx, "read", map[string]any{"room": e.d.portal, "event_id": late.event}, nil))
	e.understood("displayed", late.stanza, "")
	mine := e.sheSays(map[string]any{"msgtype": "m.text", "body": "sweet, good night"}, "sweet, good night")
	e.do("displayed", map[string]any{"ref": mine.stanza})
	ctx, cancel := context.WithTimeout(e.ctx, 30*time.Second)
	defer cancel()
	_, err := e.d.juliet.Wait(ctx, func(ev testnet.NioEvent) bool {
		return ev.Kind == "ephemeral" && strings.Contains(string(ev.Data), mine.event) && strings.Contains(string(ev.Data), e.ghost)
	})
	e.must(err)
}

func (e *ends) locations() {
	e.sheSays(map[string]any{"msgtype": "m.location", "body": "balcony", "geo_uri": "geo:45.4,10.9"}, "geo:45.4,10.9")
	e.must(e.d.romeoSays(e.ctx, "the wall\ngeo:45.4,10.8", "wall"))
	e.onMatrix("a location", func(ev testnet.MatrixEvent) bool { return ev.String("geo_uri") == "geo:45.4,10.8" })
}

func (e *ends) polls() {
	_, err := e.d.juliet.Send(e.ctx, e.d.portal, "org.matrix.msc3381.poll.start", map[string]any{"org.matrix.msc3381.poll.start": map[string]any{
		"kind": "org.matrix.msc3381.poll.disclosed", "question": map[string]any{"org.matrix.msc1767.text": "Lark?"},
		"answers": []any{map[string]any{"id": "a", "org.matrix.msc1767.text": "nightingale"}}}}, "")
	e.must(err)
	if ev := e.said("Lark?"); !strings.Contains(ev.Body, "nightingale") {
		e.t.Errorf("%q", ev.Body)
	}
}

func (e *ends) files() {
	var upload struct {
		MXC string `json:"mxc"`
	}
	data := bytes.Repeat([]byte("a letter "), 10_000)
	e.must(e.d.juliet.Do(e.ctx, "upload", map[string]any{"data": base64.StdEncoding.EncodeToString(data), "type": "text/plain", "name": "letter.txt"}, &upload))
	e.sheSays(map[string]any{"msgtype": "m.file", "body": "letter.txt", "filename": "letter.txt", "url": upload.MXC,
		"info": map[string]any{"mimetype": "text/plain", "size": len(data)}}, "letter.txt")
}

func (e *ends) deleting() {
	redacted := func(what, event string) {
		e.t.Helper()
		ctx, cancel := context.WithTimeout(e.ctx, 30*time.Second)
		defer cancel()
		// A moderator's is the bot's.
		if _, err := e.d.juliet.WaitEvent(ctx, e.d.portal, func(ev testnet.MatrixEvent) bool {
			return ev.Type == "m.room.redaction" && (ev.String("redacts") == event || ev.Redacts == event)
		}); err != nil {
			e.t.Fatalf("juliet is not shown %s: %v", what, err)
		}
	}
	e.must(e.d.juliet.Do(e.ctx, "redact", map[string]any{"room": e.d.portal, "event_id": e.hers.event}, nil))
	e.understood("retraction", e.hers.stanza, "")
	e.do("retract", map[string]any{"ref": e.his.stanza})
	redacted("a retraction", e.his.event)
	rude := e.sheSays(map[string]any{"msgtype": "m.text", "body": "something rude"}, "something rude")
	e.do("moderate", map[string]any{"ref": rude.stanza})
	redacted("a moderator's retraction", rude.event)
}
