"""Operators: what a pipeline does to a shop's orders."""
