"""Paints a `Board` with PIL. Deterministic: the same board gives the same pixels."""

from PIL import Image, ImageDraw

from axpo_env.tasks.synthetic.painting import make_stains, paint_plate
from axpo_env.tasks.synthetic.sign_data import COLORS, Board

_WALL, _LINE = (244, 242, 236), (60, 60, 60)
_SIGN_HEIGHT = 1.7  # of a sign, in font sizes
_WORD_WIDTH, _NUMBER_WIDTH = 5.2, 2.2  # the same of its width


def paint_board(board: Board) -> Image.Image:
    """The board at full resolution."""
    level = board.level
    picture = Image.new("RGB", level.canvas_px, _WALL)
    stains = make_stains(
        level.canvas_px,
        view_pixels=level.view_pixels,
        depth=level.stain_depth,
        data=[(sign.text, sign.color, sign.slot) for sign in board.signs],
    )
    width = (_NUMBER_WIDTH if level.digits else _WORD_WIDTH) * level.font_px
    size_px = (width, _SIGN_HEIGHT * level.font_px)
    for sign in board.signs:
        place, fill = board.slot_box(sign.slot), COLORS[sign.color]
        paint_plate(
            picture, place, sign.text, size_px=size_px, font_px=level.font_px, fill=fill, stains=stains
        )
    if level.blocks != (1, 1):
        _paint_blocks(ImageDraw.Draw(picture), board)
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
