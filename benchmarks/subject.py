"""The FP16 benchmarks' subject: an FP32 network for batches of 8, and real crops for it."""

from common import Parser, positive

import argparse
from itertools import islice

import numpy as np
import onnx

from rtmpose.data.batches import iterate_batches
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
    model = graph.load_model(args.model_path)
    _, (*_, height, width) = graph.read_input(model)
    images = load_persons(args.datasets).images
    persons = min(sum(len(image.persons) for image in images), args.persons)
    if persons < BATCH:
        raise KitError(f"{args.datasets}: gives {persons} persons, expected at least {BATCH}; check --persons")
    batches = islice(iterate_batches(images, (width, height), BATCH), persons // BATCH)
    return graph.simplify(model, (BATCH, 3, height, width)), [batch.pixels for batch in batches]
