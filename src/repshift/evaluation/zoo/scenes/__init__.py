"""Generated scenes, questions about them, and small vision-language models trained on them."""

NAMES = ("scenes-vlm", "photos-vlm")
