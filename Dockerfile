# One image with the three static binaries and nothing else. It has no shell, no package and no base
# image, so only Clarion itself needs updates.
#
# `just image` (.ci/image) builds the binaries into target/image and then the image. There is no
# builder stage: it would need a base image from a registry and compile everything after each
# change.
FROM scratch

ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Clarion" \
      org.opencontainers.image.description="Distributed push fan-out engine: coordinator, shard, loadgen" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY coordinator shard loadgen LICENSE /

# The only writable folder: loadgen's reports, logs and records, and the coordinator's data folder
# clarion-data. Mount a volume here to keep it. The user below owns it. The root file system may be
# read-only.
COPY --chown=65532:65532 report /report
VOLUME /report
WORKDIR /report
ENV TMPDIR=/report

# Numeric user id: needs no /etc/passwd, and Kubernetes' runAsNonRoot accepts it.
USER 65532:65532

# Set the program as the command: `/coordinator`, `/shard` or `/loadgen`. Each has the command
# `probe PORT` for health checks.
CMD ["/loadgen", "--help"]
