"""The program `libra-tf`, as `python -m libra_tf`."""

from libra_tf.commands.main import main

if __name__ == "__main__":
    main()
