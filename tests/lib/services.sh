# The services that tests need: started in $WORK, or taken over where they are already there. Sourced by tests/run.
#
# To add one: a case in service_filter, a start_NAME called by start_services that sets HAVE or WHY and exports the
# ROBATA_TEST_* variables, and its packages in tests/lib/install.sh.
# shellcheck shell=bash

declare -A HAVE=() # service → "yes"
declare -A WHY=()  # service → why it is missing
ENDING=()          # commands that end what was started, in the order of starting
# shellcheck source=tests/lib/databases.sh
. tests/lib/databases.sh
# shellcheck source=tests/lib/podman.sh
. tests/lib/podman.sh
# shellcheck source=tests/lib/rabbitmq.sh
. tests/lib/rabbitmq.sh
# shellcheck source=tests/lib/aws.sh
. tests/lib/aws.sh
TEST_IMAGE=robata-test/busybox:1
REGISTRY_USER=robata
REGISTRY_PASSWORD=secret
# The line for the above in the format of htpasswd, which knows no plain passwords: bcrypt, at its lowest cost.
# shellcheck disable=SC2016 # the dollars are the format's own
REGISTRY_HTPASSWD='robata:$2b$04$robatatestrobatatestreQki7GF7CQxQwY6twv7PluvcaK6sMrE.'

# Prints the nextest filter for the tests that cannot run without a service.
#   docker    "docker" stands in the test's name or module, or in the name of its file or package under tests/
#   registry  of those, the tests with "registry" in their name
#   podman    "podman" stands in the test's name or module
#   compose   "compose" stands in the name of the test's file
#   postgres, pgbouncer, redis, rabbitmq, sqs, s3   as with docker, by their own names
service_filter() {
  local docker='(test(/docker/) or (kind(test) and binary_id(/docker/)))'
  case $1 in
    docker) echo "$docker" ;;
    registry) echo "($docker and test(/registry/))" ;;
    podman) echo "test(/podman/)" ;;
    postgres | pgbouncer | redis | rabbitmq | sqs | s3) echo "(test(/$1/) or (kind(test) and binary_id(/$1/)))" ;;
    compose) echo "(kind(test) and binary_id(/compose/))" ;;
  esac
}

# Starts what the chosen parts need ($NEEDED).
start_services() {
  if needed docker || needed registry; then
    start_docker
    start_registry
  fi
  if needed podman; then start_podman; fi
  if needed compose; then find_compose; fi
  if needed postgres || needed pgbouncer; then start_postgres; fi
  if needed pgbouncer; then start_pgbouncer; fi
  if needed redis; then start_redis; fi
  if needed rabbitmq; then start_rabbitmq; fi
  if needed s3 || needed sqs; then start_aws; fi
}

needed() { [[ " $NEEDED " == *" $1 "* ]]; }

print_variables() { env | sed -n 's/^ROBATA_TEST_/export &/p' | sort; }

# Ends everything, the latest first.
stop_services() {
  local i
  for ((i = ${#ENDING[@]} - 1; i >= 0; i--)); do ${ENDING[i]} || true; done
}

# ---- processes ----

# Starts a program in a session of its own, so that a Ctrl-C at the terminal reaches the tests but not the services.
# $1: a name for its log; the rest: the command. Sets STARTED to the process id, and has it ended at the end.
start_process() {
  local name=$1
  shift
  setsid "$@" >"$WORK/$name.log" 2>&1 </dev/null &
  STARTED=$!
  ENDING+=("end_process $STARTED")
}

# Asks a process to end, and after 20 seconds makes it.
end_process() {
  local i
  kill "$1" 2>/dev/null || return 0
  for ((i = 0; i < 200; i++)); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$1" 2>/dev/null
}

# Waits up to $1 seconds until a command succeeds, as long as the started process lives.
wait_for() {
  local tenths=$(($1 * 10))
  shift
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$STARTED" 2>/dev/null || [ $((tenths -= 1)) -lt 0 ]; then return 1; fi
    sleep 0.1
  done
}

# ---- Docker ----

# The docker client at the engine under test, with settings of its own instead of the user's.
docker_() {
  env -u DOCKER_CONTEXT -u DOCKER_HOST docker --config "$WORK/docker-config" -H "$ROBATA_TEST_DOCKER_HOST" "$@"
}

start_docker() {
  local host
  if ! command -v docker >/dev/null; then
    WHY[docker]='there is no docker client'
    return
  fi
  mkdir -p "$WORK/docker-config"

  for host in "${ROBATA_TEST_DOCKER_HOST:-}" "${DOCKER_HOST:-}" unix:///var/run/docker.sock; do
    [ -n "$host" ] || continue
    export ROBATA_TEST_DOCKER_HOST=$host
    if docker_ version >/dev/null 2>&1; then
      say "using the Docker engine at $host"
      if build_image; then HAVE[docker]=yes; fi
      return
    fi
  done

  unset ROBATA_TEST_DOCKER_HOST
  if start_engine && build_image; then HAVE[docker]=yes; fi
}

# Starts an engine that shares nothing with another one on this machine: folders and socket, the bridge, containerd's
# namespace, and above all iptables, where two engines wipe out each other's rules at their start. Without these rules
# containers reach each other, the host, and published ports, but not the network outside.
start_engine() {
  local bridge=robata$$ subnet
  if ! command -v dockerd >/dev/null; then
    WHY[docker]='no engine at DOCKER_HOST or /var/run/docker.sock, and no dockerd to start'
    return 1
  fi
  if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null; then
    WHY[docker]='no engine at DOCKER_HOST or /var/run/docker.sock; to start one takes root, and the command ip'
    return 1
  fi

  for subnet in 10.213.{1..254}; do
    ip -4 route show | grep -qF "$subnet." || break
  done
  ENDING+=("remove_bridge $bridge")
  ip link add name "$bridge" type bridge && ip addr add "$subnet.1/24" dev "$bridge" && ip link set "$bridge" up || {
    WHY[docker]='cannot make a network bridge'
    return 1
  }

  export ROBATA_TEST_DOCKER_HOST=unix://$WORK/docker.sock
  ENDING+=('end_containerd')
  start_process dockerd dockerd -H "$ROBATA_TEST_DOCKER_HOST" --data-root "$WORK/docker" --exec-root "$WORK/docker-run" \
    --pidfile "$WORK/dockerd.pid" --bridge "$bridge" --iptables=false --ip-forward=false \
    --containerd-namespace "$bridge" --containerd-plugins-namespace "$bridge-plugins"
  if ! wait_for 30 docker_ version; then
    tail -n 20 "$WORK/dockerd.log" >&2
    WHY[docker]='dockerd did not start; its last words are above'
    return 1
  fi
  ENDING+=('empty_engine')
  say "started a Docker engine at $ROBATA_TEST_DOCKER_HOST"
}

remove_bridge() { ip link delete "$1" 2>/dev/null; }

# What failed tests left behind in our own engine: it ends faster without, and takes its networks with it.
empty_engine() {
  docker_ ps -aq | xargs -r env -u DOCKER_CONTEXT -u DOCKER_HOST docker -H "$ROBATA_TEST_DOCKER_HOST" rm -fv
  docker_ network prune -f
} >/dev/null 2>&1

# An engine that ended in good order has ended its containers and its containerd, and unmounted everything. This is for
# one that was killed: what is left of it is known by our own folder, in its command line or its path.
end_containerd() {
  local pid
  pid=$(cat "$WORK/docker-run/containerd/containerd.pid") && end_process "$pid"
  # A container's processes are children of a shim, and its first process takes the others with it.
  # (The pattern comes by standard input, else grep would find itself.)
  for pid in $(grep -lsFf - /proc/[0-9]*/cmdline <<<"$WORK/docker-run/containerd/" | cut -d/ -f3); do
    cat "/proc/$pid/task/"*/children | xargs -r kill -9
    kill -9 "$pid"
  done
  awk -v dir="$WORK/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | xargs -r umount -l
} 2>/dev/null

# The client that starts docker-compose.yml; nothing of it runs before the test.
find_compose() {
  if [ -z "${HAVE[docker]:-}" ]; then
    WHY[compose]='there is no Docker engine to use it'
  elif [[ $ROBATA_TEST_DOCKER_HOST != unix://* ]]; then
    WHY[compose]='the Docker engine has no socket on this machine, as the stack wants it'
  elif ! docker-compose version >/dev/null 2>&1 && ! docker compose version >/dev/null 2>&1; then
    WHY[compose]='there is neither docker-compose nor docker compose'
  else
    HAVE[compose]=yes
  fi
}

# Prints the path of a busybox that runs without libraries.
static_busybox() {
  local file
  for file in "$WORK/busybox-static/bin/busybox" "$(command -v busybox)"; do
    # ldd fails for a program that is not linked to any library
    if [ -x "$file" ] && ! ldd "$file" >/dev/null 2>&1; then
      echo "$file"
      return
    fi
  done
  return 1
}

# Makes what the tests' image has: busybox and nothing else. Sets WHY for the service of this name where it cannot.
unpack_image() {
  local root=$WORK/image busybox applet
  [ ! -d "$root" ] || return 0
  busybox=$(static_busybox) || {
    WHY[$1]='no statically linked busybox to make the test image of'
    return 1
  }
  mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp,var}
  chmod 1777 "$root/tmp"
  cp "$busybox" "$root/bin/busybox"
  for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'nobody:x:65534:65534:nobody:/tmp:/bin/false' >"$root/etc/passwd"
  printf '%s\n' 'root:x:0:' 'nogroup:x:65534:' >"$root/etc/group"
}

# Makes the image that the tests' containers run.
build_image() {
  export ROBATA_TEST_IMAGE=${ROBATA_TEST_IMAGE:-$TEST_IMAGE}
  ! docker_ image inspect "$ROBATA_TEST_IMAGE" >/dev/null 2>&1 || return 0
  unpack_image docker || return 1
  # By import rather than build: the same result, and clients come with two kinds of builders or none.
  if ! tar -C "$WORK/image" --owner=0 --group=0 -c . |
    docker_ import -c 'ENV PATH=/bin' -c 'CMD ["sh"]' - "$ROBATA_TEST_IMAGE" >/dev/null; then
    WHY[docker]='the engine did not take the test image'
    return 1
  fi
  ENDING+=("remove_image $ROBATA_TEST_IMAGE")
}

remove_image() { docker_ rmi "$1" >/dev/null 2>&1; }

# ---- registries ----

# Two registries that hold the test image: one for everybody, one that wants a user and password.
start_registry() {
  local port
  if [ -n "${ROBATA_TEST_REGISTRY:-}" ]; then
    HAVE[registry]=yes
    return
  elif [ -z "${HAVE[docker]:-}" ]; then
    WHY[registry]='there is no Docker engine to use it'
    return
  elif ! command -v docker-registry >/dev/null; then
    WHY[registry]='there is no docker-registry to start'
    return
  fi

  echo "$REGISTRY_HTPASSWD" >"$WORK/htpasswd"
  start_one_registry registry || return 0
  export ROBATA_TEST_REGISTRY=127.0.0.1:$port
  start_one_registry registry-auth "auth: {htpasswd: {realm: robata-test, path: $WORK/htpasswd}}" || return 0
  export ROBATA_TEST_REGISTRY_AUTH=127.0.0.1:$port
  export ROBATA_TEST_REGISTRY_USER=$REGISTRY_USER ROBATA_TEST_REGISTRY_PASSWORD=$REGISTRY_PASSWORD
  printf '{"auths":{"%s":{"auth":"%s"}}}' "$ROBATA_TEST_REGISTRY_AUTH" \
    "$(printf '%s:%s' $REGISTRY_USER $REGISTRY_PASSWORD | base64)" >"$WORK/docker-config/config.json"

  if push_image "$ROBATA_TEST_REGISTRY" && push_image "$ROBATA_TEST_REGISTRY_AUTH"; then
    HAVE[registry]=yes
    say "started registries at $ROBATA_TEST_REGISTRY and, with a password, $ROBATA_TEST_REGISTRY_AUTH"
  else
    unset "${!ROBATA_TEST_REGISTRY@}"
    WHY[registry]='the Docker engine cannot push to a registry on the loopback address of this machine'
  fi
}

# Starts a registry on a free port. $1: its name; $2: a further line for its settings. Sets the caller's $port.
start_one_registry() {
  local name=$1
  cat >"$WORK/$name.yml" <<END
version: 0.1
log: {accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $WORK/$name}, delete: {enabled: true}}
http: {addr: "127.0.0.1:0", secret: robata-test}
${2:-}
END
  start_process "$name" docker-registry serve "$WORK/$name.yml"
  if ! wait_for 10 grep -q 'listening on' "$WORK/$name.log"; then
    tail -n 5 "$WORK/$name.log" >&2
    WHY[registry]='docker-registry did not start; its last words are above'
    return 1
  fi
  port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$WORK/$name.log")
}

# Puts the test image into a registry, and leaves no local name for it, so that a pull is a pull.
push_image() {
  local name=$1/$TEST_IMAGE
  docker_ tag "$ROBATA_TEST_IMAGE" "$name" && docker_ push "$name" && docker_ rmi "$name"
} >/dev/null 2>&1
