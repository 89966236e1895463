# docker build -t mimibridge .
# docker run -v /srv/mimibridge:/data -p 8443:8443 mimibridge
#
# /data holds mimibridge.yaml and what it names; it has to belong to user 65532. internal/image takes these steps one by one
# without a container engine.

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -tags goolm -trimpath -ldflags=-s -o /mimibridge ./cmd/mimibridge \
 && mkdir /data /empty

FROM scratch
# The authorities that other providers' certificates are checked against.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /mimibridge /mimibridge
COPY --from=build --chown=65532:65532 /data /data
COPY --from=build --chown=65532:65532 /empty /tmp
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8443
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s CMD ["/mimibridge", "health", "-c", "/data/mimibridge.yaml"]
ENTRYPOINT ["/mimibridge"]
CMD ["run", "-c", "/data/mimibridge.yaml"]
