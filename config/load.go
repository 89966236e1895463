package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// maxFile bounds a configuration file; a larger one is something else given by mistake.
const maxFile = 1 << 20

// Error is one thing wrong with a configuration file.
type Error struct {
	File string // as given
	Line int    // 1 is the first; 0 if it is about the file as a whole
	Key  string // "federation.url", may be empty
	Text string // what is wrong
	Cure string // what to do about it
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Text)
	if e.Cure != "" {
		b.WriteString(" (" + e.Cure + ")")
	}
	return b.String()
}

// Errors are all the things wrong with a configuration file, in the order of its lines.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a configuration file and the secrets it names. What is wrong with the content is
// an Errors.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, Errors{{File: path, Text: "there is no such file", Cure: "`mimibridge init` writes one, -c names another"}}
		}
		return nil, fmt.Errorf("config: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("config: read %s: %w", path, err)
	}
	return Parse(path, b)
}

// Parse is Load for a file whose content is b. name is the path it has or would have: errors name it, and
// relative paths start from its folder.
func Parse(name string, b []byte) (*Config, error) {
	c, where, err := decode(name, b)
	if err != nil {
		return nil, err
	}
	v := &validator{file: name, where: where}
	c.File, c.where, c.given = name, where, make(map[string]bool)
	for _, f := range c.fields() {
		c.given[f.key] = !f.zero
	}
	c.setDefaults()
	c.validate(v)
	c.resolvePaths(filepath.Dir(name))
	c.readSecrets(v)
	if len(v.errs) > 0 {
		slices.SortStableFunc(v.errs, func(a, b *Error) int { return a.Line - b.Line })
		return nil, v.errs
	}
	return c, nil
}

// decode reads the YAML strictly; where holds the line of each key by its dotted path.
func decode(name string, b []byte) (c *Config, where map[string]int, err error) {
	if len(b) > maxFile {
		return nil, nil, Errors{{File: name, Text: "the file is larger than 1 MiB", Cure: "is it a mimibridge configuration?"}}
	}
	c, where = new(Config), make(map[string]int)
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return c, where, nil // empty: validation tells what is needed
	} else if err != nil {
		return nil, nil, yamlErrors(name, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, nil, Errors{{File: name, Text: "there is a second YAML document", Cure: "remove everything after the line ---"}}
	}
	var errs Errors
	checkKeys(name, doc.Content[0], reflect.TypeOf(Config{}), "", where, &errs)
	if len(errs) > 0 {
		return nil, nil, errs
	}
	if err := doc.Content[0].Decode(c); err != nil {
		return nil, nil, yamlErrors(name, err)
	}
	return c, where, nil
}

// checkKeys walks a mapping with the struct it is for, reports keys the struct does not have, and notes the
// line of those it has.
func checkKeys(file string, n *yaml.Node, t reflect.Type, path string, where map[string]int, errs *Errors) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.AliasNode {
		*errs = append(*errs, &Error{File: file, Line: n.Line, Key: path, Text: "an alias (*" + clip(n.Value) + ")", Cure: "write the value itself"})
		return
	}
	if t.Kind() != reflect.Struct && t.Kind() != reflect.Map {
		return
	}
	if n.Kind != yaml.MappingNode {
		if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
			return
		}
		*errs = append(*errs, &Error{File: file, Line: n.Line, Key: path, Text: "here belongs a list of keys with values", Cure: `"key: value" lines, indented`})
		return
	}
	fields := make(map[string]reflect.Type)
	var names []string
	if t.Kind() == reflect.Struct {
		for i := range t.NumField() {
			if tag := t.Field(i).Tag.Get("yaml"); tag != "-" && t.Field(i).IsExported() {
				fields[tag] = t.Field(i).Type
				names = append(names, tag)
			}
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		sub := k.Value
		if path != "" {
			sub = path + "." + k.Value
		}
		if _, twice := where[sub]; twice {
			*errs = append(*errs, &Error{File: file, Line: k.Line, Key: clip(sub), Text: "this key stands here a second time", Cure: "keep one"})
			continue
		}
		where[sub] = k.Line
		ft := t
		if t.Kind() == reflect.Struct {
			var ok bool
			if ft, ok = fields[k.Value]; !ok {
				cure := "the keys here are " + strings.Join(names, ", ")
				if near := nearest(k.Value, names); near != "" {
					cure = "did you mean " + near + "?"
				} else if other := elsewhere(k.Value); other != "" {
					cure = "it belongs under " + other
				}
				*errs = append(*errs, &Error{File: file, Line: k.Line, Key: path, Text: fmt.Sprintf("unknown key %q", clip(k.Value)), Cure: cure})
				continue
			}
		} else {
			ft = t.Elem()
		}
		checkKeys(file, v, ft, sub, where, errs)
	}
}

// elsewhere finds the section that has a key, "" if none or several have it.
func elsewhere(key string) string {
	var found []string
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return
		}
		for i := range t.NumField() {
			tag := t.Field(i).Tag.Get("yaml")
			if tag == "-" || !t.Field(i).IsExported() {
				continue
			}
			if tag == key && path != "" {
				found = append(found, path)
			}
			sub := tag
			if path != "" {
				sub = path + "." + tag
			}
			walk(t.Field(i).Type, sub)
		}
	}
	walk(reflect.TypeOf(Config{}), "")
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// nearest returns the name at a small edit distance from key, "" if none is near.
func nearest(key string, names []string) string {
	key = strings.ReplaceAll(strings.ToLower(key), "-", "_")
	best, at := "", 3
	if len(key) > 64 {
		return ""
	}
	for _, n := range names {
		if d := distance(key, n); d < at && d < len(n) {
			best, at = n, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two short strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}

var (
	yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	yamlType = regexp.MustCompile("^cannot unmarshal !!(\\w+)(?: `.*`)? into (.*)$")
)

// yamlErrors turns the library's errors into ours. The value itself is left out: it may be a secret.
func yamlErrors(file string, err error) error {
	texts := []string{err.Error()}
	if te := (*yaml.TypeError)(nil); errors.As(err, &te) {
		texts = te.Errors
	}
	var out Errors
	for _, text := range texts {
		e := &Error{File: file, Text: strings.TrimPrefix(text, "yaml: "), Cure: "see https://yaml.org for the syntax; indent with spaces, quote values that start with a special character"}
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			e.Line, _ = strconv.Atoi(m[1])
			e.Text = m[2]
		}
		if text, cure, ok := strings.Cut(e.Text, unitCure); ok {
			e.Text, e.Cure = text, cure
		}
		if m := yamlType.FindStringSubmatch(e.Text); m != nil {
			kinds := map[string]string{"seq": "a list", "map": "a mapping", "str": "a string", "int": "a number", "bool": "true or false", "float": "a number"}
			e.Text, e.Cure = "the value is "+kinds[m[1]]+", not what belongs here", "write a "+goKind(m[2])
		}
		out = append(out, e)
	}
	return out
}

func goKind(t string) string {
	switch t {
	case "int", "int64", "uint":
		return "whole number"
	case "bool":
		return "true or false"
	}
	return "string; put it in quotes if in doubt"
}

// clip shortens text of the file for an error message.
func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

func (c *Config) setDefaults() {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	if d, err := mimiuri.NormalizeDomain(c.Domain); err == nil {
		c.Domain = d // before others are made of it
	}
	if x := c.Network.XMPP; x != nil {
		def(&x.Server, "127.0.0.1:5347")
		def(&x.LocalDomain, c.Domain)
		def(&x.Users, "mimi."+x.LocalDomain)
		def(&x.Rooms, "rooms."+x.Users)
		def(&x.Puppets, "speakers")
	}
	if m := c.Network.Matrix; m != nil {
		def(&m.Homeserver, "http://127.0.0.1:8008")
		def(&m.ServerName, c.Domain)
		def(&m.Listen, "127.0.0.1:29333")
		def(&m.Registration, "registration.yaml")
	}
	def(&c.Federation.Listen, ":8443")
	if _, port, err := net.SplitHostPort(c.Federation.Listen); err == nil && c.Domain != "" {
		host, _, _ := strings.Cut(c.Domain, ":")
		if port == "443" {
			def(&c.Federation.URL, "https://"+host)
		}
		def(&c.Federation.URL, "https://"+net.JoinHostPort(host, port))
	}
	if st := &c.Storage; st.Postgres == "" && st.PostgresFile == "" && st.PostgresEnv == "" {
		def(&st.SQLite, "mimibridge.db")
	}
	if c.Storage.SQLite != "" {
		def(&c.Assets.Folder, strings.TrimSuffix(c.Storage.SQLite, filepath.Ext(c.Storage.SQLite))+"-assets")
	}
	def(&c.Assets.Folder, "mimibridge-assets")
	defN(&c.Assets.MaxFile, 100<<20)
	defN(&c.Assets.Quota, 1<<30)
	defN(&c.Assets.Cache, 1<<30)
	def(&c.People.Consent, "ask")
	def(&c.People.Ask, "auto")
	l := &c.Limits
	for p, v := range map[*int]int{&l.ConsentRequests: 10, &l.Invites: 30, &l.Lookups: 20, &l.RoomsADay: 5, &l.Rooms: 200, &l.Pending: 50, &l.PeerFactor: 50, &l.PeerRate: 1000} {
		if *p == 0 {
			*p = v
		}
	}
	defN(&l.Message, 768<<10)
	r := &c.Retention
	for _, f := range []struct {
		v *Duration
		d Duration
	}{{&r.Messages, 30}, {&r.Attachments, 30}, {&r.IDs, 90}, {&r.Logs, 7}, {&r.Queues, 30}, {&r.Answers, 7}, {&r.Reports, 90}} {
		defN(f.v, f.d*Day)
	}
	if c.Secrets.KeyEnv == "" {
		def(&c.Secrets.KeyFile, "sealing.key")
	}
	def(&c.Admin.Socket, filepath.Join(filepath.Dir(c.Storage.SQLite), "mimibridge.sock"))
	if c.Admin.Console == nil {
		c.Admin.Console = new(bool)
		*c.Admin.Console = true
	}
	def(&c.Log.Level, "info")
	def(&c.Log.Format, "auto")
	if c.Permissions == nil && c.LocalDomain() != "" {
		c.Permissions = Permissions{foldID(c.LocalDomain()): User.String()}
	}
}

func defN[T Octets | Duration](p *T, v T) {
	if *p == 0 {
		*p = v
	}
}

// validator collects errors with the lines of their keys.
type validator struct {
	file  string
	where map[string]int
	errs  Errors
}

func (v *validator) fail(key, text, cure string) {
	line := 0
	for k := key; ; {
		if n, ok := v.where[k]; ok {
			line = n
			break
		}
		i := strings.LastIndexByte(k, '.')
		if i < 0 {
			break
		}
		k = k[:i]
	}
	v.errs = append(v.errs, &Error{File: v.file, Line: line, Key: key, Text: text, Cure: cure})
}

func (v *validator) domain(key string, p *string) {
	d, err := mimiuri.NormalizeDomain(*p)
	if err != nil {
		v.fail(key, fmt.Sprintf("%q is not a domain", clip(*p)), "a name such as example.org, without scheme or path")
		return
	}
	*p = d
}

func (v *validator) hostPort(key, s string, hostNeeded bool) {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		var n int
		if n, err = strconv.Atoi(port); err == nil && (n < 1 || n > 65535) {
			err = errors.New("port")
		}
	}
	if err != nil || host == "" && hostNeeded {
		v.fail(key, fmt.Sprintf("%q is not host:port", clip(s)), "for instance 127.0.0.1:5347")
	}
}

func (v *validator) url(key string, p *string, schemes ...string) {
	u, err := url.Parse(*p)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		v.fail(key, fmt.Sprintf("%q is not a URL without a path", clip(*p)), "for instance "+schemes[0]+"://mimi.example.org:8443")
		return
	}
	*p = strings.TrimRight(*p, "/")
}

func (c *Config) validate(v *validator) {
	if c.Domain == "" {
		v.fail("domain", "is missing", "the MIMI provider domain, for instance domain: example.org")
	} else {
		v.domain("domain", &c.Domain)
	}
	switch x, m := c.Network.XMPP, c.Network.Matrix; {
	case x == nil && m == nil:
		if _, said := v.where["network"]; !said {
			v.fail("network", "is missing", "network: with xmpp: or matrix: under it, even if that is empty {}; network: {} for a hub without a network of its own")
		}
		for _, key := range []string{"network.xmpp", "network.matrix"} {
			if _, said := v.where[key]; said {
				v.fail(key, "has nothing under it", strings.TrimPrefix(key, "network.")+": {} takes the defaults")
			}
		}
	case x != nil && m != nil:
		v.fail("network", "there are two networks", "a provider serves one; run a second daemon with a domain of its own")
	case x != nil:
		v.hostPort("network.xmpp.server", x.Server, true)
		if x.LocalDomain != "" {
			v.domain("network.xmpp.local_domain", &x.LocalDomain)
			v.domain("network.xmpp.users", &x.Users)
			v.domain("network.xmpp.rooms", &x.Rooms)
		}
		if x.Users != "" && (x.Users == x.Rooms || x.Users == x.LocalDomain || x.Rooms == x.LocalDomain) {
			v.fail("network.xmpp.rooms", "local_domain, users and rooms must be three different domains", "for instance example.org, mimi.example.org, rooms.mimi.example.org")
		}
		if x.Puppets != "speakers" && x.Puppets != "none" {
			v.fail("network.xmpp.puppets", fmt.Sprintf("%q is neither", clip(x.Puppets)), "speakers or none")
		}
		for _, p := range x.OtherBridges {
			if _, err := path.Match(p, ""); err != nil || p == "" {
				v.fail("network.xmpp.other_bridges", fmt.Sprintf("%q is no pattern", clip(p)), `for instance "*@irc.example.org"`)
			}
		}
		for _, l := range x.Blocklists {
			service, _, _ := strings.Cut(l, "/")
			if service == "" || strings.ContainsAny(service, " @") {
				v.fail("network.xmpp.blocklists", fmt.Sprintf("%q names no service", clip(l)), "for instance pubsub.example.org/muc_bans_sha256")
			}
		}
	case m != nil:
		v.url("network.matrix.homeserver", &m.Homeserver, "http", "https")
		v.hostPort("network.matrix.listen", m.Listen, false)
	}
	v.hostPort("federation.listen", c.Federation.Listen, false)
	if c.Federation.URL != "" {
		v.url("federation.url", &c.Federation.URL, "https")
	}
	if c.Federation.CertFile == "" {
		v.fail("federation.cert_file", "is missing", "a PEM file with a certificate for the provider domain, its chain below it")
	}
	if c.Federation.KeyFile == "" {
		v.fail("federation.key_file", "is missing", "the PEM file with the certificate's private key")
	}
	if c.Admin.Listen != "" {
		v.hostPort("admin.listen", c.Admin.Listen, false)
		if c.Admin.Listen == c.Federation.Listen || c.Network.Matrix != nil && c.Admin.Listen == c.Network.Matrix.Listen {
			v.fail("admin.listen", "another listener has this address", "a port of its own, for instance 127.0.0.1:9464")
		}
	}
	if len(c.Admin.Socket) > 100 {
		v.fail("admin.socket", "the path is too long for a Unix socket", "at most 100 octets, for instance /run/mimibridge/admin.sock")
	}
	peers := make(map[string]string, len(c.Federation.Peers))
	for d, addr := range c.Federation.Peers {
		key, norm := "federation.peers."+d, d
		v.domain(key, &norm)
		v.hostPort(key, addr, true)
		peers[norm] = addr
	}
	c.Federation.Peers = peers
	folded := make(Permissions, len(c.Permissions))
	for id, level := range c.Permissions {
		key := "permissions." + id
		if _, err := ParseLevel(level); err != nil {
			v.fail(key, err.Error(), "for instance \"example.org\": user")
		}
		if id == "" || strings.ContainsAny(id, " \t\n") || strings.HasPrefix(id, "*") && id != "*" {
			v.fail(key, "is no network id, domain or \"*\"", "alice@example.org, \"@alice:example.org\", example.org or \"*\"")
		}
		if _, twice := folded[foldID(id)]; twice {
			v.fail(key, "there are two rules that differ only in case", "keep one")
		}
		folded[foldID(id)] = level
	}
	c.Permissions = folded
	for key, list := range map[string][]string{"federation.allow": c.Federation.Allow, "federation.deny": c.Federation.Deny} {
		for i, d := range list {
			rest, sub := strings.CutPrefix(d, "*.")
			v.domain(key, &rest)
			if list[i] = rest; sub {
				list[i] = "*." + rest
			}
		}
	}
	if !slices.Contains([]string{"ask", "contacts", "everyone", "nobody"}, c.People.Consent) {
		v.fail("people.consent", fmt.Sprintf("%q is no policy", clip(c.People.Consent)), "ask, contacts, everyone or nobody")
	}
	if !slices.Contains([]string{"auto", "invitation", "question"}, c.People.Ask) {
		v.fail("people.ask", fmt.Sprintf("%q is no way to ask", clip(c.People.Ask)), "auto, invitation or question")
	}
	if c.Limits.Message < 1<<10 || c.Limits.Message > 768<<10 {
		v.fail("limits.message", "must be from 1 kB to 768 kB", "leave it out for 768 kB, which others expect to be possible")
	}
	if c.Limits.PeerRate < 0 {
		c.Limits.PeerRate = 1 << 30
	}
	if c.Assets.Quota < c.Assets.MaxFile {
		v.fail("assets.quota", "is less than one file may have", "make it larger than assets.max_file")
	}
	if !slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, c.Log.Level) {
		v.fail("log.level", fmt.Sprintf("%q is no level", clip(c.Log.Level)), "trace, debug, info, warn or error")
	}
	if !slices.Contains([]string{"auto", "json", "console"}, c.Log.Format) {
		v.fail("log.format", fmt.Sprintf("%q is no format", clip(c.Log.Format)), "auto, json or console")
	}
}

func (c *Config) resolvePaths(dir string) {
	paths := []*string{&c.Federation.CertFile, &c.Federation.KeyFile, &c.Federation.CAFile, &c.Federation.Record, &c.Storage.SQLite, &c.Storage.PostgresFile, &c.Secrets.KeyFile, &c.Admin.Socket, &c.Admin.TokenFile, &c.Assets.Folder}
	if x := c.Network.XMPP; x != nil {
		paths = append(paths, &x.SecretFile)
	}
	if m := c.Network.Matrix; m != nil {
		paths = append(paths, &m.Registration)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}
