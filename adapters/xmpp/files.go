package xmpp

import (
	"context"
	"crypto/tls"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Files. On XMPP a file is a URL at the server's upload service (XEP-0363), in a message as XEP-0066, XEP-0385 and XEP-0447; in
// MIMI it is an external part, encrypted, at the asset service of the sender's provider. What comes from the own upload service is
// fetched and stored anew as an asset; what is elsewhere goes on as the URL that it is. What comes from MIMI is
// fetched, checked, decrypted and put into the upload service, in which the component needs to be allowed to store. Where that is
// not so, people read that there was a file.

const nsUpload = "urn:xmpp:http:upload:0" // XEP-0363

// maxFile is the most octets of a file that is carried over, and maxFiles the most files of a message.
const (
	maxFile  = 100 << 20
	maxFiles = 10
)

// fileRef is a file that a stanza shares, by its URL.
type fileRef struct {
	url, name, typ, desc string
	size                 int64 // 0: unknown
	sticker              bool
	key, iv, hash        []byte // XEP-0448: AES-GCM, and the SHA-256 of what is at the URL
}

// webURL reads a URL of a file: https, or http on this machine.
func webURL(s string) (*url.URL, bool) {
	if len(s) > 4096 {
		return nil, false
	}
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Host == "" || u.User != nil {
		return nil, false
	}
	if u.Scheme == "http" {
		ip := net.ParseIP(u.Hostname())
		return u, ip != nil && ip.IsLoopback()
	}
	return u, u.Scheme == "https"
}

// filesOf reads the files that a stanza shares, in any of the ways, each once.
func filesOf(kids []*element, body string) (out []fileRef) {
	seen := make(map[string]bool)
	add := func(f fileRef) {
		u, ok := webURL(f.url)
		if !ok || seen[f.url] || len(out) >= maxFiles {
			return
		}
		seen[f.url] = true
		if f.name == "" {
			f.name = path.Base(u.Path)
		}
		if f.name = cut(strings.Map(fileNameRune, f.name), 200); f.name == "." || f.name == "/" {
			f.name = "file"
		}
		if typ, _, err := mime.ParseMediaType(f.typ); err == nil {
			f.typ = typ
		} else if f.typ = mime.TypeByExtension(strings.ToLower(path.Ext(f.name))); f.typ == "" {
			f.typ = "application/octet-stream"
		}
		f.typ, _, _ = strings.Cut(f.typ, ";")
		out = append(out, f)
	}
	sticker := find(kids, nsSticker, "sticker") != nil
	for _, k := range kids {
		switch {
		case k.Space == nsSFS && k.Local == "file-sharing":
			f := fileMeta(k.child(nsFile, "file"), nsFile)
			f.sticker = sticker
			src := k.child(nsSFS, "sources")
			if src == nil {
				continue
			}
			for _, x := range src.Kids {
				if x.Space == nsURLData && x.Local == "url-data" {
					f.url = x.attr("target")
					break
				}
				if x.Space == nsESFS && x.Local == "encrypted" && strings.Contains(x.attr("cipher"), "-gcm-nopadding") {
					f.url = x.child(nsSFS, "sources").child(nsURLData, "url-data").attr("target")
					f.key, _ = base64.StdEncoding.DecodeString(strings.TrimSpace(x.text(nsESFS, "key")))
					f.iv, _ = base64.StdEncoding.DecodeString(strings.TrimSpace(x.text(nsESFS, "iv")))
					for _, h := range x.Kids {
						if h.Space == nsHashes && h.Local == "hash" && h.attr("algo") == "sha-256" {
							f.hash, _ = base64.StdEncoding.DecodeString(strings.TrimSpace(h.Text))
						}
					}
					if len(f.hash) != 32 || len(f.key) != 16 && len(f.key) != 32 || len(f.iv) != 12 {
						f.url = ""
					}
				}
			}
			add(f)
		case k.Space == nsReference && k.Local == "reference":
			m := k.child(nsSIMS, "media-sharing")
			if m == nil {
				continue
			}
			f := fileMeta(m.child(nsJingleFT, "file"), nsJingleFT)
			if src := m.child(nsSIMS, "sources"); src != nil {
				for _, x := range src.Kids {
					if _, ok := webURL(x.attr("uri")); ok {
						f.url = x.attr("uri")
						break
					}
				}
			}
			add(f)
		}
	}
	for _, k := range kids {
		if k.Space == nsOOB && k.Local == "x" {
			add(fileRef{url: strings.TrimSpace(k.text(nsOOB, "url")), desc: k.text(nsOOB, "desc")})
		}
	}
	return out
}

// fileNameRune takes what makes a path or is no character out of a file's name.
func fileNameRune(r rune) rune {
	if r < ' ' || r == '/' || r == '\\' || r == utf8.RuneError {
		return -1
	}
	return r
}

func fileMeta(e *element, ns string) (f fileRef) {
	f.name, f.typ, f.desc = e.text(ns, "name"), strings.TrimSpace(e.text(ns, "media-type")), e.text(ns, "desc")
	if n, err := strconv.ParseInt(strings.TrimSpace(e.text(ns, "size")), 10, 64); err == nil && n > 0 {
		f.size = n
	}
	return f
}

// onlyFiles tells whether the text of a message with files says nothing but where they are.
func onlyFiles(kids []*element, body string, files []fileRef) bool {
	text := strings.TrimSpace(body)
	for _, f := range files {
		if text == f.url || f.sticker {
			return true
		}
	}
	for _, what := range []string{nsSFS, nsOOB, nsSIMS} {
		if from, to := fallbackRange(kids, what, body); to > from && to-from == utf8.RuneCountInString(body) {
			return true
		}
	}
	return text == ""
}

// uploadFile makes a part of a file: stored anew as an asset if it is at the own upload service, else the URL as it is.
func (s *service) uploadFile(ctx context.Context, t talk, f fileRef) (content.Part, error) {
	u, _ := webURL(f.url)
	if f.key != nil || !s.files.knows(ctx, s, u.Host) {
		p := content.ExternalBody(content.Attachment, f.typ, content.External{URL: f.url, Size: uint64(f.size), Filename: f.name, Description: cut(f.desc, 500)})
		if f.key != nil {
			p.External.EncAlg, p.External.Key, p.External.Nonce = content.AEADAES128GCM, f.key, f.iv
			p.External.HashAlg, p.External.ContentHash = content.HashSHA256, f.hash
			if p.External.Size > 0 { // of the plaintext there, of what is at the URL here
				p.External.Size = content.EncryptedSize(p.External.EncAlg, p.External.Size)
			}
			if len(f.key) == 32 {
				p.External.EncAlg = content.AEADAES256GCM
			}
		}
		if f.sticker || strings.HasPrefix(f.typ, "image/") {
			p.Disposition = content.Render
		}
		return p, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return content.Part{}, errFileFetch
	}
	resp, err := s.files.client.Do(req)
	if err != nil {
		return content.Part{}, errFileFetch
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return content.Part{}, errFileFetch
	}
	if resp.ContentLength > maxFile {
		return content.Part{}, errFileLarge
	}
	p, err := s.host.Upload(ctx, t.user, &cutReader{r: resp.Body, left: maxFile}, resp.ContentLength, f.typ, f.name)
	if err != nil {
		return p, err
	}
	if p.External != nil && f.desc != "" {
		p.External.Description = cut(f.desc, 500)
	}
	if f.sticker || strings.HasPrefix(f.typ, "image/") {
		p.Disposition = content.Render
	}
	return p, nil
}

// cutReader ends with an error where there is more than left octets.
type cutReader struct {
	r    io.Reader
	left int64
}

func (c *cutReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, errFileLarge
	}
	return n, err
}

// uploads is what is known of the server's upload service.
type uploads struct {
	client *http.Client

	mu     sync.Mutex
	looked time.Time
	search chan struct{} // closed when the search under way is over; nil: none is
	jid    string
	max    int64
	hosts  map[string]bool // where its files are
}

func newUploads(t *tls.Config) *uploads {
	tr := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ResponseHeaderTimeout: 30 * time.Second, MaxIdleConns: 10, IdleConnTimeout: time.Minute, Proxy: nil, ForceAttemptHTTP2: true,
	}
	if t != nil {
		tr.TLSClientConfig = &tls.Config{RootCAs: t.RootCAs, MinVersion: tls.VersionTLS12}
	}
	return &uploads{hosts: make(map[string]bool), client: &http.Client{Transport: tr, Timeout: 10 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// knows tells whether a host is that of the upload service. Only from there the daemon fetches anything: a URL that somebody
// writes must not make it ask whatever is near it.
func (f *uploads) knows(ctx context.Context, s *service, host string) bool {
	f.mu.Lock()
	known := f.hosts[host]
	f.mu.Unlock()
	if known {
		return true
	}
	if _, err := f.slot(ctx, s, "probe.txt", 1, "text/plain"); err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hosts[host]
}

// lookWait is how long a file waits for the upload service to be found. The search itself goes on; a room does not wait for a server that
// does not answer. lookAgain is after what time a search that found nothing is repeated.
const (
	lookWait  = 3 * time.Second
	lookAgain = 10 * time.Minute
)

// service gives the upload service and the most octets of a file in it. One search is under way at a time.
func (f *uploads) service(s *service) (string, int64, error) {
	f.mu.Lock()
	if f.jid == "" && f.search == nil && time.Since(f.looked) >= lookAgain {
		f.looked = time.Now()
		f.search = make(chan struct{})
		go f.find(s, f.search)
	}
	search := f.search
	f.mu.Unlock()
	if search != nil {
		t := time.NewTimer(lookWait)
		defer t.Stop()
		select {
		case <-search:
		case <-t.C:
		case <-s.ctx.Done():
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.jid == "" {
		return "", 0, errNoUpload
	}
	return f.jid, f.max, nil
}

// find looks for the upload service: at the server, and at what it lists, all at once.
func (f *uploads) find(s *service, done chan struct{}) {
	ask := func(to, ns string) *element {
		e, err := s.request(s.toUser, el("", "iq", "type", "get", "from", s.users, "to", to).add(el(ns, "query")))
		if err != nil {
			return nil
		}
		return e
	}
	candidates := []string{s.local}
	if items := ask(s.local, nsDiscoItem); items != nil {
		for _, k := range items.Kids {
			if j := k.attr("jid"); j != "" && j != s.users && j != s.rooms && !strings.Contains(j, "@") && len(candidates) < 20 {
				candidates = append(candidates, j)
			}
		}
	}
	most := make([]int64, len(candidates)) // 0: no upload service
	var asking sync.WaitGroup
	for i, c := range candidates {
		asking.Add(1)
		go func() {
			defer asking.Done()
			most[i] = uploadMax(ask(c, nsDiscoInfo))
		}()
	}
	asking.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, n := range most {
		if n > 0 {
			f.jid, f.max = candidates[i], n
			break
		}
	}
	f.search = nil
	close(done)
}

// uploadMax reads of an answer to disco#info the most octets of a file, 0 if it is of no upload service.
func uploadMax(info *element) int64 {
	if info == nil || !slices.ContainsFunc(info.Kids, func(k *element) bool { return k.Local == "feature" && k.attr("var") == nsUpload }) {
		return 0
	}
	for _, x := range info.Kids {
		if x.Space == nsData && formValue(x, "FORM_TYPE") == nsUpload {
			if n, err := strconv.ParseInt(formValue(x, "max-file-size"), 10, 64); err == nil && n > 0 {
				return min(n, maxFile)
			}
		}
	}
	return maxFile
}

// slot is where a file may be put.
type slot struct {
	put, get string
	header   http.Header
}

func (f *uploads) slot(_ context.Context, s *service, name string, size int64, typ string) (*slot, error) {
	jid, most, err := f.service(s)
	if err != nil {
		return nil, err
	}
	if size > most {
		return nil, errFileLarge
	}
	e, err := s.request(s.toUser, el("", "iq", "type", "get", "from", s.users, "to", jid).add(
		el(nsUpload, "request", "filename", name, "size", strconv.FormatInt(size, 10), "content-type", typ)))
	if err != nil {
		return nil, err
	}
	out := &slot{put: e.child(nsUpload, "put").attr("url"), get: e.child(nsUpload, "get").attr("url"), header: http.Header{}}
	_, ok1 := webURL(out.put)
	g, ok2 := webURL(out.get)
	if !ok1 || !ok2 {
		return nil, errNoUpload
	}
	for _, h := range e.child(nsUpload, "put").Kids {
		switch name := h.attr("name"); strings.ToLower(name) { // section 5: no others
		case "authorization", "cookie", "expires":
			out.header.Set(name, strings.NewReplacer("\r", "", "\n", "").Replace(h.Text))
		}
	}
	f.mu.Lock()
	f.hosts[g.Host] = true
	f.mu.Unlock()
	return out, nil
}

// put stores a file and returns its URL.
func (f *uploads) put(ctx context.Context, s *service, body io.Reader, name string, size int64, typ string) (string, error) {
	sl, err := f.slot(ctx, s, name, size, typ)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, sl.put, body)
	if err != nil {
		return "", errNoUpload
	}
	req.ContentLength = size
	req.Header = sl.header
	req.Header.Set("Content-Type", typ)
	resp, err := f.client.Do(req)
	if err != nil {
		return "", errNoUpload
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16))
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return "", errNoUpload
	}
	return sl.get, nil
}

// longText is the part number of a text that is too long for a stanza.
const longText = -1

// prepareFiles brings the files of a message to where XMPP clients can fetch them, and remembers where. What fails is shown in words:
// a server that takes no files must not keep the room from going on. No lock is held.
func (s *service) prepareFiles(ctx context.Context, k *classified) {
	if k.c.Kind != content.KindMessage && k.c.Kind != content.KindEdit || k.void || len(k.ev.Local) == 0 {
		return
	}
	store := func(part int, body func() (io.ReadCloser, int64, error), name, typ string) {
		if u, err := s.db.file(ctx, k.ev.Room, k.ev.ID, part); err != nil || u != "" {
			return
		}
		r, size, err := body()
		if err == nil {
			defer r.Close()
			var u string
			if size < 0 || size > maxFile {
				err = errFileLarge
			} else if u, err = s.files.put(ctx, s, r, name, size, typ); err == nil {
				err = s.db.keepFile(k.ev.Room, k.ev.ID, part, u)
			}
		}
		if err != nil {
			s.log.Info().Err(err).Str("room", k.ev.Room.String()).Msg("a file could not be given to the XMPP server")
		}
	}
	for i, f := range shownFiles(k) {
		p := f.Part
		if directURL(p) != "" {
			continue
		}
		name, typ := fileName(p), mediaType(p)
		store(i, func() (io.ReadCloser, int64, error) {
			if p.Cardinality == content.SinglePart {
				return io.NopCloser(strings.NewReader(string(p.Content))), int64(len(p.Content)), nil
			}
			return s.host.Download(ctx, k.ev.Local[0], k.ev.Room, p.External)
		}, name, typ)
	}
	text := s.readable(k.ev, &voice{nickOf: func(u mimiuri.URI) (string, addr, bool) { return fullName(u), s.userJID(u), true }}).text
	if textSize(text) > s.cfg.MaxBody {
		store(longText, func() (io.ReadCloser, int64, error) {
			return io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
		}, "message.txt", "text/plain; charset=utf-8")
	}
}

func textSize(s string) (n int) {
	for _, r := range s {
		n += xmlSize(r)
	}
	return n
}

// shownFiles are the files of a message that are shown as such.
func shownFiles(k *classified) []content.Chosen {
	list := append(append([]content.Chosen(nil), k.c.Files...), k.c.Inline...)
	if len(list) > maxFiles {
		list = list[:maxFiles]
	}
	return list
}

// directURL is where clients can fetch a part themselves: what is not encrypted.
func directURL(p *content.Part) string {
	if p.Cardinality != content.ExternalPart || p.External == nil || p.External.EncAlg != 0 {
		return ""
	}
	if _, ok := webURL(p.External.URL); !ok {
		return ""
	}
	return p.External.URL
}

func mediaType(p *content.Part) string {
	typ, _, err := mime.ParseMediaType(p.ContentType)
	if err != nil || typ == "" {
		return "application/octet-stream"
	}
	return typ
}

func fileName(p *content.Part) string {
	name := ""
	if p.External != nil {
		name = cut(strings.Map(fileNameRune, p.External.Filename), 200)
	}
	if name == "" || name == "." || name == ".." {
		name = "file"
		if list, err := mime.ExtensionsByType(mediaType(p)); err == nil && len(list) > 0 {
			name += list[0]
		}
	}
	return name
}

// renderFiles gives for each file what a message about it has: XEP-0066 with the URL as text, XEP-0385, XEP-0447.
func (s *service) renderFiles(ctx context.Context, k *classified, _ *voice) (out []*element, err error) {
	for i, f := range shownFiles(k) {
		u := directURL(f.Part)
		if u == "" {
			if u, err = s.db.file(ctx, k.ev.Room, k.ev.ID, i); err != nil {
				return nil, err
			}
		}
		size := int64(len(f.Part.Content))
		desc := ""
		if x := f.Part.External; x != nil {
			size, desc = 0, cut(x.Description, 500)
			if x.EncAlg == 0 {
				size = int64(min(x.Size, 1<<53))
			} else if over := content.EncryptedSize(x.EncAlg, 0); x.Size > over {
				size = int64(min(x.Size-over, 1<<53))
			}
		}
		if u == "" {
			out = append(out, el("", "x").add(textEl("", "body", fmt.Sprintf(textFile, fileName(f.Part), mediaType(f.Part)))))
			continue
		}
		out = append(out, fileElement(u, fileName(f.Part), mediaType(f.Part), desc, size, f.Disposition != content.Attachment))
	}
	return out, nil
}

func fileElement(u, name, typ, desc string, size int64, inline bool) *element {
	disposition, bytes := "attachment", ""
	if inline {
		disposition = "inline"
	}
	if size > 0 {
		bytes = strconv.FormatInt(size, 10)
	}
	meta := func(ns string) *element {
		f := el(ns, "file").add(textEl(ns, "media-type", typ), textEl(ns, "name", name))
		if bytes != "" {
			f.add(textEl(ns, "size", bytes))
		}
		if desc != "" {
			f.add(textEl(ns, "desc", desc))
		}
		return f
	}
	return el("", "x").add(
		textEl("", "body", u),
		el(nsOOB, "x").add(textEl(nsOOB, "url", u)),
		el(nsSFS, "file-sharing", "disposition", disposition).add(meta(nsFile), el(nsSFS, "sources").add(el(nsURLData, "url-data", "target", u))),
		el(nsFallback, "fallback", "for", nsSFS).add(el(nsFallback, "body")),
		el(nsReference, "reference", "type", "data", "begin", "0", "end", strconv.Itoa(utf8.RuneCountInString(u)), "uri", u).add(
			el(nsSIMS, "media-sharing").add(meta(nsJingleFT), el(nsSIMS, "sources").add(el(nsReference, "reference", "type", "data", "uri", u)))))
}

// fitted gives a text as it fits into stanzas: if it is too long for one, its beginning and the whole as a file, or, where files
// cannot be stored, in several parts.
func (s *service) fitted(ctx context.Context, k *classified, _ *voice, text string) ([]string, []*element, error) {
	if textSize(text) <= s.cfg.MaxBody {
		return []string{text}, nil, nil
	}
	u, err := s.db.file(ctx, k.ev.Room, k.ev.ID, longText)
	if err != nil {
		return nil, nil, err
	}
	if u == "" {
		return split(text, s.cfg.MaxBody), nil, nil
	}
	begin := split(text, min(s.cfg.MaxBody, 2000))[0]
	return []string{strings.TrimRight(begin, "\n ") + " …\n" + textLong}, []*element{fileElement(u, "message.txt", "text/plain", "", 0, false)}, nil
}

func (s *store) keepFile(room mimiuri.URI, id content.MessageID, part int, u string) error {
	return s.exec(`INSERT INTO xmpp_file (room, mimi, part, url) VALUES ($1, $2, $3, $4) ON CONFLICT (room, mimi, part) DO NOTHING`, room.String(), id.String(), part, u)
}

func (s *store) file(ctx context.Context, room mimiuri.URI, id content.MessageID, part int) (u string, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT url FROM xmpp_file WHERE room = $1 AND mimi = $2 AND part = $3`, room.String(), id.String(), part).Scan(&u)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return u, err
}
