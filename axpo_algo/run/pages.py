"""Trajectories as pages to read: Markdown with the text fenced and the images as PNG files beside it.

Turning token ids into text, and choosing which trajectories to show, is left to others.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from axpo_algo.run.tables import format_value


@dataclass(frozen=True, kw_only=True)
class Message:
    """One side's words."""

    role: str
    """who speaks: "environment", "policy", ..."""
    text: str
    """exactly as written"""
    images: Sequence[NDArray[np.uint8]] = ()
    """each [H, W, 3]"""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """One trajectory."""

    title: str
    """the heading"""
    facts: Mapping[str, object] = field(default_factory=dict)
    """listed under the heading: reward, stop reason, advantage, ..."""
    messages: Sequence[Message]
    """in order"""


def write_page(folder: Path, name: str, transcripts: Sequence[Transcript]) -> Path:
    """Writes `folder/name.md`, and images into `folder/name/`, replacing both; returns the page's path.

    Images are named by their content, so one that appears in many trajectories is stored once.
    """
    images = folder / name
    shutil.rmtree(images, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.md"
    sections = [f"# {name}\n", *(_section(transcript, images) for transcript in transcripts)]
    page.write_text("\n".join(sections), encoding="utf-8")
    return page


def _section(transcript: Transcript, images: Path) -> str:
    lines = [f"## {transcript.title}\n"]
    lines += [f"- {key}: {format_value(value)}" for key, value in transcript.facts.items()]
    for message in transcript.messages:
        lines.append(f"\n**{message.role}**\n")
        for array in message.images:
            file = _save(array, images)
            height, width = array.shape[:2]
            lines.append(f"![{width} x {height} px]({images.name}/{file})\n")
        if message.text:
            lines.append(_fenced(message.text))
    return "\n".join(lines) + "\n"


def _fenced(text: str) -> str:
    """`text` in a code fence longer than any run of backticks in it, so that nothing in it ends the fence."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _save(array: NDArray[np.uint8], folder: Path) -> str:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image is uint8 [H, W, 3], got {array.dtype} {list(array.shape)}")
    digest = hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
    path = folder / f"{digest[:16]}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return path.name
