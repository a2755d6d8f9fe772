#!/usr/bin/env bash
# Checks that the kit works on this machine's NVIDIA GPU. Prints a table, and writes gpu_check.json. Expect 6 to 12
# minutes: TensorRT builds five engines, INT8's beside another in FP16.
#
#   bash scripts/check_gpu.sh [options of check_gpu.py]
#
# Exit codes: 0 every check passed, 1 one failed, 2 there is no GPU.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec "$python" "$root/scripts/check_gpu.py" "$@"
