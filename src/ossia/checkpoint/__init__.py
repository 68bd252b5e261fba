"""Checkpoints: finding, loading, inventing and converting the weights of gpt-oss networks."""
