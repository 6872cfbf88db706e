"""LoRA fine-tuning under steering: keep a trait out, and see beforehand what data would bring."""

from trimtab.training.config import TrainingConfig as TrainingConfig
from trimtab.training.sft import Training as Training
from trimtab.training.sft import train as train
