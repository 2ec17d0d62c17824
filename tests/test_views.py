"""Any image as uint8 RGB [H, W, 3]: every mode of Pillow's, orientation, transparency, damaged files, PNG kept."""

import io
import itertools
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from axpo_env import views
from axpo_env.caches import SizedCache
from axpo_env.tasks.datasets.fields import MAX_IMAGE_PIXELS
from axpo_env.views import decode_image, encode_png, from_pil

WIDE = np.array([[0, 257, 32896, 65535]])
CLEAR = bytes([0, 0])


def grey(image):
    """The first row of a grey image's pixels."""
    pixels = from_pil(image)
    assert pixels.dtype == np.uint8 and pixels.shape == (image.height, image.width, 3)
    assert not pixels.flags.writeable
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[0, :, 0].tolist()


def saved(image, **options):
    """`image`, written to a file and opened again."""
    return Image.open(io.BytesIO(file_of(image, **options)))


def file_of(image, *, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_sixteen_bits_become_eight(mode):
    image = Image.fromarray(WIDE.astype(np.int32)).convert("I")
    if mode != "I":
        order = ">" if mode == "I;16B" else "<"
        image = Image.frombytes(mode, (4, 1), WIDE.astype(f"{order}u2").tobytes())
    assert (image.mode, grey(image)) == (mode, [0, 1, 128, 255])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_a_file_of_sixteen_bits_becomes_eight(kind):
    data = file_of(Image.fromarray(np.tile(WIDE, (4, 1)).astype(np.uint16)), format=kind)
    assert decode_image(data, max_pixels=16)[3, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.uint16])
def test_integers_that_fit_eight_bits_stay_as_they_are(dtype):
    assert grey(Image.fromarray(np.array([[0, 1, 100, 255]], dtype=dtype))) == [0, 1, 100, 255]


def test_integers_beyond_sixteen_bits_keep_their_order():
    image = Image.fromarray(np.array([[-5, 0, 65536 * 100, 65536 * 200]], dtype=np.int32))
    assert grey(image) == [0, 0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.2, 0.5, 1.0], [0, 51, 128, 255]),
        ([0.0, 1.0, 100.4, 255.0], [0, 1, 100, 255]),
        ([-1.0, 0.5, 2.0, 300.0], [0, 0, 2, 255]),
        ([np.nan, 0.2, 0.5, 1.0], [0, 51, 128, 255]),
        ([np.nan, 7.0, np.inf, -np.inf], [0, 7, 255, 0]),
        ([np.nan] * 4, [0] * 4),
    ],
)
def test_floats(values, expected):
    assert grey(Image.fromarray(np.array([values], dtype=np.float32))) == expected


def palette(*colours, mode="RGB"):
    image = Image.new("P", (len(colours), 1))
    image.putpalette(list(itertools.chain(*colours)), mode)
    image.putdata(range(len(colours)))
    return image


RED, BLUE, WHITE, PINK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (255, 127, 127)


def rgba(*colours, mode="RGBA"):
    image = Image.new("RGBA", (len(colours), 1))
    image.putdata(colours)
    return image if mode == "RGBA" else image.convert(mode)


THREE_REDS = rgba((*RED, 255), (*RED, 128), (*RED, 0))
THREE_GREYS = rgba((0, 0, 0, 255), (0, 0, 0, 128), (0, 0, 0, 0)).convert("LA")


def with_clear(image, value):
    """As a file that says which colour is see-through."""
    return saved(image, transparency=value)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (THREE_REDS, [RED, PINK, WHITE]),
        (THREE_REDS.convert("RGBa"), [RED, PINK, WHITE]),
        (THREE_GREYS, [(0, 0, 0), (127, 127, 127), WHITE]),
        (THREE_GREYS.convert("La"), [(0, 0, 0), (127, 127, 127), WHITE]),
        (palette(RED, BLUE), [RED, BLUE]),
        (palette((*RED, 255), (*RED, 128), (*RED, 0), mode="RGBA"), [RED, PINK, WHITE]),
        (palette(RED, BLUE).convert("PA"), [RED, BLUE]),
        (with_clear(palette(RED, BLUE), 1), [RED, WHITE]),
        (with_clear(palette(RED, RED, RED), bytes([255, 128, 0])), [RED, PINK, WHITE]),
        (with_clear(Image.frombytes("L", (2, 1), bytes([0, 9])), 0), [WHITE, (9, 9, 9)]),
        (with_clear(Image.frombytes("RGB", (2, 1), bytes([*RED, *BLUE])), BLUE), [RED, WHITE]),
        (Image.frombytes("1", (2, 1), bytes([0b01000000])), [(0, 0, 0), WHITE]),
        (Image.frombytes("CMYK", (2, 1), bytes([0, 255, 255, 0, 0, 0, 0, 255])), [RED, (0, 0, 0)]),
        (Image.frombytes("RGBX", (2, 1), bytes([*RED, 0, *BLUE, 7])), [RED, BLUE]),
        (Image.frombytes("HSV", (2, 1), bytes([0, 255, 255, 170, 255, 255])), [RED, BLUE]),
        (Image.frombytes("YCbCr", (2, 1), bytes([255, 128, 128, 0, 128, 128])), [WHITE, (0, 0, 0)]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_modes_and_transparency(image, expected):
    assert [tuple(pixel) for pixel in from_pil(image)[0].tolist()] == expected


def test_lab_is_read_by_its_lightness():
    pixels = from_pil(Image.frombytes("LAB", (2, 1), bytes([255, 0, 0, 0, 0, 0])))[0].astype(int)
    assert (abs(pixels - [WHITE, (0, 0, 0)]) <= 2).all()  # colour management rounds


def test_a_see_through_value_of_sixteen_bits_is_white():
    image = Image.fromarray(WIDE.astype(np.uint16))
    image.info["transparency"] = 0
    assert grey(image) == [255, 1, 128, 255]


def test_every_mode_of_pillow_becomes_rgb():
    modes = [*Image.MODES, "La", "RGBa", "I;16N"]
    for mode in modes:
        assert from_pil(Image.new(mode, (3, 2))).shape == (2, 3, 3), mode


def test_an_rgb_image_is_taken_to_the_byte():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(from_pil(Image.fromarray(pixels)), pixels)


CORNERS = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied(orientation, mode):
    wide = CORNERS.astype(np.uint16) * 257
    image = Image.fromarray(wide) if mode == "I;16" else Image.fromarray(CORNERS).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(saved(Image.fromarray(CORNERS), exif=exif)))
    turned = saved(image, exif=exif)
    assert np.array_equal(from_pil(turned)[:, :, 0], upright)
    assert upright.shape == ((3, 2) if 5 <= orientation <= 8 else (2, 3))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "TIFF"])
def test_orientation_is_applied_once_whatever_the_file(kind):
    if kind not in {name.upper() for name in Image.registered_extensions().values()}:
        pytest.skip(f"this Pillow reads no {kind}")
    image = Image.new("RGB", (32, 16), "white")
    image.paste((255, 0, 0), (0, 0, 16, 16))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode_image(file_of(image, format=kind, exif=exif), max_pixels=512).astype(int)
    assert pixels.shape == (32, 16, 3)
    assert (pixels[:14, :, 1] < 60).all() and (pixels[18:, :, 1] > 200).all()  # turned right: red on top


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_spoilt_note_of_the_orientation_is_no_damage():
    for note in (b"Exif\0\0broken", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""):
        image = Image.new("RGB", (3, 2), "red")
        image.info["exif"] = note
        assert from_pil(image).shape == (2, 3, 3)


def chunk(name, data):
    return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))


def png_header(width, height):
    """A PNG that says it is as large as that, without the pixels."""
    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_too_large_an_image_says_how_large_it_may_be():
    with pytest.raises(
        ValueError, match=r"^the image is too large: 11 x 10 pixels, at most 100 are allowed$"
    ):
        decode_image(png_header(11, 10), max_pixels=100)
    assert decode_image(file_of(Image.new("L", (10, 10))), max_pixels=100).shape == (10, 10, 3)


def test_the_limit_of_rows_is_where_pillow_refuses():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_IMAGE_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match=rf"^the image is too large: .*\b{MAX_IMAGE_PIXELS} pixels"):
        decode_image(png_header(MAX_IMAGE_PIXELS + 1, 1), max_pixels=MAX_IMAGE_PIXELS)


def test_the_limit_of_rows_holds_where_pillow_has_none(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match=rf"200000000 x 1 pixels, at most {MAX_IMAGE_PIXELS} are allowed"):
        decode_image(png_header(200_000_000, 1), max_pixels=MAX_IMAGE_PIXELS)


def damaged(kind):
    """Files of one format, each damaged somewhere."""
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    whole = file_of(Image.fromarray(pixels), format=kind)
    for end in {9, 16, 40, len(whole) // 2, len(whole) - 20}:
        yield whole[:end]
    places = np.random.default_rng(2).integers(4, len(whole), (60, 6))
    for row in places:
        spoilt = bytearray(whole)
        for place in row:
            spoilt[place] ^= 0xFF
        yield bytes(spoilt)


@pytest.mark.parametrize(
    "kind", ["AVIF", "DDS", "PNG", "JPEG", "JPEG2000", "TIFF", "WEBP", "GIF", "BMP", "ICO", "TGA"]
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd files
def test_a_damaged_file_is_a_value_error(kind):
    if kind not in Image.SAVE:
        Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    refused = 0
    for data in damaged(kind):
        try:
            assert decode_image(data, max_pixels=10**6).ndim == 3
        except ValueError as error:
            assert str(error).startswith(("not a readable image: ", "the image is too large: "))
            assert "0x" not in str(error)  # an address would differ from process to process
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no format that Pillow reads"),
        (b"no image", "no format that Pillow reads"),
        (b"DDS " + struct.pack("<I", 124) + bytes(120), "NotImplementedError|no format|Error"),
    ],
)
def test_what_is_no_image_is_a_value_error(data, said):
    with pytest.raises(ValueError, match=rf"^not a readable image: .*({said})"):
        decode_image(data, max_pixels=100)


@pytest.fixture
def encoded(monkeypatch):
    """The shapes of the images that are really encoded, with an empty cache."""
    shapes, encode = [], views._encode

    def counted(image):
        shapes.append(image.shape)
        return encode(image)

    monkeypatch.setattr(views, "_encode", counted)
    monkeypatch.setattr(views, "_png_cache", SizedCache(10**6, size=len))
    return shapes


def test_equal_images_are_encoded_once(encoded):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    with ThreadPoolExecutor(8) as threads:
        barrier = threading.Barrier(8)

        def encode(_):
            barrier.wait(timeout=30)
            return encode_png(pixels.copy())

        given = list(threads.map(encode, range(8)))
    assert encoded == [(20, 30, 3)] and len(set(given)) == 1
    assert np.array_equal(decode_image(given[0], max_pixels=600), pixels)


def test_other_images_and_other_shapes_are_other_files(encoded):
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    given = [
        encode_png(pixels),
        encode_png(pixels.reshape(6, 4, 3)),
        encode_png(pixels + 1),
        encode_png(pixels),
    ]
    assert len(set(given)) == 3 and encoded == [(4, 6, 3), (6, 4, 3), (4, 6, 3)]
    assert np.array_equal(decode_image(encode_png(pixels[:, ::2]), max_pixels=99), pixels[:, ::2])


def test_a_cache_drops_what_was_used_longest_ago_and_keeps_no_failure():
    cache, made = SizedCache(10, size=len), []

    def get(key, size):
        def make():
            made.append(key)
            if size is None:
                raise OSError(key)
            return bytes(size)

        return cache.get(key, make)

    for key, size in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4)):
        assert len(get(key, size)) == size
        assert cache.num_bytes <= 10
    assert made == ["a", "b", "c", "b"]
    assert len(get("huge", 11)) == 11 and cache.num_bytes == 0
    for _ in range(2):
        with pytest.raises(OSError, match="bad"):
            get("bad", None)
    assert made[-3:] == ["huge", "bad", "bad"] and cache.num_bytes == 0
