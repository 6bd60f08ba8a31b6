# One image with all of Robata's programs, for docker-compose.yml or by itself: only the command differs (robata-master,
# robata-worker, robata). `docker build -t robata .`; the first build takes ten minutes.

# Where the programs come from: an image to compile them in, or one that has them ready in /robata (a test's, or a build
# server's), which then only gives them. Its certificates are taken along.
ARG BUILD=rust:1.95-bookworm

FROM ${BUILD} AS build
WORKDIR /src
COPY . .
RUN if [ ! -e /robata ]; then \
        cargo build --release --locked -p robata -p robata-master -p robata-worker-daemon --features robata/full && \
        mkdir /robata && \
        cp target/release/robata target/release/robata-master target/release/robata-worker /robata/; \
    fi

# The same Debian, for its libraries; with a shell, for commands that get secrets (`secrets = { command = […] }`).
FROM debian:12-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /robata/ /usr/local/bin/
# A new volume that is mounted there gets this owner.
RUN mkdir -p /var/lib/robata/logs && chown -R 10001:10001 /var/lib/robata
ENV HOME=/var/lib/robata
USER 10001:10001
CMD ["robata", "--help"]
