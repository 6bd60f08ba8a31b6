#!/usr/bin/env bash
# Images for a machine that cannot pull them: under their own names, made of what this Debian has installed, and honouring of
# their settings what docker-compose.yml uses.
#
#   tests/lib/stand-ins.sh HOST LABEL PROGRAMS BUILT IMAGE…
#
# At the engine HOST it makes BUILT, Dockerfile's stage `build` given ready-made, of the folder PROGRAMS; and each IMAGE that
# is not there and cannot be pulled. All that it makes bears LABEL, by which it is removed.

set -euo pipefail
HOST=$1 LABEL=$2 PROGRAMS=$3 BUILT=$4
shift 4
DAEMONS=(robata robata-master robata-worker)
WORK=$(mktemp -d)
trap 'rm -rf --one-file-system "$WORK"' EXIT

docker_() { env -u DOCKER_CONTEXT -u DOCKER_HOST docker --config "$WORK" -H "$HOST" "$@"; }

fail() {
  echo "stand-ins: $*" >&2
  exit 1
}

# Copies files to $ROOT, each to its own place; not into what a link leads to (busybox, mostly).
copy() {
  local file
  for file; do
    mkdir -p "$ROOT${file%/*}"
    cp -L --remove-destination "$file" "$ROOT$file"
  done
}

# Copies the libraries of programs.
libraries() {
  local program file
  for program; do
    for file in $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do copy "$file"; done
  done
}

# Copies programs with their libraries.
take() { copy "$@" && libraries "$@"; }

# The path of a program; it must be there.
program() { PATH=$PATH:/usr/sbin:/sbin type -P "$1" || fail "there is no $1 on this machine to make an image of (tests/run --install)"; }

# What every image has: a shell, the usual commands, users. Sets ROOT.
begin() {
  local busybox applet folder
  busybox=$(program busybox)
  ROOT=$WORK/$1
  mkdir -p "$ROOT"/{dev,etc,proc,root,run,sys,tmp,usr/{bin,lib,lib64,sbin,local/bin},var}
  for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$ROOT/$folder"; done
  chmod 1777 "$ROOT/tmp"
  cp -L "$busybox" "$ROOT/bin/busybox"
  for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$ROOT/bin/$applet"
  done
  printf '%s\n' 'root:x:0:0::/root:/bin/sh' 'haproxy:x:99:99::/tmp:/bin/false' 'service:x:999:999::/tmp:/bin/sh' >"$ROOT/etc/passwd"
  printf '%s\n' 'root:x:0:' 'haproxy:x:99:' 'service:x:999:' >"$ROOT/etc/group"
  printf 'hosts: files dns\n' >"$ROOT/etc/nsswitch.conf"
  take "$(program setpriv)"
}

# Gives $ROOT the name $1; the rest: changes, as in a Dockerfile.
finish() {
  local name=$1 change changes=(--change "LABEL $LABEL" --change 'ENV PATH=/usr/local/bin:/usr/bin:/usr/sbin')
  shift
  for change; do changes+=(--change "$change"); done
  tar -C "$ROOT" --owner=0 --group=0 -c . | docker_ import "${changes[@]}" - "$name" >/dev/null
  rm -rf --one-file-system "$ROOT"
}

# Standard input becomes the image's entry point: it makes the service's user the owner of its folder and becomes the service.
entrypoint() {
  cat >"$ROOT/usr/local/bin/entrypoint"
  chmod +x "$ROOT/usr/local/bin/entrypoint"
}

certificates() {
  mkdir -p "$ROOT/etc/ssl/certs"
  cp -L /etc/ssl/certs/ca-certificates.crt "$ROOT/etc/ssl/certs/" || fail 'there are no certificates here (the package ca-certificates)'
}

built() {
  local name
  begin built
  certificates
  mkdir "$ROOT/robata"
  for name in "${DAEMONS[@]}"; do
    [ -e "$PROGRAMS/$name" ] || fail "$PROGRAMS/$name is not built: cargo build --workspace --features robata/full"
    # What only a debugger reads is most of a debug build.
    strip --strip-debug -o "$ROOT/robata/$name" "$PROGRAMS/$name" || cp "$PROGRAMS/$name" "$ROOT/robata/"
  done
  finish "$BUILT"
}

debian() {
  local name
  begin debian
  take "$(program bash)"
  for name in "${DAEMONS[@]}"; do libraries "$PROGRAMS/$name"; done
  finish "$1"
}

postgres() {
  local folder version
  begin postgres
  folder=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n1)
  [ -x "$folder/initdb" ] || fail 'there is no PostgreSQL on this machine to make an image of'
  version=$(basename "${folder%/bin}")
  take "$folder"/{postgres,initdb,psql,pg_isready}
  mkdir -p "$ROOT/usr/lib/postgresql/$version" "$ROOT/usr/share/postgresql"
  cp -R "${folder%/bin}/lib" "$ROOT/usr/lib/postgresql/$version/"
  # The compiler of queries needs libraries that are as large as all the rest.
  rm -rf "$ROOT/usr/lib/postgresql/$version/lib"/{bitcode,llvmjit*}
  cp -RL "/usr/share/postgresql/$version" "$ROOT/usr/share/postgresql/"
  cp -R /usr/share/zoneinfo "$ROOT/usr/share/"
  mkdir "$ROOT/usr/lib/locale"
  cp -R /usr/lib/locale/C.utf8 "$ROOT/usr/lib/locale/"
  entrypoint <<'END'
#!/bin/sh
set -e
data=/var/lib/postgresql/data
as="/usr/bin/setpriv --reuid=service --regid=service --clear-groups"
mkdir -p $data
chown service $data
chmod 700 $data
if [ ! -s $data/PG_VERSION ]; then
  $as initdb -D $data -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 -E UTF8 --locale=C.UTF-8
  echo "CREATE DATABASE $POSTGRES_DB" | $as postgres --single -D $data postgres
  echo 'host all all all scram-sha-256' >>$data/pg_hba.conf
fi
exec $as postgres -D $data -c listen_addresses='*' -c unix_socket_directories=/tmp
END
  finish "$1" "ENV PATH=/usr/local/bin:/usr/bin:/usr/sbin:$folder" 'VOLUME /var/lib/postgresql/data' \
    'ENTRYPOINT ["entrypoint"]' 'CMD ["postgres"]'
}

redis() {
  begin redis
  take "$(program redis-server)" "$(program redis-cli)"
  entrypoint <<'END'
#!/bin/sh
chown service /data
cd /data && exec /usr/bin/setpriv --reuid=service --regid=service --clear-groups "$@"
END
  finish "$1" 'VOLUME /data' 'ENTRYPOINT ["entrypoint"]' 'CMD ["redis-server"]'
}

haproxy() {
  begin haproxy
  take "$(program haproxy)"
  finish "$1" 'USER haproxy' 'CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]'
}

rabbitmq() {
  local file
  begin rabbitmq
  [ -d /usr/lib/rabbitmq/bin ] || fail 'there is no RabbitMQ on this machine to make an image of'
  cp -R /usr/lib/erlang /usr/lib/rabbitmq "$ROOT/usr/lib/"
  # shellcheck disable=SC2044 # none of these has a space in its name
  for file in $(find /usr/lib/erlang -type f \( -path '*/erts-*/bin/*' -o -name '*.so' \)); do take "$file"; done
  for file in erl erlexec epmd; do ln -sf "../lib/erlang/bin/$file" "$ROOT/usr/bin/$file"; done
  take "$(program bash)"
  cat >"$ROOT/usr/local/bin/rabbitmq-diagnostics" <<'END'
#!/bin/sh
HOME=/var/lib/rabbitmq exec /usr/bin/setpriv --reuid=service --regid=service --clear-groups /usr/lib/rabbitmq/bin/rabbitmq-diagnostics "$@"
END
  chmod +x "$ROOT/usr/local/bin/rabbitmq-diagnostics"
  entrypoint <<'END'
#!/bin/sh
mkdir -p /var/lib/rabbitmq /var/log/rabbitmq
chown service /var/lib/rabbitmq /var/log/rabbitmq
export HOME=/var/lib/rabbitmq RUNNING_UNDER_SYSTEMD=true
cd && exec /usr/bin/setpriv --reuid=service --regid=service --clear-groups /usr/lib/rabbitmq/bin/rabbitmq-server
END
  finish "$1" 'VOLUME /var/lib/rabbitmq' 'ENV LANG=C.UTF-8' 'ENTRYPOINT ["entrypoint"]' 'CMD ["rabbitmq-server"]'
}

built
unreached=''
for image; do
  ! docker_ image inspect "$image" >/dev/null 2>&1 || continue
  # One that fails is enough: a registry that is not reached may take its time to say so.
  if [ -z "$unreached" ]; then
    ! timeout 60 env -u DOCKER_CONTEXT -u DOCKER_HOST docker --config "$WORK" -H "$HOST" pull --quiet "$image" 2>"$WORK/pull" || continue
    unreached=yes
    echo "stand-ins: images are made here, since none can be pulled: $(tail -n1 "$WORK/pull")" >&2
  fi
  case $image in
    debian:*) debian "$image" ;;
    postgres:*) postgres "$image" ;;
    redis:*) redis "$image" ;;
    haproxy:*) haproxy "$image" ;;
    rabbitmq:*) rabbitmq "$image" ;;
    *) fail "no way to make $image is known here" ;;
  esac
done
