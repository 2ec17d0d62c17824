"""Attacks that answer with too much: text without end, pictures that are too large or none at all."""

import struct

from axpo_sandbox import Execution
from benchmarks.attacks.arena import LIMITS, Arena
from benchmarks.attacks.corpus import Outcome, add, attack, held, skipped, succeeded

MAX_ERROR_CHARS = 32_768
MAX_WARNINGS = 64
MAX_WARNING_CHARS = 1_000
MAX_IMAGE_BYTES = 64 << 20


def faults(execution: Execution) -> list[str]:
    """What about a result breaks the limits it was run under, or is not of the type it should be."""
    found = []
    texts = {"stdout": execution.stdout, "stderr": execution.stderr, "text": execution.text or ""}
    for name, part in texts.items():
        if len(part.encode("utf-8", "surrogatepass")) > 4 * LIMITS.output_bytes:
            found.append(f"{name} has {len(part)} characters")
    if execution.error is not None:
        for name in ("name", "value", "traceback"):
            texts[f"error.{name}"] = getattr(execution.error, name)
            if len(texts[f"error.{name}"]) > MAX_ERROR_CHARS:
                found.append(f"error.{name} has {len(texts[f'error.{name}'])} characters")
    if len(execution.warnings) > MAX_WARNINGS or any(
        len(item) > MAX_WARNING_CHARS for item in execution.warnings
    ):
        found.append(
            f"{len(execution.warnings)} warnings, the longest has {max(map(len, execution.warnings))}"
        )
    for name, part in [*texts.items(), *(("a warning", item) for item in execution.warnings)]:
        if type(part) is not str:
            found.append(f"{name} is a {type(part).__name__}")
        try:
            part.encode()
        except UnicodeEncodeError:
            found.append(f"{name} cannot be encoded")
    return found + _image_faults(execution)


def _image_faults(execution: Execution) -> list[str]:
    found = []
    if len(execution.images) > LIMITS.num_images:
        found.append(f"{len(execution.images)} images")
    if sum(map(len, execution.images)) > MAX_IMAGE_BYTES:
        found.append(f"images of {sum(map(len, execution.images))} bytes")
    for image in execution.images:
        if not image.startswith(b"\x89PNG\r\n\x1a\n") or len(image) < 33:
            found.append("an image that is no PNG file")
            continue
        width, height = struct.unpack("!II", image[16:24])
        if not 0 < width * height <= LIMITS.image_pixels:
            found.append(f"an image of {width} x {height} px")
        found += _decoding_fault(image)
    return found


def _decoding_fault(image: bytes) -> list[str]:
    """What happens where the environments decode it, which say ValueError to bytes they cannot read."""
    try:
        from axpo_env.views import decode_image
    except ImportError:
        return []  # without numpy and Pillow
    try:
        decode_image(image, max_pixels=LIMITS.image_pixels)
    except ValueError:
        pass
    except Exception as error:
        return [f"decoding an image raised {type(error).__name__}: {error}"]
    return []


def _answering(name: str, family: str, goal: str, code: str, needs: str = "") -> None:
    """Register an attack that is judged by its whole result, and by that of the cell after it."""

    def run(arena: Arena) -> Outcome:
        with arena.session() as session:
            if needs and session.run(f"import {needs}", timeout_s=60).error is not None:
                return skipped(f"no {needs}")
            execution, _ = arena.run(session, code, timeout_s=30)
            after = session.run("40 + 2", timeout_s=30)
        found = faults(execution) + faults(after)
        if after.text != "42":
            found.append(f"the next cell gave {after.text!r}, {after.error}")
        error = (
            f"{execution.error.name}: {execution.error.value[:80]}" if execution.error else "a bounded answer"
        )
        return succeeded("; ".join(found)) if found else held(error)

    add(name, family, goal, run)


for _stream in ("stdout", "stderr"):
    _answering(
        f"{_stream}_flood",
        "output",
        f"write to {_stream} without end",
        f"while True:\n    os.write(sys.{_stream}.fileno(), b'x' * 65536)",
    )
_answering("print_flood", "output", "print more", "for _ in range(200):\n    print('x' * 65536)")
_answering(
    "program_flood",
    "output",
    "have a program write without end",
    "import subprocess\n"
    "subprocess.run(['sh', '-c', 'while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done'])",
)
_answering(
    "flood_after_the_cell",
    "output",
    "write without end from a process that outlives its cell",
    "if os.fork() == 0:\n    data = b'y' * 65536\n    import time\n    end = time.monotonic() + 20\n"
    "    while time.monotonic() < end:\n        os.write(1, data)\n    os._exit(0)",
)
_answering("text_flood", "output", "answer with a longer value", "'x' * (64 << 20)")
_answering("error_flood", "output", "raise a longer message", "raise ValueError('x' * (16 << 20))")
_answering(
    "error_name_flood",
    "output",
    "raise an exception with a longer name",
    "raise type('E' * (8 << 20), (Exception,), {})()",
)
_answering(
    "traceback_flood",
    "output",
    "raise from deeper",
    "def f(n):\n    return f(n - 1) if n else 1 / 0\nsys.setrecursionlimit(20000)\nf(15000)",
)
_answering(
    "cause_flood",
    "output",
    "raise with a longer chain of causes",
    "error = None\nfor _ in range(20000):\n    new = ValueError('x' * 100)\n"
    "    new.__cause__ = error\n    error = new\n"
    "raise error",
)
_answering(
    "group_flood",
    "output",
    "raise a larger group of exceptions",
    "raise ExceptionGroup('x', [ExceptionGroup('y', [ValueError('z')] * 300) for _ in range(300)])",
)
_answering(
    "source_flood",
    "output",
    "fail in a longer line",
    "exec(compile('1/0 #' + 'x' * (4 << 20), '<cell 1>', 'exec'))",
)
_answering(
    "surrogate_text",
    "output",
    "answer with text that cannot be encoded",
    "class A:\n    def __repr__(self):\n        return '\\ud800'\nA()",
)
_answering(
    "surrogate_error", "output", "raise a message that cannot be encoded", "raise ValueError('\\ud800')"
)
_answering(
    "surrogate_name",
    "output",
    "raise an exception whose name cannot be encoded",
    "import types\nclass M(type):\n    pass\nE = M('E', (Exception,), {})\n"
    "E.__name__ = 'E' + chr(0x1F600)\nraise E(chr(0xD800))",
)
_answering(
    "surrogate_output", "output", "write bytes that are no text", "os.write(1, b'\\xff\\xed\\xa0\\x80' * 100)"
)

_PIL, _PLOT = "PIL.Image", "matplotlib.pyplot"
_answering(
    "large_picture",
    "images",
    "answer with a larger picture",
    "import PIL.Image\nPIL.Image.new('L', (9000, 9000))",
    _PIL,
)
_answering(
    "thin_picture",
    "images",
    "answer with a picture of no height",
    "import PIL.Image\nPIL.Image.new('L', (90000, 0))",
    _PIL,
)
_FUZZ = """
import random
random.seed(7)
good = START + header(9, 9) + chunk(b"IDAT", zlib.compress(bytes(90))) + chunk(b"IEND", b"")
kinds = [b"tRNS", b"PLTE", b"gAMA", b"cHRM", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"pHYs", b"eXIf", b"acTL", b"fcTL",
         b"fdAT", b"sBIT", b"bKGD", b"sRGB"]
def spoilt():
    parts = [chunk(random.choice(kinds), random.randbytes(random.choice((0, 1, 2, 5, 20, 26)))) for _ in range(3)]
    depth, colour = random.choice((1, 2, 4, 8, 16, 3)), random.choice((0, 2, 3, 4, 6, 1))
    head = chunk(b"IHDR", struct.pack("!IIBBBBB", 9, 9, depth, colour, 0, 0, random.randrange(3)))
    data = chunk(b"IDAT", random.choice((zlib.compress(bytes(400)), random.randbytes(20), b"")))
    return START + head + b"".join(parts) + random.choice((data, parts[0], data + data)) + chunk(b"IEND", b"")
import matplotlib.figure
class F(matplotlib.figure.Figure):
    def savefig(self, file, format):
        file.write(spoilt())
import matplotlib.pyplot as plt
for _ in range(4):
    plt.figure(FigureClass=F, figsize=(1, 1), dpi=50)
None
"""
_answering(
    "large_figure",
    "images",
    "show a larger figure",
    "import matplotlib.pyplot as plt\nplt.figure(figsize=(300, 300), dpi=100); plt.show()",
    _PLOT,
)
_answering(
    "many_figures",
    "images",
    "leave more figures open",
    "import matplotlib.pyplot as plt\nfor _ in range(40):\n    plt.figure(figsize=(1, 1), dpi=50)",
    _PLOT,
)
_answering(
    "many_large_figures",
    "images",
    "be warned about more figures",
    "import matplotlib.pyplot as plt\nfor _ in range(300):\n    plt.figure(figsize=(300, 300)); plt.show()",
    _PLOT,
)
_answering(
    "figure_that_lies",
    "images",
    "show a figure that lies about its size",
    "import matplotlib.pyplot as plt\nclass F(plt.Figure):\n    def get_size_inches(self):\n        return (1.0, 1.0)\n"
    "plt.figure(FigureClass=F, figsize=(40, 40), dpi=100); None",
    _PLOT,
)
_answering(
    "picture_that_lies",
    "images",
    "answer with a picture that lies about its size",
    "import PIL.Image\nclass P(PIL.Image.Image):\n    size = (1, 1)\n"
    "    mode, has_transparency_data, load, getexif = 'RGB', False, lambda self: None, lambda self: {}\n"
    "    def save(self, file, format):\n        PIL.Image.new('L', (2000, 2000)).save(file, format='PNG')\nP()",
    _PIL,
)
_FORGED = """
import PIL.Image, struct, zlib
class P(PIL.Image.Image):
    size = (1, 1)
    mode, has_transparency_data, load, getexif = "RGB", False, lambda self: None, lambda self: {}
    def save(self, file, format):
        file.write(BYTES)
def chunk(kind, data):
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))
START = b"\\x89PNG\\r\\n\\x1a\\n"
def header(width, height):
    return chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 0))
"""
for _name, _goal, _bytes in (
    ("picture_of_text", "answer with a picture that is text", "b'GIF89a' * 10"),
    ("picture_header_alone", "answer with a picture that ends after its header", "START + header(1, 1)"),
    ("picture_of_nothing", "answer with a picture of 0 x 0 px", "START + header(0, 0) + chunk(b'IEND', b'')"),
    ("picture_too_wide", "answer with a header of 2 ** 31 px", "START + header(2 ** 31 - 1, 1) + bytes(99)"),
    (
        "picture_two_headers",
        "answer with a second, larger header",
        "START + header(1, 1) + header(60000, 60000) + chunk(b'IDAT', "
        "zlib.compress(bytes(9 << 20))) + chunk(b'IEND', b'')",
    ),
    (
        "picture_bomb",
        "answer with a picture that unpacks to more than its size",
        "START + header(500, 500) + chunk(b'IDAT', zlib.compress(bytes(200 << 20))) + chunk(b'IEND', b'')",
    ),
    (
        "picture_text_bomb",
        "answer with a picture whose comment unpacks to more",
        "START + header(1, 1) + chunk(b'zTXt', b'k\\0\\0' + zlib.compress(bytes(200 << 20))) + chunk(b'IDAT', "
        "zlib.compress(bytes(2))) + chunk(b'IEND', b'')",
    ),
    (
        "picture_with_a_tail",
        "answer with a picture and megabytes behind it",
        "START + header(1, 1) + chunk(b'IDAT', zlib.compress(bytes(2))) + chunk(b'IEND', b'') + bytes(60 << 20)",
    ),
):
    _answering(_name, "images", _goal, _FORGED + f"BYTES = {_bytes}\nP()", _PIL)


@attack("images", "answer with broken pictures that trip whoever decodes them")
def spoilt_pictures(arena: Arena) -> Outcome:
    with arena.session() as session:
        if session.run(f"import {_PIL}, {_PLOT}", timeout_s=60).error is not None:
            return skipped("no matplotlib")
        for round_ in range(25):
            code = _FORGED + _FUZZ.replace("seed(7)", f"seed({round_})")
            execution, _ = arena.run(session, code, {"BYTES": b""})
            found = faults(execution)
            if found:
                return succeeded("; ".join(found))
    return held("what cannot be read is refused as such")
