package matrix

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
)

// greetHomeserver checks the connection in both directions when the adapter starts, until it works. Each failure is
// logged with its cure, a lasting one every 5 minutes.
func (b *bridge) greetHomeserver(ctx context.Context) {
	pause := time.Second
	for !b.gone.Load() {
		cure, err := b.checkHomeserver(ctx)
		if err == nil {
			b.log.Info().Str("homeserver", b.cfg.Homeserver).Str("bot", string(b.hs.bot)).Msg("the homeserver knows this application service")
			return
		}
		if ctx.Err() != nil {
			return
		}
		if b.seldom("check " + cure) {
			b.log.Error().Err(err).Str("cure", cure).Msg("the homeserver cannot be used yet; trying on")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, 30*time.Second)
	}
}

func (b *bridge) checkHomeserver(ctx context.Context) (cure string, err error) {
	if err := b.hs.versions(ctx); err != nil {
		return "check that the homeserver runs and that network.matrix.homeserver is the URL of its client API: " + b.cfg.Homeserver, err
	}
	load := fmt.Sprintf("give the homeserver the registration file %s (Synapse: app_service_config_files, Dendrite: app_service_api.config_files) and restart it; it must be the same file on both sides", b.cfg.Registration)
	who, err := b.hs.whoami(ctx)
	if err != nil {
		var r *refusal
		if errors.As(err, &r) && (r.status == http.StatusUnauthorized || r.status == http.StatusForbidden) {
			return load, fmt.Errorf("matrix: the homeserver does not accept as_token: %w", err)
		}
		return "see the homeserver's log", err
	}
	if who != b.hs.bot {
		return "set network.matrix.server_name to the homeserver's server_name, and give both sides the same registration file",
			fmt.Errorf("matrix: the homeserver takes as_token for %s, not for %s", who, b.hs.bot)
	}
	if err := b.ensureBot(ctx); err != nil {
		return "see the homeserver's log", err
	}
	err = b.hs.ping(ctx, "mimibridge-start")
	switch {
	case err == nil:
	case fault.Is(err, fault.NotFound) || errcode(err) == mUnrecognized || errcode(err) == "":
		// Older homeservers and Dendrite do not offer it; then the first event shows whether they reach us.
		b.log.Debug().Msg("the homeserver offers no ping")
	case errcode(err) == "M_URL_NOT_SET":
		return "set url in the registration file to where the homeserver reaches this adapter, and restart the homeserver", err
	case errcode(err) == "M_BAD_STATUS":
		return load, fmt.Errorf("matrix: the homeserver reaches url with another hs_token, or something else answers there: %w", err)
	case errcode(err) == "M_CONNECTION_FAILED", errcode(err) == "M_CONNECTION_TIMEOUT":
		return fmt.Sprintf("the homeserver must reach %s (url in the registration file); this adapter listens on %s", b.reg.URL, b.cfg.Listen), err
	default:
		return "see the homeserver's log", err
	}
	return "", nil
}
