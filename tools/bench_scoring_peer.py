"""One side of bench_scoring.py, alone in a process: it answers one line of JSON with another.

    python tools/bench_scoring_peer.py ours | transformers CHECKPOINT [bfloat16 | float32 [cpu | gpu]]

Both sides are given token ids, every conversation of every comparison whole, and give its reward. What they do with them is
inside their clocks; tokenising, loading and compiling are not. A side that waits reads a pipe, and its thread pools sleep.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TextIO

import numpy as np

Ids = list[int]
Facts = dict[str, Any]

ROWS, MULTIPLE = 8, 64
"""The padded rows that `padded` compares trees with: so many rows a batch, sorted by length, rounded up to such a length."""


class Ours:
    """`Scorer`, with what it does by default; the environment says on which device."""

    def __init__(self, checkpoint: str, dtype: Literal["bfloat16", "float32"] = "bfloat16", device: str = "cpu"):
        from skyrm_jax.scorer import Scorer

        self.scorer = Scorer.load(checkpoint, dtype=dtype)
        self.sets: dict[str, list[list[Ids]]] = {}
        self.slots = 0
        forward = self.scorer._forward

        def counting(params: Any, batch: dict[str, Any]) -> Any:
            self.slots += batch["tokens"].size
            return forward(params, batch)

        self.scorer._forward = counting  # type: ignore[assignment]

    def take(self, name: str, comparisons: list[list[Ids]]) -> Facts:
        from skyrm_jax.chat import build_tree

        self.sets[name] = comparisons
        trees = [build_tree(one, self.scorer.chat.pad_token_id) for one in comparisons]
        return {
            "tree_tokens": sum(len(tree.tokens) for tree in trees),
            "unshared_tokens": sum(tree.conversation_tokens for tree in trees),
        }

    def compile(self, name: str) -> Facts:
        """Compiles what `score` needs, as a long run does once: with one micro-batch."""
        from skyrm_jax.chat import build_tree

        trees = [build_tree(one, self.scorer.chat.pad_token_id) for one in self.sets[name]]
        pieces, plans = self.scorer._plan(trees)
        whole = {number: (tree, ()) for number, tree in enumerate(trees)}
        for _, values in self.scorer._forward_all(pieces, whole, plans[:1]):
            values.block_until_ready()
        return {}

    def score(self, name: str, layout: str = "trees") -> Facts:
        """`layout`: `trees`, as the scorer has them; `packed`, conversations packed alike but sharing nothing; `padded`."""
        from skyrm_jax.chat import build_tree

        comparisons = self.sets[name]
        if layout != "trees":
            comparisons = [[ids] for one in comparisons for ids in one]
        self.slots, before = 0, len(self.scorer.manifest["batches"])
        trees = [build_tree(one, self.scorer.chat.pad_token_id) for one in comparisons]
        rewards = self._padded(trees) if layout == "padded" else self.scorer.score_trees(trees)
        compiled = len(self.scorer.manifest["batches"]) > before
        return {"rewards": np.concatenate(rewards).tolist(), "slots": self.slots, "compiled": compiled}

    def _padded(self, trees: Sequence[Any]) -> list[np.ndarray]:
        """Each conversation at the start of a row of its own, through the scorer's forward pass."""
        import jax

        from skyrm_jax.mesh import my_rows, row_shards, to_device
        from skyrm_jax.packing import MicroBatchPlan, Pieces, RowShape
        from skyrm_jax.rows import assemble

        scorer = self.scorer
        pieces = Pieces.of(trees, [0] * len(trees), scorer.row_tokens)
        whole = {number: (tree, ()) for number, tree in enumerate(trees)}
        waiting: list[tuple[list[int], Any]] = []
        with jax.set_mesh(scorer.mesh):
            for part in batches([len(tree.tokens) for tree in trees], ROWS):
                longest = max(len(trees[number].tokens) for number in part)
                rows = len(part) + -len(part) % row_shards(scorer.mesh)
                shape = RowShape(rows, longest + -longest % MULTIPLE, leaves=1, pairs=1)
                plan = MicroBatchPlan(shape, [[number] for number in part] + [[]] * (rows - len(part)))
                micro_batch = assemble(plan, pieces, whole, my_rows(scorer.mesh, rows), scorer.chat.pad_token_id or 0)
                arrays = to_device(scorer.mesh, micro_batch.arrays())
                waiting.append((part, scorer._forward(scorer.loaded.params, arrays)))
        rewards = [np.empty(0, np.float32)] * len(trees)
        for part, values in waiting:
            for number, value in zip(part, np.asarray(values), strict=False):
                rewards[number] = value
        return rewards


class Transformers:
    """`AutoModelForSequenceClassification` on padded batches of conversations sorted by length."""

    def __init__(self, checkpoint: str, dtype: Literal["bfloat16", "float32"] = "bfloat16", device: str = "cpu"):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.checkpoint, self.device = checkpoint, {"cpu": "cpu", "gpu": "cuda"}[device]
        self.model = self._load(dtype)
        self.sets: dict[str, list[Ids]] = {}

    def _load(self, dtype: str) -> Any:
        import torch
        from transformers import AutoModelForSequenceClassification

        # Loaded, not cast: a cast would round the rotary frequencies, which are buffers.
        model = AutoModelForSequenceClassification.from_pretrained(self.checkpoint, dtype=getattr(torch, dtype)).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # from the mapped file, which may leave the page cache, to memory
        return model.to(self.device)

    def take(self, name: str, comparisons: list[list[Ids]]) -> Facts:
        self.sets[name] = [ids for one in comparisons for ids in one]
        return {}

    def score(self, name: str, attention: str = "sdpa", batch: int = 8, part: Sequence[int] = ()) -> Facts:
        """`part`: the numbers of the conversations that are scored, all without it."""
        if self.model.config._attn_implementation != attention:
            self.model.set_attn_implementation(attention)
        import torch

        try:
            return self._score(self.model, [self.sets[name][number] for number in part] or self.sets[name], batch)
        except torch.cuda.OutOfMemoryError:
            return {"rewards": [], "slots": 0, "fits": False}

    def exact(self, name: str, part: Sequence[int]) -> Facts:
        """The same conversations in fp32, one by one: what either side's bfloat16 comes near."""
        return self._score(self._load("float32"), [self.sets[name][number] for number in part], 1)

    def _score(self, model: Any, conversations: Sequence[Ids], batch: int) -> Facts:
        import torch

        slots, scored, logits = 0, [], []
        with torch.inference_mode():
            for numbers in batches([len(ids) for ids in conversations], batch):
                longest = max(len(conversations[number]) for number in numbers)
                ids = torch.full((len(numbers), longest), model.config.pad_token_id)
                mask = torch.zeros_like(ids)
                for row, number in enumerate(numbers):
                    length = len(conversations[number])
                    ids[row, :length] = torch.tensor(conversations[number])
                    mask[row, :length] = 1
                inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
                logits.append(model(**inputs, use_cache=False).logits[:, 0])
                scored += numbers
                slots += ids.numel()
            rewards = np.zeros(len(conversations))
            rewards[scored] = torch.cat(logits).float().cpu().numpy()  # a GPU is waited for here, once
        return {"rewards": rewards.tolist(), "slots": slots}


SIDES: dict[str, Callable[..., Any]] = {"ours": Ours, "transformers": Transformers}
"""What bench_scoring.py asks of both: `take` keeps a data set, `score` gives the rewards of its conversations, in order, and
how many token slots were computed for them."""


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The numbers of these sequences, longest first, in batches of `size`."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    return [order[first : first + size] for first in range(0, len(order), size)]


def serve(side: Any, requests: TextIO, answers: TextIO) -> None:
    """Answers requests to the end of the file, with what each took, and what the process used while it waited before."""
    rested, rested_cpu = time.perf_counter(), time.process_time()
    for line in requests:
        request = json.loads(line)
        gc.collect()
        began, cpu = time.perf_counter(), time.process_time()
        idle = {"idle_seconds": began - rested, "idle_cpu_seconds": cpu - rested_cpu}
        facts = getattr(side, request.pop("do"))(**request)
        rested, rested_cpu = time.perf_counter(), time.process_time()
        facts |= {"seconds": rested - began, "cpu_seconds": rested_cpu - cpu, **idle}
        answers.write(json.dumps(facts) + "\n")
        answers.flush()
        rested, rested_cpu = time.perf_counter(), time.process_time()


@contextmanager
def answers_alone() -> Any:
    """Standard output for answers; whatever else is printed goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        yield answers


if __name__ == "__main__":
    with answers_alone() as out:
        serve(SIDES[sys.argv[1]](*sys.argv[2:]), sys.stdin, out)
