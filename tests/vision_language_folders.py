"""Folders with a small vision-language model and its processor, as save_pretrained writes them."""

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from vision_language_models import IMAGE, VIDEO, build

MARKS = {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>", 292: "<|vision_start|>"}
MARKS[293] = "<|vision_end|>"
TEMPLATE = (
    "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|> <|image_pad|> <|vision_end|> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
)


def tokenizer():
    vocabulary = {MARKS.get(number, f"w{number}"): number for number in range(300)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="w7"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="w0",
        unk_token="w7",
        extra_special_tokens=[*MARKS.values()],
    )


def save_llava(folder):
    """A model of square images, cropped at their centre; without a chat template."""
    build("llava").save_pretrained(folder)
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token=MARKS[IMAGE],
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def save_qwen(folder):
    """A model of images of any size, with a chat template."""
    build("qwen2.5-vl").save_pretrained(folder)
    settings = {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 4096}}
    transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(**settings),
        tokenizer(),
        transformers.Qwen2VLVideoProcessor(**settings),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder
