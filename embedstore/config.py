"""Settings of a store, saved in the store itself."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from embedstore.errors import InvalidArgument
from embedstore.types import PROCESS_BYTES, Dtype


def as_bytes(value: int | str) -> int:
    """An amount of memory in bytes: a number of them, or '500M', '2G', '1.5GiB' (of 1,024 each).

    Raises:
        InvalidArgument: it is neither.
    """
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
        amount = 0.0 if found is None else float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")
    else:
        amount = 0 if isinstance(value, bool) or not isinstance(value, int) else value
    if not 1 <= amount < 2**63:
        raise InvalidArgument(f"{value!r} is no amount of memory: write 500M or 2G, or a whole number of bytes")
    return int(amount)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What a store was told when it was created.

    Attributes:
        recall: the recall@10 that index tiers are tuned to, in (0, 1].
        factory: a FAISS factory string for all tiers, or None to choose by size.
        memory: bytes that a process which searches may take, or None for no bound; indexes are chosen for it.
        dtype: how vectors are kept on disk, see `types.Dtype`.
        tail_floats: vectors that no tier covers are searched exactly until they hold this many numbers.
        segment_bytes: a segment file at least this large is not appended to any more.
        lock_seconds: how long a second writer waits before it gets StoreBusy.
        seed: of everything random (fitting, training of tiers, samples for tuning).
    """

    recall: float = 0.99
    factory: str | None = None
    memory: int | None = None
    dtype: str = "float32"
    tail_floats: int = 2**21
    segment_bytes: int = 2**30
    lock_seconds: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.recall, (int, float)) or isinstance(self.recall, bool) or not 0.0 < self.recall <= 1.0:
            raise InvalidArgument(f"recall is {self.recall!r}, but must be above 0 and at most 1")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**32:
            raise InvalidArgument(f"seed is {self.seed!r}, but must be a whole number from 0 to 4,294,967,295")
        if self.factory is not None and not isinstance(self.factory, str):
            raise InvalidArgument(f"factory is {self.factory!r}, but must be a FAISS factory string such as 'HNSW32'")
        if self.memory is not None and as_bytes(self.memory) < PROCESS_BYTES:
            raise InvalidArgument(
                f"memory is {self.memory:,} bytes, but a process that searches takes "
                f"{PROCESS_BYTES:,} ({PROCESS_BYTES >> 20} MiB) before it holds a single vector: allow more"
            )
        Dtype.parse(self.dtype)
        for name in ("tail_floats", "segment_bytes", "lock_seconds"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value >= (name == "segment_bytes"):
                raise InvalidArgument(f"{name} is {value!r}, but must be a number that isn't negative")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> StoreConfig:
        """From a stored JSON object; settings that this version doesn't know are left alone."""
        if not isinstance(value, dict):
            raise InvalidArgument(f"settings must be a JSON object, not {type(value).__name__}")
        known = {field.name for field in fields(cls)}
        return cls(**{key: item for key, item in value.items() if key in known})
