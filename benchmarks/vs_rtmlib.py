"""The kit against rtmlib on the same ONNX file, images and boxes, both from image files to keypoints.

    pip install --no-deps rtmlib==0.0.16
    python3 benchmarks/vs_rtmlib.py --engine rtmpose-t.engine --model_path rtmpose-t.onnx --datasets unseen

rtmlib runs with its defaults: ONNX Runtime on the CPU, one crop a call. It leaves reading to its caller and doesn't
swap channels, so OpenCV reads RGB images for it, as the network expects. The kit runs an engine that build_engine.py
built from the same file, at the engine's batch. The two take turns in one process.
"""

from common import require, run

from pathlib import Path

import cv2
import numpy as np
from contest import compare, speed_parser

from rtmpose.data.coco import PersonSet, load_persons
from rtmpose.data.preprocess import box_to_center_scale
from rtmpose.engines import load_engine
from rtmpose.errors import KitError
from rtmpose.evaluate.predictions import Predictions
from rtmpose.files import sha256


def main() -> int:
    """Measure and print."""
    parser = speed_parser(__doc__)
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx",
                        help="ONNX file that the engine was built from")
    args = parser.parse_args()
    require("rtmlib")
    engine, persons = load_engine(args.engine), load_persons(args.datasets)
    if not Path(args.model_path).is_file() or sha256(args.model_path) != engine.record.onnx_sha256:
        raise KitError(f"{args.model_path}: is not the ONNX file {engine.record.onnx} that {args.engine} was built "
                       "from; both sides must run the same network")
    size = engine.record.input_size

    from rtmlib import RTMPose
    model = RTMPose(args.model_path, model_input_size=size, backend="onnxruntime", device="cpu")
    compare(engine, persons, "rtmlib", lambda: predict(model, persons, size), args.rounds)
    return 0


def predict(model: "RTMPose", persons: PersonSet, size: tuple[int, int]) -> Predictions:  # noqa: F821
    """Predict every person with rtmlib."""
    found = [model(cv2.imread(str(image.path), cv2.IMREAD_COLOR_RGB), [person.bbox for person in image.persons])
             for image in persons.images]
    keypoints, scores = (np.concatenate(arrays).astype(np.float32) for arrays in zip(*found, strict=True))
    scales = np.stack([box_to_center_scale(person.bbox, size)[1] for person in persons])
    return Predictions(list(persons), keypoints, scores, scales)


if __name__ == "__main__":
    run(main)
