"""Models: finding, loading, tokenising, batching, embedding."""
