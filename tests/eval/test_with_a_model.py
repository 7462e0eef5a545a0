"""eval and score with a real, tiny checkpoint: text, store and Python give the same rewards."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from skyrm_jax import score
from skyrm_jax.comparison import Comparison
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.data import bpe
from skyrm_jax.errors import UserError
from skyrm_jax.eval import cli
from skyrm_jax.forms import parse
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import map_table
from skyrm_jax.prepare import PrepareOptions, prepare
from skyrm_jax.scorer import Scorer

WORDS = ["red", "green", "blue", "one", "two", "three", "sun", "moon"]
COMMON = ["--max-tokens", "128", "--dtype", "float32"]


def records() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 6)))

    made = [
        {"prompt": f"{i} {text()}", "responses": [f"{k} {text()}" for k in range(int(rng.integers(2, 5)))]}
        for i in range(12)
    ]
    made.append({"prompt": "twice", "responses": ["the same", "the same"]})
    return [r | {"chosen": 0, "category": "odd" if i % 2 else "even"} for i, r in enumerate(made)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.jsonl, a checkpoint, and one whose head is zero."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records()))
    comparisons = [parse(r) for r in records()]
    tokenizer = bpe.save(bpe.train(bpe.texts_of(comparisons), 300), folder / "tokenizer")
    architecture = Architecture("qwen3", 300, 16, 32, 2, 2, 1, 8, True, 1e-6, Rope(), 256, pad_token_id=0)
    rng = np.random.default_rng(1)
    params = map_table(architecture, lambda _, spec: jnp.asarray(rng.normal(0, 0.2, spec.shape), jnp.float32))
    write_checkpoint(folder / "model", MemoryWeights.of(architecture, params), tokenizer, {})
    zero = MemoryWeights.of(architecture, params | {"score": 0 * params["score"]})
    write_checkpoint(folder / "zero", zero, tokenizer, {})
    return folder


@pytest.fixture(scope="module")
def rewards(place: Path) -> list[np.ndarray]:
    return scorer(place).score([Comparison.of(r["prompt"], r["responses"]) for r in records()])


def scorer(place: Path) -> Scorer:
    return Scorer.load(str(place / "model"), max_tokens=128, dtype="float32")


def test_score_writes_what_python_gives(place: Path, rewards: list[np.ndarray]) -> None:
    out = place / "out.jsonl"
    score.main([str(place / "data.jsonl"), str(out), "--checkpoint", str(place / "model"), *COMMON])
    got = [np.array(json.loads(line)["rewards"], np.float32) for line in out.read_text().splitlines()]
    for a, b in zip(got, rewards, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({r for reward in rewards[:-1] for r in reward.tolist()}) == sum(map(len, rewards[:-1]))
    manifest = json.loads((place / "out.jsonl.manifest.json").read_text())
    assert manifest["template_hash"] == scorer(place).manifest["template_hash"]
    assert manifest["versions"]["jax"] == jax.__version__


def test_eval_of_text_and_of_its_store_agree(place: Path, rewards: list[np.ndarray]) -> None:
    options = PrepareOptions(
        [str(place / "data.jsonl")], str(place / "store"), str(place / "tokenizer"), max_tokens=128, held_out=0.5,
        training=False,
    )  # fmt: skip
    store = prepare(options)
    held_out = store.index.held_out.tolist()
    assert 0 < len(held_out) < 13
    lines = (place / "data.jsonl").read_text().splitlines()
    (place / "half.jsonl").write_text("".join(lines[i] + "\n" for i in held_out))
    figures = {}
    for name in ("half.jsonl", "store"):
        out = place / f"eval {name}"
        cli.main(["--checkpoint", str(place / "model"), "--held-out", str(place / name), "--out", str(out), *COMMON])
        found = pq.read_table(out / "rewards.parquet").column("rewards").to_pylist()
        for got, i in zip(found, held_out, strict=True):
            np.testing.assert_allclose(got, rewards[i], atol=1e-6)
        results = json.loads((out / "results.json").read_text())
        figures[name] = results["results"]["held-out"]
        pairs = figures[name].pop("pairs")
        assert (pairs.pop("length") is None) == (pairs.pop("markdown") is None) == (name == "store")
        figures[name] |= pairs
        counts = results["manifest"]["sets"]["held-out"]["counts"]
        assert counts["comparisons"] == len(held_out)
        assert counts["responses"] == sum(len(rewards[i]) for i in held_out)
    assert figures["store"] == figures["half.jsonl"]
    both = ["--held-out", str(place / "store"), str(place / "half.jsonl")]
    with pytest.raises(UserError, match="takes one store"):
        cli.main(["--checkpoint", "x", *both, "--out", str(place / "x")])


def test_identical_responses_are_an_exact_tie(place: Path, rewards: list[np.ndarray]) -> None:
    assert rewards[-1][0] == rewards[-1][1]
    out = place / "ties"
    cli.main(
        ["--checkpoint", str(place / "model"), "--held-out", str(place / "data.jsonl"), "--out", str(out), *COMMON]
    )
    figure = json.loads((out / "results.json").read_text())["results"]["held-out"]["sections"]["Pair accuracy"]
    assert figure["All pairs"]["ties"] == 1


def test_an_untrained_head_and_a_foreign_store_are_refused(place: Path, tmp_path: Path) -> None:
    arguments = ["--held-out", str(place / "data.jsonl"), "--out", str(tmp_path)]
    with pytest.raises(UserError, match="its reward head is zero"):
        cli.main(["--checkpoint", str(place / "zero"), *arguments])
    options = PrepareOptions(
        [str(place / "data.jsonl")],
        str(tmp_path / "s"),
        str(place / "tokenizer"),
        template="plain",
        held_out=3,
        training=False,
    )
    prepare(options)
    arguments = ["--held-out", str(tmp_path / "s"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"its template_hash .* is not the checkpoint's"):
        cli.main(["--checkpoint", str(place / "model"), *arguments, *COMMON])
