"""How the graph of an exported detector is asked for detections in image files.

The names are those of `libra_tf.serving.detection`, which imports TensorFlow; a client over REST
does without it.
"""

SIGNATURE = "serving_default"
INPUT = "image_bytes"
