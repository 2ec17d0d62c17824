"""Places of a grid: columns A, B, ... from the left, rows 1, 2, ... from the top."""

from axpo_env.tasks.synthetic.items import Box

Place = tuple[int, int]  # column, row, both from 0


def place_name(place: Place) -> str:
    """(2, 0) is "C1"."""
    return f"{chr(ord('A') + place[0])}{place[1] + 1}"


def place_box(place: Place, size_px: tuple[float, float]) -> Box:
    """Where a place lies, in pixels, if each is `size_px` wide and high."""
    (column, row), (width, height) = place, size_px
    return column * width, row * height, (column + 1) * width, (row + 1) * height


def place_size(canvas_px: tuple[int, int], counts: tuple[int, int]) -> tuple[float, float]:
    """Width and height of a place where `counts` (columns, rows) of them fill the canvas."""
    return canvas_px[0] / counts[0], canvas_px[1] / counts[1]


def tell_places(what: str, counts: tuple[int, int]) -> str:
    """How places are named, for a question about them."""
    last = chr(ord("A") + counts[0] - 1)
    return f"{what} are named by column (A to {last} from the left) and row (1 to {counts[1]} from the top)"
