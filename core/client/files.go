package client

import (
	"context"
	"net/url"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/internal/mailbox"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// checkFiles judges the files of a message of a local user by the room's policy.
func (r *room) checkFiles(sender mimiuri.URI, b []byte) error {
	m, err := content.Decode(b)
	if err != nil {
		return fault.Wrap(fault.Malformed, "the message cannot be read", err) // it was made here
	}
	for _, part := range m.Body.AllParts() {
		e := part.External
		if e == nil {
			continue
		}
		u, err := url.Parse(e.URL)
		if err != nil {
			return fault.Wrap(fault.Malformed, "a file lies at what is no URL", err)
		}
		a := policy.Asset{Sender: sender, Host: u.Host, MediaType: part.ContentType, Render: part.Disposition == content.Render, Size: e.Size}
		if tag := uint64(content.EncryptedSize(e.EncAlg, 0)); a.Size > tag { // what the policy counts is the file
			a.Size -= tag
		}
		if err := r.pol.CheckUpload(a); err != nil {
			return err
		}
	}
	return nil
}

// Downloads says how a file of a room may be fetched, by the room's policy; a fault says that it may not, or that it may not from
// this host. Of a room without a group here nothing is known: then any way will do.
func (c *Client) Downloads(ctx context.Context, in mimiuri.URI, host string) (direct, proxy bool, err error) {
	type ways struct{ direct, proxy bool }
	look := func(r *room) (ways, error) {
		if err := r.load(ctx); err != nil && !fault.Is(err, fault.NotFound) {
			return ways{}, err
		}
		if r.g == nil {
			return ways{true, true}, nil
		}
		w := ways{r.pol.MayDownload(policy.DownloadDirect), r.pol.MayDownload(policy.DownloadHubProxy)}
		if err := r.pol.CheckDownload(host); err != nil {
			return w, err
		}
		if !w.direct && !w.proxy {
			return w, fault.New(fault.Forbidden, "this room allows no way to fetch files that is known here")
		}
		return w, nil
	}
	var w ways
	if id := in.String(); c.cfg.Store.Mine(id) {
		w, err = mailbox.Ask(ctx, c.rooms, id, look)
	} else { // another node's: what is in memory here would grow old
		r := newRoom(c, id)
		r.resumed = true
		w, err = look(r)
	}
	return w.direct, w.proxy, err
}
