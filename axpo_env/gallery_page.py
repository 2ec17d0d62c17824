"""The gallery's page: exhibits to one HTML text that needs nothing else, images inside as data URIs.

Which tasks are shown, and what is played, is left to `gallery`.
"""

import base64
import io
import json
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from axpo_env.views import downscale

if TYPE_CHECKING:
    from axpo_env.gallery import Exhibit, Result, Turn, View
    from axpo_env.tasks.base import Task

Image = NDArray[np.uint8]  # [H, W, 3]
Box = tuple[int, int, int, int]  # left, top, right, bottom in thousandths of the sides
MAX_SHOWN_PIXELS = 1_440_000  # of a full image on the page
MAX_CUT_PIXELS = 360_000  # of a part of one
_EXACT_PIXELS = 90_000  # up to here an image is kept to the last bit
_MARGIN = 0.35  # of a gold box's sides, shown around it
_LEAST_SHARE = 0.06  # of the image's sides, so that a small box has surroundings
_NUMBER_LINE = re.compile(r"Image \d+:")  # says no more than the caption of the image itself

STYLE = """
:root { --ink: #1d2330; --soft: #667085; --line: #e3e6ec; --paper: #fff; --ground: #f5f6f8; --blue: #2855c8;
  --good: #137a4b; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 80px; }
h1 { font-size: 28px; margin: 0 0 6px; }
h2 { font-size: 20px; margin: 0; }
h3 { font-size: 12px; letter-spacing: .06em; text-transform: uppercase; color: var(--soft); margin: 26px 0 8px; }
a { color: var(--blue); text-decoration: none; }
.lead { color: var(--soft); max-width: 76ch; margin: 0 0 20px; }
table { border-collapse: collapse; width: 100%; background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; overflow: hidden; font-size: 14px; }
th, td { text-align: left; padding: 7px 12px; border-top: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; border-top: 0; }
td.number { font-variant-numeric: tabular-nums; }
article { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 24px 28px 28px;
  margin-top: 28px; }
header { display: flex; gap: 12px; align-items: baseline; justify-content: space-between; flex-wrap: wrap; }
.meta { color: var(--soft); font-size: 13px; margin: 4px 0 0; overflow-wrap: anywhere; }
.badge { font-size: 13px; padding: 2px 10px; border-radius: 99px; border: 1px solid; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .none { color: var(--soft); }
.question { font-size: 18px; white-space: pre-wrap; margin: 0; overflow-wrap: anywhere; }
.chip { display: inline-block; font: 14px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; background: #eef2fd;
  border-radius: 6px; padding: 2px 8px; margin: 0 6px 6px 0; overflow-wrap: anywhere; }
.side { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: flex-start; }
.side > .wide { flex-basis: 100%; min-width: 0; }
figure { margin: 0 0 8px; max-width: 100%; }
figcaption { font-size: 13px; color: var(--soft); margin-bottom: 5px; }
figcaption b { color: var(--ink); font-weight: 600; }
.frame { position: relative; max-width: 100%; border: 1px solid var(--line); background: #fff; line-height: 0; }
.frame img { width: 100%; display: block; }
.frame img.coarse { image-rendering: pixelated; }
.box { position: absolute; border: 2px solid #e5484d; border-radius: 3px; box-shadow: 0 0 0 1px #fff; }
.turn { display: grid; grid-template-columns: 64px 1fr; gap: 12px; padding: 14px 0; border-top: 1px solid var(--line); }
.turn > .label { color: var(--soft); font-size: 13px; padding-top: 2px; }
.thinking { color: var(--soft); font-style: italic; margin: 0 0 8px; white-space: pre-wrap; }
pre { margin: 0 0 10px; padding: 10px 12px; border-radius: 8px; background: #f3f5f9; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace;
  max-height: 22em; overflow: auto; }
pre.call { background: #1f2633; color: #e8ecf4; }
pre.call b { color: #8fb4ff; font-weight: 600; }
.from { font-size: 12px; color: var(--soft); margin: 12px 0 4px; }
.answer { font-size: 16px; margin: 0; }
@media (max-width: 760px) { .turn { grid-template-columns: 1fr; } }
"""


def render(exhibits: Sequence["Exhibit"]) -> str:
    """The whole page."""
    rows = "\n".join(_row(place, shown) for place, shown in enumerate(exhibits))
    articles = "\n".join(_article(place, shown) for place, shown in enumerate(exhibits))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Gallery of environments</title>
<style>{STYLE}</style>
<main>
<h1>Gallery of environments</h1>
<p class="lead">A task of every environment and source that is at hand. The policy sees an image at its pixel
budget; the tools work on the full image. Red boxes mark where the facts stand, where the source knows.</p>
<table>
<tr><th>environment, source</th><th>task</th><th>images</th><th>turns</th><th>as shown</th></tr>
{rows}
</table>
{articles}
</main>
</html>
"""


def _row(place: int, shown: "Exhibit") -> str:
    sizes = ", ".join(map(_sizes, shown.views)) or "none"
    return (
        f'<tr><td><a href="#task-{place}">{escape(shown.name)}</a></td><td>{escape(shown.task.id)}</td>'
        f'<td class="number">{sizes}</td><td class="number">{len(shown.turns)}</td>'
        f"<td>{_verdict(shown)}</td></tr>"
    )


def _article(place: int, shown: "Exhibit") -> str:
    task = shown.task
    kind = task.details.get("kind")
    facts = [
        shown.env_id,
        f"task {task.id}",
        *([f"kind {kind}"] if kind else []),
        f"at most {shown.max_pixels:,} pixels seen of an image",
        _needs(task),
    ]
    chips = "".join(f'<span class="chip">{escape(reference)}</span>' for reference in task.references)
    boxes = task.gold_boxes
    pairs = "".join(_pair(view, boxes if view.number == 0 else ()) for view in shown.views)
    if shown.views and boxes:
        pairs += _closer(shown.views[0], boxes)
    title = (
        "Demonstration"
        if shown.demonstrated
        else "Not demonstrated by its source: a look at the middle, the reference"
    )
    turns = "".join(_turn(number, turn) for number, turn in enumerate(shown.turns, start=1))
    end = f"{escape(shown.stop_reason)}, {_verdict(shown)}"
    return f"""<article id="task-{place}">
<header><h2>{escape(shown.name)}</h2><span class="badge {_tone(shown)}">{_verdict(shown)}</span></header>
<p class="meta">{escape(" · ".join(facts))}</p>
<h3>Question</h3><p class="question">{escape(task.question)}</p>
<h3>References</h3>{chips}
<h3>Images</h3>{pairs or '<p class="meta">This task has none.</p>'}
<h3>{title}</h3>{turns}
<div class="turn"><div class="label">end</div><div class="answer">{end}</div></div>
</article>"""


def _needs(task: "Task") -> str:
    if task.needs_tools:
        return f"needs {', '.join(task.needs_tools)}"
    return "needs no tool" if task.demonstrator is not None else "which tools it needs is not known"


def _tone(shown: "Exhibit") -> str:
    return "good" if shown.reward else "bad"


def _verdict(shown: "Exhibit") -> str:
    return f'<span class="{_tone(shown)}">reward {shown.reward:g}</span>'


def _pair(view: "View", boxes: Sequence[Box]) -> str:
    """The image as the policy sees it beside the full one; one figure if they are the same."""
    full = downscale(view.full, MAX_SHOWN_PIXELS)
    number = f"image {view.number}"
    if view.full.shape == view.seen.shape:
        caption = f"<b>{number}, as policy and tools see it</b>, {_size(view.full)}"
        return f'<div class="side">{_figure(caption, full, _display(full, 640, 480), boxes)}</div>'
    display = _display(full, 490, 540, least=True)
    seen = _figure(f"<b>{number}, as the policy sees it</b>, {_size(view.seen)}", view.seen, display)
    tools = _figure(f"<b>as the tools see it</b>, {_size(view.full)}", full, display, boxes)
    return f'<div class="side">{seen}{tools}</div>'


def _closer(view: "View", boxes: Sequence[Box]) -> str:
    """The surroundings of the first gold box, as the policy and as the tools see them."""
    if view.full.shape == view.seen.shape:
        return ""
    around = surroundings(boxes[0])
    seen, full = (downscale(cut(image, around), MAX_CUT_PIXELS) for image in (view.seen, view.full))
    display = _display(full, 490, 220, least=True)
    return (
        f'<div class="side">{_figure("around the first red box, as the policy sees it", seen, display)}'
        f"{_figure('as the tools see it', full, display)}</div>"
    )


def surroundings(box: Box) -> tuple[float, float, float, float]:
    """`box` (0-1000) with a margin, as shares 0-1 of the sides."""
    left, top, right, bottom = (side / 1000 for side in box)
    wide = max((right - left) * _MARGIN, (_LEAST_SHARE - (right - left)) / 2)
    high = max((bottom - top) * _MARGIN, (_LEAST_SHARE - (bottom - top)) / 2)
    return max(0.0, left - wide), max(0.0, top - high), min(1.0, right + wide), min(1.0, bottom + high)


def cut(image: Image, box: tuple[float, float, float, float]) -> Image:
    """The part of `image` [H, W, 3] in `box` (shares 0-1 of the sides), at least one pixel."""
    height, width = image.shape[:2]
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))
    return np.ascontiguousarray(image[top:bottom, left:right])


def _turn(number: int, turn: "Turn") -> str:
    action = turn.action
    parts = []
    if action.thinking:
        parts.append(f'<p class="thinking">{escape(action.thinking)}</p>')
    for call in action.calls:
        parts.append(
            f'<pre class="call"><b>{escape(str(call.name))}</b> {_arguments(call.arguments or {})}</pre>'
        )
    if action.answer is not None:
        parts.append(f'<p class="answer">answers <span class="chip">{escape(action.answer)}</span></p>')
    if action.problem is not None:
        parts.append(f'<p class="answer bad">{escape(action.problem)}</p>')
    if turn.results:
        parts.append(f'<div class="side">{"".join(map(_result, turn.results))}</div>')
    return f'<div class="turn"><div class="label">turn {number}</div><div>{"".join(parts)}</div></div>'


def _arguments(arguments: dict[str, Any]) -> str:
    """Code as it stands, everything else as JSON."""
    rest = {name: value for name, value in arguments.items() if name != "code"}
    shown = escape(json.dumps(rest, ensure_ascii=False)) if rest else ""
    code = arguments.get("code")
    return shown if code is None else f"{shown}\n{escape(str(code))}"


def _result(result: "Result") -> str:
    lines = [line for line in result.text.splitlines() if not _NUMBER_LINE.fullmatch(line)]
    text = f"<pre>{escape(chr(10).join(lines))}</pre>" if any(line.strip() for line in lines) else ""
    views = "".join(_crop(view) for view in result.views)
    wide = ' class="wide"' if text else ""
    return f'<div{wide}><p class="from">from {escape(result.name)}</p>{text}<div class="side">{views}</div></div>'


def _crop(view: "View") -> str:
    full = downscale(view.full, MAX_CUT_PIXELS)
    display = _display(full, 440, 240)
    if view.full.shape == view.seen.shape:
        return _figure(f"<b>image {view.number}</b>, {_size(view.full)}", full, display)
    seen = _figure(
        f"<b>image {view.number}, as the policy sees it</b>, {_size(view.seen)}", view.seen, display
    )
    return seen + _figure(f"<b>as the tools see it</b>, {_size(view.full)}", full, display)


def _display(image: Image, max_width: float, max_height: float, *, least: bool = False) -> int:
    """The width in px to show `image` at: within both limits, at most six times its own unless `least`."""
    height, width = image.shape[:2]
    limits = [max_width, max_height * width / height, *([] if least else [6 * width])]
    return max(24, round(min(limits)))


def _figure(caption: str, image: Image, display: int, boxes: Sequence[Box] = ()) -> str:
    marks = "".join(
        f'<div class="box" style="left:{left / 10}%;top:{top / 10}%;'
        f'width:{(right - left) / 10}%;height:{(bottom - top) / 10}%"></div>'
        for left, top, right, bottom in boxes
    )
    look = ' class="coarse"' if image.shape[1] < display else ""
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="frame" style="width:{display}px">'
        f'<img{look} alt="" src="{data_uri(image)}">{marks}</div></figure>'
    )


def data_uri(image: Image) -> str:
    """`image` [H, W, 3] as a WebP data URI, without loss if it is small."""
    exact = image.shape[0] * image.shape[1] <= _EXACT_PIXELS
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="WEBP", lossless=exact, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _sizes(view: "View") -> str:
    """Its size to the tools and, where it differs, to the policy."""
    whole = view.full.shape == view.seen.shape
    return _size(view.full) if whole else f"{_size(view.full)} → {_size(view.seen)}"


def _size(image: Image) -> str:
    return f"{image.shape[1]} × {image.shape[0]}"
