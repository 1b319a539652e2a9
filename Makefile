# Every build uses the release profile and one target directory, so that one cold build serves all targets.
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
UNITDIR ?= /lib/systemd/system
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BINARY := $(TARGET_DIR)/release/shadowvault

# Debian packages that tests and the demo use; see `make tools`.
TOOLS := rsync attr acl iproute2 nftables strace
TOOL_COMMANDS := rsync setfattr setfacl ip tc nft strace
# Taken out of its package: installing the package would start a server.
PROMTOOL_PACKAGE := prometheus

.DEFAULT_GOAL := help
.PHONY: build test sabotage test-kills evil test-integration test-long test-forgetting test-history test-mesh test-crashes test-full bench bench-peers bench-forget bench-chunks bench-memory bench-mesh bench-checks lint demo drill install clean help tools

build: ## Build the program
	$(CARGO) build --release --locked

test: tools ## Run every test; installs the few tools that tests use where they are absent
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo '+ cargo nextest run'; $(CARGO) nextest run --release --locked --no-fail-fast; \
	else \
		echo '+ cargo test'; $(CARGO) test --release --locked --lib --bins --tests; \
	fi
	$(CARGO) test --release --locked --doc

test-integration: tools ## Run only the tests of the whole program
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo '+ cargo nextest run --test it'; $(CARGO) nextest run --release --locked --test it; \
	else \
		echo '+ cargo test --test it'; $(CARGO) test --release --locked --test it; \
	fi

test-long: ## Thousands of random histories and trees with faults; SEED=n CASES=n choose; TMPDIR=/dev/shm makes it much faster
	CASES=$(or $(CASES),2000) $(if $(SEED),SEED=$(SEED)) $(CARGO) test --release --locked --lib \
		every_snapshot_of_a_changing_tree_restores_exactly -- --nocapture what_faults_leave_of_a_tree

test-forgetting: ## 20,000 random histories of devices and holders, an hour; SEED=n CASES=n choose
	CASES=$(or $(CASES),20000) SEED=$(or $(SEED),$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')) $(CARGO) test --release --locked --lib \
		engine::tests::fleet -- --nocapture whatever_is_done_in_whatever_order

test-history: ## Random histories of one device whose disk is put back, copied and spoilt; SEED=n CASES=n choose
	CASES=$(or $(CASES),5000) $(if $(SEED),SEED=$(SEED)) $(CARGO) test --release --locked --lib \
		engine::tests::branches -- --nocapture whatever_becomes

test-mesh: ## Random faults of up to 100 nodes in virtual time; SEED=n CASES=n choose
	CASES=$(or $(CASES),500) $(if $(SEED),SEED=$(SEED)) $(CARGO) test --release --locked --lib \
		engine::tests::mesh -- --nocapture whatever_fails

test-crashes: ## A million disks as a power cut may leave them, some hours; SEED=n STATES=n choose
	STATES=$(or $(STATES),1000000) $(if $(SEED),SEED=$(SEED)) $(CARGO) test --release --locked --lib \
		engine::tests -- --nocapture no_power_cut

test-full: ## Backup, pull, gc and index work with every 256 KiB left of a full disk; needs the right to mount
	STEPS=all $(CARGO) test --release --locked --lib engine::tests::full -- --nocapture

sabotage: ## Wake deliberate faults in a copy, one by one: each must be noticed by a test; leaves its table in docs/RELIABILITY.md
	benches/fill.py docs/RELIABILITY.md SABOTAGE scripts/sabotage.py

test-kills: build ## Kill daemons and commands at random moments of all they do, some hours; SEED=n ROUNDS=n KINDS="gc join…" choose; leaves its table in docs/RELIABILITY.md
	SHADOWVAULT=$(abspath $(BINARY)) benches/fill.py docs/RELIABILITY.md KILLS scripts/kill_matrix.py $(or $(SEED),1) $(or $(ROUNDS),30) $(KINDS)

evil: build ## Peers that mean harm against real daemons, half an hour; SEED=n SECONDS=n NAME="part of a name" choose; leaves its table in docs/RELIABILITY.md
	CARGO=$(CARGO) benches/fill.py docs/RELIABILITY.md EVIL scripts/evil.sh $(or $(SEED),1) $(or $(SECONDS),20) '$(NAME)'

# Each leaves what it printed in docs/BENCHMARKS.md.
bench: ## Time each stage of a backup beside the library it stands on
	benches/fill.py docs/BENCHMARKS.md STAGES $(CARGO) bench --locked --bench stages

bench-peers: build ## Compare with other backup tools; an hour and 12 GiB (see benches/peers/run.sh)
	SHADOWVAULT=$(abspath $(BINARY)) benches/fill.py docs/BENCHMARKS.md PEERS benches/peers/run.sh $(CORPORA)

bench-forget: build ## Measure what forgetting gives back, and how fast, beside restic prune; half an hour and 3 GiB
	SHADOWVAULT=$(abspath $(BINARY)) benches/fill.py docs/BENCHMARKS.md FORGETTING benches/peers/forgetting.py $(CORPUS)

bench-chunks: build ## Compare chunk sizes: repository, growth, time
	SHADOWVAULT=$(abspath $(BINARY)) benches/fill.py docs/BENCHMARKS.md CHUNKS benches/peers/chunk_sizes.py

bench-checks: build ## Time checks and a repair of a damaged store, and what a scrub costs
	SHADOWVAULT=$(abspath $(BINARY)) benches/fill.py docs/BENCHMARKS.md CHECKS scripts/checks_bench.sh

bench-mesh: build ## Time how fast a holder pulls, beside bare libp2p
	SHADOWVAULT=$(abspath $(BINARY)) benches/fill.py docs/BENCHMARKS.md MESH scripts/mesh_bench.sh

bench-memory: build ## Measure peak memory over a million files, a 100 GiB sparse file, a disk image
	SHADOWVAULT=$(abspath $(BINARY)) benches/fill.py docs/BENCHMARKS.md MEMORY scripts/memory.sh

lint: ## Formatting, clippy and documentation, all warnings refused
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --no-deps

demo: build tools ## Show backup, loss and recovery with a few nodes on this machine
	SHADOWVAULT=$(abspath $(BINARY)) scripts/demo.sh

drill: build ## Somebody has the unlocked device for ten minutes; everything comes back from two holders
	SHADOWVAULT=$(abspath $(BINARY)) scripts/ransomware_drill.sh

install: build ## Install the program and its systemd unit below PREFIX (default /usr/local)
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/shadowvault
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' deploy/shadowvault.service > $(DESTDIR)$(UNITDIR)/shadowvault.service
	chmod 0644 $(DESTDIR)$(UNITDIR)/shadowvault.service

clean: ## Remove everything that was built
	$(CARGO) clean

tools:
	@missing=; \
	for command in $(TOOL_COMMANDS); do \
		command -v $$command >/dev/null 2>&1 || missing=1; \
	done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		{ apt-get install -y -qq $(TOOLS) || { apt-get update -qq && apt-get install -y -qq $(TOOLS); }; } \
			</dev/null >/dev/null 2>&1 || echo 'note: $(TOOLS) could not be installed'; \
	fi
	@if ! command -v promtool >/dev/null 2>&1 && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		dir=$$(mktemp -d) && cd "$$dir" && \
		{ { apt-get download -qq $(PROMTOOL_PACKAGE) || { apt-get update -qq && apt-get download -qq $(PROMTOOL_PACKAGE); }; } && \
			dpkg-deb -x $(PROMTOOL_PACKAGE)_*.deb . && install -m 0755 usr/bin/promtool /usr/local/bin/; \
		} </dev/null >/dev/null 2>&1 || echo 'note: promtool could not be installed; metrics are not linted'; \
		rm -rf "$$dir"; \
	fi

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
