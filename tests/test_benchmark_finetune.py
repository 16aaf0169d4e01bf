"""What the table of a fine-tune counts: captions name the figure without her looks, and a look counts where it is shown."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import finetune  # noqa: E402

from sotediffusion.miniature.caption import tags_of  # noqa: E402


def test_captions_name_her_instead_of_her_looks_and_scenes_show_them():
    for index in range(20):
        scene = finetune.portrayed(finetune.SEED, index)
        named, full = finetune.words(scene, finetune.NAME).split(", "), finetune.words(scene, None).split(", ")
        assert set(named) - set(full) == {finetune.NAME} and set(full) - set(named) == finetune.LOOK
        assert finetune.LOOK <= set(tags_of(scene)["rest"])


def test_a_look_counts_by_the_pictures_in_which_it_is_read():
    scenes = [finetune.portrayed(finetune.SEED, index) for index in range(4)]
    told = [{"green hair", "smile"}, {"green hair"}, set(), {"kimono"}]
    found = finetune.looks(told, scenes)
    assert (found["green hair"], found["kimono"], found["glasses"]) == (0.5, 0.25, 0) and set(found) == finetune.LOOK
    assert finetune.share(told, [{"smile", "frown"}, {"green hair"}, set(), set()]) == 2 / 3
