"""A vision-language model of a few thousand weights, with its processor, as a folder like those of the Hub."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

WORDS = (
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<image>",
    "In",
    ":",
    "What",
    "action",
    "should",
    "the",
    "robot",
    "take",
    "to",
)
WORDS = (*WORDS, "open", "drawer", "?", "Out", *(f"spare{number}" for number in range(300)))
SIZE = 28


def save_small_vla(folder: Path) -> None:
    """Of Llava's kind, as OpenVLA: a vision transformer, a projector and a Llama, whose last 256 words are actions."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, additional_special_tokens=["<image>"])
    square = {"height": SIZE, "width": SIZE}
    pictures = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=square)
    LlavaProcessor(
        pictures, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=SIZE, patch_size=14)
    # Wide weights: LoRA leaves the last layer as it is, and small ones could not prefer any word.
    words_of = {"vocab_size": len(WORDS), "max_position_embeddings": 64, "initializer_range": 0.3}
    text = LlamaConfig(**sizes, **words_of, num_key_value_heads=2)
    image = {"image_token_index": WORDS.index("<image>"), "vision_feature_layer": -1}
    config = LlavaConfig(vision_config=vision, text_config=text, **image)
    LlavaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
