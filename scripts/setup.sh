#!/usr/bin/env bash
# Makes a virtual environment with everything the kit needs. Running it again installs only what has changed.
#
#   bash scripts/setup.sh [--gpu]
#
#   --gpu    add requirements-gpu.txt: TensorRT and pycuda
#   VENV     environment variable: where to (default: .venv in the repository)
#   PYTHON   environment variable: which Python 3.10, 3.11 or 3.12 (default: the first one found)
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

gpu=false
for option in "$@"; do
  case $option in
    --gpu) gpu=true ;;
    -h | --help) usage; exit ;;
    *) die "$option: no such option, expected --gpu or nothing" ;;
  esac
done

supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'

make_venv() {
  local candidates=(python3 python3.11 python3.12 python3.10) candidate found=
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c "$supported" >/dev/null 2>&1; then found=$candidate && break; fi
  done
  [ -n "$found" ] || die "no Python 3.10, 3.11 or 3.12 found (tried ${candidates[*]}); install one, or name it: PYTHON=/path/to/python3.11 bash scripts/setup.sh"
  "$found" -c 'import ensurepip, venv' 2>/dev/null || die "$found: its venv module is missing; install it (Debian, Ubuntu: apt-get install python3-venv) and run this again"
  say "$venv: making it with $("$found" --version)"
  "$found" -m venv "$venv"
}

"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
"$venv/bin/python" -c "$supported" || die "$venv: has $("$venv/bin/python" --version), expected 3.10, 3.11 or 3.12; remove it and run this again"

install_once requirements.txt --only-binary :all:
install_once requirements-mmpose.txt --only-binary :all: --no-deps
if $gpu; then
  command -v nvcc >/dev/null || say "no nvcc on PATH: pycuda, which pip builds from source, may need it (e.g. PATH=/usr/local/cuda/bin:\$PATH)"
  install_once requirements-gpu.txt
fi

cat <<END
$script: ready. How to go on:
  source $venv/bin/activate
  bash scripts/download.sh                # the official checkpoint, and COCO val2017 into ./coco
  python3 export.py --weight rtmpose-m_simcc-aic-coco_pt-aic-coco_420e-256x192-63eb25f7_20230126.pth \\
      --cfg rtmpose-m_8xb256-420e_coco-256x192.py --output rtmpose.onnx
  onnxsim rtmpose.onnx rtmpose_opt.onnx
  DATASETS_DIR=./coco bash scripts/infer_rtmpose_fp16_accuracy.sh
  bash scripts/infer_rtmpose_fp16_performance.sh
END
