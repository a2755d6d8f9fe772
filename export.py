"""PyTorch checkpoint and mmpose config -> ONNX."""

from common import Parser, require, run

import time
from pathlib import Path

from rtmpose.files import check_output


def main() -> int:
    """Export, compare with PyTorch, and print the result."""
    parser = Parser(example="python3 export.py --weight rtmpose-m.pth --cfg rtmpose-m_8xb256-420e_coco-256x192.py "
                            "--output rtmpose.onnx",
                    description="Export an RTMPose checkpoint to ONNX: dynamic batch, input `input`, outputs "
                                "`simcc_x` and `simcc_y`, compared with PyTorch in ONNX Runtime.",
                    epilog="The config is Python code that runs: use one that you trust. The checkpoint is read as "
                           "data, and nothing in it runs.")
    parser.add_argument("--weight", required=True, metavar="FILE.pth", help="the checkpoint")
    parser.add_argument("--cfg", required=True, metavar="FILE.py", help="its mmpose config, which is run")
    parser.add_argument("--output", default="rtmpose.onnx", metavar="FILE.onnx", help="default: %(default)s")
    parser.add_argument("--simplify", action="store_true", help="simplify the graph with onnxsim")
    args = parser.parse_args()
    check_output(args.output, args.weight, args.cfg)

    require("torch", "onnxruntime", "mmpose", "mmengine", "mmcv")
    # After the arguments, so that --help and wrong options don't wait for torch.
    from rtmpose.model.checkpoint import list_keys, load_network
    from rtmpose.model.export import EXPORT_TOLERANCE, describe_source, export

    start = time.perf_counter()
    network = load_network(args.cfg, args.weight)
    differences = export(network, args.output, describe_source(args.cfg, args.weight), args.simplify)
    print("Largest difference between ONNX Runtime and PyTorch, relative to the largest logit "
          f"(at most {EXPORT_TOLERANCE:.0e} passes):")
    for output, difference in differences.items():
        print(f"  {output}: {difference:.1e}")
    if network.left_out:
        print(f"Left out: {len(network.left_out)} keys of {args.weight} that are no part of the network: "
              f"{list_keys(network.left_out)}")
    width, height = network.input_size
    print(f"Wrote {args.output}: {len(network.skeleton.keypoints)} keypoints of {network.skeleton.name}, "
          f"crops of {width}x{height} (WxH), {Path(args.output).stat().st_size / 2**20:.1f} MiB, "
          f"{time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    run(main)
