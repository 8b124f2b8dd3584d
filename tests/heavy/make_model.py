"""
Make a tiny Qwen2 model that knows nothing: random weights, and a tokenizer trained on the sample reviews.

    python make_model.py FOLDER

The weights are wide enough for the answer to depend on the prompt. Those of vLLM's `--load-format dummy` are
not: with them every restaurant would get the same summary, and a mix-up would go unseen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from pathlib import Path

VOCABULARY = 2048
CONTEXT = 4096
END = "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,  # vLLM on CPU has no kernel for heads of 16
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "max_position_embeddings": CONTEXT,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
    "torch_dtype": "float32",
    "bos_token_id": None,
    "eos_token_id": 1,
    "use_cache": True,
}


def texts() -> Iterator[str]:
    """Yield what the tokenizer learns from: reviews in Korean and English, and some JSON."""
    sample = files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl"
    for line in sample.read_text(encoding="utf-8").splitlines():
        for review in json.loads(line)["reviews"]:
            yield review["content"]
            yield json.dumps(review)


def make(folder: Path) -> None:
    """Write the model into a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", END, "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": "<|endoftext|>",
        "model_max_length": CONTEXT,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "config.json", CONFIG)
    _write(folder / "generation_config.json", {"eos_token_id": 1, "pad_token_id": 0})
    _write_weights(folder)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_weights(folder: Path) -> None:
    # By name, because the checks of every day run where neither is installed.
    transformers = import_module("transformers")
    import_module("torch").manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
