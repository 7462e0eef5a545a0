"""A small decoder saved as Qwen3-Embedding models are: a bare decoder, whose tensors' names have no `model.` prefix."""

from pathlib import Path

from safetensors.numpy import load_file

from skyrm_jax.data import bpe

WORDS = ["red", "green", "blue", "black", "white"]


def save_embedding_model(folder: Path) -> Path:
    """A random Qwen3 decoder in fp32 with a tokenizer whose pad token is <|endoftext|>."""
    import torch
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = bpe.train([" ".join(WORDS) * 3], vocabulary=300)
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>"})
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3Model(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert "embed_tokens.weight" in load_file(folder / "model.safetensors")
    return folder
