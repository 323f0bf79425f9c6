"""A TensorFlow Serving client for the models that `export/saved_model.py` writes.

`target` says which model to ask, `connection` chooses the protocol and waits for the model, and
`rest` and `grpc_api` send the requests. A connection is a detector like those of this process, so
`libra_tf.inference.detecting` asks it about files. Only `grpc_api` imports TensorFlow.
"""
