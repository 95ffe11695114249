"""The control loop in a process of its own."""
