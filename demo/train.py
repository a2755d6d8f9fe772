"""Train RTMPose-t from scratch on drawn people, on a CPU or a GPU."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, between, positive, require, run

import argparse

from make_dataset import non_negative
from rtmpose.errors import KitError
from rtmpose.files import check_output

CONFIG = Path(__file__).resolve().parent / "rtmpose-t_drawn-people-256x192.py"


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description="Train RTMPose-t on drawn people. The state is saved after every round of crops; "
                                "re-run to resume. On a CPU the same arguments give the same checkpoint.",
                    example="python3 demo/train.py --output training --crops 120000")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR",
                        help="folder for the saved state, the validation set and the checkpoint")
    parser.add_argument("--crops", type=positive, default=120_000, metavar="N",
                        help="length of the training; default: %(default)s")
    parser.add_argument("--seed", type=non_negative, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="crops per step; default: %(default)s")
    parser.add_argument("--round", type=positive, default=2048, metavar="N",
                        help="crops drawn at a time, a multiple of --batch; default: %(default)s")
    parser.add_argument("--lr", type=between(0, 1), default=2e-3, help="peak learning rate; default: %(default)s")
    parser.add_argument("--warmup", type=positive, default=6400, metavar="N",
                        help="crops over which the learning rate rises; default: %(default)s")
    parser.add_argument("--decay-from", type=between(0, 1), default=0.4, metavar="SHARE",
                        help="share of the training after which the learning rate falls; default: %(default)s")
    parser.add_argument("--ema", type=between(0, 1), default=0.998, metavar="DECAY",
                        help="decay of the averaged weights per step; default: %(default)s")
    parser.add_argument("--validate-every", type=positive, default=4, metavar="N",
                        help="rounds between validations; default: %(default)s")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU, else cpu")
    parser.add_argument("--threads", type=positive, default=1, metavar="N",
                        help="CPU threads for the training, besides one process that draws; default: %(default)s")
    args = parser.parse_args()
    if args.round % args.batch:
        parser.error(f"--round {args.round} is not a multiple of --batch {args.batch}")
    return args


def main() -> int:
    """Train, or resume a training, and write the checkpoint."""
    args = parse_arguments()
    check_output(args.output / "state.pth", parents=True)
    require("torch", "mmpose", "mmengine", "mmcv")
    # Imported here so that --help, wrong arguments and the process that draws don't wait for torch.
    import torch

    from training.learner import Learner, Schedule
    from training.loop import train, write_checkpoint

    if args.device == "cuda" and not torch.cuda.is_available():
        raise KitError("--device cuda: PyTorch finds no GPU; use cpu")
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    learner = Learner(CONFIG, Schedule(args.crops, args.batch, args.lr, args.warmup, args.decay_from, args.ema),
                      args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    state = args.output / "state.pth"
    if state.exists():
        learner.load(state)
        print(f"Resuming after {learner.crops_seen} crops", flush=True)
    if learner.crops_seen % args.round:
        raise KitError(f"{state}: was saved after {learner.crops_seen} crops, expected a multiple of --round "
                       f"{args.round}; resume with the arguments of the first run")
    train(learner, args.output, args.seed, args.round, args.validate_every)
    path = write_checkpoint(learner, args.output, CONFIG.stem,
                            {"dataset": "drawn people", "model": "RTMPose-t 256x192", "crops": learner.crops_seen,
                             "seed": args.seed})
    print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    run(main)
