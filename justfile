# The same steps that .ci/run takes, by name.

default: run

# The main job: scenario `city`.
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

# The image: static binaries in an empty one. Needs docker, podman or buildah.
image TAG="clarion:dev":
    .ci/image {{TAG}}

# Keys for the emulated gateways of k8s/overlays/local.
keys:
    cargo run --release -- keys --directory k8s/overlays/local/keys

# Longer proofs than CI has time for: ten thousand seeds of each model, and every scenario at its full size.
soak:
    PROPTEST_CASES=10000 cargo test --release -p clarion-shard --lib -- partition:: wave::
    for s in city antimeridian pole polygon-hole slow-gateway silent-gateway cancel motion; do \
        cargo run --release -- run $s --report target/soak/$s || exit 1; done

ci:
    .ci/run
