# Pratique in one image: two static binaries, CA certificates, nothing else.
#
#   docker build -t pratique .
#   docker run -p 5000:5000 -v pratique:/var/lib/pratique pratique
#
# The worker links all of Trivy's analysers: its first build takes 6 to 10
# minutes on two cores and its linker 2.2 GB of memory. The cache mounts make
# the next one take seconds.

FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
# Go compiles for another platform as fast as for its own: no emulation.
ARG TARGETOS TARGETARCH
ENV CGO_ENABLED=0 GOFLAGS=-buildvcs=false
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w" -o /out/usr/local/bin/pratique ./cmd/pratique
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH GOEXPERIMENT=jsonv2 go build -trimpath -ldflags "-s -w" -o /out/usr/local/bin/pratique-analyzer ./cmd/pratique-analyzer
# The rest of the root file system: the last stage has no shell to make it with.
# What must have an owner or a mode of its own lies one folder deeper, because
# COPY sets neither on the folder that it is told to copy.
RUN mkdir -p /out/etc/ssl/certs /out/etc/pratique /state/pratique /scratch/tmp \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
 && cp configs/pratique.yaml LICENSE NOTICE /out/etc/pratique/ \
 && echo 'pratique:x:65532:65532::/var/lib/pratique:/sbin/nologin' > /out/etc/passwd \
 && echo 'pratique:x:65532:' > /out/etc/group \
 && chmod 1777 /scratch/tmp

FROM scratch
COPY --from=build /out/ /
COPY --from=build /scratch/ /
COPY --from=build --chown=65532:65532 /state/ /var/lib/
USER 65532:65532
# 5000 for clusters. The admin address stays on the container's own loopback,
# because it asks nobody who they are: docker exec CONTAINER pratique check …, or
# open it with PRATIQUE_ADMIN_LISTEN=:5001 behind something that asks.
EXPOSE 5000
VOLUME /var/lib/pratique
ENV PATH=/usr/local/bin
ENTRYPOINT ["/usr/local/bin/pratique"]
CMD ["serve", "--config", "/etc/pratique/pratique.yaml"]
