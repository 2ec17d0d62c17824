r"""The wire format of an action: thinking, then tool calls or an answer.

Parsing never raises and takes linear time. What the policy reads is escaped in `escape`.

The rules, in order:

1. Everything up to the first `</think>` is thinking: the generation prompt has opened `<think>`, so an action
   normally starts inside it. Without any `</think>` there are two cases: a `<think>` that was never closed
   makes the whole action thinking (malformed); with neither tag there was no thinking and the whole action
   counts.
2. Calls are `<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>` after the thinking. A call quoted
   inside the thinking is no call. A call runs to the first closing tag; one that never closes is a call with
   an error.
3. Several calls are all executed, in order, up to a limit per turn; they share the turn.
4. If there is a call, an answer in the same action is ignored: it was written before the result was seen.
5. Otherwise `<answer>\boxed{...}</answer>` ends the episode (`grading.extract_answer`).
6. Otherwise the action is malformed and `ParsedAction.problem` says why.

Which tools exist and whether their arguments fit is left to `tools` and `dynamics`.
"""

import json
from dataclasses import dataclass
from typing import Any

from axpo_env.escape import escape_json
from axpo_env.grading import extract_answer
from axpo_env.names import shorten, unknown_name

THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
RESPONSE, END_RESPONSE = "<tool_response>", "</tool_response>"
_CALL_KEYS = ("name", "arguments")

_MAX_DEPTH = 50  # of lists and objects in a call; copying deeper ones would end in a RecursionError

SYSTEM_PROMPT = (
    "Answer the question about the image. To look closer or compute, call a tool and wait for its result:\n"
    '<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>\n'
    "When you are sure, end with\n<answer>\\boxed{...}</answer>"
)
HOW_TO_GO_ON = "Write a tool call, or <answer>\\boxed{...}</answer>."


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call as the policy wrote it. `name` and `arguments` are None where they could not be read."""

    name: str | None
    arguments: dict[str, Any] | None
    error: str | None = None  # what is wrong with it, for the policy to read


@dataclass(frozen=True, kw_only=True)
class NotText:
    """Stands for an action that was no string, so that it can be recorded and replayed."""

    type_name: str


@dataclass(frozen=True, kw_only=True)
class ParsedAction:
    """What one action says.

    Either `calls` is non-empty, or exactly one of `answer` and `problem` is not None.
    """

    thinking: str | None  # None: the action had none
    calls: tuple[ToolCall, ...]  # at most the limit
    num_calls: int  # opening tags seen, those past the limit included
    answer: str | None
    answer_ignored: bool  # an answer stood beside a call
    problem: str | None


def parse_action(action: str | NotText, *, max_calls: int) -> ParsedAction:
    """Read one action by the rules above; at most `max_calls` calls are decoded, the rest only counted."""
    if isinstance(action, NotText):
        return _malformed(None, f"Your reply must be text, not {shorten(action.type_name)}.")
    if not action.strip():
        return _malformed(None, "Your reply was empty.")
    thinking, body = split_thinking(action)
    if body is None:
        return _malformed(thinking, "Your thinking has no closing tag.")
    calls, num_calls = _find_calls(body, max_calls)
    answer = extract_answer(body)
    if num_calls:
        return ParsedAction(
            thinking=thinking,
            calls=calls,
            num_calls=num_calls,
            answer=None,
            answer_ignored=answer is not None,
            problem=None,
        )
    if answer is None:
        return _malformed(thinking, _why_no_answer(body))
    return ParsedAction(
        thinking=thinking, calls=(), num_calls=0, answer=answer, answer_ignored=False, problem=None
    )


def split_thinking(text: str) -> tuple[str | None, str | None]:
    """(thinking or None, body or None) by rule 1; the body is None when the thinking was never closed."""
    end = text.find(END_THINK)
    if end >= 0:
        return text[:end].strip().removeprefix(THINK).strip(), text[end + len(END_THINK) :]
    if THINK in text:
        return text.strip().removeprefix(THINK).strip(), None
    return None, text


def format_call(name: str, arguments: dict[str, Any]) -> str:
    """The call as a policy writes it; tags in names and arguments are spelled so that they do not act."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL}\n{escape_json(call)}\n{END_CALL}"


def format_answer(answer: str) -> str:
    return f"<answer>\\boxed{{{answer}}}</answer>"


def format_action(thinking: str, *parts: str) -> str:
    """An action that continues an opened `<think>`: thinking, the closing tag, then calls or an answer."""
    return f"{thinking}\n{END_THINK}\n\n" + "\n".join(parts)


def _malformed(thinking: str | None, problem: str) -> ParsedAction:
    return ParsedAction(
        thinking=thinking, calls=(), num_calls=0, answer=None, answer_ignored=False, problem=problem
    )


def _why_no_answer(body: str) -> str:
    if not body.strip():
        return "Nothing followed your thinking."
    if "<answer>" not in body:
        return "Your reply held neither a tool call nor an answer."
    if "</answer>" not in body[body.find("<answer>") :]:
        return "<answer> was never closed by </answer>."
    return "Your answer was blank."


def _find_calls(body: str, max_calls: int) -> tuple[tuple[ToolCall, ...], int]:
    calls: list[ToolCall] = []
    num_calls = 0
    start = body.find(CALL)
    while start >= 0:
        num_calls += 1
        end = body.find(END_CALL, start)
        if end < 0:
            calls.append(ToolCall(name=None, arguments=None, error="the call has no closing tag"))
            break
        if len(calls) < max_calls:
            calls.append(_decode_call(body[start + len(CALL) : end]))
        start = body.find(CALL, end)
    return tuple(calls[:max_calls]), num_calls


def _decode_call(text: str) -> ToolCall:
    try:
        call = _DECODER.decode(text)
    except RecursionError:
        return _TOO_DEEP
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        return ToolCall(name=None, arguments=None, error=f"the call is not JSON: {error.msg} at {where}")
    except ValueError as error:
        return ToolCall(name=None, arguments=None, error=f"the call is not JSON: {shorten(str(error))}")
    if not isinstance(call, dict):
        return ToolCall(
            name=None, arguments=None, error="the call must be a JSON object with name and arguments"
        )
    if text.count("[") + text.count("{") > _MAX_DEPTH and not _is_shallow(call):
        return _TOO_DEEP
    name, arguments = call.get("name"), call.get("arguments")
    return ToolCall(
        name=name if isinstance(name, str) else None,
        arguments=arguments if isinstance(arguments, dict) else None,
        error=_why_bad_call(call),
    )


def _is_shallow(call: dict[str, Any]) -> bool:
    """Whether it is nested at most `_MAX_DEPTH` deep, found without recursion."""
    level: list[Any] = [call]
    for _ in range(_MAX_DEPTH + 1):
        inner = [item.values() if isinstance(item, dict) else item for item in level]
        level = [part for parts in inner for part in parts if isinstance(part, dict | list)]
        if not level:
            return True
    return False


def _why_bad_call(call: dict[str, Any]) -> str | None:
    for key in _CALL_KEYS:
        if key not in call:
            return f"the call lacks {key!r}"
    for key in call:
        if key not in _CALL_KEYS:
            return unknown_name("key", key, _CALL_KEYS) + " (of a call)"
    if not isinstance(call["name"], str):
        return f"name must be a string, not {shorten(call['name'])}"
    if not isinstance(call["arguments"], dict):
        return f"arguments must be an object, not {shorten(call['arguments'])}"
    return None


_TOO_DEEP = ToolCall(name=None, arguments=None, error="the call is nested too deeply")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
