//go:build goolm

package matrix

import (
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
)

// TestEraseKeys: with a user go the keys of their devices and what they have sent with them.
func TestEraseKeys(t *testing.T) {
	s := newService(t)
	m := s.a.(*Adapter).current.Load().e2ee.(*machines)
	m.mu.Lock()
	err := m.openStore(s.ctx)
	m.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"juliet", "nurse"} {
		user, key := string(id.NewUserID(name, server)), "key of "+name
		for _, insert := range []string{
			`INSERT INTO crypto_device (user_id, device_id, identity_key, signing_key, trust, deleted, name) VALUES ($1, 'D', $2, 's', 0, false, 'phone')`,
			`INSERT INTO crypto_tracked_user (user_id) SELECT $1 WHERE $2 <> ''`,
			`INSERT INTO crypto_cross_signing_keys (user_id, usage, key, first_seen_key) VALUES ($1, 'master', $2, 'f')`,
			`INSERT INTO crypto_cross_signing_signatures (signed_user_id, signed_key, signer_user_id, signer_key, signature) VALUES ($1, 'a', $1, 'b', $2)`,
			`INSERT INTO crypto_olm_session (account_id, session_id, sender_key, session, created_at, last_decrypted, last_encrypted)
				SELECT '@bot', $2, $2, 'x', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP WHERE $1 <> ''`,
			`INSERT INTO crypto_megolm_inbound_session (account_id, session_id, sender_key, room_id, source_user) VALUES ('@bot', $2, $2, '!r', $1)`,
			`INSERT INTO crypto_message_index (session_id, "index", event_id, timestamp) SELECT $2, 1, '$e', 1 WHERE $1 <> ''`,
			`INSERT INTO crypto_megolm_outbound_session_shared (user_id, identity_key, session_id) VALUES ($1, $2, 's')`,
		} {
			if _, err := m.store.Exec(s.ctx, insert, user, key); err != nil {
				t.Fatal(insert, err)
			}
		}
	}
	before := s.tw.everything()
	if n := len(about(before, "juliet")); n != 8 {
		t.Fatalf("%d rows: %q", n, about(before, "juliet"))
	}
	if err := s.a.(adapter.Eraser).EraseUser(s.ctx, mustURI(local("juliet"))); err != nil {
		t.Fatal(err)
	}
	after := s.tw.everything()
	if left := about(after, "juliet"); len(left) > 0 || len(about(after, "nurse")) != 8 {
		t.Errorf("left of juliet %q, of nurse %q", left, about(after, "nurse"))
	}
	if err := s.a.(adapter.Uninstaller).Uninstall(s.ctx, false, func(string) {}); err != nil {
		t.Fatal(err)
	}
	for _, row := range s.tw.everything() {
		if strings.HasPrefix(row, "crypto_") && !strings.HasPrefix(row, "crypto_version:") {
			t.Errorf("left: %s", row)
		}
	}
}
