"""A comparison as Markdown: the table, and what must be said below it."""

import shlex
from collections.abc import Sequence
from typing import Any

from rtmpose.errors import KitError
from rtmpose.report import summary as rows
from rtmpose.report.compare import Report, Row


def report_text(report: Report) -> str:
    """The comparison as Markdown; of one result, its table."""
    if len(report.labels) == 1:
        return rows.table(*(cell.summary for cell in report.cells))
    lines = [*(f"Not compared: {line}" for line in report.refused), *difference_lines(report)]
    for row in report.rows:
        if row.timed and row.timed["conditions"]["verdict"] in rows.NOT_A_RESULT:
            conditions = row.timed["conditions"]
            lines.append(f"{row.cell.name}: {conditions['verdict']}, not a result: {'; '.join(conditions['reasons'])}")
    lines += report.notes
    return rows.markdown(table_lines(report)) + "\n" * bool(lines) + "".join(f"\n- {line}" for line in lines)


def table_lines(report: Report) -> list[list[str]]:
    """The table, its header first, without the columns that are empty."""
    texts = [_text_row(row, report.prices.get(row.cell.label)) for row in report.rows]
    header = [name for name in texts[0] if any(text[name] != "-" for text in texts)]
    return [header, *([text[name] for name in header] for text in texts)]


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
        "Ratio [95 %]": with_interval(row.ratio, row.ratio_interval, ".3f"),
        "Verdict": row.verdict,
        "AP": f"{summary['AP']:.4f}" if "AP" in summary else "-",
        "AP difference [95 %]": with_interval(row.ap_difference, row.ap_interval, "+.4f"),
        "Keypoints: at most one bin off, p99": (f"{agreement['within_bin']:.2%}, {agreement['p99_px']:.2f} px"
                                                if agreement.get("counted") else "-"),
        "J a person": f"{run['energy']['joules_per_person']:.3g}" if "energy" in run else "-",
        "Persons a dollar": f"{persons_a_dollar(run, price):,.0f}" if run and price else "-",
        "Conditions": run["conditions"]["verdict"] if run else "-",
        "Differs in": ", ".join(names) or "-",
    }


def with_interval(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    """A number and its interval as text."""
    if value is None:
        return "-"
    text = format(round(value, 6) + 0, form)
    return text if interval is None else f"{text} [{interval[0]:{form}}, {interval[1]:{form}}]"


def persons_a_dollar(run: dict[str, Any], price: float) -> float:
    """Persons for one dollar at ``price`` dollars an hour."""
    return run["fps"] * 3600 / price


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
