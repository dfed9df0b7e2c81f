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

# Instructions per push of the core alone, by callgrind; `just instructions --profile` says where they go.
instructions *ARGS:
    cargo bench -p clarion-benches --bench instructions -- {{ARGS}}

# CPU per push of h2load, h2, hyper and our lane; `just lane --all` for every block.
lane *ARGS:
    cargo bench -p clarion-benches --bench lane -- {{ARGS}}

# The whole shard process beside h2load, run in turn: five pairs for each of APNs indexed, APNs literal, FCM.
pairs *ARGS:
    cargo build --release -p clarion-loadgen
    cargo bench -p clarion-benches --bench lane -- pairs {{ARGS}}

# The image: static binaries in an empty one. Needs docker, podman or buildah.
image TAG="clarion:dev":
    .ci/image {{TAG}}

# Keys for the emulated gateways of k8s/overlays/local.
keys:
    cargo run --release -- keys --directory k8s/overlays/local/keys

# Longer proofs than CI has time for: every scenario at its full size.
soak:
    for s in city antimeridian pole polygon-hole slow-gateway silent-gateway cancel motion; do \
        cargo run --release -- run $s --report target/soak/$s || exit 1; done

ci:
    .ci/run
