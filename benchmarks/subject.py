"""What the benchmarks here look at: an FP32 network for batches of 8, and real crops for it."""

from common import Parser, positive

import argparse
from itertools import islice

import numpy as np
import onnx

from rtmpose.data.dataset import load_persons
from rtmpose.data.loader import iterate_crops
from rtmpose.errors import KitError
from rtmpose.model import graph

BATCH = 8


def parse_arguments(description: str) -> argparse.Namespace:
    """The command line of a benchmark."""
    parser = Parser(description=description)
    parser.add_argument("--model_path", required=True, metavar="FILE.onnx", help="what export.py wrote")
    parser.add_argument("--datasets", required=True, metavar="DIR", help="crops are taken from this set")
    parser.add_argument("--persons", type=positive, default=64, metavar="N", help="default: %(default)s")
    return parser.parse_args()


def load_subject(args: argparse.Namespace) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """The network with a fixed batch size, and full batches of crops, float32 (8, 3, H, W) each.

    Raises:
        KitError: a file is missing or broken, or the set holds too few persons.
    """
    model = graph.load(args.model_path)
    _, (*_, height, width) = graph.read_input(model)
    people = islice(iterate_crops(load_persons(args.datasets).images, (width, height)), args.persons)
    crops = [one.pixels for one in people]
    batches = [np.stack(crops[i:i + BATCH]) for i in range(0, len(crops) - BATCH + 1, BATCH)]
    if not batches:
        raise KitError(f"{args.datasets}: gives {len(crops)} persons, expected at least {BATCH}; check --persons")
    return graph.simplify(model, (BATCH, 3, height, width)), batches
