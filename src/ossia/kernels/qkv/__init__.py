"""From the residual stream to rotated queries, and keys and values in the cache."""
