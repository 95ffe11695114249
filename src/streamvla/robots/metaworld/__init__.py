"""Meta-World: 42 tasks on one arm."""
