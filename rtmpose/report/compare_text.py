"""A comparison as Markdown: the table, and what must be said below it."""

import shlex
from collections.abc import Sequence
from typing import Any

from rtmpose.errors import KitError
from rtmpose.report import summary as rows
from rtmpose.report.compare import Report, Row
from rtmpose.report.text import describe_conditions


def report_text(report: Report) -> str:
    """The comparison as Markdown; of one result, its table."""
    if len(report.labels) == 1:
        return rows.table(*(cell.summary for cell in report.cells))
    lines = [*(f"Not compared: {line}" for line in report.refused), *difference_lines(report)]
    lines += [f"{row.cell.name}: {describe_conditions(row.timed['conditions'])}" for row in report.rows
              if row.timed and not rows.is_result(row.timed)]
    lines += report.notes
    return rows.markdown(table_rows(report)) + "\n" * bool(lines) + "".join(f"\n- {line}" for line in lines)


def table_rows(report: Report) -> list[dict[str, str]]:
    """The rows of the table, without the columns that are empty."""
    texts = [_text_row(row, report.prices.get(row.cell.label)) for row in report.rows]
    return [{name: text[name] for name in text if any(other[name] != "-" for other in texts)} for text in texts]


def _text_row(row: Row, price: float | None) -> dict[str, str]:
    """A row's texts by column; a dash where there is none."""
    run, agreement, summary = row.timed, row.agreement, row.cell.summary
    names = dict.fromkeys("versions" if name.startswith("version of") else name.replace("machine's ", "")
                          for name in row.differences)
    return {
        "Result": row.cell.label,
        "Precision": rows.precision(summary),
        "Batch": str(row.cell.batch),
        "Persons a second": rows.describe_speed(run) if run else "-",
        "Ratio [95 %]": rows.figure(row.ratio, ".3f", row.ratio_interval),
        "Verdict": row.verdict,
        "AP": rows.figure(summary.get("AP"), ".4f"),
        "AP difference [95 %]": rows.figure(row.ap_difference, "+z.4f", row.ap_interval),
        "Keypoints: at most one bin off, p99": (f"{agreement['within_bin']:.2%}, {agreement['p99_px']:.2f} px"
                                                if agreement.get("counted") else "-"),
        "J a person": rows.figure(rows.joules(run), ".3g"),
        "Persons a dollar": rows.figure(persons_a_dollar(run, price), ",.0f"),
        "Conditions": run["conditions"]["verdict"] if run else "-",
        "Differs in": ", ".join(names) or "-",
    }


def persons_a_dollar(run: dict[str, Any], price: float | None) -> float | None:
    """Persons for one dollar at ``price`` dollars an hour; None without a price or a speed."""
    return run["fps"] * 3600 / price if run and price else None


def difference_lines(report: Report) -> list[str]:
    """What differs between the results, in full; the cells of a sweep mostly differ alike."""
    return list(dict.fromkeys(
        f"{row.cell.label} differs from {row.base.label}: "
        + "; ".join(f"{name} {change}" for name, change in row.differences.items())
        for row in report.rows if row.base and row.differences))


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
