# The part `openapi`: Schemathesis asks a real server for everything that the OpenAPI document promises. Sourced by tests/run.
# shellcheck shell=bash
# shellcheck disable=SC2154 # WORK, SCOPE, RUN_SECONDS and RUN_SEED are tests/run's

OPENAPI_TOKEN=the-administrator-of-this-run-0001

# Where Python's packages for it are; nothing is installed beside them.
schemathesis_folder() { echo "${CARGO_TARGET_DIR:-target}/schemathesis"; }

# Whether the Schemathesis that is wanted is there.
has_schemathesis() {
  local wanted
  wanted=$(sed -n 's/^schemathesis==//p' tests/lib/schemathesis.txt)
  "$(schemathesis_folder)/bin/schemathesis" --version 2>/dev/null | grep -qF " $wanted"
}

install_schemathesis() {
  say 'installing Schemathesis, from PyPI'
  python3 -m venv "$(schemathesis_folder)" &&
    "$(schemathesis_folder)/bin/pip" install --quiet --disable-pip-version-check --requirement tests/lib/schemathesis.txt
}

run_openapi() {
  local log=$WORK/openapi.log seconds=${RUN_SECONDS:-60} address folder=$WORK/openapi
  if ! has_schemathesis; then
    miss "Schemathesis is missing (tests/run --install, or its packages of tests/lib/schemathesis.txt in $(schemathesis_folder))"
    return
  fi
  if ! cargo build "${SCOPE[@]}" --bin robata; then
    echo 'robata does not build'
    FAILED=$((FAILED + 1))
    return
  fi

  mkdir -p "$folder/nothing"
  printf '[auth]\nadmin_token = "%s"\n\n[executors.process.process]\n' $OPENAPI_TOKEN >"$folder/robata.toml"
  cat >"$folder/jobs.toml" <<'END'
[apps.shop]
command = ["/bin/true"]
[apps.shop.jobs.resize]
queue = "images"
env_allow = ["LOCALE"]
[apps.shop.jobs.mail]
END
  # Definitions are made up on the way, and their jobs run: no program is found by its name.
  start_process openapi env -i PATH="$folder/nothing" HOME="$folder" RUST_BACKTRACE=1 \
    "$(realpath "${CARGO_TARGET_DIR:-target}")/debug/robata" up --config "$folder/robata.toml" --data-dir "$folder/data" \
    --listen 127.0.0.1:0 --apply "$folder/jobs.toml"
  if ! wait_for 20 grep -q 'listens on' "$log"; then
    cat "$log"
    echo 'robata did not start'
    FAILED=$((FAILED + 1))
    return
  fi
  address=$(grep -o 'http://127\.0\.0\.1:[0-9]*' "$log" | head -n1)

  # What it found it prints by itself; --max-time is for its later phases alone, the rest takes some seconds.
  check timeout $((seconds + 120)) "$(schemathesis_folder)/bin/schemathesis" --config-file tests/lib/schemathesis.toml run \
    "$address/api/v1/openapi.json" --header "Authorization: Bearer $OPENAPI_TOKEN" --max-time "$seconds" \
    --seed "${RUN_SEED:-1}"
  check kill -0 "$STARTED"
  if grep -n 'panicked' "$log"; then
    echo 'a handler panicked: see above'
    FAILED=$((FAILED + 1))
  fi
  end_process "$STARTED"
}
