"""What bench_data.py times in processes of its own: an epoch out of a file, ours and TRL's, and loading from a store.

    python tools/bench_epoch.py '"ours"' '{"source": "pairs.jsonl", "folder": "SCRATCH", "tokenizer": "DIR"}'

Prints a line of JSON. Workers import this file anew, so it holds no more than they need.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from bench_index import ROW_TOKENS, timed

from skyrm_jax.data import index
from skyrm_jax.data.pipeline import Packer, row_shapes, train_batches
from skyrm_jax.data.store import Store
from skyrm_jax.schedule import Schedule

WORKERS = 2
MOST_TOKENS = 2048
BATCH = 128

Figures = dict[str, Any]


def ours_epoch(source: str, folder: str, tokenizer: str) -> Figures:
    """An epoch of batches out of a file, in our way."""
    from rich.console import Console

    from skyrm_jax.prepare import PrepareOptions, prepare

    options = PrepareOptions(
        [source],
        f"{folder}/store",
        tokenizer,
        max_tokens=MOST_TOKENS,
        empty="keep",
        held_out=0,
        dedup=False,
        workers=WORKERS,
    )
    with Path(os.devnull).open("w") as nowhere:
        store = prepare(options, Console(file=nowhere))
    shapes = row_shapes(store.meta["sources"], [MOST_TOKENS], [8])
    packer = Packer(store, shapes, {shape: range(shape.rows) for shape in shapes}, 1, 0, 25_000)
    schedule = Schedule.of(store.index.training(), BATCH, epochs=1, seed=0)
    return {"pairs": sum(b.comparisons for b in train_batches(packer, schedule, 0, schedule.steps, workers=WORKERS))}


def trl_epoch(source: str, folder: str, tokenizer: str) -> Figures:
    """The same in TRL's: what RewardTrainer does to its data set when it is made, and its training loader."""
    os.environ["HF_HOME"] = f"{folder}/hf"  # or a second epoch would find the first one's work done
    from datasets import load_dataset
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    with redirect_stdout(sys.stderr):
        trainer = RewardTrainer(
            model=Qwen3ForSequenceClassification(
                # Never run: RewardTrainer wants one.
                Qwen3Config(
                    hidden_size=8,
                    intermediate_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=1,
                    head_dim=8,
                    num_key_value_heads=1,
                    num_labels=1,
                )
            ),
            args=RewardConfig(
                output_dir=folder,
                max_length=MOST_TOKENS,
                dataset_num_proc=WORKERS,
                dataloader_num_workers=WORKERS,
                per_device_train_batch_size=BATCH,
                use_cpu=True,
                bf16=False,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=load_dataset("json", data_files=source, split="train"),
            processing_class=AutoTokenizer.from_pretrained(tokenizer),
        )
        return {"pairs": sum(len(batch["input_ids"]) // 2 for batch in trainer.get_train_dataloader())}


def load(store: str, chips: int, tokens: int) -> Figures:
    """Tokens per second of about `tokens` in steps of 256 pairs, after as many steps as it takes until all workers run."""
    opened = Store.open(store)
    batch = min(256, len(opened))
    before = 4 * WORKERS
    shapes = row_shapes(opened.meta["sources"], ROW_TOKENS, [chips] * len(ROW_TOKENS))
    packer = Packer(opened, shapes, {shape: range(chips) for shape in shapes}, chips, 0, 25_000)
    training = opened.index.training()
    steps = -(-tokens * len(opened) // (batch * opened.meta["totals"]["tokens"]))
    schedule = Schedule.of(training, batch, epochs=1 + (before + steps) * batch // len(training), seed=0)
    batches: Iterator[Any] = train_batches(packer, schedule, 0, before + steps, workers=WORKERS)
    for _ in range(before):
        next(batches)
    loaded, seconds = timed(lambda: sum(one.tokens for one in batches))
    rows = opened.index.rows
    return {
        "tokens_per_second": loaded / seconds,
        "visible_per_token": float(index.visible_pairs(rows).sum() / rows["tokens"].sum(dtype=np.int64)),
    }


if __name__ == "__main__":
    task, arguments = map(json.loads, sys.argv[1:])
    print(json.dumps({"ours": ours_epoch, "trl": trl_epoch, "load": load}[task](**arguments)))
