package admin

import (
	"regexp"
	"strings"
	"testing"
)

// TestTextFormat: what is written is the Prometheus text format, whatever the names are.
func TestTextFormat(t *testing.T) {
	fs := counterFamilies(map[string]uint64{
		"hub.accepted": 3, "hub.delivery_failed": 0, "federation_client.requests.submitMessage": 7, "federation_client.requests.update": 1,
		"adapter_console.odd-name.with \"quotes\"\nand\\more": 2,
	})
	fs = append(fs, family{"mimibridge_x", "gauge", "X.", []sample{{label("b", "2"), 2}, {label("b", "1"), 1.5}}})
	var b strings.Builder
	writeFamilies(&b, fs)
	line := regexp.MustCompile(`^[a-z_:][a-z0-9_:]*(\{[a-z_]+="([^"\\\n]|\\["\\n])*"(,[a-z_]+="([^"\\\n]|\\["\\n])*")*\})? [0-9.e+]+$`)
	typed := map[string]bool{}
	for _, l := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		if name, ok := strings.CutPrefix(l, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if typed[name] {
				t.Errorf("%s has two types", name)
			}
			typed[name] = true
			continue
		}
		if strings.HasPrefix(l, "# HELP ") {
			continue
		}
		name, _, _ := strings.Cut(l, " ")
		name, _, _ = strings.Cut(name, "{")
		if !line.MatchString(l) || !typed[name] {
			t.Errorf("not a sample of a metric: %s", l)
		}
	}
	for _, want := range []string{
		"mimibridge_hub_accepted_total 3\n", "mimibridge_hub_delivery_failed_total 0\n",
		`mimibridge_federation_client_requests_total{of="submitMessage"} 7` + "\n",
		`mimibridge_adapter_console_odd_name_total{of="with \"quotes\"\nand\\more"} 2` + "\n",
		"mimibridge_x{b=\"1\"} 1.5\nmimibridge_x{b=\"2\"} 2\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
}
