#!/bin/sh
# Makes, once, the admin's token and the passwords by which the services of docker-compose.yml know each other. Each service
# has a volume of its own below /keys with its side; what masters and workers need is in theirs. What is there stays.
set -eu
cd /keys

secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

# Writes standard input to a file, whole or not at all. $1: the file; $2: its mode; $3: its owner.
put() {
  cat >"$1.new"
  chmod "$2" "$1.new"
  chown "$3" "$1.new"
  mv "$1.new" "$1"
}

# Robata's own user, as Dockerfile has it.
for_robata() { put "robata/$1" 0400 10001:10001; }

# The users of other images differ from image to image; nobody else has their volumes.
for_service() { put "$1" 0444 0:0; }

# Robata's side is written last: if it is there, both are.
if [ ! -e robata/postgres-url ]; then
  password=$(secret)
  echo "$password" | for_service postgres/password
  echo "postgres://robata:$password@postgres:5432/robata" | for_robata postgres-url
fi
if [ ! -e robata/redis-url ]; then
  password=$(secret)
  echo "requirepass $password" | for_service redis/redis.conf
  echo "redis://:$password@redis:6379/0" | for_robata redis-url
fi
if [ ! -e robata/rabbitmq-url ]; then
  password=$(secret)
  printf '%s\n' 'default_user = robata' "default_pass = $password" 'log.console = true' | for_service rabbitmq/10-robata.conf
  echo "amqp://robata:$password@rabbitmq:5672/%2f" | for_robata rabbitmq-url
fi
if [ ! -e robata/admin-token ]; then
  secret | for_robata admin-token
fi
