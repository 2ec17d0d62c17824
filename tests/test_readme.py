"""README.md keeps its word: its Python runs, its tree is the disk's, its commands exist.

A Python block runs in a fresh interpreter, unless the line above it is `<!-- not run: reason -->`. The tree
is the fenced block under `<!-- tree -->`: one name a line, indented or drawn with lines, folders with a
slash, a remark after two spaces. A folder whose contents are shown must be shown whole; `...` leaves the rest
out.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# In every package, and saying nothing about it.
UNREMARKABLE = {"__init__.py", "py.typed"}
FENCE = re.compile(
    r"(?P<above>[^\n]*)\n+```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    above: str
    """the line before it"""
    language: str
    """after the fence, may be empty"""
    body: str
    """what is fenced"""


def blocks(text: str) -> list[Block]:
    return [Block(**match.groupdict()) for match in FENCE.finditer("\n" + text)]


def python_blocks(text: str) -> list[str]:
    """Python that is meant to run."""
    found = [block for block in blocks(text) if block.language == "python"]
    return [block.body for block in found if not block.above.startswith("<!-- not run: ")]


def tree_paths(text: str) -> list[str]:
    """Paths of the tree, folders with a slash at the end, `...` as the name of what is left out."""
    trees = [block.body for block in blocks(text) if block.above.strip() == "<!-- tree -->"]
    assert len(trees) == 1, f"expected one tree under <!-- tree -->, found {len(trees)}"
    paths: list[str] = []
    folders: list[tuple[int, str]] = []  # (indentation, path) of the folders around the current line
    for line in trees[0].splitlines():
        if not line.strip():
            continue
        plain = re.sub("[│├└─]", " ", line)
        indentation = len(plain) - len(plain.lstrip())
        name = re.split(r"\s{2,}", plain.strip())[0]
        while folders and folders[-1][0] >= indentation:
            folders.pop()
        path = (folders[-1][1] if folders else "") + name
        paths.append(path)
        if name.endswith("/"):
            folders.append((indentation, path))
    return paths


def tree_differences(shown: list[str], on_disk: set[str]) -> list[str]:
    """What `shown` has too much or too little. `on_disk` are file paths relative to the root of the tree."""
    entries = on_disk | {path[: at + 1] for path in on_disk for at in range(len(path)) if path[at] == "/"}
    differences = [
        f"{path} is not there" for path in shown if not path.endswith("...") and path not in entries
    ]
    for folder in sorted({_folder(path) for path in shown}):
        if f"{folder}..." in shown:
            continue
        inside = {entry for entry in entries if _folder(entry) == folder and entry != folder}
        wanted = {entry for entry in inside if not entry.startswith(".") and _name(entry) not in UNREMARKABLE}
        differences += [f"{entry} is missing" for entry in sorted(wanted - set(shown))]
    return differences


def _folder(path: str) -> str:
    return path[: path.rstrip("/").rfind("/") + 1]


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


SAMPLE = """\
# Title

Text.

```python
print("runs")
```

<!-- not run: needs a GPU -->
```python
print("does not")
```

```bash
make test
```

<!-- tree -->
```
README.md      what this is
code/          all of it
  deep/
    a.py       first
  b.py
├── c.py       drawn
tests/         not shown further
data/
  one.csv
  ...
```
"""


def test_python_blocks_are_found_and_marked_ones_are_left_out() -> None:
    assert python_blocks(SAMPLE) == ['print("runs")\n']
    assert [block.language for block in blocks(SAMPLE)] == ["python", "python", "bash", ""]


def test_a_tree_is_read_into_paths() -> None:
    shown = tree_paths(SAMPLE.replace("├── c.py", "  c.py"))
    expected = (
        "README.md code/ code/deep/ code/deep/a.py code/b.py code/c.py tests/ data/ data/one.csv data/..."
    )
    assert shown == expected.split()


def test_a_drawn_tree_is_read_into_the_same_paths() -> None:
    drawn = "<!-- tree -->\n```\ncode/\n├── deep/\n│   └── a.py  first\n└── b.py\ntests/\n```\n"
    assert tree_paths(drawn) == ["code/", "code/deep/", "code/deep/a.py", "code/b.py", "tests/"]


def test_tree_differences_are_named_both_ways() -> None:
    on_disk = {
        "README.md",
        ".hidden",
        "code/b.py",
        "code/__init__.py",
        "tests/t.py",
        "data/1.csv",
        "data/2.csv",
    }
    right = ["README.md", "code/", "code/b.py", "tests/", "data/", "data/1.csv", "data/..."]
    assert tree_differences(right, on_disk) == []
    assert tree_differences([*right, "code/gone.py"], on_disk) == ["code/gone.py is not there"]
    assert tree_differences(right[1:], on_disk) == ["README.md is missing"]
    assert tree_differences(right, on_disk | {"code/deep/a.py", "code/c.py"}) == [
        "code/c.py is missing",
        "code/deep/ is missing",
    ]


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    path = repository / "README.md"
    if not path.is_file():  # cannot happen where the project is installed: packaging needs the file
        pytest.skip("no README.md in this checkout")
    return path.read_text(encoding="utf-8")


def test_its_python_runs(readme: str, repository: Path, tmp_path: Path) -> None:
    programs = python_blocks(readme)
    assert programs
    (tmp_path / "sandbox.py").write_text("raise ImportError('a module of the user')")  # of no concern to ours
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(repository)!r})\n{program}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, f"{program}\n{done.stderr}"


def test_its_tree_is_what_is_tracked(readme: str, repository: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=repository, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert tree_differences(tree_paths(readme), set(listed.stdout.split("\n")) - {""}) == []


def test_its_commands_exist(readme: str, repository: Path) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    shell = "\n".join(block.body for block in blocks(readme) if block.language in ("bash", "sh", "console"))
    assert set(re.findall(r"^\W*make ([a-z-]+)", shell, re.MULTILINE)) - targets == set()
    assert list(missing_modules(shell)) == []
    scripts = re.findall(r"python (\w+/\w+\.py)", shell)
    assert [script for script in scripts if not (repository / script).is_file()] == []
    assert re.search(r"^\W*make test\b", shell, re.MULTILINE)


def missing_modules(shell: str) -> Iterator[str]:
    """Modules that are started with `python -m` and do not exist."""
    for module in re.findall(r"python -m ((?:axpo_sandbox|axpo_env|axpo_algo)[\w.]*)", shell):
        if importlib.util.find_spec(module) is None:
            yield module


def test_a_module_that_does_not_exist_is_named() -> None:
    assert list(missing_modules("python -m axpo_algo.config x\npython -m axpo_algo.confg")) == [
        "axpo_algo.confg"
    ]
