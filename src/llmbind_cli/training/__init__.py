"""Training of a binding model: recipe in, bundle out."""
