"""Imported once by the fork server, so that each trial's process starts with it loaded."""

import rmexp.backbone.load
import rmexp.evaluation.preferences
import rmexp.rating.exemplar
import rmexp.reward.train
import rmexp.trial.run  # noqa: F401
