"""Vision-language models: fewer visual tokens in the prompt and in the language model's layers."""
