"""Templates to pages, and pages to files."""

from typing import Any

import jinja2

from lacy_jax.data.files import write_whole
from lacy_jax.paths import absolute


def render(template: str, **values: Any) -> str:
    """A page of evidence/pages/templates, filled; a name that the template has and `values` has not is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lacy_jax.evidence.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def write_page(path: str, page: str) -> None:
    """Puts a page at `path` (local or in a bucket), whole or not at all."""
    # A lone surrogate from a corpus is no reason to lose a page.
    write_whole(absolute(path), page.encode("utf-8", "replace"))
