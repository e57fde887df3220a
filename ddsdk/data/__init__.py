"""Real data: loading, preprocessing, selection, and the source protocol."""
