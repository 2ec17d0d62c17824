"""Small print is legible after zooming and not before: a reader of glyphs tries both.

The reader knows the font and where each text stands. It takes a patch around a text, enlarges it to the size
the font was printed in, and finds the row of glyphs whose pictures lie closest to it (least squares, over all
segmentations, by dynamic programming). It knows which characters may occur, but no words. Given the image as
the policy first sees it, it stands for a policy without tools; given crops as the zoom tool returns them and
the policy sees them, for one with tools.
"""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageDraw

from axpo_env.grading.choice import listed_options
from axpo_env.tasks.synthetic.families import make_generated
from axpo_env.tasks.synthetic.ledger_data import money
from axpo_env.tasks.synthetic.ledger_drawing import PRICE_END, QUANTITY, corner, line_y
from axpo_env.tasks.synthetic.painting import font
from axpo_env.tools.zoom import crop_box
from axpo_env.views import downscale

LETTERS = "ABDEFGIKLMNOPRSTUVZ"
ROWS = 1.2  # height of a patch, in font sizes


def glyphs(characters, size_px):
    """Pictures of characters, ink 1 and paper 0: [rows, advance], and the pictures' number of rows."""
    face, rows = font(size_px), 2 * round(ROWS * size_px / 2)
    pictures = {}
    for character in characters:
        picture = Image.new("L", (max(1, round(face.getlength(character))), rows), 255)
        ImageDraw.Draw(picture).text((0, rows / 2), character, fill=0, font=face, anchor="lm")
        pictures[character] = 1 - np.asarray(picture) / 255
    return pictures, rows


def read(image, center, width_px, characters, size_px, scale):
    """The text centred at `center` in an image in which a font of `size_px` is `scale` as large."""
    pictures, rows = glyphs(characters, size_px)
    # Whole pixels at a scale of 1, so that nothing is blurred on the way.
    half = round(width_px / 2)
    center = tuple(round(side) for side in center)
    box = [
        side * scale
        for side in (center[0] - half, center[1] - rows / 2, center[0] + half, center[1] + rows / 2)
    ]
    patch = Image.fromarray(image).convert("L").resize((2 * half, rows), Image.Resampling.BICUBIC, box)
    gray = np.asarray(patch, dtype=float)
    ink = np.clip(1 - gray / np.percentile(gray, 90), 0, 1)
    inked = np.flatnonzero(ink.max(axis=0) > 0.3)
    start, end = max(0, inked[0] - 5), min(ink.shape[1], inked[-1] + 3)
    columns = (ink**2).sum(axis=0)
    errors = {
        character: ((sliding_window_view(ink, picture.shape) - picture) ** 2).sum(axis=(0, 2, 3)).tolist()
        for character, picture in pictures.items()
    }
    # best[x]: least squared error of the columns before x, and the text read there.
    best = {x: (columns[start:x].sum(), "") for x in range(start, start + 7)}
    for x in range(start, end):
        if x not in best:
            continue
        for character, picture in pictures.items():
            stop = x + picture.shape[1]
            if stop > ink.shape[1]:
                continue
            error = best[x][0] + errors[character][x]
            if stop not in best or error < best[stop][0]:
                best[stop] = (error, best[x][1] + character)
    ends = [(error + columns[x:].sum(), text) for x, (error, text) in best.items() if x >= end - 4]
    return min(ends)[1]


def first_view(image, level):
    """(image, offset, scale) as the policy first sees it."""
    seen = downscale(image, level.view_pixels)
    return seen, (0, 0), seen.shape[1] / image.shape[1]


def zoomed_view(image, level, box):
    """(image, offset, scale) of what the policy sees of a zoom into `box` (0-1000)."""
    left, top, right, bottom = crop_box(box, width_px=image.shape[1], height_px=image.shape[0])
    zoomed = downscale(image[top:bottom, left:right], level.view_pixels)
    return zoomed, (left, top), zoomed.shape[1] / (right - left)


def read_in(view, center, width_px, characters, size_px):
    image, (left, top), scale = view
    return read(image, (center[0] - left, center[1] - top), width_px, characters, size_px, scale)


class Reader:
    """Reads one task's texts, from zooms or from the first view."""

    def __init__(self, task, level, *, zooms):
        self.task, self.level, self.zooms = task, level, zooms
        self.views = {}

    def text(self, center, width_px, characters, box):
        """The text at `center` of the full image, looked for in a zoom into `box` or in the first view."""
        key = box if self.zooms else None
        if key not in self.views:
            image = self.task.images[0]
            view = zoomed_view(image, self.level, box) if self.zooms else first_view(image, self.level)
            self.views[key] = view
        return read_in(self.views[key], center, width_px, characters, self.level.font_px)


def middle(box):
    return round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2)


def answer_signs(reader, item):
    """The answer by the reader's texts; None where it does not find a word that is asked for."""
    board = item.details["board"]
    looked_at = []
    for box in item.gold_boxes:
        width, height = board.level.canvas_px
        left, top, right, bottom = (
            side * size / 1000 for side, size in zip(box, (width, height, width, height), strict=True)
        )
        for sign in board.signs:
            x, y = middle(board.slot_box(sign.slot))
            if left <= x <= right and top <= y <= bottom:
                looked_at.append((sign, reader.text((x, y), 5.0 * board.level.font_px, LETTERS, box)))
    if item.kind in ("odd_color", "beside_color"):
        return looked_at[0][1]
    by_text = {text: sign for sign, text in looked_at}
    asked = [word.strip(".,?:;") for word in item.question.split("\n(A) ")[0].split()]
    asked = [word for word in asked if len(word) == 6 and word.isupper()]
    found = [by_text.get(word) for word in asked]
    if None in found:
        return None
    if item.kind == "color_of":
        return found[0].color
    step = (1, 0) if "to the right" in item.question.split("\n")[0] else (0, 1)
    wanted = (found[0].slot[0] + step[0], found[0].slot[1] + step[1])
    return next((text for sign, text in looked_at if sign.slot == wanted), None)


def share_right(source, answer, num_items, *, zooms, kinds=None):
    """The share answered right, by the task's own grader; a guess counts as much as it is right on average."""
    right, index = [], 0
    while len(right) < num_items:
        item, task = source.item(index), source.get(index)
        index += 1
        if kinds is not None and item.kind not in kinds:
            continue
        said = answer(Reader(task, source.level, zooms=zooms), item)
        options = listed_options(item.question)
        if said is None or (options and said not in options):
            right.append(1 / len(item.guesses) if item.answer in item.guesses else 0.0)
        else:
            right.append(float(task.grade(said).correct))
    return sum(right) / num_items


def answer_figure(reader, item):
    """Right if every label is read right: computing is the python tool's part."""
    figure = item.details["figure"]
    for (_, place), box in zip(figure.needed, item.gold_boxes, strict=True):
        label = next(lab for lab in figure.sheet.labels if not lab.large and figure.sheet.box(lab) == place)
        center = [share * figure.sheet.canvas_px for share in label.at]
        width = font(reader.level.font_px).getlength(label.text) + 10
        if reader.text(center, width, "0123456789.", box) != label.text:
            return None
    return item.answer


def answer_ledger(reader, item):
    """Right if every price and quantity that counts is read right: adding up is the python tool's part."""
    page, size = item.details["page"], reader.level.font_px
    face = font(size)
    for (receipt, lines), box in zip(item.details["parts"], item.gold_boxes, strict=True):
        left, top = corner(receipt, page.box(receipt), size)
        for line in lines:
            y = line_y(top, receipt.lines.index(line), size)
            amount, count = money(line.cents), str(line.quantity)
            ends = (
                (amount, left + PRICE_END * size - face.getlength(amount) / 2),
                (count, left + QUANTITY * size + face.getlength(count) / 2),
            )
            for text, x in ends:
                if reader.text((x, y), face.getlength(text) + 6, "0123456789.", box) != text:
                    return None
    return item.answer


def answer_lookup(reader, item):
    """Right if the plaque is read right: the rest is the search's part."""
    plaque = item.details["plaques"][0]
    center = middle(plaque.box(reader.level.font_px))
    characters = LETTERS + LETTERS.lower()
    name = reader.text(center, 5.5 * reader.level.font_px, characters, item.gold_boxes[0])
    return item.answer if name.lower() == plaque.text.lower() else None


CASES = {
    "signs, free text": ("visualprobe", "signs", "easy", answer_signs, None, 20),
    "signs, multiple choice": ("hrbench4k", "signs", "medium", answer_signs, None, 8),
    "figures": ("mathvr", "figures", "medium", answer_figure, ("triangle_parts",), 8),
    "ledgers": ("chartqa", "ledgers", "easy", answer_ledger, None, 8),
    "lookups": ("hrmmsearch", "lookups", "easy", answer_lookup, None, 20),
}


@pytest.mark.parametrize("case", CASES)
def test_reading_needs_the_zoom(case):
    benchmark, source, level, answer, kinds, num_items = CASES[case]
    made = make_generated(benchmark=benchmark, source=source, split="train", difficulty=level)
    with_tools = share_right(made, answer, num_items, zooms=True, kinds=kinds)
    without = share_right(made, answer, num_items, zooms=False, kinds=kinds)
    print(f"{case}: {without:.2f} before zooming, {with_tools:.2f} after")
    assert with_tools >= 0.85
    assert without <= with_tools / 2
