"""Model Garden parts built on the Libra layers; importing it registers the decoder."""

from libra_tf.modeling import libra_fpn
