"""Reconciling a table with the shop: the rows, the plan, the run and the record of it."""
