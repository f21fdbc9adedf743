"""embedstore: a store you can ask about a latent space.

    import embedstore

    with embedstore.create("fashion.store") as store:
        store.index("pictures/")
        hits = store.search(store.item("shoes/0017.png"), k=10, where="label != 'Bag'")

Importing it loads nothing but itself; what needs NumPy, FAISS or PyTorch loads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.errors import EmbedstoreError
    from embedstore.store import Store, create, open
    from embedstore.types import AddReport, Failure, Hit, Item, Latent, Metric

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


_HOMES = {"EmbedstoreError": "errors", "Store": "store", "create": "store", "open": "store"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("embedstore")
    if name in __all__:
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"embedstore.{_HOMES.get(name, 'types')}"), name)
        return found
    raise AttributeError(f"module 'embedstore' has no attribute {name!r}")
