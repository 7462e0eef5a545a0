"""The world of the curation experiment errs as often as it says, and where it says."""

import json
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from curation_alpaca import TEST_PROMPTS
from curation_alpaca import setting as alpaca_eval
from curation_synthetic import LURED, Synthetic, clean_pairs
from curation_world import (
    GARBAGE,
    NOISE,
    RIGHT,
    RIGHT_LURED,
    Beliefs,
    answer,
    flipped,
    is_right,
    language_models,
    noisy,
    people,
    texts,
)

WORLD = Synthetic()


@pytest.fixture(scope="module")
def pairs() -> list[Any]:
    return clean_pairs(4000, 3)


def share(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)


def test_truth_is_in_the_labels_until_noise_turns_them(pairs: list[Any]) -> None:
    assert all(is_right(WORLD, pair) for pair in pairs)
    assert not any(is_right(WORLD, flipped(pair)) for pair in pairs[:100])
    assert share(pair.preferences[0].winner == 0 for pair in pairs) == pytest.approx(0.5, abs=0.03)
    made = noisy(WORLD, pairs, 0, LURED)
    assert [texts(pair)[0] for pair in made] == [texts(pair)[0] for pair in pairs]
    wrong = [not is_right(WORLD, pair) for pair in made]
    assert share(wrong) == pytest.approx(NOISE, abs=0.02)
    lured = [WORLD.is_lured(*texts(pair)[1:]) for pair in pairs]
    of_lured = share(w for w, of in zip(wrong, lured, strict=True) if of)
    elsewhere = share(w for w, of in zip(wrong, lured, strict=True) if not of)
    assert elsewhere == pytest.approx(LURED / (1 - LURED), abs=0.02) and of_lured > 3 * elsewhere
    assert noisy(WORLD, pairs, 0, LURED) == made != noisy(WORLD, pairs, 1, LURED)


def test_models_are_right_as_often_as_said_and_together_more_often_than_by_chance(pairs: list[Any]) -> None:
    beliefs = Beliefs.of(WORLD, pairs)
    right = {model: [beliefs.prefers_first(model, *texts(pair)) for pair in pairs] for model in "ab"}
    kinds = [WORLD.objectivity(texts(pair)[0]) for pair in pairs]
    lured = [WORLD.is_lured(*texts(pair)[1:]) for pair in pairs]
    for kind, mean in RIGHT.items():
        assert share(r for r, k in zip(right["a"], kinds, strict=True) if k == kind) == pytest.approx(mean, abs=0.03)
    assert share(r for r, of in zip(right["a"], lured, strict=True) if of) == pytest.approx(RIGHT_LURED, abs=0.05)
    same = share(a == b for a, b in zip(right["a"], right["b"], strict=True))
    assert 0.7 < same < 0.95
    for pair in pairs[:200]:  # whatever the order
        prompt, better, worse = texts(pair)
        assert beliefs.prefers_first("a", prompt, better, worse) != beliefs.prefers_first("a", prompt, worse, better)


def request(prompt: str, one: str, two: str, end: str = "Judge.") -> dict[str, Any]:
    parts = [("user", prompt), ("candidate_1", one), ("candidate_2", two)]
    text = "\n".join(f"<{name}-12345678>\n{said}\n</{name}-12345678>" for name, said in parts)
    return {"model": "a", "messages": [{"role": "user", "content": f"{text}\n{end}"}]}


def test_answers_over_http_are_other_samples_of_one_belief(pairs: list[Any]) -> None:
    beliefs = Beliefs.of(WORLD, pairs)
    asked = request(*texts(pairs[0]))
    with language_models(lambda body, number: answer(beliefs, body, number)) as url:
        body = json.dumps(asked).encode()
        said = [json.load(urlopen(f"{url}/chat/completions", body)) for _ in range(60)]
    contents = [one["choices"][0]["message"]["content"] for one in said]
    assert all(one["usage"]["completion_tokens"] > 0 for one in said)
    expected = json.dumps({"preferred": f"Candidate {1 if beliefs.prefers_first('a', *texts(pairs[0])) else 2}"})
    assert 0.75 < contents.count(expected) / 60 < 1
    garbage = share(answer(beliefs, asked, n).startswith("Let me") for n in range(4000))
    assert garbage == pytest.approx(GARBAGE, abs=0.006)
    attributes = json.loads(answer(beliefs, request(*texts(pairs[0]), end='"annotation_guideline"'), 1))
    assert attributes["preference_objectivity"] == WORLD.objectivity(texts(pairs[0])[0])


def test_people_err_now_and_then(pairs: list[Any], tmp_path: Path) -> None:
    batch, rows = tmp_path / "batch.jsonl", []
    for number, pair in enumerate(pairs[:1000]):
        candidates = [[{"role": "assistant", "content": response[-1].content}] for response in pair.responses]
        prompt = [{"role": "user", "content": texts(pair)[0]}]
        rows.append({"batch": "batch", "item": str(number), "prompt": prompt, "candidates": candidates})
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    people(WORLD, 0)(batch)
    answers = [json.loads(line) for line in (tmp_path / "batch.answers.jsonl").read_text().splitlines()]
    true = [f"candidate {1 + pair.preferences[0].winner}" for pair in pairs[:1000]]
    found = share(one["verdict"] == right for one, right in zip(answers, true, strict=True))
    assert found == pytest.approx(0.95, abs=0.02)


def test_real_judgements_are_a_world_too(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(shared / "tokenizers/qwen3")
    setting = alpaca_eval(shared / "data/preferences/alpaca_eval", str(tmp_path), 500)
    pairs = setting.pairs(0)
    assert len(pairs) == 500 and len({texts(pair)[0] for pair in setting.test}) == TEST_PROMPTS
    assert not {texts(pair)[0] for pair in pairs} & {texts(pair)[0] for pair in setting.test}
    assert share(is_right(setting.world, pair) for pair in pairs) > 0.99
    wrong = share(not is_right(setting.world, pair) for pair in noisy(setting.world, pairs, 0, setting.lured))
    assert wrong == pytest.approx(NOISE, abs=0.05)
