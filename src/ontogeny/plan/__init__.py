"""What a study takes, before anything runs: sizes, memory, arithmetic, disk, and the time that timed steps foretell."""
