"""A small world whose truth is known: noisy pairs, people, and language models behind a real HTTP server.

Pairs are synthetic comparisons of two responses. Of all labels 15 % are turned round at random, and 15 % by a lure: where the
wrong answer is the flashy one, it is mostly called the better. People see through it; models fall for it.
"""

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from skyrm_jax.comparison import Comparison, to_record
from skyrm_jax.data.synthetic import generate, oracle, truth

LURES = 0.45
NOISE, LURED = 0.15, 0.15
"""Shares of all labels that are turned round at random, and by the lure."""

SUBJECTIVE = ("safety", "style")
RIGHT = {"Objective": 0.75, "Subjective": 0.63}
"""How often one model is right, by kind of pair: the paper's table 14, for language models alone."""
RIGHT_LURED = 0.35
"""The same where a flashy answer is wrong; elsewhere they are right so much oftener that the means above hold."""
SHARED = 0.5
"""Share of pairs on which all models think the same, right or wrong."""
STEADY = 0.9
"""How often a model says what it thinks."""
PEOPLE = 0.95
"""How often people are right."""
GARBAGE = 0.01


def pair_of(comparison: Comparison) -> Comparison:
    """A comparison of two responses with the right one first; labels and order as the truth has them."""
    right = truth(comparison).index(True)
    return replace(
        comparison,
        responses=(comparison.responses[right], comparison.responses[1 - right]),
        preferences=Comparison.of("p", ["a", "b"], chosen=0).preferences,
    )


def clean_pairs(count: int, seed: int) -> Iterator[Comparison]:
    """Pairs with true labels; some in the other order, so that place says nothing."""
    for comparison in generate(count, seed, 0.0, LURES, 2):
        pair = pair_of(comparison)
        if random.Random(f"order {pair.id}").random() < 0.5:
            preference = pair.preferences[0]
            pair = replace(
                pair,
                responses=pair.responses[::-1],
                preferences=(replace(preference, winner=1, loser=0),),
            )
        yield pair


def is_flashy(text: str) -> bool:
    return "!" in text and "**" in text


def kind(right: str, wrong: str) -> str:
    """`lured` where the wrong answer alone is flashy, `helped` where the right one alone is, else `plain`."""
    if is_flashy(right) == is_flashy(wrong):
        return "plain"
    return "helped" if is_flashy(right) else "lured"


def kind_of(pair: Comparison) -> str:
    """The kind of a pair with a true label."""
    preference = pair.preferences[0]
    return kind(pair.responses[preference.winner][-1].content, pair.responses[preference.loser][-1].content)


def noisy(pairs: Sequence[Comparison], seed: int) -> list[Comparison]:
    """The pairs with 30 % of the labels turned round, half of them by the lure."""
    kinds = [kind_of(pair) for pair in pairs]
    lured = LURED * len(pairs) / kinds.count("lured")
    rng, made = random.Random(f"noise {seed}"), []
    for pair, of in zip(pairs, kinds, strict=True):
        turned = of == "lured" and rng.random() < lured
        if not turned:
            turned = rng.random() < NOISE / (1 - LURED)
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
    """What the models think, a function of the texts alone.

    `right[kind of preference, lured]` is how often they are right: so set that RIGHT holds over the pairs.
    """

    right: dict[tuple[str, bool], float]

    @classmethod
    def of(cls, pairs: Sequence[Comparison]) -> "Beliefs":
        """Of models that are right on these pairs, which have true labels, as often as RIGHT says."""
        right = {}
        for objectivity, mean in RIGHT.items():
            lured = [kind_of(pair) == "lured" for pair in pairs if objectivity_of(pair.category) == objectivity]
            share = sum(lured) / len(lured)
            right[objectivity, True] = RIGHT_LURED
            right[objectivity, False] = (mean - share * RIGHT_LURED) / (1 - share)
        return cls(right)

    def is_right(self, model: str, prompt: str, right: str, wrong: str, objectivity: str) -> bool:
        """Whether this model thinks that the right answer is the better one."""
        texts = "\0".join((prompt, right, wrong))
        who = "all" if random.Random(f"shared {texts}").random() < SHARED else model
        return random.Random(f"{who} {texts}").random() < self.right[objectivity, kind(right, wrong) == "lured"]


def objectivity_of(category: str) -> str:
    """Of the pairs of a family."""
    return "Subjective" if category in SUBJECTIVE else "Objective"


_TARGET = re.compile(
    r"<user-(\w{8})>\n(.*?)\n</user-\1>.*?<candidate_1-\1>\n(.*?)\n</candidate_1-\1>.*?"
    r"<candidate_2-\1>\n(.*?)\n</candidate_2-\1>",
    re.DOTALL,
)


@contextmanager
def language_models(beliefs: Beliefs, category: dict[str, str]) -> Iterator[str]:
    """Serves the models at an OpenAI-compatible URL, which is given; any model name is one. `category` is by prompt."""
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet: in two they wait for each other

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = json.loads(body)
            with lock:  # the same question again is another sample
                asked[body.decode()] += 1
                number = asked[body.decode()]
            text = answer(beliefs, category, request, number)
            size = sum(len(message["content"]) for message in request["messages"])
            reply = json.dumps(
                {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 0,
                    "model": request["model"],
                    "choices": [
                        {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                    ],
                    "usage": {
                        "prompt_tokens": size // 4,
                        "completion_tokens": len(text) // 4,
                        "total_tokens": size // 4 + len(text) // 4,
                    },
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def answer(beliefs: Beliefs, category: dict[str, str], request: dict[str, Any], number: int) -> str:
    """What a model says: attributes where the prompt asks for them, else a preference, or now and then nothing useful."""
    text = request["messages"][-1]["content"]
    _, prompt, one, two = list(_TARGET.finditer(text))[-1].groups()
    rng = random.Random(f"{request['model']} {number} {text}")
    if rng.random() < GARBAGE:
        return "Let me think about this."
    objectivity = objectivity_of(category[prompt])
    if "annotation_guideline" in text.rsplit("\n", 1)[-1] or '"annotation_guideline"' in text[-400:]:
        return json.dumps(
            {
                "task_category": "Math" if category[prompt] in ("arithmetic", "units") else "Information seeking",
                "preference_objectivity": objectivity,
                "controversiality": "Low" if objectivity == "Objective" else "Medium",
                "desired_attributes": "correct, to the point",
                "annotation_guideline": f"a question about {category[prompt]}: see which answer is right",
            }
        )
    first_is_right = oracle(prompt, one)
    right, wrong = (one, two) if first_is_right else (two, one)
    thinks = beliefs.is_right(request["model"], prompt, right, wrong, objectivity)
    says_right = thinks if rng.random() < STEADY else not thinks
    return json.dumps({"preferred": f"Candidate {1 if says_right == first_is_right else 2}"})


def people(seed: int) -> Any:
    """Verifies a batch; see `skyrm_jax.curate.people.People`."""

    def verify(batch: Path) -> None:
        lines = []
        for line in batch.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            prompt = item["prompt"][-1]["content"]
            first = oracle(prompt, item["candidates"][0][-1]["content"])
            is_right = random.Random(f"person {seed} {item['item']}").random() < PEOPLE
            verdict = "candidate 1" if first == is_right else "candidate 2"
            lines.append({"batch": item["batch"], "item": item["item"], "verdict": verdict, "annotator": "person"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (batch.parent / f"{batch.stem}.answers.jsonl").write_text(text, encoding="utf-8")

    return verify
