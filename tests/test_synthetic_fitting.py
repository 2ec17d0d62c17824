"""Small print cannot be read in the first view even by fitting: a reader prints, shrinks and compares each text.

The reader knows the font, where each text stands, the colour under it, how stains are spread, and how words and
numbers are made. It prints a text that may stand there, shrinks it as the policy's view is shrunk, and takes the
likeliest (least squares, weighted by the inverse covariance of stains). Where an answer is free, the right text is
set against those that differ from it in one character, and taken as read if it fits best: a search of all texts finds
it no more often. In zooms stains are smooth and print is not, so differences between neighbouring pixels are fitted.
"""

import functools
import itertools
import math
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from axpo_env.grading.options import listed_options
from axpo_env.tasks.synthetic import figure_shapes
from axpo_env.tasks.synthetic.alike import number_like, with_like
from axpo_env.tasks.synthetic.draws import CONSONANTS, VOWELS
from axpo_env.tasks.synthetic.families import make_generated
from axpo_env.tasks.synthetic.ledger_data import money
from axpo_env.tasks.synthetic.ledger_drawing import PRICE_END, QUANTITY, corner, line_y
from axpo_env.tasks.synthetic.painting import font, make_stains
from axpo_env.tasks.synthetic.sign_data import COLORS, NUMBER, WORD
from axpo_env.tools.zoom import crop_box
from axpo_env.views import downscale

WHITE, RECEIPT = (255, 255, 255), (252, 251, 247)
DIGITS = "0123456789"
DIAGONALS = {
    (False, False): "above and to the left",
    (False, True): "above and to the right",
    (True, False): "below and to the left",
    (True, True): "below and to the right",
}  # by whether the first lies below and to the right


@functools.cache
def stain_statistics(cell_px, depth):
    """The mean light of stained paper, and the covariance of the view's pixels by distance down and across."""
    side = 64
    stains = make_stains((side * cell_px,) * 2, view_pixels=side * side, depth=depth, data="blank")
    paper, _ = stains.paper((0, 0, side * cell_px, side * cell_px), WHITE)
    light = np.asarray(paper)[:, :, 0].reshape(side, cell_px, side, cell_px).mean(axis=(1, 3)) / 255
    off = light - light.mean()
    near = range(4)
    covariance = {
        (down, across): (off[down:, across:] * off[: side - down, : side - across]).mean()
        for down in near
        for across in near
    }
    return light.mean(), covariance


@functools.cache
def stain_precision(cell_px, depth, rows, columns):
    """The inverse covariance of a patch of the view, pixels row by row."""
    _, covariance = stain_statistics(cell_px, depth)
    places = list(itertools.product(range(rows), range(columns)))
    matrix = [[covariance.get((abs(a - c), abs(b - d)), 0.0) for c, d in places] for a, b in places]
    return np.linalg.inv(np.array(matrix) + 1e-4 * np.eye(len(places)))


class Reader:
    """Fits texts to one task's picture: to zooms, or to the first view."""

    def __init__(self, task, level, *, zooms):
        self.task, self.level, self.zooms = task, level, zooms
        canvas = level.canvas_px if isinstance(level.canvas_px, tuple) else (level.canvas_px,) * 2
        self.cell_px = round(math.sqrt(canvas[0] * canvas[1] / level.view_pixels))
        self.views = {}

    def view(self, box):
        """What is seen of a zoom into `box`, or at first: the image, its corner, and how many pixels make one."""
        key = box if self.zooms else None
        if key not in self.views:
            image = self.task.images[0]
            height, width = image.shape[:2]
            whole = (0, 0, width, height)
            left, top, right, bottom = crop_box(box, width_px=width, height_px=height) if key else whole
            seen = downscale(image[top:bottom, left:right], self.level.view_pixels)
            steps = ((right - left) / seen.shape[1], (bottom - top) / seen.shape[0])
            self.views[key] = (seen, (left, top), steps)
        return self.views[key]

    def errors(self, box, paper, fill, at, texts, anchor="mm"):
        """How ill each text, printed at `at` on `paper` of colour `fill`, fits: minus two log likelihoods."""
        image, (left, top), (across, down) = self.view(box)
        first, last = math.ceil((paper[0] - left) / across), math.floor((paper[2] - left) / across)
        above, below = math.ceil((paper[1] - top) / down), math.floor((paper[3] - top) / down)
        first, last = max(0, first), min(image.shape[1], last)
        above, below = max(0, above), min(image.shape[0], below)
        seen = image[above:below, first:last].sum(axis=2) / sum(fill)
        x, y = first * across + left, above * down + top  # of the patch, in the full picture
        start = (math.floor(x), math.floor(y))
        right, bottom = last * across + left - start[0], below * down + top - start[1]
        mean, _ = stain_statistics(self.cell_px, self.level.stain_depth)
        found = []
        for text in texts:
            picture = Image.new("L", (math.ceil(right), math.ceil(bottom)), 255)
            place = (at[0] - start[0], at[1] - start[1])
            ImageDraw.Draw(picture).text(place, text, fill=0, font=font(self.level.font_px), anchor=anchor)
            part = (x - start[0], y - start[1], right, bottom)
            small = picture.resize((last - first, below - above), Image.Resampling.BOX, box=part)
            off = seen - mean * np.asarray(small) / 255
            if self.zooms:
                found.append(sum((np.diff(off, axis=axis) ** 2).sum() for axis in (0, 1)) / 0.01)
            else:
                weights = stain_precision(self.cell_px, self.level.stain_depth, *off.shape)
                found.append(off.ravel() @ weights @ off.ravel())
        return np.array(found)

    def reads(self, box, paper, fill, at, text, alphabets, anchor="mm"):
        """Whether `text` fits better than all that differ from it in one character, by each place's alphabet."""
        changed = [
            text[:place] + other + text[place + 1 :]
            for place, alphabet in enumerate(alphabets)
            for other in alphabet
            if other != text[place]
        ]
        errors = self.errors(box, paper, fill, at, [text, *changed], anchor)
        return bool(errors[0] < errors[1:].min())


def digits_of(text):
    """Alphabets of a number: its digits may be others, its points may not."""
    return [DIGITS if character in DIGITS else character for character in text]


def around(center, half_width, half_height):
    return (
        center[0] - half_width,
        center[1] - half_height,
        center[0] + half_width,
        center[1] + half_height,
    )


def middle(box):
    return round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2)


class SignReader:
    """Reads the signs of one item's board."""

    def __init__(self, reader, item):
        self.reader, self.board, self.boxes = reader, item.details["board"], item.gold_boxes
        self.options = listed_options(item.question)
        self.half = (1.1 if self.board.level.digits else 2.6) * reader.level.font_px - 1

    def place(self, sign):
        """A sign's paper, colour and middle."""
        at = middle(self.board.slot_box(sign.slot))
        return around(at, self.half, 0.85 * self.reader.level.font_px - 1), COLORS[sign.color], at

    def signs_in(self, box):
        width, height = self.board.level.canvas_px
        left, top, right, bottom = (
            side * size / 1000 for side, size in zip(box, (width, height, width, height), strict=True)
        )
        centers = [(sign, middle(self.board.slot_box(sign.slot))) for sign in self.board.signs]
        return [sign for sign, (x, y) in centers if left <= x <= right and top <= y <= bottom]

    def text(self, sign, box):
        if self.options:
            return self.options[int(np.argmin(self.reader.errors(box, *self.place(sign), self.options)))]
        alphabets = NUMBER if self.board.level.digits else WORD
        return sign.text if self.reader.reads(box, *self.place(sign), sign.text, alphabets) else None

    def chances(self, sign, box, words):
        """How likely each of all words of a block is to stand on a sign of it."""
        errors = self.reader.errors(box, *self.place(sign), words)
        likely = np.exp(-(errors - errors.min()) / 2)
        return likely / likely.sum()


def words_alike(word):
    """All 64 words that a block may hold along with this one; it comes first."""
    words = [word]
    for place, likes in enumerate(WORD):
        words += [with_like(other, place, likes) for other in words]
    return words


def answer_signs(reader, item):
    signs = SignReader(reader, item)
    box = item.gold_boxes[0]
    here = signs.signs_in(box)
    if item.kind in ("odd_color", "beside_color"):
        return signs.text(here[0], box)
    asked = [word.strip(".,?:;") for word in item.question.split("\n(A) ")[0].split()]
    asked = [word for word in asked if len(word) == 6 and word.isupper()]
    if item.kind == "shared":
        return answer_shared(signs, item, here, asked)
    words = words_alike(asked[0])
    chances = {sign.slot: signs.chances(sign, box, words) for sign in here}
    if item.kind == "color_of":
        return max(here, key=lambda sign: chances[sign.slot][0]).color
    if item.kind == "relation":  # in items of the train split, the first word is seen from the second
        totals, second = dict.fromkeys(DIAGONALS.values(), 0.0), words.index(asked[1])
        for a, b in itertools.permutations(here, 2):
            if a.slot[0] != b.slot[0] and a.slot[1] != b.slot[1]:
                name = DIAGONALS[a.slot[1] > b.slot[1], a.slot[0] > b.slot[0]]
                totals[name] += chances[a.slot][0] * chances[b.slot][second]
        return max(totals, key=totals.__getitem__)
    right, down = (1, 0) if "to the right" in item.question.split("\n")[0] else (0, 1)
    after = {(sign.slot[0] - right, sign.slot[1] - down): sign for sign in here}
    with_next = [sign for sign in here if sign.slot in after]
    found = max(with_next, key=lambda sign: chances[sign.slot][0])
    return signs.text(after[found.slot], box)


def answer_shared(signs, item, here, asked):
    """The word of the second block that likeliest stands on the colour that a word has in the first."""
    first = next(word for word in asked if word in {sign.text for sign in here})
    others = [word for word in asked if word != first]
    likely = dict.fromkeys(COLORS, 0.0)
    for sign in here:
        likely[sign.color] += signs.chances(sign, item.gold_boxes[0], words_alike(first))[0]
    words, totals = words_alike(others[0]), np.zeros(len(others))
    places = [words.index(word) for word in others]
    for sign in signs.signs_in(item.gold_boxes[1]):
        totals += likely[sign.color] * signs.chances(sign, item.gold_boxes[1], words)[places]
    return others[int(totals.argmax())]


def label_place(reader, sheet, label):
    size = reader.level.font_px
    at = tuple(round(share * sheet.canvas_px) for share in label.at)
    half = font(size).getlength(label.text) / 2 + 0.3 * size
    return around(at, half - 1, 0.6 * size - 1), WHITE, at


def answer_figure(reader, item):
    """Right if every label is read right, or if of four options the one whose labels fit best is."""
    figure = item.details["figure"]
    sheet, options = figure.sheet, listed_options(item.question)
    if item.kind == "best_path":
        labels = [(label, item.gold_boxes[0]) for label in sheet.labels]
    else:
        found = [
            next(label for label in sheet.labels if not label.large and sheet.box(label) == place)
            for _, place in figure.needed
        ]
        labels = list(zip(found, item.gold_boxes, strict=True))
    if options:
        return option_that_fits(reader, sheet, labels, item.kind, options)
    for label, box in labels:
        if not reader.reads(box, *label_place(reader, sheet, label), label.text, digits_of(label.text)):
            return None
    return item.answer


def option_that_fits(reader, sheet, labels, kind, options):
    """The reader is told which numbers the options differ in, and fits the labels that each option means."""
    numbers = [number for label, _ in labels for number in re.findall(r"-?[\d.]+", label.text)]
    triangle = kind == "triangle_area"
    area = figure_shapes.area_of_sides if triangle else figure_shapes.area_around
    for changing in itertools.combinations(range(len(numbers)), 2):
        fits = {}
        for changed in ((), changing[:1], changing[1:], changing):
            read = [number_like(text) if place in changed else text for place, text in enumerate(numbers)]
            texts = read if triangle else [f"({x}, {y})" for x, y in zip(read[::2], read[1::2], strict=True)]
            value = area(read)
            fits[f"{value or 0:.{2 if triangle else 1}f}"] = texts
        if set(fits) == set(options):
            break
    else:
        raise AssertionError("the options do not come from numbers taken for others")

    def misfit(option):
        return sum(
            reader.errors(box, *label_place(reader, sheet, label), [text])[0]
            for (label, box), text in zip(labels, fits[option], strict=True)
        )

    return min(options, key=misfit)


def answer_ledger(reader, item):
    """Right if every price and quantity that counts is read right."""
    page, size = item.details["page"], reader.level.font_px
    for (receipt, lines), box in zip(item.details["parts"], item.gold_boxes, strict=True):
        left, top = corner(receipt, page.box(receipt), size)
        for line in lines:
            y = line_y(top, receipt.lines.index(line), size)
            columns = (
                (money(line.cents), PRICE_END, "rm", (11.0, 15.0)),
                (f"{line.quantity} x", QUANTITY, "lm", (9.2, 11.0)),
            )
            for text, start, anchor, (low, high) in columns:
                paper = (left + low * size, y - 0.7 * size, left + high * size, y + 0.7 * size)
                at = (left + round(start * size), y)
                if not reader.reads(box, paper, RECEIPT, at, text, digits_of(text), anchor):
                    return None
    return item.answer


def answer_lookup(reader, item):
    """Right if the plaque is read right: the rest is the search's part."""
    plaque, size = item.details["plaques"][0], reader.level.font_px
    at = middle(plaque.box(size))
    syllables = (CONSONANTS, VOWELS) * 3
    alphabets = (CONSONANTS.upper(), *syllables[1:], "lmnrst")  # three syllables and a last letter
    paper = around(at, 3 * size - 3, size - 3)
    assert len(plaque.text) == len(alphabets)
    found = reader.reads(item.gold_boxes[0], paper, COLORS[plaque.color], at, plaque.text, alphabets)
    return item.answer if found else None


ANSWERS = {
    "signs": answer_signs,
    "figures": answer_figure,
    "ledgers": answer_ledger,
    "lookups": answer_lookup,
}


def share_right(case, num_items, *, zooms):
    """The share answered right, by the task's own grader; a guess counts as much as it is right on average."""
    benchmark, family, level = case
    source = make_generated(benchmark=benchmark, source=family, split="train", difficulty=level)
    right, index = [], 0
    while len(right) < num_items:
        item = source.item(index)
        index += 1
        if "image_zoom_in" not in item.needs_tools:
            continue
        task = source.get(index - 1)
        said, options = (
            ANSWERS[family](Reader(task, source.level, zooms=zooms), item),
            listed_options(item.question),
        )
        if said is None or (options and said not in options):
            right.append(1 / len(item.guesses) if item.answer in item.guesses else 0.0)
        else:
            right.append(float(task.grade(said).correct))
    return sum(right) / num_items


def check(case, num_without, num_with):
    with_tools = share_right(case, num_with, zooms=True)
    without = share_right(case, num_without, zooms=False)
    print(
        f"{'-'.join(case)}: {without:.2f} of {num_without} before zooming, {with_tools:.2f} of {num_with} after"
    )
    assert with_tools >= 0.95
    assert without <= with_tools / 2


QUICK = {
    ("vstar", "signs", "nano"): 100,
    ("vstar", "signs", "easy"): 40,
    ("visualprobe", "signs", "easy"): 10,
    ("mathvr", "figures", "nano"): 60,
    ("mathvision", "figures", "medium"): 20,
    ("dynamath", "figures", "medium"): 8,
    ("chartqa", "ledgers", "nano"): 12,
    ("hrmmsearch", "lookups", "nano"): 20,
}
DOZENS = {
    **dict.fromkeys(
        [
            *(
                (name, "signs", level)
                for name in ("vstar", "visualprobe")
                for level in ("nano", "easy", "medium")
            ),
            *((name, "figures", "medium") for name in ("mathvision", "dynamath", "mathvr")),
            ("mathvr", "figures", "nano"),
            *(("chartqa", "ledgers", level) for level in ("nano", "easy", "medium")),
            *(("hrmmsearch", "lookups", level) for level in ("nano", "easy", "medium")),
        ],
        60,
    ),
    **dict.fromkeys(
        [
            ("hrbench4k", "signs", "hard"),
            ("hrbench8k", "signs", "hard"),
            ("mathvision", "figures", "hard"),
            ("chartqa", "ledgers", "hard"),
            ("hrmmsearch", "lookups", "hard"),
        ],
        50,
    ),
}


@pytest.mark.parametrize("case", QUICK, ids="-".join)
def test_fitting_print_needs_the_zoom(case):
    check(case, QUICK[case], 6)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.hours if case[1:] == ("signs", "hard") else pytest.mark.slow)
        for case in DOZENS
    ],
    ids=lambda case: "-".join(case),
)
def test_fitting_dozens_of_prints_needs_the_zoom(case):
    check(case, DOZENS[case], 20)
