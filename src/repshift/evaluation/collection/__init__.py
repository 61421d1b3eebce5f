"""A user's own photographs and videos: embedded into a table, and found again."""
