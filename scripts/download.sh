#!/usr/bin/env bash
# Fetches the official RTMPose-m checkpoint into the current folder, and COCO val2017 (5,000 images and their keypoint
# annotations, a download of 1.1 GB) into $DATASETS_DIR or ./coco. Skips what is there. Re-run to resume.
#
#   bash scripts/download.sh [checkpoint] [coco]      (default: both)
#
#   DATASETS_DIR    environment variable: COCO's folder
#   CHECKPOINT      environment variable: file name of another RTMPose checkpoint on the same server
#   OPENMMLAB_URL, COCO_URL   environment variables: other servers with the same paths
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
command -v "$python" >/dev/null || die "$python is missing; install it (Debian, Ubuntu: apt-get install python3)"
exec "$python" -I "$root/scripts/download.py" "$@"
