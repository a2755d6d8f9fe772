#!/usr/bin/env bash
# Sets up if needed, then runs the linters and the tests.
#
#   bash scripts/test.sh [--all] [options of pytest]
#
#   --all    also run the tests marked "slow", print how much of the GPU path ran on the driver in software, and fail if
#            xtcocotools can't be built
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
all=false selection=(-m "not slow")
if [ "${1:-}" = --all ]; then
  all=true selection=()
  shift
fi
export VENV=$venv

wait_for bash "$root/scripts/setup.sh"
find_uv
install "packages of the tests" -r "$root/requirements/test.txt" -r "$root/requirements/compare.txt" ||
  failed "requirements/test.txt could not be installed; fix that and re-run"

# Built from source, because its wheels need NumPy 1.
xtcocotools_works() { "$venv/bin/python" -I -c 'import xtcocotools._mask' 2>/dev/null; }
if ! xtcocotools_works; then
  install "xtcocotools, for the tests against mmpose's CocoDataset and CocoMetric" --no-build-isolation \
    --no-binary xtcocotools xtcocotools==1.14.3 || true
fi
if ! xtcocotools_works; then
  failure="xtcocotools: could not be built (it needs a C compiler and Python's headers; see $log)"
  if $all; then die "$failure" 1; fi
  say "$failure; the tests that need it are skipped"
fi

cd "$root"
wait_for "$venv/bin/python" -m ruff check .
wait_for "$venv/bin/python" -m mypy
wait_for "$venv/bin/lint-imports"
wait_for "$venv/bin/python" -m codespell_lib
if $all; then
  coverage=$(mktemp -d)
  trap 'rm -rf "$coverage"' EXIT
  export COVERAGE_FILE=$coverage/gpu_path COVERAGE_RCFILE=$root/pyproject.toml
fi
code=0
# Two processes, and each file's tests in one of them, because they share fixtures. In the order of their names:
# xdist would take the files of most tests first, and end with few slow ones in one process.
wait_for "$venv/bin/python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "${selection[@]}" "$@" || code=$?
[ "$code" != 5 ] || die "pytest selected no test; expected options that select some of tests/" 1
if [ "$code" = 0 ] && $all && [ -n "$(ls "$coverage")" ]; then  # nothing ran where the driver can't be built
  "$venv/bin/python" -m coverage combine --quiet
  "$venv/bin/python" -m coverage report || code=$?
fi
exit "$code"
