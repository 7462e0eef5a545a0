"""`python -m skyrm_jax.data.synthetic --out FILE.jsonl --count N --seed S [--noise R]`: synthetic comparisons to a file."""

import argparse
import json
import sys
from pathlib import Path

from skyrm_jax.comparison import to_record
from skyrm_jax.data.synthetic import generate
from skyrm_jax.errors import run_command


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m skyrm_jax.data.synthetic", description="Make comparisons.")
    parser.add_argument("--out", type=Path, required=True, help="file to write, JSON lines")
    parser.add_argument("--count", type=int, required=True, help="how many comparisons")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same comparisons (default 0)")
    parser.add_argument("--noise", type=float, default=0.0, help="share of preferences turned round (default 0)")
    args = parser.parse_args(argv)
    comparisons = generate(args.count, args.seed, args.noise)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8") as file:
        for comparison in comparisons:
            file.write(json.dumps(to_record(comparison)) + "\n")
    print(f"{args.count} comparisons in {args.out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
