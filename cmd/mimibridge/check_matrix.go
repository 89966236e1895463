package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/internal/find"
)

// asClient asks the homeserver with the registration's token.
type asClient struct {
	m *config.Matrix
	r *matrix.Registration
	k *checker
}

func (a *asClient) ask(ctx context.Context, method, path string, in any) (int, map[string]any, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.m.Homeserver+path, body)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.r.ASToken)
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	a.k.clock("the homeserver", resp.Header)
	var out map[string]any
	_ = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&out)
	return resp.StatusCode, out, nil
}

// checkHomeserver asks for the supported versions, who the as_token is, and whether the homeserver reaches us. runs: a daemon listens already.
func checkHomeserver(ctx context.Context, k *checker, m *config.Matrix, runs bool) {
	r, err := loadRegistration(m)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.fail("there is no registration "+m.Registration, "`mimibridge registration -c FILE` makes it")
		return
	case err != nil:
		k.fail(err.Error(), "mend it, or remove it and let `mimibridge registration -c FILE` make a new one; the homeserver needs the same")
		return
	}
	everywhere := listenURLHost(m.Listen) != m.Listen // then any name of this machine will do, a container's for instance
	if u, err := url.Parse(r.URL); err == nil && u.Host != listenURLHost(m.Listen) && !(everywhere && strings.HasSuffix(listenURLHost(m.Listen), ":"+u.Port())) {
		k.warn(fmt.Sprintf("the registration sends the homeserver to %s, this daemon listens on %s", r.URL, m.Listen), "make them agree, unless a proxy lies between")
	}
	a := &asClient{m: m, r: r, k: k}
	status, body, err := a.ask(ctx, http.MethodGet, "/_matrix/client/versions", nil)
	if err != nil {
		k.fail("the homeserver does not answer: "+err.Error(), "is it running, and is network.matrix.homeserver its client-server URL?")
		return
	}
	if status != http.StatusOK || body["versions"] == nil {
		k.fail(fmt.Sprintf("%s is no Matrix homeserver (status %d)", m.Homeserver, status), "network.matrix.homeserver is the client-server URL, without /_matrix")
		return
	}
	status, body, err = a.ask(ctx, http.MethodGet, "/_matrix/client/v3/account/whoami", nil)
	want := "@" + r.SenderLocalpart + ":" + m.ServerName
	switch {
	case err != nil:
		k.fail("the homeserver does not answer: "+err.Error(), "is it running?")
		return
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		what, cure := unknownToken(k, m, r)
		k.fail(what, cure)
		return
	case status != http.StatusOK:
		k.fail(fmt.Sprintf("the homeserver answers %d to a request with the registration's token", status), "look into its log")
		return
	case body["user_id"] != want:
		k.fail(fmt.Sprintf("the homeserver takes the registration's token for %v, not %s", body["user_id"], want), "is network.matrix.server_name its name, and is its copy of the registration the same file?")
		return
	}
	k.ok("the homeserver knows the registration")
	checkReach(ctx, a, runs)
}

// unknownToken tells apart why the homeserver does not know the token, if its configuration can be read from here.
func unknownToken(k *checker, m *config.Matrix, r *matrix.Registration) (what, cure string) {
	what, cure = "the homeserver does not know the registration's token", "give it a copy of "+m.Registration+" and restart it: it reads registrations only when it starts"
	for _, s := range find.Servers(k.look) {
		if s.Network != "matrix" || len(s.Domains) == 0 || s.Domains[0] != m.ServerName {
			continue
		}
		if len(s.Registrations) == 0 {
			return what + ": " + s.File + " lists no application service", "add a copy of " + m.Registration + " to it (" + map[string]string{"Synapse": "app_service_config_files", "Dendrite": "app_service_api.config_files"}[s.Name] + ") and restart it"
		}
		for _, file := range s.Registrations {
			b, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			var copied struct {
				ID      string `yaml:"id"`
				ASToken string `yaml:"as_token"`
			}
			if yaml.Unmarshal(b, &copied) != nil || copied.ID != r.ID {
				continue
			}
			if subtle.ConstantTimeCompare([]byte(copied.ASToken), []byte(r.ASToken)) == 1 {
				return what + ", though " + file + " has it", "restart the homeserver: it has not been since the file was added"
			}
			return what + ": its copy " + file + " has another token", "copy " + m.Registration + " there again and restart it"
		}
		return what + ": none of the registrations that " + s.File + " lists is of this bridge", "add a copy of " + m.Registration + " to it and restart it"
	}
	return what, cure
}

// checkReach finds out whether the homeserver reaches the application service, by the ping of Matrix 1.7 and, unless a daemon is
// running, by a message in a loop: the bot sends to a room of its own, and the transaction has to come.
func checkReach(ctx context.Context, a *asClient, runs bool) {
	k, m := a.k, a.m
	var box *mailbox
	if !runs {
		var err error
		if box, err = listenAS(m.Listen, a.r.HSToken); err != nil {
			k.fail("network.matrix.listen "+m.Listen+" cannot be used: "+err.Error(), "is the port taken by another program? Choose another, and mend the registration's url")
			return
		}
		defer box.close()
	}
	reach := "the homeserver has to reach " + a.r.URL + " (url in the registration): from a container, 127.0.0.1 is the container itself"
	status, body, err := a.ask(ctx, http.MethodPost, "/_matrix/client/v1/appservice/"+url.PathEscape(a.r.ID)+"/ping", map[string]string{"transaction_id": "mimibridge-check"})
	code, _ := body["errcode"].(string)
	switch {
	case err != nil:
		k.fail("the homeserver does not answer: "+err.Error(), "is it running?")
		return
	case status == http.StatusOK:
		k.ok("the homeserver reaches the application service")
	case code == "M_URL_NOT_SET":
		k.fail("the homeserver's copy of the registration has no url", "copy "+m.Registration+" again and restart it")
		return
	case code == "M_CONNECTION_FAILED", code == "M_CONNECTION_TIMEOUT":
		k.fail("the homeserver cannot reach the application service", reach)
		return
	case code == "M_BAD_STATUS":
		k.fail("the homeserver reaches "+a.r.URL+", but is refused there", "its copy of the registration has another hs_token, or another program answers there: copy "+m.Registration+" again and restart it")
		return
	default:
		k.note("the homeserver offers no ping (" + code + "); whether it reaches the application service is shown by a message")
	}
	if runs {
		return
	}
	marker := rand.Text()
	status, body, err = a.ask(ctx, http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"name": "mimibridge check", "preset": "private_chat"})
	room, _ := body["room_id"].(string)
	if err != nil || status != http.StatusOK || room == "" {
		k.fail(fmt.Sprintf("the bot cannot make a room (status %d)", status), "the homeserver's log has the reason: is room creation restricted?")
		return
	}
	box.room = room
	close(box.known)
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room)
	status, _, err = a.ask(ctx, http.MethodPut, path+"/send/m.room.message/"+marker, map[string]string{"msgtype": "m.notice", "body": marker})
	got := err == nil && status == http.StatusOK && box.await(ctx, marker, loopPatience)
	_, _, _ = a.ask(ctx, http.MethodPost, path+"/leave", map[string]any{})
	_, _, _ = a.ask(ctx, http.MethodPost, path+"/forget", map[string]any{})
	switch {
	case got:
		k.ok("a message goes through the homeserver and back to the application service")
	case box.refused():
		k.fail("the homeserver sends transactions with another hs_token", "copy "+m.Registration+" to it again and restart it")
	case box.pinged():
		k.fail("the homeserver answers pings but sends no transactions: it has backed off after failures", "it tries again by itself, after up to an hour; restarting the homeserver makes it try now")
	default:
		k.fail("a message to the bot's room does not come to the application service", reach+"; a homeserver that has backed off after failures tries again within an hour, or when it is restarted")
	}
}

// mailbox is an application service for the time of a check. It takes only what happens in the room of the check: all else waits
// for the daemon.
type mailbox struct {
	ln    net.Listener
	room  string        // of the check, valid once known is closed
	known chan struct{} // the room has been made

	mu       sync.Mutex
	texts    chan string
	bad      bool
	pingSeen bool
}

func listenAS(addr, token string) (*mailbox, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	b := &mailbox{ln: ln, texts: make(chan string, 1000), known: make(chan struct{})}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if given == "" {
			given = r.URL.Query().Get("access_token")
		}
		switch {
		case subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1:
			b.mu.Lock()
			b.bad = true
			b.mu.Unlock()
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errcode": "M_FORBIDDEN"}`)
		case strings.HasSuffix(r.URL.Path, "/ping"):
			b.mu.Lock()
			b.pingSeen = true
			b.mu.Unlock()
			io.WriteString(w, "{}")
		default:
			var txn struct {
				Events []struct {
					Room    string         `json:"room_id"`
					Content map[string]any `json:"content"`
				} `json:"events"`
			}
			_ = json.NewDecoder(io.LimitReader(r.Body, 16<<20)).Decode(&txn)
			select {
			case <-b.known:
			case <-r.Context().Done():
				return
			}
			foreign := false
			for _, e := range txn.Events {
				foreign = foreign || e.Room != b.room
				if text, ok := e.Content["body"].(string); ok && e.Room == b.room {
					b.say(text)
				}
			}
			if foreign {
				// Not taken: the daemon gets it when it runs.
				b.say("")
				w.WriteHeader(http.StatusServiceUnavailable)
				io.WriteString(w, `{"errcode": "M_LIMIT_EXCEEDED"}`)
				return
			}
			io.WriteString(w, "{}")
		}
	})}
	go func() { _ = srv.Serve(ln) }()
	return b, nil
}

func (b *mailbox) say(text string) {
	select {
	case b.texts <- text:
	default:
	}
}

func (b *mailbox) close() { b.ln.Close() }

func (b *mailbox) refused() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bad
}

func (b *mailbox) pinged() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pingSeen
}

// await waits for the marker, or for an older transaction that has to go first: it shows the way as well.
func (b *mailbox) await(ctx context.Context, marker string, limit time.Duration) bool {
	late := time.After(limit)
	for {
		select {
		case text := <-b.texts:
			if text == "" || text == marker {
				return true
			}
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
