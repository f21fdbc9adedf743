"""embedstore: a store you can ask about a latent space.

    import embedstore

    with embedstore.create("fashion.store") as store:
        store.index("pictures/")
        hits = store.search(store.item("shoes/0017.png"), k=10, where="label != 'Bag'")

Importing it loads neither torch nor faiss nor scikit-learn; what needs them loads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedstore.errors import EmbedstoreError
from embedstore.types import AddReport, Failure, Hit, Item, Latent, Metric

if TYPE_CHECKING:
    from embedstore.store import Store, create, open

__all__ = [
    "AddReport",
    "EmbedstoreError",
    "Failure",
    "Hit",
    "Item",
    "Latent",
    "Metric",
    "Store",
    "__version__",
    "create",
    "open",
]


def __getattr__(name: str) -> Any:
    if name in ("Store", "create", "open"):
        from embedstore import store

        return getattr(store, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("embedstore")
    raise AttributeError(f"module 'embedstore' has no attribute {name!r}")
