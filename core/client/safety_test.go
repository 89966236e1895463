package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// TestSafetyNumberExample: the number in docs/safety-numbers.md is that of its algorithm, in any order of the clients.
func TestSafetyNumberExample(t *testing.T) {
	phone, laptop := [2][]byte{[]byte("mimi://a.example/d/alice/phone"), []byte(strings.Repeat("\x01", 32))}, [2][]byte{[]byte("mimi://a.example/d/alice/laptop"), []byte(strings.Repeat("\x02", 32))}
	alice := mimiuri.MustParse("mimi://a.example/u/alice")
	got := userDigits(alice, [][2][]byte{phone, laptop})
	if again := userDigits(alice, [][2][]byte{laptop, phone}); again != got {
		t.Errorf("%s, and %s", got, again)
	}
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "safety-numbers.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "    "+got+"\n") {
		t.Errorf("the documented example is not %s", got)
	}
}
