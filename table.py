"""Print one row of the published table from the summary.json of an accuracy and of a throughput run."""

from common import Parser, run

from rtmpose.errors import KitError
from rtmpose.report.summary import join_modes, read_summary, table


def main() -> int:
    """Read both summaries, check that they belong to the same engine, and print the row."""
    parser = Parser(description=__doc__,
                    example="python3 table.py accuracy/summary.json throughput/summary.json")
    parser.add_argument("accuracy", metavar="ACCURACY.json", help="summary.json of an accuracy run")
    parser.add_argument("throughput", metavar="THROUGHPUT.json", help="summary.json of a run with --perf_only")
    args = parser.parse_args()
    accuracy, throughput = read_summary(args.accuracy, "accuracy"), read_summary(args.throughput, "throughput")
    if accuracy["engine"]["sha256"] != throughput["engine"]["sha256"]:
        raise KitError(f"{args.throughput}: is of another engine than {args.accuracy}; measure both with the same one")
    print(table(join_modes(accuracy, throughput)))
    return 0


if __name__ == "__main__":
    run(main)
