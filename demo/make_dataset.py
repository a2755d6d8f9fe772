"""Draw a keypoint data set in COCO's layout from a seed, without any download."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, positive, run

import argparse

import cv2

from drawing.dataset import contact_sheet, make_dataset
from rtmpose.errors import KitError
from rtmpose.files import check_output, write_bytes


def non_negative(text: str) -> int:
    """A whole number from zero on, as an argparse type."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    return number


def main() -> int:
    """Draw the data set and write it."""
    parser = Parser(description="Draw a keypoint data set in COCO's layout: 640x480 pictures of one to five people. "
                                "The same seed gives the same bytes.",
                    example="python3 demo/make_dataset.py --output people --images 200 --seed 1")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR",
                        help="output folder: new, empty, or with this same data set")
    parser.add_argument("--images", type=positive, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=non_negative, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE",
                        help="also write the first twelve pictures of this seed as one .png or .jpg")
    args = parser.parse_args()
    sheet = args.contact_sheet
    if sheet and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise KitError(f"--contact-sheet {sheet}: expected a file name that ends in .png or .jpg")
    if sheet:
        check_output(sheet)
    make_dataset(args.output, args.images, args.seed)
    print(f"Wrote {args.output}: {args.images} images")
    if sheet:
        write_bytes(sheet, cv2.imencode(sheet.suffix, contact_sheet(args.seed))[1].tobytes())
        print(f"Wrote {sheet}")
    return 0


if __name__ == "__main__":
    run(main)
