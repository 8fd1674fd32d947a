"""What a folder of `corollary unlearn` holds, opened: questions, base, reference, and the model with its heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from corollary.errors import InvalidFileError
from corollary.runs import read_json
from corollary.unlearning._base import load_base
from corollary.unlearning._examples import Examples
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning._tokens import Tokenizer

SETUP = "setup.json"
NEEDED = {"base", "base_before", "delta", "guidance", "limit", "temperature", "training"}
BORROWED = "of other questions"


@dataclass(frozen=True)
class Opened:
    """What a run folder holds: the questions, and where base and reference lie; perhaps at another setup."""

    folder: Path
    other: Mapping[str, Any] | None = None

    @cached_property
    def setup(self) -> dict[str, Any]:
        """What `fit` was asked, resolved."""
        path = self.folder / SETUP
        found = read_json(path) if self.other is None else dict(self.other)
        if not isinstance(found, dict) or not found.keys() >= NEEDED:
            raise InvalidFileError(path, "not the setup of a run", "fit again, into another folder")
        return found

    def rows(self, part: str) -> list[dict[str, Any]]:
        """`forget`, `retain` (trained on), `held_out` or `unseen` questions; none of a part that was not given."""
        return read_json(self.folder / "questions.json").get(part, [])

    @property
    def borrowed(self) -> bool:
        """Whether wrong answers are those of other questions, since the files had none."""
        return read_json(self.folder / "questions.json").get("wrong_answers") == BORROWED

    @property
    def dropped(self) -> int:
        """How many rows of the files stood there before, question and answer."""
        return int(read_json(self.folder / "questions.json").get("dropped", 0))

    @cached_property
    def base(self) -> tuple[Any, Tokenizer]:
        """Base model and tokenizer."""
        return load_base(self._inside(self.setup["base"]))

    @property
    def reference(self) -> Path | None:
        """Folder of the retrained model."""
        found = self.setup.get("reference")
        return None if found is None else self._inside(found)

    def _inside(self, path: str) -> Path:
        return Path(path) if Path(path).is_absolute() else self.folder / path

    def model(self, *, temperature: float | None = None, guidance: float | None = None) -> TemperTiltModel:
        """The base with its heads, at the settings of the run unless said otherwise."""
        t = self.setup["temperature"] if temperature is None else temperature
        s = self.setup["guidance"] if guidance is None else guidance
        heads = TemperTiltModel.from_pretrained(self.folder / "heads", self.base[0])
        return heads.with_settings(temperature=t, guidance=s)

    def examples(self, part: str, answer: str = "answer") -> Examples:
        """The questions of a part as tokens."""
        return Examples.from_pairs(self.rows(part), self.base[1], answer=answer)
