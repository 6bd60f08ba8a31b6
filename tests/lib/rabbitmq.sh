# RabbitMQ: an own node in $WORK, on loopback and free ports, with a port mapper of its own. Sourced by
# tests/lib/services.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # HAVE and WHY are tables of services.sh

# The programs behind Debian's own commands, which insist on another user.
rabbitmq_program() {
  if [ -x "/usr/lib/rabbitmq/bin/$1" ]; then echo "/usr/lib/rabbitmq/bin/$1"; else command -v "$1"; fi
}

start_rabbitmq() {
  local program port mapper distribution folder=$WORK/rabbitmq
  if [ -n "${ROBATA_TEST_RABBITMQ_URL:-}" ]; then
    HAVE[rabbitmq]=yes
    return
  fi
  if ! program=$(rabbitmq_program rabbitmq-server) || ! command -v epmd >/dev/null; then
    WHY[rabbitmq]='there is no rabbitmq-server to start'
    return
  fi
  port=$(free_port)
  mapper=$(free_port)
  distribution=$(free_port)
  mkdir -p "$folder"
  cat >"$folder/rabbitmq.conf" <<END
listeners.tcp.1 = 127.0.0.1:$port
disk_free_limit.absolute = 50MB
log.file = false
log.console = true
log.console.level = warning
END
  echo '[].' >"$folder/enabled_plugins"
  start_process epmd epmd -address 127.0.0.1 -port "$mapper"
  # RUNNING_UNDER_SYSTEMD: then its script becomes the node, instead of watching over it.
  start_process rabbitmq env HOME="$folder" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$mapper" \
    RABBITMQ_NODENAME="robata$port@localhost" RABBITMQ_DIST_PORT="$distribution" RABBITMQ_MNESIA_BASE="$folder/data" \
    RABBITMQ_LOG_BASE="$folder/log" RABBITMQ_CONFIG_FILE="$folder/rabbitmq.conf" \
    RABBITMQ_CONF_ENV_FILE="$folder/no-environment" RABBITMQ_ENABLED_PLUGINS_FILE="$folder/enabled_plugins" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none' \
    RUNNING_UNDER_SYSTEMD=true "$program"
  # It listens last of all.
  if ! wait_for 60 eval "(: </dev/tcp/127.0.0.1/$port)"; then
    tail -n 20 "$WORK/rabbitmq.log" >&2
    WHY[rabbitmq]='rabbitmq-server did not start; its last words are above'
    return
  fi
  export ROBATA_TEST_RABBITMQ_URL=amqp://guest:guest@127.0.0.1:$port
  HAVE[rabbitmq]=yes
  say "started a RabbitMQ on port $port"
}
