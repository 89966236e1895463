package demo

import (
	"net"
	"os"
	"path/filepath"
	"strings"
)

// tellLogins prints how to log in by hand.
func (d *demo) tellLogins() {
	_, c2s, _ := net.SplitHostPort(d.prosody.C2S)
	_, hs, _ := net.SplitHostPort(strings.TrimPrefix(d.dendrite.URL, "http://"))
	profanity := d.profanityAccount(c2s)
	host, err := os.Hostname()
	if err != nil {
		host = "HOST"
	}
	d.sayf(`
Everything is still running. Log in yourself:

  XMPP     accounts romeo@%[1]s, mercutio@%[1]s, password %[2]s
           server 127.0.0.1, port %[3]s, STARTTLS with a certificate of the demo's own authority
           %[4]s
           or inside profanity:  /connect romeo@%[1]s server 127.0.0.1 port %[3]s tls trust
           a new room:           /join orchard@%[5]s
           invite juliet to it:  /invite send juliet%%%[6]s@%[7]s
           leave it for good:    /cmd exec leave orchard@%[5]s
  Matrix   accounts juliet, nurse, password %[8]s
           homeserver %[9]s
           the room above:       %[10]s
           invite romeo:         @mimi_romeo=%[1]s:%[6]s

  From another machine:
           ssh -L %[3]s:127.0.0.1:%[3]s -L %[11]s:127.0.0.1:%[11]s %[12]s

  Configurations, databases and logs: %[13]s
  Ctrl-C stops all of it and removes that folder.`,
		xmppDomain, romeoPassword, c2s, profanity, roomsDomain, matrixDomain, gatewayDomain, julietPassword, d.dendrite.URL, d.portal, hs, host, d.dir)
}

// profanityAccount writes an account for profanity into the demo's folder and returns the command line that uses it.
func (d *demo) profanityAccount(port string) string {
	data := filepath.Join(d.dir, "profanity")
	account := "[romeo]\nenabled=true\njid=romeo@" + xmppDomain + "\nserver=127.0.0.1\nport=" + port +
		"\ntls.policy=trust\npassword=" + romeoPassword + "\nresource=profanity\nmuc.service=" + roomsDomain + "\nmuc.nick=romeo\n"
	if err := os.MkdirAll(filepath.Join(data, "profanity"), 0o700); err != nil {
		return "profanity"
	}
	if err := os.WriteFile(filepath.Join(data, "profanity", "accounts"), []byte(account), 0o600); err != nil {
		return "profanity"
	}
	return "XDG_DATA_HOME=" + data + " XDG_CONFIG_HOME=" + data + " profanity -a romeo"
}
