"""Compiled loops over the tags of many pictures: what several columns say of each put together, everything once.

N pictures, P columns of tags one after another: `codes` are the tags of all columns, `starts` (P, N + 1) where those of each
picture begin. What a picture has said already is marked with its number (`seen`), so that nothing is ever cleared or sorted.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True, nogil=True)
def said_by(starts: Array, codes: Array, others: Array, other_codes: Array, size: int) -> Array:
    """Which of one column's codes (starts (N + 1,)) are also among those of other columns (P, N + 1) for the same picture."""
    found = np.zeros(len(codes), np.bool_)
    seen = np.zeros(size, np.int32)
    for row in range(len(starts) - 1):
        for part in range(len(others)):
            for place in range(others[part, row], others[part, row + 1]):
                seen[other_codes[place]] = row + 1
        for place in range(starts[row], starts[row + 1]):
            found[place] = seen[codes[place]] == row + 1
    return found


@njit(cache=True, nogil=True)
def by_kind(starts: Array, codes: Array, table: Array, size: int, spare: bool) -> tuple[Array, Array]:
    """Each picture's characters, series and general tags, in the order of the columns.

    `table` (T, 3) has of every code its kind (0 character, 1 series, 2 general, -1 nothing), its number and that of its series
    or -1; numbers are below `size`. `spare`: the last column counts only where the others say nothing. Returns where each
    picture's begin (3, N + 1), and numbers (3, M) of which the first ones of each line are used.
    """
    parts, rows = starts.shape[0], starts.shape[1] - 1
    ends, out = np.zeros((3, rows + 1), np.int32), np.empty((3, len(codes)), np.int32)
    seen = np.zeros((3, size), np.int32)
    for row in range(rows):
        for kind in range(3):
            ends[kind, row + 1] = ends[kind, row]
        for part in range(parts):
            if spare and part == parts - 1 and (ends[:, row + 1] > ends[:, row]).any():
                break
            for place in range(starts[part, row], starts[part, row + 1]):
                kind, number, series = table[codes[place]]
                if kind >= 0 and seen[kind, number] != row + 1:
                    seen[kind, number] = row + 1
                    out[kind, ends[kind, row + 1]] = number
                    ends[kind, row + 1] += 1
                if series >= 0 and seen[1, series] != row + 1:
                    seen[1, series] = row + 1
                    out[1, ends[1, row + 1]] = series
                    ends[1, row + 1] += 1
    return ends, out


@njit(cache=True, nogil=True)
def by_group(starts: Array, codes: Array, groups: Array, rest: int, rules: tuple[Array, Array, Array, Array], size: int) -> Any:
    """Each picture's tags by group, without those that another of its tags says already.

    `groups` (P,) ascends. `rules` are of every code its number or -1, whether the group `rest` may not have it, and the numbers
    it says: said[said_starts[code] : said_starts[code + 1]]; numbers are below `size`. Returns the numbers that stay; for each
    run of one group and picture where it begins and its group; and where each picture's runs begin (N + 1,).
    """
    number, reserved, said_starts, said = rules
    rows, kept, runs = starts.shape[1] - 1, 0, 0
    seen = np.zeros(size, np.int32)
    out, begins = np.empty(len(codes), np.int32), np.empty(len(codes) + 1, np.int32)
    of_runs, pictures = np.empty(len(codes), np.int32), np.zeros(rows + 1, np.int32)
    for row in range(rows):
        for part in range(len(groups)):
            for place in range(starts[part, row], starts[part, row + 1]):
                code = codes[place]
                if number[code] >= 0 and not (groups[part] == rest and reserved[code]):
                    for at in range(said_starts[code], said_starts[code + 1]):
                        seen[said[at]] = row + 1
        group = -1
        for part in range(len(groups)):
            for place in range(starts[part, row], starts[part, row + 1]):
                code = codes[place]
                name = number[code]
                if name < 0 or (groups[part] == rest and reserved[code]) or seen[name] == row + 1:
                    continue
                seen[name] = row + 1
                if groups[part] != group:
                    group = groups[part]
                    begins[runs], of_runs[runs] = kept, group
                    runs += 1
                out[kept] = name
                kept += 1
        pictures[row + 1] = runs
    begins[runs] = kept
    return out[:kept], begins[: runs + 1], of_runs[:runs], pictures
