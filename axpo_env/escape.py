r"""The escape that keeps control tags out of what a policy reads: `<tool_call>` in a text becomes `<\tool_call>`.

Qwen's tokenizer turns `<think>`, `<tool_call>`, `<tool_response>`, their closing tags, `<|im_end|>` and
the like into control tokens wherever they stand. A question, a page or a program's output that holds one would open
turns and images that nobody wrote. `dynamics` therefore escapes all text of the user's and the tools' messages, once,
where it enters the conversation: `observation["text"]`, `info["messages"]`, transcripts and adapters show the same
text, and it is safe in all. The policy's own text and the system prompt keep their tags.

The escape is a backslash behind the `<`, one more where there are some already. Readers see it, and `unescape_tags`
undoes it exactly. `<answer>` is no token and acts in the policy's own text only, so it stays. Of other tokenizers'
tokens those like `<|word|>` are covered; the trainer's `Chat` escapes whatever else the loaded one has.
"""

import re

_TAG = r"(?:/?(?:think|tool_call|tool_response)>|[|｜][^\s<>|｜]+[|｜]>)"
_UNESCAPED = re.compile(rf"<(?=\\*{_TAG})")
_ESCAPED = re.compile(rf"<\\(?=\\*{_TAG})")
_LIVE = re.compile(rf"<(?={_TAG})")


def escape_tags(text: str) -> str:
    r"""`text` without control tags.

    >>> escape_tags("use <tool_call> or <|im_end|>, a < b, <answer>")
    'use <\\tool_call> or <\\|im_end|>, a < b, <answer>'
    """
    return _UNESCAPED.sub(r"<\\", text) if "<" in text else text


def unescape_tags(text: str) -> str:
    """What `escape_tags` was given: `unescape_tags(escape_tags(text)) == text`."""
    return _ESCAPED.sub("<", text) if "<" in text else text


def escape_tokens(text: str, tokens: re.Pattern[str]) -> str:
    """`text` without the `tokens` of one tokenizer, escaped alike. Leaves what `escape_tags` gave as it is."""
    return tokens.sub(lambda found: f"{found[0][:1]}\\{found[0][1:]}", text)


def escape_json(json_text: str) -> str:
    r"""`json_text` with the `<` of tags as `\u003c`, which JSON reads as the same: a string in it ends no call."""
    return _LIVE.sub(r"\\u003c", json_text) if "<" in json_text else json_text
