package policy

import (
	"errors"
	"testing"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// TestAssetPolicy: what asset_policy and the asset capabilities let users send, and from where it may be fetched
// (sections "Asset policies component" and "Asset Capabilities").
func TestAssetPolicy(t *testing.T) {
	everything := []Capability{CanUploadImage, CanUploadAudio, CanUploadVideo, CanUploadAttachment}
	bob := mimiuri.MustParse("mimi://b.example/u/bob")
	state := func(p *AssetPolicy, can ...Capability) *State {
		return &State{Participants: ParticipantList{{User: bob, Role: 2}}, Roles: RoleData{{Index: 2, Capabilities: can}}, Assets: p}
	}
	local := &AssetPolicy{UploadLocation: UploadLocalProvider, UploadDomains: []UploadDomains{{"b.example", []string{"cdn.b.example"}}, {"a.example", []string{"a.example"}}}}
	hub := &AssetPolicy{UploadLocation: UploadHub, UploadDomains: []UploadDomains{{"a.example", []string{"files.a.example"}}}}
	sizes := &AssetPolicy{MaxImage: 10, MaxAudio: 20, MaxVideo: 30, MaxAttachment: 40}
	text, flowed := MediaType{Type: "text/plain"}, MediaType{Type: "text/plain", Parameters: []MediaTypeParameter{{"format", "flowed"}}}
	for _, c := range []struct {
		name string
		s    *State
		a    Asset
		ok   bool
	}{
		{"no policy", state(nil, everything...), Asset{Host: "x.example", MediaType: "x/y", Size: 1 << 40}, true},
		{"an image by who may send none", state(nil, CanUploadAttachment), Asset{MediaType: "image/png", Render: true}, false},
		{"the same as an attachment", state(nil, CanUploadAttachment), Asset{MediaType: "image/png"}, true},
		{"an attachment by who may send none", state(nil, CanUploadImage, CanUploadAudio, CanUploadVideo), Asset{MediaType: "image/png"}, false},
		{"audio", state(nil, CanUploadAudio), Asset{MediaType: "AUDIO/ogg", Render: true}, true},
		{"audio by who may send none", state(nil, CanUploadVideo), Asset{MediaType: "audio/ogg", Render: true}, false},
		{"video by who may send none", state(nil, CanUploadAudio), Asset{MediaType: "video/webm", Render: true}, false},

		{"the own provider's domain", state(local, everything...), Asset{Host: "CDN.b.example:8443"}, true},
		{"another provider's", state(local, everything...), Asset{Host: "a.example"}, false},
		{"nobody's", state(local, everything...), Asset{Host: "x.example"}, false},
		{"at the hub", state(hub, everything...), Asset{Host: "files.a.example"}, true},
		{"at the own provider, where it has to be at the hub", state(hub, everything...), Asset{Host: "cdn.b.example"}, false},

		{"an image as large as allowed", state(sizes, everything...), Asset{MediaType: "image/png", Render: true, Size: 10}, true},
		{"too large an image", state(sizes, everything...), Asset{MediaType: "image/png", Render: true, Size: 11}, false},
		{"too large an audio file", state(sizes, everything...), Asset{MediaType: "audio/ogg", Render: true, Size: 21}, false},
		{"too large a video", state(sizes, everything...), Asset{MediaType: "video/webm", Render: true, Size: 31}, false},
		{"an attachment as large as allowed", state(sizes, everything...), Asset{MediaType: "image/png", Size: 40}, true},
		{"too large an attachment", state(sizes, everything...), Asset{MediaType: "image/png", Size: 41}, false},

		{"a forbidden type", state(&AssetPolicy{ForbiddenMediaTypes: []MediaType{text}}, everything...), Asset{MediaType: "Text/plain; charset=utf-8"}, false},
		{"another type", state(&AssetPolicy{ForbiddenMediaTypes: []MediaType{text}}, everything...), Asset{MediaType: "text/html"}, true},
		{"a forbidden parameter", state(&AssetPolicy{ForbiddenMediaTypes: []MediaType{flowed}}, everything...), Asset{MediaType: "text/plain; format=flowed"}, false},
		{"without it", state(&AssetPolicy{ForbiddenMediaTypes: []MediaType{flowed}}, everything...), Asset{MediaType: "text/plain"}, true},
		{"a permitted type", state(&AssetPolicy{PermittedMediaTypes: &[]MediaType{text}}, everything...), Asset{MediaType: "text/plain"}, true},
		{"one that is not", state(&AssetPolicy{PermittedMediaTypes: &[]MediaType{text}}, everything...), Asset{MediaType: "text/html"}, false},
		{"none permitted", state(&AssetPolicy{PermittedMediaTypes: &[]MediaType{}}, everything...), Asset{MediaType: "text/plain"}, false},
		{"a type that is none", state(&AssetPolicy{ForbiddenMediaTypes: []MediaType{text}}, everything...), Asset{MediaType: "text/plain; ="}, false},
	} {
		c.a.Sender = bob
		var d *Denied
		if err := c.s.CheckUpload(c.a); (err == nil) != c.ok || err != nil && !errors.As(err, &d) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range []struct {
		p    *AssetPolicy
		host string
		ok   bool
	}{{nil, "x.example", true}, {sizes, "x.example", true}, {local, "a.example", true}, {local, "cdn.b.example:443", true}, {local, "b.example", false}, {hub, "a.example", false}} {
		if err := state(c.p).CheckDownload(c.host); (err == nil) != c.ok {
			t.Errorf("fetching from %s: %v", c.host, err)
		}
	}
	for _, c := range []struct {
		p             *AssetPolicy
		direct, proxy bool
	}{
		{nil, true, true}, {local, true, true},
		{&AssetPolicy{AllowedDownloads: []DownloadType{DownloadHubProxy}}, false, true},
		{&AssetPolicy{ForbiddenDownloads: []DownloadType{DownloadHubProxy}}, true, false},
		{&AssetPolicy{AllowedDownloads: []DownloadType{DownloadDirect, DownloadHubProxy}, ForbiddenDownloads: []DownloadType{DownloadDirect}}, false, true},
	} {
		if s := state(c.p); s.MayDownload(DownloadDirect) != c.direct || s.MayDownload(DownloadHubProxy) != c.proxy {
			t.Errorf("%+v: direct %v, by the hub %v", c.p, s.MayDownload(DownloadDirect), s.MayDownload(DownloadHubProxy))
		}
	}
}
