#!/usr/bin/env bash
# Fetches the official RTMPose-m checkpoint into the current folder, and COCO val2017 (5000 images and their keypoint
# annotations, 1.1 GB to download) into $DATASETS_DIR, or ./coco. Skips what is there, resumes what broke off.
#
#   bash scripts/download.sh [checkpoint] [coco]      (default: both)
#
#   DATASETS_DIR    environment variable: COCO's folder
#   CHECKPOINT      environment variable: another RTMPose checkpoint's file name on the same server
#   OPENMMLAB_URL, COCO_URL   environment variables: other servers, with the same paths
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

checkpoint=${CHECKPOINT:-rtmpose-m_simcc-aic-coco_pt-aic-coco_420e-256x192-63eb25f7_20230126.pth}
checkpoint_url=${OPENMMLAB_URL:-https://download.openmmlab.com}/mmpose/v1/projects/rtmposev1/$checkpoint
coco_url=${COCO_URL:-http://images.cocodataset.org}
datasets=${DATASETS_DIR:-coco}
annotations=$datasets/annotations/person_keypoints_val2017.json

# fetch URL FILE CHECK: downloads to FILE.part, which becomes FILE when CHECK accepts it. CHECK prints what is wrong.
fetch() {
  local url=$1 file=$2 check=$3 part=$2.part before code wrong
  if [ -f "$file" ]; then
    wrong=$("$check" "$file") && say "$file: already there" && return
    say "$file: $wrong; fetching it again"
  fi
  mkdir -p "$(dirname "$file")"
  until "$check" "$part" >/dev/null; do
    say "$file: fetching $url"
    before=$(size "$part")
    code=0
    wrong=$(curl --location --fail "${progress[@]}" --connect-timeout 30 --speed-limit 1000 --speed-time 60 \
      --continue-at - --output "$part" --write-out '%{errormsg}' "$url") || code=$?
    if [ "$code" = 0 ]; then
      wrong=$("$check" "$part") && break
      rm "$part"
      die "$file: what $url gave is not right: $wrong; removed, try again later" 1
    fi
    [ "$(size "$part")" -gt "$before" ] ||
      die "$file: can't fetch $url: $wrong; run this again to resume, or first remove $part to begin anew" 1
  done
  mv "$part" "$file"
}

size() { stat --format=%s "$1" 2>/dev/null || echo 0; }

check_checkpoint() {
  local expected found
  expected=$(sed -nE 's/.*-([0-9a-f]{8})_[0-9]{8}\.pth$/\1/p' <<<"$checkpoint")
  found=$(sha256sum "$1" 2>/dev/null | cut -c1-8)
  [ "$found" = "$expected" ] || { echo "its SHA-256 begins with ${found:-nothing}, expected $expected as in its name" && false; }
}

check_zip() { coco zip "$1"; }

# coco VERB ...: what is done with zip and JSON files. Prints what is wrong, in one line, and fails then.
coco() {
  "$python" - "$@" <<'PY'
import json
import shutil
import sys
import zipfile
from pathlib import Path


def extract(archive, name, target, check=lambda part: None):
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with archive.open(name) as source, part.open("wb") as sink:
        shutil.copyfileobj(source, sink)  # compares the CRC at the end
    check(part)
    part.replace(target)


def image_names(annotations):
    content = json.loads(Path(annotations).read_bytes())
    if not (isinstance(content, dict) and content.get("images") and content.get("annotations")):
        raise ValueError("holds no images and annotations")
    return [Path(image["file_name"]).name for image in content["images"]]


def check_zip(path):
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} in it is damaged")


def check_images(annotations, folder):
    names = image_names(annotations)
    missing = [name for name in names if not Path(folder, name).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of the {len(names)} images are missing, e.g. {missing[0]}")


def extract_annotations(path, target):
    with zipfile.ZipFile(path) as archive:
        extract(archive, "annotations/" + Path(target).name, Path(target), check=image_names)


def extract_images(path, annotations, folder):
    with zipfile.ZipFile(path) as archive:
        for name in image_names(annotations):
            if not Path(folder, name).is_file():
                extract(archive, "val2017/" + name, Path(folder, name))


verbs = {"zip": check_zip, "annotations": image_names, "images": check_images,
         "extract_annotations": extract_annotations, "extract_images": extract_images}
try:
    verbs[sys.argv[1]](*sys.argv[2:])
except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
    print(error.args[0] if isinstance(error, KeyError) else error)
    sys.exit(1)
PY
}

get_checkpoint() {
  [[ $checkpoint =~ -[0-9a-f]{8}_[0-9]{8}\.pth$ ]] || die "CHECKPOINT=$checkpoint: expected a name that ends in its SHA-256's first eight digits and a date, as in -63eb25f7_20230126.pth"
  fetch "$checkpoint_url" "$checkpoint" check_checkpoint
}

cannot_unpack() { die "$zip: can't unpack it: $wrong; put that right, or remove it to fetch it anew, and run this again" 1; }

get_coco() {
  local zip wrong images=$datasets/images/val2017
  if [ -d "$datasets/val2017" ]; then images=$datasets/val2017; fi # the kit reads this layout too
  if coco annotations "$annotations" >/dev/null; then
    say "$annotations: already there"
  else
    zip=$datasets/annotations_trainval2017.zip
    fetch "$coco_url/annotations/annotations_trainval2017.zip" "$zip" check_zip
    wrong=$(coco extract_annotations "$zip" "$annotations") || cannot_unpack
    rm "$zip"
  fi
  if coco images "$annotations" "$images" >/dev/null; then
    say "$images: already there"
  else
    zip=$datasets/val2017.zip
    fetch "$coco_url/zips/val2017.zip" "$zip" check_zip
    wrong=$(coco extract_images "$zip" "$annotations" "$images") || cannot_unpack
    rm "$zip"
  fi
  say "COCO val2017 is complete: export DATASETS_DIR=$(realpath "$datasets")"
}

parts=("${@:-checkpoint}")
if [ $# = 0 ]; then parts+=(coco); fi
for part in "${parts[@]}"; do
  case $part in
    checkpoint | coco) ;;
    -h | --help) usage; exit ;;
    *) die "$part: expected checkpoint, coco or nothing, which means both" ;;
  esac
done
for tool in curl "$python"; do
  command -v "$tool" >/dev/null || die "$tool is missing; install it (Debian, Ubuntu: apt-get install $tool)"
done
progress=(--silent)
if [ -t 2 ]; then progress=(--progress-bar); fi
for part in "${parts[@]}"; do "get_$part"; done
