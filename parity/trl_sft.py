"""TRL's SFTTrainer as the tests and the benchmark run it: single precision, on the processor, in the order of the data."""

from dataclasses import dataclass, field

import datasets
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer


@dataclass
class Trained:
    model: object
    # A line a step, and one for each evaluation.
    steps: list = field(default_factory=list)
    evaluations: list = field(default_factory=list)
    # Token ids and labels of the rows, as they were trained on; of pairs nothing.
    rows: list = field(default_factory=list)


# TRL's defaults but for what makes a run comparable: no bfloat16, no recomputation, no shuffling, nothing written.
PLAIN = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "train_sampling_strategy": "sequential",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def open_tokenizer(directory):
    """Its tokenizer.json as it is. For some model types (qwen2) AutoTokenizer splits words in its own way instead."""
    return PreTrainedTokenizerFast.from_pretrained(directory)


def train(
    model, rows, directory, *, kind=(SFTTrainer, SFTConfig), tokenizer=None, eval_rows=None, peft_config=None, callbacks=None,
    **settings,
):
    """Trains a model, or that of a directory, on rows, with a trainer of this kind; what it was like."""
    trainer_class, config_class = kind
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    if not hasattr(model, "forward"):
        tokenizer = open_tokenizer(model)
        model = AutoModelForCausalLM.from_pretrained(model)
    trainer = trainer_class(
        model,
        args=config_class(str(directory), **PLAIN, **settings),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(eval_rows) if eval_rows else None,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    history = trainer.state.log_history
    return Trained(
        trainer.model,
        [line for line in history if "loss" in line],
        [line for line in history if "eval_loss" in line],
        [{key: row[key] for key in ("input_ids", "labels")} for row in trainer.train_dataset if "labels" in row],
    )
