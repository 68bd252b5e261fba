"""Attention over paged keys and values, with sinks and a window."""
