"""How long each kernel takes, beside the least time that its bytes or operations need."""
