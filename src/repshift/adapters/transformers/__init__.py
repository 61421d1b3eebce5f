"""transformers: encoders of images, videos, spectrograms and texts, and Mamba."""

from repshift.adapters.transformers.describe import describe
from repshift.adapters.transformers.resize import resizer

__all__ = ["describe", "resizer"]
