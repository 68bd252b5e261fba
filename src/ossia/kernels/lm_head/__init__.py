"""From hidden states to logits."""
