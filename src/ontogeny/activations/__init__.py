"""Activations of all snapshots on the same tokens."""
