"""A served model gives the rewards that the checkpoint gives; whatever else a server does is an error that says so."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_classify import FakeClassify, checksum

from skyrm_jax.chat import Chat, build_tree
from skyrm_jax.comparison import Comparison
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.data import bpe
from skyrm_jax.errors import UserError
from skyrm_jax.eval import endpoint
from skyrm_jax.eval.endpoint import Endpoint, conversations
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import map_table
from skyrm_jax.scorer import Scorer

WORDS = ["red", "green", "blue", "one", "two", "three", "sun", "moon"]
FORMS = ["sglang", "vllm"]


def comparisons(n: int = 40) -> list[Comparison]:
    rng = np.random.default_rng(0)

    def text(most: int = 12) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, most)))

    made = [Comparison.of(f"{i} {text()}", [text() for _ in range(int(rng.integers(1, 5)))]) for i in range(n)]
    return [*made, Comparison.of("twice", ["the same", "another", "the same"])]


@pytest.fixture(scope="module")
def chat(byte_tokenizer: Path) -> Chat:
    return Chat.load(byte_tokenizer)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds; no proxy, no key."""
    monkeypatch.setattr(endpoint, "LONGEST_PAUSE", 0.005)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(endpoint.KEY, raising=False)


@pytest.fixture(params=FORMS)
def server(request: pytest.FixtureRequest) -> Iterator[FakeClassify]:
    with FakeClassify(request.param) as fake:
        yield fake


@pytest.fixture
def vllm() -> Iterator[FakeClassify]:
    with FakeClassify("vllm") as fake:
        yield fake


@pytest.fixture
def sglang() -> Iterator[FakeClassify]:
    with FakeClassify("sglang") as fake:
        yield fake


def expected(chat: Chat, made: list[Comparison]) -> list[np.ndarray]:
    """The checksums of the conversations, each rendered and tokenised alone."""
    return [
        np.array([checksum(chat.encode([c.conversation(k)])[0]) for k in range(len(c.responses))], np.float32)
        for c in made
    ]


def require_equal(got: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def test_rewards_are_those_of_separate_conversations_in_order(chat: Chat, server: FakeClassify) -> None:
    made = comparisons()
    asking = Endpoint(server.url, chat, max_tokens=4096, batch=7, parallel=3)
    assert asking.form == server.form
    finished: list[int] = []
    require_equal(asking.score(made, finished.append), expected(chat, made))
    assert sum(finished) == len(made) and min(finished) >= 0 and len(finished) > 10
    assert asking.counts["comparisons"] == len(made)
    assert asking.counts["responses"] == sum(len(c.responses) for c in made)
    assert max(len(ids) for ids in server.asked) <= 8 and len(server.asked) > 10


def test_what_is_sent_is_the_tokenised_conversation_up_to_its_pooled_token(chat: Chat) -> None:
    made = comparisons()
    for tree, one in zip(chat.trees(made), made, strict=True):
        sent, which = conversations(tree)
        separate = chat.encode([one.conversation(k) for k in range(len(one.responses))])
        assert [sent[i].tolist() for i in which] == separate
    # Responses that are prefixes of others, and pads that the pooling rule skips.
    sent, which = conversations(build_tree([[5, 6, 7], [5, 6], [5, 6, 0, 0], [5, 0, 9], [5, 6]], pad_id=0))
    assert [sent[i].tolist() for i in which] == [[5, 6, 7], [5, 6], [5, 6], [5, 0, 9], [5, 6]]
    assert len(sent) == 4


def test_equal_conversations_are_sent_once(chat: Chat, sglang: FakeClassify) -> None:
    (rewards,) = Endpoint(sglang.url, chat, max_tokens=4096).score(comparisons()[-1:])
    assert [len(ids) for ids in sglang.asked] == [2]
    assert rewards[0] == rewards[2] != rewards[1]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = bpe.save(bpe.train(bpe.texts_of(comparisons()), 300), folder / "tokenizer")
    architecture = Architecture("qwen3", 300, 16, 32, 2, 2, 1, 8, True, 1e-6, Rope(), 256, pad_token_id=0)
    rng = np.random.default_rng(1)
    params = map_table(architecture, lambda _, spec: rng.normal(0, 0.5, spec.shape).astype(np.float32))
    write_checkpoint(folder / "model", MemoryWeights.of(architecture, params), tokenizer, {})
    return Scorer.load(str(folder / "model"), max_tokens=40, dtype="float32")


def test_rewards_truncation_and_counts_are_the_checkpoints(scorer: Scorer, server: FakeClassify) -> None:
    made = [*comparisons(8), Comparison.of("red " * 30, ["sun"]), Comparison.of("red", ["moon one " * 30, "two"])]
    before = dict(scorer.counts)
    wanted = scorer.score(made)
    counted = {name: scorer.counts[name] - before[name] for name in before}
    assert counted["truncated"] >= 2 and np.std(np.concatenate(wanted)) > 0.1
    lock = threading.Lock()

    def score(ids: list[int]) -> float:
        with lock:
            return float(scorer.score_trees([build_tree([ids], scorer.chat.pad_token_id)])[0][0])

    server.score = score
    asking = Endpoint(server.url, scorer.chat, max_tokens=40, batch=4, parallel=2)
    for one, other in zip(asking.score(made), wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert asking.counts == counted
    assert max(len(ids) for request in server.asked for ids in request) == 40


def test_the_manifest_names_server_and_inputs_and_no_secret(
    chat: Chat, server: FakeClassify, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "secret"
    monkeypatch.setenv(endpoint.KEY, "secret\n")
    asking = Endpoint(f"{server.url}/classify/", chat, max_tokens=512)
    asking.score(comparisons(3))
    manifest = asking.manifest
    assert manifest["endpoint"] == server.url and manifest["form"] == server.form and manifest["model"] == "judge"
    assert manifest["max_tokens"] == 512 and manifest["comparisons"] == 4
    assert manifest["template_hash"] == chat.template_hash and manifest["tokenizer_hash"] == chat.tokenizer_hash
    assert (
        manifest["server"]
        == {
            "sglang": {
                "model_path": "org/judge",
                "weight_version": "default",
                "version": "0.5.9",
                "dtype": "bfloat16",
                "max_model_len": 16384,
            },
            "vllm": {"version": "0.15.0", "max_model_len": 16384},
        }[server.form]
    )
    assert "secret" not in json.dumps(manifest)
    other = Endpoint(server.url, chat, max_tokens=512).manifest
    assert {k: v for k, v in other.items() if k not in asking.counts} == {
        k: v for k, v in manifest.items() if k not in asking.counts
    }
    monkeypatch.delenv(endpoint.KEY)
    with pytest.raises(UserError, match=r"401 \(Unauthorized\).*SKYRM_ENDPOINT_KEY"):
        Endpoint(server.url, chat, max_tokens=512)


class TestFailures:
    def test_what_passes_is_repeated_and_told(
        self, chat: Chat, server: FakeClassify, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asking = Endpoint(server.url, chat, max_tokens=4096, batch=8)
        server.failures = [503, "cut", 429, 500, "cut"]
        made = comparisons()
        require_equal(asking.score(made), expected(chat, made))
        warned = capsys.readouterr().err
        assert warned.count("warning:") == 1 and "trying again, for at most 5 minutes" in warned

    def test_a_server_that_starts_again(
        self, chat: Chat, server: FakeClassify, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asking = Endpoint(server.url, chat, max_tokens=4096)
        server.close()
        made, again = comparisons(3), FakeClassify(server.form, port=int(server.url.rpartition(":")[2]))
        threading.Timer(0.2, again.__enter__).start()
        require_equal(asking.score(made), expected(chat, made))
        again.close()
        assert "refused" in capsys.readouterr().err

    def test_what_does_not_pass_ends_with_the_servers_words(
        self, chat: Chat, server: FakeClassify, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(endpoint, "PATIENCE", 0.1)
        asking = Endpoint(server.url, chat, max_tokens=4096)
        server.failures = [503] * 10_000
        with pytest.raises(UserError, match=rf"{server.url}/classify: HTTP 503 \(out of luck 503\): is the server"):
            asking.score(comparisons())
        assert len(server.bodies) > 3

    def test_the_pause_that_the_server_asks_for_is_kept(self, chat: Chat, sglang: FakeClassify) -> None:
        asking = Endpoint(sglang.url, chat, max_tokens=4096)
        sglang.retry_after, sglang.failures = "1", [429]
        begun = time.monotonic()
        asking.score(comparisons(2))
        assert time.monotonic() - begun >= 1
        sglang.retry_after, sglang.failures = "3600", [429]
        with pytest.raises(UserError, match="429"):
            asking.score(comparisons(2))

    @pytest.mark.parametrize(
        ("status", "remedy"),
        [(400, "--endpoint-form"), (403, "SKYRM_ENDPOINT_KEY"), (404, "--is-embedding"), (302, "check the URL")],
    )
    def test_a_refusal_is_told_at_once(self, chat: Chat, server: FakeClassify, status: int, remedy: str) -> None:
        asking = Endpoint(server.url, chat, max_tokens=4096, batch=1, parallel=1)
        server.failures = [status]
        with pytest.raises(UserError, match=rf"{status} \(out of luck {status}\).*{remedy}"):
            asking.score(comparisons())
        time.sleep(0.05)
        assert len(server.bodies) <= 3  # those under way, not the other hundred

    def test_too_long_a_conversation(self, chat: Chat, server: FakeClassify) -> None:
        asking = Endpoint(server.url, chat, max_tokens=4096)
        server.context = 50
        with pytest.raises(UserError, match=r"400 \(The input is longer.*lower --max-tokens"):
            asking.score(comparisons())
        server.cuts = True
        with pytest.raises(UserError, match=r"rewards of \d+ tokens where \d+ were sent: lower --max-tokens"):
            asking.score(comparisons())
        server.models[0]["max_model_len"] = 50
        with pytest.raises(UserError, match=r"reads 50 tokens at most, and --max-tokens is 4096: give --max-tokens 50"):
            Endpoint(server.url, chat, max_tokens=4096)
        Endpoint(server.url, chat, max_tokens=50)

    def test_a_server_that_takes_no_token_ids(self, chat: Chat, vllm: FakeClassify) -> None:
        asking = Endpoint(vllm.url, chat, max_tokens=4096)
        vllm.takes_ids = False
        with pytest.raises(UserError, match=r"valid string.*takes no token ids there, as older vLLMs do not"):
            asking.score(comparisons(1))

    def test_a_server_that_does_not_answer_in_time(
        self, chat: Chat, server: FakeClassify, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(endpoint, "PATIENCE", 0.0)
        asking = Endpoint(server.url, chat, max_tokens=4096, timeout=0.2)
        server.seconds = 1.0
        with pytest.raises(UserError, match="no answer for 0 s"):
            asking.score(comparisons(1))

    def test_nobody_is_there(self, chat: Chat) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(UserError, match=f"{url}/model_info: .*refused.*is the server running there"):
            Endpoint(url, chat, max_tokens=4096)
        assert time.monotonic() - begun < 5

    @pytest.mark.parametrize(
        "url", ["localhost:30000", "ftp://x", "http://", "http://a b:1", "http://[::1", "http://x:port", "http://x/ü"]
    )
    def test_what_is_no_url(self, chat: Chat, url: str) -> None:
        with pytest.raises(UserError):
            Endpoint(url, chat, max_tokens=4096)

    def test_a_key_in_the_url_is_refused_and_not_repeated(self, chat: Chat) -> None:
        with pytest.raises(UserError, match="SKYRM_ENDPOINT_KEY") as raised:
            Endpoint("http://me:hunter2@localhost", chat, max_tokens=4096)
        assert "hunter2" not in str(raised.value)


class TestForm:
    def test_unknown(self, chat: Chat, vllm: FakeClassify, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm, "says", lambda path: None)
        with pytest.raises(UserError, match="--endpoint-form"):
            Endpoint(vllm.url, chat, max_tokens=4096)
        asking = Endpoint(vllm.url, chat, form="vllm", max_tokens=4096)
        made = comparisons(3)
        require_equal(asking.score(made), expected(chat, made))
        assert asking.manifest["server"] == {} and asking.model is None
        assert not any("model" in body for body in vllm.bodies)

    def test_an_older_sglang(self, chat: Chat, sglang: FakeClassify, monkeypatch: pytest.MonkeyPatch) -> None:
        says = sglang.says
        old = {"/get_model_info": "/model_info", "/get_server_info": "/server_info", "/v1/models": "/v1/models"}
        monkeypatch.setattr(sglang, "says", lambda path: says(old[path]) if path in old else None)
        asking = Endpoint(sglang.url, chat, max_tokens=4096)
        assert asking.form == "sglang" and asking.manifest["server"]["version"] == "0.5.9"

    def test_a_model_that_writes_text(self, chat: Chat, sglang: FakeClassify) -> None:
        sglang.info = {"is_generation": True}
        with pytest.raises(UserError, match="--is-embedding"):
            Endpoint(sglang.url, chat, max_tokens=4096)

    def test_which_model(self, chat: Chat, server: FakeClassify) -> None:
        server.models.append({"id": "adapter", "parent": "judge"})
        assert Endpoint(server.url, chat, max_tokens=4096).model == "judge"
        server.models.append({"id": "other"})
        with pytest.raises(UserError, match=r"--endpoint-model: judge, adapter, other"):
            Endpoint(server.url, chat, max_tokens=4096)
        with pytest.raises(UserError, match=r"serves no nobody.*judge, adapter, other"):
            Endpoint(server.url, chat, model="nobody", max_tokens=4096)
        Endpoint(server.url, chat, model="adapter", max_tokens=4096).score(comparisons(1))
        assert {body["model"] for body in server.bodies} == {"adapter"}


class TestAnswers:
    """Nothing but one finite number for each conversation is taken for a reward."""

    def test_vllms_order_is_its_index(self, chat: Chat, vllm: FakeClassify) -> None:
        rng = np.random.default_rng(0)

        def shuffled(answer: Any) -> Any:
            return answer | {"data": [answer["data"][i] for i in rng.permutation(len(answer["data"]))]}

        vllm.edit = shuffled
        made = comparisons()
        require_equal(Endpoint(vllm.url, chat, max_tokens=4096).score(made), expected(chat, made))

    @pytest.mark.parametrize(
        ("form", "edit", "words"),
        [
            ("sglang", lambda a: a[1:], r"\d+ results for \d+ conversations"),
            ("vllm", lambda a: a | {"data": a["data"] + a["data"][:1]}, r"\d+ results for \d+ conversations"),
            ("vllm", lambda a: a | {"data": [one | {"index": 0} for one in a["data"]]}, "indices"),
            ("vllm", lambda a: a | {"data": [{"probs": one["probs"]} for one in a["data"]]}, "indices"),
            ("sglang", lambda a: [one | {"embedding": [1.0, 2.0]} for one in a], "2 numbers .* one label"),
            ("vllm", lambda a: a | {"data": [o | {"probs": [1, 2, 3]} for o in a["data"]]}, "3 numbers .* one label"),
            ("sglang", lambda a: [one | {"embedding": [None]} for one in a], "not finite"),
            ("sglang", lambda a: [one | {"embedding": [float("inf")]} for one in a], "not finite"),
            ("vllm", lambda a: a | {"data": [o | {"probs": [float("nan")]} for o in a["data"]]}, "not finite"),
            ("sglang", lambda a: [one | {"embedding": []} for one in a], "no reward"),
            ("sglang", lambda a: [one | {"embedding": ["1"]} for one in a], "no reward"),
            ("sglang", lambda a: [one | {"embedding": [[1.0]]} for one in a], "no reward"),
            ("sglang", lambda a: {"data": a}, "--endpoint-form"),
            ("vllm", lambda a: a["data"], "--endpoint-form"),
            ("vllm", lambda a: {"error": "no"}, "--endpoint-form"),
            ("vllm", lambda a: None, "--endpoint-form"),
            ("vllm", lambda a: a | {"usage": {"prompt_tokens": 1}}, "rewards of 1 tokens"),
            ("sglang", lambda a: "<html>hello</html>", "no JSON but b'<html>"),
        ],
    )
    def test_anything_else_is_an_error(self, chat: Chat, form: str, edit: Callable[[Any], Any], words: str) -> None:
        with FakeClassify(form) as fake:
            fake.edit = edit
            with pytest.raises(UserError, match=rf"{fake.url}/classify gave .*{words}"):
                Endpoint(fake.url, chat, max_tokens=4096).score(comparisons(12))
            assert len(fake.bodies) <= 3

    def test_extra_fields_are_none_of_our_business(self, chat: Chat, server: FakeClassify) -> None:
        server.edit = lambda answer: [{"embedding": one["embedding"]} for one in answer]
        if server.form == "vllm":
            server.edit = lambda answer: {"data": [{"index": o["index"], "probs": o["probs"]} for o in answer["data"]]}
        made = comparisons()
        require_equal(Endpoint(server.url, chat, max_tokens=4096).score(made), expected(chat, made))


class TestSigmoid:
    def test_a_server_that_takes_it_regardless(self, chat: Chat, vllm: FakeClassify) -> None:
        vllm.obeys = False
        with pytest.raises(UserError, match=r"--pooler-config '\{\"use_activation\": false\}'"):
            Endpoint(vllm.url, chat, max_tokens=4096).score(comparisons())
        assert [body["use_activation"] for body in vllm.bodies] == [False, True]

    def test_rewards_that_lie_there_by_themselves(self, chat: Chat, vllm: FakeClassify) -> None:
        vllm.score = lambda ids: (checksum(ids) + 8) / 16
        asking = Endpoint(vllm.url, chat, max_tokens=4096)
        for _ in range(2):
            got = asking.score(comparisons())
        assert min(map(np.min, got)) >= 0 and max(map(np.max, got)) <= 1
        assert [body["use_activation"] for body in vllm.bodies].count(True) == 1

    def test_raw_rewards_cost_one_small_request(self, chat: Chat, vllm: FakeClassify) -> None:
        asking = Endpoint(vllm.url, chat, max_tokens=4096)
        asking.score(comparisons())
        asking.score(comparisons())
        assert [len(ids) for ids in vllm.asked].count(endpoint.VARIED) == 1
        assert not any(body["use_activation"] for body in vllm.bodies)


def test_requests_run_beside_each_other_and_no_more_than_allowed(chat: Chat, sglang: FakeClassify) -> None:
    sglang.seconds = 0.05
    Endpoint(sglang.url, chat, max_tokens=4096, batch=4, parallel=3).score(comparisons())
    assert sglang.most == 3


def test_nothing_to_score(chat: Chat, server: FakeClassify) -> None:
    assert Endpoint(server.url, chat, max_tokens=4096).score([]) == []
    assert server.bodies == []


@pytest.mark.parametrize("options", [{"batch": 0}, {"parallel": 0}, {"timeout": 0}, {"max_tokens": 1}])
def test_senseless_options(chat: Chat, options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Endpoint("http://localhost", chat, **({"max_tokens": 9} | options))
