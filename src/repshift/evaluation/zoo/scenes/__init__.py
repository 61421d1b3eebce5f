"""Generated scenes, questions about them, and a small vision-language model trained on them."""
