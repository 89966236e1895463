package testnet

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// JSSDKVersion is the version of matrix-js-sdk that BuildJSSDK installs.
const JSSDKVersion = "43.0.0"

//go:embed jsclient.mjs
var jsScript string

// BuildJSSDK makes sure that matrix-js-sdk is installed in the user's cache folder and returns that folder. The first time
// takes some seconds and needs node, npm and npm's registry. Programs that call it at the same time wait for each other.
// progress may be nil.
func BuildJSSDK(ctx context.Context, progress *Progress) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("testnet: install matrix-js-sdk: %w", err)
	}
	dir = filepath.Join(cache, "mimibridge", "matrix-js-sdk-"+JSSDKVersion)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("testnet: install matrix-js-sdk: %w", err)
	}
	stamp := filepath.Join(dir, "installed")
	if built(stamp, JSSDKVersion) {
		return dir, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", fmt.Errorf("testnet: install matrix-js-sdk: %w", err)
	}
	defer unlock()
	if built(stamp, JSSDKVersion) {
		return dir, nil
	}
	err = progress.Step("installing matrix-js-sdk "+JSSDKVersion+" from npm", func() error {
		cmd := exec.CommandContext(ctx, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", "matrix-js-sdk@"+JSSDKVersion)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			if errors.Is(err, exec.ErrNotFound) {
				return errors.New("npm is missing: apt-get install -y nodejs npm")
			}
			return fmt.Errorf("%w:\n%s", err, lastLines(string(out), 10))
		}
		return os.WriteFile(stamp, []byte(JSSDKVersion), 0o644)
	})
	if err != nil {
		return "", fmt.Errorf("testnet: install matrix-js-sdk: %w", err)
	}
	return dir, nil
}

// JSEvent is something a JSClient has seen.
type JSEvent struct {
	Kind string `json:"event"` // "message", "invite", "synced"
	Room string `json:"room"`
	Data struct {
		MatrixEvent
		Encrypted bool   `json:"encrypted"`
		Failed    bool   `json:"failed"` // could not be decrypted
		Shield    string `json:"shield"` // "none", "grey", "red"
		Reason    string `json:"reason"`
	} `json:"data"`
}

// JSClient is a Matrix client, matrix-js-sdk with its rust crypto, in a node process of its own.
type JSClient struct {
	*scripted[JSEvent]
	UserID string
}

// StartJS starts a client, logs user in with encryption and syncs. It ends with ctx or Stop.
func StartJS(ctx context.Context, homeserverURL, user, password string) (*JSClient, error) {
	dir, err := BuildJSSDK(ctx, nil)
	if err != nil {
		return nil, err
	}
	s, err := startScriptIn(ctx, "matrix-js-sdk", dir, "client-*.mjs", jsScript, "node", func(line []byte) (ev JSEvent, ok bool) {
		return ev, json.Unmarshal(line, &ev) == nil && ev.Kind != ""
	})
	if err != nil {
		return nil, err
	}
	c := &JSClient{scripted: s}
	var resp struct {
		UserID string `json:"user_id"`
	}
	if err := c.Do(ctx, "login", map[string]any{"homeserver": homeserverURL, "user": user, "password": password}, &resp); err != nil {
		c.Stop()
		return nil, fmt.Errorf("testnet: start matrix-js-sdk for %s: %w", user, err)
	}
	c.UserID = resp.UserID
	return c, nil
}

// WaitMessage waits for a message that match accepts.
func (c *JSClient) WaitMessage(ctx context.Context, room string, match func(JSEvent) bool) (JSEvent, error) {
	return c.Wait(ctx, func(e JSEvent) bool { return e.Kind == "message" && e.Room == room && match(e) })
}
