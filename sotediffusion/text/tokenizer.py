"""Byte-level BPE tokenizers in CLIP's style: CLIP's own, any tokenizer folder of diffusers, and the making of a small one."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import instant_clip_tokenizer
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from sotediffusion.types import UserError

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # what CLIP takes for a word


class Tokenizer(Protocol):
    """Text to token ids; bos, eos and pad are ids too."""

    bos: int
    eos: int
    pad: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of any length, lower-cased, without bos and eos; no text can spell a special token."""
        ...


class ClipTokenizer:
    """CLIP's own vocabulary of 49408 tokens, for weights that come without a tokenizer; they pad with eos."""

    bos, eos, pad = 49406, 49407, 49407

    def __init__(self) -> None:
        self._bpe = instant_clip_tokenizer.Tokenizer()

    def encode(self, text: str) -> list[int]:
        return list(self._bpe.encode(unicodedata.normalize("NFC", text)))


class FolderTokenizer:
    """The tokenizer of a folder that holds tokenizer.json, or vocab.json and merges.txt, and says in its files how it pads.

    Raises UserError where a file is missing or unreadable, or names no padding.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._bpe = self._open()
        padding = self._bpe.padding or {}
        self._bpe.no_truncation()
        self._bpe.no_padding()
        self._bpe.encode_special_tokens = True  # a prompt that spells a special token means the letters
        self.bos = self._special("bos_token", BOS)
        self.eos = self._special("eos_token", EOS)
        self.pad = self._special("pad_token", padding.get("pad_token"))

    def encode(self, text: str) -> list[int]:
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def _open(self) -> tokenizers.Tokenizer:
        whole, vocab, merges = (self.folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        if not whole.is_file() and not (vocab.is_file() and merges.is_file()):
            message = f"{self.folder} holds no tokenizer; it needs tokenizer.json, or vocab.json and merges.txt"
            raise UserError("tokenizer", message)
        try:
            if whole.is_file():
                return tokenizers.Tokenizer.from_file(str(whole))
            return _clip_style(*models.BPE.read_file(str(vocab), str(merges)))
        except Exception as error:  # the library raises nothing narrower
            raise UserError("tokenizer", f"{self.folder} cannot be read ({error}); fetch its files again") from error

    def _special(self, name: str, default: str | None) -> int:
        """Find the id of a special token by the name that the folder's settings give it."""
        token = default
        settings = [_read_json(self.folder / file) for file in ("tokenizer_config.json", "special_tokens_map.json")]
        for value in (setting[name] for setting in reversed(settings) if setting.get(name)):
            token = value.get("content") if isinstance(value, dict) else value
        if not isinstance(token, str):
            raise UserError("tokenizer", f"{self.folder} names no {name}; add it to tokenizer_config.json")
        added = _read_json(self.folder / "added_tokens.json")
        number = self._bpe.token_to_id(token)
        number = added.get(token) if number is None else number
        if not isinstance(number, int):
            raise UserError("tokenizer", f"{self.folder} has no token {token!r} for its {name}; fetch its files again")
        return number


def train_bpe(texts: Iterable[str], size: int, path: str | Path) -> Path:
    """Learn a vocabulary of at most `size` tokens (515 or more) from texts and write it as a tokenizer.json.

    Every byte is a token, alone and at a word's end, so that nothing is unknown; bos and eos come last and eos pads.
    The same texts give the same file. Raises UserError for a size too small.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    if size < len(vocabulary) + 3:
        raise UserError("size", f"{size} tokens are too few; a vocabulary needs at least {len(vocabulary) + 3}")
    vocab = {token: number for number, token in enumerate(vocabulary)}
    kept = []
    style = _clip_style({}, [])
    words = (word for text in texts for word, _ in style.pre_tokenizer.pre_tokenize_str(style.normalizer.normalize_str(text)))
    for first, second in _learn_merges(Counter(words)):
        if len(vocab) == size - 2:
            break
        vocab.setdefault(first + second, len(vocab))
        kept.append((first, second))
    for token in (BOS, EOS):
        vocab[token] = len(vocab)
    return _save(_clip_style(vocab, kept), Path(path))


def _learn_merges(counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Give the pairs to merge, the most frequent first and ties in the order of their letters (Sennrich et al. 2016).

    The library's own trainer breaks ties by chance, so that its files differ from run to run.
    """
    words = [[*word[:-1], word[-1] + WORD_END] for word in counts]
    weights = list(counts.values())
    totals: Counter[tuple[str, str]] = Counter()
    homes: dict[tuple[str, str], set[int]] = {}
    for place, word in enumerate(words):
        _count_pairs(word, place, weights[place], totals, homes)
    queue = [(-total, pair) for pair, total in totals.items()]
    heapify(queue)
    while queue:
        total, best = heappop(queue)
        if -total != totals[best]:  # counted anew since, and queued again
            continue
        if totals[best] < 2:
            return
        yield best
        changed: set[tuple[str, str]] = set()
        for place in homes[best].copy():
            changed.update(pairwise(words[place]))
            _count_pairs(words[place], place, -weights[place], totals, homes)
            words[place] = _merge(words[place], best)
            _count_pairs(words[place], place, weights[place], totals, homes)
            changed.update(pairwise(words[place]))
        for pair in changed:
            heappush(queue, (-totals[pair], pair))


def _count_pairs(
    word: list[str], place: int, weight: int, totals: Counter[tuple[str, str]], homes: dict[tuple[str, str], set[int]]
) -> None:
    for pair in pairwise(word):
        totals[pair] += weight
        home = homes.setdefault(pair, set())
        (home.add if weight > 0 else home.discard)(place)


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def _clip_style(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    unknown = EOS if EOS in vocab else None
    bpe = tokenizers.Tokenizer(models.BPE(vocab, merges, end_of_word_suffix=WORD_END, unk_token=unknown))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return bpe


def _save(bpe: tokenizers.Tokenizer, path: Path) -> Path:
    """Write beside the file first, so that a full disk leaves nothing half-written."""
    bpe.add_special_tokens([BOS, EOS])
    bos, eos = bpe.get_vocab_size() - 2, bpe.get_vocab_size() - 1
    bpe.post_processor = processors.RobertaProcessing((EOS, eos), (BOS, bos), trim_offsets=False, add_prefix_space=False)
    bpe.enable_padding(pad_id=eos, pad_token=EOS)
    beside = path.with_name(path.name + ".part")
    beside.write_text(bpe.to_str(pretty=False), encoding="utf-8")
    beside.replace(path)
    return path


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError("tokenizer", f"{path} is not JSON ({error}); fetch it again") from error
    return content if isinstance(content, dict) else {}
