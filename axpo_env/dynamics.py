"""The rules of an episode as transitions between frozen states; no Gymnasium here.

`begin` and `advance` are pure but for the interpreter that `advance` hands to tools. A turn in a few words:
record the action, parse it, then (in this order) run its calls, or grade its answer, or say what was wrong
with it. Every action costs one of `max_turns` turns. Calls in the last turn are not run: nobody would see
their result. What is wrong with an action is said in a tool's message: behind a user's, chat templates drop the
thinking so far. The text of users' and tools' messages is escaped here (`escape`), and nowhere else.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from axpo_env.escape import escape_tags, unescape_tags
from axpo_env.messages import HOW_TO_GO_ON, SYSTEM_PROMPT, NotText, ParsedAction, ToolCall, parse_action
from axpo_env.names import unknown_name
from axpo_env.state import EpisodeState, Message, Picture, StopReason, Text
from axpo_env.tasks.base import Task
from axpo_env.tools.base import (
    ArgumentError,
    Tool,
    ToolResult,
    ToolUnavailable,
    check_arguments,
    check_result,
)
from axpo_env.views import downscale

if TYPE_CHECKING:
    from axpo_env.tools.interpreter import Interpreter

NOT_RUN = "not run: this was the last turn"
NO_TOOL = "unknown"  # named in a tool's message that answers no call of a tool there is


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What bounds an episode."""

    tools: Mapping[str, Tool]  # by name
    max_pixels: int  # pixels of an image as the policy sees it
    max_turns: int = 3  # actions of the policy
    max_calls: int = 4  # tool calls run in one turn
    tool_time_limit_s: float | None = None  # seconds of an episode's tools together; None: no limit


def begin(task: Task, rules: Rules) -> EpisodeState:
    """The state before the first action: system prompt, images, question."""
    pictures = tuple(Picture(image=view) for view in task.views(rules.max_pixels))
    system = Message(role="system", content=(Text(text=SYSTEM_PROMPT),))
    user = Message(role="user", content=(*pictures, _escaped(task.question)))
    return EpisodeState(task=task, images=task.images, messages=(system, user), num_new=2)


def advance(
    state: EpisodeState, action: str | NotText, rules: Rules, interpreter: "Interpreter"
) -> EpisodeState:
    """The state after `action`. Raises only for bugs: bad actions are observations, outages a stop reason."""
    assert state.stop_reason is None, "the episode is over"
    parsed = parse_action(action, max_calls=rules.max_calls)
    state = _record(state, action, parsed)
    last_turn = state.num_turns >= rules.max_turns
    if parsed.num_calls:
        if last_turn:
            calls = tuple(replace(call, error=call.error or NOT_RUN) for call in parsed.calls)
            return _stop(replace(state, calls=calls), StopReason.MAX_TURNS)
        return _run_calls(state, parsed, rules, interpreter)
    if parsed.answer is not None:
        grade = state.task.grade(unescape_tags(parsed.answer))  # a quotation of what was shown escaped
        return replace(state, stop_reason=StopReason.ANSWER, grade=grade)
    if last_turn:
        return _stop(state, StopReason.MALFORMED)
    problem = _escaped(f"{parsed.problem} {HOW_TO_GO_ON}")
    return _say(state, Message(role="tool", name=NO_TOOL, content=(problem,)))


def _escaped(text: str) -> Text:
    """Without control tags, and without lone surrogates, which neither tokenizers nor files take: as `\\ud800`."""
    return Text(text=escape_tags(text.encode("utf-8", "backslashreplace").decode("utf-8")))


def _record(state: EpisodeState, action: str | NotText, parsed: ParsedAction) -> EpisodeState:
    shown = action if isinstance(action, str) else escape_tags(f"({action.type_name} instead of text)")
    message = Message(role="assistant", content=(Text(text=shown),))
    return replace(
        state,
        actions=(*state.actions, action),
        calls=parsed.calls,
        messages=(*state.messages, message),
        num_new=0,
    )


def _stop(state: EpisodeState, reason: StopReason) -> EpisodeState:
    """End without an answer: graded as wrong where the policy is to blame, else left ungraded."""
    blame = reason in (StopReason.MAX_TURNS, StopReason.MALFORMED)
    return replace(state, stop_reason=reason, grade=state.task.grade(None) if blame else None)


def _say(state: EpisodeState, message: Message, **changes: Any) -> EpisodeState:
    return replace(state, messages=(*state.messages, message), num_new=state.num_new + 1, **changes)


def _run_calls(
    state: EpisodeState, parsed: ParsedAction, rules: Rules, interpreter: "Interpreter"
) -> EpisodeState:
    notes = []
    if parsed.answer_ignored:
        notes.append("Your answer was ignored: it came together with a tool call.")
    if parsed.num_calls > len(parsed.calls):
        notes.append(f"Only the first {len(parsed.calls)} of {parsed.num_calls} calls were run.")
    last = len(state.calls) - 1
    for number in range(len(state.calls)):
        try:
            state = _run_call(state, number, " ".join(notes) if number == last else "", rules, interpreter)
        except ToolUnavailable as error:
            outage = str(error) or type(error).__name__
            calls = _with_error(state.calls, number, f"outage: {outage}")
            return _stop(replace(state, calls=calls, outage=outage), StopReason.INFRASTRUCTURE)
    limit = rules.tool_time_limit_s
    return _stop(state, StopReason.TIMEOUT) if limit is not None and state.tool_time_s > limit else state


def _with_error(calls: tuple[ToolCall, ...], number: int, error: str | None) -> tuple[ToolCall, ...]:
    return (*calls[:number], replace(calls[number], error=error), *calls[number + 1 :])


def _run_call(
    state: EpisodeState, number: int, note: str, rules: Rules, interpreter: "Interpreter"
) -> EpisodeState:
    """The state with a call's result in it, and with its error if it had one."""
    call = state.calls[number]
    error = call.error
    result = ToolResult()
    started = time.monotonic()
    if error is None:
        assert call.name is not None and call.arguments is not None
        try:
            if call.name not in rules.tools:
                raise ArgumentError(unknown_name("tool", call.name, rules.tools))
            tool = rules.tools[call.name]
            check_arguments(tool.schema, call.arguments)
            result = check_result(tool, tool.run(call.arguments, state, interpreter))
        except ArgumentError as problem:
            error = str(problem)
    tool_time_s = state.tool_time_s + time.monotonic() - started
    text = f"Error: {error}" if error is not None else result.text
    if text is None and not result.images:
        text = "(no output)"
    content: list[Text | Picture] = [_escaped(text)] if text is not None else []
    for index, image in enumerate(result.images, start=len(state.images)):
        content += [Text(text=f"Image {index}:"), Picture(image=downscale(image, rules.max_pixels))]
    if note:
        content.append(Text(text=note))
    tool_states = state.tool_states
    if result.tool_state is not None and call.name is not None:
        tool_states = MappingProxyType({**tool_states, call.name: result.tool_state})
    name = call.name if call.name in rules.tools else NO_TOOL
    return _say(
        state,
        Message(role="tool", name=name, content=tuple(content)),
        calls=state.calls if error == call.error else _with_error(state.calls, number, error),
        images=(*state.images, *result.images),
        tool_time_s=tool_time_s,
        tool_states=tool_states,
    )
