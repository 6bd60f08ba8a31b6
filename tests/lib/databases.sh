# PostgreSQL, PgBouncer and Redis: own servers in $WORK, on loopback and free ports. Sourced by tests/lib/services.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # HAVE and WHY are tables of services.sh

DATABASE_USER=robata
DATABASE_PASSWORD=secret

# Prints a port of the loopback address on which nobody listens.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000)) # below the range from which the kernel takes ports for outgoing connections
    if ! (: </dev/tcp/127.0.0.1/$port) 2>/dev/null; then
      echo "$port"
      return
    fi
  done
}

# Before a command: runs it as a user that is not root, as which the servers of PostgreSQL refuse to run.
AS_POSTGRES=()
if [ "$(id -u)" = 0 ]; then AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --init-groups --); fi

# Prints the folder of PostgreSQL's programs, the newest: Debian has them outside PATH.
postgres_programs() {
  local folder
  for folder in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(dirname "$(command -v postgres || echo none)")"; do
    if [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ]; then
      echo "$folder"
      return
    fi
  done
  return 1
}

# A folder that the user postgres may enter and write.
postgres_folder() {
  chmod 711 "$WORK"
  mkdir -p "$1"
  if [ "$(id -u)" = 0 ]; then chown postgres: "$1"; fi
}

start_postgres() {
  local programs port folder=$WORK/postgres
  if [ -n "${ROBATA_TEST_POSTGRES_URL:-}" ]; then
    HAVE[postgres]=yes
    return
  fi
  if ! programs=$(postgres_programs); then
    WHY[postgres]='there is no PostgreSQL to start (the programs initdb and postgres)'
    return
  fi
  postgres_folder "$folder"
  install -m 644 /dev/stdin "$WORK/postgres-password" <<<"$DATABASE_PASSWORD"
  if ! "${AS_POSTGRES[@]}" "$programs/initdb" -D "$folder/data" -U $DATABASE_USER --pwfile="$WORK/postgres-password" \
    -A scram-sha-256 -E UTF8 --locale=C.UTF-8 >"$WORK/initdb.log" 2>&1; then
    tail -n 20 "$WORK/initdb.log" >&2
    WHY[postgres]='initdb failed; its last words are above'
    return
  fi
  port=$(free_port)
  # fsync stays on: what a commit costs is part of what is tested. Many tests at once, each with pools of its own.
  start_process postgres "${AS_POSTGRES[@]}" "$programs/postgres" -D "$folder/data" -k "$folder" -h 127.0.0.1 -p "$port" \
    -c max_connections=400
  export PGPASSWORD=$DATABASE_PASSWORD
  if ! wait_for 20 "$programs/psql" -h 127.0.0.1 -p "$port" -U $DATABASE_USER -d postgres -c 'SELECT 1'; then
    tail -n 20 "$WORK/postgres.log" >&2
    WHY[postgres]='PostgreSQL did not start; its last words are above'
    return
  fi
  unset PGPASSWORD
  export ROBATA_TEST_POSTGRES_URL=postgres://$DATABASE_USER:$DATABASE_PASSWORD@127.0.0.1:$port/postgres
  HAVE[postgres]=yes
  say "started a PostgreSQL on port $port"
}

# PgBouncer in transaction mode in front of that PostgreSQL; any database by its own name.
start_pgbouncer() {
  local port server folder=$WORK/pgbouncer
  if [ -n "${ROBATA_TEST_PGBOUNCER_URL:-}" ]; then
    HAVE[pgbouncer]=yes
    return
  fi
  if [ -z "${HAVE[postgres]:-}" ]; then
    WHY[pgbouncer]='there is no PostgreSQL behind it'
    return
  fi
  if ! command -v pgbouncer >/dev/null; then
    WHY[pgbouncer]='there is no pgbouncer to start'
    return
  fi
  server=$(sed -nE 's,^postgres(ql)?://([^:]+):([^@]*)@([^:/]+):([0-9]+)/.*,\2 \3 \4 \5,p' <<<"$ROBATA_TEST_POSTGRES_URL")
  local user password host postgres_port
  read -r user password host postgres_port <<<"$server"
  if [ -z "${postgres_port:-}" ]; then
    WHY[pgbouncer]='ROBATA_TEST_POSTGRES_URL is not of the form postgres://USER:PASSWORD@HOST:PORT/NAME'
    return
  fi
  postgres_folder "$folder"
  port=$(free_port)
  printf '"%s" "%s"\n' "$user" "$password" >"$folder/users.txt"
  cat >"$folder/pgbouncer.ini" <<END
[databases]
* = host=$host port=$postgres_port
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $folder/users.txt
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
END
  start_process pgbouncer "${AS_POSTGRES[@]}" "$(command -v pgbouncer)" "$folder/pgbouncer.ini"
  if ! wait_for 10 eval "(: </dev/tcp/127.0.0.1/$port)"; then
    tail -n 20 "$WORK/pgbouncer.log" >&2
    WHY[pgbouncer]='PgBouncer did not start; its last words are above'
    return
  fi
  export ROBATA_TEST_PGBOUNCER_URL=postgres://$user:$password@127.0.0.1:$port/postgres
  HAVE[pgbouncer]=yes
  say "started a PgBouncer on port $port"
}

start_redis() {
  local port program
  if [ -n "${ROBATA_TEST_REDIS_URL:-}" ]; then
    HAVE[redis]=yes
    return
  fi
  if ! program=$(command -v redis-server || command -v valkey-server); then
    WHY[redis]='there is no redis-server or valkey-server to start'
    return
  fi
  port=$(free_port)
  mkdir -p "$WORK/redis"
  start_process redis "$program" --port "$port" --bind 127.0.0.1 --dir "$WORK/redis" --save '' \
    --appendonly yes --appendfsync always --maxmemory-policy noeviction
  if ! wait_for 10 eval "(: </dev/tcp/127.0.0.1/$port)"; then
    tail -n 20 "$WORK/redis.log" >&2
    WHY[redis]='redis-server did not start; its last words are above'
    return
  fi
  export ROBATA_TEST_REDIS_URL=redis://127.0.0.1:$port
  HAVE[redis]=yes
  say "started a Redis on port $port"
}
