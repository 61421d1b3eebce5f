"""Weights of the small models that repshift's commands run offline; nothing but files."""
