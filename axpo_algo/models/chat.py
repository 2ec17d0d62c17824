"""Qwen3-VL's wire format as token ids: first prompt, later observations, actions. No weights, no forward pass.

The first prompt is rendered by the checkpoint's own chat template. Later turns are appended as the template would
write them but never re-rendered: re-rendering strips thinking and changes tokens. Tags are looked up in the
tokenizer. The environment escapes tags in what it shows (`axpo_env.escape`); what this tokenizer still would read as a
control token in a message's text is escaped here, in the same way.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from axpo_algo.models.images import Images
from axpo_algo.types import ProcessedImage
from axpo_env.escape import escape_tokens

__all__ = ["Chat", "ChatError"]

Message = Mapping[str, Any]


class ChatError(ValueError):
    """The tokenizer or template lacks something that the wire format needs, or a message cannot be rendered."""


class Chat:
    """Turns messages into token ids and images, and sampled ids into text.

    tokenizer: a transformers tokenizer with a chat template; image_processor: one of the Qwen2-VL family.
    Raises ChatError where the tokenizer has no template or lacks one of the tags.
    """

    IMAGE = "<|image_pad|>"
    TAGS = (
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        IMAGE,
        "<|video_pad|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
    )

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        if not tokenizer.chat_template:
            raise ChatError("the tokenizer has no chat template")
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.images = Images(image_processor)
        self._ids = {tag: self._single(tag) for tag in self.TAGS}
        self._pieces: dict[str, list[int]] = {}
        special = set(tokenizer.all_special_tokens) | set(self.TAGS[:6])
        added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
        bracketed = {token for token in added if token.startswith("<") and token.endswith(">")}
        self._special = _any_of(special)  # these act in no text
        self._control = _any_of(special | bracketed | set(self.TAGS))  # nor do these in a user's or a tool's
        probe = [{"role": "user", "content": "x"}]
        closed = tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=False)
        opened = tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
        if not opened.startswith(closed):
            raise ChatError("the chat template's generation prompt does not merely follow the conversation")
        self.generation_prompt: str = opened[len(closed) :]
        self.banned_token_ids = sorted(
            {
                self._ids[tag]
                for tag in ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", self.IMAGE, "<|video_pad|>")
            }
            | ({tokenizer.pad_token_id} - {None, self.end_of_turn_id})
        )

    def _single(self, tag: str) -> int:
        ids = self.tokenizer.encode(tag, add_special_tokens=False)
        if len(ids) != 1:
            raise ChatError(
                f"the tokenizer writes {tag!r} as {len(ids)} tokens; this policy needs it to be one"
            )
        return int(ids[0])

    @property
    def image_token_id(self) -> int:
        return self._ids[self.IMAGE]

    @property
    def end_of_turn_id(self) -> int:
        return self._ids["<|im_end|>"]

    @property
    def tool_call_id(self) -> int:
        """The opening tag: AXPO's branch point is one past it."""
        return self._ids["<tool_call>"]

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[list[int], list[ProcessedImage]]:
        """The first observation's messages with the tools' schemas, up to where the policy starts to write."""
        plain = [{"role": m["role"], "content": self._parts(m)} for m in messages]
        text = self.tokenizer.apply_chat_template(
            plain, tools=list(tools) or None, tokenize=False, add_generation_prompt=True
        )
        return self._encode(text, self._message_images(messages))

    def observation(self, messages: Sequence[Message]) -> tuple[list[int], list[ProcessedImage]]:
        """What follows the policy's end-of-turn token: tool results share one user turn, then the policy's turn opens.

        Raises ChatError for a role other than "tool" and "user", or for none at all.
        """
        if not messages:
            raise ChatError("an observation needs at least one message")
        text = "\n"
        previous = None
        for message in messages:
            role = message["role"]
            if role not in ("tool", "user"):
                raise ChatError(f"an observation holds 'tool' or 'user' messages, got {role!r}")
            body = "".join(
                part["text"] if part["type"] == "text" else f"<|vision_start|>{self.IMAGE}<|vision_end|>"
                for part in self._parts(message)
            )
            if role == "tool":
                text += "" if previous == "tool" else "<|im_start|>user"
                text += f"\n<tool_response>\n{body}\n</tool_response>"
            else:
                text += (
                    "<|im_end|>\n" if previous == "tool" else ""
                ) + f"<|im_start|>user\n{body}<|im_end|>\n"
            previous = role
        text += ("<|im_end|>\n" if previous == "tool" else "") + self.generation_prompt
        return self._encode(text, self._message_images(messages))

    def action(self, text: str) -> list[int]:
        """A demonstration's action as the policy would write it, the end-of-turn token included."""
        return [*self._encode_text(text), self.end_of_turn_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of sampled ids, tags included, an end-of-turn token at the end left out."""
        ids = list(token_ids)
        if ids and ids[-1] == self.end_of_turn_id:
            ids.pop()
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def as_action(self, text: str) -> str:
        """What the environment must read: the turn's text behind the thinking that the generation prompt opened.

        Without it, a call or an answer in thinking that was never closed would count.
        """
        return "<think>\n" + text if self.generation_prompt.rstrip().endswith("<think>") else text

    def readable(self, token_ids: Sequence[int]) -> str:
        """All tokens as text, a run of image placeholders shown once."""
        ids = [
            i for n, i in enumerate(token_ids) if i != self.image_token_id or token_ids[n - 1] != i or n == 0
        ]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def first_call(self, token_ids: Sequence[int]) -> tuple[int, int] | None:
        """Where one turn's first tool call lies: (one past its opening tag, one past its last token); None without one.

        Tags before the end of the thinking are quotations, where the generation prompt opens thinking or the turn does.
        A call that is never closed ends before the end-of-turn token.
        """
        ids = list(token_ids)
        thinks = "<think>" in self.generation_prompt or self._ids["<think>"] in ids
        if thinks and self._ids["</think>"] not in ids:
            return None
        start = ids.index(self._ids["</think>"]) + 1 if self._ids["</think>"] in ids else 0
        if self.tool_call_id not in ids[start:]:
            return None
        opened = ids.index(self.tool_call_id, start)
        for position in range(opened + 1, len(ids)):
            if ids[position] == self._ids["</tool_call>"]:
                return opened + 1, position + 1
            if ids[position] == self.end_of_turn_id:
                return opened + 1, position
        return opened + 1, len(ids)

    def image(self, pixels: np.ndarray) -> ProcessedImage:
        """uint8 [H, W, 3] -> patches; see `Images.process`."""
        return self.images.process(pixels)

    def _parts(self, message: Message) -> list[dict[str, str]]:
        """Texts, escaped, and image marks. Texts in a row are one: no tag comes together where they meet."""
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        plain: list[dict[str, str]] = []
        for part in parts:
            if part["type"] == "text" and plain and plain[-1]["type"] == "text":
                plain[-1]["text"] += part["text"]
            elif part["type"] == "text":
                plain.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                plain.append({"type": "image"})
            else:
                raise ChatError(f"a message part is 'text' or 'image', got {part['type']!r}")
        tokens = self._control if message["role"] in ("user", "tool") else self._special
        for part in plain:
            if part["type"] == "text":
                part["text"] = escape_tokens(part["text"], tokens)
        return plain

    def _message_images(self, messages: Sequence[Message]) -> list[ProcessedImage]:
        contents = [m["content"] for m in messages if not isinstance(m["content"], str)]
        return [
            self.image(part["image"]) for content in contents for part in content if part["type"] == "image"
        ]

    def _encode(self, text: str, images: list[ProcessedImage]) -> tuple[list[int], list[ProcessedImage]]:
        pieces = text.split(self.IMAGE)
        if len(pieces) != len(images) + 1:
            raise ChatError(
                f"the template shows {len(pieces) - 1} images where the messages hold {len(images)}"
            )
        ids = self._encode_text(pieces[0])
        for image, piece in zip(images, pieces[1:], strict=True):
            ids += [self.image_token_id] * image.num_tokens
            ids += self._encode_text(piece)
        return ids, images

    def _encode_text(self, text: str) -> list[int]:
        if text not in self._pieces:
            if len(self._pieces) > 4096:
                self._pieces.clear()
            self._pieces[text] = (
                [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)] if text else []
            )
        return list(self._pieces[text])


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches any of `tokens`, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
