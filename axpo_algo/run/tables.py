"""Results side by side: one table as Markdown text, and the same rows as JSON.

What the numbers mean is left to whoever made the rows.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]  # column -> value; a missing column shows as a dash


def format_value(value: Any) -> str:
    """Text of one cell: floats with three decimals (scientific when tiny or huge), None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    if value != 0 and math.isfinite(value) and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.3f}"


def markdown_table(rows: Sequence[Row], *, columns: Sequence[str] | None = None) -> str:
    """A Markdown table that reads well as plain text too: columns padded, numbers to the right.

    `columns` picks and orders; by default all columns in order of first appearance.
    """
    names = list(columns) if columns is not None else _columns(rows)
    cells = [[_markdown_cell(format_value(row.get(name))) for name in names] for row in rows]
    heads = [_markdown_cell(name) for name in names]
    widths = [max(3, len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    right = [_is_number_column(rows, name) for name in names]

    def line(parts: Sequence[str]) -> str:
        padded = (p.rjust(w) if r else p.ljust(w) for p, w, r in zip(parts, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + ":" if r else "-" * width for width, r in zip(widths, right, strict=True)]
    return "\n".join([line(heads), line(rule), *(line(parts) for parts in cells)])


def write_json(path: Path | str, document: Any) -> None:
    """Writes `document` as indented JSON, making the folder. Raises ValueError for NaN and infinity."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _markdown_cell(text: str) -> str:
    """`text` in one line, its bars escaped: neither ends the cell."""
    return " ".join(text.split("\n")).replace("|", "\\|")


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _is_number_column(rows: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
