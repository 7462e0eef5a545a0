"""The reward model: architecture facts, decoder, reward head, and where each weight lives on a mesh."""
