"""Reconciling a table with the shop: the rows, what the shop shows, the plan, the workers and the report."""
