"""Print the tables of results/, or write them into docs/results.md with --write.

    python3 scripts/results_table.py [--write]

The first is of results that were handed in, the second of results/published.json: what others published, and nobody
verified with this kit.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # outside the environment the kit is not installed

from common import Parser, run

from rtmpose.errors import KitError
from rtmpose.files import read_json, write_text
from rtmpose.report.results import read_cells
from rtmpose.report.summary import describe_speed, figure, format_row, joules, markdown

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/results.md"
BEGIN, END = "<!-- results: begin, written by scripts/results_table.py -->", "<!-- results: end -->"
HEADER = ("Machine", "Model", "Batch", "Precision", "Runtime", "FPS", "AP@0.5", "AP@0.5:0.95", "J a person", "Measured",
          "Kit")
EMPTY = "No result has been handed in yet."
PUBLISHED = {"machine": "Machine", "model": "Model", "batch": "Batch", "precision": "Precision", "runtime": "Runtime",
             "figure": "Published", "accuracy": "Accuracy", "timed": "What was timed", "source": "Source"}
NOT_VERIFIED = """Published by others, not verified here: other timers, other inputs, mostly one crop a batch. None can
be compared with a row above, and hardly with each other."""


def main() -> int:
    """Print the table or write the page."""
    parser = Parser(description="Print the tables of results/, or write them into docs/results.md.",
                    example="python3 scripts/results_table.py --write")
    parser.add_argument("--write", action="store_true", help="write them into docs/results.md, between its markers")
    tables = both_tables(ROOT / "results")
    if parser.parse_args().write:
        write_text(PAGE, put_between(PAGE.read_text(encoding="utf-8"), tables))
    else:
        print(tables)
    return 0


def both_tables(folder: Path) -> str:
    """The measured results, and below them those that others published."""
    return f"{results_table(folder)}\n\n{NOT_VERIFIED}\n\n{published_table(folder / 'published.json')}"


def results_table(folder: Path) -> str:
    """A Markdown table with a row per cell of each machine; its folder's name is the machine's."""
    lines = []
    for machine in sorted(path.parent for path in folder.glob("*/results.json")):
        for cell in read_cells(machine):
            lines.append({
                **format_row(cell.summary), "Machine": machine.name, "Batch": str(cell.batch),
                "Runtime": cell.summary["engine"]["runtime"], "FPS": describe_speed(cell.timed),
                "J a person": figure(joules(cell.timed), ".3g"),
                "Measured": cell.summary["measured_at"][:10], "Kit": cell.summary["versions"]["kit"]})
    return markdown([{name: line[name] for name in HEADER} for line in lines]) if lines else EMPTY


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
