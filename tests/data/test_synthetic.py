"""Synthetic comparisons: seeded, checkable, and closed to readers of the responses alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import read_comparisons
from skyrm_jax.data.synthetic import FAMILIES, __main__, generate, oracle, truth
from skyrm_jax.errors import UserError
from skyrm_jax.eval.baselines import pairs


@pytest.fixture(scope="module")
def made() -> list[Comparison]:
    return list(generate(2000, seed=3))


def test_the_seed_decides_and_comparisons_do_not_depend_on_the_count(made: list[Comparison]) -> None:
    assert list(generate(50, seed=3)) == made[:50]
    assert list(generate(50, seed=4)) != made[:50]


def test_the_oracle_agrees_with_every_label(made: list[Comparison]) -> None:
    for comparison in made:
        right = truth(comparison)
        assert any(right) and not all(right)
        assert len(set(comparison.responses)) == len(comparison.responses)
        expected = {(w, x) for w in range(len(right)) for x in range(len(right)) if right[w] and not right[x]}
        assert {(p.winner, p.loser) for p in comparison.preferences} == expected


def test_every_prompt_belongs_to_exactly_one_task(made: list[Comparison]) -> None:
    tasks = [(family.name, task) for family in FAMILIES for task in family.tasks]
    asked = set()
    for comparison in made:
        prompt = comparison.prompt[-1].content
        owners = [k for k, (_, task) in enumerate(tasks) if task.check(prompt, "") is not None]
        assert len(owners) == 1, prompt
        assert tasks[owners[0]][0] == comparison.category
        asked.add(owners[0])
    assert asked == set(range(len(tasks)))


def test_every_family_and_every_k_occurs(made: list[Comparison]) -> None:
    families = Counter(c.category for c in made)
    assert set(families) == {f.name for f in FAMILIES} and min(families.values()) > 100
    sizes = Counter(len(c.responses) for c in made)
    assert set(sizes) == set(range(2, 9)) and min(sizes.values()) > 60


def test_length_says_nothing(made: list[Comparison]) -> None:
    signs = [np.sign(len(a) - len(b)) for a, b in pairs(made)]
    assert 0.45 < (np.mean(signs) + 1) / 2 < 0.55


def test_noise_turns_labels_round_and_nothing_else(made: list[Comparison]) -> None:
    noisy = list(generate(2000, seed=3, noise=0.3))
    turned = total = 0
    for clean, other in zip(made, noisy, strict=True):
        assert (clean.prompt, clean.responses) == (other.prompt, other.responses)
        assert truth(clean) == truth(other)
        for a, b in zip(clean.preferences, other.preferences, strict=True):
            total += 1
            turned += (a.winner, a.loser) == (b.loser, b.winner)
    assert 0.27 < turned / total < 0.33


def test_the_command_writes_what_is_read_back(tmp_path: Path) -> None:
    out = tmp_path / "new" / "c.jsonl"
    __main__.main(["--out", str(out), "--count", "20", "--seed", "3"])
    assert list(read_comparisons([out], "native", True, Quarantine())) == list(generate(20, seed=3))


def test_bad_arguments() -> None:
    with pytest.raises(UserError, match="negative"):
        generate(-1)
    with pytest.raises(UserError, match="noise"):
        generate(1, noise=1.5)
    with pytest.raises(UserError, match="no synthetic family"):
        oracle("What is love?", "4")
