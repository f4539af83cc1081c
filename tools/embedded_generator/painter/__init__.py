"""The embedded image generator: its latent space, networks, training, export and measurement."""
