"""`libra-tf predict`, from a clone."""

from absl import app, flags

from libra_tf.commands import predict

# What absl shows above the flags.
__doc__ = predict.__doc__.replace("libra-tf predict", "python export/predict.py")

if __name__ == "__main__":
    flags.adopt_module_key_flags(predict)
    app.run(predict.main)
