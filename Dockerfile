# A small image of the relay alone, without the demo's database and broker.
FROM rust:1-bookworm AS build
WORKDIR /src
# The image below has no libz.so: librdkafka's zlib is linked in.
ENV LIBZ_SYS_STATIC=1
COPY . .
RUN cargo build --release --locked --no-default-features --bin outbox-relay

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/outbox-relay /usr/bin/outbox-relay
USER nonroot:nonroot
ENTRYPOINT ["/usr/bin/outbox-relay"]
CMD ["run", "--config", "/etc/outbox-relay/relay.yaml"]
