"""`skyrm annotate --store DIR`: serve the page, bring batches in, take answers out, let people in."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from skyrm_jax.annotate.store import Store
from skyrm_jax.annotate.values import Role, Waits
from skyrm_jax.errors import UserError

PORT = 8765

_WAITS: dict[Waits, str] = {
    "flag": "to flagged pairs, which an adjudicator is to look at",
    "split": "to pairs on which people disagree, which an adjudicator is to decide",
    "reason": "without the reason that is due",
}

HANDING = ("overlap", "lease_seconds", "gold_share", "seed", "review")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(
        prog="skyrm annotate",
        description="A page on which people verify preference pairs. Without a command it serves the store DIR.",
        epilog="`skyrm annotate --store DIR COMMAND --help` explains a command. Commands may be run while the page is served:"
        " people go on answering during an import, and one that was stopped is finished by running it again.",
    )
    p.add_argument("--store", type=Path, required=True, metavar="DIR", help="everything is kept here; made if needed")
    p.add_argument("--host", default="127.0.0.1", help="address to serve at; others than loopback take tokens")
    p.add_argument("--port", type=int, default=PORT, help="0: any that is free")
    p.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name under which people come here, such as that of a proxy; takes tokens too",
    )
    now = p.add_argument_group("how items are handed out (kept in the store; what is left out stays as it was)")
    now.add_argument("--overlap", type=int, metavar="N", help="people who answer each item")
    now.add_argument("--lease-seconds", type=float, metavar="S", help="time to answer, before others get the item")
    now.add_argument("--gold-share", type=float, metavar="P", help="share of hidden checks, 0 to 1")
    now.add_argument("--seed", type=int, metavar="N", help="of sides and of the places of checks")
    now.add_argument(
        "--review",
        action=argparse.BooleanOptionalAction,
        help="show the label after the answer, and ask for a reason where the two differ",
    )
    commands = p.add_subparsers(dest="command", metavar="COMMAND")
    one = commands.add_parser(
        "import",
        help="put batches at the end of the queue",
        description="Of a file, objective pairs come before subjective ones, less controversial ones before others, and"
        " those that are alike in their order. What an import reads lies in a temporary file first (TMPDIR says where).",
    )
    one.add_argument("files", type=Path, nargs="+", metavar="FILE", help="NAME.jsonl of curation, or Argilla's records")
    one.add_argument(
        "--gold", action="store_true", help="the answers in the files are right: they become hidden checks"
    )
    one.add_argument(
        "--gold-answers", type=Path, metavar="ANSWERS", help="the items that this file answers become checks"
    )
    one.add_argument("--per-item", type=int, metavar="N", help="people who answer each item of these files")
    one.set_defaults(act=_import)
    one = commands.add_parser("export", help="write the answers to a batch")
    one.add_argument("batch")
    one.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where to (default: this folder)")
    one.add_argument("--argilla", action="store_true", help="as Argilla's records")
    one.set_defaults(act=_export)
    one = commands.add_parser("log", help="write everything that happened as JSON lines")
    one.add_argument("file", type=Path)
    one.set_defaults(act=_log)
    one = commands.add_parser("token", help="let somebody in, or give them a new token")
    one.add_argument("name")
    one.add_argument(
        "--adjudicator",
        action=argparse.BooleanOptionalAction,
        help="also decides on splits and flags, and sees the agreement (left out: as before)",
    )
    one.set_defaults(act=_token)
    p.set_defaults(act=_serve)
    return p


def main(arguments: list[str] | None = None) -> None:
    """Runs the command. Raises UserError for anything that the user can mend."""
    args = parser().parse_args(arguments)
    act: Callable[[Store, argparse.Namespace], None] = args.act
    given = {name: getattr(args, name) for name in HANDING if getattr(args, name) is not None}
    # A server keeps the options in mind, so that nobody may change them beside it.
    with Store(args.store, alone=args.command is None or bool(given)) as store:
        store.set_options(replace(store.options, **given))
        act(store, args)


def _serve(store: Store, args: argparse.Namespace) -> None:
    try:
        from skyrm_jax.annotate.serve import serve
    except ModuleNotFoundError as error:
        raise UserError(f"the page needs {error.name}; pip install 'skyrm-jax[annotate]'") from None
    serve(store, args.store, args.host, args.port, args.allow_host)


def _import(store: Store, args: argparse.Namespace) -> None:
    from skyrm_jax.annotate.exchange import import_batch

    for file in args.files:
        taken = import_batch(store, file, gold=args.gold_answers, known=args.gold, overlap=args.per_item)
        print(
            f"{file}: {taken.items:,} items, {taken.new:,} new, {taken.gold:,} gold checks, {taken.answers:,} answers"
        )


def _export(store: Store, args: argparse.Namespace) -> None:
    from skyrm_jax.annotate.exchange import export_answers, export_argilla

    done = (export_argilla if args.argilla else export_answers)(store, args.batch, args.out)
    print(done.path)
    for waits, count in sorted(done.left_out.items()):
        print(f"left out: {count:,} answers {_WAITS[waits]}", file=sys.stderr)


def _log(store: Store, args: argparse.Namespace) -> None:
    from skyrm_jax.annotate.exchange import export_events

    print(f"{args.file}: {export_events(store, args.file):,} events")


def _token(store: Store, args: argparse.Namespace) -> None:
    role: Role | None = None
    if args.adjudicator is not None:
        role = "adjudicator" if args.adjudicator else "annotator"
    print(store.add_annotator(args.name, role))
