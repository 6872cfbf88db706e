"""Judges of answers to questions: a model, here or at an endpoint, asked for a number."""

from trimtab.scoring.judge.metric import COHERENCE as COHERENCE
from trimtab.scoring.judge.metric import Judge as Judge
from trimtab.scoring.judge.metric import Judgement as Judgement
from trimtab.scoring.judge.metric import Metric as Metric
