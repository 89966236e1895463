package content_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/content"
)

// draftExample is what is known of an example file of draft-ietf-mimi-content.
type draftExample struct {
	id    string // its message ID
	class string // what Classify makes of it: kind, target, and what else there is
	text  string // what ReadableText gives
	parts string // what Choose leaves for a reader of French that can show HTML and PNG, by part index
}

const (
	original = "017ce54837404c3696e0c747b985cb172716d0ed0a3d249ca63ace7d82a096f4"
	reply    = "015354973c2b65ca937bf1e035ae53a5ab80e947afa43d46920d4202e5cc0b27"
	reaction = "0158c4288911e50a8f6be3f47746b6682f10fd91bc8c05557aa589a3157aff68"
	// The derived values are said to be those of original, but have the ID it had in an older draft.
	older = "01b0084467273cc43d6f0ebeac13eb84229c4fffe8f6c3594c905f47779e5a79"
)

var draftExamples = map[string]draftExample{
	"attachment":   {id: "0176180c7d19a925021fe446d241134d05c38e0d999cdc0f39c391d2377ed9d1", class: "message, file 0 video/mp4", parts: "0"},
	"conferencing": {id: "01496d15a8dba28d7397f9868b70768e4a67f765d5b5b1ae9e03848c5fdeb0ba", class: "session", parts: "0"},
	"delete":       {id: "011d9efc78d04d4dcf4d82b07d5199bbef37011c1f0c7e004b6111c6dda504b4", class: "delete of " + reply + ", in reply to " + original},
	"edit": {id: "014028c0deddbdea56bec26172f6ede953d11024cb82b8192b5e2aea62d7fb47", class: "edit of " + reply + ", in reply to " + original,
		text: "Right on! _Congratulations_ y'all!", parts: "0"},
	"expiring": {id: "01e59db8173939facc2c8a4a0f0ae8d0c7a11a81239626630c9464a8d6717a03", class: "message, expires",
		text: "*_VPN GOING DOWN_* I'm rebooting the VPN in ten minutes unless anyone objects.", parts: "0"},
	"mention": {id: "018d825adf9f6be00dcafc5704c4102f5022e74219d0b603e4ba7622654042af",
		class: "message, in reply to " + original + ", mentions mimi://example.com/u/alice-smith", text: "Kudos to @Alice Smith for making the release happen!", parts: "0"},
	"mention-html": {id: "01967ff8e9a66819738ad5cf26d2e0388a3b81d86b0f61d129c077d043ee2a4e",
		class: "message, in reply to " + original + ", mentions mimi://example.com/u/alice-smith", text: "Kudos to @Alice Smith for making the release happen!", parts: "0"},
	"multipart-1": {id: "01da5a515ec5db42cc4dcc19b90c3c31245d8a1cfcce11318f24eb11dce0990e", class: "message", text: "*Welcome!*", parts: "1"},
	"multipart-2": {id: "01d65918c6c51c8e76546337276ae6f4bfd873d867d5cb57c76bcdca3d999dd7", class: "message, reactions ❤ 🥳 🤞", parts: "1 2 3"},
	"multipart-3": {id: "01cfebeadbdb83c1eefb6403ba4852daf8bbbf9cd53bf5035a74d5d741950c9f", class: "message, inline 5 image/gif", text: "*Welcome!*\n\nWelcome image", parts: "9 with 10"},
	"original":    {id: original, class: "message", text: "Hi everyone, we just shipped release 2.0. *Good  work*!", parts: "0"},
	"reaction":    {id: reaction, class: "reaction of " + original + ", in reply to " + original + ", reactions ❤", parts: "0"},
	"reply":       {id: reply, class: "message, in reply to " + original, text: "Right on! _Congratulations_ 'all!", parts: "0"},
	"unlike":      {id: "013aadbb8f313253c8930f4e93c6ca54b2ed06d258185bdcec3870534c8a4ec4", class: "unlike of " + reaction + ", in reply to " + original},
}

// describe puts what Classify finds into words.
func describe(m *content.Message) string {
	c := m.Classify()
	s := c.Kind.String()
	if !c.Target.IsZero() {
		s += " of " + c.Target.String()
	}
	if c.InReplyTo != nil {
		s += ", in reply to " + c.InReplyTo.String()
	}
	if len(c.Reactions) > 0 {
		s += ", reactions " + strings.Join(c.Reactions, " ")
	}
	for _, f := range c.Files {
		s += fmt.Sprintf(", file %d %s", f.Index, f.Part.ContentType)
	}
	for _, f := range c.Inline {
		s += fmt.Sprintf(", inline %d %s", f.Index, f.Part.ContentType)
	}
	for _, u := range c.Mentions {
		s += ", mentions " + u.String()
	}
	if c.Expires {
		s += ", expires"
	}
	return s
}

// chosenBy gives the part indices that Choose leaves.
func chosenBy(m *content.Message, c content.Capabilities) string {
	var list []string
	for _, p := range m.Choose(c) {
		s := fmt.Sprint(p.Index)
		for _, i := range p.References {
			s += fmt.Sprint(" with ", i)
		}
		list = append(list, s)
	}
	return strings.Join(list, " ")
}

// frenchPNG reads French, text of all kinds, PNG but not GIF, and files that are elsewhere.
var frenchPNG = content.Capabilities{Languages: []string{"fr"}, Rank: func(typ string, _ map[string]string, p *content.Part) int {
	switch {
	case p.Cardinality == content.ExternalPart, strings.HasPrefix(typ, "text/"), typ == "image/png":
		return 1
	}
	return 0
}}

// TestVectors: each example of the draft decodes, has the message ID the draft gives, encodes to the octets it came
// as, and means what the draft says. The files are looked for in $MIMI_CONTENT_VECTORS and beside the checkout;
// without them the same rules run over this package's own testdata (TestOwnExamples and others), and the log
// says so. Derived values have a file of their own form, which not every set of the files has.
func TestVectors(t *testing.T) {
	dir := os.Getenv("MIMI_CONTENT_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors", "mimi-content")
		if _, err := os.Stat(dir); err != nil {
			t.Log("no example files of the draft here (MIMI_CONTENT_VECTORS names their folder): only the package's own examples are tested")
			return
		}
	}
	for name, want := range draftExamples {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(dir, name+".cbor"))
			if err != nil {
				t.Fatal(err)
			}
			m := checkExample(t, b, want.id)
			if got := describe(m); got != want.class {
				t.Errorf("it is a\n%s, want\n%s", got, want.class)
			}
			if text, _, ok := m.ReadableText(nil); text != want.text || ok != (want.text != "") {
				t.Errorf("text %q, %v; want %q", text, ok, want.text)
			}
			if got := chosenBy(m, frenchPNG); got != want.parts {
				t.Errorf("parts %s, want %s", got, want.parts)
			}
		})
	}
	b, err := os.ReadFile(filepath.Join(dir, "implied-original.cbor"))
	if errors.Is(err, os.ErrNotExist) {
		t.Log("no implied-original.cbor: derived values are tested with the package's own example")
		return
	}
	t.Run("implied-original", func(t *testing.T) {
		d, err := content.DecodeDerived(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := d.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("encoded again it is %x, %v", again, err)
		}
		if d.ID.String() != older || d.Accepted.UnixMilli() != 1644387225019 || len(d.Group) != 32 || d.Leaf != 4 ||
			d.Client.String() != "mimi://example.com/d/3b52249d-68f9-45ce-8bf5-c799f3cad7ec/0003" ||
			d.User.String() != "mimi://example.com/u/alice-smith" || d.Room.String() != "mimi://example.com/r/engineering_team" {
			t.Errorf("got %+v", d)
		}
	})
}

func checkExample(t *testing.T, b []byte, want string) *content.Message {
	t.Helper()
	m, err := content.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	sender, ok := m.SenderURI()
	room, ok2 := m.RoomURI()
	if !ok || !ok2 {
		t.Fatal("senderUri or roomUri is missing")
	}
	if got := content.ID(b, sender, room, m.Salt); got.String() != want {
		t.Errorf("message ID %s, want %s", got, want)
	}
	again, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, b) {
		t.Errorf("encoded again it is\n%x, want\n%x", again, b)
	}
	return m
}
