"""Plots and terminal tables shared by training, evaluation and curation."""
