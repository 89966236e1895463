package xmpp

import (
	"context"

	"github.com/mimibridge/mimibridge/core/content"
)

// fileRef is a file that a stanza shares, by its URL.
type fileRef struct {
	url string
}

func filesOf(kids []*element, body string) []fileRef { return nil }

func onlyFiles(kids []*element, body string, files []fileRef) bool { return false }

func (s *service) uploadFile(ctx context.Context, t talk, f fileRef) (content.Part, error) {
	return content.Part{}, nil
}

func (s *service) renderFiles(ctx context.Context, k *classified, v *voice) ([]*element, error) {
	return nil, nil
}

func (s *service) fitted(ctx context.Context, k *classified, v *voice, text string) ([]string, []*element, error) {
	return split(text, s.cfg.MaxBody), nil, nil
}
