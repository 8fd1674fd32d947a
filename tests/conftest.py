"""Shape and type checks on every public signature, for the tests only."""

from jaxtyping import install_import_hook

install_import_hook("corollary", "beartype.beartype")
