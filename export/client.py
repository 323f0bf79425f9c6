"""Sends images to TensorFlow Serving and writes the detections.

    python export/client.py --model=cells images/ > detections.jsonl
    python export/client.py --model=cells --server=http://localhost:8501 --pictures=drawn a.jpg

It writes one line of JSON per image. docs/serving.md has examples.
"""

from absl import app, flags

from libra_tf.commands import client

if __name__ == "__main__":
    flags.adopt_module_key_flags(client)
    app.run(client.main)
