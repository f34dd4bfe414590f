"""Dictionaries: crosscoders over snapshots; their losses and training."""
