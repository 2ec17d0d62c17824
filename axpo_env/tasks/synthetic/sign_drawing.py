"""Paints a `Board` with PIL. Deterministic: the same board gives the same pixels."""

from PIL import Image, ImageDraw

from axpo_env.tasks.synthetic.chart_drawing import font
from axpo_env.tasks.synthetic.signs import COLORS, Board

_WALL, _LINE, _INK = (244, 242, 236), (60, 60, 60), (0, 0, 0)
SIGN_HEIGHT = 1.7  # of a sign, in font sizes
WORD_WIDTH, NUMBER_WIDTH = 5.2, 2.2  # the same of its width


def paint_board(board: Board) -> Image.Image:
    """The board at full resolution."""
    level = board.level
    picture = Image.new("RGB", level.canvas_px, _WALL)
    draw = ImageDraw.Draw(picture)
    face = font(level.font_px)
    half_width = (NUMBER_WIDTH if level.digits else WORD_WIDTH) * level.font_px / 2
    half_height = SIGN_HEIGHT * level.font_px / 2
    for sign in board.signs:
        left, top, right, bottom = board.slot_box(sign.slot)
        x, y = round((left + right) / 2), round((top + bottom) / 2)
        outline = (x - half_width, y - half_height, x + half_width, y + half_height)
        draw.rectangle(outline, fill=COLORS[sign.color])
        draw.text((x, y), sign.text, fill=_INK, font=face, anchor="mm")
    if level.blocks != (1, 1):
        _paint_blocks(draw, board)
    return picture


def _paint_blocks(draw: ImageDraw.ImageDraw, board: Board) -> None:
    """Lines between blocks, thick enough to be seen before zooming."""
    level = board.level
    width, height = level.canvas_px
    thick = max(2, round(width / 500))
    for column in range(level.blocks[0] + 1):
        x = column * width / level.blocks[0]
        draw.line((x, 0, x, height), fill=_LINE, width=thick)
    for row in range(level.blocks[1] + 1):
        y = row * height / level.blocks[1]
        draw.line((0, y, width, y), fill=_LINE, width=thick)
