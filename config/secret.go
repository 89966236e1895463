package config

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// sealingPrefix marks the content of a sealing key file, so that another secret given by mistake is seen.
const sealingPrefix = "mimibridge-sealing-key-1 "

// NextKeySuffix is added to the name of the sealing key file for the key that takes its place, until all is sealed with it.
const NextKeySuffix = ".new"

// NewSealingKey makes the content of a sealing key file: one line.
func NewSealingKey() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return sealingPrefix + base64.StdEncoding.EncodeToString(b) + "\n"
}

// ParseSealingKey reads the content of a sealing key file. The error never shows the content.
func ParseSealingKey(s string) ([]byte, error) {
	enc, ok := strings.CutPrefix(strings.TrimSpace(s), sealingPrefix)
	if !ok {
		return nil, errors.New("it is not a sealing key")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(enc))
	if err != nil || len(b) != 32 {
		return nil, errors.New("the sealing key is damaged")
	}
	return b, nil
}

// PrivateFile returns a sentence about a file that holds a secret and can be read by others than its owner and
// group, with the cure; "" if all is well or the file does not exist.
func PrivateFile(path string) string {
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm()&0o007 == 0 {
		return ""
	}
	return fmt.Sprintf("%s holds a secret and can be read by everybody on this machine (mode %04o); chmod o= %s", path, fi.Mode().Perm(), path)
}

func (c *Config) readSecrets(v *validator) {
	warn := func(path string) {
		if w := PrivateFile(path); path != "" && w != "" {
			c.Warnings = append(c.Warnings, w)
		}
	}
	if x := c.Network.XMPP; x != nil {
		if x.Secret != "" {
			warn(c.File)
		}
		v.secret("network.xmpp.secret", &x.Secret, x.SecretFile, x.SecretEnv, "the component secret: secret_file: FILE, secret_env: VARIABLE or secret: VALUE", warn)
	}
	if a := &c.Admin; a.Token != "" || a.TokenFile != "" || a.TokenEnv != "" {
		if a.Token != "" {
			warn(c.File)
		}
		v.secret("admin.token", &a.Token, a.TokenFile, a.TokenEnv, "", warn)
	}
	if m := c.Network.Matrix; m != nil && m.RegistrationEnv != "" {
		if c.given["network.matrix.registration"] {
			v.fail("network.matrix.registration_env", "the registration is given in more than one way", "keep one of registration and registration_env")
		}
		m.RegistrationText = v.secretEnv("network.matrix.registration_env", m.RegistrationEnv)
	} else if m != nil {
		warn(m.Registration)
	}
	warn(c.Federation.KeyFile)

	st := &c.Storage
	given := 0
	for _, s := range []string{st.SQLite, st.Postgres, st.PostgresFile, st.PostgresEnv} {
		if s != "" {
			given++
		}
	}
	switch {
	case given > 1:
		v.fail("storage", "the database is given in more than one way", "keep one of sqlite, postgres, postgres_file and postgres_env")
	case st.PostgresFile != "":
		warn(st.PostgresFile)
		st.Postgres = v.secretFile("storage.postgres_file", st.PostgresFile)
	case st.PostgresEnv != "":
		st.Postgres = v.secretEnv("storage.postgres_env", st.PostgresEnv)
	case st.Postgres != "":
		warn(c.File)
	}

	key, s := "secrets.key_file", ""
	switch {
	case c.Secrets.KeyEnv != "" && c.Secrets.KeyFile != "":
		v.fail("secrets.key_env", "the sealing key is given in two ways", "keep one of key_file and key_env")
		return
	case c.Secrets.KeyEnv != "":
		key = "secrets.key_env"
		s = v.secretEnv(key, c.Secrets.KeyEnv)
	default:
		warn(c.Secrets.KeyFile)
		s = v.secretFile(key, c.Secrets.KeyFile)
	}
	if s == "" {
		return
	}
	var err error
	if c.Secrets.SealingKey, err = ParseSealingKey(s); err != nil {
		v.fail(key, err.Error(), "restore it from your backup; for a new provider `mimibridge init` makes one")
		return
	}
	if c.Secrets.KeyEnv != "" {
		return
	}
	switch b, err := readSmall(c.Secrets.KeyFile + NextKeySuffix); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		v.fail(key, "the new sealing key beside it cannot be read: "+err.Error(), "let the user that runs mimibridge read "+c.Secrets.KeyFile+NextKeySuffix)
	default:
		if c.Secrets.NextKey, err = ParseSealingKey(string(b)); err != nil {
			v.fail(key, "the new sealing key beside it: "+err.Error(), "`mimibridge keys rotate` made "+c.Secrets.KeyFile+NextKeySuffix+"; restore it, values may be sealed with it")
			return
		}
		c.Warnings = append(c.Warnings, "changing the sealing key was interrupted; `mimibridge keys rotate` goes on with it")
	}
}

// secret reads a secret that is given as a value, by a file or by an environment variable, and is needed if missing says so.
func (v *validator) secret(key string, value *string, file, env, missing string, warn func(string)) {
	given := 0
	for _, s := range []string{*value, file, env} {
		if s != "" {
			given++
		}
	}
	name := key[strings.LastIndexByte(key, '.')+1:]
	switch {
	case given == 0:
		v.fail(key, "is missing", missing)
	case given > 1:
		v.fail(key, "it is given in more than one way", fmt.Sprintf("keep one of %[1]s, %[1]s_file and %[1]s_env", name))
	case file != "":
		warn(file)
		*value = v.secretFile(key+"_file", file)
	case env != "":
		*value = v.secretEnv(key+"_env", env)
	}
}

// maxSecret bounds a file with a secret, in octets.
const maxSecret = 4096

// readSmall reads at most maxSecret octets and one, whatever sort of file it is.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSecret+1))
}

// secretFile reads a secret of one line; after a failure it returns "".
func (v *validator) secretFile(key, path string) string {
	b, err := readSmall(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		cure := "put the secret there, on one line, mode 0600"
		if key == "secrets.key_file" {
			cure = "restore it from your backup; for a new provider `mimibridge init` makes one"
		}
		v.fail(key, "there is no file "+path, cure)
	case err != nil:
		v.fail(key, "cannot be read: "+err.Error(), "let the user that runs mimibridge read it")
	case len(b) > maxSecret:
		v.fail(key, path+" is larger than a secret is", "one line, at most 4 KiB")
	case strings.TrimSpace(string(b)) == "":
		v.fail(key, path+" is empty", "put the secret there, on one line")
	default:
		return strings.TrimSpace(string(b))
	}
	return ""
}

func (v *validator) secretEnv(key, name string) string {
	s := strings.TrimSpace(os.Getenv(name))
	if s == "" {
		v.fail(key, fmt.Sprintf("the environment variable %q is not set", clip(name)), "set it where mimibridge is started")
	}
	return s
}
