"""How the embedded bundle learns to see: the stages before and around ``llmbind train``."""
