"""A TensorFlow Serving client for the models that `export/saved_model.py` writes.

`target` says which model to ask, `rest` and `grpc_api` send the requests, and `run` sends all
images. Only `grpc_api` imports TensorFlow.
"""
