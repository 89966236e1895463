package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

const aboutCompletion = `
Prints a script that completes commands and flags:

    source <(mimibridge completion bash)                                  # in ~/.bashrc
    source <(mimibridge completion zsh)                                   # in ~/.zshrc, after compinit
    mimibridge completion fish > ~/.config/fish/completions/mimibridge.fish`

var completionScripts = map[string]string{
	"bash": `_mimibridge() {
	local IFS=$'\n' cur=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)" -- "$cur"))
}
complete -o default -F _mimibridge mimibridge
`,
	"zsh": `#compdef mimibridge
_mimibridge() {
	local -a found
	found=(${(f)"$(${words[1]} complete ${(@)words[2,CURRENT]} 2>/dev/null | sed 's/:/\\:/g; s/	/:/')"})
	_describe mimibridge found || _files
}
compdef _mimibridge mimibridge
`,
	"fish": `function __mimibridge_complete
	set -l words (commandline -opc) (commandline -ct)
	$words[1] complete $words[2..-1] 2>/dev/null
end
complete -c mimibridge -a '(__mimibridge_complete)'
`,
}

func cmdCompletion(_ context.Context, e *env, args []string) error {
	fs := flags(e, "completion", aboutCompletion)
	rest, err := parseArgs(fs, args, 1, 1)
	if err != nil {
		return err
	}
	script, ok := completionScripts[rest[0]]
	if !ok {
		return errorWithHint(fmt.Errorf("there is no script for %q", rest[0]), "bash, zsh or fish")
	}
	_, err = io.WriteString(e.out, script)
	return err
}

// complete prints what may stand in place of the last of the words, one a line, with a tab and what it is.
func complete(e *env, words []string) {
	if len(words) == 0 {
		words = []string{""}
	}
	done, cur := words[:len(words)-1], words[len(words)-1]
	list := commands()
	for i, w := range done {
		at := slices.IndexFunc(list, func(c command) bool { return c.name == w })
		if at < 0 {
			return
		}
		if c := list[at]; c.run != nil {
			if strings.HasPrefix(cur, "-") || i == len(done)-1 && cur == "" {
				completeFlags(e, c, cur)
			}
			if c.name == "completion" {
				for _, shell := range []string{"bash", "fish", "zsh"} {
					if strings.HasPrefix(shell, cur) {
						fmt.Fprintln(e.out, shell)
					}
				}
			}
			return
		}
		list = list[at].sub
	}
	for _, c := range list {
		if strings.HasPrefix(c.name, cur) {
			fmt.Fprintf(e.out, "%s\t%s\n", c.name, c.short)
		}
	}
}

// completeFlags lists a command's flags: asked for help, it makes them and does nothing else.
func completeFlags(e *env, c command, cur string) {
	quiet := &env{in: strings.NewReader(""), out: io.Discard, err: io.Discard}
	_ = c.run(context.Background(), quiet, []string{"-h"})
	if quiet.flags == nil {
		return
	}
	quiet.flags.VisitAll(func(f *flag.Flag) {
		name := "-" + f.Name
		if strings.HasPrefix(name, cur) || strings.HasPrefix("-"+name, cur) {
			if strings.HasPrefix(cur, "--") {
				name = "-" + name
			}
			_, usage := flag.UnquoteUsage(f)
			fmt.Fprintf(e.out, "%s\t%s\n", name, usage)
		}
	})
}
