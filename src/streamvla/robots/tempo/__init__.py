"""The tempo suite: tasks in which the world does not wait."""
