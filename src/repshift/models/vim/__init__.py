"""Vision Mamba (Vim, ICML 2024): a bidirectional state-space model of images."""
