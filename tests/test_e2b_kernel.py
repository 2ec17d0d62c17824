"""What the e2b backend brings into a machine, in the kernel that runs there: Jupyter's own, started here."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from axpo_sandbox.answers import CellAnswer, checked_answer
from axpo_sandbox.base import Limits
from axpo_sandbox.e2b.package import boot_code, call_code, packed

pytest.importorskip("ipykernel", reason="the kernel that runs in E2B's machines is not installed")
manager = pytest.importorskip("jupyter_client.manager")

LIMITS = Limits(memory_bytes=300 << 20, output_bytes=100_000, image_pixels=90_000)


class Kernel:
    """A kernel, and what E2B's code interpreter would pass on of it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._num_requests = 0

    def execute(self, code: str) -> dict[str, Any]:
        """texts of results, stdout, stderr, error, and when the first output came and the last message did."""
        message_id = self._client.execute(code, allow_stdin=False)
        seen: dict[str, Any] = {"texts": [], "stdout": "", "stderr": "", "error": None, "first_s": None}
        while True:
            message = self._client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                seen["first_s"] = seen["first_s"] or time.monotonic()
                seen[content["name"]] += content["text"]
            elif message["msg_type"] in ("display_data", "execute_result"):
                seen["texts"].append(content["data"]["text/plain"])
            elif message["msg_type"] == "error":
                seen["error"] = content["ename"]
            elif content.get("execution_state") == "idle":
                return {**seen, "last_s": time.monotonic()}

    def ask(self, **request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The runner's answer, which is all that is shown, and what else was seen."""
        self._num_requests += 1
        return self.repeat(**request)

    def repeat(self, **request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answer to a request with the token of the one before."""
        token = f"{self._num_requests:016x}"
        seen = self.execute(call_code({**request, "token": token}))
        assert seen["error"] is None
        (text,) = seen["texts"]
        answer = json.loads(text)
        assert answer.pop("token") == token
        return answer, seen

    def cell(self, code: str) -> tuple[CellAnswer, dict[str, Any]]:
        answer, seen = self.ask(op="run", code=code)
        return checked_answer(answer, LIMITS), {**seen, "dropped": answer["dropped"]}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder: Path = tmp_path_factory.mktemp("machine")
    process, client = manager.start_new_kernel(cwd=str(folder))
    try:
        kernel = Kernel(client)
        archive = folder / "package.zip"
        archive.write_bytes(packed())
        booted = kernel.execute(boot_code(str(archive)))
        assert (booted["texts"], booted["stderr"], booted["error"]) == ([], "", None)
        assert not archive.exists()
        answer, _ = kernel.ask(op="hello", preload=["numpy", "matplotlib", "PIL", "no_such_package"])
        assert list(answer["missing"]) == ["no_such_package"]
        answer, _ = kernel.ask(op="begin", seed=1, limits=asdict(LIMITS), folder=str(folder / "box"))
        assert answer == {"ok": True, "threads_kept": True, "memory_bytes": LIMITS.memory_bytes}
        yield kernel
    finally:
        client.stop_channels()
        process.shutdown_kernel(now=True)


def test_values_live_on_and_errors_are_those_of_cells(kernel: Kernel) -> None:
    assert kernel.cell("x = 41; x + 1")[0].text == "42"
    error = kernel.cell("def f():\n    return x / 0\nf()")[0].error
    assert error is not None and error.name == "ZeroDivisionError"
    assert "ipykernel" not in error.traceback and error.traceback.count('File "<cell ') == 2
    assert (
        kernel.cell("import pickle\nclass A: pass\ntype(pickle.loads(pickle.dumps(A()))) is A")[0].text
        == "True"
    )
    exited = kernel.cell("import sys; sys.exit(3)")[0].error
    assert exited is not None and exited.name == "SystemExit"
    assert kernel.cell("x")[0].text == "41"


def test_output_comes_back_apart_and_while_the_cell_runs(kernel: Kernel) -> None:
    code = (
        "import subprocess, sys, time\nprint('ü'); print('err', file=sys.stderr)\n"
        "_ = subprocess.run([sys.executable, '-S', '-c', 'print(6 * 7)'], check=True)\ntime.sleep(2)"
    )
    _, seen = kernel.cell(code)
    assert (seen["stdout"], seen["stderr"]) == ("ü\n42\n", "err\n")
    assert seen["last_s"] - seen["first_s"] > 0.5
    _, seen = kernel.cell("print('x' * 300_000)")
    assert (len(seen["stdout"]), seen["dropped"]) == (100_000, [200_001, 0])


def test_a_request_that_comes_again_is_answered_again_and_done_once(kernel: Kernel) -> None:
    kernel.cell("n = 0")
    request = {"op": "run", "code": "n += 1; print('out', n)\nimport sys; print('err', file=sys.stderr)\nn"}
    for answer, seen in (kernel.ask(**request), kernel.repeat(**request), kernel.repeat(**request)):
        assert (answer["text"], seen["stdout"], seen["stderr"]) == ("1", "out 1\n", "err\n")
    assert kernel.ask(**request)[0]["text"] == "2"
    assert kernel.ask(op="check")[0] == {"ok": True}


def test_threads_that_cells_leave_are_counted(kernel: Kernel) -> None:
    before = kernel.ask(op="lacking")[0]["threads"]  # those that Jupyter started since
    kernel.cell("import threading\nstop = threading.Event()\nthreading.Thread(target=stop.wait).start()")
    assert kernel.ask(op="lacking")[0] == {"threads": before + 1}
    kernel.cell("stop.set()")


def test_a_process_that_is_left_behind_holds_nothing_up(kernel: Kernel) -> None:
    _, seen = kernel.cell("import subprocess; p = subprocess.Popen(['sleep', '60']); print('on')")
    assert seen["stdout"] == "on\n"
    assert kernel.cell("p.poll() is None, p.kill(), p.wait()")[0].text == "(True, None, -9)"


def test_figures_and_images_are_drawn_by_us_and_display_is_ours(kernel: Kernel) -> None:
    figures = (
        "import matplotlib.pyplot as plt\nplt.figure(figsize=(2, 1), dpi=100); plt.show()\n"
        "plt.figure(figsize=(1, 2), dpi=100); None"
    )
    assert len(kernel.cell(figures)[0].images) == 2
    assert len(kernel.cell("import PIL.Image\nPIL.Image.new('RGB', (30, 20))")[0].images) == 1
    assert len(kernel.cell("PIL.Image.new('L', (301, 300))")[0].warnings) == 1
    assert kernel.cell("import IPython.display\nIPython.display.display(5)\n7")[0].text == "7"


def test_memory_is_limited_and_the_kernel_lives(kernel: Kernel) -> None:
    assert kernel.cell("len(bytearray(50 << 20))")[0].text == str(50 << 20)
    error = kernel.cell("y = bytearray(1 << 30)")[0].error
    assert error is not None and error.name == "MemoryError"
    assert kernel.cell("1")[0].text == "1"


def test_answers_stay_in_no_history(kernel: Kernel) -> None:
    kernel.cell("'z' * 1000")
    assert kernel.execute("sum(len(str(item)) for item in Out.values()) < 100")["texts"] == ["True"]


def test_code_keeps_a_package_of_its_own_called_sandbox(kernel: Kernel) -> None:
    assert (
        kernel.cell("import sys; [name for name in sys.modules if name.startswith('axpo_sandbox')]")[0].text
        == "[]"
    )
