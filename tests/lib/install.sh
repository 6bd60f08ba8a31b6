# Installs what the tests need and this machine lacks: on Debian, as root. Sourced by tests/run.
# shellcheck shell=bash

# Says the packages that are missing. A package is only asked for where its command is not there from elsewhere.
missing_packages() {
  if ! command -v dockerd >/dev/null && ! an_engine_answers; then echo docker.io; fi
  docker-compose version >/dev/null 2>&1 || docker compose version >/dev/null 2>&1 || echo docker-compose
  command -v haproxy >/dev/null || echo haproxy # for tests/lib/stand-ins.sh
  command -v ip >/dev/null || echo iproute2
  command -v c++ >/dev/null || echo g++
  has_schemathesis || python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  command -v iptables >/dev/null || echo iptables
  command -v docker-registry >/dev/null || echo docker-registry
  if [ -z "${ROBATA_TEST_PODMAN_HOST:-}" ]; then
    command -v podman >/dev/null || echo podman
    command -v runc >/dev/null || echo runc
    command -v catatonit >/dev/null || echo catatonit
  fi
  static_busybox >/dev/null || echo busybox-static
  [ -e /usr/lib/x86_64-linux-gnu/faketime ] || echo faketime
  [ -n "${ROBATA_TEST_POSTGRES_URL:-}" ] || postgres_programs >/dev/null || echo postgresql
  [ -n "${ROBATA_TEST_PGBOUNCER_URL:-}" ] || command -v pgbouncer >/dev/null || echo pgbouncer
  [ -n "${ROBATA_TEST_REDIS_URL:-}" ] || command -v redis-server >/dev/null || command -v valkey-server >/dev/null || echo redis-server
  command -v rabbitmq-server >/dev/null || echo rabbitmq-server
  if missing_aws && ! python3 -c 'import ensurepip' 2>/dev/null; then echo python3-venv; fi
}

an_engine_answers() {
  local host
  for host in "${ROBATA_TEST_DOCKER_HOST:-}" "${DOCKER_HOST:-}" unix:///var/run/docker.sock; do
    if [ -n "$host" ] && docker -H "$host" version >/dev/null 2>&1; then return; fi
  done
  return 1
}

install_missing() {
  local packages
  mapfile -t packages < <(missing_packages)
  if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
      install_packages "${packages[@]}" || say 'not everything could be installed; what lacks it is listed at the end'
    else
      say "cannot install here (that takes Debian, and root); please install what these packages hold: ${packages[*]}"
    fi
  fi

  if missing_aws; then
    install_aws || say 'ministack could not be installed'
  fi

  if ! cargo nextest --version >/dev/null 2>&1; then
    say 'installing cargo-nextest, from source'
    cargo install --locked cargo-nextest || say 'cargo-nextest could not be installed'
  fi
  has_schemathesis || install_schemathesis || say 'Schemathesis could not be installed'
}

install_packages() {
  local status=0 policy=/usr/sbin/policy-rc.d
  say "installing with apt-get: $*"
  apt-get update -qq || return

  # Debian's busybox and busybox-static exclude each other: beside the one, the other is only unpacked.
  if dpkg-query -W -f '${Status}' busybox 2>/dev/null | grep -q 'install ok installed'; then
    unpack_package busybox-static || return
    local package rest=()
    for package; do
      [ "$package" = busybox-static ] || rest+=("$package")
    done
    set -- "${rest[@]}"
    [ $# -gt 0 ] || return 0
  fi

  # Debian starts a service as it is installed: an engine on the machine's own socket, a registry on all addresses.
  # The tests start their own, so this is held off meanwhile, by Debian's own means.
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    ENDING+=("rm -f $policy") # should we be interrupted
  else
    policy=''
  fi
  # Debian makes a cluster of its own as PostgreSQL is installed, which would start with the machine: not that either.
  if [ ! -e /etc/postgresql-common ] && [[ " $* " == *" postgresql "* ]]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  fi

  # --no-remove: rather fail than replace something that is there.
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove -o Dpkg::Options::=--force-confold "$@" || status=$?
  [ -z "$policy" ] || rm -f "$policy"
  return $status
}

# Unpacks a package into $WORK, without installing it.
unpack_package() {
  (
    mkdir -p "$WORK/download" && chmod 777 "$WORK/download" && cd "$WORK/download" &&
      apt-get download -qq "$1" && dpkg -x "$1"_*.deb "$WORK/$1"
  )
}
