"""Where the templates of a page are found, and how they are rendered."""

import functools

import jinja2


@functools.cache
def environment(package: str) -> jinja2.Environment:
    """Returns the environment of a page.

    Args:
      package: the Python package whose `templates` the page is made of; `figures.html.j2` and
        `page.css`, which all pages share, come from this one.
    """
    loaders = [jinja2.PackageLoader(package), jinja2.PackageLoader("libra_tf.pages")]
    result = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A tenth of a pixel is more than can be seen.
    result.filters["px"] = lambda position: f"{position:.1f}"
    return result
