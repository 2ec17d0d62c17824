"""An engine that writes what a test tells it to, and the turns that tests write on charts."""

from axpo_algo.types import Generation

ZOOM = (
    'zoom {c}\n</think>\n\n<tool_call>\n{{"name": "image_zoom_in", "arguments": '
    '{{"label": "{c}", "bbox_2d": [{x}, 833, {y}, 1000]}}}}\n</tool_call>'
)
ANSWER = "{c} {v}\n</think>\n\n<answer>\\boxed{{{v}}}</answer>"


class ScriptedEngine:
    """Writes each request's script (text, or token ids), continuing what its last turn already holds; every token at
    the same log-prob, every request at the next poll."""

    def __init__(self, chat, script, logprob=-0.5):
        self.chat, self.script, self.logprob = chat, script, logprob
        self.batches, self.limits, self.waiting, self.num_submitted = [], [], [], 0
        self.num_steps = self.num_sampled_tokens = 0

    def submit(self, request, sampling):
        self.waiting.append((self.num_submitted, request, request.token_limit(sampling)))
        self.limits.append(request.token_limit(sampling))
        self.num_submitted += 1
        return self.num_submitted - 1

    def poll(self, timeout_s=0.0):
        batch, self.waiting = self.waiting, []
        if batch:
            self.batches.append(len(batch))
        done = [(ticket, self.write(request, limit)) for ticket, request, limit in batch]
        self.num_steps += 1
        self.num_sampled_tokens += sum(len(generation.token_ids) for _, generation in done)
        return done

    def cancel(self, tickets):
        self.waiting = [item for item in self.waiting if item[0] not in tickets]

    def write(self, request, limit):
        script = self.script(request)
        ids = self.chat.action(script) if isinstance(script, str) else list(script)
        opened = request.token_ids[len(request.token_ids) - _given(self.chat, request.token_ids) :]
        assert list(opened) == ids[: len(opened)]
        ids = ids[len(opened) :]
        cut = ids[:limit]
        return Generation(token_ids=cut, logprobs=[self.logprob] * len(cut), finished=len(cut) == len(ids))

    def sync_weights(self):
        pass


def _given(chat, token_ids):
    """How many tokens of the last turn stand there already: what follows the opened thinking."""
    opening = chat.tokenizer.convert_tokens_to_ids("<think>")
    last = max(i for i, token in enumerate(token_ids) if token == opening)
    return len(token_ids) - last - 2  # the tag and its line break


def facts(env, index):
    """Colour asked for, its box, the right value, and a wrong one, of task `index`."""
    env.reset(options={"index": index})
    (box,) = env.task.gold_boxes
    right = env.task.references[0]
    return env.task.question.split()[6], box, right, "10" if right != "10" else "20"
