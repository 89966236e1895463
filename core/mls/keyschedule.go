package mls

import (
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// epochSecrets are the secrets of RFC 9420 section 8, table 4, and the
// application_export_secret of draft-ietf-mls-extensions. encryption is moved
// into the secret tree when the epoch begins.
type epochSecrets struct {
	senderData, encryption, exporter, external      []byte
	confirmation, membership, resumption, authentic []byte
	init, appExport                                 []byte
}

// joinerSecret is the first step of the key schedule (RFC 9420 section 8).
func (s *suite) joinerSecret(init, commit, context []byte) []byte {
	return s.expandWithLabel(s.extract(init, commit), "joiner", context, s.nh)
}

// welcomeSecret is the secret the GroupInfo of a Welcome is encrypted under.
func (s *suite) welcomeSecret(joiner, psk []byte) []byte {
	return s.deriveSecret(s.extract(joiner, psk), "welcome")
}

func (s *suite) epochSecrets(joiner, psk, context []byte) *epochSecrets {
	return s.secretsOf(s.expandWithLabel(s.extract(joiner, psk), "epoch", context, s.nh))
}

func (s *suite) secretsOf(epoch []byte) *epochSecrets {
	d := func(label string) []byte { return s.deriveSecret(epoch, label) }
	return &epochSecrets{
		senderData: d("sender data"), encryption: d("encryption"), exporter: d("exporter"), external: d("external"),
		confirmation: d("confirm"), membership: d("membership"), resumption: d("resumption"), authentic: d("authentication"),
		init: d("init"), appExport: d("application_export"),
	}
}

func (e *epochSecrets) fields() []*[]byte {
	return []*[]byte{&e.senderData, &e.exporter, &e.external, &e.confirmation, &e.membership, &e.resumption, &e.authentic, &e.init}
}

// export is the MLS-Exporter (RFC 9420 section 8.5).
func (s *suite) export(exporter []byte, label string, context []byte, n int) ([]byte, error) {
	if n < 0 || n > 255*s.nh || n > 0xffff {
		return nil, fmt.Errorf("mls: export of %d bytes", n)
	}
	return s.expandWithLabel(s.deriveSecret(exporter, label), "exported", s.hash(context), n), nil
}

// confirmedHash is the confirmed transcript hash after a Commit (RFC 9420 section
// 8.2).
func (s *suite) confirmedHash(interim []byte, ac *AuthenticatedContent) []byte {
	var w tlspl.Writer
	w.Raw(interim)
	w.Uint16(uint16(ac.WireFormat))
	ac.Content.MarshalTLS(&w)
	w.Opaque(ac.Auth.Signature)
	return s.hash(w.Bytes())
}

// interimHash is the interim transcript hash (RFC 9420 section 8.2).
func (s *suite) interimHash(confirmed, tag []byte) []byte {
	var w tlspl.Writer
	w.Raw(confirmed)
	w.Opaque(tag)
	return s.hash(w.Bytes())
}

// welcomeKey gives key and nonce for the GroupInfo in a Welcome (RFC 9420 section
// 12.4.3.1).
func (s *suite) welcomeKey(secret []byte) (key, nonce []byte) {
	return s.expandWithLabel(secret, "key", nil, s.nk), s.expandWithLabel(secret, "nonce", nil, aeadNonceSize)
}

const externalInitLabel = "MLS 1.0 external init secret"
