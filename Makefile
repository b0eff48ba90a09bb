# What one does with this repository. `make help` lists it.

ARGS ?=
SOAK_SECONDS ?= 3600
SOAK_RATE ?= 10000
DATA ?= target/cluster
PREFIX ?= /usr/local
DESTDIR ?=
# What servers of each supported version have to do.
OLDEST_NATS_TESTS = nats:: jetstream::delivery jetstream::retained jetstream::shared_sessions \
	jetstream::server_killed jetstream::wills
R3 ?=

.DEFAULT_GOAL := help
.PHONY: help run build install deb tools cluster test oldest transports check bench soak

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 8

run: ## build the gateway for speed and start it; flags in ARGS="--shards 2"
	cargo build --release --locked --package gateway
	exec target/release/gateway $(ARGS)

build: ## build gateway and loadgen for speed
	cargo build --release --locked --workspace

install: build ## programs, manual pages, completions and systemd unit to DESTDIR/PREFIX; PREFIX=/usr/local
	.ci/install target/release "$(DESTDIR)" "$(PREFIX)"

deb: build ## a Debian package of both programs, target/deb/mqtt-gateway_VERSION_ARCH.deb
	.ci/deb target/release target/deb

tools: ## install what tests need: mosquitto and its clients of 2.1, nginx, chromium, paho-mqtt, MQTT.js, nats-server, promtool; fails if one cannot be had
	.ci/tools

cluster: ## run three sub-clusters of one nats-server until ctrl-C; R3=1: one of three; data in DATA
	@DATA="$(DATA)" R3="$(R3)" .ci/cluster

test: tools ## all tests, and each benchmark once with tiny inputs
	GATEWAY_EVERY_TRANSPORT=1 cargo test --locked --workspace
	GATEWAY_OLDEST_NATS=1 cargo test --locked --package gateway --test it -- $(OLDEST_NATS_TESTS)
	cargo test --locked --workspace --benches -- --test
	.ci/package-test target/debug

oldest: tools ## tests against NATS servers once more, on the oldest nats-server that is supported
	GATEWAY_OLDEST_NATS=1 cargo test --locked --package gateway --test it -- nats:: jetstream::

transports: ## the conformance tests alone, over each transport in turn, as in `make test`
	GATEWAY_EVERY_TRANSPORT=1 cargo test --locked --package gateway --test it -- conformance::

check: ## formatting, lints and documentation, warnings refused
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
		cargo doc --locked --workspace --no-deps --document-private-items

bench: ## all benchmarks; bench-results/README.md says how to keep a run
	cargo bench --locked --workspace

soak: build ## faults from many seeds and on real servers, then an hour of QoS 1; .ci/soak names SEEDS, KILLS, JETSTREAM_KILLS, ELECTIONS, RING_KILLS, CUTS, CUT_SECONDS, STILL_SECONDS, SOAK_SECONDS, SOAK_RATE
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_RATE=$(SOAK_RATE) .ci/soak
