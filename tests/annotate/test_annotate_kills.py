"""A server that is killed while people answer has kept every answer that it acknowledged."""

import random
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from served import Served, start
from small_batches import Clock, made
from small_pages import Seen

from skyrm_jax.annotate.given import CHOICES
from skyrm_jax.annotate.store import Store

KILLS = 20
CLIENTS = 4


class Client(threading.Thread):
    """Somebody who answers until the server is gone; `form` is what they do not know to have been kept."""

    def __init__(self, served: Served, who: str, form: dict[str, str] | None, kept: set[str]) -> None:
        super().__init__()
        self._served, self._who, self._kept = served, who, kept
        self.form, self.odd, self.done = form, list[str](), 0

    def run(self) -> None:
        origin = {"origin": self._served.url}
        try:
            with httpx.Client(base_url=self._served.url, headers=origin, timeout=60) as client:
                client.post("/login", data={"said": self._who})
                while True:
                    retried = self.form is not None
                    page = Seen.of(client.get("/").text).forms
                    if self.form is None:
                        if "/answer" not in page:
                            self.odd.append("nothing is left")
                            return
                        self.form = page["/answer"] | {"choice": random.choice(CHOICES), "note": self._who}
                    self.form["csrf"] = next(iter(page.values()))["csrf"]
                    answer = client.post("/answer", data=self.form)
                    if answer.status_code == 303 or (
                        retried and answer.status_code == 409 and "already kept" in answer.text
                    ):
                        self._kept.add(self.form["lease"])
                        self.done += 1
                    else:
                        self.odd.append(f"{answer.status_code}: {answer.text}")
                    self.form = None
        except httpx.TransportError:
            pass


@pytest.mark.full
def test_killed_twenty_times_while_four_people_answer(tmp_path: Path) -> None:
    made(tmp_path, Clock(), count=5000, people=()).close()
    folder = tmp_path / "store"
    forms: dict[str, dict[str, str] | None] = {f"p{n}": None for n in range(CLIENTS)}
    kept: dict[str, set[str]] = {who: set() for who in forms}
    posted = 0
    for _ in range(KILLS):
        served = start(folder)
        clients = {who: Client(served, who, form, kept[who]) for who, form in forms.items()}
        for client in clients.values():
            client.start()
        before = time.monotonic()
        while sum(client.done for client in clients.values()) < 8 and time.monotonic() < before + 60:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        served.kill()
        for who, client in clients.items():
            client.join(60)
            assert not client.is_alive() and not client.odd, client.odd
            forms[who] = client.form
            posted += client.done
        with Store(folder) as store:
            answered = Counter(event.lease for event in store.events() if event.kind == "answered")
            assert set().union(*kept.values()) <= set(answered)
            assert max(answered.values()) == 1
            people = Counter(row.item for row in store.answers())
            assert max(people.values()) == 1
            assert all(row.note == row.who for row in store.answers())
    assert posted >= 8 * KILLS
