"""Demonstrations: collected with scripted experts, stored in shards, loaded with checks."""
