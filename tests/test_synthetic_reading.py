"""Small print is legible after zooming and not before: a reader of glyphs tries both.

The reader knows the font and where each text stands. It takes a patch around a text, enlarges it to the size
the font was printed in, and finds the row of glyphs whose pictures lie closest to it (least squares, over all
segmentations, by dynamic programming). It knows which characters may occur, but no words. Given the image as
the policy first sees it, it stands for a policy without tools; given crops as the zoom tool returns them and
the policy sees them, for one with tools. A reader that fits whole texts to the first view, which is stronger there,
is in `test_synthetic_fitting`.

In charts, values also show in where marks end. Three more readers go by that, and all know the axis: one measures
marks in the first view; one then also looks which of the numbers that fit the mark looks most like its label; one is
told the very row of the full picture in which a mark ends, which nobody can measure better.
"""

import random
from fractions import Fraction

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageDraw

from axpo_env.grading import extract_answer
from axpo_env.grading.options import listed_options
from axpo_env.tasks.base import SPLITS
from axpo_env.tasks.synthetic.chart_drawing import Axes, label_boxes
from axpo_env.tasks.synthetic.charts import ChartSource
from axpo_env.tasks.synthetic.families import make_generated
from axpo_env.tasks.synthetic.ledger_data import money
from axpo_env.tasks.synthetic.ledger_drawing import PRICE_END, QUANTITY, corner, line_y
from axpo_env.tasks.synthetic.painting import font
from axpo_env.tools.zoom import crop_box
from axpo_env.views import downscale

LETTERS = "ABDEFGIKLMNOPRSTUVXZ"
ROWS = 1.2  # height of a patch, in font sizes


def glyphs(characters, size_px, stained):
    """Pictures of characters, ink 1 and paper 0: [rows, advance], and the pictures' number of rows."""
    face, rows = font(size_px), 2 * round(ROWS * size_px / 2)
    pictures = {}
    for character in characters:
        picture = Image.new("L", (max(1, round(face.getlength(character))), rows), 255)
        ImageDraw.Draw(picture).text((0, rows / 2), character, fill=0, font=face, anchor="lm")
        pictures[character] = inkiness((0.7 if stained else 1.0) * np.asarray(picture) / 255, stained)
    return pictures, rows


def inkiness(light, stained):
    """How much of a pixel is ink, 0 to 1; on stained paper, what is darker than the paper's darkest, 0.35."""
    return np.clip(1 - light / (0.35 if stained else 1.0), 0, 1)


def read(image, center, width_px, characters, size_px, scale, stained=False):
    """The text centred at `center` in an image in which a font of `size_px` is `scale` as large."""
    pictures, rows = glyphs(characters, size_px, stained)
    # Whole pixels at a scale of 1, so that nothing is blurred on the way.
    half = round(width_px / 2)
    center = tuple(round(side) for side in center)
    box = [
        side * scale
        for side in (center[0] - half, center[1] - rows / 2, center[0] + half, center[1] + rows / 2)
    ]
    patch = Image.fromarray(image).convert("L").resize((2 * half, rows), Image.Resampling.BICUBIC, box)
    gray = np.asarray(patch, dtype=float)
    ink = inkiness(gray / np.percentile(gray, 95 if stained else 90), stained)
    inked = np.flatnonzero(ink.max(axis=0) > 0.3)
    if not inked.size:
        return ""
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


def read_in(view, center, width_px, characters, size_px, stained=False):
    image, (left, top), scale = view
    return read(image, (center[0] - left, center[1] - top), width_px, characters, size_px, scale, stained)


class Reader:
    """Reads one task's texts, from zooms or from the first view."""

    def __init__(self, task, level, *, zooms):
        self.task, self.level, self.zooms = task, level, zooms
        self.font_px = getattr(level, "font_px", None) or level.label_px
        self.views = {}

    def text(self, center, width_px, characters, box):
        """The text at `center` of the full image, looked for in a zoom into `box` or in the first view."""
        key = box if self.zooms else None
        if key not in self.views:
            image = self.task.images[0]
            view = zoomed_view(image, self.level, box) if self.zooms else first_view(image, self.level)
            self.views[key] = view
        stained = getattr(self.level, "stain_depth", 0) > 0
        return read_in(self.views[key], center, width_px, characters, self.font_px, stained)


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


def answer_chart(reader, item):
    """The answer that follows from the values read; None if one is no number."""
    chart, plan = item.details["chart"], item.details["plan"]
    face, boxes, values = font(chart.label_px), label_boxes(chart), []
    for cell, box in zip(plan.cells, item.gold_boxes, strict=True):
        width = face.getlength(chart.shown(*cell)) + 4
        try:
            values.append(Fraction(reader.text(middle(boxes[cell]), width, "0123456789.", box)))
        except ValueError:
            return None
    return answer_from(plan, values)


def answer_from(plan, values):
    try:
        return plan.compute(values)[0]
    except ZeroDivisionError:
        return None


def answer_by_measuring(task, item, level):
    """The answer that follows from where the marks end in the first view."""
    chart, plan, axes = item.details["chart"], item.details["plan"], Axes(item.details["chart"])
    image, _, scale = first_view(task.images[0], level)
    rows = [mark_end(image, scale, chart, axes, cell) for cell in plan.cells]
    return answer_from(plan, [Fraction(value_at(row, axes), 10**chart.decimals) for row in rows])


def answer_by_fitting(task, item, level):
    """As by measuring; but of all values within a pixel of the first view, those that labels look most like."""
    chart, plan, axes = item.details["chart"], item.details["plan"], Axes(item.details["chart"])
    image, _, scale = first_view(task.images[0], level)
    boxes, values = label_boxes(chart), []
    for cell in plan.cells:
        row = mark_end(image, scale, chart, axes, cell)
        fitting = range(value_at(row + 1 / scale, axes), value_at(row - 1 / scale, axes) + 1)
        texts = [f"{value / 10**chart.decimals:.{chart.decimals}f}" for value in fitting]
        values.append(Fraction(most_alike(image, middle(boxes[cell]), texts, chart.label_px, scale)))
    return answer_from(plan, values)


def most_alike(image, center, texts, size_px, scale):
    """The one of `texts` that, printed and blurred as the view is, comes closest to what stands at `center`."""
    face = font(size_px)
    width, height = 2 * round(face.getlength(texts[-1]) / 2) + 16, 2 * round(ROWS * size_px / 2)
    left, top = center[0] - width / 2, center[1] - height / 2
    box = [side * scale for side in (left, top, left + width, top + height)]
    patch = Image.fromarray(image).convert("L").resize((width, height), Image.Resampling.BICUBIC, box)
    small = (round(width * scale), round(height * scale))
    errors = {}
    for text in texts:
        print_ = Image.new("L", (width, height), 255)
        ImageDraw.Draw(print_).text((width / 2, height / 2), text, fill=0, font=face, anchor="mm")
        blurred = print_.resize(small, Image.Resampling.BOX).resize(print_.size, Image.Resampling.BICUBIC)
        shifted = [np.roll(np.asarray(blurred, dtype=float), step, axis=1) for step in (-1, 0, 1)]
        errors[text] = min(((guess - patch) ** 2)[2:-2, 6:-6].sum() for guess in shifted)
    return min(errors, key=errors.__getitem__)


def value_at(row, axes):
    """The value that lies nearest to a row of the full picture, in its last printed digit."""
    return max(1, round((axes.bottom - row) / (axes.bottom - axes.top) * axes.limit))


def mark_end(image, scale, chart, axes, cell):
    """In which row of the full picture a bar ends or a marker lies, from the shares of its colour in the pixels.

    Of several alike, the reader is told which marker it is: it looks no further than a marker's height from it.
    """
    radius = axes.bar / 8 if chart.marks == "bars" else 0.3 * chart.label_px
    x = axes.x(*cell)
    columns = slice(
        int((x - radius) * scale), max(int((x - radius) * scale) + 1, round((x + radius) * scale))
    )
    color = np.array(chart.colors[cell[0]], dtype=float) - 255
    pixels = image[:, columns].astype(float) - 255
    shares = pixels @ color / (color @ color)
    strange = np.linalg.norm(pixels - shares[..., None] * color, axis=2) > 40  # of another colour
    shares = np.where(strange, 0, np.clip(shares, 0, 1)).mean(axis=1)
    if chart.marks == "bars":
        row = int(axes.bottom * scale) - 2
        while shares[row] > 0.85:
            row -= 1
        return (row + 1 - shares[row]) / scale + 0.5  # rows are painted whole, cut off
    # A marker is two radii high; where its colour fills most of that lies its middle.
    height = max(2, round(2 * radius * scale) + 1)
    told = axes.y(chart.values[cell[0]][cell[1]]) * scale - height / 2
    starts = [round(told + step) for step in range(-height, height + 1)]
    start = max(starts, key=lambda start: shares[start : start + height].sum())
    rows = np.arange(start, start + height)
    weights = shares[rows] + 1e-9
    return float(((rows + 0.5) * weights).sum() / weights.sum()) / scale


def answer_by_rows(item):
    """The answer that follows from the rows of the full picture in which the marks end."""
    chart, plan, axes = item.details["chart"], item.details["plan"], Axes(item.details["chart"])
    rows = [int(axes.y(chart.values[series][category])) + 0.5 for series, category in plan.cells]
    return answer_from(plan, [Fraction(value_at(row, axes), 10**chart.decimals) for row in rows])


CASES = {
    "signs, free text": ("visualprobe", "signs", "easy", answer_signs, None, 20),
    "signs, multiple choice": ("hrbench4k", "signs", "medium", answer_signs, None, 8),
    "figures": ("mathvr", "figures", "medium", answer_figure, ("triangle_parts",), 8),
    "ledgers": ("chartqa", "ledgers", "easy", answer_ledger, None, 8),
    "lookups": ("hrmmsearch", "lookups", "easy", answer_lookup, None, 20),
    "charts, easy": ("chartqa", "charts", "easy", answer_chart, None, 12),
    "charts, medium": ("chartqa", "charts", "medium", answer_chart, None, 6),
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


CHARTS = [(level, split) for level in ("easy", "medium", "hard") for split in SPLITS]


def check_charts(level, split, num_items, answers):
    """That no reader of first views is right on more than half of what a demonstration with tools is."""
    made, right = ChartSource(split=split, difficulty=level), {answer.__name__: 0 for answer in answers}
    demonstrated = 0
    for index in range(num_items):
        item, task = made.item(index), made.get(index)
        demonstrated += task.grade(extract_answer(task.demonstrate(random.Random(0))[-1])).correct
        for answer in answers:
            right[answer.__name__] += task.grade(answer(task, item, made.level)).correct
    print(f"charts {level} {split}: of {num_items}, demonstrated {demonstrated}, {right}")
    assert demonstrated >= 0.99 * num_items
    assert all(count <= demonstrated / 2 for count in right.values())


@pytest.mark.parametrize("level", ["easy", "medium"])
def test_measuring_a_chart_is_not_reading_it(level):
    check_charts(level, "train", 16, (answer_by_measuring, answer_by_fitting))


@pytest.mark.parametrize(
    ("level", "split"),
    [
        pytest.param(level, split, marks=pytest.mark.hours if level == "hard" else pytest.mark.slow)
        for level, split in CHARTS
    ],
)
def test_measuring_a_hundred_charts_is_not_reading_them(level, split):
    check_charts(level, split, 100, (answer_by_measuring, answer_by_fitting))


@pytest.mark.parametrize(("level", "split"), CHARTS)
def test_the_row_in_which_a_mark_ends_does_not_tell_its_value(level, split):
    made = ChartSource(split=split, difficulty=level)
    items = [made.item(index) for index in range(100)]
    right = [item.grader(answer_by_rows(item), (item.answer, *item.aliases)).correct for item in items]
    print(f"charts {level} {split}: {np.mean(right):.2f} by rows")
    assert np.mean(right) <= 0.3


@pytest.mark.parametrize(("level", "split"), CHARTS)
def test_marks_end_where_a_measuring_reader_finds_them(level, split):
    """Or else that it is wrong shows nothing: half of all marks are found within 1.5 pixels of the full picture."""
    made, missed = ChartSource(split=split, difficulty=level), []
    for index in range(4):
        task, chart = made.get(index), made.get(index).details["chart"]
        image, _, scale = first_view(task.images[0], made.level)
        axes = Axes(chart)
        for cell in task.details["plan"].cells:
            found = mark_end(image, scale, chart, axes, cell)
            missed.append(abs(found - axes.y(chart.values[cell[0]][cell[1]])))
    assert np.median(missed) <= 1.5
