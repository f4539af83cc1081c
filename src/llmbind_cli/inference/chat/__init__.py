"""A conversation: its turns, the files it makes, the prompt on a terminal, the session file."""
