#!/usr/bin/env bash
# Creates a virtual environment with the kit and everything it needs. A re-run installs only what has changed.
#
#   bash scripts/setup.sh [--gpu]
#
#   --gpu    also install TensorRT and pycuda for this machine's NVIDIA driver: CUDA 12 or 13. Needs g++ and Python's
#            headers to build pycuda, but no CUDA toolkit
#   VENV     environment variable: its folder (default: .venv in the repository)
#   PYTHON   environment variable: a Python 3.10, 3.11 or 3.12 (default: the first one found)
#   TORCH_INDEX   environment variable: package index with PyTorch's CPU wheels (default: PyTorch's own)
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

cpu_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'

make_venv() {
  local candidates=(python3 python3.11 python3.12 python3.10) candidate found=
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if "$candidate" -I -c "$supported" >/dev/null 2>&1; then found=$candidate && break; fi
  done
  [ -n "$found" ] || die "no Python 3.10, 3.11 or 3.12 found (tried ${candidates[*]}); install one, or set PYTHON: PYTHON=/path/to/python3.11 bash scripts/setup.sh"
  "$found" -I -c 'import ensurepip, venv' 2>/dev/null || die "$found: its venv module is missing; install it (Debian, Ubuntu: apt-get install python3-venv) and re-run"
  { mkdir -p "$venv" && [ -w "$venv" ]; } 2>/dev/null || die "$venv: can't be written; set VENV to a folder that can: VENV=~/rtmpose-venv bash scripts/setup.sh"
  say "$venv: creating it with $("$found" --version)"
  "$found" -I -m venv "$venv"
}

"$venv/bin/python" -I -m pip --version >/dev/null 2>&1 || make_venv
"$venv/bin/python" -I -c "$supported" || die "$venv: has $("$venv/bin/python" --version), expected 3.10, 3.11 or 3.12; remove it and re-run"

# The environment may have the kit of another checkout.
installed='import common, rtmpose, importlib.util; print(common.__file__, *rtmpose.__path__, bool(importlib.util.find_spec("check_gpu")))'
install_kit() {
  if [ "$("$venv/bin/python" -I -c "$installed" 2>/dev/null)" = "$root/common.py $root/rtmpose True" ]; then
    say "the kit: already installed"
    return
  fi
  say "the kit: installing it from $root"
  if [ ! -w "$root" ]; then  # pip would write there
    echo "$root" >"$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/rtmpose-kit.pth"
    return
  fi
  pip_install "$root" --quiet --no-deps --no-build-isolation --editable "$root"
}

# PyTorch's own index has wheels without CUDA's libraries. What is installed from there satisfies requirements.txt.
install_requirements() {
  if ! $gpu && ! "$venv/bin/python" -I -m pip install --disable-pip-version-check --no-input --quiet --retries 1 \
    --timeout 10 --only-binary :all: --no-deps --index-url "$cpu_index" "$(grep '^torch==' "$root/requirements.txt")" \
    >"$venv/torch.log" 2>&1; then
    say "no CPU wheel of PyTorch from $cpu_index (see $venv/torch.log); the default one may bring CUDA's libraries"
  fi
  pip_install requirements.txt --only-binary :all: -r "$root/requirements.txt"
}

# Packages for the GPU: TensorRT, or TensorRT-RTX where TensorRT can't be installed and the GPU is one of RTX's.
install_gpu() {
  local cuda=$1 rtx=$2 file=requirements-gpu-$1.txt rtx_file=$venv/requirements-gpu-rtx-$1.txt other=cu12
  if [ "$cuda" = cu12 ]; then other=cu13; fi
  if compgen -G "$venv/.installed-requirements-gpu-*$other.txt" >/dev/null; then  # the two write the same files
    say "the driver was another one: removing TensorRT for CUDA ${other#cu}"
    "$venv/bin/python" -I -m pip uninstall -qq --yes tensorrt-{,rtx-}"$other"{,-libs,-bindings}
    rm -f "$venv"/.installed-requirements-gpu-*"$other.txt"
  fi
  if [ -f "$rtx_file" ] || ! (install_once "$file"); then
    [ "$rtx" = rtx ] || exit 1
    say "TensorRT could not be installed; taking TensorRT-RTX instead (to try TensorRT again, remove $rtx_file)"
    sed -e 's/^tensorrt-/# &/' -e 's/^# \(tensorrt-rtx-\)/\1/' "$root/$file" >"$rtx_file"
    install_once "$rtx_file"
  fi
  once pycuda "$cuda $(cat "$root/scripts/build_pycuda.py")" "building it with the headers of CUDA ${cuda#cu}" \
    "$venv/bin/python" "$root/scripts/build_pycuda.py" "$cuda" ||
    die "pycuda could not be built (see above); fix that and re-run" 1
}

if $gpu; then
  choice=$("$venv/bin/python" "$root/scripts/gpu_packages.py") || exit
  say "$(sed -n 2p <<<"$choice")"
  read -r cuda rtx <<<"$choice"
fi
once requirements.txt "$(cat "$root/requirements.txt")" "installing: $(sed -n '1s/^# //p' "$root/requirements.txt")" \
  install_requirements
install_once requirements-mmpose.txt --only-binary :all: --no-deps
install_kit
if $gpu; then
  install_gpu "$cuda" "$rtx"
  say "for the GPU: ready; check it with: bash scripts/check_gpu.sh"
else
  hint=$("$venv/bin/python" "$root/scripts/gpu_packages.py" --hint) || true
  if [ -n "$hint" ]; then say "$hint"; fi
fi

say "ready. Next: source $venv/bin/activate, then: bash scripts/download.sh (see README.md)"
