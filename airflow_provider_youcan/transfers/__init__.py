"""Transfers: a shop's orders to where a data team has its tables."""
