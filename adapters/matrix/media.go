package matrix

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	_ "image/gif" // sizes of pictures
	_ "image/jpeg"
	_ "image/png"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"maunium.net/go/mautrix/crypto/attachment"
	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Files go through in a stream: from the homeserver, decrypted, to the provider, which encrypts them anew; and back.

// mediaPart is the part for a media event: the file, its thumbnail and its caption.
func (b *bridge) mediaPart(ctx context.Context, body object, kind string, sender mimiuri.URI) (part *content.Part, style, why string, err error) {
	info := body.object("info")
	caption, name := "", body.str("filename")
	if name == "" {
		name = body.str("body")
	} else if body.str("body") != name {
		caption = body.str("body")
	}
	mimeType := info.str("mimetype")
	if mediaType(mimeType) == "application/octet-stream" && kind == "m.image" {
		mimeType = "image/png"
	}
	file, err := b.takeFile(ctx, sender, body["url"], body["file"], mediaType(mimeType), cleanName(name))
	if err != nil {
		if fault.Temporary(err) {
			return nil, "", "", err
		}
		b.log.Info().Err(err).Msg("a file was not taken")
		return nil, "", fmt.Sprintf("Not delivered: the file could not be sent: %s.", fault.Public(err)), nil
	}
	file.Disposition = content.Attachment
	parts := []content.Part{}
	if caption != "" {
		captioned := object{"body": body["body"], "format": body["format"], "formatted_body": body["formatted_body"], "m.mentions": body["m.mentions"]}
		if text := b.textPart(ctx, captioned); text != nil {
			parts = append(parts, *text)
		}
	}
	parts = append(parts, *file)
	if info["thumbnail_url"] != nil || info["thumbnail_file"] != nil {
		thumb, err := b.takeFile(ctx, sender, info["thumbnail_url"], info["thumbnail_file"], mediaType(info.object("thumbnail_info").str("mimetype")), "thumbnail")
		switch {
		case err == nil:
			thumb.Disposition = content.Preview
			parts = append(parts, *thumb)
		case fault.Temporary(err):
			return nil, "", "", err
		}
	}
	switch {
	case kind == "m.sticker":
		style = "sticker"
	case body["org.matrix.msc3245.voice"] != nil || body["m.voice"] != nil:
		style = "voice"
	}
	whole := content.Together(parts...)
	return &whole, style, "", nil
}

// takeFile hands a file of the homeserver to the provider.
func (b *bridge) takeFile(ctx context.Context, sender mimiuri.URI, plain, encrypted json.RawMessage, mimeType, name string) (*content.Part, error) {
	var address string
	var key attachment.EncryptedFile
	_ = json.Unmarshal(plain, &address)
	if len(encrypted) > 0 {
		var withURL struct {
			URL string `json:"url"`
		}
		if json.Unmarshal(encrypted, &withURL) != nil || json.Unmarshal(encrypted, &key) != nil {
			return nil, fault.New(fault.Malformed, "its keys cannot be read")
		}
		address = withURL.URL
		if err := key.PrepareForDecryption(); err != nil {
			return nil, fault.Wrap(fault.Malformed, "its keys cannot be read", fmt.Errorf("matrix: an encrypted file: %w", err))
		}
	}
	mxc, err := id.ParseContentURI(address)
	if err != nil || mxc.IsEmpty() {
		return nil, fault.New(fault.Malformed, "its address is none")
	}
	ctx, cancel := context.WithTimeout(ctx, mediaTime)
	defer cancel()
	body, size, err := b.hs.download(ctx, mxc)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var r io.Reader = body
	if len(encrypted) > 0 {
		r = &checked{r: key.DecryptStream(body)}
	}
	part, err := b.host.Upload(ctx, sender, r, size, mimeType, name)
	if err != nil {
		return nil, err
	}
	return &part, nil
}

// mediaTime bounds the transfer of one file.
const mediaTime = 30 * time.Minute

// checked reads an encrypted file to its end, where it has to have the hash that its event says.
type checked struct{ r io.ReadCloser }

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err == io.EOF {
		if c.r.Close() != nil {
			return n, fault.New(fault.Malformed, "it is not what its message says")
		}
	}
	return n, err
}

// fillFile uploads a file to the homeserver and completes the event that shows it.
func (b *bridge) fillFile(ctx context.Context, p portal, ev adapter.Event, as id.UserID, part content.Part, thumbnail *content.Part, name, mimeType string, body map[string]any) error {
	info := map[string]any{"mimetype": mimeType}
	if err := b.giveFile(ctx, p, ev, as, part, name, mimeType, "", body, info); err != nil {
		return err
	}
	if thumbnail != nil {
		thumbInfo := map[string]any{"mimetype": mediaType(thumbnail.ContentType)}
		if err := b.giveFile(ctx, p, ev, as, *thumbnail, "thumbnail", mediaType(thumbnail.ContentType), "thumbnail_", info, thumbInfo); err == nil {
			info["thumbnail_info"] = thumbInfo
		} else if fault.Temporary(err) {
			return err
		}
	}
	body["info"] = info
	return nil
}

// giveFile uploads a part's content and writes where it is to into, under prefix and "url" or "file".
func (b *bridge) giveFile(ctx context.Context, p portal, ev adapter.Event, as id.UserID, part content.Part, name, mimeType, prefix string, into, info map[string]any) error {
	ctx, cancel := context.WithTimeout(ctx, mediaTime)
	defer cancel()
	var src io.Reader
	var size int64
	if part.Cardinality == content.SinglePart {
		src, size = bytes.NewReader(part.Content), int64(len(part.Content))
	} else {
		if len(ev.Local) == 0 || part.External == nil {
			return fault.New(fault.NotFound, "it has no address")
		}
		r, n, err := b.host.Download(ctx, ev.Local[0], ev.Room, part.External)
		if err != nil {
			return err
		}
		defer r.Close()
		src, size = r, n
	}
	limit, err := b.hs.uploadLimit(ctx)
	if err != nil {
		return err
	}
	if limit > 0 && size > limit {
		return fault.Newf(fault.TooLarge, "it has %d MB, and this homeserver takes %d MB", size>>20, limit>>20)
	}
	if strings.HasPrefix(mimeType, "image/") {
		head := bufio.NewReaderSize(src, 64<<10)
		start, _ := head.Peek(64 << 10)
		if c, _, err := image.DecodeConfig(bytes.NewReader(start)); err == nil && c.Width > 0 && c.Height > 0 {
			info["w"], info["h"] = c.Width, c.Height
		}
		src = head
	}
	if size >= 0 {
		info["size"] = size
	}
	encrypt, err := b.encryptedRoom(ctx, p.room)
	if err != nil {
		return err
	}
	if !encrypt {
		mxc, err := b.hs.upload(ctx, as, src, size, mimeType, name)
		if err != nil {
			return err
		}
		into[prefix+"url"] = mxc
		return nil
	}
	key := attachment.NewEncryptedFile()
	stream := key.EncryptStream(src)
	mxc, err := b.hs.upload(ctx, as, stream, size, "application/octet-stream", "")
	if err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return fault.Wrap(fault.Unavailable, "", fmt.Errorf("matrix: encrypt a file: %w", err))
	}
	raw, err := json.Marshal(key)
	if err != nil {
		return err
	}
	var file map[string]any
	if err := json.Unmarshal(raw, &file); err != nil {
		return err
	}
	file["url"] = mxc
	into[prefix+"file"] = file
	return nil
}

// mediaType is the bare media type of what somebody says it is.
func mediaType(s string) string {
	typ, _, err := mime.ParseMediaType(s)
	if err != nil || !strings.Contains(typ, "/") || len(typ) > 100 {
		return "application/octet-stream"
	}
	return typ
}

// fileName is what a part's file is called.
func fileName(part content.Part, mimeType string) string {
	name := ""
	if part.External != nil {
		name = cleanName(part.External.Filename)
	}
	if name != "" && name != "file" {
		return name
	}
	name = strings.SplitN(mimeType, "/", 2)[0]
	if name != "image" && name != "video" && name != "audio" {
		name = "file"
	}
	if ext, err := mime.ExtensionsByType(mimeType); err == nil && len(ext) > 0 {
		name += ext[0]
	}
	return name
}

// cleanName makes a file's name fit to be shown and stored: no path, no control characters.
func cleanName(s string) string {
	s = clean(s)
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u202e' || r == '\u202d' {
			return -1
		}
		return r
	}, s)
	if s = strings.TrimSpace(cut(s, 200)); s == "" || s == "." || s == ".." {
		return "file"
	}
	return s
}

// mediaRequest makes a request whose body, or whose answer's, is a file.
func (h *homeserver) mediaRequest(ctx context.Context, method, path string, query url.Values, body io.Reader, size int64, contentType string) (*http.Response, error) {
	u := *h.base
	u.Path += path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fault.Wrap(fault.Malformed, "", fmt.Errorf("matrix: a media request: %w", err))
	}
	if body != nil && size >= 0 {
		req.ContentLength = size
	}
	req.Header.Set("Authorization", "Bearer "+h.token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := h.media.Do(req)
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) && !fault.Temporary(f) {
			return nil, f // the file itself was bad
		}
		return nil, fault.Wrap(fault.Unavailable, "the Matrix homeserver cannot be reached now", fmt.Errorf("matrix: %s media: %w", method, err))
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	var answer struct {
		Code string `json:"errcode"`
		Text string `json:"error"`
	}
	_ = json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer)
	r := &refusal{status: resp.StatusCode, code: clip(answer.Code, 100), text: clip(answer.Text, 300)}
	wrapped := fmt.Errorf("matrix: %s media: %w", method, r)
	switch {
	case r.status == http.StatusNotFound:
		return nil, fault.Wrap(fault.NotFound, "the homeserver does not have it", wrapped)
	case r.status == http.StatusRequestEntityTooLarge:
		return nil, fault.Wrap(fault.TooLarge, "it is too large for this homeserver", wrapped)
	case r.status == http.StatusTooManyRequests, r.status >= 500, r.status == http.StatusUnauthorized:
		return nil, fault.Wrap(fault.Unavailable, "the Matrix homeserver cannot be used now", wrapped)
	}
	return nil, fault.Wrap(fault.Forbidden, "the homeserver refused it", wrapped)
}

// download opens a file. size is -1 if the homeserver does not say it.
func (h *homeserver) download(ctx context.Context, mxc id.ContentURI) (body io.ReadCloser, size int64, err error) {
	// Since Matrix 1.11 downloads need authentication; older homeservers do not know that path.
	resp, err := h.mediaRequest(ctx, http.MethodGet, "/_matrix/client/v1/media/download/"+mxc.Homeserver+"/"+mxc.FileID, url.Values{"user_id": {string(h.bot)}}, nil, 0, "")
	if fault.Is(err, fault.NotFound) && errcode(err) != mNotFound {
		resp, err = h.mediaRequest(ctx, http.MethodGet, "/_matrix/media/v3/download/"+mxc.Homeserver+"/"+mxc.FileID, url.Values{"allow_redirect": {"false"}}, nil, 0, "")
	}
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// upload stores a file and returns its mxc URI.
func (h *homeserver) upload(ctx context.Context, as id.UserID, r io.Reader, size int64, contentType, name string) (string, error) {
	query := url.Values{"user_id": {string(as)}}
	if name != "" {
		query.Set("filename", name)
	}
	resp, err := h.mediaRequest(ctx, http.MethodPost, "/_matrix/media/v3/upload", query, r, size, contentType)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		URI string `json:"content_uri"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer); err != nil || !strings.HasPrefix(answer.URI, "mxc://") {
		return "", fault.Wrap(fault.Unavailable, "the Matrix homeserver cannot be reached now", errors.New("matrix: upload: the answer has no content_uri"))
	}
	return answer.URI, nil
}

// uploadLimit is the largest file that the homeserver takes, in octets; 0 if it does not say.
func (h *homeserver) uploadLimit(ctx context.Context) (int64, error) {
	if v := h.limit.Load(); v != 0 {
		return max(v, 0), nil
	}
	limit := int64(-1)
	for _, path := range []string{"/_matrix/client/v1/media/config", "/_matrix/media/v3/config"} {
		resp, err := h.mediaRequest(ctx, http.MethodGet, path, url.Values{"user_id": {string(h.bot)}}, nil, 0, "")
		if err != nil {
			if fault.Temporary(err) {
				return 0, err
			}
			continue
		}
		var answer struct {
			Size json.Number `json:"m.upload.size"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer)
		resp.Body.Close()
		if n, errN := strconv.ParseInt(answer.Size.String(), 10, 64); err == nil && errN == nil && n > 0 {
			limit = n
		}
		break
	}
	h.limit.Store(limit)
	return max(limit, 0), nil
}
