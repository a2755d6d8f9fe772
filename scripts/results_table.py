"""Print the tables of results/, or write them into docs/results.md and README.md with --write.

    python3 scripts/results_table.py [--write]

The first is of results that were handed in, the second of results/published.json: what others published, and nobody
verified with this kit. README.md gets the first published figure, and of each folder the fastest cell of batch 32.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, run

from rtmpose.errors import KitError
from rtmpose.files import read_json, write_text
from rtmpose.report.results import Cell, read_cells
from rtmpose.report.summary import describe_speed, figure, format_row, joules, machine_name, markdown, model_name

ROOT = Path(__file__).resolve().parents[1]
PAGE, README = ROOT / "docs/results.md", ROOT / "README.md"
BEGIN, END = "<!-- results: begin, written by scripts/results_table.py -->", "<!-- results: end -->"
HEADER = ("Machine", "Model", "Batch", "Precision", "Runtime", "FPS", "Of roofline", "AP@0.5", "AP@0.5:0.95",
          "J a person", "Measured", "Kit")
README_HEADER = ("Model", "Machine", "Batch", "Precision", "FPS", "AP@0.5", "AP@0.5:0.95")
NO_GPU = {"Model": "RTMPose-m, COCO val2017", "Machine": "NVIDIA GPU, this kit", "Batch": "32", "Precision": "FP16",
          **dict.fromkeys(README_HEADER[4:], "not measured yet")}  # goes with the first result of one
EMPTY = "No result has been handed in yet."
PUBLISHED = {"machine": "Machine", "model": "Model", "batch": "Batch", "precision": "Precision", "runtime": "Runtime",
             "figure": "Published", "accuracy": "Accuracy", "timed": "What was timed", "source": "Source"}
NOT_VERIFIED = """Published by others, not verified here: other timers, other inputs, mostly one crop a batch. None can
be compared with a row above, and hardly with each other."""


def main() -> int:
    """Print the tables or write the pages."""
    parser = Parser(description="Print the tables of results/, or write them into docs/results.md and README.md.",
                    example="python3 scripts/results_table.py --write")
    parser.add_argument("--write", action="store_true",
                        help="write them into docs/results.md and README.md, between their markers")
    tables = {PAGE: both_tables(ROOT / "results"), README: readme_table(ROOT / "results")}
    if parser.parse_args().write:
        for page, table in tables.items():
            write_text(page, put_between(page.read_text(encoding="utf-8"), table))
    else:
        print("\n\n".join(tables.values()))
    return 0


def both_tables(folder: Path) -> str:
    """The measured results, and below them those that others published."""
    return f"{results_table(folder)}\n\n{NOT_VERIFIED}\n\n{published_table(folder / 'published.json')}"


def results_table(folder: Path) -> str:
    """A Markdown table with a row per cell of each machine; its folder's name is the machine's."""
    lines = []
    for machine, cells in read_machines(folder):
        shortest = read_json(machine / "roofline.json", "the roofline")["shortest_ms"] if (
            machine / "roofline.json").is_file() else {}
        for cell in cells:
            least = shortest.get(f"{cell.precision}_bs{cell.batch}")
            share = least and cell.timed["fps"] * least / cell.batch / 1e3
            lines.append({
                **format_row(cell.summary), "Machine": machine.name, "Batch": str(cell.batch),
                "Runtime": cell.summary["engine"]["runtime"], "FPS": describe_speed(cell.timed),
                "Of roofline": figure(share, ".0%"), "J a person": figure(joules(cell.timed), ".3g"),
                "Measured": cell.summary["measured_at"][:10], "Kit": cell.summary["versions"]["kit"]})
    return markdown([{name: line[name] for name in HEADER} for line in lines]) if lines else EMPTY


def read_machines(folder: Path) -> list[tuple[Path, list[Cell]]]:
    """Each folder with results, and its cells."""
    return [(path.parent, read_cells(path.parent)) for path in sorted(folder.glob("*/results.json"))]


def readme_table(folder: Path) -> str:
    """A Markdown table of the published row to reproduce, and of each machine's fastest cell of batch 32."""
    (first, *_), rows = read_json(folder / "published.json", "the published figures"), []
    accuracy = dict(part.rsplit(" ", 1) for part in first["accuracy"].partition(" on ")[0].split(", "))
    rows.append({**accuracy, "Model": "RTMPose-m, COCO val2017", "Machine": f"{first['machine']}, its maker's figure",
                 "Batch": first["batch"], "Precision": first["precision"], "FPS": first["figure"].split()[0]})
    rows.append(NO_GPU)
    for machine, cells in read_machines(folder):
        fastest = sorted((cell for cell in cells if cell.batch == 32), key=lambda cell: cell.timed["fps"])[-1:]
        rows += [{**format_row(cell.summary), "Model": f"[{model_name(cell.summary)}](results/{machine.name})",
                  "Batch": "32", "Machine": f"{machine_name(cell.summary)}, this kit"} for cell in fastest]
    return markdown([{name: row[name] for name in README_HEADER} for row in rows])


def published_table(path: Path) -> str:
    """A Markdown table of figures that others published, with their sources. Raises KitError if one lacks a source or
    anything else."""
    rows = read_json(path, "the published figures")
    for number, row in enumerate(rows, 1):
        if {*row} != {*PUBLISHED} or not all(row.values()):
            raise KitError(f"{path}: entry {number} has {', '.join(row)}, expected a text for each of "
                           f"{', '.join(PUBLISHED)}; complete it")
    return markdown([{title: row[name] for name, title in PUBLISHED.items()} for row in [
        {**row, "source": f"[link]({row['source']})"} for row in rows]])


def put_between(page: str, table: str) -> str:
    """The page with the table between its markers. Raises KitError if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise KitError(f"{PAGE}: lacks the markers of the table, expected {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


if __name__ == "__main__":
    run(main)
