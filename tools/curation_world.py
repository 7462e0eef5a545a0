"""People and language models that a curation can be tried with: they know the truth of a world of pairs, and err as set.

The language models stand behind a real HTTP server that speaks OpenAI's protocol. On pairs that are *lured*, whose wrong
answer has what models fall for, they are mostly wrong; on the others they are right so much oftener that RIGHT holds.
"""

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from skyrm_jax.comparison import Comparison, to_record
from skyrm_jax.curate.config import EmbedderConfig
from skyrm_jax.curate.training import RewardModel

RIGHT = {"Objective": 0.75, "Subjective": 0.63}
"""How often one model is right, by kind of pair: the paper's table 14, for language models alone."""
RIGHT_LURED = 0.35
SHARED = 0.5
"""Share of pairs on which all models think the same, right or wrong."""
STEADY = 0.9
"""How often a model says what it thinks."""
PEOPLE = 0.95
"""How often people are right."""
GARBAGE = 0.01
"""How often a model's answer is none."""
NOISE = 0.3
"""Share of all labels that are turned round."""


class World(Protocol):
    """Pairs whose truth is known: all are functions of the texts alone."""

    def prefers_first(self, prompt: str, one: str, two: str) -> bool:
        """Whether response `one` is the better one."""

    def is_lured(self, right: str, wrong: str) -> bool:
        """Whether language models fall for the wrong response."""

    def objectivity(self, prompt: str) -> str:
        """A key of RIGHT."""

    def category(self, prompt: str) -> str:
        """What the prompt asks for, in a word."""


@dataclass(frozen=True)
class Setting:
    """Pairs to curate and how, of a world.

    Attributes:
        pairs: training pairs with true labels, by seed; `test` other ones, of other prompts.
        lured: share of all labels that the lure turns round; of NOISE.
        reward_model: of the curation, and of the arms, with whatever base.
        gold_model: overrides of the gold model.
        steps: of every arm's training.
        human_share: of the pairs, what people verify at most.
        first, later: pairs that stage 1 looks at, as shares.
    """

    world: World
    pairs: Callable[[int], list[Comparison]]
    test: list[Comparison]
    lured: float
    reward_model: RewardModel
    gold_model: dict[str, Any] | None
    embedder: EmbedderConfig
    steps: int
    human_share: float = 0.02
    first: float = 0.125
    later: float = 0.125


def texts(pair: Comparison) -> tuple[str, str, str]:
    """The last message of the prompt, of the better and of the worse response, by the label."""
    preference = pair.preferences[0]
    responses = [response[-1].content for response in pair.responses]
    return pair.prompt[-1].content, responses[preference.winner], responses[preference.loser]


def is_right(world: World, pair: Comparison) -> bool:
    """Whether a pair's label is true."""
    return world.prefers_first(*texts(pair))


def noisy(world: World, pairs: Sequence[Comparison], seed: int, lured: float) -> list[Comparison]:
    """Pairs with true labels, NOISE of them turned round: the share `lured` of all pairs because of the lure."""
    is_lured = [world.is_lured(*texts(pair)[1:]) for pair in pairs]
    of_lured = lured * len(pairs) / max(1, sum(is_lured))
    rng, made = random.Random(f"noise {seed}"), []
    for pair, of in zip(pairs, is_lured, strict=True):
        turned = of and rng.random() < of_lured
        if not turned:
            turned = rng.random() < (NOISE - lured) / (1 - lured)
        made.append(flipped(pair) if turned else pair)
    return made


def flipped(pair: Comparison) -> Comparison:
    """The pair with its label turned round."""
    preference = pair.preferences[0]
    return replace(pair, preferences=(replace(preference, winner=preference.loser, loser=preference.winner),))


def write(path: Path, pairs: Sequence[Comparison]) -> None:
    """A file of comparisons."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps(to_record(pair)) + "\n")


@dataclass(frozen=True)
class Beliefs:
    """What the language models think: a function of the texts alone, whatever the order that they are shown in.

    `right[objectivity, lured]` is how often a model is right: so set that RIGHT holds over all pairs.
    """

    world: World
    right: dict[tuple[str, bool], float]

    @classmethod
    def of(cls, world: World, pairs: Sequence[Comparison]) -> "Beliefs":
        """Of models that are right on these pairs, which have true labels, as often as RIGHT says."""
        right = {}
        for objectivity, mean in RIGHT.items():
            of_kind = [texts(pair) for pair in pairs if world.objectivity(texts(pair)[0]) == objectivity]
            share = sum(world.is_lured(*responses) for _, *responses in of_kind) / max(1, len(of_kind))
            right[objectivity, True] = RIGHT_LURED
            right[objectivity, False] = (mean - share * RIGHT_LURED) / (1 - share)
        return cls(world, right)

    def prefers_first(self, model: str, prompt: str, one: str, two: str) -> bool:
        """Whether this model thinks that `one` is the better one."""
        first = self.world.prefers_first(prompt, one, two)
        right, wrong = (one, two) if first else (two, one)
        key = "\0".join((prompt, right, wrong))
        who = "all" if random.Random(f"shared {key}").random() < SHARED else model
        often = self.right[self.world.objectivity(prompt), self.world.is_lured(right, wrong)]
        return first == (random.Random(f"{who} {key}").random() < often)


_TARGET = re.compile(
    r"<user-(\w{8})>\n(.*?)\n</user-\1>.*?<candidate_1-\1>\n(.*?)\n</candidate_1-\1>.*?"
    r"<candidate_2-\1>\n(.*?)\n</candidate_2-\1>",
    re.DOTALL,
)


def asked(request: dict[str, Any]) -> tuple[bool, str, str, str]:
    """What a request of the curation asks: whether for attributes (else a judgement); the prompt and both candidates."""
    text = request["messages"][-1]["content"]
    _, prompt, one, two = list(_TARGET.finditer(text))[-1].groups()
    return '"annotation_guideline"' in text[-400:], prompt, one, two


def attributes(world: World, prompt: str) -> str:
    """The attributes of a pair, as a model gives them."""
    objectivity, category = world.objectivity(prompt), world.category(prompt)
    return json.dumps(
        {
            "task_category": "Math" if category in ("arithmetic", "units") else "Information seeking",
            "preference_objectivity": objectivity,
            "controversiality": "Low" if objectivity == "Objective" else "Medium",
            "desired_attributes": "correct, to the point",
            "annotation_guideline": f"a question about {category}: see which answer is right",
        }
    )


def answer(beliefs: Beliefs, request: dict[str, Any], number: int) -> str:
    """What a model says when it is asked the same for the `number`th time; now and then it is nothing useful."""
    wants_attributes, prompt, one, two = asked(request)
    rng = random.Random(f"{request['model']} {number} {request['messages'][-1]['content']}")
    if rng.random() < GARBAGE:
        return "Let me think about this."
    if wants_attributes:
        return attributes(beliefs.world, prompt)
    thinks = beliefs.prefers_first(request["model"], prompt, one, two)
    says = thinks if rng.random() < STEADY else not thinks
    return json.dumps({"preferred": f"Candidate {1 if says else 2}"})


@contextmanager
def language_models(reply: Callable[[dict[str, Any], int], str]) -> Iterator[str]:
    """Serves `reply(request, how often it has been asked)` at an OpenAI-compatible URL; any model name is one."""
    asked_so_far: Counter[str] = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet: in two they wait for each other

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:  # the same question again is another sample
                asked_so_far[body.decode()] += 1
                number = asked_so_far[body.decode()]
            said = json.dumps(completion(json.loads(body), number)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    def completion(request: dict[str, Any], number: int) -> dict[str, Any]:
        text = reply(request, number)
        read = sum(len(message["content"]) for message in request["messages"]) // 4
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": read,
                "completion_tokens": len(text) // 4,
                "total_tokens": read + len(text) // 4,
            },
        }

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def people(world: World, seed: int, right: float = PEOPLE) -> Callable[[Path], None]:
    """People who verify a batch and are right so often; see `skyrm_jax.curate.people.People`."""

    def verify(batch: Path) -> None:
        lines = []
        for line in batch.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            one, two = (candidate[-1]["content"] for candidate in item["candidates"])
            first = world.prefers_first(item["prompt"][-1]["content"], one, two)
            is_right = random.Random(f"person {seed} {item['item']}").random() < right
            verdict = f"candidate {1 if first == is_right else 2}"
            lines.append({"batch": item["batch"], "item": item["item"], "verdict": verdict, "annotator": "person"})
        answers = "".join(json.dumps(line) + "\n" for line in lines)
        (batch.parent / f"{batch.stem}.answers.jsonl").write_text(answers, encoding="utf-8")

    return verify
