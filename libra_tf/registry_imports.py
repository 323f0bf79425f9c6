"""Registers everything: Model Garden's own experiments and tasks, and what Libra adds to them."""

from official.vision import registry_imports

from libra_tf.configs import experiments
from libra_tf.modeling import libra_fpn, optimizers, resnet_v1, resnext, torch_sgd
from libra_tf.tasks import fastrcnn, maskrcnn, retinanet
