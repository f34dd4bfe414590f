"""Language models: loading a snapshot, reading hookpoints, pre-training small ones. Only this room knows their insides."""
