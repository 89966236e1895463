package store

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Uninstall says how far the removal of the whole provider is.
type Uninstall uint8

const (
	NoUninstall   Uninstall = iota
	Uninstalling            // others are being told, the network is cleaned
	UninstallFast           // the same, without waiting for who cannot be reached
	Uninstalled             // only files are left
)

// ErrUninstalled is returned for a database whose provider was uninstalled.
var ErrUninstalled = errors.New("store: this provider was uninstalled")

// Uninstall reads it; PutUninstall stores it.
func (tx *Tx) Uninstall() (u Uninstall, err error) {
	var b []byte
	if ok, err := tx.one([]any{&b}, `SELECT value FROM meta WHERE key='uninstall'`); err != nil || !ok || len(b) != 1 {
		return NoUninstall, err
	}
	return Uninstall(b[0]), nil
}

func (tx *Tx) PutUninstall(u Uninstall) error {
	return tx.do(`INSERT INTO meta (key, value) VALUES ('uninstall', ?) ON CONFLICT (key) DO UPDATE SET value=excluded.value`, []byte{byte(u)})
}

// ReadUninstall reads it of a database that no daemon has open. Without a database it is an error that wraps fs.ErrNotExist.
func ReadUninstall(ctx context.Context, o Options) (u Uninstall, err error) {
	if o.Postgres == "" {
		if _, err := os.Stat(o.Path); err != nil {
			return u, fmt.Errorf("store: %w", err)
		}
	}
	s, err := Open(ctx, o)
	if err != nil {
		return u, err
	}
	err = s.View(ctx, func(tx *Tx) (err error) {
		u, err = tx.Uninstall()
		return err
	})
	return u, errors.Join(err, s.Close())
}

// InUse fails if a daemon, or a command, has the SQLite file at path open.
func InUse(path string) error {
	if _, err := os.Stat(path + ".lock"); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	f, err := lockFile(path + ".lock")
	if err != nil {
		return err
	}
	return f.Close()
}

// LocalUsers lists the local users of whom anything is stored, in order.
func (tx *Tx) LocalUsers() (users []string, err error) {
	return tx.texts(`SELECT user FROM identity UNION SELECT local_user FROM member UNION SELECT local_user FROM consent UNION SELECT local_user FROM person
		UNION SELECT owner FROM block WHERE owner<>'' ORDER BY 1`)
}

// Untold counts what other providers have still to be told about consent, by peer.
func (tx *Tx) Untold() (n map[string]int, err error) {
	n = map[string]int{}
	err = tx.each(func(scan func(...any) error) error {
		var peer string
		var count int
		if err := scan(&peer, &count); err != nil {
			return err
		}
		n[peer] = count
		return nil
	}, `SELECT peer, count(*) FROM consent_out WHERE peer<>'' GROUP BY peer ORDER BY peer`)
	return n, err
}

// OtherNodes counts the nodes that use the database beside this one.
func (s *Store) OtherNodes(ctx context.Context) (n int, err error) {
	if !s.postgres() {
		return 0, nil
	}
	if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM node WHERE id<>? AND until>`+dbNow, s.nodeID).Scan(&n); err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	return n, nil
}
