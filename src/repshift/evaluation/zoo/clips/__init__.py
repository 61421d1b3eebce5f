"""Short generated clips, what is said of them, and a small UMT trained on them."""
