"""From mixed values back to the residual stream."""
