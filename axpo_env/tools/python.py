"""`python`: a stateful interpreter that has the episode's images; variables live on over turns.

The images are there before the first cell runs: `_images` (paths) and `_pil_images` (PIL images), in the
order of the episode's image numbers; crops and figures made since are added before each cell. Running,
isolating and limiting code is left to `sandbox`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from axpo_env.tools.base import ArgumentError, ToolResult, ToolUnavailable, function_schema
from axpo_env.views import decode_image, encode_png
from axpo_sandbox import ExecutionError

if TYPE_CHECKING:
    from axpo_env.state import EpisodeState
    from axpo_env.tools.interpreter import Interpreter

DEFAULT_TIMEOUT_S = 12
MAX_TIMEOUT_S = 60
SETUP_TIMEOUT_S = 60.0
MAX_TEXT_CHARS = 8_192
MAX_FIGURE_PIXELS = 16_777_216
MAX_FIGURES = 8  # per call

# Runs inside the sandbox. Everything is imported afresh and inside a function, since the policy may have
# bound any name; the two lists are rebound, so they are right whatever became of the old ones.
_DELIVER = """\
def _deliver(count):
    from builtins import range
    import PIL.Image
    paths, pictures = [f"image_{index}.png" for index in range(count)], []
    for path in paths:
        with PIL.Image.open(path) as picture:
            pictures.append(picture.convert("RGB"))
    return paths, pictures
_images, _pil_images = _deliver(COUNT)
del _deliver
"""


class PythonTool:
    """Run `code` in the episode's interpreter; stdout, stderr, the last expression and figures come back."""

    name = "python"
    schema = function_schema(
        "python",
        "Run Python code. Variables persist between calls. `_pil_images` lists the images so far as PIL "
        "images, `_images` their paths. Print what you want to see; figures are shown by plt.show().",
        {
            "code": {"type": "string", "description": "the code to run"},
            "timeout": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_TIMEOUT_S,
                "description": "seconds before it is stopped",
                "default": DEFAULT_TIMEOUT_S,
            },
        },
        required=("code",),
    )

    def run(
        self, arguments: Mapping[str, Any], state: "EpisodeState", interpreter: "Interpreter"
    ) -> ToolResult:
        if not arguments["code"].strip():
            raise ArgumentError("code is empty")
        trouble = deliver_images(state, interpreter)
        execution = interpreter.run(
            arguments["code"], timeout_s=float(arguments.get("timeout", DEFAULT_TIMEOUT_S))
        )
        figures, more_trouble = _figures(execution.images)
        parts = [
            execution.stdout,
            execution.stderr,
            execution.text or "",
            "" if execution.error is None else error_text(execution.error),
            *(f"({warning})" for warning in execution.warnings if warning not in execution.incidents),
            *trouble,
            *more_trouble,
        ]
        text = "\n".join(part.rstrip("\n") for part in parts if part.strip())
        return ToolResult(text=cut_middle(text, MAX_TEXT_CHARS) or None, images=figures)


def deliver_images(state: "EpisodeState", interpreter: "Interpreter") -> list[str]:
    """Bring the interpreter's images up to date. Returns what the policy's code made go wrong, if anything.

    Raises ToolUnavailable if a fresh interpreter, which the policy cannot have spoilt, cannot show images.
    """
    first, count = interpreter.num_images, len(state.images)
    fresh = not interpreter.started
    if first == count and not fresh:
        return []
    files = {f"image_{index}.png": encode_png(state.images[index]) for index in range(first, count)}
    problem = interpreter.write_files(files)
    if problem is None:
        # The policy's code may have spoilt what this calls: then it has no more time than a call of the tool.
        timeout_s = SETUP_TIMEOUT_S if fresh else DEFAULT_TIMEOUT_S
        error = interpreter.run(_DELIVER.replace("COUNT", str(count)), timeout_s=timeout_s).error
        problem = None if error is None else error_text(error)
    if problem is None:
        interpreter.num_images = count
        return []
    if fresh:
        raise ToolUnavailable(f"the interpreter cannot show images: {problem}")
    return [f"(_images and _pil_images are not up to date: {problem.splitlines()[-1]})"]


def is_delivery(code: str) -> bool:
    """Whether `code` is what brings images into the interpreter, not the policy's."""
    return code.startswith(_DELIVER[: _DELIVER.index("COUNT")])


def error_text(error: ExecutionError) -> str:
    """The traceback as the policy reads it; its last line always names the error."""
    last = f"{error.name}: {error.value}" if error.value else error.name
    traceback = error.traceback.rstrip()
    named = traceback.rpartition("\n")[2].startswith(error.name)
    return traceback if named else f"{traceback}\n{last}".strip()


def cut_middle(text: str, max_chars: int) -> str:
    """`text`, with its middle cut out if it is longer than about `max_chars` characters."""
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out) ...\n{text[-half:]}"


def _figures(encoded: tuple[bytes, ...]) -> tuple[tuple[Any, ...], list[str]]:
    """Decoded figures, and a line for each that cannot be shown: the bytes come from untrusted code."""
    figures, trouble = [], []
    for data in encoded[:MAX_FIGURES]:
        try:
            figures.append(decode_image(data, max_pixels=MAX_FIGURE_PIXELS))
        except ValueError as error:
            trouble.append(f"(a figure was left out: {error})")
    if len(encoded) > MAX_FIGURES:
        trouble.append(f"(only the first {MAX_FIGURES} of {len(encoded)} figures are shown)")
    return tuple(figures), trouble
