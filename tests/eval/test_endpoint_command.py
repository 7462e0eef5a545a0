"""The eval command with a served model: where its rewards are read, going on, and noticing another model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from fake_classify import FakeClassify, checksum
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from skyrm_jax.chat import Chat
from skyrm_jax.errors import UserError
from skyrm_jax.eval import cli, endpoint
from skyrm_jax.eval.journal import UNFINISHED


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(endpoint.KEY, raising=False)


@pytest.fixture(params=["sglang", "vllm"])
def server(request: pytest.FixtureRequest) -> Iterator[FakeClassify]:
    with FakeClassify(request.param) as fake:
        yield fake


@pytest.fixture
def model(tmp_path: Path, byte_tokenizer: Path) -> Path:
    """A tokenizer whose model skips newlines, which end its conversations, where a reward is read."""
    folder = tmp_path / "model"
    shutil.copytree(byte_tokenizer, folder)
    (newline,) = Chat.load(folder).tokenizer.encode("\n")
    (folder / "config.json").write_text(json.dumps({"pad_token_id": newline}))
    return folder


@pytest.fixture
def given(tmp_path: Path, server: FakeClassify, model: Path) -> list[str]:
    records = [
        {"prompt": f"{i}", "responses": ["red", "green" * (i % 5)], "chosen": 0, "id": f"r{i}"} for i in range(40)
    ]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    where = ["--endpoint", server.url, "--tokenizer", str(model), "--max-tokens", "512"]
    return [*where, "--held-out", str(tmp_path / "h.jsonl"), "--out", str(tmp_path / "out")]


def results(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out/results.json").read_text())


def test_the_pad_token_of_the_models_config_is_not_read(
    tmp_path: Path, server: FakeClassify, model: Path, given: list[str]
) -> None:
    cli.main(given)
    tokenizer = Chat.load(model).tokenizer
    ends = {tokenizer.convert_ids_to_tokens(one[-1]) for request in server.asked for one in request}
    assert ends == {"<|im_end|>"}
    assert results(tmp_path)["manifest"]["rewards"]["pad_token_id"] == tokenizer.encode("\n")[0]
    (model / "config.json").unlink()  # a tokenizer alone
    server.asked.clear()
    cli.main([*given[:-1], str(tmp_path / "alone")])
    assert {tokenizer.decode(one[-1]) for request in server.asked for one in request} == {"\n"}


def test_it_goes_on_where_it_stopped_and_knows_the_model_again(
    tmp_path: Path, server: FakeClassify, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyrm_jax.eval.sets.WINDOW", 16)
    cli.main([*given[:-1], str(tmp_path / "whole")])
    whole = sum(map(len, server.asked))
    server.asked.clear()

    def until_it_breaks(ids: list[int]) -> float:
        return checksum(ids) if sum(map(len, server.asked)) < 70 else float("nan")

    server.score = until_it_breaks
    with pytest.raises(UserError, match="not finite"):
        cli.main(given)
    assert (tmp_path / "out" / UNFINISHED).is_file()
    server.asked.clear()
    server.score = lambda ids: checksum(ids) * (1 + 2**-9)  # as another batch in bfloat16 might
    cli.main(given)
    assert sum(map(len, server.asked)) < whole
    once = json.loads((tmp_path / "whole/results.json").read_text())
    assert results(tmp_path)["manifest"]["sets"] == once["manifest"]["sets"]

    server.asked.clear()
    cli.main(given)  # finished: only a few are asked for again
    assert 8 <= sum(map(len, server.asked)) <= 16 < whole
    server.score = lambda ids: checksum(ids) + 1  # other weights behind the same URL and name
    with pytest.raises(UserError, match=r"held-out: comparison 'r0' had the rewards .* another model is served there"):
        cli.main(given)


def test_a_config_that_cannot_be_had_is_an_error(
    tmp_path: Path, model: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in ("{", "[]"):
        (model / "config.json").write_text(broken)
        with pytest.raises(UserError, match=r"config\.json is no model's configuration"):
            cli.main(given)

    def raising(error: Exception) -> Any:
        def download(*_: Any, **__: Any) -> str:
            raise error

        return download

    for error in (LocalEntryNotFoundError("offline\nat all"), ConnectionError("no route"), ValueError("bad name")):
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
        with pytest.raises(UserError, match=r"--tokenizer org/model: .* cannot be fetched \(.*: (offline|no |bad )"):
            cli.pad_of("org/model")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(EntryNotFoundError("no such file")))
    assert cli.pad_of("org/model") is None
