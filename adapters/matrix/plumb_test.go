package matrix

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// TestTwice: by what a room shows that another bridge is in it.
func TestTwice(t *testing.T) {
	b := &bridge{server: server, hs: &homeserver{bot: "@mimi_bot_1:" + server}}
	with := []mimiuri.URI{mustURI(romeo)}
	state := func(typ, key, content string) []rawEvent {
		return []rawEvent{{Type: typ, StateKey: &key, Content: json.RawMessage(content)}}
	}
	for name, tc := range map[string]struct {
		state []rawEvent
		want  string
	}{
		"nothing":                              {nil, ""},
		"our own m.bridge":                     {state("m.bridge", "x", `{"bridgebot":"@mimi_bot_1:`+server+`","protocol":{"id":"mimi"}}`), ""},
		"another's m.bridge":                   {state("m.bridge", "x", `{"bridgebot":"@mimi_bot_2:other.example","protocol":{"id":"mimi"}}`), "Another bridge connects"},
		"a bridge to somewhere else":           {state("m.bridge", "x", `{"bridgebot":"@irc:other.example","protocol":{"id":"irc"}}`), ""},
		"an m.bridge that was emptied":         {state("m.bridge", "x", `{}`), ""},
		"our own ghost":                        {state("m.room.member", ghostOf(romeo), `{"membership":"join"}`), ""},
		"a ghost of this program elsewhere":    {state("m.room.member", "@mimi_al=wire.example:other.example", `{"membership":"join"}`), "Another bridge connects"},
		"one that has left":                    {state("m.room.member", "@mimi_al=wire.example:other.example", `{"membership":"leave"}`), ""},
		"a puppet of the same person":          {state("m.room.member", "@_xmpp_romeo=40xmpp.example:other.example", `{"membership":"join"}`), "has " + romeo + " in this room already"},
		"a puppet of somebody else":            {state("m.room.member", "@_xmpp_tybalt=40capulet.example:other.example", `{"membership":"join"}`), ""},
		"a person whose name begins like that": {state("m.room.member", "@mimi_rogers:other.example", `{"membership":"join"}`), ""},
		"nonsense":                             {state("m.room.member", "@", `[]`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := b.twice(tc.state, with); !strings.Contains(got, tc.want) || tc.want == "" && got != "" {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
	// Nor may such users use the bridge themselves, whatever the permissions say.
	for user, want := range map[id.UserID]bool{"@mimi_al=wire.example:other.example": true, "@mimi_bot_12:other.example": true, "@alice:other.example": false, "@mimi_rogers:other.example": false} {
		if isPuppet(user) != want {
			t.Errorf("%s is a puppet: %v", user, !want)
		}
	}
}

// TestKeySettings: what cannot be meant is refused at once.
func TestKeySettings(t *testing.T) {
	cfg := Config{Homeserver: "http://127.0.0.1:1", ServerName: server, Listen: "127.0.0.1:0", Registration: filepath.Join(t.TempDir(), "registration.yaml")}
	if _, err := NewRegistration(cfg.Registration, "http://127.0.0.1:2", server); err != nil {
		t.Fatal(err)
	}
	for _, keys := range []Keys{{Receive: "perhaps"}, {Send: "blacklisted"}, {Share: "invalid"}, {RotateMessages: -1}, {RotateAfter: -1}, {WarnDevices: -1}} {
		cfg.Keys = keys
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was taken", keys)
		}
	}
	cfg.Keys = Keys{Receive: "cross-signed-tofu", Send: "unverified", Share: "verified"}
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}
}
