package policy

import (
	"errors"
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Optionality says whether a feature may be used (draft-ietf-mimi-room-policy section "Status Notifications
// component"). The draft's "mandatory" is Required.
type Optionality uint8

const (
	Optional  Optionality = 0
	Required  Optionality = 1
	Forbidden Optionality = 2
)

func (o Optionality) String() string {
	switch o {
	case Optional:
		return "optional"
	case Required:
		return "required"
	case Forbidden:
		return "forbidden"
	}
	return fmt.Sprintf("Optionality(%d)", uint8(o))
}

// enum8 reads a one-octet enum whose values are 0 to last.
func enum8[T ~uint8](r *tlspl.Reader, last T) T {
	v := T(r.Uint8())
	if v > last {
		r.Failf("enum value %d", uint8(v))
	}
	return v
}

func optionality(r *tlspl.Reader) Optionality { return enum8(r, Forbidden) }

// StatusNotificationPolicy is the component status_notification_policy (section "Status Notifications
// component").
type StatusNotificationPolicy struct {
	DeliveryNotifications Optionality
	ReadReceipts          Optionality
}

// ParseStatusNotificationPolicy reads the component, as data and as update. The error of this and of the other
// Parse functions wraps a fault of kind Malformed.
func ParseStatusNotificationPolicy(b []byte) (StatusNotificationPolicy, error) {
	var p StatusNotificationPolicy
	err := decode("status_notification_policy", b, func(r *tlspl.Reader) {
		p = StatusNotificationPolicy{optionality(r), optionality(r)}
	})
	return p, err
}

// Marshal gives the octets of the component.
func (p StatusNotificationPolicy) Marshal() []byte {
	return []byte{byte(p.DeliveryNotifications), byte(p.ReadReceipts)}
}

// JoinLinkPolicy is the component join_link_policy (section "Join Link policies component").
type JoinLinkPolicy struct {
	OnRequest  bool
	JoinLink   string // a URI, or empty
	MultiUser  bool
	Expiration uint32 // seconds
}

// ParseJoinLinkPolicy reads the component, as data and as update.
func ParseJoinLinkPolicy(b []byte) (JoinLinkPolicy, error) {
	var p JoinLinkPolicy
	err := decode("join_link_policy", b, func(r *tlspl.Reader) {
		p = JoinLinkPolicy{boolean(r), uriText(r), boolean(r), r.Uint32()}
	})
	return p, err
}

// Marshal gives the octets of the component.
func (p JoinLinkPolicy) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		writeBool(w, p.OnRequest)
		w.String(p.JoinLink)
		writeBool(w, p.MultiUser)
		w.Uint32(p.Expiration)
	})
}

// JoinLinks is the component join_links: the links that are active. Each is opaque.
type JoinLinks [][]byte

// JoinLinksUpdate changes join_links. The indices count in the list before the commit.
type JoinLinksUpdate struct {
	Removed []uint32
	Added   [][]byte
}

func readJoinLink(r *tlspl.Reader) []byte {
	b := r.Opaque()
	if len(b) > maxText {
		r.Failf("a join link of %d octets", len(b))
	}
	return b
}

func writeOpaque(w *tlspl.Writer, b []byte) { w.Opaque(b) }

// ParseJoinLinks reads the data of the component.
func ParseJoinLinks(b []byte) (JoinLinks, error) {
	var l JoinLinks
	err := decode("join_links", b, func(r *tlspl.Reader) { l = list(r, maxList, readJoinLink) })
	return l, err
}

// Marshal gives the data of the component.
func (l JoinLinks) Marshal() []byte {
	return encode(func(w *tlspl.Writer) { writeList(w, l, writeOpaque) })
}

// ParseJoinLinksUpdate reads an update of the component.
func ParseJoinLinksUpdate(b []byte) (JoinLinksUpdate, error) {
	var u JoinLinksUpdate
	err := decode("join_links", b, func(r *tlspl.Reader) {
		u.Removed = list(r, maxList, readUint32)
		u.Added = list(r, maxList, readJoinLink)
	})
	return u, err
}

// Marshal gives the octets of an update.
func (u JoinLinksUpdate) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		writeList(w, u.Removed, writeUint32)
		writeList(w, u.Added, writeOpaque)
	})
}

// Apply gives the list after the updates of one commit: removals, then additions in the order of the updates.
func (l JoinLinks) Apply(updates ...JoinLinksUpdate) (JoinLinks, error) {
	removed := make(map[uint32]bool)
	var added JoinLinks
	for _, u := range updates {
		for _, i := range u.Removed {
			if int64(i) >= int64(len(l)) || removed[i] {
				return nil, malformed("join_links", errors.New("an index that is no link's"))
			}
			removed[i] = true
		}
		added = append(added, u.Added...)
	}
	out := make(JoinLinks, 0, len(l)+len(added)-len(removed))
	for i, b := range l {
		if !removed[uint32(i)] {
			out = append(out, b)
		}
	}
	out = append(out, added...)
	if len(out) > maxList {
		return nil, malformed("join_links", fmt.Errorf("%d links", len(out)))
	}
	return out, nil
}

// applyJoinLinks is ApplyAppData for join_links.
func applyJoinLinks(old []byte, updates [][]byte) ([]byte, error) {
	var l JoinLinks
	if old != nil {
		var err error
		if l, err = ParseJoinLinks(old); err != nil {
			return nil, err
		}
	}
	ups := make([]JoinLinksUpdate, len(updates))
	for i, b := range updates {
		u, err := ParseJoinLinksUpdate(b)
		if err != nil {
			return nil, err
		}
		ups[i] = u
	}
	out, err := l.Apply(ups...)
	if err != nil {
		return nil, err
	}
	return out.Marshal(), nil
}

// LinkPreviewPolicy is the component link_preview_policy (section "Link Preview policy component"). Proxies has at
// least one URI unless ProxyUse is Forbidden, when it is not on the wire.
type LinkPreviewPolicy struct {
	AutodetectHyperlinks  Optionality // never Required
	SendLinkPreviews      Optionality
	AutomaticLinkPreviews Optionality
	ProxyUse              Optionality
	Proxies               []string
}

// ParseLinkPreviewPolicy reads the component, as data and as update.
func ParseLinkPreviewPolicy(b []byte) (LinkPreviewPolicy, error) {
	var p LinkPreviewPolicy
	err := decode("link_preview_policy", b, func(r *tlspl.Reader) {
		p = LinkPreviewPolicy{
			AutodetectHyperlinks: optionality(r), SendLinkPreviews: optionality(r),
			AutomaticLinkPreviews: optionality(r), ProxyUse: optionality(r),
		}
		if p.AutodetectHyperlinks == Required {
			r.Failf("autodetect_hyperlinks_in_text is mandatory")
		}
		if p.ProxyUse != Forbidden {
			if p.Proxies = list(r, maxList, uriText); len(p.Proxies) == 0 {
				r.Failf("no link_preview_proxy")
			}
		}
	})
	return p, err
}

// Marshal gives the octets of the component.
func (p LinkPreviewPolicy) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		for _, o := range []Optionality{p.AutodetectHyperlinks, p.SendLinkPreviews, p.AutomaticLinkPreviews, p.ProxyUse} {
			w.Uint8(uint8(o))
		}
		if p.ProxyUse != Forbidden {
			writeList(w, p.Proxies, writeString)
		}
	})
}

// MediaTypeParameter is a parameter of a MediaType, without quotation marks.
type MediaTypeParameter struct{ Name, Value string }

// MediaType is draft-ietf-mls-extensions section "Content Advertisement", for instance "text/markdown".
type MediaType struct {
	Type       string
	Parameters []MediaTypeParameter
}

func readMediaType(r *tlspl.Reader) MediaType {
	return MediaType{text(r), list(r, maxList, func(r *tlspl.Reader) MediaTypeParameter {
		return MediaTypeParameter{text(r), text(r)}
	})}
}

func writeMediaType(w *tlspl.Writer, m MediaType) {
	w.String(m.Type)
	writeList(w, m.Parameters, func(w *tlspl.Writer, p MediaTypeParameter) {
		w.String(p.Name)
		w.String(p.Value)
	})
}

// ParseMediaTypes reads a MediaTypeList, the component content_media_types. It has at least one element.
func ParseMediaTypes(b []byte) ([]MediaType, error) {
	var l []MediaType
	err := decode("content_media_types", b, func(r *tlspl.Reader) {
		if l = list(r, maxList, readMediaType); len(l) == 0 {
			r.Failf("an empty list")
		}
	})
	return l, err
}

// MarshalMediaTypes gives the octets of a MediaTypeList.
func MarshalMediaTypes(l []MediaType) []byte {
	return encode(func(w *tlspl.Writer) { writeList(w, l, writeMediaType) })
}

// AssetUploadLocation says where assets are uploaded to (section "Asset policies component").
type AssetUploadLocation uint8

const (
	UploadUnspecified   AssetUploadLocation = 0
	UploadLocalProvider AssetUploadLocation = 1
	UploadHub           AssetUploadLocation = 2
)

// DownloadType is a DownloadPrivacyType.
type DownloadType uint8

const (
	DownloadDirect   DownloadType = 0
	DownloadHubProxy DownloadType = 1
	DownloadOHTTP    DownloadType = 2
)

// UploadDomains are the domains of the assets of one provider's users.
type UploadDomains struct {
	Provider string
	Domains  []string
}

// AssetPolicy is the component asset_policy. Sizes are octets. A nil PermittedMediaTypes permits all.
type AssetPolicy struct {
	UploadLocation      AssetUploadLocation
	UploadDomains       []UploadDomains
	AllowedDownloads    []DownloadType
	ForbiddenDownloads  []DownloadType
	DefaultDownload     DownloadType
	MaxImage            uint64
	MaxAudio            uint64
	MaxVideo            uint64
	MaxAttachment       uint64
	ForbiddenMediaTypes []MediaType
	PermittedMediaTypes *[]MediaType
}

func downloadType(r *tlspl.Reader) DownloadType         { return enum8(r, DownloadOHTTP) }
func writeDownloadType(w *tlspl.Writer, v DownloadType) { w.Uint8(uint8(v)) }

// ParseAssetPolicy reads the component, as data and as update. optional<MediaType> permitted_media_types<V> is
// taken for an optional list, as the text of the draft has it.
func ParseAssetPolicy(b []byte) (AssetPolicy, error) {
	var p AssetPolicy
	err := decode("asset_policy", b, func(r *tlspl.Reader) {
		p.UploadLocation = enum8(r, UploadHub)
		p.UploadDomains = list(r, maxList, func(r *tlspl.Reader) UploadDomains {
			return UploadDomains{text(r), list(r, maxList, readString)}
		})
		p.AllowedDownloads = list(r, maxList, downloadType)
		p.ForbiddenDownloads = list(r, maxList, downloadType)
		p.DefaultDownload = downloadType(r)
		p.MaxImage, p.MaxAudio, p.MaxVideo, p.MaxAttachment = r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()
		p.ForbiddenMediaTypes = list(r, maxList, readMediaType)
		var permitted []MediaType
		if r.Optional(func(r *tlspl.Reader) { permitted = list(r, maxList, readMediaType) }) {
			p.PermittedMediaTypes = &permitted
		}
	})
	return p, err
}

// Marshal gives the octets of the component.
func (p AssetPolicy) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		w.Uint8(uint8(p.UploadLocation))
		writeList(w, p.UploadDomains, func(w *tlspl.Writer, d UploadDomains) {
			w.String(d.Provider)
			writeList(w, d.Domains, writeString)
		})
		writeList(w, p.AllowedDownloads, writeDownloadType)
		writeList(w, p.ForbiddenDownloads, writeDownloadType)
		writeDownloadType(w, p.DefaultDownload)
		for _, n := range []uint64{p.MaxImage, p.MaxAudio, p.MaxVideo, p.MaxAttachment} {
			w.Uint64(n)
		}
		writeList(w, p.ForbiddenMediaTypes, writeMediaType)
		w.Optional(p.PermittedMediaTypes != nil, func(w *tlspl.Writer) {
			writeList(w, *p.PermittedMediaTypes, writeMediaType)
		})
	})
}

// LoggingPolicy is the component logging_policy (section "Logging policy component"). With Forbidden the other
// fields are empty and not on the wire.
type LoggingPolicy struct {
	Logging         Optionality
	Clients         []string // URIs
	MachineReadable string   // a URI, or empty
	HumanReadable   string   // a URI, or empty
}

// ParseLoggingPolicy reads the component, as data and as update.
func ParseLoggingPolicy(b []byte) (LoggingPolicy, error) {
	var p LoggingPolicy
	err := decode("logging_policy", b, func(r *tlspl.Reader) {
		if p.Logging = optionality(r); p.Logging == Forbidden {
			return
		}
		p.Clients = list(r, maxList, uriText)
		p.MachineReadable, p.HumanReadable = uriText(r), uriText(r)
		if p.Logging == Required && len(p.Clients) == 0 {
			r.Failf("logging is required and there is no logging client")
		}
	})
	return p, err
}

// Marshal gives the octets of the component.
func (p LoggingPolicy) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		w.Uint8(uint8(p.Logging))
		if p.Logging != Forbidden {
			writeList(w, p.Clients, writeString)
			w.String(p.MachineReadable)
			w.String(p.HumanReadable)
		}
	})
}

// HistoryPolicy is the component chat_history_policy (section "Chat history policy component"). With Forbidden the
// other fields are empty and not on the wire.
type HistoryPolicy struct {
	Sharing   Optionality
	Roles     []uint32 // that can share; neither 0 nor 1
	Automatic bool
	MaxPeriod uint32 // seconds
}

// ParseHistoryPolicy reads the component, as data and as update.
func ParseHistoryPolicy(b []byte) (HistoryPolicy, error) {
	var p HistoryPolicy
	err := decode("chat_history_policy", b, func(r *tlspl.Reader) {
		if p.Sharing = optionality(r); p.Sharing == Forbidden {
			return
		}
		p.Roles = list(r, MaxRoles, func(r *tlspl.Reader) uint32 {
			v := r.Uint32()
			if v == RoleNone || v == RoleBanned {
				r.Failf("role %d shares history", v)
			}
			return v
		})
		p.Automatic, p.MaxPeriod = boolean(r), r.Uint32()
	})
	return p, err
}

// Marshal gives the octets of the component.
func (p HistoryPolicy) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		w.Uint8(uint8(p.Sharing))
		if p.Sharing != Forbidden {
			writeList(w, p.Roles, writeUint32)
			writeBool(w, p.Automatic)
			w.Uint32(p.MaxPeriod)
		}
	})
}

// Bot is a bot that is allowed in the room (section "Chat bot policy component").
type Bot struct {
	Name           string
	Description    string
	Homepage       string // a URI, or empty
	LocalClient    bool
	Role           uint32 // 0: no active participant; always 0 with LocalClient
	CanTarget      bool
	PerUserContent bool
}

// BotPolicy is the component bot_policy.
type BotPolicy []Bot

// ParseBotPolicy reads the component, as data and as update.
func ParseBotPolicy(b []byte) (BotPolicy, error) {
	var p BotPolicy
	err := decode("bot_policy", b, func(r *tlspl.Reader) {
		p = list(r, maxList, func(r *tlspl.Reader) Bot {
			bot := Bot{text(r), text(r), uriText(r), boolean(r), r.Uint32(), boolean(r), boolean(r)}
			if bot.LocalClient && bot.Role != RoleNone {
				r.Failf("a local client bot with role %d", bot.Role)
			}
			return bot
		})
	})
	return p, err
}

// Marshal gives the octets of the component.
func (p BotPolicy) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		writeList(w, p, func(w *tlspl.Writer, b Bot) {
			w.String(b.Name)
			w.String(b.Description)
			w.String(b.Homepage)
			writeBool(w, b.LocalClient)
			w.Uint32(b.Role)
			writeBool(w, b.CanTarget)
			writeBool(w, b.PerUserContent)
		})
	})
}

// MessageExpiration is the component message_expiration_policy (section "Message expiration policy component").
// Durations are seconds; with Forbidden they are not on the wire.
type MessageExpiration struct {
	Expiring Optionality
	Min, Max uint32
	Default  *uint32
}

// ParseMessageExpiration reads the component, as data and as update.
func ParseMessageExpiration(b []byte) (MessageExpiration, error) {
	var p MessageExpiration
	err := decode("message_expiration_policy", b, func(r *tlspl.Reader) {
		if p.Expiring = optionality(r); p.Expiring == Forbidden {
			return
		}
		p.Min, p.Max, p.Default = r.Uint32(), r.Uint32(), optional32(r)
		if p.Max < p.Min {
			r.Failf("the longest duration is below the shortest")
		}
	})
	return p, err
}

// Marshal gives the octets of the component.
func (p MessageExpiration) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		w.Uint8(uint8(p.Expiring))
		if p.Expiring != Forbidden {
			w.Uint32(p.Min)
			w.Uint32(p.Max)
			writeOptional32(w, p.Default)
		}
	})
}

// ExtendedCapabilities lists what clients must, may or must not support (section "Operational policy component").
// The draft's WireFormats wire_formats<V> is taken for a vector of wire formats.
type ExtendedCapabilities struct {
	Versions     []mls.ProtocolVersion
	CipherSuites []mls.CipherSuite
	Extensions   []mls.ExtensionType
	Proposals    []mls.ProposalType
	Credentials  []mls.CredentialType
	WireFormats  []mls.WireFormat
	Components   []mls.ComponentID
	SafeAAD      []mls.ComponentID
	MediaTypes   []MediaType
	ContentTypes []mls.ContentType
}

// PendingProposalStrategy says when members commit what is pending. The draft's "extension" has no value.
type PendingProposalStrategy uint8

const (
	StrategyUnspecified PendingProposalStrategy = 0
	StrategyImmediate   PendingProposalStrategy = 1
	StrategyRandomDelay PendingProposalStrategy = 2
)

// PendingProposalPolicy is a strategy; the delays, in ms, belong to StrategyRandomDelay.
type PendingProposalPolicy struct {
	Strategy           PendingProposalStrategy
	MinDelay, MaxDelay uint64
}

// MinDefaultMax is MinDefaultMaxTime. The draft gives no unit.
type MinDefaultMax struct{ Min, Default, Max uint64 }

// OperationalParameters is the component mls_operational_policy.
type OperationalParameters struct {
	Mandatory, Default, Forbidden ExtendedCapabilities
	HandshakeFormats              []mls.WireFormat
	ExternalProposals             bool
	ExternalCommits               bool
	PendingProposals              PendingProposalPolicy
	LeafNodeUpdate                MinDefaultMax
	EpochTolerance                uint8
	PadToSize                     uint16
	MaxGenerationsSkipped         uint32
	MaxKeyPackageLifetime         uint64
	MaxCredentialLifetime         uint64
	ResumptionPSKLifetime         uint64
	SenderNonceKeyPairLifetime    MinDefaultMax
	MaxKeyPairs                   uint32
	BufferIncomingMessage         MinDefaultMax
	MaxBufferedMessages           uint32
}

func readExtendedCapabilities(r *tlspl.Reader) ExtendedCapabilities {
	return ExtendedCapabilities{
		Versions:     list16[mls.ProtocolVersion](r),
		CipherSuites: list16[mls.CipherSuite](r),
		Extensions:   list16[mls.ExtensionType](r),
		Proposals:    list16[mls.ProposalType](r),
		Credentials:  list16[mls.CredentialType](r),
		WireFormats:  list16[mls.WireFormat](r),
		Components:   list16[mls.ComponentID](r),
		SafeAAD:      list16[mls.ComponentID](r),
		MediaTypes:   list(r, maxList, readMediaType),
		ContentTypes: list(r, maxList, func(r *tlspl.Reader) mls.ContentType { return mls.ContentType(r.Uint8()) }),
	}
}

func writeExtendedCapabilities(w *tlspl.Writer, c ExtendedCapabilities) {
	writeList16(w, c.Versions)
	writeList16(w, c.CipherSuites)
	writeList16(w, c.Extensions)
	writeList16(w, c.Proposals)
	writeList16(w, c.Credentials)
	writeList16(w, c.WireFormats)
	writeList16(w, c.Components)
	writeList16(w, c.SafeAAD)
	writeList(w, c.MediaTypes, writeMediaType)
	writeList(w, c.ContentTypes, func(w *tlspl.Writer, t mls.ContentType) { w.Uint8(uint8(t)) })
}

func readMinDefaultMax(r *tlspl.Reader) MinDefaultMax {
	return MinDefaultMax{r.Uint64(), r.Uint64(), r.Uint64()}
}

func writeMinDefaultMax(w *tlspl.Writer, t MinDefaultMax) {
	w.Uint64(t.Min)
	w.Uint64(t.Default)
	w.Uint64(t.Max)
}

// ParseOperationalParameters reads the component, as data and as update.
func ParseOperationalParameters(b []byte) (*OperationalParameters, error) {
	p := new(OperationalParameters)
	err := decode("mls_operational_policy", b, func(r *tlspl.Reader) {
		p.Mandatory = readExtendedCapabilities(r)
		p.Default = readExtendedCapabilities(r)
		p.Forbidden = readExtendedCapabilities(r)
		p.HandshakeFormats = list16[mls.WireFormat](r)
		p.ExternalProposals, p.ExternalCommits = boolean(r), boolean(r)
		p.PendingProposals.Strategy = enum8(r, StrategyRandomDelay)
		if p.PendingProposals.Strategy == StrategyRandomDelay {
			p.PendingProposals.MinDelay, p.PendingProposals.MaxDelay = r.Uint64(), r.Uint64()
		}
		p.LeafNodeUpdate = readMinDefaultMax(r)
		p.EpochTolerance, p.PadToSize, p.MaxGenerationsSkipped = r.Uint8(), r.Uint16(), r.Uint32()
		p.MaxKeyPackageLifetime, p.MaxCredentialLifetime, p.ResumptionPSKLifetime = r.Uint64(), r.Uint64(), r.Uint64()
		p.SenderNonceKeyPairLifetime = readMinDefaultMax(r)
		p.MaxKeyPairs = r.Uint32()
		p.BufferIncomingMessage = readMinDefaultMax(r)
		p.MaxBufferedMessages = r.Uint32()
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Marshal gives the octets of the component.
func (p *OperationalParameters) Marshal() []byte {
	return encode(func(w *tlspl.Writer) {
		writeExtendedCapabilities(w, p.Mandatory)
		writeExtendedCapabilities(w, p.Default)
		writeExtendedCapabilities(w, p.Forbidden)
		writeList16(w, p.HandshakeFormats)
		writeBool(w, p.ExternalProposals)
		writeBool(w, p.ExternalCommits)
		w.Uint8(uint8(p.PendingProposals.Strategy))
		if p.PendingProposals.Strategy == StrategyRandomDelay {
			w.Uint64(p.PendingProposals.MinDelay)
			w.Uint64(p.PendingProposals.MaxDelay)
		}
		writeMinDefaultMax(w, p.LeafNodeUpdate)
		w.Uint8(p.EpochTolerance)
		w.Uint16(p.PadToSize)
		w.Uint32(p.MaxGenerationsSkipped)
		w.Uint64(p.MaxKeyPackageLifetime)
		w.Uint64(p.MaxCredentialLifetime)
		w.Uint64(p.ResumptionPSKLifetime)
		writeMinDefaultMax(w, p.SenderNonceKeyPairLifetime)
		w.Uint32(p.MaxKeyPairs)
		writeMinDefaultMax(w, p.BufferIncomingMessage)
		w.Uint32(p.MaxBufferedMessages)
	})
}
