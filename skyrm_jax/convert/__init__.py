"""Models in from Hugging Face and GGUF, reward models out to Hugging Face."""
