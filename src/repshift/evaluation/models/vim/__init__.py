"""Vision Mamba (Vim, ICML 2024): a bidirectional state-space model of images."""

from repshift.adapters import register_adapter
from repshift.evaluation.models.vim.adapter import describe

register_adapter("repshift.evaluation.models.vim", describe)
