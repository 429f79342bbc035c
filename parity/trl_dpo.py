"""TRL's DPOTrainer as the tests and the benchmark run it: single precision, on the processor, in the order of the data."""

from functools import partial

import trl_sft
from trl import DPOConfig, DPOTrainer

train = partial(trl_sft.train, kind=(DPOTrainer, DPOConfig))
