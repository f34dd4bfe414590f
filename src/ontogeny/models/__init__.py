"""Language models: loading a snapshot, reading hookpoints, pre-training. Only this room knows their insides."""
