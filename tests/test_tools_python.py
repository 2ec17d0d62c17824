"""The python tool: state over turns, images in and out, branches, the policy's mischief, outages."""

import os
import signal

import gymnasium as gym
import numpy as np
import pytest

import axpo_env  # noqa: F401 - registers the ids
from axpo_env.contract import CHECKS, check_snapshots, make_env
from axpo_env.messages import format_action, format_call
from axpo_env.scripted import OraclePolicy, run_episode
from axpo_env.tools import interpreter
from axpo_env.tools.interpreter import FrozenInterpreter, Interpreter, shared_sandbox
from axpo_env.tools.python import cut_middle
from axpo_sandbox import SandboxUnavailable, SessionClosed, SessionLost, make_sandbox
from axpo_sandbox.pool import SandboxPool
from axpo_sandbox.sessions import BackendSnapshot


@pytest.fixture(scope="module")
def sandbox():
    try:
        sandbox = make_sandbox("local")
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    with sandbox:
        yield sandbox


@pytest.fixture
def env(sandbox):
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", max_pixels=2304, sandbox=sandbox, max_turns=9)
    env.reset(options={"index": 0})
    yield env.unwrapped
    env.close()


def python(code, **arguments):
    return format_action("", format_call("python", {"code": code, **arguments}))


def say(env, code, **arguments):
    return env.step(python(code, **arguments))[0]["text"]


ZOOM = format_call("image_zoom_in", {"bbox_2d": [0, 0, 500, 250], "label": "x"})


def test_the_interpreter_starts_with_the_first_call_only(env):
    assert not env._interpreter.started
    env.step(format_action("", ZOOM))
    assert not env._interpreter.started
    say(env, "1")
    assert env._interpreter.started


def test_output_of_every_kind(env):
    assert say(env, "x = 20\nprint(x)\nx + 1") == "20\n21"
    assert say(env, "x += 1\nprint(x)") == "21"
    assert say(env, "x = 0") == "(no output)"
    assert say(env, "import sys\nprint('a')\nprint('b', file=sys.stderr)") == "a\nb"
    text = say(env, "def f():\n    return 1 / 0\nprint('before')\nf()")
    assert text.startswith("before\nTraceback") and text.endswith("\nZeroDivisionError: division by zero")
    assert say(env, "1 +").splitlines()[-1] == "SyntaxError: invalid syntax"
    assert say(env, "print(x)") == "0"


def test_images_are_there_and_crops_join_them(env):
    look = "print(_images, [p.size for p in _pil_images], [p.mode for p in _pil_images])"
    assert say(env, look) == "['image_0.png'] [(384, 384)] ['RGB']"
    observation, *_ = env.step(format_action("", ZOOM, format_call("python", {"code": look})))
    sizes = "[(384, 384), (192, 96)] ['RGB', 'RGB']"
    assert observation["text"] == f"Image 1:\n['image_0.png', 'image_1.png'] {sizes}"
    total = int(env.state.images[1].sum())
    assert say(env, "import numpy as np\nprint(int(np.array(_pil_images[1]).astype(int).sum()))") == str(
        total
    )


def test_figures_and_pictures_come_back_as_images(env):
    observation, *_ = env.step(python("_pil_images[0].crop((0, 0, 40, 20))"))
    assert observation["text"].endswith("Image 1:")
    assert np.array_equal(env.state.images[1], env.state.images[0][:20, :40])
    observation, *_ = env.step(
        python("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('drawn')", timeout=60)
    )
    assert observation["text"] == "drawn\nImage 2:" and len(observation["images"]) == 1
    assert observation["images"][0].shape[0] * observation["images"][0].shape[1] <= 2304
    assert say(env, "print(len(_pil_images))") == "3"


PYPLOT = "import matplotlib.pyplot as plt\n"


@pytest.mark.parametrize(
    ("code", "num_images"),
    [
        ("fig = plt.figure()\nfig", 1),  # open: drawn as the last value, not left open besides
        ("fig, ax = plt.subplots()\nplt.figure()\nfig", 2),
        ("fig = plt.figure()\nplt.close(fig)\nfig", 1),
        ("fig = plt.figure()\nplt.close(fig)\nplt.figure()\nfig", 2),
        ("from matplotlib.figure import Figure\nFigure()", 1),
        ("plt.figure()\nplt.show()", 1),
        ("plt.figure()\nNone", 1),
    ],
)
def test_a_figure_comes_back_once(env, code, num_images):
    observation, *_ = env.step(python(PYPLOT + code, timeout=60))
    assert observation["text"] == "\n".join(f"Image {index}:" for index in range(1, 1 + num_images))
    assert len(env.state.images) == 1 + num_images
    assert say(env, "plt.get_fignums()") == "[]"


GREYS = "import numpy as np, PIL.Image\ndef show(rows, dtype):\n    return PIL.Image.fromarray(np.array(rows, dtype))\n"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("show([[0, 257, 32896, 65535]], 'uint16')", [0, 1, 128, 255]),
        ("show([[0, 257, 32896, 65535]], 'int32')", [0, 1, 128, 255]),
        ("show([[0, 1, 100, 255]], 'int32')", [0, 1, 100, 255]),
        ("show([[0, 1, 100, 255]], 'uint16')", [0, 1, 100, 255]),
        ("show([[0, 0.2, 0.5, 1]], 'float32')", [0, 51, 128, 255]),
        ("show([[-1, 0.5, 2, 300]], 'float32')", [0, 0, 2, 255]),
        ("show([[np.nan, 0.2, 0.5, 1]], 'float32')", [0, 51, 128, 255]),
        ("show([[[0, 255], [0, 128], [0, 0], [9, 255]]], 'uint8')", [0, 127, 255, 9]),
        ("show([[[0, 255], [0, 128], [0, 0], [9, 255]]], 'uint8').convert('La')", [0, 127, 255, 9]),
        ("PIL.Image.frombytes('CMYK', (4, 1), bytes([0, 0, 0, 255] + [0] * 12))", [0, 255, 255, 255]),
    ],
)
def test_an_image_of_any_mode_comes_back_as_it_looks(env, code, expected):
    assert env.step(python(f"{GREYS}{code}"))[0]["text"] == "Image 1:"
    assert env.state.images[1].tolist() == [[[value] * 3 for value in expected]]


def test_an_image_comes_back_upright(env):
    code = "turned = PIL.Image.fromarray(np.arange(6, dtype='uint8').reshape(2, 3))\nturned.getexif()[274] = 6\nturned"
    assert env.step(python(f"{GREYS}{code}"))[0]["text"] == "Image 1:"
    assert env.state.images[1][:, :, 0].tolist() == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "argument 'code' is missing"),
        ({"code": 1}, "code must be of type string, not 1"),
        ({"code": " "}, "code is empty"),
        ({"code": "1", "timeout": 0}, "timeout is 0, must lie in 1 to 60"),
        ({"code": "1", "timeout": 61}, "timeout is 61, must lie in 1 to 60"),
        ({"code": "1", "timeout": 1.5}, "timeout must be of type integer, not 1.5"),
        ({"code": "1", "time": 1}, "unknown argument 'time'; known: code, timeout; nearest: timeout"),
    ],
)
def test_bad_arguments_are_observations_and_start_nothing(env, arguments, error):
    observation, *_ = env.step(format_action("", format_call("python", arguments)))
    assert observation["text"] == f"Error: {error}"
    assert not env._interpreter.started


def test_a_cell_that_hangs_costs_only_itself(env):
    say(env, "x = 5")
    text = say(env, "x = 6\nwhile True: pass", timeout=1)
    assert "Timeout" in text
    assert say(env, "print(x)") == "5"
    text = say(env, "import os\nos._exit(3)")
    assert text and env.state.stop_reason is None
    assert say(env, "print(x)") == "5"


def test_mischief_does_not_lose_the_images(env):
    say(env, "_pil_images = None; _images = None; open = print = range = len = None")
    env.step(format_action("", ZOOM))
    assert say(env, "import builtins\nbuiltins.print(_pil_images.__len__())") == "2"


def test_branches_share_the_past_and_nothing_else(env):
    say(env, "log = ['start']\nopen('f.txt', 'w').write('0')")
    branches = env.fork(3)
    append = "log.append({0!r})\nwith open('f.txt', 'a') as f:\n    _ = f.write({0!r})\n"
    append += "print(log, open('f.txt').read())"
    texts = [say(branch, append.format(name)) for branch, name in zip([*branches, env], "abcd", strict=True)]
    assert texts == [f"['start', '{name}'] 0{name}" for name in "abcd"]
    for branch in branches:
        branch.close()


def test_a_branch_starts_a_session_only_when_it_runs_code(env):
    say(env, "x = 1")
    snapshot = env.snapshot()
    branch, other = env.fork(2)
    assert branch._interpreter.started and branch._interpreter._session is None
    assert branch.snapshot().share_interpreter() is branch._interpreter._origin._frozen
    assert say(branch, "print(x)") == "1"
    assert branch._interpreter._session is not None
    snapshot.release()
    assert say(other, "print(x)") == "1"
    with pytest.raises(RuntimeError, match="snapshot was released"):
        env.restore(snapshot)
    branch.close()
    other.close()


def test_bytes_replay_code_and_figures(env):
    say(env, "import random\nn = random.random()\nprint(n)")
    env.step(python("_pil_images[0].rotate(90)"))
    snapshot = env.snapshot_from_bytes(env.snapshot().to_bytes())
    expected = say(env, "print(n, random.random(), len(_pil_images))")
    env.restore(snapshot)
    assert say(env, "print(n, random.random(), len(_pil_images))") == expected


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_with_python(sandbox, check):
    keywords = {"difficulty": "nano", "split": "test", "max_turns": 5}
    check(make_env("AXPO/ChartQA-Tools-v0", keywords))


class Counted:
    """Wraps a sandbox, its sessions and their snapshots, and counts which of them are still open."""

    def __init__(self, inner, counts):
        self._inner, self._counts, self._open = inner, counts, True
        counts[type(inner).__name__] = counts.get(type(inner).__name__, 0) + 1

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def session(self, **keywords):
        return Counted(self._inner.session(**keywords), self._counts)

    def snapshot(self):
        return Counted(self._inner.snapshot(), self._counts)

    def fork(self, num_branches):
        return [Counted(session, self._counts) for session in self._inner.fork(num_branches)]

    def close(self):
        self._end(self._inner.close)

    def release(self):
        self._end(self._inner.release)

    def _end(self, end):
        end()
        if self._open:
            self._open = False
            self._counts[type(self._inner).__name__] -= 1


def test_nothing_is_left_open(sandbox):
    counts = {}
    counted = Counted(sandbox, counts)
    check_snapshots(
        lambda: gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", sandbox=counted).unwrapped,
        num_episodes=5,
    )
    assert len(counts) == 3 and list(counts.values()) == [
        1,
        0,
        0,
    ]  # the sandbox is not the environments' to close


@pytest.mark.slow
def test_snapshot_law_over_two_hundred_episodes(sandbox):
    check_snapshots(make_env("AXPO/ChartQA-Tools-v0", {"difficulty": "nano"}), num_episodes=200)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("level", "num_tasks"), [("medium", 10), ("hard", 3)])
def test_oracle_solves_levels_that_need_python(sandbox, level, num_tasks, split):
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty=level, split=split, sandbox=sandbox).unwrapped
    for index in range(num_tasks):
        _, info = env.reset(options={"index": index})
        needed = info["task"]["needs_tools"]
        reward, end = run_episode(env, OraclePolicy(env.task), info)
        assert (reward, end["grade"]["strict"], end["num_turns"]) == (1.0, True, len(needed) + 1)
        outputs = [m["content"] for m in end["messages"] if m.get("name") == "python"]
        assert needed == ("image_zoom_in", "python") and len(outputs) == 1
        printed = outputs[0][0]["text"].removesuffix(".0")
        assert printed == env.task.references[0]  # what the code prints is the answer
    env.close()


class Down:
    """A sandbox whose sessions cannot start."""

    def session(self, **keywords):
        raise SandboxUnavailable("no room")


class Dying:
    """A sandbox whose sessions die."""

    def session(self, **keywords):
        return self

    def write_files(self, files):
        raise SessionLost("gone")

    def close(self):
        pass


@pytest.mark.parametrize(
    ("backend", "outage"), [(Down(), "SandboxUnavailable: no room"), (Dying(), "SessionLost: gone")]
)
def test_an_outage_ends_the_episode_ungraded(backend, outage):
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", sandbox=backend).unwrapped
    env.reset(options={"index": 0})
    _, reward, terminated, truncated, info = env.step(python("1"))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["stop_reason"], info["grade"], info["outage"]) == ("infrastructure", None, outage)


def test_frozen_interpreter_is_released_by_its_last_owner():
    class Counter:
        released = 0

        def release(self):
            self.released += 1

    counter = Counter()
    frozen = FrozenInterpreter(counter, num_images=1)
    first = Interpreter(lambda: None, seed=0, origin=frozen.share())
    second = first.freeze()
    assert second is frozen and first.num_images == 1
    first.close()
    first.close()
    frozen.release()
    assert counter.released == 0
    frozen.release()
    assert counter.released == 1
    with pytest.raises(RuntimeError, match="snapshot was released"):
        frozen.share()


def test_one_sandbox_per_process_and_name(sandbox):
    assert shared_sandbox("local") is shared_sandbox("local")
    assert shared_sandbox("local") is not sandbox


def test_unknown_backend_is_refused_at_once():
    with pytest.raises(ValueError, match=r"unknown sandbox.*locl.*local"):
        gym.make("AXPO/ChartQA-Tools-v0", sandbox="locl")


def test_a_ready_sandbox_is_not_closed_by_the_environment(sandbox):
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", sandbox=sandbox).unwrapped
    env.reset(options={"index": 0})
    say(env, "1")
    env.close()
    with pytest.raises(RuntimeError, match="interpreter is closed"):
        say(env, "1")
    env.reset(options={"index": 0})
    assert say(env, "print(2)") == "2"
    env.close()


def test_cut_middle():
    assert cut_middle("abcdef", 6) == "abcdef"
    assert cut_middle("abcdefgh", 4) == "ab\n... (4 characters left out) ...\ngh"


def test_what_befalls_the_interpreter_is_told_to_the_user_and_not_to_the_policy(env, caplog):
    say(env, "x = 41")
    os.kill(env._interpreter._session.process_id, signal.SIGKILL)
    observation, _, _, _, info = env.step(python("x + 1"))
    assert observation["text"] == "42"
    (told,) = info["sandbox_warnings"]
    assert told.startswith("the interpreter died between two cells")
    assert told in caplog.text
    assert env.step(python("x"))[-1]["sandbox_warnings"] == []


@pytest.mark.parametrize(
    ("preload", "told"),
    [
        (["PIL"], "images need packages that {python} cannot import: PIL (ModuleNotFoundError"),
        ([], "the interpreter cannot show images: Traceback"),
    ],
)
def test_an_interpreter_without_pillow_is_an_outage_and_no_reply(bare_python, preload, told, monkeypatch):
    options = {"backend": "local", "python": bare_python, "preload": preload, "quiet": True}
    monkeypatch.setattr(interpreter, "_shared", {})
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", sandbox=options).unwrapped
    try:
        env.reset(options={"index": 0})
        observation, _, _, truncated, info = env.step(python("1"))
    finally:
        env.close()
        for key in list(interpreter._shared):
            interpreter._close_shared(key)
    assert told.replace("{python}", bare_python) in info["outage"]
    assert truncated and "PIL" not in observation["text"]


def test_what_a_fork_lacks_is_told_to_the_user(env, caplog):
    say(env, "import os; pipe = os.pipe()")
    lacking = "2 pipes or sockets of the session do not exist in its branches"
    with_pipe = env.snapshot()
    assert with_pipe.warnings == (lacking,)
    assert lacking in caplog.text
    (branch,) = env.fork(1)
    observation, _, _, _, info = branch.step(python("1 + 1"))
    assert (observation["text"], info["sandbox_warnings"]) == ("2", [])  # it was told with the fork
    branch.close()
    assert env.step(python("1 + 1"))[-1]["sandbox_warnings"] == [lacking, lacking]
    assert env.restore(with_pipe)[1]["sandbox_warnings"] == [lacking]
    with_pipe.release()
    say(env, "pass")
    assert env.snapshot().warnings == ()  # what is lost by now cannot be lost again


class CountingForks:
    """How many branches each `Snapshot.fork` was asked for."""

    def __init__(self, monkeypatch):
        self.asked = []
        fork = BackendSnapshot.fork

        def counted(snapshot, num_branches=1, **more):
            self.asked.append(num_branches)
            return fork(snapshot, num_branches, **more)

        monkeypatch.setattr(BackendSnapshot, "fork", counted)


def test_a_fork_of_many_is_one_fork_of_the_sandbox(env, monkeypatch):
    counting = CountingForks(monkeypatch)
    say(env, "x = [1]")
    first, second, third, idle = env.fork(4)
    assert counting.asked == []
    idle.close()
    assert say(second, "x.append(2); x") == "[1, 2]"
    assert counting.asked == [3]
    (cousin,) = first.fork(1)  # of a branch that has run nothing: it is none of the batch
    assert [say(item, "x") for item in (first, third, cousin)] == ["[1]"] * 3
    assert counting.asked == [3, 1]
    left, right = env.fork(2)
    say(left, "x")
    sessions = right._interpreter._origin._batch._sessions
    (waiting,) = sessions
    right.close()  # its session, made with the others, ends unused
    assert sessions == [] and waiting.run
    with pytest.raises(SessionClosed):
        waiting.run("1")
    for branch in (first, second, third, cousin, left):
        branch.close()


def test_a_fork_of_many_takes_no_more_places_than_a_pool_has(monkeypatch):
    with SandboxPool.of("local", {"quiet": True}, num_sandboxes=1, max_sessions=3, max_wait_s=5) as pool:
        env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", max_pixels=2304, sandbox=pool, max_turns=9)
        env.reset(options={"index": 0})
        env = env.unwrapped
        say(env, "x = 1")
        counting = CountingForks(monkeypatch)  # the sandbox has forked at its start, to try its walls
        for branch in env.fork(4):
            assert say(branch, "x") == "1"
            branch.close()
        assert counting.asked == [2, 2]
        env.close()
