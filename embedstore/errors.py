"""Every exception that embedstore raises on purpose.

A message is one sentence that names the thing at fault and the way out: the command line prints it as it is, after
``error:``, and exits with 1. Bugs may raise anything else.
"""

from __future__ import annotations


class EmbedstoreError(Exception):
    """Base of every error that a user can cause or mend."""


class InvalidArgument(EmbedstoreError, ValueError):
    """A parameter outside what is allowed (``k`` below 1, an unknown metric, ...)."""


class StoreNotFound(EmbedstoreError):
    """There is no store at this path."""


class NotAStore(EmbedstoreError):
    """The path exists, but what is there is no store."""


class StoreExists(EmbedstoreError):
    """A store, or something else, is already where a new store should go."""


class StoreTooNew(EmbedstoreError):
    """The store was written by a newer version of embedstore."""


class StoreBusy(EmbedstoreError):
    """Another process is writing; the message names it."""


class StoreReadOnly(EmbedstoreError):
    """The store was opened for reading, or its directory can't be written."""


class StoreClosed(EmbedstoreError):
    """The store object was closed."""


class StoreDamaged(EmbedstoreError):
    """Bytes on disk are not those that were committed."""


class DiskFull(EmbedstoreError):
    """No room (or a file-size limit) while writing; what was acknowledged before is kept."""


class UnknownItem(EmbedstoreError, KeyError):
    """No live item has this id."""

    def __str__(self) -> str:  # KeyError would print the repr of the sentence
        return str(self.args[0]) if self.args else ""


class UnknownSpace(EmbedstoreError):
    """No space has this name."""


class UnknownDirection(EmbedstoreError, KeyError):
    """No direction of the space has this name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnknownRun(EmbedstoreError, KeyError):
    """No clustering, or no map, has this name, or there is none yet."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NothingMatches(EmbedstoreError):
    """A filter from which latents were to be taken matches no item."""


class Disconnected(EmbedstoreError):
    """No chain of neighbours leads from one item to another."""


_SHOWN = 100  # letters of a long line


class PointedError(EmbedstoreError):
    """A text that can't be understood, with a caret under the place.

    Attributes:
        text: as given.
        position: 0-based offset of the culprit in ``text``.
    """

    def __init__(self, message: str, text: str = "", position: int | None = None) -> None:
        self.text = text
        self.position = position
        if position is not None:
            # A text of several lines keeps its caret under the right one.
            start = text.rfind("\n", 0, position) + 1
            line = text[start:].split("\n", 1)[0]
            place = position - start
            if len(line) > _SHOWN:  # what is about the place, so that the caret doesn't get lost
                first = max(0, min(place - _SHOWN // 2, len(line) - _SHOWN))
                line, place = line[first : first + _SHOWN], place - first
            message = f"{message}\n  {line}\n  {' ' * place}^"
        super().__init__(message)


class FilterError(PointedError):
    """A filter that doesn't parse or names an unknown field."""


class ExpressionError(PointedError):
    """An expression that doesn't parse, or names what isn't there."""


class InvalidVector(EmbedstoreError, ValueError):
    """A vector with NaN or infinity, of the wrong shape or dtype, or zero where the metric is cosine."""


class DimensionMismatch(InvalidVector):
    """A vector whose length isn't the dimension of the space."""


class SpaceMismatch(EmbedstoreError, ValueError):
    """Latents of two different spaces in one computation."""


class NoEncoder(EmbedstoreError):
    """Pictures were given to a space that has no encoder."""


class NoDecoder(EmbedstoreError):
    """A picture was asked for in a space that has no decoder."""


class EncoderMismatch(EmbedstoreError):
    """The encoder at hand is not the one that made the vectors of the space; the message names both fingerprints."""


class ModelInvalid(EmbedstoreError):
    """A checkpoint whose keys, shapes, sizes or hash differ from the recorded config."""


class SourceError(EmbedstoreError):
    """A source as a whole can't be read: missing, empty, of no known kind."""


class UnreadableItem(EmbedstoreError):
    """One item of a source can't be read; the rest of the batch goes on."""


class MissingExtra(EmbedstoreError, ImportError):
    """An optional package is not installed; the message names the extra."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}: pip install 'embedstore[{extra}]' (in a clone, '.[{extra}]')"
        )
