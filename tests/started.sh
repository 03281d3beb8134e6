#!/usr/bin/env bash
# Runs the tests that depend on how they are started, once for each awkward way. Arguments go to pytest.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
root=$PWD
python=$root/.venv/bin/python
processes=(tests/lab tests/test_cli.py tests/test_machine.py tests/test_footprint.py)
files=("${processes[@]}" tests/test_bench.py tests/test_device.py tests/test_codecs.py tests/test_imports.py)
more=("$@")
failed=()

scratch=$(mktemp -d)
busy=()
trap 'kill "${busy[@]}" 2>/dev/null; rm -rf "$scratch"' EXIT

# try TITLE FILE.. -- COMMAND..: the command starts pytest, whose words come after its own.
try() {
  local title=$1 chosen=()
  shift
  while [ "$1" != -- ]; do chosen+=("$1"); shift; done
  shift
  echo "== $title"
  if ! PYTHONPATH=$PWD "$@" "$python" -m pytest -n 2 "${chosen[@]}" "${more[@]}" >"$scratch/log" 2>&1; then
    failed+=("$title")
    cat "$scratch/log"
  fi
  tail -n 1 "$scratch/log"
}

ignoring() { (trap '' INT TERM HUP; exec "$@"); }
without_stdin() { "$@" <&-; }
beside_others() {
  for _ in 1 2; do (while :; do :; done) & busy+=($!); done
  nice "$@"
  local status=$?
  kill "${busy[@]}"
  wait "${busy[@]}" 2>/dev/null
  busy=()
  return $status
}

try "signals ignored, no terminal" "${processes[@]}" -- ignoring setsid --wait
# Not two at a time: xdist gives those that it starts a standard input.
try "no standard input" -n 0 tests/lab/test_{comparison,pool,store,tasks}.py tests/test_{cli,machine}.py -- without_stdin
try "a plain environment" "${files[@]}" -- env LC_ALL=C COLUMNS=20 NO_COLOR=1 TERM=dumb PYTHONHASHSEED=7
try "a busy machine" tests/lab -- beside_others
# Backwards: what a test leaves behind shows where the next relies on it.
printf 'def pytest_collection_modifyitems(items):\n    items.reverse()\n' >"$scratch/backwards.py"
try "backwards" "${files[@]}" -- env PYTHONPATH="$root:$scratch" PYTEST_ADDOPTS="-p backwards"

mkdir "$scratch/Läufe an der Saône"
cd "$scratch/Läufe an der Saône" || exit 2
cp -r "$root"/{benchmarks,docs,examples,tests,thalweg,pyproject.toml} .
try "a path with spaces and letters" "${files[@]}" --

if [ "$(id -u)" = 0 ]; then
  chmod 755 "$scratch"
  # Whoever it is may read all, as Python itself may lie in root's home, and write nothing there.
  nobody=(setpriv --reuid=12345 --regid=12345 --clear-groups)
  nobody+=(--inh-caps=+dac_read_search --ambient-caps=+dac_read_search)
  try "a user with neither name nor home" "${files[@]}" -- "${nobody[@]}" env -u HOME -u XDG_CACHE_HOME
fi

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
