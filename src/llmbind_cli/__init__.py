"""llmbind: one language model whose task tokens call frozen models of every modality."""

__version__ = "0.1.0"
