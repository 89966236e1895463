//go:build live

package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

const (
	romeoURI    = "mimi://" + xmppDomain + "/u/romeo"
	mercutioURI = "mimi://" + xmppDomain + "/u/mercutio"

	nurseAtGateway = "nurse%" + matrixDomain + "@" + gatewayDomain
	patiently      = 90 * time.Second
)

// rich is a conversation of all kinds of message, with its patience.
type rich struct {
	t   *testing.T
	ctx context.Context
	d   *demo
}

func (r *rich) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// romeo waits for a stanza.
func (r *rich) xmpp(c *testnet.SlixClient, what string, ok func(testnet.SlixEvent) bool) testnet.SlixEvent {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, patiently)
	defer cancel()
	e, err := c.Wait(ctx, ok)
	if err != nil {
		r.t.Fatalf("%s does not reach %s: %v", what, c.JID, err)
	}
	return e
}

// matrix waits for an event.
func (r *rich) matrix(c *testnet.NioClient, room, what string, ok func(testnet.MatrixEvent) bool) testnet.MatrixEvent {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, patiently)
	defer cancel()
	e, err := c.WaitEvent(ctx, room, ok)
	if err != nil {
		r.t.Fatalf("%s does not reach %s: %v", what, c.UserID, err)
	}
	return e
}

func relates(e testnet.MatrixEvent) map[string]any {
	m, _ := e.Content["m.relates_to"].(map[string]any)
	return m
}

func inReplyTo(e testnet.MatrixEvent) string {
	m, _ := relates(e)["m.in_reply_to"].(map[string]any)
	s, _ := m["event_id"].(string)
	return s
}

// TestRich has users of XMPP and Matrix, each behind a provider that is a process of its own, exchange files, ask for consent, grant, refuse and
// take it back, answer invitations and block: real clients and servers at both ends, mutual TLS between.
func TestRich(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	d, procs := startLive(t, ctx)
	r := &rich{t, ctx, d}
	r.must(d.open(ctx))
	nurse, err := testnet.StartNio(procs, d.dendrite.URL, "nurse", julietPassword)
	r.must(err)
	t.Cleanup(nurse.Stop)
	mercutio, err := testnet.StartSlix(procs, d.prosody.C2S, "mercutio@"+xmppDomain, romeoPassword, d.ca.File())
	r.must(err)
	t.Cleanup(mercutio.Stop)
	for _, s := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"disappearing messages", r.disappearing},
		{"files", r.files},
		{"an invitation is answered", func(*testing.T) { r.invitations(nurse) }},
		{"consent", func(*testing.T) { r.consent(nurse, mercutio) }},
		{"blocking", func(*testing.T) { r.blocking(mercutio) }},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			was := r.t
			r.t = t
			defer func() { r.t = was }()
			s.do(t)
		}) && ctx.Err() != nil {
			return
		}
	}
}

// disappearing messages disappear at the other end, too; the rest of what messages can be is TestBothEnds'.
func (r *rich) disappearing(t *testing.T) {
	d, romeo, juliet := r.d, r.d.romeo, r.d.juliet
	send := func(typ string, content map[string]any) string {
		t.Helper()
		id, err := juliet.Send(r.ctx, d.portal, typ, content, "")
		r.must(err)
		return id
	}
	said := func(text string) testnet.SlixEvent {
		t.Helper()
		return r.xmpp(romeo, text, func(e testnet.SlixEvent) bool {
			return e.Kind == "message" && e.Type == "groupchat" && e.Bare() == romeoRoom && e.Body == text
		})
	}
	seen := func(text string) testnet.MatrixEvent {
		t.Helper()
		return r.matrix(juliet, d.portal, text, func(e testnet.MatrixEvent) bool { return e.Text() == text })
	}
	redacted := func(what, id string) {
		t.Helper()
		r.matrix(juliet, d.portal, what, func(e testnet.MatrixEvent) bool {
			return e.Type == "m.room.redaction" && (e.Redacts == id || e.String("redacts") == id)
		})
	}
	r.must(romeo.Raw(r.ctx, fmt.Sprintf(`<message xmlns='jabber:client' to='%s' type='groupchat' id='burn'><body>burn this</body><ephemeral xmlns='urn:xmpp:ephemeral:0' timer='1'/></message>`, romeoRoom)))
	burning := seen("burn this")
	r.must(juliet.Do(r.ctx, "read", map[string]any{"room": d.portal, "event_id": burning.ID}, nil))
	redacted("the end of a message that disappears", burning.ID)
	send("m.room.message", map[string]any{"msgtype": "m.text", "body": "and this", "com.beeper.disappearing_timer": map[string]any{"type": "after_send", "timer": 60_000}})
	if e := said("and this"); !strings.Contains(e.XML, "urn:xmpp:ephemeral:0") {
		t.Errorf("a message that disappears comes as %s", e.XML)
	}
}

// files: what is uploaded to one server is encrypted and kept by its provider, fetched by the other through the hub or directly, and can
// be read at the other server.
func (r *rich) files(t *testing.T) {
	d, romeo, juliet := r.d, r.d.romeo, r.d.juliet
	text := strings.Repeat("What light through yonder window breaks?\n", 2000)
	slot, err := romeo.IQ(r.ctx, "get", uploadDomain, fmt.Sprintf(`<request xmlns='urn:xmpp:http:upload:0' filename='light.txt' size='%d' content-type='text/plain'/>`, len(text)))
	r.must(err)
	urls := regexp.MustCompile(`url="([^"]+)"`).FindAllStringSubmatch(slot, -1) // put and get, in either order
	if len(urls) != 2 {
		t.Fatalf("the slot is %s", slot)
	}
	put, err := http.NewRequestWithContext(r.ctx, "PUT", html.UnescapeString(urls[0][1]), strings.NewReader(text))
	r.must(err)
	put.Header.Set("Content-Type", "text/plain")
	if auth := regexp.MustCompile(`name="Authorization"[^>]*>([^<]+)<`).FindStringSubmatch(slot); auth != nil {
		put.Header.Set("Authorization", auth[1])
	}
	stored, err := http.DefaultClient.Do(put)
	r.must(err)
	stored.Body.Close()
	if stored.StatusCode/100 != 2 {
		t.Fatalf("storing the file: %s", stored.Status)
	}
	get := html.UnescapeString(urls[1][1])
	r.must(romeo.Raw(r.ctx, fmt.Sprintf(`<message xmlns='jabber:client' to='%s' type='groupchat' id='file'><body>%s</body><x xmlns='jabber:x:oob'><url>%s</url></x></message>`, romeoRoom, get, get)))
	file := r.matrix(juliet, d.portal, "a file", func(e testnet.MatrixEvent) bool { return e.String("msgtype") == "m.file" })
	var down struct {
		Data string `json:"data"`
	}
	r.must(juliet.Do(r.ctx, "download", map[string]any{"mxc": file.String("url")}, &down))
	if got, err := base64.StdEncoding.DecodeString(down.Data); err != nil || string(got) != text {
		t.Errorf("juliet reads %d octets, %v", len(got), err)
	}

	picture := make([]byte, 200_000)
	for i := range picture {
		picture[i] = byte(i * i >> 3)
	}
	var mxc struct {
		MXC string `json:"mxc"`
	}
	r.must(juliet.Do(r.ctx, "upload", map[string]any{"data": base64.StdEncoding.EncodeToString(picture), "type": "image/png", "name": "rose.png"}, &mxc))
	_, err = juliet.Send(r.ctx, d.portal, "m.room.message", map[string]any{"msgtype": "m.image", "body": "rose.png", "url": mxc.MXC, "info": map[string]any{"mimetype": "image/png", "size": len(picture)}}, "")
	r.must(err)
	e := r.xmpp(romeo, "a picture", func(e testnet.SlixEvent) bool {
		return e.Kind == "message" && e.Bare() == romeoRoom && e.Nick() != "romeo" && strings.Contains(e.XML, "jabber:x:oob")
	})
	resp, err := http.Get(e.Body)
	if err != nil {
		t.Fatalf("romeo's link %q: %v", e.Body, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, picture) {
		t.Errorf("romeo reads %d octets, %v", len(got), err)
	}
	// The provider of matrix.example had romeo's file fetched by the hub.
	log, err := os.ReadFile(d.matrix.record)
	r.must(err)
	for _, secret := range [][]byte{[]byte("yonder window"), picture[1000:1200]} {
		if bytes.Contains(log, secret) {
			t.Error("a file went between the providers in plaintext")
		}
	}
}

// bot opens a room with the bridge's bot.
func (r *rich) bot(c *testnet.NioClient) (ask func(line, answer string)) {
	r.t.Helper()
	bot := "@mimibot:" + matrixDomain
	if reg, err := os.ReadFile(r.d.matrix.registration()); err == nil {
		for line := range strings.Lines(string(reg)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "sender_localpart:"); ok {
				bot = "@" + strings.Trim(strings.TrimSpace(name), `"'`) + ":" + matrixDomain
			}
		}
	}
	room, err := c.CreateRoom(r.ctx, "", true, bot)
	r.must(err)
	r.matrix(c, room, "the bot's greeting", func(e testnet.MatrixEvent) bool { return e.Sender == bot && e.Text() != "" })
	return func(line, answer string) {
		r.t.Helper()
		asked := ""
		if line != "" {
			asked, err = c.SendText(r.ctx, room, line, "")
			r.must(err)
		}
		r.matrix(c, room, answer, func(e testnet.MatrixEvent) bool {
			return e.Sender == bot && strings.Contains(e.Text(), answer) && (asked == "" || inReplyTo(e) == asked)
		})
	}
}

// invitations: juliet has accepted hers; the nurse declines, and cannot be added to that room again.
func (r *rich) invitations(nurse *testnet.NioClient) {
	d := r.d
	r.bot(d.juliet)("consent", romeoURI+": they may write to you: yes")
	r.must(d.romeo.Invite(r.ctx, romeoRoom, nurseAtGateway, ""))
	portal, err := nurse.WaitInvite(r.ctx, d.portal)
	r.must(err)
	r.must(nurse.Leave(r.ctx, portal))
	r.xmpp(d.romeo, "that the nurse declines", func(e testnet.SlixEvent) bool {
		return e.Kind == "presence" && e.Type == "unavailable" && e.Bare() == romeoRoom && strings.HasPrefix(e.Nick(), "nurse")
	})
	r.bot(nurse)("consent", romeoURI+": they may write to you: no")
	mark := d.romeo.Mark()
	r.must(d.romeo.Invite(r.ctx, romeoRoom, nurseAtGateway, ""))
	ctx, cancel := context.WithTimeout(r.ctx, patiently)
	defer cancel()
	if _, err := d.romeo.WaitSince(ctx, mark, func(e testnet.SlixEvent) bool { return e.Kind == "message" && e.Type == "error" }); err != nil {
		r.t.Fatalf("romeo is not told that the nurse cannot be invited again: %v", err)
	}
}

// consent: contacts of XMPP are questions to the other's bot on Matrix. One is granted and taken back, one refused.
func (r *rich) consent(nurse *testnet.NioClient, mercutio *testnet.SlixClient) {
	ask := r.bot(nurse)
	subscribe := func(c *testnet.SlixClient) {
		r.t.Helper()
		r.must(c.Raw(r.ctx, fmt.Sprintf(`<presence xmlns='jabber:client' type='subscribe' to='%s'/>`, nurseAtGateway)))
	}
	// A server hands the answer itself only to clients that have asked for the roster; what it leads to reaches all.
	told := func(c *testnet.SlixClient, typ string) {
		r.t.Helper()
		r.xmpp(c, "presence "+typ+" of the contact", func(e testnet.SlixEvent) bool {
			return e.Kind == "presence" && e.Type == typ && e.Bare() == nurseAtGateway
		})
	}
	subscribe(r.d.romeo)
	r.asked(nurse, romeoURI)
	ask("accept "+romeoURI, "They may write to you now.")
	told(r.d.romeo, "")
	ask("refuse "+romeoURI, "They may not write to you.")
	told(r.d.romeo, "unavailable")

	subscribe(mercutio)
	r.asked(nurse, mercutioURI)
	ask("refuse "+mercutioURI, "They may not write to you.")
	ask("consent", mercutioURI+": they may write to you: no")
	ask("block "+mercutioURI, "")
	ask("consent", mercutioURI+": they may write to you: blocked")
}

// asked waits for a question, in whatever room the bot has put it.
func (r *rich) asked(c *testnet.NioClient, who string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, patiently)
	defer cancel()
	if _, err := c.Wait(ctx, func(e testnet.NioEvent) bool {
		return e.Kind == "timeline" && strings.Contains(e.Event().Text(), "accept "+who)
	}); err != nil {
		r.t.Fatalf("%s's question does not reach %s: %v", who, c.UserID, err)
	}
}

// blocking: juliet does not see what mercutio says, and sees what comes after it.
func (r *rich) blocking(mercutio *testnet.SlixClient) {
	d := r.d
	r.bot(d.juliet)("block "+mercutioURI, "")
	r.must(d.romeo.Invite(r.ctx, romeoRoom, "mercutio@"+xmppDomain, ""))
	r.xmpp(mercutio, "an invitation", func(e testnet.SlixEvent) bool { return e.Kind == "message" && e.Invite != nil })
	_, err := mercutio.Join(r.ctx, romeoRoom, "mercutio")
	r.must(err)
	r.must(mercutio.Say(r.ctx, romeoRoom, "a plague on both", "plague"))
	r.xmpp(d.romeo, "mercutio's line", func(e testnet.SlixEvent) bool { return e.Kind == "message" && e.Body == "a plague on both" })
	r.must(d.romeo.Say(r.ctx, romeoRoom, "courage, man", "courage"))
	r.matrix(d.juliet, d.portal, "romeo's line", func(e testnet.MatrixEvent) bool { return e.Text() == "courage, man" })
	for _, e := range d.juliet.Events() {
		if b, _ := json.Marshal(e.Event().Content); strings.Contains(string(b), "plague") {
			r.t.Errorf("juliet sees what mercutio says: %s", b)
		}
	}
}
