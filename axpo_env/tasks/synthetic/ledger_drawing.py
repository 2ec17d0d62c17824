"""Paints a page of receipts with PIL. Deterministic: the same page gives the same pixels."""

from PIL import Image, ImageDraw

from axpo_env.tasks.synthetic.chart_drawing import font
from axpo_env.tasks.synthetic.items import Box
from axpo_env.tasks.synthetic.ledgers import Page, Receipt, price

_TABLE, _PAPER, _INK = (205, 200, 190), (252, 251, 247), (0, 0, 0)
ROW = 1.5  # height of a line, in font sizes
# Where a line's columns begin, in font sizes from the receipt's left; the price ends at its column.
ITEM, GROUP, QUANTITY, PRICE_END, MARK = 0.6, 5.8, 9.4, 14.6, 15.2
WIDTH = 16.6  # of a receipt's paper, in font sizes


def paint_page(page: Page) -> Image.Image:
    """The page at full resolution."""
    picture = Image.new("RGB", page.level.canvas_px, _TABLE)
    draw = ImageDraw.Draw(picture)
    for receipt in page.receipts:
        _paint_receipt(draw, receipt, page.box(receipt), page.level.font_px)
    return picture


def _paint_receipt(draw: ImageDraw.ImageDraw, receipt: Receipt, box: Box, size: int) -> None:
    """Name, lines, tax: on white paper in the middle of the receipt's place."""
    face = font(size)
    left = round((box[0] + box[2] - WIDTH * size) / 2)
    height = ROW * size * (len(receipt.lines) + 2.5)
    top = round((box[1] + box[3] - height) / 2)
    draw.rectangle((left, top, left + WIDTH * size, top + height), fill=_PAPER)
    y = top + ROW * size * 0.75
    draw.text((left + ITEM * size, y), f"Receipt {receipt.name}", fill=_INK, font=face, anchor="lm")
    for line in receipt.lines:
        y += ROW * size
        for start, text in ((ITEM, line.item), (GROUP, line.group), (QUANTITY, f"{line.quantity} x")):
            draw.text((left + start * size, y), text, fill=_INK, font=face, anchor="lm")
        draw.text((left + PRICE_END * size, y), price(line), fill=_INK, font=face, anchor="rm")
        if line.returned:
            draw.text((left + MARK * size, y), "R", fill=_INK, font=face, anchor="lm")
    y += ROW * size
    tax = f"Tax {receipt.tax / 10:g}%"
    draw.text((left + ITEM * size, y), tax, fill=_INK, font=face, anchor="lm")
