"""Draws metrics over steps: one picture of small panels, one line per run in each.

Reading metrics.jsonl and naming the metrics is left to others; a panel whose metrics no run has is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small plot."""

    title: str
    """above it"""
    keys: Sequence[str]
    """metrics drawn in it; several of one run differ by line style"""
    is_rate: bool = True
    """whether the axis is fixed to 0-1"""


PANELS = (
    Panel(title="reward in training", keys=("train/mean_reward",)),
    Panel(title="tool use in training", keys=("train/tool_use_rate",)),
    Panel(title="Pass@1 with and without a tool", keys=("train/pass@1_tool", "train/pass@1_no_tool")),
    Panel(title="all-wrong, tool used", keys=("train/all_wrong_tool", "train/all_wrong_tool_after")),
    Panel(title="all-wrong, no tool used", keys=("train/all_wrong_no_tool",)),
    Panel(title="share recovered by resampling", keys=("train/recovery_rate",)),
    Panel(title="Pass@1 and Pass@4 in evaluation", keys=("eval/pass@1", "eval/pass@4")),
    Panel(title="tool use in evaluation", keys=("eval/tool_use_rate",)),
    Panel(title="loss", keys=("train/loss",), is_rate=False),
    Panel(title="KL to the reference", keys=("train/kl",), is_rate=False),
    Panel(title="gradient norm", keys=("train/grad_norm",), is_rate=False),
)

_STYLES = ("-", "--", ":", "-.")
_MAX_COLUMNS = 3


def draw_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    *,
    panels: Sequence[Panel] = PANELS,
    window: int = 9,
) -> Path:
    """Writes a PNG to `path` and returns it.

    `runs` maps a label to its records, each with `step` and metrics; None and text are gaps. Lines are means
    of the last `window` values, the values themselves stand faintly behind where there are more than that.
    """
    shown = [panel for panel in panels if any(_has_values(r, panel.keys) for r in runs.values())]
    num_columns = max(1, min(_MAX_COLUMNS, len(shown)))
    num_rows = max(1, -(-len(shown) // num_columns))
    figure = Figure(figsize=(4.4 * num_columns, 2.9 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, panel in enumerate(shown):
        _draw_panel(figure.add_subplot(num_rows, num_columns, index + 1), panel, runs, window)
    if not shown:
        figure.text(0.5, 0.5, "nothing measured yet", ha="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A reader may look at the picture while it is replaced.
    draft = path.with_name(f".{path.name}.tmp")
    figure.savefig(draft, format="png", dpi=110)
    draft.replace(path)
    return path


def _draw_panel(
    axes: Axes, panel: Panel, runs: Mapping[str, Sequence[Mapping[str, Any]]], window: int
) -> None:
    for run_index, (label, records) in enumerate(runs.items()):
        for key, style in zip(panel.keys, _STYLES, strict=False):
            steps, values = _series(records, key)
            if not steps.size:
                continue
            color = f"C{run_index}"
            if steps.size > window:
                axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
            marker = "." if steps.size <= window else None
            name = label if len(panel.keys) == 1 else f"{label}: {key.rsplit('/', 1)[-1]}"
            axes.plot(
                steps,
                trailing_mean(values, window),
                style,
                color=color,
                marker=marker,
                linewidth=1.6,
                label=name,
            )
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if panel.is_rate:
        axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize=7)


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    """[T] -> [T]: entry t is the mean of the last `window` values up to t, of fewer at the start."""
    if values.size <= window:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _has_values(records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> bool:
    return any(_series(records, key)[0].size for key in keys)


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, both [T], of one metric where it is a finite number."""
    pairs = [(record["step"], record[key]) for record in records if isinstance(record.get(key), (int, float))]
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    table = table[np.isfinite(table[:, 1])]
    return table[:, 0], table[:, 1]
