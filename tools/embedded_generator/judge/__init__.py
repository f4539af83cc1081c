"""The judge that tells which thing a picture shows, and what else `measure.py` reads off it."""
