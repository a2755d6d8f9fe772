"""The scoring benchmark runs, and its two sides get the same numbers."""

import re

import judge
import pytest
from helpers import run_script


@pytest.mark.slow
@judge.needs_xtcocotools
def test_score_time() -> None:
    done = run_script("benchmarks/score_time.py", "--images", 30, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^30 images, 630 detections, \d+ after OKS-NMS; seconds", done.stdout)
    assert re.findall(r"^\| ([a-z][^|]*) \|", done.stdout, re.M) == [
        "read", "rescore", "suppress", "evaluate", "sum", "write keypoints.json", "peak memory, MiB"]
    assert float(re.search(r"largest difference (\S+);", done.stdout)[1]) <= 1e-9
