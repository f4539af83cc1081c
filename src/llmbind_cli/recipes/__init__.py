"""Recipes: what a TOML file may say, how it is read, and where the shipped ones are."""
