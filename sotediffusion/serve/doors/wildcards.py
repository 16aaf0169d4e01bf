"""Wildcard files: `__name__` in a prompt stands for one of the lines of the file of that name, another for each picture."""

import random
import re
from dataclasses import dataclass
from pathlib import Path

from sotediffusion.names import unknown
from sotediffusion.types import UserError

_NAME = re.compile(r"__([A-Za-z0-9][A-Za-z0-9_/. -]{0,80}?)__")
_MOST = 1000  # places in a prompt


@dataclass(frozen=True)
class Wildcards:
    """The files of a folder and its subfolders, `hair/colors.txt` by the name `hair/colors`. Read anew at each use."""

    folder: Path

    def all(self) -> dict[str, list[str]]:
        """Names and lines; empty lines and those that begin with # are left out."""
        files = sorted(self.folder.rglob("*.txt")) if self.folder.is_dir() else []
        return {path.relative_to(self.folder).with_suffix("").as_posix(): _lines(path) for path in files}

    def fill(self, prompt: str, seed: int, count: int, field: str = "prompt") -> str:
        """The prompt with a choice of lines, `{one|other}`, in each place: as many as there are pictures, chosen by the seed.

        UserError: no such file, or an empty one.
        """
        if not _NAME.search(prompt):
            return prompt
        known, chance = self.all(), random.Random(f"{seed} {field}")

        def chosen(match: re.Match[str]) -> str:
            if not known:
                raise UserError(field, f"{match[0]} stands for a line of a file, and this server has no such files; write a tag")
            if match[1] not in known:
                raise unknown(field, match[0], [f"__{name}__" for name in known])
            lines = known[match[1]]
            if not lines:
                raise UserError(field, f"the file of {match[0]} is empty; write lines into it, or a tag instead")
            few = chance.sample(lines, min(count, len(lines)))
            return few[0] if len(few) == 1 else "{" + "|".join(few) + "}"

        return _NAME.sub(chosen, prompt, count=_MOST)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
