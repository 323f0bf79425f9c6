"""Registers everything: Model Garden's own experiments and tasks, and what Libra adds to them."""

from official.vision import registry_imports

from libra_tf.configs import fastrcnn as fastrcnn_configs
from libra_tf.configs import maskrcnn as maskrcnn_configs
from libra_tf.configs import retinanet as retinanet_configs
from libra_tf.modeling import optimizers, resnext
from libra_tf.tasks import fastrcnn, maskrcnn, retinanet
