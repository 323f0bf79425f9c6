"""What the config of a layer or loss keeps of its constructor's arguments."""

import inspect


def names(cls):
    """Returns the names of the constructor's own arguments."""
    return set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}


def kept(made, default):
    """Returns the arguments whose value in the config of `made` is not that of `default`.

    An argument that `get_config` leaves out, or gives its default, is the same before and after a
    round trip: comparing the two configs does not show that it is lost.
    """
    config, defaults = made.get_config(), default.get_config()
    return {name for name in names(type(made)) & config.keys() if config[name] != defaults[name]}
