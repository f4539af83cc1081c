"""Neural building blocks that need nothing but torch."""
