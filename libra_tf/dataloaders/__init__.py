"""What the input pipelines read beyond Model Garden's records, with TensorFlow operations only."""
