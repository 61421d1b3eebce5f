"""Unmasked Teacher (UMT, ICCV 2023) for video-text retrieval and question answering."""

from repshift.adapters import register_adapter
from repshift.evaluation.models.umt.adapter import describe

register_adapter("repshift.evaluation.models.umt", describe)
