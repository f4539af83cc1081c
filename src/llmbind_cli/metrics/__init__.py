"""Metrics as pure functions of arrays: masks, pictures, features, logits, plans. No files here."""
