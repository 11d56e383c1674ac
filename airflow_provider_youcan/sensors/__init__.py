"""Sensors: waiting for what happens to a shop's orders."""
