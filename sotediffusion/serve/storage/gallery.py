"""The finished pictures of an owner: found by words, marked as favourites, deleted one by one."""

from dataclasses import replace

import sqlalchemy as sa

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Job, JobState, StoredPicture
from sotediffusion.serve.storage.rows import earlier_than, result_values, to_job
from sotediffusion.serve.storage.schema import jobs


class Gallery:
    """Pictures by the jobs that made them. An owner sees and changes only its own."""

    def __init__(self, database: Database):
        self.database = database

    def find(
        self, owner: str, words: str = "", favourites: bool = False, limit: int = 100, before: str | None = None
    ) -> list[Job]:
        """Jobs with pictures, the latest first and earlier than the job `before`: with each of the words in their prompt.

        UserError: there is no such job `before`.
        """
        mine = [jobs.c.owner == owner, jobs.c.state == JobState.SUCCEEDED, jobs.c.pictures.is_not(None)]
        mine += [jobs.c.request["prompt"].as_string().icontains(word, autoescape=True) for word in words.split()]
        if favourites:
            mine.append(jobs.c.favourites > 0)
        with self.database.read() as connection:
            if before is not None:
                mine.append(earlier_than(connection, before, owner))
            query = sa.select(jobs).where(*mine).order_by(jobs.c.seq.desc()).limit(limit)
            return [to_job(row) for row in connection.execute(query)]

    def favour(self, owner: str, id: str, name: str, yes: bool = True) -> bool:
        """Mark a picture as a favourite, or as none; its job outlives the retention while it has one. False: no such picture."""
        with self.database.write() as connection:
            pictures = self._pictures(connection, owner, id)
            marked = [replace(picture, favourite=yes) if picture.name == name else picture for picture in pictures]
            return self._store(connection, id, marked) if name in (picture.name for picture in pictures) else False

    def discard(self, owner: str, id: str, name: str) -> bool:
        """Take a picture out of its job; the caller then removes its file from the shelf. False: no such picture."""
        with self.database.write() as connection:
            pictures = self._pictures(connection, owner, id)
            rest = [picture for picture in pictures if picture.name != name]
            return self._store(connection, id, rest) if len(rest) < len(pictures) else False

    def _pictures(self, connection: sa.Connection, owner: str, id: str) -> tuple[StoredPicture, ...]:
        query = sa.select(jobs).where(jobs.c.owner == owner, jobs.c.id == id).with_for_update()
        row = connection.execute(query).first()
        return (to_job(row).pictures or ()) if row is not None else ()

    def _store(self, connection: sa.Connection, id: str, pictures: list[StoredPicture]) -> bool:
        """With no picture left the job has none any more, and no longer stands in the gallery."""
        values = result_values(pictures) | ({} if pictures else {"pictures": None}) | {"version": jobs.c.version + 1}
        connection.execute(jobs.update().where(jobs.c.id == id).values(values))
        return True
