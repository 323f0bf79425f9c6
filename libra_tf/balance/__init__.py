"""Measures of balance, shared by the histograms of a training step and the report on a run.

Pure TensorFlow functions with static shapes: they work inside a compiled training step and eagerly.
`samples` measures the candidates and what each way of sampling takes of them, `boxes` the
errors of predicted boxes and the slope of the loss there.
"""
