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

# Longer proofs than CI has time for: every scenario at its full size.
soak:
    for s in city antimeridian pole polygon-hole slow-gateway silent-gateway cancel motion; do \
        cargo run --release -- run $s --report target/soak/$s || exit 1; done

ci:
    .ci/run
