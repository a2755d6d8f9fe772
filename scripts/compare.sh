#!/usr/bin/env bash
# Compares results with the first of them: speed with a verdict, AP, keypoints, energy, cost. Each result is a
# summary.json of inference.py or the output folder of scripts/benchmark.sh, from this machine or from others. Of one
# result, e.g. an accuracy and a throughput run of one engine, it prints the table. Engines are measured now, in turns.
#
#   bash scripts/compare.sh A [B ...] [--output DIR] [options of compare.py]
#   bash scripts/compare.sh A.engine B.engine [C.engine ...] [--output DIR] [options of compare.py]
#
# Exit codes: 0 done, 2 user error or something can't be compared, 3 --fail_if_worse, 6 --fail_if_slower.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
exec "$python" "$root/scripts/compare.py" "$@"
