package core_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
)

// sharedRoom is a room of the first provider with a user of each.
func sharedRoom(t *testing.T, ps ...*provider) mimiuri.URI {
	t.Helper()
	room := ps[0].room("team")
	ps[0].intake(adapter.Intent{Kind: adapter.CreateRoom, Room: room, Actor: ps[0].user("u0")})
	ps[0].awaitJoined(room, ps[0].user("u0"))
	for i, p := range ps[1:] {
		u := p.user("u" + string(rune('1'+i)))
		ps[0].intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: ps[0].user("u0"), Target: u})
		p.awaitJoined(room, u)
	}
	return room
}

func upload(t *testing.T, p *provider, user string, b []byte) content.Part {
	t.Helper()
	part, err := p.mem.host.Upload(context.Background(), p.user(user), bytes.NewReader(b), int64(len(b)), "image/png", "cat.png")
	if err != nil {
		t.Fatal(err)
	}
	return part
}

func download(t *testing.T, p *provider, user string, room mimiuri.URI, e *content.External) ([]byte, error) {
	t.Helper()
	body, size, err := p.mem.host.Download(context.Background(), p.user(user), room, e)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err == nil && int64(len(b)) != size {
		t.Errorf("size %d, %d octets came", size, len(b))
	}
	return b, err
}

// TestFiles: an attachment of the third provider's user reaches a user of the second through the hub, which is the first, and
// all others as well.
func TestFiles(t *testing.T) {
	n, ps := newNetwork(t, "hub.test", "b.test", "c.test")
	for _, p := range ps {
		p.start()
	}
	room := sharedRoom(t, ps...)
	plain := make([]byte, 300_000)
	rand.Read(plain)
	part := upload(t, ps[2], "u2", plain)
	if part.ContentType != "image/png" || part.External.Filename != "cat.png" || part.External.EncAlg != content.AEADAES128GCM || part.External.Expires == 0 {
		t.Errorf("%+v", part)
	}
	ps[2].intake(adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: ps[2].user("u2"), Content: content.New(part)})
	for i, p := range ps {
		ev := p.await(room, "the file", func(e adapter.Event) bool { return e.Kind == adapter.Message })
		e := ev.Content.Body.External
		for range 2 {
			got, err := download(t, p, "u"+string(rune('0'+i)), room, e)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%s: %d octets, %v", p.domain, len(got), err)
			}
		}
	}

	e := part.External
	t.Run("anybody may fetch the ciphertext, and sees only that", func(t *testing.T) {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: n.roots, ServerName: "c.test"}}}
		defer c.CloseIdleConnections()
		resp, err := c.Get(e.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || len(b) != len(plain)+16 || bytes.Contains(b, plain[:32]) {
			t.Errorf("%d: %d octets, %v", resp.StatusCode, len(b), err)
		}
		if resp.Header.Get("Content-Type") != "application/octet-stream" || resp.Header.Get("Content-Disposition") != "attachment" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%v", resp.Header)
		}
		dir := filepath.Join(ps[2].dir, "mimi-assets")
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil || bytes.Contains(b, plain[:32]) {
				t.Errorf("%s: plaintext, or %v", path, err)
			}
			return nil
		})
	})
	t.Run("what was changed is not given away", func(t *testing.T) {
		bad := *e
		bad.ContentHash = bytes.Clone(e.ContentHash)
		bad.ContentHash[0] ^= 1
		if b, err := download(t, ps[1], "u1", room, &bad); !fault.Is(err, fault.Malformed) || len(b) != 0 {
			t.Errorf("%d octets, %v", len(b), err)
		}
	})
	t.Run("only own users", func(t *testing.T) {
		if _, _, err := ps[1].mem.host.Download(context.Background(), ps[2].user("u2"), room, e); !fault.Is(err, fault.Forbidden) {
			t.Errorf("%v", err)
		}
		if _, err := ps[1].mem.host.Upload(context.Background(), ps[2].user("u2"), strings.NewReader("x"), 1, "", ""); !fault.Is(err, fault.Forbidden) {
			t.Errorf("%v", err)
		}
	})
	t.Run("not from elsewhere", func(t *testing.T) {
		for _, u := range []string{"https://127.0.0.1:1/v1/asset/x", "https://localhost/x", "https://192.0.2.1/x", "https://stranger.test/x", "http://c.test/x"} {
			bad := *e
			bad.URL = u
			for _, p := range ps[:2] { // the hub itself, and a follower by way of it
				if _, err := download(t, p, "u"+map[string]string{"hub.test": "0", "b.test": "1"}[p.domain], room, &bad); fault.Temporary(err) || err == nil {
					t.Errorf("%s at %s: %v", u, p.domain, err)
				}
			}
			if _, _, _, err := ps[0].mem.host.FetchPublic(context.Background(), u); fault.Temporary(err) || err == nil {
				t.Errorf("%s: %v", u, err)
			}
		}
	})
	t.Run("pictures", func(t *testing.T) {
		uri, err := ps[2].mem.host.Publish(context.Background(), ps[2].user("u2"), strings.NewReader("picture"), "image/png")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ps {
			body, typ, size, err := p.mem.host.FetchPublic(context.Background(), uri)
			if err != nil {
				t.Fatalf("%s: %v", p.domain, err)
			}
			b, _ := io.ReadAll(body)
			body.Close()
			if string(b) != "picture" || typ != "image/png" || size != 7 {
				t.Errorf("%s: %q %s %d", p.domain, b, typ, size)
			}
		}
	})
	t.Run("the hub has a copy", func(t *testing.T) {
		ps[2].stop()
		ps[1].stop()
		ps[1].start() // without its own copy
		if got, err := download(t, ps[1], "u1", room, e); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d octets, %v", len(got), err)
		}
	})
}

// TestAssetPolicyIsHeld: what a room's asset_policy does not allow is neither sent nor fetched, and who wants it is told why; a file that
// may only come through the hub does.
func TestAssetPolicyIsHeld(t *testing.T) {
	_, ps := newNetwork(t, "hub.test", "b.test", "c.test")
	hub, b := ps[0], ps[1]
	hub.tune = func(c *core.Config) {
		c.NewRoom = func(room mimiuri.URI, dict *mls.AppDataDictionary) {
			dict.Set(policy.ComponentAssetPolicy, policy.AssetPolicy{
				UploadLocation: policy.UploadLocalProvider, MaxAttachment: 1000, ForbiddenMediaTypes: []policy.MediaType{{Type: "text/html"}},
				UploadDomains:    []policy.UploadDomains{{Provider: "hub.test", Domains: []string{"127.0.0.1"}}, {Provider: "b.test", Domains: []string{"127.0.0.1"}}},
				AllowedDownloads: []policy.DownloadType{policy.DownloadHubProxy},
			}.Marshal())
		}
	}
	for _, p := range ps {
		p.start()
	}
	room := sharedRoom(t, ps...)
	send := func(p *provider, user string, part content.Part) string {
		return p.intake(adapter.Intent{Kind: adapter.SendMessage, Room: room, Actor: p.user(user), Content: content.New(part)})
	}
	good := upload(t, b, "u1", make([]byte, 1000))
	html := good
	html.ContentType = "text/html"
	elsewhere := good
	e := *good.External
	e.URL = "https://x.test/file"
	elsewhere.External = &e
	for what, id := range map[string]string{"too large": send(b, "u1", upload(t, b, "u1", make([]byte, 1001))), "of a type": send(b, "u1", html), "elsewhere": send(b, "u1", elsewhere)} {
		if ev := b.awaitRefused(room, id); !fault.Is(ev.Err, fault.Forbidden) {
			t.Errorf("a file that is %s: %v", what, ev.Err)
		}
	}
	if ev := ps[2].awaitRefused(room, send(ps[2], "u2", upload(t, ps[2], "u2", []byte("x")))); !fault.Is(ev.Err, fault.Forbidden) {
		t.Errorf("a file of a provider without upload domains: %v", ev.Err)
	}
	send(b, "u1", good)
	ev := ps[2].await(room, "the file", func(e adapter.Event) bool { return e.Kind == adapter.Message })
	if got, err := download(t, ps[2], "u2", room, ev.Content.Body.External); err != nil || len(got) != 1000 {
		t.Errorf("through the hub: %d octets, %v", len(got), err)
	}
	if _, err := download(t, ps[2], "u2", room, &e); !fault.Is(err, fault.Forbidden) {
		t.Errorf("from elsewhere: %v", err)
	}
	hub.stop()
	second := upload(t, b, "u1", []byte("not seen yet"))
	if _, err := download(t, ps[2], "u2", room, second.External); !fault.Is(err, fault.Unavailable) {
		t.Errorf("directly, while the hub is gone: %v", err)
	}
}
