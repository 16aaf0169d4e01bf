"""The gallery: an owner's own pictures, by words and by favourites, and gone when deleted."""

import pytest
from job_places import clock, order, place, quick, server, store  # noqa: F401  fixtures

from sotediffusion.serve.storage.gallery import Gallery
from sotediffusion.serve.storage.jobs import Job, StoredPicture, new_id
from sotediffusion.serve.storage.retention import remove_stale, sweep
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.types import UserError

# ruff: noqa: F811  fixtures are arguments


@pytest.fixture
def gallery(store):
    return Gallery(store.database)


@pytest.fixture
def shelf(quick):
    return Shelf(quick / "shelf", reserve=0)


def finished(store, prompt, owner="anna", count=1, shelf=None):
    store.submit(Job(new_id(), owner, {"prompt": prompt}, "m"))
    [job] = store.claim(new_id(), ["m"], 1, 30)
    names = [shelf.put(job.id, b"picture") if shelf else f"{job.id}-{n}" for n in range(count)]
    store.succeed(job.id, job.fence, [StoredPicture(name, 8, 8, n, bytes=10) for n, name in enumerate(names)])
    return job.id


def test_pictures_are_found_by_every_word_of_the_prompt_whatever_its_case(gallery, store):
    cat = finished(store, "1girl, Cat ears, 100%_soft")
    dog = finished(store, "1girl, dog ears")
    finished(store, "1girl, cat ears", owner="ben")
    store.submit(order())
    found = {words: [job.id for job in gallery.find("anna", words)] for words in ("", "ears cAT", "100%_s", "%", "EARS", "bird")}
    assert found == {"": [dog, cat], "ears cAT": [cat], "100%_s": [cat], "%": [cat], "EARS": [dog, cat], "bird": []}
    assert [job.id for job in gallery.find("anna", before=dog)] == [cat]
    assert [job.id for job in gallery.find("anna", limit=1)] == [dog]


def test_a_favourite_stays_until_it_is_none(gallery, store, clock):
    id = finished(store, "x", count=2)
    other = finished(store, "y")
    assert gallery.favour("anna", id, f"{id}-1")
    assert [picture.favourite for picture in store.get(id).pictures] == [False, True]
    assert [job.id for job in gallery.find("anna", favourites=True)] == [id]
    clock.now += 1000
    assert [job.id for job in store.stale(10)] == [other]
    assert gallery.favour("anna", id, f"{id}-1", yes=False)
    assert {job.id for job in store.stale(10)} == {id, other}


def test_what_becomes_a_favourite_while_old_jobs_go_stays_with_its_file(gallery, store, shelf, clock, monkeypatch):
    old, loved = (finished(store, prompt, shelf=shelf) for prompt in "xy")
    [picture] = store.get(loved).pictures
    clock.now += 1000
    stale = store.stale

    def marked_meanwhile(retention_s):
        found = stale(retention_s)
        gallery.favour("anna", loved, picture.name)
        return found

    monkeypatch.setattr(store, "stale", marked_meanwhile)
    assert remove_stale(store, shelf, 10) == 1
    assert store.get(old) is None and not shelf.written(old)
    assert store.get(loved).pictures[0].favourite and shelf.read(picture.name) == b"picture"


def test_files_that_a_removal_did_not_come_to_are_swept(store, shelf, clock, monkeypatch):
    id = finished(store, "x", shelf=shelf)
    clock.now += 1000
    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "remove_job", lambda shelf, id: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            remove_stale(store, shelf, 10)
    assert store.get(id) is None and shelf.written(id)
    assert sweep(store, shelf) == 0  # too young
    assert sweep(store, shelf, grace_s=-60) == 1 and not shelf.written(id)


def test_a_deleted_picture_frees_its_place_and_the_last_one_takes_the_job_out(gallery, store):
    id = finished(store, "x", count=2)
    assert store.usage("anna") == 20
    assert gallery.discard("anna", id, f"{id}-0") and not gallery.discard("anna", id, f"{id}-0")
    assert [picture.name for picture in store.get(id).pictures] == [f"{id}-1"] and store.usage("anna") == 10
    assert gallery.discard("anna", id, f"{id}-1")
    assert gallery.find("anna") == [] and store.usage("anna") == 0


def test_anothers_picture_cannot_be_touched(gallery, store):
    id = finished(store, "x")
    assert not gallery.favour("ben", id, f"{id}-0") and not gallery.discard("ben", id, f"{id}-0")
    assert gallery.find("ben") == [] and len(store.get(id).pictures) == 1


def test_a_page_after_a_job_that_is_gone_is_refused_and_does_not_look_like_the_last_one(gallery, store):
    first, second, third = (finished(store, "x") for _ in range(3))
    others = finished(store, "x", owner="ben")
    for find in (gallery.find, store.find):
        assert [job.id for job in find("anna", before=third)] == [second, first]
        assert find("anna", before=first) == []
    store.forget([second])
    for find in (gallery.find, store.find):
        for gone in (second, others, "no id"):
            with pytest.raises(UserError, match="before: job '.*', after which .* is not there any more"):
                find("anna", before=gone)
