#!/usr/bin/env bash
# Creates a virtual environment with the kit and everything it needs. A re-run installs only what has changed.
#
#   bash scripts/setup.sh [--gpu] [--torch COMMAND|none] [-v]
#
#   --gpu    also install TensorRT and pycuda for this machine's NVIDIA driver: CUDA 12 or 13. Needs g++ and Python's
#            headers to build pycuda, but no CUDA toolkit
#   --torch  instead of PyTorch's CPU wheel: a command that installs another PyTorch, with the environment's pip and
#            python first in PATH, or "none" to take the one that is in the environment or in PYTHON. A later run without
#            --torch leaves that one alone; to get the CPU wheel again, remove .torch in the environment
#   -v       show what uv and the compiler print; without it, only setup.log in the environment has it
#   VENV     environment variable: its folder (default: .venv in the repository)
#   PYTHON   environment variable: a Python 3.11 or later (default: the first one found, or else one that uv fetches)
#   TORCH_INDEX   environment variable: package index with PyTorch's CPU wheels (default: PyTorch's own)
#
# Packages are installed by uv: the environment's, an installed one, or one from PyPI. Besides uv's own settings,
# PIP_INDEX_URL, PIP_FIND_LINKS and PIP_CERT name another index.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

gpu=false own_torch=''
while [ $# -gt 0 ]; do
  case $1 in
    --gpu) gpu=true ;;
    --torch)
      own_torch=${2:-}
      [ -n "$own_torch" ] || die "--torch: expected a command that installs PyTorch, or none"
      shift
      ;;
    -v) export KIT_VERBOSE=1 ;;
    -h | --help) usage; exit ;;
    *) die "$1: no such option, expected --gpu, --torch or -v" ;;
  esac
  shift
done
if [ -z "$own_torch" ] && [ -e "$venv/.torch" ]; then own_torch=none; fi

oldest=3.11 newest=3.14  # of the Pythons that the tests ran with
cpu_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}
[ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
other_python="install one, or set PYTHON: PYTHON=/path/to/python$newest bash scripts/setup.sh"

# is_python PYTHON: whether it runs, and is not too old.
is_python() { "$1" -I -c "import sys; sys.exit(sys.version_info < (${oldest/./, }))" >/dev/null 2>&1; }

# fetch_uv FOLDER: from PyPI, by a Python of any version that has pip or can make an environment with it.
fetch_uv() {
  local by=${PYTHON:-python3} pin pip=(-I -m pip install --quiet --disable-pip-version-check --only-binary :all:)
  pin=$(grep '^uv==' "$root/requirements/test.txt")
  wait_for "$by" "${pip[@]}" --target "$1" "$pin" ||
    { wait_for "$by" -I -m venv "$1" && wait_for "$1/bin/python" "${pip[@]}" "$pin"; }
}

make_venv() {
  local found=${PYTHON:-} options=()
  if [ -z "$found" ]; then  # all packages have wheels for the one that is fetched
    found=$("$uv" python find --system --no-python-downloads ">=$oldest,<=$newest.99" 2>/dev/null ||
      "$uv" python find --system --no-python-downloads ">=$oldest" 2>/dev/null || echo 3.13)
  fi
  if [ -e /etc/nv_tegra_release ] || [ "$own_torch" = none ]; then options+=(--system-site-packages); fi  # JetPack's TensorRT, a vendor's PyTorch
  step "$venv, by Python $found" "$uv" venv --allow-existing "${options[@]}" --python "$found" "$venv" ||
    failed "no Python $oldest or later could be found or fetched; $other_python"
}

if [ -n "${PYTHON:-}" ]; then is_python "$PYTHON" || die "$PYTHON: is no Python $oldest or later; $other_python"; fi
{ mkdir -p "$venv" && [ -w "$venv" ]; } 2>/dev/null || die "$venv: can't be written; set VENV to a folder that can: VENV=~/rtmpose-venv bash scripts/setup.sh"
echo "setup.sh of $(date)" >"$log"
if ! find_uv; then
  fetched=$(mktemp -d)
  trap 'rm -rf "$fetched"' EXIT
  step "uv, which installs packages" fetch_uv "$fetched" ||
    failed "uv could not be fetched; install it, or python3's venv module (Debian, Ubuntu: apt-get install python3-venv), and re-run"
  uv=$fetched/bin/uv
fi
[ -x "$venv/bin/python" ] || make_venv
is_python "$venv/bin/python" || die "$venv: has $("$venv/bin/python" --version 2>&1), expected $oldest or later; remove it and re-run"
version=$("$venv/bin/python" -I -c 'import platform; print(platform.python_version())')
if [ "$(printf '%s\n' "$newest.99" "$version" | sort -V | tail -1)" = "$version" ]; then
  say "Python $version is newer than $newest, the newest that the tests ran with; packages may lack wheels for it"
fi
if [ -n "${fetched:-}" ]; then
  cp "$uv" "$venv/bin/uv"
  uv=$venv/bin/uv
fi

if $gpu; then
  answer=$("$venv/bin/python" "$root/scripts/gpu_packages.py") || exit
  say "$(sed -n 2p <<<"$answer")"
  read -ra choice < <(head -1 <<<"$answer")
fi

# install_torch: PyTorch's own index has wheels without CUDA's libraries.
install_torch() {
  local torch
  torch=$(grep '^torch==' "$root/requirements.txt")
  if ! UV_HTTP_RETRIES=1 UV_HTTP_TIMEOUT=10 install "$torch from $cpu_index" --default-index "$cpu_index" "$torch"; then
    say "taking the default wheel of PyTorch instead; on Linux it may bring CUDA's libraries, several GB"
    step "$torch" "$uv" pip install --python "$venv/bin/python" "$torch" ||
      failed "$torch could not be installed; fix that and re-run"
  fi
}

# install_own_torch: runs the command of --torch, and checks that there is a PyTorch.
install_own_torch() {
  touch "$venv/.torch"
  if [ "$own_torch" != none ]; then
    step "PyTorch, by: $own_torch" env "VIRTUAL_ENV=$venv" "PATH=$venv/bin:$PATH" bash -c "$own_torch" ||
      failed "--torch: the command failed; correct it"
  fi
  step "PyTorch, left as it is" "$venv/bin/python" -I -c 'import torch; print(torch.__version__)' ||
    failed "--torch $own_torch: PyTorch can't be imported from $venv; install it there, or give --torch the command that does"
}

if [ -z "$own_torch" ]; then install_torch; fi
requirements=$root/requirements.txt
if [ -n "$own_torch" ]; then
  requirements=$venv/requirements.txt
  grep -v '^torch==' "$root/requirements.txt" >"$requirements"
fi
install "packages of the kit" --only-binary :all: -r "$requirements" -r "$root/requirements/mmpose.txt" ||
  failed "requirements.txt could not be installed; fix that and re-run"
if [ -n "$own_torch" ]; then install_own_torch; fi
# The scripts in demo/ and benchmarks/ import the kit. The environment may have had that of another checkout.
echo "$root" >"$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/rtmpose-kit.pth"

# install_gpu cu12|cu13 jetpack|rtx|-: TensorRT, or TensorRT-RTX where TensorRT can't be installed and the GPU is one of
# RTX's; and pycuda.
install_gpu() {
  local cuda=$1 kind=$2 other=cu12 state
  if [ "$cuda" = cu12 ]; then other=cu13; fi
  # After another driver: those for the other CUDA write the same files.
  "$uv" pip uninstall --quiet --python "$venv/bin/python" tensorrt-{,rtx-}"$other"{,-libs,-bindings} 2>/dev/null
  if [ "$kind" = jetpack ]; then
    install "packages for JetPack's TensorRT" -r <(grep -v '^tensorrt-' "$root/requirements/tensorrt-$cuda.txt") ||
      failed "requirements/tensorrt-$cuda.txt could not be installed; fix that and re-run"
  elif [ -e "$venv/.tensorrt-rtx" ] ||
    ! install "TensorRT for CUDA ${cuda#cu}" -r "$root/requirements/tensorrt-$cuda.txt"; then
    [ "$kind" = rtx ] || failed "TensorRT could not be installed; its libraries come from pypi.nvidia.com: fix that and re-run"
    touch "$venv/.tensorrt-rtx"
    install "TensorRT-RTX instead (to try TensorRT again, remove $venv/.tensorrt-rtx)" \
      -r "$root/requirements/tensorrt-rtx-$cuda.txt" || failed "TensorRT-RTX could not be installed; fix that and re-run"
  fi
  state="$version $(cat "$root/requirements/tensorrt-$cuda.txt" "$root/scripts/build_pycuda.py" | sha256sum)"
  if [ "$(cat "$venv/.pycuda" 2>/dev/null)" != "$state" ]; then
    step "pycuda, built with the headers of CUDA ${cuda#cu}" "$venv/bin/python" "$root/scripts/build_pycuda.py" "$cuda" ||
      failed "pycuda could not be built; fix that and re-run"
    echo "$state" >"$venv/.pycuda"
  fi
}

if $gpu; then
  install_gpu "${choice[@]}"
  say "for the GPU: ready; check it with: bash scripts/check_gpu.sh"
else
  hint=$("$venv/bin/python" "$root/scripts/gpu_packages.py" --hint) || true
  if [ -n "$hint" ]; then say "$hint"; fi
fi
say "ready: $(du -sh "$venv" | cut -f 1), $SECONDS s. Next: source $venv/bin/activate, then: bash scripts/download.sh (see README.md)"
