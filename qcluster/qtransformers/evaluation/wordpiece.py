"""BERT's tokenizer from a ``vocab.txt``: words, then the longest known pieces (Wu et al. 2016)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from qcluster.errors import FormatError, InputError

__all__ = ["WordPiece"]

LONGEST_WORD = 100


class WordPiece:
    """Text to BERT's token ids.

    Parameters
    ----------
    tokens: the vocabulary in order of id; holds [PAD], [UNK], [CLS], [SEP].
    lower: lower-case and strip accents.

    Raises InputError where a special token is missing.
    """

    def __init__(self, tokens: Sequence[str], *, lower: bool = True) -> None:
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.lower = lower
        for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"):
            if token not in self.ids:
                raise InputError(f"the vocabulary has no {token}", field="vocab")
        self.pad, self.cls, self.sep = (self.ids[t] for t in ("[PAD]", "[CLS]", "[SEP]"))
        self._cached = lru_cache(maxsize=65_536)(self._pieces)

    @classmethod
    def read(cls, path: str | Path, *, lower: bool = True) -> WordPiece:
        """The vocabulary of a file, one token a line. Raises FormatError naming it."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(f"cannot be read: {error}", file=path) from None
        try:
            return cls(text.split("\n")[: text.count("\n") + bool(text.split("\n")[-1])],
                       lower=lower)  # fmt: skip
        except InputError as error:
            raise error.at(file=path) from None

    def encode(self, text: str) -> list[int]:
        """Ids without special tokens."""
        return [piece for word in self._words(text) for piece in self._cached(word)]

    def batch(self, texts: Sequence[tuple[str, ...]], max_length: int) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``token_type_ids``, padded to the longest.

        Each entry is a sentence or a pair; too long ones lose tokens at the end of their longer
        part.
        """
        rows, types = [], []
        for parts in texts:
            encoded = [self.encode(part) for part in parts]
            while sum(map(len, encoded)) > max_length - 1 - len(encoded):
                max(encoded, key=len).pop()
            row, kind = [self.cls], [0]
            for index, ids in enumerate(encoded):
                row += [*ids, self.sep]
                kind += [min(index, 1)] * (len(ids) + 1)
            rows.append(torch.tensor(row))
            types.append(torch.tensor(kind))
        pad = torch.nn.utils.rnn.pad_sequence
        ones = [torch.ones(len(row), dtype=torch.long) for row in rows]
        return {
            "input_ids": pad(rows, batch_first=True, padding_value=self.pad),
            "attention_mask": pad(ones, batch_first=True),
            "token_type_ids": pad(types, batch_first=True),
        }

    def _words(self, text: str) -> Iterator[str]:
        word = ""
        for character in self._normal(text):
            if character.isspace():
                if word:
                    yield word
                word = ""
            elif _is_punctuation(character) or _is_cjk(character):
                if word:
                    yield word
                word = ""
                yield character
            else:
                word += character
        if word:
            yield word

    def _normal(self, text: str) -> str:
        kept = (
            " " if c in "\t\n\r" else c
            for c in text
            if c in "\t\n\r" or (c not in "\0\ufffd" and unicodedata.category(c)[0] != "C")
        )
        text = "".join(kept)
        if not self.lower:
            return text
        plain = unicodedata.normalize("NFD", text.lower())
        return "".join(c for c in plain if unicodedata.category(c) != "Mn")

    def _pieces(self, word: str) -> tuple[int, ...]:
        unknown = (self.ids["[UNK]"],)
        if len(word) > LONGEST_WORD:
            return unknown
        found: list[int] = []
        start = 0
        while start < len(word):
            end = len(word)
            while end > start:
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in self.ids:
                    break
                end -= 1
            if end == start:
                return unknown
            found.append(self.ids[piece])
            start = end
        return tuple(found)


def _is_punctuation(character: str) -> bool:
    code = ord(character)
    ascii_marks = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_marks or unicodedata.category(character).startswith("P")


def _is_cjk(character: str) -> bool:
    code = ord(character)
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2FA1F
