"""Predictions and references on disk → scores, a report that says how they came about, gates."""
