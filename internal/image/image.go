// Package image takes the steps of a Dockerfile one by one without a container engine, as far as this project's needs: it makes
// the root file system of the last stage, and starts what is in it there, as the user that the file names. What a base image would bring
// is taken from this machine.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// Image is what a Dockerfile makes.
type Image struct {
	Root        string // the file system
	UID, GID    uint32
	WorkDir     string
	Entrypoint  []string
	Cmd         []string
	Healthcheck []string
	Expose      []string
	Steps       []string // as they were taken
}

type stage struct {
	name, root, workdir string
	scratch             bool
}

// Build takes the steps of src's Dockerfile. dir takes the file systems of the stages.
func Build(ctx context.Context, src, dir string) (*Image, error) {
	b, err := os.ReadFile(filepath.Join(src, "Dockerfile"))
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	text := regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(string(b), "")
	text = strings.ReplaceAll(text, "\\\n", " ")
	img := &Image{}
	var stages []*stage
	var now *stage
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		img.Steps = append(img.Steps, line)
		fail := func(err error) error { return fmt.Errorf("image: step %q: %w", line, err) }
		if now == nil && word != "FROM" {
			return nil, fail(errors.New("a step before FROM"))
		}
		switch word {
		case "FROM":
			f := strings.Fields(rest)
			now = &stage{name: strconv.Itoa(len(stages)), root: filepath.Join(dir, "stage"+strconv.Itoa(len(stages))), workdir: "/", scratch: f[0] == "scratch"}
			if len(f) == 3 {
				now.name = f[2]
			}
			stages = append(stages, now)
			if err := os.MkdirAll(now.root, 0o755); err != nil {
				return nil, fail(err)
			}
		case "WORKDIR":
			now.workdir = rest
			if err := os.MkdirAll(filepath.Join(now.root, rest), 0o755); err != nil {
				return nil, fail(err)
			}
		case "COPY":
			if err := copyStep(src, stages, now, rest); err != nil {
				return nil, fail(err)
			}
		case "RUN":
			if now.scratch {
				return nil, fail(errors.New("there is no shell in an empty image"))
			}
			if err := runStep(ctx, now, rest); err != nil {
				return nil, fail(err)
			}
		case "USER":
			u, g, _ := strings.Cut(rest, ":")
			uid, err1 := strconv.ParseUint(u, 10, 32)
			gid, err2 := strconv.ParseUint(g, 10, 32)
			if err1 != nil || err2 != nil {
				return nil, fail(errors.New("in an empty image users and groups are numbers"))
			}
			img.UID, img.GID = uint32(uid), uint32(gid)
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &img.Entrypoint)
		case "CMD":
			err = json.Unmarshal([]byte(rest), &img.Cmd)
		case "HEALTHCHECK":
			_, list, _ := strings.Cut(rest, "CMD ")
			err = json.Unmarshal([]byte(list), &img.Healthcheck)
		case "EXPOSE":
			img.Expose = append(img.Expose, strings.Fields(rest)...)
		case "VOLUME":
			if _, err = os.Stat(filepath.Join(now.root, rest)); err != nil {
				return nil, fail(err)
			}
		default:
			return nil, fail(errors.New("this kind of step is not known here"))
		}
		if err != nil {
			return nil, fail(err)
		}
	}
	if now == nil || !now.scratch {
		return nil, errors.New("image: the last stage does not begin with FROM scratch")
	}
	img.Root, img.WorkDir = now.root, now.workdir
	return img, nil
}

// runStep runs a shell line. A path from the root is one in the stage; programs come from this machine.
func runStep(ctx context.Context, s *stage, line string) error {
	line = regexp.MustCompile(`(^|\s)/`).ReplaceAllString(line, "${1}"+s.root+"/")
	cmd := exec.CommandContext(ctx, "sh", "-ec", line)
	cmd.Dir = filepath.Join(s.root, s.workdir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func copyStep(src string, stages []*stage, now *stage, rest string) error {
	from, uid := src, -1
	var paths []string
	for _, f := range strings.Fields(rest) {
		if name, ok := strings.CutPrefix(f, "--from="); ok {
			from = ""
			for _, s := range stages {
				if s.name == name {
					from = s.root
				}
			}
			if from == "" {
				return fmt.Errorf("there is no stage %q", name)
			}
		} else if owner, ok := strings.CutPrefix(f, "--chown="); ok {
			u, _, _ := strings.Cut(owner, ":")
			var err error
			if uid, err = strconv.Atoi(u); err != nil {
				return err
			}
		} else {
			paths = append(paths, f)
		}
	}
	if len(paths) < 2 {
		return errors.New("COPY needs what and where to")
	}
	to := paths[len(paths)-1]
	folder := strings.HasSuffix(to, "/") || to == "." || len(paths) > 2
	if !filepath.IsAbs(to) {
		to = filepath.Join(now.workdir, to)
	}
	to = filepath.Join(now.root, to)
	ignore := ignored(src)
	for _, p := range paths[:len(paths)-1] {
		what, target := filepath.Join(from, p), to
		if fi, err := os.Stat(what); errors.Is(err, fs.ErrNotExist) && from != src {
			what = p // what the base image has
		} else if err != nil {
			return err
		} else if folder && !fi.IsDir() {
			target = filepath.Join(to, filepath.Base(p))
		}
		if err := copyTree(what, target, uid, ignore, from == src); err != nil {
			return err
		}
	}
	return nil
}

// ignored are the names of .dockerignore.
func ignored(src string) map[string]bool {
	b, _ := os.ReadFile(filepath.Join(src, ".dockerignore"))
	m := map[string]bool{}
	for _, f := range strings.Fields(string(b)) {
		m[strings.Trim(f, "/")] = true
	}
	return m
}

func copyTree(from, to string, uid int, ignore map[string]bool, context bool) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if context && ignore[rel] {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		target := filepath.Join(to, rel)
		fi, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case fi.IsDir():
			err = os.MkdirAll(target, fi.Mode().Perm()|0o700)
		case fi.Mode().IsRegular():
			var b []byte
			if b, err = os.ReadFile(path); err == nil {
				if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
					err = os.WriteFile(target, b, fi.Mode().Perm())
				}
			}
		}
		if err == nil && uid >= 0 && os.Geteuid() == 0 {
			err = os.Chown(target, uid, uid)
		}
		return err
	})
}

// Command prepares a program in the image: in its root and working directory, as its user, with an empty environment. Without root
// rights that is a user namespace, in which this user is the image's.
func (i *Image) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Path, cmd.Err = argv[0], nil // a path in the image
	cmd.Env = []string{}
	cmd.Dir = i.WorkDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: i.Root, Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: i.UID, Gid: i.GID, NoSetGroups: os.Geteuid() != 0}}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(i.UID), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(i.GID), HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}
