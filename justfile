# The steps of .ci/run by name, and longer runs.

default: run

# Run the scenario `city`, or the given arguments of loadgen.
run *ARGS:
    cargo run --release -- {{ARGS}}

test:
    .ci/run tests

fmt:
    cargo fmt --all

lint:
    .ci/run fmt lint docs deny protos

bench *ARGS:
    cargo bench -p clarion-benches {{ARGS}}

# Count the core's instructions per push by callgrind; `just instructions --profile` lists
# functions.
instructions *ARGS:
    cargo bench -p clarion-benches --bench instructions -- {{ARGS}}

# Measure CPU per push of h2load, h2, hyper and our lane; `just lane --all` runs every block.
lane *ARGS:
    cargo bench -p clarion-benches --bench lane -- {{ARGS}}

# Compare the whole shard process with h2load: five pairs for APNs indexed, APNs literal and FCM.
pairs *ARGS:
    cargo build --release -p clarion-loadgen
    cargo bench -p clarion-benches --bench lane -- pairs {{ARGS}}

# Build the image with the static binaries. Needs docker, podman or buildah.
image TAG="clarion:dev":
    .ci/image {{TAG}}

# Create the keys for the emulated gateways of k8s/overlays/local.
keys:
    cargo run --release -- keys --directory k8s/overlays/local/keys

# Run tests that are too long for CI: ten thousand seeds of each model, every scenario at full size.
soak:
    PROPTEST_CASES=10000 cargo test --release -p clarion-shard --lib -- partition:: wave::
    for s in city shenzhen city-far antimeridian pole polygon-hole slow-gateway silent-gateway \
        failing-gateway cancel motion quota quota-nodes faults; do \
        cargo run --release -- run $s --report target/soak/$s || exit 1; done
    cargo run --release -- run fault-mixtures --seconds 600 --report target/soak/fault-mixtures
    cargo run --release -- run restarts --report target/soak/restarts
    cargo run --release -- run restarts --case rolling-60k --devices 600000 \
        --report target/soak/restarts-rolling
    CLARION_SOAK=1 cargo test --release -p clarion-shard --test foreign -- --nocapture \
        --test-threads=1
    CLARION_OUTLINES=360 cargo test --release -p clarion-loadgen --test foreign_outlines -- \
        --nocapture
    CLARION_FAILOVERS=50 CLARION_POSTGRES_KILLS=30 cargo test --release -p clarion-coordinator --lib \
        -- --nocapture failover killed_server
    CLARION_LOSS_ROUNDS=30 CLARION_KILL_ROUNDS=30 cargo test --release -p clarion-coordinator \
        --test power_loss --test postgres_kills -- --nocapture
    cargo run --release -- previews --strict
    for t in conversation header_blocks huffman answers waits; do just fuzz $t 120 || exit 1; done

# Record conversations with real servers, which tests replay. Needs nginx, nghttpd, node,
# python3-h2.
record:
    cargo build -p clarion-loadgen
    cargo test -p clarion-shard --lib record_anew -- --ignored

# Fuzz TARGET, a file of fuzz/corpus, guided by coverage, on stable Rust. Needs a C++ compiler. New
# inputs go to target/fuzz/TARGET; `just fuzz-keep TARGET` merges the useful ones into the corpus.
fuzz TARGET SECONDS="60": fuzz-build
    cargo run --quiet -p clarion-fuzz --bin corpus -- unpack {{TARGET}} target/fuzz/{{TARGET}}
    CLARION_FUZZ_TARGET={{TARGET}} target/fuzz/guided -max_total_time={{SECONDS}} -timeout=10 \
        -max_len=2048 -print_final_stats=1 -artifact_prefix=target/fuzz/found- \
        target/fuzz/{{TARGET}}

fuzz-keep TARGET: fuzz-build
    rm -rf target/fuzz/kept && mkdir -p target/fuzz/kept
    CLARION_FUZZ_TARGET={{TARGET}} target/fuzz/guided -set_cover_merge=1 -max_len=512 \
        target/fuzz/kept target/fuzz/{{TARGET}}
    cargo run --quiet -p clarion-fuzz --bin corpus -- pack {{TARGET}} target/fuzz/kept

# Build the fuzzer: libFuzzer's coverage by stable options of rustc, optimised, with assertions and
# overflow checks.
[private]
fuzz-build:
    RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
        -Cdebug-assertions=on -Coverflow-checks=on -Ccodegen-units=1" \
        cargo build --release -p clarion-fuzz --features guided --bin guided \
        --target {{arch()}}-unknown-linux-gnu --target-dir target/fuzz/build
    cp target/fuzz/build/{{arch()}}-unknown-linux-gnu/release/guided target/fuzz/guided

ci:
    .ci/run
