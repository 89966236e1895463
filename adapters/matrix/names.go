package matrix

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Ghosts and portals' aliases have local parts that name a MIMI URI:
//
//	mimi_ + user + "=" + provider     romeo at xmpp.example: mimi_romeo=xmpp.example
//	mimi_=h + hash                    a URI for which the above is too long
//
// The user (or room) is encoded as the Matrix specification's appendix "Mapping from other character sets" has it: a-z, 0-9,
// "." and "-" stand for themselves, a capital is "_" and the small letter, "_" is "__", every other
// octet is "=" and two hex digits. The provider's domain has no capitals; in it every octet but a-z, 0-9,
// "." and "-" is "_" and two hex digits. So the last "=" of the local part is the one between the two, and
// "=h" after the prefix can only begin a hash.
//
// The bot's local part has no "=" and so is never a ghost's.
const (
	localPrefix = "mimi_"
	hashPrefix  = localPrefix + "=h"
)

// maxIDLen bounds a Matrix ID in octets, sigil and server name included. The specification says 255, but
// Dendrite takes 254.
const maxIDLen = 254

var hashEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// encodeLocal gives the local part for a user or room URI; hashed says that it cannot be read back, so the
// caller has to remember it.
func encodeLocal(u mimiuri.URI, serverName string) (local string, hashed bool) {
	var b strings.Builder
	b.WriteString(localPrefix)
	for i := 0; i < len(u.ID); i++ {
		switch c := u.ID[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '-':
			b.WriteByte(c)
		case 'A' <= c && c <= 'Z':
			b.WriteByte('_')
			b.WriteByte(c + 'a' - 'A')
		case c == '_':
			b.WriteString("__")
		default:
			b.WriteByte('=')
			writeHex(&b, c)
		}
	}
	b.WriteByte('=')
	for i := 0; i < len(u.Domain); i++ {
		switch c := u.Domain[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '-':
			b.WriteByte(c)
		default:
			b.WriteByte('_')
			writeHex(&b, c)
		}
	}
	if b.Len()+len("@:")+len(serverName) <= maxIDLen {
		return b.String(), false
	}
	sum := sha256.Sum256([]byte(u.String()))
	return hashPrefix + hashEncoding.EncodeToString(sum[:]), true
}

func writeHex(b *strings.Builder, c byte) {
	const digits = "0123456789abcdef"
	b.WriteByte(digits[c>>4])
	b.WriteByte(digits[c&15])
}

// decodeLocal reads what encodeLocal wrote. ok is false for everything that encodeLocal does not write,
// the hash form included.
func decodeLocal(local string, kind mimiuri.Kind, serverName string) (u mimiuri.URI, ok bool) {
	rest, ok := strings.CutPrefix(local, localPrefix)
	if !ok {
		return mimiuri.URI{}, false
	}
	split := strings.LastIndexByte(rest, '=')
	if split < 1 {
		return mimiuri.URI{}, false
	}
	name, ok := unescape(rest[:split], '=', true)
	if !ok {
		return mimiuri.URI{}, false
	}
	domain, ok := unescape(rest[split+1:], '_', false)
	if !ok {
		return mimiuri.URI{}, false
	}
	u, err := mimiuri.New(domain, kind, name)
	if err != nil {
		return mimiuri.URI{}, false
	}
	// One spelling only: what another spelling decodes to is somebody else's.
	if again, hashed := encodeLocal(u, serverName); hashed || again != local {
		return mimiuri.URI{}, false
	}
	return u, true
}

// unescape undoes escapes of two hex digits after mark, and with capitals those of "_".
func unescape(s string, mark byte, capitals bool) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == mark:
			if i+2 >= len(s) {
				return "", false
			}
			v, err := hex.DecodeString(s[i+1 : i+3])
			if err != nil {
				return "", false
			}
			b.WriteByte(v[0])
			i += 2
		case c == '_' && capitals:
			i++
			switch {
			case i == len(s):
				return "", false
			case s[i] == '_':
				b.WriteByte('_')
			case 'a' <= s[i] && s[i] <= 'z':
				b.WriteByte(s[i] - 'a' + 'A')
			default:
				return "", false
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

// ghostID is the Matrix ID of a remote user; hashed as in encodeLocal.
func ghostID(u mimiuri.URI, serverName string) (mxid id.UserID, hashed bool) {
	local, hashed := encodeLocal(u, serverName)
	return id.NewUserID(local, serverName), hashed
}

// portalAlias is the local part of the alias of a portal that the bot makes.
func portalAlias(room mimiuri.URI, serverName string) string {
	local, _ := encodeLocal(room, serverName)
	return local
}

// isOurs reports whether a Matrix ID is in the namespace of this application service: a ghost or the bot.
func isOurs(u id.UserID, serverName string) bool {
	local, server, ok := splitID(u)
	return ok && server == serverName && strings.HasPrefix(local, localPrefix)
}

// splitID takes "@local:server" apart, and says whether it is of that shape, not too long and without
// characters that no Matrix ID has. Old IDs have local parts of any printable ASCII but ":".
func splitID(u id.UserID) (local, server string, ok bool) {
	s := string(u)
	if len(s) > 255 || !strings.HasPrefix(s, "@") {
		return "", "", false
	}
	local, server, ok = strings.Cut(s[1:], ":")
	if !ok || local == "" || server == "" {
		return "", "", false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return "", "", false
		}
	}
	if strings.ContainsAny(server, "/?#@\\") {
		return "", "", false
	}
	return local, server, true
}

// localURI is the MIMI user of a Matrix user who is a person, of this homeserver or another. Whether they may
// use the bridge is Host.Level's to say. ok is false for ghosts and the bot, and for what is no Matrix ID.
func localURI(u id.UserID, serverName, domain string) (uri mimiuri.URI, ok bool) {
	local, server, ok := splitID(u)
	if !ok || isOurs(u, serverName) {
		return mimiuri.URI{}, false
	}
	name := local
	if server != serverName {
		name = local + ":" + server
	}
	uri, err := mimiuri.New(domain, mimiuri.User, name)
	if err != nil {
		return mimiuri.URI{}, false
	}
	return uri, true
}

// localID is the opposite of localURI.
func localID(uri mimiuri.URI, serverName, domain string) (u id.UserID, ok bool) {
	if uri.Kind != mimiuri.User || uri.Domain != domain {
		return "", false
	}
	if strings.Contains(uri.ID, ":") {
		u = id.UserID("@" + uri.ID)
	} else {
		u = id.UserID("@" + uri.ID + ":" + serverName)
	}
	if again, ok := localURI(u, serverName, domain); !ok || again != uri {
		return "", false
	}
	return u, true
}

// displayName is how a ghost is called: "romeo (xmpp.example)".
func displayName(u mimiuri.URI) string {
	name := u.ID
	if len(name) > 100 {
		name = strings.ToValidUTF8(name[:100], "") + "…"
	}
	return name + " (" + u.Domain + ")"
}
