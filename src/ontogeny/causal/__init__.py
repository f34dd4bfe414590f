"""From features to behaviour."""
