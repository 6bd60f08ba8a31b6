# The part `fuzz`: builds the targets of fuzz/ and runs each for some seconds. Sourced by tests/run.
# shellcheck shell=bash
# shellcheck disable=SC2154 # WORK, RUN_SECONDS and RUN_SEED are tests/run's

# As cargo-fuzz builds without a sanitizer: the project's own code has no unsafe parts for one to look at. All of these are
# stable flags, so neither cargo-fuzz itself (a minute to install) nor a nightly compiler is needed.
FUZZ_FLAGS=(
  --cfg fuzzing
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
)

run_fuzz() {
  local folder=${CARGO_TARGET_DIR:-target}/fuzz host target running=()
  local -A pids=()
  if ! command -v c++ >/dev/null; then
    miss 'libFuzzer is built by a C++ compiler, and there is none'
    return
  fi
  # Named, so that what runs while building (macros, build scripts) is not instrumented.
  host=$(rustc -vV | sed -n 's/^host: //p')
  if ! RUSTFLAGS="${FUZZ_FLAGS[*]}" cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host" \
    --target-dir "$folder"; then
    echo 'the fuzz targets do not build'
    FAILED=$((FAILED + 1))
    return
  fi

  # In memory: a store waits for its disk with each request.
  FUZZ_TMP=$(mktemp -d /dev/shm/robata-fuzz.XXXXXX 2>/dev/null || mktemp -d "$WORK/fuzz.XXXXXX")
  ENDING+=("rm -rf --one-file-system $FUZZ_TMP")
  for target in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$target" .rs)
    # As many at once as there are processors; all take the same time.
    if [ ${#running[@]} -ge "$(nproc)" ]; then
      end_fuzz "${running[0]}" "${pids[${running[0]}]}" "$folder"
      running=("${running[@]:1}")
    fi
    fuzz_target "$target" "$folder" "$folder/$host/release/$target" >"$WORK/fuzz-$target.log" 2>&1 &
    pids[$target]=$!
    running+=("$target")
    ENDING+=("end_process $!") # a Ctrl-C does not reach it
  done
  for target in "${running[@]}"; do end_fuzz "$target" "${pids[$target]}" "$folder"; done
}

# Waits for a target and counts it. $1: its name; $2: its process; $3: the folder of what is kept from run to run.
end_fuzz() {
  local log=$WORK/fuzz-$1.log
  if wait "$2"; then
    PASSED=$((PASSED + 1))
    printf '%-12s %10d inputs reached %6d places of the code\n' "$1" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$(grep -o ' cov: [0-9]*' "$log" | tail -n1 | cut -d: -f2)"
  else
    FAILED=$((FAILED + 1))
    tail -n 40 "$log"
    echo "$1: FAILED; the input is in $3/findings, and the program takes it as its argument"
  fi
}

# Becomes one target. $1: its name; $2: the folder of what is kept from run to run; $3: its program.
fuzz_target() {
  local corpus=$2/corpus/$1 seeds=(fuzz/seeds/"$1") options=()
  mkdir -p "$corpus" "$2/findings" "$FUZZ_TMP/$1"
  if [ "$1" = settings ]; then seeds+=(config); fi
  if [ -e "fuzz/dictionaries/$1.dict" ]; then options+=(-dict="fuzz/dictionaries/$1.dict"); fi
  if [ -n "$RUN_SEED" ]; then options+=(-seed="$RUN_SEED"); fi
  # Without a PATH: an input may name a program (a credential helper).
  exec env -i PATH=/nothing TMPDIR="$FUZZ_TMP/$1" "$3" -max_total_time="${RUN_SECONDS:-20}" -timeout=10 \
    -rss_limit_mb=1024 -max_len=8192 -print_final_stats=1 -artifact_prefix="$2/findings/$1-" "${options[@]}" \
    "$corpus" "${seeds[@]}"
}
