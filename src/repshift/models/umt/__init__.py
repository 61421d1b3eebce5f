"""Unmasked Teacher (UMT, ICCV 2023) for video-text retrieval and question answering."""
