"""The model card of an exported reward model: how it was made, what a reader must know to score with it."""

import json
from collections.abc import Mapping
from typing import Any

from skyrm_jax.chat import DATE
from skyrm_jax.checkpoint import POOLING, versions
from skyrm_jax.models.architecture import HF_NAMES, Architecture


def model_card(architecture: Architecture, dtype: str, provenance: Mapping[str, Any]) -> str:
    """README.md of a model folder.

    Args:
        dtype: of the weights.
        provenance: metadata of the checkpoint: what a training run or an import recorded.
    """
    run = provenance.get("config") or {}
    base = provenance.get("base") or run.get("model", {}).get("base")
    made_with = provenance.get("versions") or versions()
    facts: dict[str, Any] = {
        "base": base or ("random initialisation" if run else "not recorded"),
        "preference data": preference_data(provenance) or "none recorded",
        "chat template (sha256)": provenance.get("template_hash") or "not recorded",
        "scored token": f"{POOLING} ({architecture.pad_token_id})",
        "parameters": f"{architecture.parameter_count():,}, {dtype}",
        "made with": ", ".join(f"{package} {number}" for package, number in made_with.items()),
    }
    for name in ("revision", "commit", "average_of", "member_templates", "head", "max_tokens"):
        if provenance.get(name) is not None:
            facts[name.replace("_", " ")] = provenance[name]
    if run:
        facts["optimizer"] = run.get("optimizer")
    name = f"{HF_NAMES[architecture.model_type]}ForSequenceClassification"
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in facts.items())
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags:
- reward-model
---

# Reward model

A scalar Bradley-Terry reward model: `{name}` with one label, exported by skyrm_jax.
The logit is the reward, with no sigmoid and no scale; only differences between rewards of responses to the
same prompt mean something.

| | |
|---|---|
{rows}

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForSequenceClassification.from_pretrained(FOLDER)
conversation = [{{"role": "user", "content": "2 + 2?"}}, {{"role": "assistant", "content": "4"}}]
text = tokenizer.apply_chat_template(conversation, tokenize=False, date_string="{DATE}")
ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
with torch.no_grad():
    print(model(ids).logits[0, 0].item())
```
"""


def preference_data(provenance: Mapping[str, Any]) -> Any:
    """What the metadata of a checkpoint say that it was trained on, or None."""
    data = (provenance.get("config") or {}).get("data", {})
    return provenance.get("data") or data.get("sources") or data.get("store")


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.replace("|", "\\|").replace("\n", " ")
