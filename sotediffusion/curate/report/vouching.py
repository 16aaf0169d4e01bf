"""Whether a picture that was left out before tagging may be shown: the tagger looks now, and the policy's rule decides."""

from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate.policy import TagPolicyStep
from sotediffusion.curate.report.stats import Catalogue
from sotediffusion.curate.tag.step import TagStep


class Voucher:
    """Opens the tagger at the first question."""

    def __init__(self, catalogue: Catalogue, tagger: TagStep):
        self.catalogue, self.tagger, self.policy = catalogue, tagger, TagPolicyStep(tagger.tags)
        self.opened = False

    def __call__(self, path: str, pixels: "np.ndarray[Any, Any]") -> bool:
        """Whether the rule has nothing against the picture, by what the tagger sees and what the sidecar says."""
        if not self.opened:
            self.tagger.setup()
            self.opened = True
        view = self.tagger.views[0]
        seen = self.tagger.look(pa.record_batch([], names=[]), {view.name: view.make(pixels)[np.newaxis]})
        said = self._sidecar(path)
        names = self.policy.reads
        row = pa.record_batch(
            [seen.column(name) if name in seen.schema.names else said[name] for name in names], names=list(names)
        )
        return self.policy.process(row).column(0)[0].as_py() is None

    def _sidecar(self, path: str) -> dict[str, pa.Array]:
        there = [name for name in self.policy.reads if self.catalogue.has(name) and name not in self.tagger.writes.names]
        found = self.catalogue.ask(f"SELECT {', '.join(there) or 'path'} FROM known WHERE path = ? LIMIT 1", [path])
        values = dict(zip(there, found[0], strict=True)) if found and there else {}
        return {name: pa.array([values.get(name)]) for name in self.policy.reads}
