"""The scoring benchmark: both sides compute the same rewards, and its figures are what they are called. Times are not looked at."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from skyrm_jax.chat import Chat, common_prefix
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.names import hf_tensors
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture, Rope

TINY = Architecture("qwen3", 300, 32, 48, 2, 4, 2, 8, True, 1e-6, Rope(), 4096, 0)


@pytest.fixture
def checkpoint(tool: Any, tmp_path: Path, byte_tokenizer: Path) -> str:
    write_hf(tmp_path / "hf", tool("bench_scoring").SmallWeights(TINY), byte_tokenizer)
    return str(tmp_path / "hf")


def comparisons(count: int, seed: int = 0) -> list[list[list[int]]]:
    """Comparisons of two to four responses of 1 to 90 tokens to prompts of 5 to 60."""
    rng = np.random.default_rng(seed)

    def ids(least: int, most: int) -> list[int]:
        drawn: list[int] = rng.integers(1, TINY.vocab_size, rng.integers(least, most)).tolist()
        return drawn

    prompts = [ids(5, 60) for _ in range(count)]
    return [[prompt + ids(1, 90) for _ in range(2 + number % 3)] for number, prompt in enumerate(prompts)]


# The sides


def test_both_sides_and_every_layout_get_the_same_rewards(tool: Any, checkpoint: str) -> None:
    pytest.importorskip("torch", reason="the other side needs torch")
    bench, sides = tool("bench_scoring"), tool("bench_scoring_peer")
    given = comparisons(6)
    given[3][1] = given[3][0]  # one leaf of two responses
    lengths = [len(ids) for one in given for ids in one]
    ours, peer = sides.Ours(checkpoint), sides.Transformers(checkpoint)
    facts = ours.take("x", given)
    peer.take("x", given)
    assert facts["unshared_tokens"] == sum(lengths) > facts["tree_tokens"]
    assert facts["unshared_tokens"] / facts["tree_tokens"] == bench.token_ratio(given)
    everything = range(len(lengths))
    exact = peer.exact("x", everything)
    assert np.std(exact["rewards"]) > 1e-3
    assert exact["slots"] == sum(lengths)
    found = {layout: ours.score("x", layout) for layout in ("trees", *bench.LAYOUTS)}
    for attention in bench.ATTENTIONS:
        found |= {(attention, batch): peer.score("x", attention, batch) for batch in bench.BATCHES}
    for name, one in found.items():
        assert len(one["rewards"]) == len(lengths)
        assert bench.gap(one["rewards"], exact["rewards"]) < 0.1, name
    # Rewards of another order would not pass for these.
    assert bench.gap(exact["rewards"][::-1], exact["rewards"]) > 1
    sorted_lengths = sorted(lengths, reverse=True)
    for batch in bench.BATCHES:
        padded = sum(len(part) * part[0] for part in np.array_split(sorted_lengths, range(batch, len(lengths), batch)))
        assert found["eager", batch]["slots"] == found["sdpa", batch]["slots"] == padded
    eights = np.array_split(sorted_lengths, range(8, len(lengths), 8))
    assert found["padded"]["slots"] == sum(len(part) * -(-part[0] // 64) * 64 for part in eights)
    assert found["trees"]["slots"] % 512 == found["packed"]["slots"] % 512 == 0
    assert found["packed"]["slots"] >= sum(lengths) and found["trees"]["slots"] >= facts["tree_tokens"]
    part = [4, 1, 7]
    some = peer.score("x", "eager", 1, part)
    assert some["slots"] == sum(lengths[number] for number in part)
    assert bench.gap(some["rewards"], [exact["rewards"][number] for number in part]) < 0.2


def test_transformers_keeps_its_rotary_frequencies_in_fp32(tool: Any, checkpoint: str) -> None:
    pytest.importorskip("torch", reason="the other side needs torch")
    import torch

    peer = tool("bench_scoring_peer").Transformers(checkpoint)
    peer.take("x", comparisons(2))
    peer.exact("x", [0])
    peer.score("x", "eager", 2)
    assert peer.model.dtype == torch.bfloat16 and peer.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))


def test_a_side_answers_line_by_line_and_says_what_it_used(tool: Any) -> None:
    sides = tool("bench_scoring_peer")
    answers = io.StringIO()
    side = SimpleNamespace(
        take=lambda name, comparisons: {"held": [name, comparisons]}, score=lambda name: {"of": name}
    )
    requests = [{"do": "take", "name": "x", "comparisons": [[[1]]]}, {"do": "score", "name": "x"}]
    sides.serve(side, io.StringIO("".join(json.dumps(one) + "\n" for one in requests)), answers)
    first, second = map(json.loads, answers.getvalue().splitlines())
    assert first["held"] == ["x", [[[1]]]] and second["of"] == "x"
    for one in (first, second):
        assert one["seconds"] > 0 < one["idle_seconds"] and one["cpu_seconds"] >= 0 <= one["idle_cpu_seconds"]


# The model and the data


def test_the_model_is_the_same_every_time_and_has_a_head(tool: Any) -> None:
    bench = tool("bench_scoring")
    weights, again = bench.SmallWeights(TINY), bench.SmallWeights(replace(TINY))
    read = {tensor.name: np.asarray(weights.read(tensor), np.float32) for tensor in hf_tensors(TINY)}
    for tensor in hf_tensors(TINY):
        assert (read[tensor.name] == np.asarray(again.read(tensor), np.float32)).all()
    assert all((value == 1).all() for name, value in read.items() if "norm" in name)
    others = {name: value for name, value in read.items() if "norm" not in name}
    assert all(0.01 < value.std() < 0.03 and abs(value.mean()) < 0.01 for value in others.values())
    assert len({value.reshape(-1)[:8].tobytes() for value in others.values()}) == len(others)


def test_a_sample_has_the_lengths_of_the_whole(tool: Any) -> None:
    bench = tool("bench_scoring")
    everything = comparisons(1200)
    drawn = bench.sample(everything, 40)
    assert drawn == bench.sample(everything, 40) and len({str(one) for one in drawn}) == 40
    assert all(one in everything for one in drawn)

    whole, part = (np.array(bench.tree_tokens(some)) / len(some) for some in (everything, drawn))
    assert part == pytest.approx(whole, rel=0.02)
    assert bench.sample(everything[:5], 40) == everything[:5]


def test_token_ratio_counts_the_shared_prefix_once(tool: Any) -> None:
    assert tool("bench_scoring").token_ratio([[[1, 2, 3, 4], [1, 2, 3, 5, 6]], [[7], [8]]]) == (4 + 5 + 2) / (6 + 2)


def test_the_search_tries_the_best_twice_and_gives_up_far_from_it(tool: Any) -> None:
    bench = tool("bench_scoring")
    given = {
        ("eager", 1): [2.0],
        ("eager", 4): [1.1, 0.9],
        ("eager", 8): [1.5],
        ("sdpa", 1): [1.0, 1.2],
        ("sdpa", 4): [1.2],
    }
    seen: list[tuple[str, int]] = []

    def seconds(attention: str, batch: int) -> float:
        seen.append((attention, batch))
        return given[attention, batch][seen.count((attention, batch)) - 1]

    found = bench.search(seconds, lambda kind, size: (kind, size) != ("sdpa", 8))
    assert seen == [*given, ("eager", 4), ("sdpa", 1)]
    assert {setting: least for setting, least in found.items() if least < float("inf")} == {
        ("eager", 1): 2.0,
        ("eager", 4): 0.9,
        ("eager", 8): 1.5,
        ("sdpa", 1): 1.0,
        ("sdpa", 4): 1.2,
    }
    assert bench.scores_fit([100], 16, "eager", 16) and bench.scores_fit([10**6], 16, "sdpa", 16)
    assert not bench.scores_fit([10**6], 16, "eager", 1)


def test_sixteen_responses_have_the_sizes_they_should(tool: Any, byte_tokenizer: Path) -> None:
    bench = tool("bench_scoring")
    chat = Chat.load(byte_tokenizer)
    one = bench.sixteen(chat, ["A text of some words.", "Another one, which is a little longer."])
    ((*conversations,),) = bench.encoded(chat, [one])
    prompt = common_prefix([np.array(ids) for ids in conversations])
    responses = [len(ids) - prompt for ids in conversations]
    assert len(conversations) == 16 and abs(prompt - 512) < 8
    assert 110 < min(responses) < max(responses) < 200 and 140 < np.mean(responses) < 165


def test_rmb_is_read_whole(tool: Any, shared: Path) -> None:
    records = tool("bench_scoring").rmb(shared)
    sizes = [len(one.responses) for one in records]
    assert len(records) > 300 and min(sizes) == 3 and max(sizes) <= 7
    assert all(one.prompt[-1].role == "user" for one in records)


def test_without_rmb_there_is_a_message(tool: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        tool("bench_scoring").rmb(tmp_path)


# Figures


def test_figures_are_medians_of_the_rounds_ratios(tool: Any) -> None:
    bench = tool("bench_scoring")
    data = bench.DataSet("x", [[[1, 2, 3, 4], [1, 2, 3, 5]]], 1.5)
    assert data.ratio == 8 / 5
    seconds = {"ours": [1, 2, 4], "transformers": [3, 4, 4], "padded": [2, 2, 4], "packed": [1.6, 3.2, 6.4]}
    data.runs = {
        what: [{"seconds": s, "cpu_seconds": 2 * s, "slots": 10, "rewards": [0.0, 2.0]} for s in some]
        for what, some in seconds.items()
    }
    data.runs["ours"][0]["rewards"] = [0.0, 2.5]
    found = data.figures(bench.SECTIONS)
    assert found["x"] == found["x_cpu"] == 2 and found["x_spread"] == [1, 3]
    assert found["x_reward_gap"] == 0.5
    assert found["x_token_ratio"] == 1.6 and found["x_token_ratio_of_all"] == 1.5
    assert found["x_sharing_efficiency"] == 1 / 1.6 and found["x_sharing_efficiency_spread"] == [1 / 1.6, 2 / 1.6]
    assert found["x_sharing_efficiency_packed"] == 1
    assert found["x_ours_fill"] == 0.5 and found["x_padded_fill"] == found["x_transformers_fill"] == 0.8
    assert found["x_ours_tokens_per_second"] == 4 and found["x_transformers_conversations_per_second"] == 0.5
    del data.runs["transformers"], data.runs["padded"], data.runs["packed"]
    assert set(data.figures(["nothing"])) == {
        "x_token_ratio",
        "x_token_ratio_of_all",
        *(f"x_ours_{what}" for what in ("conversations_per_second", "tokens_per_second", "seconds_spread", "fill")),
    }


def test_what_falls_short_is_shown(tool: Any) -> None:
    out = io.StringIO()
    figures = {"pairs": 1.7, "k16": 2.7, "pairs_spread": [1.5, 1.9], "setting": "eager, 4", "rate": 12345.6}
    tool("bench_scoring").show(figures, Console(file=out, width=120))
    lines = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if "│" in line}
    assert "met" in lines["pairs"] and ">= 1.6" in lines["pairs"] and "MISSED" in lines["k16"]
    assert "1.5 to 1.9" in lines["pairs_spread"] and "eager, 4" in lines["setting"] and "12,346" in lines["rate"]


@pytest.mark.full
def test_the_benchmark_runs_and_reports(tool: Any, tmp_path: Path, shared: Path) -> None:
    bench = tool("bench_scoring")
    config, out, scratch = tmp_path / "tiny.yaml", tmp_path / "out" / "figures.json", tmp_path / "scratch"
    scratch.mkdir()
    config.write_text(
        "data: {sources: [x.jsonl]}\nmodel:\n  architecture: {model_type: qwen3, vocab_size: 151936, hidden_size: 32,"
        " intermediate_size: 48, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8,"
        " pad_token_id: 151654}\n"
    )
    sizes = ["--layers", "2", "--pairs", "6", "--best-of-n", "3", "--rounds", "2"]
    places = ["--config", str(config), "--shared", str(shared), "--scratch", str(scratch), "--json", str(out)]
    bench.main([*sizes, *places])
    found = json.loads(out.read_text())
    assert list(scratch.iterdir()) == [] and found["layers"] == 2
    for name in bench.SETS:
        assert found[name] > 0 and found[f"{name}_spread"][0] <= found[name] <= found[f"{name}_spread"][1]
        assert found[f"{name}_reward_gap"] < bench.MOST_GAP
        assert 0 < found[f"{name}_ours_fill"] <= 1 >= found[f"{name}_transformers_fill"] > 0.2
        assert found[f"{name}_sharing_efficiency"] >= found["sharing_efficiency"] > 0
        assert found[f"{name}_token_ratio"] == pytest.approx(found[f"{name}_token_ratio_of_all"], rel=0.3)
        assert found[f"{name}_transformers_setting"].split(", ")[0] in bench.ATTENTIONS
    assert (found["pairs_conversations"], found["k16_conversations"]) == (12, 16)
    assert found["k16_token_ratio"] == pytest.approx(16 * 662 / (512 + 16 * 150), rel=0.05)
