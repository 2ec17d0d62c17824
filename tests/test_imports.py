"""Import directions: axpo_sandbox <- axpo_env <- axpo_algo <- benchmarks; what importing a package must not do."""

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Where a package lies, where that is not the top of the repository.
INSIDE = {"axpo_sandbox": "sandbox"}
OWN = ("axpo_sandbox", "axpo_env", "axpo_algo", "benchmarks", "tests")

# Third-party packages that importing a module of ours may load; a function may load more when it is called.
AT_IMPORT = {
    "axpo_sandbox": set(),
    "axpo_env": {"gymnasium", "numpy", "PIL"},
}
# Nothing of ours imports these: an adapter, whose classes derive from another library's, is its user's to import, and
# the worker is a program that a process of its own runs.
NOT_IMPORTED = {
    "axpo_env/grading/maths_worker.py": {"antlr4", "latex2sympy2_extended", "sympy"},
    "axpo_env/adapters/verl.py": {"verl"},
    "axpo_env/adapters/verifiers.py": {"verifiers", "openai", "pydantic"},
    "axpo_env/adapters/verifiers_legacy.py": {"verifiers", "datasets"},
}
# What must stand nowhere in a package, functions included.
NEVER = {
    "axpo_sandbox": {"axpo_env", "axpo_algo", "benchmarks", "tests", "gymnasium", "torch", "transformers"},
    "axpo_env": {"axpo_algo", "benchmarks", "tests", "torch", "transformers", "vllm"},
    "axpo_algo": {"benchmarks", "tests"},
    "benchmarks": {"tests"},
}
# Client libraries, each with the only file that may name it.
ONLY_IN = {
    "docker": "axpo_sandbox/docker/engine.py",
    "e2b": "axpo_sandbox/e2b/machine.py",
    "e2b_code_interpreter": "axpo_sandbox/e2b/machine.py",
    "httpx": "axpo_sandbox/e2b/machine.py",
    "tavily": "axpo_env/tools/tavily.py",
}


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported top-level package."""

    name: str
    line: int
    at_import: bool
    """whether it happens when the module is imported, rather than when a function is called"""


def imports_in(source: str) -> list[Import]:
    """All absolute imports of a module; relative ones stay inside its package. Sorted by line."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.level == 0:
                names = [child.module or ""]
            for name in names:
                yield Import(name=name.split(".")[0], line=child.lineno, at_import=at_import)  # type: ignore[attr-defined]
            is_later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from visit(child, at_import and not is_later)

    return sorted(visit(ast.parse(source), True), key=lambda found: found.line)


def violations(path: str, source: str) -> list[str]:
    """What a file at `path`, relative to the repository, imports against the rules."""
    package = path.split("/")[0]
    found = []
    for item in imports_in(source):
        where = f"{path}:{item.line} imports {item.name}"
        only_in = ONLY_IN.get(item.name)
        if item.name in NEVER.get(package, ()):
            found.append(f"{where}: against the direction of {package}")
        elif only_in is not None and path != only_in:
            found.append(f"{where}: only {only_in} may")
        elif only_in is None and package in AT_IMPORT and item.at_import:
            allowed = {
                package,
                *OWN,
                *sys.stdlib_module_names,
                *AT_IMPORT[package],
                *NOT_IMPORTED.get(path, ()),
            }
            if item.name not in allowed:
                found.append(f"{where} when it is imported: only inside a function")
    return found


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("axpo_sandbox/base.py", "import os, axpo_sandbox.wire\nfrom . import x", []),
        (
            "axpo_sandbox/base.py",
            "import numpy",
            ["axpo_sandbox/base.py:1 imports numpy when it is imported"],
        ),
        ("axpo_sandbox/local/zygote.py", "def f():\n  import numpy", []),
        (
            "axpo_sandbox/base.py",
            "def f():\n  import axpo_env",
            ["axpo_sandbox/base.py:2 imports axpo_env: against"],
        ),
        ("axpo_sandbox/docker/engine.py", "import docker\nfrom docker.errors import A", []),
        (
            "axpo_sandbox/base.py",
            "def f():\n  import e2b",
            ["axpo_sandbox/base.py:2 imports e2b: only axpo_sandbox/e2b/machine.py"],
        ),
        ("axpo_env/env.py", "import gymnasium as gym\nimport PIL.Image\nfrom axpo_sandbox import x", []),
        (
            "axpo_env/env.py",
            "try:\n  import pandas\nexcept ImportError: x",
            ["axpo_env/env.py:2 imports pandas"],
        ),
        (
            "axpo_env/env.py",
            "class A:\n  def f(self):\n    from torch import nn",
            ["axpo_env/env.py:3 imports torch"],
        ),
        ("axpo_env/env.py", "if TYPE_CHECKING:\n  import datasets", []),
        ("axpo_env/adapters/verl.py", "import verl", []),
        ("axpo_env/env.py", "import verl", ["axpo_env/env.py:1 imports verl when it is imported"]),
        (
            "axpo_env/env.py",
            "if TYPE_CHECKING:\n  import axpo_algo.types",
            ["axpo_env/env.py:2 imports axpo_algo"],
        ),
        ("axpo_algo/train.py", "import torch, axpo_env", []),
        (
            "axpo_algo/train.py",
            "from benchmarks import branching",
            ["axpo_algo/train.py:1 imports benchmarks"],
        ),
    ],
)
def test_the_rules_catch_what_they_should(path: str, source: str, expected: list[str]) -> None:
    found = violations(path, source)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


@pytest.mark.parametrize("package", list(NEVER))
def test_imports_point_one_way(repository: Path, package: str) -> None:
    found = []
    root = repository / INSIDE.get(package, ".")
    for path in sorted((root / package).rglob("*.py")):
        found += violations(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize("package", ["axpo_sandbox", "axpo_env", "axpo_algo"])
def test_every_folder_with_code_is_a_package(repository: Path, package: str) -> None:
    folder = repository / INSIDE.get(package, ".") / package
    folders = {path.parent for path in folder.rglob("*.py")}
    assert [str(path) for path in sorted(folders) if not (path / "__init__.py").is_file()] == []
    assert (folder / "py.typed").is_file()


def test_the_base_install_has_no_torch(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    names = {line.split(">")[0].split("[")[0] for line in project["dependencies"]}
    assert names & {"torch", "transformers", "docker", "e2b", "datasets"} == set()
    assert {"gymnasium", "numpy", "pillow"} <= names


# Reports what an import did: top-level packages it loaded, and processes, threads or connections it started.
WATCH = """
import json, sys
STARTS = {"subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.spawn",
          "socket.connect", "socket.bind"}
started = []
sys.addaudithook(lambda event, args: started.append(event) if event in STARTS else None)
before = set(sys.modules)
for name in sys.argv[1:]:
    __import__(name)
started += ["thread"] * (len(sys._current_frames()) - 1)  # Python 3.11 has no audit event for threads
loaded = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print("REPORT" + json.dumps({"loaded": loaded, "started": started}))
"""


def watch_import(repository: Path, *modules: str) -> dict[str, list[str]]:
    """Imports modules in a fresh interpreter and returns its report; fails if the import printed anything."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *modules], cwd=repository, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    printed, _, report = done.stdout.partition("REPORT")
    assert (printed, done.stderr) == ("", "")
    return json.loads(report)


def test_the_watch_sees_threads_processes_and_modules(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import subprocess, sys, threading, wave\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "subprocess.run([sys.executable, '-c', ''], check=True)\n"
    )
    report = watch_import(tmp_path, "noisy")
    assert {"noisy", "wave"} <= set(report["loaded"])
    assert "subprocess.Popen" in report["started"]
    assert "thread" in report["started"]
    (tmp_path / "loud.py").write_text("print('hello')\n")
    with pytest.raises(AssertionError, match="hello"):
        watch_import(tmp_path, "loud")


def test_importing_the_sandbox_loads_the_standard_library_alone(repository: Path) -> None:
    report = watch_import(repository, "axpo_sandbox")
    assert [name for name in report["loaded"] if name not in {"axpo_sandbox", *sys.stdlib_module_names}] == []
    assert report["started"] == []


def test_importing_the_environments_is_light_and_starts_nothing(repository: Path) -> None:
    report = watch_import(repository, "axpo_env")
    assert "gymnasium" in report["loaded"]
    heavy = {"torch", "transformers", "docker", "e2b", "datasets", "pandas", "scipy", "sympy", "matplotlib"}
    assert heavy & set(report["loaded"]) == set()
    assert report["started"] == []


def test_configs_metrics_and_run_folders_need_no_torch(repository: Path) -> None:
    names = ("metrics", "tables", "folder", "pages", "curves", "sinks", "progress")
    watch_import(repository, "axpo_algo.run.curves")  # on a new machine, matplotlib lists the fonts once
    report = watch_import(repository, "axpo_algo.config", *(f"axpo_algo.run.{name}" for name in names))
    assert {"torch", "transformers", "wandb", "axpo_env"} & set(report["loaded"]) == set()
    assert report["started"] == []
