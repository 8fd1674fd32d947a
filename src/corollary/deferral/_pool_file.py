"""`pool.toml`: which experts to ask, what they cost, and how an answer is judged; imports neither torch nor numpy.

[quality]
kind = "exact"                # the answer is the reference, up to case and blanks; or "contains"
reference = "answer"          # column of the prompts' file
# function = "mine:judge"     # instead: judge(row, answer) -> number in [0, 1]

[experts.small]
url = "http://127.0.0.1:8000/v1"
model = "small-1b"
key_env = "SMALL_KEY"         # the key itself never stands in a file
input_price = 0.1             # for a million tokens; or price = 0.0004 a call
output_price = 0.4
max_tokens = 128

[experts.local]
function = "mine:answer"      # answer(prompt) in mine.py beside the pool file, or in an installed module
price = 0.001
timeout = 20.0
retries = 2
concurrency = 8
idempotent = false
"""

import hashlib
import importlib
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corollary.deferral._chat_expert import chat_expert
from corollary.deferral._expert_pool import Expert
from corollary.errors import CorollaryError, InvalidFileError, InvalidInputError

MAX_BYTES = 1 << 20
LIMITS = {"price", "timeout", "retries", "concurrency", "idempotent"}
CHAT = LIMITS | {"url", "model", "key_env", "input_price", "output_price", "max_tokens", "system"}
LOCAL = LIMITS | {"function"}

Judge = Callable[[Mapping[str, Any], Any], float]


@dataclass(frozen=True)
class PoolFile:
    """What a pool file says.

    Args:
        experts: in the file's order.
        judge: `(row of the prompts' file, answer) -> quality in [0, 1]`.
        reference: column that the judge needs, or None.
        digest: SHA-256 of the file.

    Guarantee: none; it is a record.

    Example:
        >>> PoolFile((), lambda row, answer: 1.0, None, "").experts
        ()
    """

    experts: tuple[Expert, ...]
    judge: Judge
    reference: str | None
    digest: str


def read_pool(path: str | Path) -> PoolFile:
    r"""Read a pool file; see the head of this module for what stands in it.

    Raises:
        InvalidFileError: for a file that is absent, no TOML, or says something that is not known.
        InvalidInputError: for a function that cannot be found, or a key's environment variable that is not set.

    Guarantee: none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pool.toml"
        >>> _ = path.write_text('[quality]\nkind = "exact"\nreference = "answer"\n'
        ...     '[experts.a]\nfunction = "json:dumps"\nprice = 0.1\n[experts.b]\nfunction = "json:loads"\n')
        >>> [e.name for e in read_pool(path).experts]
        ['a', 'b']
    """
    source = Path(path)
    if not source.is_file():
        raise InvalidFileError(source, "there is no such file", "check the path")
    if source.stat().st_size > MAX_BYTES:
        raise InvalidFileError(source, f"larger than the {MAX_BYTES >> 20} MB allowed", "give a pool file")
    raw = source.read_bytes()
    try:
        data = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InvalidFileError(source, f"not TOML ({problem})", "see docs/deferral.md for an example") from None
    _known(source, data, {"quality", "experts"}, "the file")
    experts, quality = data.get("experts"), data.get("quality")
    if not isinstance(experts, dict) or len(experts) < 2 or not all(isinstance(e, dict) for e in experts.values()):
        raise InvalidFileError(source, "holds fewer than two tables [experts.NAME]", "a router chooses between two")
    if not isinstance(quality, dict):
        raise InvalidFileError(source, "holds no table [quality]", "say how answers are judged")
    try:
        found = tuple(_expert(source, name, entry) for name, entry in experts.items())
        judge, reference = _judge(source, quality)
    except CorollaryError:
        raise
    except (TypeError, ValueError) as problem:
        raise InvalidFileError(source, f"a value of the wrong kind ({problem})", "see docs/deferral.md") from None
    return PoolFile(found, judge, reference, hashlib.sha256(raw).hexdigest())


def _known(source: Path, entry: Mapping[str, Any], names: set[str], where: str) -> None:
    if unknown := sorted(set(entry) - names):
        raise InvalidFileError(source, f"{where} has {unknown[0]!r}", f"known are {', '.join(sorted(names))}")


def _expert(source: Path, name: str, entry: dict[str, Any]) -> Expert:
    local = "function" in entry
    if local == ("url" in entry):
        raise InvalidFileError(source, f"expert {name!r} needs either `url` or `function`", "give one of them")
    _known(source, entry, LOCAL if local else CHAT, f"expert {name!r}")
    if local:
        options = {k: v for k, v in entry.items() if k != "function"}
        return Expert(name, _function(source, entry["function"]), **options)
    if "model" not in entry:
        raise InvalidFileError(source, f"expert {name!r} has no `model`", "name the model at that server")
    if not {"price", "input_price", "output_price"} & set(entry):
        raise InvalidFileError(source, f"expert {name!r} has no price", "give price, or input_price and output_price")
    return chat_expert(name, **entry)


def _judge(source: Path, entry: dict[str, Any]) -> tuple[Judge, str | None]:
    _known(source, entry, {"kind", "reference", "function"}, "[quality]")
    if "function" in entry:
        return _function(source, entry["function"]), None
    kind, reference = entry.get("kind", "exact"), entry.get("reference")
    if kind not in ("exact", "contains") or not isinstance(reference, str):
        raise InvalidFileError(
            source, "[quality] needs kind = 'exact' or 'contains' with reference = COLUMN, or function", "give one"
        )

    def judge(row: Mapping[str, Any], answer: Any) -> float:
        wanted, given = plain(row[reference]), plain(answer)
        return float(wanted == given if kind == "exact" else bool(wanted) and wanted in given)

    return judge, reference


def plain(value: Any) -> str:
    """Text without what does not count: case, and blanks at the ends or doubled.

    Example:
        >>> plain("  The  Sky "), plain(4)
        ('the sky', '4')
    """
    return " ".join(str(value).casefold().split())


def _function(source: Path, name: Any) -> Callable[..., Any]:
    module, colon, attribute = str(name).partition(":")
    if not colon or not module or not attribute:
        raise InvalidFileError(source, f"{name!r} is no `module:function`", "write it so")
    sys.path.insert(0, str(source.resolve().parent))
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as problem:
        raise InvalidInputError(f"{source}: {name} cannot be found ({problem}); it must be beside the file") from None
    finally:
        sys.path.remove(str(source.resolve().parent))
    if not callable(found):
        raise InvalidInputError(f"{source}: {name} is no function; name one")
    return found
