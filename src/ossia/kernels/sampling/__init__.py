"""Choosing tokens from logits without the host: what `engine/device_sampler.py` launches."""
