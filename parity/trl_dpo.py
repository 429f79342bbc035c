"""TRL's DPOTrainer as the tests and the benchmark run it: single precision, on the processor, in the order of the data."""

import datasets
from transformers import AutoModelForCausalLM, PrinterCallback
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer
from trl_sft import PLAIN, Trained, open_tokenizer


def train(model, rows, directory, *, tokenizer=None, eval_rows=None, peft_config=None, callbacks=None, **settings):
    """Trains a model, or that of a directory, on pairs; what it was like."""
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    if not hasattr(model, "forward"):
        tokenizer = open_tokenizer(model)
        model = AutoModelForCausalLM.from_pretrained(model)
    trainer = DPOTrainer(
        model,
        args=DPOConfig(str(directory), **PLAIN, **settings),
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
    )
