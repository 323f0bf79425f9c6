"""A client of TensorFlow Serving for what `export/saved_model.py` writes.

`target` says what is asked for, `rest` and `grpc_api` ask for it, `answers` holds what comes back,
`files` finds the images and `run` sends them all. Only `grpc_api` imports TensorFlow.
"""
