"""The python tool against a scripted sandbox: what it sends, how it words results, whose fault is whose."""

import gymnasium as gym
import numpy as np
import pytest

from axpo_env import views
from axpo_env.caches import SizedCache
from axpo_env.messages import format_action, format_call
from axpo_env.tools.interpreter import sandbox_name, shared_sandbox
from axpo_env.views import decode_image, encode_png
from axpo_sandbox import Execution, ExecutionError, FilesRefused, SandboxUnavailable, SessionLost

ERROR = ExecutionError(name="ZeroDivisionError", value="division by zero", traceback="Traceback: at line 1")
RED = np.full((2, 3, 3), [255, 0, 0], dtype=np.uint8)
ZOOM = format_call("image_zoom_in", {"bbox_2d": [0, 0, 500, 250], "label": "x"})


class ScriptedSession:
    """Sandbox, session and record in one: every call is noted and answered by the next item of the script."""

    def __init__(self, *script):
        self.script, self.calls = list(script), []

    def session(self, **keywords):
        self.calls.append(("session", keywords))
        return self

    def write_files(self, files):
        self.calls.append(("write_files", files))
        self._answer()

    def run(self, code, *, timeout_s=None):
        self.calls.append(("run", code, timeout_s))
        return self._answer()

    def close(self):
        self.calls.append(("close",))

    def _answer(self):
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def make(*script):
    session = ScriptedSession(*script)
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", sandbox=session, max_turns=9).unwrapped
    env.reset(options={"index": 7})
    return env, session


def python(code, **arguments):
    return format_action("", format_call("python", {"code": code, **arguments}))


def test_first_call_brings_the_images_then_runs_the_code():
    env, session = make(None, Execution(), Execution(stdout="4\n"), Execution(stdout="5\n"))
    assert env.step(python("print(4)"))[0]["text"] == "4"
    kinds = [call[0] for call in session.calls]
    assert kinds == ["session", "write_files", "run", "run"]
    assert session.calls[0][1] == {"seed": 7}
    ((name, data),) = session.calls[1][1].items()
    assert name == "image_0.png"
    assert np.array_equal(decode_image(data, max_pixels=10**6), env.task.images[0])
    assert session.calls[3] == ("run", "print(4)", 12.0)
    assert env.step(python("print(5)", timeout=3))[0]["text"] == "5"
    assert session.calls[4:] == [("run", "print(5)", 3.0)]  # nothing new to bring
    env.close()
    env.close()
    assert session.calls[5:] == [("close",)]


def test_the_rollouts_of_a_question_share_its_encoded_images(monkeypatch):
    shapes, encode = [], views._encode

    def counted(image):
        shapes.append(image.shape)
        return encode(image)

    monkeypatch.setattr(views, "_encode", counted)
    monkeypatch.setattr(views, "_png_cache", SizedCache(views.MAX_PNG_BYTES, size=len))
    env, session = make(*[None, Execution(), Execution()] * 9)
    for branch in env.fork(8):
        branch.step(python("1"))
    assert shapes == [env.task.images[0].shape]
    sent = [call[1]["image_0.png"] for call in session.calls if call[0] == "write_files"]
    assert len(sent) == 8 and all(data is sent[0] for data in sent)
    other, _ = make(None, Execution(), Execution())  # a rollout of its own
    other.step(python("1"))
    assert len(shapes) == 1


def test_only_new_images_are_brought():
    env, session = make(None, Execution(), Execution(), None, Execution(), Execution())
    env.step(python("1"))
    env.step(format_action("", ZOOM, format_call("python", {"code": "2"})))
    assert [sorted(call[1]) for call in session.calls if call[0] == "write_files"] == [
        ["image_0.png"],
        ["image_1.png"],
    ]


@pytest.mark.parametrize(
    ("execution", "text"),
    [
        (Execution(), "(no output)"),
        (Execution(stdout="a\n\n", stderr="b\n", text="c"), "a\nb\nc"),
        (Execution(stdout="a", error=ERROR), "a\nTraceback: at line 1\nZeroDivisionError: division by zero"),
        (
            Execution(error=ExecutionError(name="E", value="v at 1", traceback="File x\nE: v")),
            "File x\nE: v",  # the traceback says it already
        ),
        (Execution(error=ExecutionError(name="Timeout", value="", traceback="")), "Timeout"),
        (Execution(stdout="a", warnings=("cut to 9 bytes",)), "a\n(cut to 9 bytes)"),
        (Execution(images=(b"no png",)), None),
        (Execution(images=(encode_png(RED),) * 9), None),
    ],
)
def test_wording(execution, text):
    env, _ = make(None, Execution(), execution)
    observation, *_ = env.step(python("1"))
    if text is not None:
        assert observation == {"text": text, "images": ()}
    elif len(execution.images) == 1:
        assert observation["text"].startswith("(a figure was left out: not a readable image")
    else:
        assert observation["text"].startswith("(only the first 8 of 9 figures are shown)\nImage 1:\nImage 2:")
        assert len(observation["images"]) == 8 and np.array_equal(env.state.images[8], RED)


def test_long_output_keeps_its_ends():
    env, _ = make(None, Execution(), Execution(stdout="a" * 10_000 + "z" * 10_000))
    text = env.step(python("1"))[0]["text"]
    assert text == "a" * 4096 + "\n... (11808 characters left out) ...\n" + "z" * 4096


@pytest.mark.parametrize(
    ("script", "outage"),
    [
        ([SessionLost("gone")], "SessionLost: gone"),
        ([None, SandboxUnavailable("dead")], "SandboxUnavailable: dead"),
        ([None, Execution(), SessionLost("gone")], "SessionLost: gone"),
        ([FilesRefused("no space")], "the interpreter cannot show images: no space"),
        (
            [None, Execution(error=ERROR)],
            "the interpreter cannot show images: Traceback: at line 1\nZeroDivisionError: division by zero",
        ),
    ],
)
def test_outages_end_the_episode_ungraded(script, outage):
    env, session = make(*script)
    _, reward, terminated, truncated, info = env.step(python("1"))
    assert (reward, terminated, truncated, info["grade"]) == (0.0, False, True, None)
    assert (info["stop_reason"], info["outage"]) == ("infrastructure", outage)
    assert session.calls[-1] == ("close",)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ([FilesRefused("the working folder is full")], "the working folder is full"),
        ([None, Execution(error=ERROR)], "ZeroDivisionError: division by zero"),
    ],
)
def test_what_the_policy_broke_is_told_and_tried_again(script, why):
    env, session = make(None, Execution(), Execution(), *script, Execution(stdout="ran"), None, Execution())
    session.script.append(Execution(stdout="again"))
    env.step(python("fill the disk"))
    text = env.step(format_action("", ZOOM, format_call("python", {"code": "2"})))[0]["text"]
    assert text == f"Image 1:\nran\n(_images and _pil_images are not up to date: {why})"
    assert env.step(python("3"))[0]["text"] == "again"
    assert [sorted(call[1]) for call in session.calls if call[0] == "write_files"][1:] == [
        ["image_1.png"]
    ] * 2


@pytest.fixture
def made(monkeypatch):
    """What `make_sandbox` was called with; nothing is started."""
    calls = []

    def make_sandbox(name, **options):
        calls.append((name, options))
        return ScriptedSession(None, Execution(), Execution(stdout="ran"))

    monkeypatch.setattr("axpo_env.tools.interpreter.make_sandbox", make_sandbox)
    monkeypatch.setattr("axpo_env.tools.interpreter._shared", {})
    return calls


def test_a_sandbox_may_be_named_with_its_options(made):
    sandbox = {"backend": "docker", "image": "mine:1", "limits": {"memory_bytes": 1 << 28}}
    env = gym.make("AXPO/ChartQA-Tools-v0", difficulty="nano", sandbox=sandbox).unwrapped
    assert made == []
    env.reset(options={"index": 0})
    assert env.step(python("1"))[0]["text"] == "ran"
    assert made == [("docker", {"image": "mine:1", "limits": {"memory_bytes": 1 << 28}})]
    assert sandbox["backend"] == "docker" and sandbox_name(sandbox) == "docker"


def test_equal_options_share_one_sandbox(made):
    first = shared_sandbox("docker")
    assert shared_sandbox({"backend": "docker"}) is first
    assert shared_sandbox({"backend": "docker", "image": "axpo-sandbox:latest"}) is first
    other = shared_sandbox({"backend": "docker", "total_processes": 9})
    assert other is not first and shared_sandbox({"total_processes": 9, "backend": "docker"}) is other
    assert shared_sandbox("local") not in (first, other)
    assert made == [("docker", {}), ("docker", {"total_processes": 9}), ("local", {})]


@pytest.mark.parametrize(
    ("sandbox", "error", "message"),
    [
        (
            {"backend": "dokcer"},
            ValueError,
            "unknown sandbox 'dokcer'; known: docker, e2b, local; nearest: docker",
        ),
        ({"image": "x"}, ValueError, "must name a backend (local, docker, e2b), got image without 'backend'"),
        ({}, ValueError, "must name a backend (local, docker, e2b), got nothing without 'backend'"),
        ({"backend": "docker", "profil": "nested"}, ValueError, "nearest: profile"),
        (
            {"backend": "local", "total_memory_bytes": 0},
            ValueError,
            "sandbox: total_memory_bytes must be a positive",
        ),
        (5, TypeError, "a backend's name (local, docker, e2b), a mapping of it and its options"),
    ],
)
def test_a_sandbox_that_cannot_be_is_refused_at_once(made, sandbox, error, message):
    with pytest.raises(error) as raised:
        gym.make("AXPO/ChartQA-Tools-v0", sandbox=sandbox)
    assert message in str(raised.value)
    assert made == []
