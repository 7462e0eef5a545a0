"""The command: what it does with a store, what it refuses, and that it serves and ends as it is told."""

import json
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from served import serving
from small_batches import Clock, answers_file, made, say, take, write

from skyrm_jax.annotate.cli import main
from skyrm_jax.annotate.serve import serve
from skyrm_jax.annotate.store import Options, Store
from skyrm_jax.errors import UserError


def run(store: Path, *arguments: object) -> None:
    main(["--store", str(store), *map(str, arguments)])


def test_batches_in_answers_and_log_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    batch, checks = write(tmp_path, "b", 4), write(tmp_path, "g", 2)
    run(store, "import", batch, "--per-item", 2)
    run(store, "import", checks, "--gold-answers", answers_file(tmp_path / "right.jsonl", checks, ["candidate 1"] * 2))
    said = capsys.readouterr().out
    assert f"{batch}: 4 items, 4 new, 0 gold checks, 0 answers" in said and f"{checks}: 2 items, 2 new, 2 gold" in said
    with Store(store) as opened:
        opened.annotator("ann", create=True)
        say(opened, "ann", 1)
        assert opened.progress("ann").total == 6
    run(store, "export", "b", "--out", tmp_path)
    (answer,) = map(json.loads, Path(capsys.readouterr().out.strip()).read_text().splitlines())
    assert answer["verdict"] == "candidate 1" and answer["annotator"] == "ann"
    run(store, "export", "b", "--out", tmp_path, "--argilla")
    assert len(json.loads(Path(capsys.readouterr().out.strip()).read_text())) == 4
    run(store, "log", tmp_path / "log.jsonl")
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kinds.count("imported") == 2 and kinds.count("answered") == 1


def test_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "store", "token", "boss", "--adjudicator")
    token = capsys.readouterr().out.strip()
    with Store(tmp_path / "store") as store:
        boss = store.annotator_by_token(token)
        assert boss is not None and (boss.name, boss.role) == ("boss", "adjudicator")
    for options, role in (([], "adjudicator"), (["--no-adjudicator"], "annotator"), ([], "annotator")):
        run(tmp_path / "store", "token", "boss", *options)
        with Store(tmp_path / "store") as store:
            boss = store.annotator_by_token(capsys.readouterr().out.strip())
            assert boss is not None and boss.role == role


def test_an_export_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with made(tmp_path, Clock(), count=3, overlap=2) as store:
        for who, candidate in (("ann", 1), ("bob", 2)):
            say(store, who, candidate)
            say(store, who, 1)
        say(store, "ann", 1)
        store.flag("bob", take(store, "bob").lease, "broken")
    run(tmp_path / "store", "export", "b", "--out", tmp_path)
    said = capsys.readouterr()
    assert len(Path(said.out.strip()).read_text().splitlines()) == 2
    assert "2 answers to pairs on which people disagree" in said.err and "1 answers to flagged pairs" in said.err


def test_options_stay_until_they_are_changed(tmp_path: Path) -> None:
    for arguments, options in (
        (["--overlap", 3, "--review", "--gold-share", 0.1], Options(overlap=3, review=True, gold_share=0.1)),
        (["--seed", 7, "--lease-seconds", 60], Options(3, 60.0, 0.1, 7, True)),
        (["--no-review"], Options(3, 60.0, 0.1, 7, False)),
    ):
        run(tmp_path / "store", *arguments, "log", tmp_path / "log")
        with Store(tmp_path / "store") as store:
            assert store.options == options
    with pytest.raises(UserError, match="overlap must be at least 1"):
        run(tmp_path / "store", "--overlap", 0, "log", tmp_path / "log")


def test_others_need_tokens_and_there_must_be_one(tmp_path: Path) -> None:
    with made(tmp_path, Clock()) as store:
        for host, names in (("0.0.0.0", []), ("127.0.0.1", ["annotate.example.org"])):
            with pytest.raises(UserError, match="token NAME"):
                serve(store, tmp_path, host, 0, names)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(UserError, match="choose another --host or --port"):
                serve(store, tmp_path, "127.0.0.1", taken.getsockname()[1], [])
        with pytest.raises(UserError, match="choose --port from 0 to 65535"):
            serve(store, tmp_path, "127.0.0.1", 99_999, [])


def fetch(url: str, host: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host})) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_serves_one_store_to_those_it_should_and_ends_when_told(tmp_path: Path) -> None:
    store = tmp_path / "store"
    made(tmp_path, Clock()).close()
    with serving(store) as served:
        assert "Your name" in fetch(f"{served.url}/login", "localhost")[1]
        assert fetch(f"{served.url}/login", "evil.example")[0] == 400
        with pytest.raises(UserError, match="another process"):
            Store(store)
        with pytest.raises(UserError, match="another process"):
            run(store, "--overlap", 2, "log", tmp_path / "log")
        # What does not hand items out may be done beside it.
        run(store, "import", write(tmp_path, "later", 3))
        run(store, "token", "boss")
        run(store, "log", tmp_path / "log")
        assert [json.loads(line)["kind"] for line in (tmp_path / "log").read_text().splitlines()].count("imported") == 2
        assert served.stop() == 0
    with Store(store) as opened:
        opened.add_annotator("ann")
    with serving(store, "--host", "0.0.0.0", "--allow-host", "annotate.example.org") as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        for host in ("annotate.example.org", "192.168.1.5:8765", socket.gethostname()):
            assert "Your token" in fetch(f"{url}/login", host)[1]
        assert fetch(f"{url}/login", "evil.example")[0] == 400
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 0
