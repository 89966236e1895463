package core

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/assets"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
)

// AssetsConfig says where files of users lie and how much of them there may be. Zero fields have defaults.
type AssetsConfig struct {
	Folder  string        // default: the database's name with "-assets" instead of its extension
	MaxFile int64         // octets of one file, to and from here: 100 MiB
	Quota   int64         // octets of all files of one user: 1 GiB
	Cache   int64         // octets of copies of files elsewhere: 1 GiB
	Life    time.Duration // for how long an attachment is kept: 30 days
}

const (
	sweepEvery = 10 * time.Minute
	peersFresh = time.Minute
	// maxPublished bounds what Publish takes and FetchPublic gives: avatars.
	maxPublished = 8 << 20
)

// files is what the provider does with files: its own, those that its users get from elsewhere, and those that it fetches as
// a hub for others.
type files struct {
	p     *Provider
	fed   federation.Config
	life  time.Duration
	own   *assets.Store
	cache *assets.Cache

	mu    sync.Mutex
	peers []string
	asked time.Time
}

var _ port.Downloads = (*files)(nil)

func newFiles(p *Provider, fed federation.Config) (*files, error) {
	c := p.cfg.Assets
	if path := p.cfg.Store.Path; c.Folder == "" {
		if path == "" {
			return nil, errors.New("core: with PostgreSQL the folder for files has to be named")
		}
		c.Folder = strings.TrimSuffix(path, filepath.Ext(path)) + "-assets"
	}
	if c.Life <= 0 {
		c.Life = 30 * 24 * time.Hour
	}
	f := &files{p: p, fed: fed, life: c.Life}
	var err error
	if f.own, err = assets.Open(assets.Config{Folder: c.Folder, Store: p.store, MaxFile: c.MaxFile, Quota: c.Quota, Now: p.cfg.Now,
		Over: func(user, what string) { p.People.Limited(user, what, p.cfg.Now().Add(time.Hour).UnixMilli()) }}); err != nil {
		return nil, err
	}
	f.cache, err = assets.OpenCache(assets.CacheConfig{Folder: filepath.Join(c.Folder, "cache-"+p.store.NodeName()), Max: c.Cache,
		Each: f.maxEncrypted(), Now: p.cfg.Now})
	return f, err
}

// maxEncrypted is the most that a file has on its way: with a tag.
func (f *files) maxEncrypted() int64 {
	return int64(content.EncryptedSize(content.AEADAES128GCM, uint64(f.own.MaxFile())))
}

// run sweeps now and then.
func (f *files) run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if n, err := f.own.Sweep(ctx); err != nil && ctx.Err() == nil {
			f.p.cfg.Log.Error().Err(err).Msg("removing files whose time is over")
		} else if n > 0 {
			f.p.cfg.Log.Debug().Int("files", n).Msg("removed files whose time is over")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// peerDomains are the providers that this one has to do with: users of theirs are in rooms kept here, or in rooms of users here.
func (f *files) peerDomains(ctx context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.p.cfg.Now()
	if f.peers != nil && now.Sub(f.asked) < peersFresh {
		return f.peers, nil
	}
	peers, err := f.p.Client.Domains(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.p.store.View(ctx, func(tx *store.Tx) error {
		followers, err := tx.Followers()
		for _, fo := range followers {
			peers = append(peers, fo.Peer)
		}
		return err
	}); err != nil {
		return nil, err
	}
	slices.Sort(peers)
	peers = slices.DeleteFunc(slices.Compact(peers), func(d string) bool { return d == f.p.cfg.Domain })
	f.peers, f.asked = peers, now
	return peers, nil
}

// fetch gets a file from the asset domain of a peer, by way of the cache.
func (f *files) fetch(ctx context.Context, assetURL string) (*port.Asset, error) {
	if name, ok := f.fed.OwnAsset(assetURL); ok {
		return f.own.Asset(ctx, name)
	}
	return f.cache.Get(ctx, assetURL, func(ctx context.Context) (*port.Asset, error) {
		peers, err := f.peerDomains(ctx)
		if err != nil {
			return nil, err
		}
		peer, ok := f.p.fed.AssetPeer(ctx, assetURL, peers)
		if !ok {
			return nil, fault.New(fault.Forbidden, "this is not where a provider in a room here keeps its files")
		}
		return f.p.fed.Fetch(ctx, peer, assetURL)
	})
}

// ProxyDownload is for port.Downloads.
func (f *files) ProxyDownload(ctx context.Context, from, assetURL string) (*port.Asset, error) {
	peers, err := f.peerDomains(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := slices.BinarySearch(peers, from); !ok {
		return nil, fault.New(fault.Forbidden, "files are fetched for providers that have users in rooms here")
	}
	return f.fetch(ctx, assetURL)
}

// Upload is adapter.Files.Upload.
func (h *host) Upload(ctx context.Context, local mimiuri.URI, r io.Reader, size int64, contentType, filename string) (part content.Part, err error) {
	f := h.p.files
	if err := h.ownUser(local); err != nil {
		return part, err
	}
	// Seconds, rounded down: nothing is promised for longer than it is kept.
	expires := h.p.cfg.Now().Add(f.life).Truncate(time.Second)
	w, err := f.own.Create(ctx, local.String(), "", size, expires)
	if err != nil {
		return part, err
	}
	defer w.Discard()
	enc, err := content.NewEncrypter(rand.Reader, content.AEADAES128GCM, w)
	if err != nil {
		return part, err
	}
	if _, err := io.CopyBuffer(enc, struct{ io.Reader }{r}, make([]byte, 64<<10)); err != nil {
		return part, err
	}
	if err := enc.Close(); err != nil {
		return part, err
	}
	name, err := w.Commit(ctx)
	if err != nil {
		return part, err
	}
	e, err := enc.External()
	if err != nil {
		return part, err
	}
	e.URL, e.Filename = f.fed.AssetURL(name), filename
	if s := expires.Unix(); s > 0 && s <= math.MaxUint32 {
		e.Expires = uint32(s)
	}
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	return content.ExternalBody(content.Attachment, contentType, e), nil
}

func (h *host) ownUser(u mimiuri.URI) error {
	if u.Kind != mimiuri.User || u.Domain != h.p.cfg.Domain {
		return fault.New(fault.Forbidden, "only users of this provider act through it")
	}
	if h.p.deletions.has(u) {
		return errDeleting
	}
	return nil
}

// Download is adapter.Files.Download: an own file, a copy, what the room's hub fetches, or else what is fetched from where it
// lies, by the provider: who of its users wants it is not to be seen.
func (h *host) Download(ctx context.Context, local, room mimiuri.URI, e *content.External) (io.ReadCloser, int64, error) {
	f := h.p.files
	if err := h.ownUser(local); err != nil {
		return nil, 0, err
	}
	if e == nil || e.Expired(h.p.cfg.Now().Unix()) {
		return nil, 0, fault.New(fault.NotFound, "the file is not kept any more")
	}
	if err := content.SupportsExternal(e); err != nil {
		return nil, 0, fault.Wrap(fault.Malformed, "the file is encrypted in a way that is not supported here", err)
	}
	a, err := f.download(ctx, room, e.URL)
	if err != nil {
		return nil, 0, err
	}
	src, ok := a.Body.(io.ReadSeeker)
	if cp, is := a.Body.(*assets.Copy); is {
		src, err = cp.Wait()
		ok = err == nil
	}
	if !ok {
		a.Body.Close()
		return nil, 0, err
	}
	plain, err := e.Decrypt(src, f.maxEncrypted())
	if err != nil {
		a.Body.Close()
		switch {
		case errors.Is(err, content.ErrCorrupt):
			err = fault.Wrap(fault.Malformed, "the file is not what its sender has sent", err)
		case errors.Is(err, content.ErrLimit):
			err = fault.Wrap(fault.TooLarge, "the file is too large", err)
		}
		return nil, 0, err
	}
	end, err := src.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = src.Seek(0, io.SeekStart)
	}
	if err != nil {
		a.Body.Close()
		return nil, 0, fmt.Errorf("core: download: %w", err)
	}
	return readCloser{plain, a.Body}, end - int64(content.EncryptedSize(e.EncAlg, 0)), nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

func (f *files) download(ctx context.Context, room mimiuri.URI, assetURL string) (*port.Asset, error) {
	u, err := url.Parse(assetURL)
	if err != nil {
		return nil, fault.Wrap(fault.Malformed, "the file lies at what is no URL", err)
	}
	direct, proxy, err := f.p.Client.Downloads(ctx, room, u.Host)
	if err != nil {
		return nil, err
	}
	if name, ok := f.fed.OwnAsset(assetURL); ok {
		return f.own.Asset(ctx, name)
	}
	if room.Domain == f.p.cfg.Domain || !proxy { // the hub is here: by it and directly are the same
		return f.fetch(ctx, assetURL)
	}
	a, err := f.cache.Get(ctx, room.Domain+" "+assetURL, func(ctx context.Context) (*port.Asset, error) {
		return f.p.fed.ProxyDownload(ctx, room.Domain, assetURL)
	})
	switch fault.KindOf(err) {
	case fault.NotFound, fault.Forbidden, fault.Unavailable:
		if err != nil && direct {
			if direct, derr := f.fetch(ctx, assetURL); derr == nil {
				return direct, nil
			}
		}
	}
	return a, err
}

// Publish is adapter.Files.Publish.
func (h *host) Publish(ctx context.Context, local mimiuri.URI, r io.Reader, contentType string) (string, error) {
	if err := h.ownUser(local); err != nil {
		return "", err
	}
	f := h.p.files
	w, err := f.own.Create(ctx, local.String(), contentType, -1, time.Time{})
	if err != nil {
		return "", err
	}
	defer w.Discard()
	n, err := io.Copy(w, io.LimitReader(r, maxPublished+1))
	if err != nil {
		return "", err
	}
	if n > maxPublished {
		return "", fault.Newf(fault.TooLarge, "what is published may have at most %d MB", maxPublished>>20)
	}
	name, err := w.Commit(ctx)
	if err != nil {
		return "", err
	}
	return f.fed.AssetURL(name), nil
}

// FetchPublic is adapter.Files.FetchPublic.
func (h *host) FetchPublic(ctx context.Context, uri string) (io.ReadCloser, string, int64, error) {
	if u, err := url.Parse(uri); err != nil || u.Scheme != "https" {
		return nil, "", 0, fault.New(fault.Malformed, "this is not an https URI")
	}
	a, err := h.p.files.fetch(ctx, uri)
	if err != nil {
		return nil, "", 0, err
	}
	body := a.Body
	if cp, ok := body.(*assets.Copy); ok {
		src, err := cp.Wait() // the size is known then
		if err != nil {
			body.Close()
			return nil, "", 0, err
		}
		if a.Size, err = src.Seek(0, io.SeekEnd); err != nil {
			body.Close()
			return nil, "", 0, err
		}
	}
	if a.Size > maxPublished {
		body.Close()
		return nil, "", 0, fault.New(fault.TooLarge, "this is too large for a picture of a person or a room")
	}
	t := a.Type
	if t == "" {
		t = "application/octet-stream"
	}
	return body, t, a.Size, nil
}
