"""What the network is made of: a folder an operation. `select.py` chooses, once, at start-up."""
