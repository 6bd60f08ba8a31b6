# S3 and SQS on this machine: ministack, from PyPI. Sourced by tests/lib/services.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # HAVE and WHY are tables of services.sh

# Where it is installed, beside what is built.
AWS_VENV=${CARGO_TARGET_DIR:-target}/ministack
MINISTACK=ministack==1.5.33

# Whether a service's address is neither given nor can be had by starting one.
missing_aws() {
  { [ -z "${ROBATA_TEST_S3_URL:-}" ] || [ -z "${ROBATA_TEST_SQS_URL:-}" ]; } && [ ! -x "$AWS_VENV/bin/ministack" ]
}

install_aws() {
  say "installing $MINISTACK, from PyPI"
  python3 -m venv "$AWS_VENV" && "$AWS_VENV/bin/pip" install --quiet --disable-pip-version-check "$MINISTACK" docker
}

# One process for both, but for what is given by its address.
start_aws() {
  local port
  if [ -n "${ROBATA_TEST_S3_URL:-}" ]; then HAVE[s3]=yes; fi
  if [ -n "${ROBATA_TEST_SQS_URL:-}" ]; then HAVE[sqs]=yes; fi
  if [ -n "${HAVE[s3]:-}" ] && [ -n "${HAVE[sqs]:-}" ]; then return; fi
  if missing_aws; then
    no_aws 'there is no ministack to start (tests/run --install installs it, with Python)'
    return
  fi
  port=$(free_port)
  # Its own default is to listen on all addresses.
  start_process ministack env BIND_HOST=127.0.0.1 MINISTACK_HOST=127.0.0.1 GATEWAY_PORT="$port" \
    "$(realpath "$AWS_VENV")/bin/ministack"
  if ! wait_for 20 eval "(: </dev/tcp/127.0.0.1/$port)"; then
    tail -n 20 "$WORK/ministack.log" >&2
    no_aws 'ministack did not start; its last words are above'
    return
  fi
  export ROBATA_TEST_S3_URL=${ROBATA_TEST_S3_URL:-http://127.0.0.1:$port}
  export ROBATA_TEST_SQS_URL=${ROBATA_TEST_SQS_URL:-http://127.0.0.1:$port}
  HAVE[s3]=yes HAVE[sqs]=yes
  say "started S3 and SQS on port $port"
}

# Says why what is not there is not there.
no_aws() {
  local service
  for service in s3 sqs; do
    if [ -z "${HAVE[$service]:-}" ]; then WHY[$service]=$1; fi
  done
}
