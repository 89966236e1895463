# make help lists the targets.

GO       ?= go
FUZZTIME ?= 10s
export CGO_ENABLED = 0

.PHONY: help build demo test test-fast bench fuzz lint clean go-version stranger
.DEFAULT_GOAL := build

help:        ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

# The first build takes a minute or more, with all that it depends on, and should not take it in silence.
build: go-version ## build bin/mimibridge
	@[ -x bin/mimibridge ] || echo "building bin/mimibridge; the first time takes one to three minutes and 600 MB in the Go caches"
	@start=$$(date +%s); \
	( while sleep 30 >/dev/null 2>&1; do echo "  still building: $$(( $$(date +%s) - start )) s"; done ) & beat=$$!; \
	trap 'kill $$beat 2>/dev/null' EXIT; \
	$(GO) build -tags goolm -trimpath -o bin/mimibridge ./cmd/mimibridge || exit 1; \
	took=$$(( $$(date +%s) - start )); [ $$took -lt 5 ] || echo "built bin/mimibridge in $$took s"

demo: build  ## two providers at work on real servers; ONCE=1 stops after the conversation, YES=1 answers the question
	@bin/mimibridge demo

test: build  ## all tests, with real servers, and the demo once; installs what is missing
	@$(GO) run ./internal/testtable -live -demo bin/mimibridge ./...

test-fast: go-version ## the tests that need only Go
	@$(GO) run ./internal/testtable ./...

bench: go-version ## all benchmarks, those with real servers as far as they are installed, and a table of what they say
	@$(GO) run ./internal/benchtable -live -peer mls-go ./...

# Minimising each interesting input, as the default is, would take most of a short run.
fuzz: go-version ## each fuzz target for FUZZTIME
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's|/[^/]*:func | |' | sort -u | \
	while read -r dir target; do \
		echo "$$dir $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$dir" || exit 1; \
	done

lint: go-version ## gofmt, go vet and the rules about imports
	@bad=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); [ -z "$$bad" ] || { echo "gofmt would change: $$bad; run gofmt -w"; exit 1; }
	@$(GO) vet -tags goolm ./...
	@$(GO) vet -tags live,goolm ./...
	@$(GO) test -count=1 ./internal/archtest

stranger: go-version ## as root: from the binary to a bridged message on a bare machine (debootstrap), by the quick start's commands; SERVER=synapse or prosody
	@tools/stranger.sh $(SERVER)

clean:       ## remove what was built
	@rm -rf bin

go-version:
	@case "$$($(GO) env GOVERSION 2>/dev/null)" in \
	go1.2[6-9]*|go1.[3-9][0-9]*|go[2-9]*|devel*) ;; \
	*) echo "mimibridge needs Go 1.26 or newer, this is $$(GOTOOLCHAIN=local $(GO) version 2>/dev/null || echo 'no Go at all'): see go.dev/dl" >&2; exit 1;; \
	esac
