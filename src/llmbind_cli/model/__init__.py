"""The language model with its adapters, projector and heads."""
