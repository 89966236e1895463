// Package decode shows objects of MIMI and MLS to people: as values that encoding/json writes, with the IDs that are
// calculated from them. It is for `mimibridge decode` and knows no secrets: what is encrypted is shown by its size.
package decode

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/wire"
)

// MaxInput bounds what is read, in octets before hexadecimal or base64 is undone.
const MaxInput = 48 << 20

// Kinds are the objects there are, for help texts.
var Kinds = []string{"content", "keypackage", "message", "welcome", "groupinfo", "directory"}

// Options are what an object does not say itself.
type Options struct {
	// Sender and Room are for a content's message ID; zero: what the content says itself.
	Sender, Room mimiuri.URI
	// Suite is for a proposal's ref, which a message does not say; zero: 1.
	Suite mls.CipherSuite
}

// Object is one JSON object; keys are written in the order of the alphabet.
type Object = map[string]any

// Bytes takes raw octets, hexadecimal or base64 (standard or for URLs, with or without padding), the latter two with any white
// space. What is text in none of these is taken as it is.
func Bytes(in []byte) []byte {
	text := bytes.Join(bytes.Fields(in), nil)
	if len(text) == 0 {
		return in
	}
	for _, c := range text {
		if c < 0x21 || c > 0x7e {
			return in
		}
	}
	if b, err := hex.DecodeString(string(text)); err == nil {
		return b
	}
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := e.Strict().DecodeString(string(text)); err == nil {
			return b
		}
	}
	return in
}

// Decode reads one object of a kind. Errors say what was expected.
func Decode(kind string, in []byte, o Options) (any, error) {
	if len(in) > MaxInput {
		return nil, fmt.Errorf("the input is larger than %d MB", MaxInput>>20)
	}
	if o.Suite == 0 {
		o.Suite = 1
	}
	if kind == "directory" {
		return directory(in)
	}
	b := Bytes(in)
	if len(b) == 0 {
		return nil, errors.New("the input is empty")
	}
	switch kind {
	case "content":
		return contentObject(b, o)
	case "message":
		m, err := mls.ParseMessage(b)
		if err != nil {
			return nil, fmt.Errorf("this is not an MLSMessage: %w", err)
		}
		return message(m, len(b), o)
	case "keypackage", "welcome", "groupinfo":
		return bare(kind, b, o)
	}
	return nil, fmt.Errorf("there is no kind %q; there are %s", kind, strings.Join(Kinds, ", "))
}

// bare reads an object as such or in an MLSMessage.
func bare(kind string, b []byte, o Options) (any, error) {
	if m, err := mls.ParseMessage(b); err == nil {
		is := map[mls.WireFormat]string{mls.WireFormatKeyPackage: "keypackage", mls.WireFormatWelcome: "welcome", mls.WireFormatGroupInfo: "groupinfo"}[m.WireFormat]
		if is != kind {
			return nil, fmt.Errorf("this is an MLSMessage with a %v, not a %s", m.WireFormat, kind)
		}
		return message(m, len(b), o)
	}
	var err error
	switch kind {
	case "keypackage":
		kp := new(mls.KeyPackage)
		if err = tlspl.Unmarshal(b, kp); err == nil {
			return keyPackage(kp), nil
		}
	case "welcome":
		w := new(mls.Welcome)
		if err = tlspl.Unmarshal(b, w); err == nil {
			return welcome(w), nil
		}
	case "groupinfo":
		g := new(mls.GroupInfo)
		if err = tlspl.Unmarshal(b, g); err == nil {
			return groupInfo(g), nil
		}
	}
	return nil, fmt.Errorf("this is neither a %s nor an MLSMessage with one: %w", kind, err)
}

func octets(b []byte) any {
	if len(b) == 0 {
		return ""
	}
	return hex.EncodeToString(b)
}

// text shows what should be text, or else octets.
func text(b []byte) any {
	if utf8.Valid(b) && strings.IndexFunc(string(b), func(r rune) bool { return r < 0x20 || r == 0x7f }) < 0 {
		return string(b)
	}
	return Object{"hex": octets(b)}
}

func seconds(n uint64) any {
	if n > 1<<40 {
		return n
	}
	return time.Unix(int64(n), 0).UTC().Format(time.RFC3339)
}

func contentObject(b []byte, o Options) (any, error) {
	m, err := content.Decode(b)
	if err != nil {
		if s, serr := content.DecodeStatus(b); serr == nil {
			return Object{"status_report": statuses(s)}, nil
		}
		return nil, fmt.Errorf("this is not application/mimi-content: %w", err)
	}
	out := Object{"octets": len(b), "salt": octets(m.Salt[:]), "topic_id": octets(m.TopicID), "body": part(&m.Body)}
	if m.Replaces != nil {
		out["replaces"] = m.Replaces.String()
	}
	if m.InReplyTo != nil {
		out["in_reply_to"] = m.InReplyTo.String()
	}
	if m.Expires != nil {
		if m.Expires.Relative {
			out["expires"] = fmt.Sprintf("%d s after reading", m.Expires.Time)
		} else {
			out["expires"] = seconds(uint64(m.Expires.Time))
		}
	}
	names := map[content.Key]string{content.KeySenderURI: "senderUri", content.KeyRoomURI: "roomUri", content.KeySenderTimestamp: "senderTimestamp",
		content.KeyExternalMessageID: "externalMessageId", content.KeySubject: "subject", content.KeyLastSeen: "lastSeen"}
	ext := Object{}
	for _, x := range m.Extensions {
		name := names[x.Key]
		if name == "" {
			if name = x.Key.Text; name == "" {
				name = fmt.Sprint(x.Key.Int)
			}
		}
		ext[name] = Object{"cbor": octets(x.Value)}
	}
	sender, inContent := m.SenderURI()
	if inContent {
		ext["senderUri"] = sender.String()
	}
	room, ok := m.RoomURI()
	if ok {
		ext["roomUri"] = room.String()
	}
	if len(ext) > 0 {
		out["extensions"] = ext
	}
	if !o.Sender.IsZero() {
		sender, inContent = o.Sender, true
	}
	if !o.Room.IsZero() {
		room, ok = o.Room, true
	}
	if inContent && ok {
		out["message_id"] = content.ID(b, sender, room, m.Salt).String()
	} else {
		out["message_id"] = nil
		out["message_id_needs"] = "sender and room: -sender mimi://… -room mimi://…"
	}
	tag := wire.FrankingTag(m.Salt, b)
	out["franking_tag"] = octets(tag[:])
	return out, nil
}

var (
	dispositions  = []string{"unspecified", "render", "reaction", "profile", "inline", "icon", "attachment", "session", "preview"}
	cardinalities = []string{"null", "single", "external", "multi"}
	semantics     = []string{"chooseOne", "singleUnit", "processAll"}
)

func name(names []string, i uint8) any {
	if int(i) < len(names) {
		return names[i]
	}
	return i
}

func part(p *content.Part) Object {
	out := Object{"disposition": name(dispositions, uint8(p.Disposition)), "cardinality": name(cardinalities, uint8(p.Cardinality))}
	if p.Language != "" {
		out["language"] = p.Language
	}
	switch p.Cardinality {
	case content.SinglePart:
		out["content_type"] = p.ContentType
		if utf8.Valid(p.Content) && !bytes.ContainsRune(p.Content, 0) {
			out["text"] = string(p.Content)
		} else {
			out["base64"] = p.Content
		}
		if s, err := content.DecodeStatus(p.Content); err == nil && strings.HasPrefix(p.ContentType, "application/mimi-message-status") {
			out["status_report"] = statuses(s)
		}
	case content.ExternalPart:
		e := p.External
		x := Object{"url": e.URL, "size": e.Size, "enc_alg": e.EncAlg, "key": octets(e.Key), "nonce": octets(e.Nonce), "aad": octets(e.AAD),
			"hash_alg": e.HashAlg, "content_hash": octets(e.ContentHash), "description": e.Description, "filename": e.Filename}
		if e.Expires != 0 {
			x["expires"] = seconds(uint64(e.Expires))
		}
		out["content_type"], out["external"] = p.ContentType, x
	case content.MultiPart:
		out["semantics"] = name(semantics, uint8(p.Semantics))
		parts := make([]Object, len(p.Parts))
		for i := range p.Parts {
			parts[i] = part(&p.Parts[i])
		}
		out["parts"] = parts
	}
	return out
}

func statuses(r content.StatusReport) []Object {
	out := []Object{}
	for _, s := range r {
		out = append(out, Object{"message_id": s.ID.String(), "status": uint8(s.Status)})
	}
	return out
}

func credential(c *mls.Credential) Object {
	switch c.Type {
	case mls.CredentialBasic:
		return Object{"type": "basic", "identity": text(c.Identity)}
	case mls.CredentialX509:
		sums := make([]any, len(c.Certificates))
		for i, d := range c.Certificates {
			h := sha256.Sum256(d)
			sums[i] = octets(h[:])
		}
		return Object{"type": "x509", "certificates_sha256": sums}
	}
	return Object{"type": uint16(c.Type)}
}

func numbers[T ~uint16](v []T) []string {
	out := make([]string, len(v))
	for i, n := range v {
		out[i] = fmt.Sprintf("0x%04x", uint16(n))
	}
	return out
}

func extensions(x mls.Extensions) []Object {
	out := []Object{}
	for _, e := range x {
		o := Object{"type": fmt.Sprintf("0x%04x", uint16(e.Type)), "octets": len(e.Data)}
		if e.Type == mls.ExtensionAppDataDictionary {
			if d, err := x.AppData(); err == nil {
				o["name"], o["app_data"] = "app_data_dictionary", dictionary(d)
			}
		} else {
			o["data"] = short(e.Data)
		}
		out = append(out, o)
	}
	return out
}

// short shows octets, of long ones the beginning.
func short(b []byte) any {
	if len(b) > 4096 {
		return fmt.Sprintf("%x… (%d octets)", b[:64], len(b))
	}
	return octets(b)
}

func dictionary(d mls.AppDataDictionary) []Object {
	out := []Object{}
	for id, data := range d.All() {
		out = append(out, component(id, data))
	}
	return out
}

func component(id mls.ComponentID, data []byte) Object {
	o := Object{"component": fmt.Sprintf("0x%04x", uint16(id)), "data": short(data)}
	if n := policy.ComponentName(id); n != "" {
		o["name"] = n
	}
	return o
}

func leaf(l *mls.LeafNode) Object {
	out := Object{"encryption_key": octets(l.EncryptionKey), "signature_key": octets(l.SignatureKey), "credential": credential(&l.Credential),
		"capabilities": Object{"cipher_suites": numbers(l.Capabilities.CipherSuites), "extensions": numbers(l.Capabilities.Extensions),
			"proposals": numbers(l.Capabilities.Proposals), "credentials": numbers(l.Capabilities.Credentials)},
		"extensions": extensions(l.Extensions), "signature": octets(l.Signature)}
	if user, client, err := policy.LeafUser(l); err == nil {
		out["user"], out["client"] = user.String(), client.String()
	}
	switch l.Source {
	case mls.LeafNodeKeyPackage:
		out["source"] = "key_package"
		out["lifetime"] = Object{"not_before": seconds(l.Lifetime.NotBefore), "not_after": seconds(l.Lifetime.NotAfter)}
	case mls.LeafNodeUpdate:
		out["source"] = "update"
	case mls.LeafNodeCommit:
		out["source"], out["parent_hash"] = "commit", octets(l.ParentHash)
	}
	return out
}

func keyPackage(kp *mls.KeyPackage) Object {
	out := Object{"cipher_suite": kp.CipherSuite.String(), "init_key": octets(kp.InitKey), "leaf_node": leaf(&kp.LeafNode),
		"extensions": extensions(kp.Extensions), "signature": octets(kp.Signature)}
	if ref, err := kp.Ref(kp.CipherSuite); err == nil {
		out["key_package_ref"] = octets(ref)
	}
	// As of the middle of its own lifetime: whether it is valid now, the lifetime tells.
	at := time.Unix(int64(kp.LeafNode.Lifetime.NotBefore/2+kp.LeafNode.Lifetime.NotAfter/2), 0)
	if err := kp.Verify(&mls.Config{Now: func() time.Time { return at }}); err != nil {
		out["valid"], out["why_not"] = false, err.Error()
	} else {
		out["valid"] = true
	}
	return out
}

func welcome(w *mls.Welcome) Object {
	refs := make([]any, len(w.Secrets))
	for i := range w.Secrets {
		refs[i] = octets(w.Secrets[i].NewMember)
	}
	return Object{"cipher_suite": w.CipherSuite.String(), "key_package_refs": refs, "encrypted_group_info_octets": len(w.EncryptedGroupInfo)}
}

func groupInfo(g *mls.GroupInfo) Object {
	gc := &g.GroupContext
	out := Object{
		"group_context": Object{"cipher_suite": gc.CipherSuite.String(), "group_id": text(gc.GroupID), "epoch": gc.Epoch, "tree_hash": octets(gc.TreeHash),
			"confirmed_transcript_hash": octets(gc.ConfirmedTranscriptHash), "extensions": extensions(gc.Extensions)},
		"extensions": extensions(g.Extensions), "confirmation_tag": octets(g.ConfirmationTag), "signer_leaf": g.Signer, "signature": octets(g.Signature)}
	d, err := gc.Extensions.AppData()
	if err != nil {
		return out
	}
	pol, err := policy.ParseState(d)
	if err != nil {
		out["room"] = Object{"error": err.Error()}
		return out
	}
	var ps, rs []Object
	for _, p := range pol.Participants {
		ps = append(ps, Object{"user": p.User.String(), "role": p.Role})
	}
	for _, r := range pol.Roles {
		var caps []string
		for _, c := range r.Capabilities {
			caps = append(caps, fmt.Sprintf("0x%04x", uint16(c)))
		}
		rs = append(rs, Object{"index": r.Index, "name": r.Name, "capabilities": caps})
	}
	out["room"] = Object{"participants": ps, "roles": rs, "name": pol.Metadata.Name}
	return out
}

func message(m *mls.MLSMessage, n int, o Options) (any, error) {
	out := Object{"wire_format": m.WireFormat.String(), "octets": n}
	switch {
	case m.KeyPackage != nil:
		out["key_package"] = keyPackage(m.KeyPackage)
	case m.Welcome != nil:
		out["welcome"] = welcome(m.Welcome)
	case m.GroupInfo != nil:
		out["group_info"] = groupInfo(m.GroupInfo)
	case m.PrivateMessage != nil:
		p := m.PrivateMessage
		out["group_id"], out["epoch"], out["content_type"] = text(p.GroupID), p.Epoch, p.ContentType.String()
		out["authenticated_data"] = authenticated(p.AuthenticatedData)
		out["ciphertext_octets"] = len(p.Ciphertext)
	case m.PublicMessage != nil:
		c := &m.PublicMessage.Content
		out["group_id"], out["epoch"], out["content_type"], out["sender"] = text(c.GroupID), c.Epoch, c.ContentType.String(), c.Sender.String()
		out["authenticated_data"], out["signature"] = authenticated(c.AuthenticatedData), octets(m.PublicMessage.Auth.Signature)
		switch {
		case c.Proposal != nil:
			out["proposal"] = proposal(c.Proposal)
			ref, err := proposalRef(m.PublicMessage, o.Suite)
			if err != nil {
				return nil, err
			}
			out["proposal_ref"], out["proposal_ref_suite"] = octets(ref), o.Suite.String()
		case c.Commit != nil:
			list := []Object{}
			for i := range c.Commit.Proposals {
				p := &c.Commit.Proposals[i]
				if p.Proposal != nil {
					list = append(list, proposal(p.Proposal))
				} else {
					list = append(list, Object{"proposal_ref": octets(p.Ref)})
				}
			}
			commit := Object{"proposals": list}
			if c.Commit.Path != nil {
				commit["path"] = Object{"leaf_node": leaf(&c.Commit.Path.LeafNode), "nodes": len(c.Commit.Path.Nodes)}
			}
			out["commit"], out["confirmation_tag"] = commit, octets(m.PublicMessage.Auth.ConfirmationTag)
		default:
			out["application_data"] = short(c.ApplicationData)
		}
	default:
		out["note"] = "this kind of message is not shown"
	}
	return out, nil
}

func authenticated(b []byte) any {
	if items, err := mls.ParseSafeAAD(b); err == nil && len(b) > 0 {
		out := []Object{}
		for _, i := range items {
			out = append(out, component(i.ID, i.Data))
		}
		return out
	}
	return octets(b)
}

func proposal(p *mls.Proposal) Object {
	out := Object{"type": p.Type().String()}
	switch b := p.Body.(type) {
	case *mls.Add:
		out["key_package"] = keyPackage(&b.KeyPackage)
	case *mls.Update:
		out["leaf_node"] = leaf(&b.LeafNode)
	case *mls.Remove:
		out["removed_leaf"] = b.Removed
	case *mls.AppDataUpdate:
		out["update"] = component(b.ComponentID, b.Update)
		if b.ComponentID == policy.ComponentParticipantList {
			if u, err := policy.ParseParticipantListUpdate(b.Update); err == nil {
				out["participants"] = participants(u)
			}
		}
	case *mls.GroupContextExtensions:
		out["extensions"] = extensions(b.Extensions)
	case *mls.SelfRemove:
	default:
		out["body"] = short(tlspl.Marshal(p)[2:])
	}
	return out
}

func participants(u policy.ParticipantListUpdate) Object {
	var changed, added []Object
	for _, c := range u.Changed {
		changed = append(changed, Object{"index": c.Index, "role": c.Role})
	}
	for _, p := range u.Added {
		added = append(added, Object{"user": p.User.String(), "role": p.Role})
	}
	return Object{"changed": changed, "removed": u.Removed, "added": added}
}

// proposalRef is RefHash of the AuthenticatedContent (RFC 9420 sections 5.2 and 12.4).
func proposalRef(m *mls.PublicMessage, suite mls.CipherSuite) ([]byte, error) {
	w := tlspl.NewWriter()
	w.String("MLS 1.0 Proposal Reference")
	w.Opaque(tlspl.Marshal(&mls.AuthenticatedContent{WireFormat: mls.WireFormatPublicMessage, Content: m.Content, Auth: m.Auth}))
	switch suite {
	case 1, 2, 3:
		h := sha256.Sum256(w.Bytes())
		return h[:], nil
	case 4, 5, 6:
		h := sha512.Sum512(w.Bytes())
		return h[:], nil
	case 7:
		h := sha512.Sum384(w.Bytes())
		return h[:], nil
	}
	return nil, fmt.Errorf("cipher suite %d is not known here", uint16(suite))
}

// directoryNames are the endpoints of section "Directory".
var directoryNames = []string{"keyMaterial", "update", "notify", "submitMessage", "groupInfo", "requestConsent", "updateConsent", "identifierQuery", "reportAbuse", "proxyDownload"}

func directory(b []byte) (any, error) {
	if len(b) > 64<<10 {
		return nil, errors.New("a directory has at most 64 kB")
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, fmt.Errorf("this is not a directory: %w", err)
	}
	endpoints, unknown, problems := Object{}, []string{}, []string{}
	for _, n := range directoryNames {
		var template string
		if raw[n] == nil || json.Unmarshal(raw[n], &template) != nil {
			problems = append(problems, n+" is missing")
			continue
		}
		endpoints[n] = template
		before, rest, ok := strings.Cut(template, "{")
		_, after, ok2 := strings.Cut(rest, "}")
		u, err := url.Parse(before + "x" + after)
		switch {
		case !ok || !ok2 || strings.ContainsAny(after, "{}"):
			problems = append(problems, n+" has not exactly one {variable}")
		case err != nil || u.Scheme != "https" || u.Host == "":
			problems = append(problems, n+" is no https URL")
		}
	}
	for n := range raw {
		if !slices.Contains(directoryNames, n) {
			unknown = append(unknown, n)
		}
	}
	slices.Sort(unknown)
	return Object{"endpoints": endpoints, "unknown": unknown, "problems": problems}, nil
}
