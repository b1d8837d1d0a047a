# A small image of the relay, without the demo's database and broker.
#
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" -t outbox-relay .
#   docker run --read-only --cap-drop=ALL -v "$PWD/relay.yaml:/etc/outbox-relay/relay.yaml:ro" outbox-relay
#
# docker/build.sh is the build; CI runs it too. The build image has the C compiler, make and Perl that
# librdkafka and OpenSSL are built with.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# `tls,otlp` exports spans, too (docs/tracing.md).
ARG FEATURES=tls
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    docker/build.sh /out

FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="outbox-relay" \
      org.opencontainers.image.description="Publishes ScyllaDB outbox tables to Kafka" \
      org.opencontainers.image.source="https://github.com/outbox-relay/outbox-relay" \
      org.opencontainers.image.documentation="https://github.com/outbox-relay/outbox-relay/blob/main/README.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"
COPY --from=build --chmod=0555 /out/outbox-relay /usr/bin/outbox-relay
# Loopback would be that of the container. Publish the port to whom may see health and metrics.
ENV OUTBOX_RELAY__HTTP__LISTEN=0.0.0.0:9464
# Where every command looks, also those of `docker exec`, unless --config says otherwise.
ENV OUTBOX_RELAY_CONFIG=/etc/outbox-relay/relay.yaml
EXPOSE 9464
# nonroot; a number, so that Kubernetes can tell.
USER 65532:65532
# The first SIGTERM drains. Give it the time: docker stop --time 60.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/usr/bin/outbox-relay", "healthcheck"]
ENTRYPOINT ["/usr/bin/outbox-relay"]
CMD ["run"]
