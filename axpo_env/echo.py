"""A sandbox that runs nothing: every cell is answered with a digest of itself and of all that came before it.

So sessions differ just where their histories do, which is what checks of snapshots and branches look at, at a
thousandth of an interpreter's cost. What code does is left to the real backends.
"""

import hashlib
from typing import Any

from axpo_env.tools.python import is_delivery
from axpo_sandbox import Execution, ExecutionError
from axpo_sandbox.scripted import Moment, ScriptedSandbox

RAISES = "1 / 0"  # the one cell that goes wrong


def answer(code: str, moment: Moment) -> Execution:
    """What a session answers to `code`: nothing to the delivery of images, an error to `RAISES`, else a digest."""
    if is_delivery(code):
        return Execution()
    if code == RAISES:
        return Execution(
            error=ExecutionError(name="ZeroDivisionError", value="division by zero", traceback="")
        )
    history = repr((moment.seed, moment.cells, sorted(moment.files), code))
    return Execution(stdout=hashlib.sha256(history.encode("utf-8", "backslashreplace")).hexdigest() + "\n")


class EchoSandbox(ScriptedSandbox):
    """Stateless but for its open sessions: a pickle or a copy of it is a fresh one."""

    def __init__(self) -> None:
        super().__init__(answer)

    def answer(self, code: str, moment: Moment) -> Execution:
        """As in `ScriptedSandbox`, without the list of all that ran, which would grow for ever."""
        return answer(code, moment)

    def __reduce__(self) -> tuple[Any, ...]:
        return EchoSandbox, ()
