"""A comparison as Markdown: the table, and what must be said below it."""

import shlex
from collections.abc import Iterator, Sequence

from rtmpose.errors import KitError
from rtmpose.report import summary as rows
from rtmpose.report.compare import Report, Row
from rtmpose.report.results import Run, describe_speed

HEADER = ("Result", "Precision", "Batch", "Persons a second", "Ratio [95 %]", "Verdict", "AP", "AP difference [95 %]",
          "Keypoints: at most one bin off, p99", "J a person", "Persons a dollar", "Conditions", "Differs in")


def report_text(report: Report, prices: dict[str, float]) -> str:
    """The comparison as Markdown: the table, and what must be said below it."""
    below = "".join(f"\n- {line}" for line in lines_below(report))
    refused = "".join(f"\n- Not compared: {line}" for line in report.refused)
    return rows.markdown(table_lines(report, prices)) + (f"\n{refused}{below}" if refused or below else "")


def table_lines(report: Report, prices: dict[str, float]) -> list[list[str]]:
    """The table, its header first, without the columns that are empty; ``prices`` in dollars an hour by label."""
    lines = [_text_row(row, prices.get(row.cell.label)) for row in report.rows]
    kept = [i for i in range(len(HEADER)) if any(line[i] != "-" for line in lines)]
    return [[line[i] for i in kept] for line in (HEADER, *lines)]


def _text_row(row: Row, price: float | None) -> tuple[str, ...]:
    run, agreement = row.timed, row.agreement
    ap = row.cell.ap
    names = dict.fromkeys("versions" if name.startswith("version of") else name.replace("machine's ", "")
                          for name in row.differences)
    return (
        row.cell.label,
        rows.precision(row.cell.any_run.summary),
        str(row.cell.batch),
        describe_speed(run) if run else "-",
        with_interval(row.ratio, row.ratio_interval, ".3f"),
        row.verdict,
        "-" if ap is None else f"{ap:.4f}",
        with_interval(row.ap_difference, row.ap_interval, "+.4f"),
        f"{agreement['within_bin']:.2%}, {agreement['p99_px']:.2f} px" if agreement.get("counted") else "-",
        f"{run.joules:.3g}" if run and run.joules else "-",
        f"{persons_a_dollar(run, price):,.0f}" if run and price else "-",
        run.conditions if run else "-",
        ", ".join(names) or "-",
    )


def with_interval(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    """A number and its interval as text."""
    if value is None:
        return "-"
    text = format(round(value, 6) + 0, form)
    return text if interval is None else f"{text} [{interval[0]:{form}}, {interval[1]:{form}}]"


def persons_a_dollar(run: Run, price: float) -> float:
    """Persons for one dollar at ``price`` dollars an hour."""
    return run.speed * 3600 / price


def lines_below(report: Report) -> Iterator[str]:
    """What stands below the table: differences in full, reasons of bad conditions, notes."""
    yield from dict.fromkeys(  # the cells of a sweep mostly differ alike
        f"{row.cell.label} differs from {row.base.label}: "
        + "; ".join(f"{name} {change}" for name, change in row.differences.items())
        for row in report.rows if row.base and row.differences)
    for row in report.rows:
        if row.timed and row.timed.conditions in rows.NOT_A_RESULT:
            reasons = "; ".join(row.timed.summary["conditions"]["reasons"])
            yield f"{row.cell.name}: {row.timed.conditions}, not a result: {reasons}"
    yield from report.notes


def parse_prices(options: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Dollars an hour by label, of ``--price NAME=USD_PER_HOUR``. Raises KitError if one is not of that form."""
    prices = {}
    for option in options:
        label, _, number = option.rpartition("=")
        try:
            price = float(number)
        except ValueError:
            price = 0.0
        if label not in labels or not 0 < price < 1e6:
            raise KitError(f"--price {option}: expected NAME=USD_PER_HOUR with a price above 0 and a NAME of "
                           f"{', '.join(map(shlex.quote, labels))}")
        prices[label] = price
    return prices
