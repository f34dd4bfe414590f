"""Suites: the ordered checkpoints of one model's pre-training run."""
