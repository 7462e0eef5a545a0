"""Near duplicates are those that a comparison of every prompt with every other finds."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from skyrm_jax.comparison import Message
from skyrm_jax.curate import near_duplicates
from skyrm_jax.curate.engine import Engine, write_table
from skyrm_jax.curate.ingest import table
from skyrm_jax.curate.near_duplicates import NearDuplicates, clusters, member, sketch
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError

Prompt = Sequence[Message]
Found = dict[int, tuple[int, float]]
"""For prompts that an earlier one represents: which, and how alike they are."""
Find = Callable[..., Found]


def user(text: str) -> list[Message]:
    return [Message("user", text)]


def shingles(prompt: Prompt, size: int) -> set[tuple[str, ...]]:
    said = " ".join(m.content for m in prompt if m.role != "system").lower().split()
    return {tuple(said[i : i + size]) for i in range(max(1, len(said) - size + 1))} if said else set()


def naive(prompts: Sequence[Prompt], options: NearDuplicates) -> Found:
    """Representative of each prompt that has an earlier one, and how alike they are."""
    runs = [shingles(prompt, options.shingle) for prompt in prompts]
    systems = [[m.content for m in prompt if m.role == "system"] for prompt in prompts]
    cluster = list(range(len(prompts)))

    def alike(i: int, j: int) -> float:
        return len(runs[i] & runs[j]) / len(runs[i] | runs[j]) if runs[i] and runs[j] else 0.0

    for i in range(len(prompts)):
        for j in range(i):
            if systems[i] == systems[j] and alike(i, j) >= options.threshold:
                low, high = sorted((cluster[i], cluster[j]))
                cluster = [low if one == high else one for one in cluster]
    return {i: (root, alike(i, root)) for i, root in enumerate(cluster) if root != i}


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """The near duplicates among prompts at positions 0, 10, 20 ..., found by way of two files."""
    Engine().start()
    monkeypatch.setattr(near_duplicates, "RECALL", 1 - 1e-9)  # no test fails by chance

    def run(prompts: Sequence[Prompt], options: NearDuplicates, wanted: Sequence[int] | None = None) -> Found:
        answers = [Message("assistant", "a")], [Message("assistant", "b")]
        pairs = [Pair.of(prompt, *answers) for prompt in prompts]
        half, folder = len(pairs) // 2, tmp_path / f"{len(list(tmp_path.iterdir()))}"
        positions = [10 * n for n in range(len(pairs))]
        paths = [folder / "a.parquet", folder / "b.parquet"]
        write_table(paths[0], table(pairs[:half], positions[:half]))
        write_table(paths[1], table(pairs[half:], positions[half:]))
        np.save(folder / "wanted.npy", np.array(positions if wanted is None else wanted, np.int64))
        sketch(paths, folder / "wanted.npy", options, folder / "sketch", processes=False)
        found = clusters(folder / "sketch", options.threshold).to_pylist()
        assert [row["position"] for row in found] == sorted(row["position"] for row in found)
        return {row["position"] // 10: (row["representative"] // 10, row["similarity"]) for row in found}

    return run


@pytest.mark.parametrize("batch", [1 << 14, 32])
@pytest.mark.parametrize("options", [NearDuplicates(0.7, 2), NearDuplicates(0.5, 1), NearDuplicates(1.0, 3, hashes=4)])
def test_finds_what_comparing_all_with_all_finds(
    find: Find, monkeypatch: pytest.MonkeyPatch, options: NearDuplicates, batch: int
) -> None:
    monkeypatch.setattr(near_duplicates, "MEMBERS", batch)
    monkeypatch.setattr(near_duplicates, "ROWS", batch // 2)
    draw, prompts = random.Random(1), []
    for _ in range(60):
        said = draw.choices([f"w{n}" for n in range(60)], k=draw.randint(0, 25))
        for _ in range(draw.choice([1, 1, 2, 4])):
            changed = [word if draw.random() > 0.08 else "other" for word in said]
            system = [Message("system", "be kind")] * draw.choice([0, 0, 0, 1])
            prompts.append([*system, *user(" ".join(changed))])
    draw.shuffle(prompts)
    expected = naive(prompts, options)
    assert find(prompts, options) == expected and len(expected) > 10


def test_what_is_compared(find: Find) -> None:
    text = "add 1 and 2 and 3 to what you had before the meal of the day in the old house by the sea"
    prompts = [
        user(text),
        user(text.replace("1", "7")),  # a word of one character counts
        user(text.upper() + "!!"),  # case and signs do not
        [Message("system", "Answer in French."), *user(text)],
        [Message("user", text[:40]), Message("assistant", text[40:]), Message("user", "more")],
        user("请把下面这段话翻译成英文谢谢你的帮助我很高兴认识你"),
        user("请把下面这段话翻译成英文谢谢你的帮助我很高兴认识他"),
        user("请用十个字介绍你自己然后说说你最喜欢的书是哪一本"),
        user("?!"),
        user("..."),
    ]
    found = find(prompts, NearDuplicates(0.85, 3))
    assert {i: one for i, (one, _) in found.items()} == {2: 0, 4: 0, 6: 5}
    assert found[2][1] == 1.0 and 0.85 <= found[4][1] < 1


def test_a_chain_is_one_cluster_whose_ends_may_differ(find: Find) -> None:
    said = [f"w{n}" for n in range(20)]
    chain = [user(" ".join(said[n : n + 12])) for n in (0, 2, 4)]
    found = find(chain, NearDuplicates(0.7, 1))
    assert found == {1: (0, 10 / 14), 2: (0, 8 / 16)}


def test_only_wanted_prompts_are_compared(find: Find) -> None:
    prompts = [user("one two three four five")] * 4
    assert find(prompts, NearDuplicates(), wanted=[10, 30]) == {3: (1, 1.0)}
    assert find(prompts, NearDuplicates(), wanted=[]) == {}


def test_members_are_told() -> None:
    assert member(np.array([1, 5, 9]), np.array([5, 7])).tolist() == [False, True, False]
    assert member(np.array([1, 5]), np.array([], np.int64)).tolist() == [False, False]


def test_banding_reaches_the_recall_it_promises() -> None:
    for threshold in (0.5, 0.8, 0.95, 1.0):
        bands, rows = NearDuplicates(threshold).banding
        assert 1 - (1 - threshold**rows) ** bands >= 0.999 and bands * rows <= 128
        longer = rows + 1
        assert longer > 128 or 1 - (1 - threshold**longer) ** (128 // longer) < 0.999


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"threshold": 0.0}, "threshold must be above 0"),
        ({"threshold": 1.1}, "threshold must be above 0"),
        ({"shingle": 0}, "shingle must be at least 1"),
        ({"hashes": 0}, "hashes must be at least 1"),
        ({"threshold": 0.3, "hashes": 8}, "hashes = 8 are too few"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=rf"preprocess\.near_duplicates\.{said}"):
        NearDuplicates(**values)  # type: ignore[arg-type]
