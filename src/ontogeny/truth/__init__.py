"""Known answers: planted suites, nulls, stability."""
