"""Any Pillow image as 8-bit RGB, the way a viewer shows it.

Runs on both sides: on what code gives back, and on what is read from files. Decoding and encoding are left to the
callers; Pillow and numpy are imported when called.
"""

from typing import Any

_ORIENTATION = 0x0112  # the EXIF tag
# Its value -> the name of the `PIL.Image.Transpose` that makes the image upright.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def to_rgb(image: Any) -> Any:
    """`image`, a PIL image of any mode, as one of mode RGB; itself if there is nothing to do.

    Turned upright by its EXIF orientation; transparency is laid over white. I;16 and I with a value above 255 hold 16
    bits, divided by 257 (I beyond 16 bits: scaled so that its largest value is white); I up to 255 is taken as it
    is; below 0 is black. F is times 255 if all of it lies in [0, 1], else clipped to 0-255; NaN is black.
    """
    from PIL import Image

    image.load()  # some formats are turned upright, and lose the tag, by loading
    turn = _TURNS.get(_orientation(image))
    if image.mode == "F" or image.mode.startswith("I"):
        image = _wide_to_grey(image).convert("RGB")
    elif image.has_transparency_data:
        # Pillow converts La to LA only.
        layers = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        paper = Image.new("RGBA", layers.size, "white")
        paper.alpha_composite(layers)
        image = paper.convert("RGB")
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return image if turn is None else image.transpose(Image.Transpose[turn])


def _orientation(image: Any) -> Any:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a spoilt note about the picture does not spoil the picture
        return None


def _wide_to_grey(image: Any) -> Any:
    """A grey image of 8 bits of one of 16 or 32, whose pixels are integers or floats."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F":
        values = np.where(np.isnan(values), 0, values)
        white = 1 if values.min() >= 0 and values.max() <= 1 else 255
    else:
        white = 255 if values.max() <= 255 else max(int(values.max()), 65535)
    grey = np.rint(np.clip(values * np.float64(255) / white, 0, 255)).astype(np.uint8)
    clear = image.info.get("transparency")  # of a grey PNG: the value that is see-through
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)
