"""Judges of answers to questions: a model, here or at an endpoint, asked for a number."""

from trimtab.scoring.judge.metric import COHERENCE as COHERENCE
from trimtab.scoring.judge.metric import Judge as Judge
from trimtab.scoring.judge.metric import Judgement as Judgement
from trimtab.scoring.judge.metric import Metric as Metric
from trimtab.scoring.judge.open_judge import check_judge as check_judge
from trimtab.scoring.judge.open_judge import open_judge as open_judge
from trimtab.scoring.judge.usage import Estimate as Estimate
from trimtab.scoring.judge.usage import Usage as Usage
