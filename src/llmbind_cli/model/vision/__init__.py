"""What a bundle sees with: frozen networks, and the trained parts between them and the LLM."""
