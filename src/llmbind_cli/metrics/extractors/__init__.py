"""Networks that turn pictures into features, each with its weights' source and hash."""
