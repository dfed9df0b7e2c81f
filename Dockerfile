# One image for all of Clarion: the three binaries, each static, and nothing else. No shell, no package, no base image, so
# nothing to be updated but Clarion itself.
#
# Built by `just image` (.ci/image), which makes the binaries first and hands them over in target/image. They are not built
# in here: a builder stage would need a base image from a registry and compile everything again for each change.
FROM scratch

ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Clarion" \
      org.opencontainers.image.description="Distributed push fan-out engine: coordinator, shard, loadgen" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY coordinator shard loadgen LICENSE /

# The only folder that is ever written to, and by loadgen alone: reports, logs and records. Owned by the user below; the
# root may be read-only.
COPY --chown=65532:65532 report /report
VOLUME /report
WORKDIR /report
ENV TMPDIR=/report

# Nobody: a number that needs no /etc/passwd, and that Kubernetes' runAsNonRoot accepts.
USER 65532:65532

# Which of the three is to be said: `/coordinator`, `/shard`, `/loadgen`. Each answers `probe PORT` for health checks.
CMD ["/loadgen", "--help"]
