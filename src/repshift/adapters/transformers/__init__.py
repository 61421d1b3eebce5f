"""transformers: encoders of images, videos, spectrograms and texts, and Mamba."""

from repshift.adapters.transformers.describe import describe

__all__ = ["describe"]
