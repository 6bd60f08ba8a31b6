# Podman's service, which speaks Docker's API, for tests: with folders and settings of its own. Sourced by tests/lib/services.sh.
# shellcheck shell=bash

start_podman() {
  local folder=$WORK/podman
  if [ -n "${ROBATA_TEST_PODMAN_HOST:-}" ]; then
    HAVE[podman]=yes
    return
  elif missing_podman; then
    WHY[podman]='there is no podman, or no runc, or no catatonit (which is its init)'
    return
  elif [ "$(id -u)" != 0 ]; then
    WHY[podman]='to start its service in a folder of its own takes root'
    return
  fi
  unpack_image podman || return 0

  mkdir -p "$folder"
  cat >"$folder/storage.conf" <<END
[storage]
driver = "vfs"
graphroot = "$folder/root"
runroot = "$folder/run"
END
  # Its own default limits are higher than what a root without CAP_SYS_RESOURCE may grant.
  cat >"$folder/containers.conf" <<END
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=16384:16384"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "$folder/tmp"
volume_path = "$folder/volumes"
init_path = "$(command -v catatonit)"
[network]
network_config_dir = "$folder/networks"
END
  # Registries on this machine are spoken to without TLS, as Docker does.
  cat >"$folder/registries.conf" <<END
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "127.0.0.1"
location = "127.0.0.1"
insecure = true
END
  export ROBATA_TEST_PODMAN_HOST=unix://$WORK/podman.sock
  ENDING+=('end_podman')
  start_process podman env "CONTAINERS_STORAGE_CONF=$folder/storage.conf" "CONTAINERS_CONF=$folder/containers.conf" \
    "CONTAINERS_REGISTRIES_CONF=$folder/registries.conf" podman system service --time=0 "$ROBATA_TEST_PODMAN_HOST"
  if wait_for 20 podman_answers && podman_image; then
    HAVE[podman]=yes
    say "started Podman's service at $ROBATA_TEST_PODMAN_HOST"
  else
    tail -n 20 "$WORK/podman.log" >&2
    unset ROBATA_TEST_PODMAN_HOST
    WHY[podman]='its service did not start; its last words are above'
  fi
}

missing_podman() {
  local program
  for program in podman runc catatonit; do
    command -v "$program" >/dev/null || return 0
  done
  return 1
}

# Podman's own client, in its service's folder.
podman_() {
  CONTAINERS_STORAGE_CONF=$WORK/podman/storage.conf CONTAINERS_CONF=$WORK/podman/containers.conf \
    CONTAINERS_REGISTRIES_CONF=$WORK/podman/registries.conf podman "$@"
}

podman_answers() { [ -S "$WORK/podman.sock" ] && podman_ --url "$ROBATA_TEST_PODMAN_HOST" info; }

# Its API takes a name without a registry for one of Docker Hub.
podman_image() {
  export ROBATA_TEST_IMAGE=${ROBATA_TEST_IMAGE:-$TEST_IMAGE}
  tar -C "$WORK/image" --owner=0 --group=0 -c . |
    podman_ import -c 'ENV PATH=/bin' -c 'CMD ["sh"]' - "docker.io/$ROBATA_TEST_IMAGE" >/dev/null
}

# Its containers outlive it: what failed tests left behind goes, and what is mounted.
end_podman() {
  podman_ rm --all --force --time 0
  awk -v dir="$WORK/podman" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r umount -l
} >/dev/null 2>&1
