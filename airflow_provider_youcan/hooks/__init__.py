"""Hooks: the connection to a shop."""
