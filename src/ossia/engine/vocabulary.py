"""The two facts about token ids that the engine relies on."""

TOKENIZER_SIZE = 201088  # ids from here on are no tokens, whatever the embedding has
FIRST_SPECIAL = 199998  # ordinary tokens are below, special ones from here on
