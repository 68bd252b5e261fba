"""The harmony format: text to tokens, turns to prompts, the model's tokens to messages."""
