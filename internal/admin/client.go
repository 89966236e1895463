package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Client asks a running daemon.
type Client struct {
	HTTP   *http.Client
	socket string
}

// Base is what URLs of HTTP begin with; the host is only a name.
const Base = "http://mimibridge"

// ErrNotRunning is wrapped by errors of a Client when nobody serves the socket.
var ErrNotRunning = errors.New("no daemon is running")

// NewClient makes a client for the socket.
func NewClient(socket string) *Client {
	return &Client{socket: socket, HTTP: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Error is what the daemon answered.
type Error struct {
	Status int
	Kind   string `json:"kind"`
	Text   string `json:"error"`
}

func (e *Error) Error() string { return e.Text }

// Get asks for a path with a query; the answer is decoded into out, or copied if that is an io.Writer.
func (c *Client) Get(ctx context.Context, path string, q url.Values, out any) error {
	return c.do(ctx, http.MethodGet, path+"?"+q.Encode(), nil, out)
}

// Post sends a Query.
func (c *Client) Post(ctx context.Context, path string, q Query, out any) error {
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, path, b, out)
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, Base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return c.Explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		e := &Error{Status: resp.StatusCode}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if json.Unmarshal(b, e) != nil || e.Text == "" {
			e.Text = fmt.Sprintf("the daemon answers %s: %s", resp.Status, bytes.TrimSpace(b))
		}
		return e
	}
	switch o := out.(type) {
	case nil:
		return nil
	case io.Writer:
		_, err = io.Copy(o, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// Explain says of an error that comes from the socket what it means.
func (c *Client) Explain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: nobody answers at %s (%v)", ErrNotRunning, c.socket, op.Err)
	}
	return err
}
