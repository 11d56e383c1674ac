"""The record of a run: its lines, where they are kept, and how they are read again."""
