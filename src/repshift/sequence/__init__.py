"""Sequences of tokens: which rows belong to which image, which are kept, and the way back."""
