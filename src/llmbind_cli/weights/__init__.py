"""The one way by which llmbind gets weights: a source string → a checked local directory."""
