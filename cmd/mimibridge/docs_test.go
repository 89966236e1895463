package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/adapters/console"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// fence is a block of a document: what stands behind the backticks, and what is in it.
type fence struct{ doc, info, text string }

// fences lists the blocks of README.md and docs/, in the order of docs/README.md.
func fences(t *testing.T) (list []fence) {
	t.Helper()
	top := filepath.Join("..", "..")
	names, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	if err != nil || len(names) < 7 {
		t.Fatalf("%v %q", err, names)
	}
	first := filepath.Join(top, "docs", "quickstart.md")
	names = append([]string{filepath.Join(top, "README.md"), first}, slices.DeleteFunc(names, func(n string) bool { return n == first })...)
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(string(b), -1) {
			list = append(list, fence{filepath.Base(name), m[1], m[2]})
		}
	}
	return list
}

// machine is a root file system of its own for the commands of the documents: paths below /etc, /var, /usr/local and /opt lead into it,
// and what only a real machine has is stood in for.
type machine struct {
	t    *testing.T
	root string
	bin  string
	env  []string
}

func newMachine(t *testing.T, bin string) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir()}
	m.bin = filepath.Join(m.root, "stand-ins")
	for _, dir := range []string{"stand-ins", "work", "etc/ssl/example.org", "etc/prosody/conf.d", "etc/matrix-synapse/conf.d", "etc/dendrite", "etc/systemd/system", "etc/bash_completion.d", "var/www", "var/lib/mimibridge", "usr/local/bin"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// sudo runs the rest, whoever it should be; install forgets owners; the rest does nothing but take its arguments.
	m.script("sudo", `while [ $# -gt 0 ]; do case "$1" in -u) shift 2;; *) break;; esac; done; exec "$@"`)
	m.script("install", `args=(); while [ $# -gt 0 ]; do case "$1" in -o|-g) shift 2;; *) args+=("$1"); shift;; esac; done; exec /usr/bin/install "${args[@]}"`)
	for _, name := range []string{"useradd", "systemctl", "prosodyctl", "ejabberdctl"} {
		m.script(name, `[ $# -gt 0 ]`)
	}
	m.copy(bin, filepath.Join(m.root, "work", "mimibridge"), 0o755)
	m.copy(bin, filepath.Join(m.bin, "mimibridge"), 0o755)
	return m
}

func (m *machine) script(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.bin, name), []byte("#!/bin/bash\n"+text+"\n"), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) copy(from, to string, mode os.FileMode) {
	m.t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, b, mode)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// run runs a block as it stands, but for the paths.
func (m *machine) run(f fence, replace ...string) string {
	m.t.Helper()
	text := regexp.MustCompile(`(^|[\s=])/(etc|var|usr/local|opt)/`).ReplaceAllString(f.text, "${1}"+m.root+"/$2/")
	text = strings.NewReplacer(replace...).Replace(text)
	cmd := exec.Command("bash", "-ec", "set -o pipefail\n"+text)
	cmd.Dir = filepath.Join(m.root, "work")
	cmd.Env = append([]string{"PATH=" + m.bin + ":/usr/bin:/bin:/usr/sbin", "HOME=" + m.root}, m.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Errorf("%s: %v\n%s\n%s", f.doc, err, f.text, out)
	}
	return string(out)
}

// TestCommandsOfTheDocs runs every command of the documents: the quick start for each of the four servers on a machine of its own, the
// rest beside a daemon that runs. That the words of commands in running text exist is looked at too.
func TestCommandsOfTheDocs(t *testing.T) {
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	all := fences(t)
	ran := map[string]int{}
	for _, f := range all {
		kind, _, _ := strings.Cut(f.info, " ")
		if kind == "bash" || kind == "shell" || kind == "console" {
			t.Errorf("%s: a block of %q is run by nobody; write sh", f.doc, f.info)
		}
	}
	for _, server := range []string{"prosody", "ejabberd", "synapse", "dendrite"} {
		t.Run("quick start for "+server, func(t *testing.T) {
			m := newMachine(t, bin)
			ca, err := testnet.NewCA(filepath.Join(m.root, "ca"))
			if err != nil {
				t.Fatal(err)
			}
			cert, key, err := ca.IssueWith("example.org", testnet.CertOptions{Names: []string{"example.org"}})
			if err != nil {
				t.Fatal(err)
			}
			m.copy(cert, filepath.Join(m.root, "etc/ssl/example.org/fullchain.pem"), 0o600)
			m.copy(key, filepath.Join(m.root, "etc/ssl/example.org/privkey.pem"), 0o600)
			m.copy(filepath.Join("..", "..", "packaging", "mimibridge.service"), filepath.Join(m.root, "work/packaging/mimibridge.service"), 0o644)
			// There is no chat server here, and no DNS: check says so, which is its work, and that is not what is tested.
			m.script("mimibridge", fmt.Sprintf(`%q "$@"; status=$?; [ $status = 1 ] && [ "$1" = check ] && exit 0; exit $status`, filepath.Join(m.root, "work", "mimibridge")))
			network := map[bool]string{true: "xmpp", false: "matrix"}[server == "prosody" || server == "ejabberd"]
			for _, f := range all {
				if f.doc != "quickstart.md" || f.info != "sh" && f.info != "sh "+network && f.info != "sh "+server {
					continue
				}
				ran[f.doc+f.text]++
				out := m.run(f)
				if strings.Contains(f.text, "mimibridge check") && (!strings.Contains(out, "is a configuration for example.org") || !strings.Contains(out, map[string]string{"xmpp": "the XMPP server does not answer", "matrix": "the homeserver does not answer"}[network])) {
					t.Errorf("check prints %s", out)
				}
			}
			if b, err := os.ReadFile(filepath.Join(m.root, "var/www/mimi-protocol-directory.json")); err != nil || !strings.Contains(string(b), "https://example.org:8443/v1/notify/{roomId}") {
				t.Errorf("the directory: %v %s", err, b)
			}
		})
	}
	t.Run("beside a daemon", func(t *testing.T) {
		p := newProviders(t, "a.example")[0].start()
		alice := p.chat("alice", "tryout")
		alice.do(console.Request{Do: "create"})
		alice.event("joined", "mimi://a.example/u/alice")
		m := newMachine(t, bin)
		m.env = []string{"MIMIBRIDGE_CONFIG=" + p.config, "TOKEN=hunter2"}
		for _, f := range all {
			if f.info != "sh daemon" && (f.info != "sh" || f.doc == "quickstart.md") {
				continue
			}
			ran[f.doc+f.text]++
			m.run(f, "127.0.0.1:9464", p.admin, "alice@example.org", "nobody@a.example")
		}
		alice.text("hello")
	})
	for _, f := range all {
		if strings.HasPrefix(f.info, "sh") && ran[f.doc+f.text] == 0 {
			t.Errorf("%s: nobody has run\n%s", f.doc, f.text)
		}
	}
	if len(ran) < 12 {
		t.Errorf("only %d blocks were found", len(ran))
	}
}

// TestCommandsInTheText: `mimibridge WORD WORD` in running text is a command that exists.
func TestCommandsInTheText(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range append(names, filepath.Join("..", "..", "README.md"), filepath.Join("..", "..", "CONTRIBUTING.md")) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`(?:bin/)?mimibridge ([a-z]+)(?:[ \n]([a-z]+))?").FindAllStringSubmatch(string(b), -1) {
			found++
			list := commands()
			at := slices.IndexFunc(list, func(c command) bool { return c.name == m[1] })
			if at < 0 {
				t.Errorf("%s: there is no command %q", filepath.Base(name), m[1])
				continue
			}
			if sub := list[at].sub; sub != nil && m[2] != "" && !slices.ContainsFunc(sub, func(c command) bool { return c.name == m[2] }) {
				t.Errorf("%s: there is no command %q", filepath.Base(name), m[1]+" "+m[2])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d commands were found", found)
	}
}

// TestCommandsInBlocks: of commands that stand indented, and so are not run by TestCommandsOfTheDocs, the words and flags exist, as do the targets
// of make.
func TestCommandsInBlocks(t *testing.T) {
	top := filepath.Join("..", "..")
	makefile, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range append(names, filepath.Join(top, "README.md"), filepath.Join(top, "CONTRIBUTING.md")) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?m)(?:^    |`|\\n)make ([a-z-]+)").FindAllStringSubmatch(string(b), -1) {
			found++
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
				t.Errorf("%s: there is no target %q", filepath.Base(name), m[1])
			}
		}
		for _, m := range regexp.MustCompile("(?m)^    (?:bin/)?mimibridge (.*)$").FindAllStringSubmatch(string(b), -1) {
			found++
			line, _, _ := strings.Cut(m[1], " #")
			words, list := strings.Fields(line), commands()
			var run command
			for len(words) > 0 && run.run == nil {
				at := slices.IndexFunc(list, func(c command) bool { return c.name == words[0] })
				if at < 0 {
					break
				}
				run, list, words = list[at], list[at].sub, words[1:]
			}
			if run.run == nil {
				t.Errorf("%s: there is no command %q", filepath.Base(name), line)
				continue
			}
			var out strings.Builder
			completeFlags(&env{out: &out}, run, "-")
			for _, w := range words {
				if strings.HasPrefix(w, "-") && w != "-" && !strings.Contains(out.String(), w+"\t") {
					t.Errorf("%s: %s has no flag %s", filepath.Base(name), run.name, w)
				}
			}
		}
	}
	if found < 12 {
		t.Errorf("only %d commands were found", found)
	}
}

// TestLinksOfTheDocs: files that the documents link to are there.
func TestLinksOfTheDocs(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, filepath.Join("..", "..", "README.md")) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s", filepath.Base(name), m[1])
			}
		}
	}
}

// directions says for each row of docs/directions.md which features of docs/xmpp.md and docs/matrix.md, which are made from the tests that ran,
// show it. What a network cannot do has no expression.
var directions = map[string]struct{ xmpp, matrix string }{
	"text":                                  {`^rooms, invitations|^messages of a connected|^conversations with one`, `^replies$|^relay$`},
	"formatting":                            {`^styling$`, `^formatted text`},
	"replies":                               {`^replies$`, `^replies$`},
	"corrections":                           {`^corrections$`, `^edits$`},
	"retractions":                           {`^retractions$`, `^redactions$`},
	"reactions":                             {`^reactions$`, `^reactions$`},
	"mentions":                              {`^mentions`, `mentions$`},
	"delivery and read status":              {`^markers$`, `^read receipts$`},
	"files":                                 {`^files`, `^files$`},
	"typing":                                {`^typing within the provider$`, ``},
	"opening a room":                        {`^rooms, invitations`, `^direct rooms$|^plumbing an existing room$`},
	"joining, leaving, inviting, removing":  {`^rooms, invitations`, `^direct rooms$|^joining by alias$|^uninstalling$|^bans$`},
	"roles, bans":                           {`^kick, ban, voice`, `^bans$|^roles$`},
	"name, subject, description":            {`^subject$`, `^room name, topic`},
	"ending a room":                         {`destroying$`, `^unplumb$|^a room is closed$`},
	"being asked, agreeing, refusing":       {`^consent as subscription$`, `^direct rooms$`},
	"calls":                                 {``, ``},
	"encrypted rooms of the network itself": {``, `^encrypted rooms`},
}

// TestDirections: what directions.md promises is shown by features of the networks' pages, in each direction.
func TestDirections(t *testing.T) {
	cells := func(line string) (out []string) {
		for _, c := range strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			out = append(out, strings.TrimSpace(c))
		}
		return out
	}
	read := func(name string) []string {
		b, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(string(b), "\n")
	}
	type feature struct{ name, direction string }
	features := func(name string) (out []feature) {
		in := false
		for _, line := range read(name) {
			in = (in || strings.HasPrefix(line, "| feature |")) && strings.HasPrefix(line, "|")
			if c := cells(line); in && len(c) == 6 {
				out = append(out, feature{c[0], c[2]})
			}
		}
		if len(out) < 20 {
			t.Fatalf("%s has %d features", name, len(out))
		}
		return out
	}
	xmpp, matrix := features("xmpp.md"), features("matrix.md")
	shown := func(list []feature, expression string) (arrows string) {
		for _, f := range list {
			if !regexp.MustCompile(expression).MatchString(f.name) {
				continue
			}
			switch f.direction {
			case "to MIMI", "from Matrix":
				arrows += "→"
			case "from MIMI", "to Matrix":
				arrows += "←"
			case "both":
				arrows += "→←"
			}
		}
		return arrows
	}
	seen := 0
	for _, line := range read("directions.md") {
		c := cells(line)
		if !strings.HasPrefix(line, "| ") || len(c) != 4 || c[0] == "" {
			continue
		}
		seen++
		row, ok := directions[c[0]]
		if !ok {
			t.Errorf("no test is known to show %q: name its features in directions", c[0])
			continue
		}
		for _, n := range []struct {
			name, cell, expression string
			list                   []feature
		}{{"XMPP", c[1], row.xmpp, xmpp}, {"Matrix", c[2], row.matrix, matrix}} {
			if promises := strings.ContainsAny(n.cell, "→←"); n.expression == "" {
				if promises {
					t.Errorf("%s, %s: nothing shows it", c[0], n.name)
				}
				continue
			}
			got := shown(n.list, n.expression)
			if got == "" {
				t.Errorf("%s, %s: no feature is called %s", c[0], n.name, n.expression)
			}
			for _, arrow := range []string{"→", "←"} {
				if strings.Contains(n.cell, arrow) && !strings.Contains(got, arrow) {
					t.Errorf("%s, %s: %s is promised and not shown by a feature", c[0], n.name, arrow)
				}
			}
		}
	}
	if seen != len(directions) {
		t.Errorf("%d rows, %d are known", seen, len(directions))
	}
}
