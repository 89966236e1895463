package store

// Asset is a file kept here for a local user: an attachment, encrypted by its sender, or something published. The octets lie
// in a file of that name, outside the database.
type Asset struct {
	Name    string
	User    string
	Size    int64  // octets
	Type    string // media type of what is published, "" for an attachment
	Created int64  // ms
	Expires int64  // ms, 0 for never
}

// InsertAsset adds a file that is complete. If all of the user's files would be larger than quota, ok is false and
// nothing is written.
func (tx *Tx) InsertAsset(a *Asset, quota int64) (ok bool, err error) {
	used, err := tx.AssetsSize(a.User)
	if err != nil || used+a.Size > quota {
		return false, err
	}
	return true, tx.do(`INSERT INTO asset (name, user, size, type, created, expires) VALUES (?, ?, ?, ?, ?, ?)`,
		a.Name, a.User, a.Size, a.Type, a.Created, a.Expires)
}

// Asset reads one; nil if there is none.
func (tx *Tx) Asset(name string) (*Asset, error) {
	a := Asset{Name: name}
	ok, err := tx.one([]any{&a.User, &a.Size, &a.Type, &a.Created, &a.Expires},
		`SELECT user, size, type, created, expires FROM asset WHERE name=?`, name)
	if err != nil || !ok {
		return nil, err
	}
	return &a, nil
}

// AssetsSize gives the octets of all files of a user.
func (tx *Tx) AssetsSize(user string) (n int64, err error) {
	_, err = tx.one([]any{&n}, `SELECT coalesce(sum(size), 0) FROM asset WHERE user=?`, user)
	return n, err
}

// UserAssets lists a user's files, the oldest first.
func (tx *Tx) UserAssets(user string) (as []Asset, err error) {
	err = tx.each(func(scan func(...any) error) error {
		a := Asset{User: user}
		if err := scan(&a.Name, &a.Size, &a.Type, &a.Created, &a.Expires); err != nil {
			return err
		}
		as = append(as, a)
		return nil
	}, `SELECT name, size, type, created, expires FROM asset WHERE user=? ORDER BY created, name`, user)
	return as, err
}

// ExpiredAssets lists up to limit files whose time is over at now (ms).
func (tx *Tx) ExpiredAssets(now int64, limit int) (names []string, err error) {
	return tx.texts(`SELECT name FROM asset WHERE expires>0 AND expires<=? ORDER BY expires LIMIT 0+?`, now, limit)
}

// DeleteAsset forgets a file; removing the file itself comes after.
func (tx *Tx) DeleteAsset(name string) error {
	return tx.do(`DELETE FROM asset WHERE name=?`, name)
}
