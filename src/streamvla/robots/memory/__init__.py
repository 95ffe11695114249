"""Tasks that the present moment does not solve: what was seen before must be remembered."""
