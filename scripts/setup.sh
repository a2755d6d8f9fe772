#!/usr/bin/env bash
# Creates a virtual environment with the kit and everything it needs. A re-run installs only what has changed.
#
#   bash scripts/setup.sh [--gpu]
#
#   --gpu    also install requirements-gpu.txt: TensorRT and pycuda
#   VENV     environment variable: its folder (default: .venv in the repository)
#   PYTHON   environment variable: a Python 3.10, 3.11 or 3.12 (default: the first one found)
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

gpu=false
for option in "$@"; do
  case $option in
    --gpu) gpu=true ;;
    -h | --help) usage; exit ;;
    *) die "$option: no such option, expected --gpu" ;;
  esac
done

supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'

make_venv() {
  local candidates=(python3 python3.11 python3.12 python3.10) candidate found=
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c "$supported" >/dev/null 2>&1; then found=$candidate && break; fi
  done
  [ -n "$found" ] || die "no Python 3.10, 3.11 or 3.12 found (tried ${candidates[*]}); install one, or set PYTHON: PYTHON=/path/to/python3.11 bash scripts/setup.sh"
  "$found" -c 'import ensurepip, venv' 2>/dev/null || die "$found: its venv module is missing; install it (Debian, Ubuntu: apt-get install python3-venv) and re-run"
  say "$venv: creating it with $("$found" --version)"
  "$found" -m venv "$venv"
}

"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
"$venv/bin/python" -c "$supported" || die "$venv: has $("$venv/bin/python" --version), expected 3.10, 3.11 or 3.12; remove it and re-run"

# An environment knows the kit of one checkout, maybe of another one than this. -I: the current folder doesn't count.
installed='import common, rtmpose; print(common.__file__, *rtmpose.__path__)'
install_kit() {
  if [ "$("$venv/bin/python" -I -c "$installed" 2>/dev/null)" = "$root/common.py $root/rtmpose" ]; then
    say "the kit: already installed"
    return
  fi
  say "the kit: installing it from $root"
  pip_install "$root" --quiet --no-deps --no-build-isolation --editable "$root"
}

install_once requirements.txt --only-binary :all:
install_once requirements-mmpose.txt --only-binary :all: --no-deps
install_kit
if $gpu; then
  command -v nvcc >/dev/null || say "no nvcc on PATH: pycuda, which pip builds from source, may need it (e.g. PATH=/usr/local/cuda/bin:\$PATH)"
  install_once requirements-gpu.txt
fi

say "ready. Next: source $venv/bin/activate, then: bash scripts/download.sh (see README.md)"
