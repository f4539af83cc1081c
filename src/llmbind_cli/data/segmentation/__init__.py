"""Data sets of pictures with masks, and the dialogues that are asked of them."""
