"""The FP16 benchmarks' subject: an FP32 network for batches of 8, and real crops for it."""

from common import Parser, positive

import argparse
from itertools import islice

import numpy as np
import onnx

from rtmpose.data.batches import iterate_crops
from rtmpose.data.coco import load_persons
from rtmpose.errors import KitError
from rtmpose.model import graph

BATCH = 8


def parse_arguments(description: str) -> argparse.Namespace:
    """The command line of a benchmark."""
    parser = Parser(description=description)
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="ONNX file that export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="data set that crops are taken from")
    parser.add_argument("--persons", type=positive, default=64, metavar="N",
                        help="number of crops; default: %(default)s")
    return parser.parse_args()


def load_subject(args: argparse.Namespace) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """Load the network with a fixed batch size, and full batches of crops, float32 (8, 3, H, W) each.

    Raises KitError if a file is missing or broken, or the set holds too few persons.
    """
    model = graph.load(args.model_path)
    _, (*_, height, width) = graph.read_input(model)
    images = load_persons(args.datasets).images
    crops = [crop.pixels for crop in islice(iterate_crops(images, (width, height)), args.persons)]
    batches = [np.stack(crops[i:i + BATCH]) for i in range(0, len(crops) - BATCH + 1, BATCH)]
    if not batches:
        raise KitError(f"{args.datasets}: gives {len(crops)} persons, expected at least {BATCH}; check --persons")
    return graph.simplify(model, (BATCH, 3, height, width)), batches
