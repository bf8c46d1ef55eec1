"""Labelled examples from files: what fine-tuning learns from and evaluation measures against."""
