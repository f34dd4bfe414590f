"""What the features of a dictionary are: measured in one pass over the corpus."""
