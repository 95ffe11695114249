"""Executors: when to observe, where a generation starts, what a made action does to the plan."""
