#!/usr/bin/env bash
# Sets up if needed, then runs ruff and all tests.
#
#   bash scripts/test.sh [options of pytest]
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
export VENV=$venv

bash "$root/scripts/setup.sh"
install_once requirements-test.txt
install_once requirements-compare.txt --no-deps

# Only built here: its wheels were made for NumPy 1.
xtcocotools_works() { "$venv/bin/python" -c 'import xtcocotools._mask' 2>/dev/null; }
if ! xtcocotools_works; then
  say "xtcocotools: building it, for the tests against mmpose's CocoDataset and CocoMetric"
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --no-deps --no-build-isolation \
    --no-binary xtcocotools xtcocotools==1.14.3 >"$venv/xtcocotools.log" 2>&1 || true
  xtcocotools_works ||
    say "xtcocotools: could not be built (it needs a C compiler and Python's headers; see $venv/xtcocotools.log): the tests that need it skip"
fi

cd "$root"
"$venv/bin/python" -m ruff check .
code=0
"$venv/bin/python" -m pytest -q "$@" || code=$?
[ "$code" != 5 ] || die "pytest found no test to run; expected some in tests/ that the options given here select" 1
exit "$code"
