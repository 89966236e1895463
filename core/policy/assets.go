package policy

import (
	"mime"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Asset is what a room's policy has to know of an ExternalPart.
type Asset struct {
	Sender    mimiuri.URI
	Host      string // of its URL, with or without a port
	MediaType string // with parameters or without
	Render    bool   // its disposition is "render": an image, audio or video, else an attachment
	Size      uint64 // octets, 0 for unknown
}

// kind is the first part of the media type of something that is rendered, else empty.
func (a *Asset) kind() string {
	if k, _, _ := strings.Cut(strings.ToLower(a.MediaType), "/"); a.Render && (k == "image" || k == "audio" || k == "video") {
		return k
	}
	return ""
}

// CheckUpload judges whether a file may be in a message to the room: by the sender's capabilities (section "Asset Capabilities") and by
// asset_policy. A maximum of 0 is none. The clients of a provider apply it to what their own users send; what others send is
// not refused for it, but see [State.CheckDownload].
func (s *State) CheckUpload(a Asset) error {
	c := map[string]Capability{"image": CanUploadImage, "audio": CanUploadAudio, "video": CanUploadVideo, "": CanUploadAttachment}[a.kind()]
	if !s.Role(a.Sender).Can(c) {
		return deny(c.String(), "your role in this room may not send such files")
	}
	p := s.Assets
	if p == nil {
		return nil
	}
	switch {
	case slices.ContainsFunc(p.ForbiddenMediaTypes, func(m MediaType) bool { return m.matches(a.MediaType) }),
		p.PermittedMediaTypes != nil && !slices.ContainsFunc(*p.PermittedMediaTypes, func(m MediaType) bool { return m.matches(a.MediaType) }):
		return deny("asset_policy", "files of this type are not allowed in this room")
	}
	if most := map[string]uint64{"image": p.MaxImage, "audio": p.MaxAudio, "video": p.MaxVideo, "": p.MaxAttachment}[a.kind()]; most > 0 && a.Size > most {
		return deny("asset_policy", "a file may have at most %d octets in this room", most)
	}
	if p.UploadLocation != UploadUnspecified && !p.lies(a.Host, func(provider string) bool {
		return p.UploadLocation == UploadHub || sameDomain(provider, a.Sender.Domain)
	}) {
		return deny("asset_policy", "this room does not allow files from where this one lies")
	}
	return nil
}

// CheckDownload judges whether what lies at a host may be fetched for users of the room: unless the policy does not say where files
// lie, only from the upload domains of a provider.
func (s *State) CheckDownload(host string) error {
	if p := s.Assets; p != nil && p.UploadLocation != UploadUnspecified && !p.lies(host, func(string) bool { return true }) {
		return deny("asset_policy", "this room does not allow files from where this one lies")
	}
	return nil
}

// MayDownload reports whether files of the room may be downloaded in that way.
func (s *State) MayDownload(t DownloadType) bool {
	p := s.Assets
	return p == nil || !slices.Contains(p.ForbiddenDownloads, t) && (len(p.AllowedDownloads) == 0 || slices.Contains(p.AllowedDownloads, t))
}

// lies reports whether host is among the upload domains of a provider that ok names.
func (p *AssetPolicy) lies(host string, ok func(provider string) bool) bool {
	return slices.ContainsFunc(p.UploadDomains, func(d UploadDomains) bool {
		return ok(d.Provider) && slices.ContainsFunc(d.Domains, func(x string) bool { return sameDomain(x, host) })
	})
}

// sameDomain compares what stands in a policy with what stands in a URL, which may have a port.
func sameDomain(a, b string) bool {
	return a != "" && bareHost(a) == bareHost(b)
}

func bareHost(s string) string {
	if d, err := mimiuri.NormalizeDomain(s); err == nil {
		return mimiuri.Host(d)
	}
	return strings.ToLower(mimiuri.Host(s))
}

// matches reports whether a media type is the one meant: one without parameters means all with that type and subtype.
func (m MediaType) matches(mediaType string) bool {
	t, params, err := mime.ParseMediaType(mediaType)
	if err != nil {
		t, _, _ = strings.Cut(mediaType, ";")
		t = strings.ToLower(strings.TrimSpace(t))
	}
	if !strings.EqualFold(m.Type, t) {
		return false
	}
	return !slices.ContainsFunc(m.Parameters, func(p MediaTypeParameter) bool { return params[strings.ToLower(p.Name)] != p.Value })
}
