"""Paints a page of receipts with PIL. Deterministic: the same page gives the same pixels."""

from PIL import Image, ImageDraw

from axpo_env.tasks.synthetic.items import Box
from axpo_env.tasks.synthetic.ledger_data import Page, Receipt, money
from axpo_env.tasks.synthetic.painting import INK, Stains, font, make_stains

_TABLE, _PAPER = (205, 200, 190), (252, 251, 247)
ROW = 1.5  # height of a line, in font sizes
# Where a line's columns begin, in font sizes from the receipt's left; the price ends at its column.
ITEM, GROUP, QUANTITY, PRICE_END, MARK = 0.6, 5.8, 9.4, 14.6, 15.2
WIDTH = 16.6  # of a receipt's paper, in font sizes


def paint_page(page: Page) -> Image.Image:
    """The page at full resolution."""
    picture = Image.new("RGB", page.level.canvas_px, _TABLE)
    level = page.level
    stains = make_stains(
        level.canvas_px,
        view_pixels=level.view_pixels,
        depth=level.stain_depth,
        data=[(receipt.place, receipt.lines) for receipt in page.receipts],
    )
    for receipt in page.receipts:
        _paint_receipt(picture, receipt, page.box(receipt), level.font_px, stains)
    return picture


def corner(receipt: Receipt, box: Box, size: int) -> tuple[int, int]:
    """Left and top of a receipt's paper, in the middle of its place."""
    height = ROW * size * (len(receipt.lines) + 2.5)
    return round((box[0] + box[2] - WIDTH * size) / 2), round((box[1] + box[3] - height) / 2)


def line_y(top: int, number: int, size: int) -> int:
    """The middle of line `number` (0: the first item; the name stands above) of a receipt that begins at `top`."""
    return round(top + ROW * size * (1.75 + number))


def _paint_receipt(picture: Image.Image, receipt: Receipt, box: Box, size: int, stains: Stains) -> None:
    """Name, lines and tax on white paper."""
    face = font(size)
    left, top = corner(receipt, box, size)
    bottom = line_y(top, len(receipt.lines), size) + 0.75 * ROW * size
    picture.paste(*stains.paper((left, top, left + WIDTH * size, bottom), _PAPER))
    draw = ImageDraw.Draw(picture)

    def write(start: float, number: int, text: str, anchor: str = "lm") -> None:
        place = (left + round(start * size), line_y(top, number, size))
        draw.text(place, text, fill=INK, font=face, anchor=anchor)

    write(ITEM, -1, f"Receipt {receipt.name}")
    for number, line in enumerate(receipt.lines):
        write(ITEM, number, line.item)
        write(GROUP, number, line.group)
        write(QUANTITY, number, f"{line.quantity} x")
        write(PRICE_END, number, money(line.cents), "rm")
        if line.returned:
            write(MARK, number, "R")
    write(ITEM, len(receipt.lines), f"Tax {receipt.tax / 10:g}%")
