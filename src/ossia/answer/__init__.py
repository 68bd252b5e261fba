"""From the tokens of an answer to what its reader is shown."""
