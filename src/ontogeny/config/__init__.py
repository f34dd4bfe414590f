"""Every setting of every stage, a file for each section of a study. Loads no torch."""
