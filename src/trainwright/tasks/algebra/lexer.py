"""Text of formulas as tokens of a small vocabulary, by a file with CALT's keys (lexer.yaml)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainwright.errors import ConfigError, DataError, did_you_mean

SEPARATORS = ("||", "|")
OPERATORS = ("+", "-", "*", "^", "/")
BRACKETS = ("(", ")", "[", "]")
PAD, BOS, EOS, CLS, SEP, UNKNOWN = "[PAD]", "<s>", "</s>", "[CLS]", "[SEP]", "<unk>"
SPECIAL = (PAD, BOS, EOS, CLS, UNKNOWN)
_NUMBER = r"\d+(?:\.\d+)?"


@dataclass(frozen=True)
class NumberPolicy:
    """How numbers become tokens.

    Attributes:
        attach_sign: -3 is one token where a number may begin, and not two.
        digit_group: digits of a token, counted from the right; 0 keeps a number whole.
        allow_float: 1.5 is a number; otherwise it is refused.
    """

    attach_sign: bool = True
    digit_group: int = 0
    allow_float: bool = False


@dataclass
class Lexer:
    """Splits formulas into tokens of a vocabulary.

    Attributes:
        vocabulary: the tokens, special ones first, in the order of their ids.
        numbers: how numbers become tokens.
        strict: an unknown token is an error; otherwise it becomes `<unk>`.
    """

    vocabulary: list[str]
    numbers: NumberPolicy = field(default_factory=NumberPolicy)
    strict: bool = True

    def __post_init__(self) -> None:
        self._known = set(self.vocabulary)
        words = sorted((token for token in self._known if token not in SPECIAL), key=len, reverse=True)
        names = [re.escape(word) for word in words if not re.fullmatch(rf"-?{_NUMBER}", word)]
        self._pattern = re.compile("|".join([r"\s+", *names, _NUMBER, r"[^\W\d_]\w*", "."]))

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text.

        Raises:
            DataError: the lexer is strict, and the text holds what is not in the vocabulary; all of it.
        """
        tokens: list[str] = []
        for match in self._pattern.finditer(text):
            piece = match[0]
            if piece.isspace():
                continue
            if re.fullmatch(_NUMBER, piece) and piece not in self._known or self._is_plain_number(piece):
                self._add_number(tokens, piece)
            else:
                tokens.append(piece)
        unknown = sorted({token for token in tokens if token not in self._known})
        if unknown and self.strict:
            hints = "".join(did_you_mean(token, self._known) for token in unknown[:1])
            raise DataError(
                f"{text[:60]!r} holds {', '.join(map(repr, unknown[:10]))}, which the lexer's vocabulary has not."
                f"{hints} Add it to vocab in lexer.yaml, or set strict: false."
            )
        return [token if token in self._known else UNKNOWN for token in tokens]

    @staticmethod
    def _is_plain_number(piece: str) -> bool:
        return re.fullmatch(_NUMBER, piece) is not None

    def _add_number(self, tokens: list[str], digits: str) -> None:
        """Append a number, with its sign where it has one, in groups of digits where that is asked for."""
        if "." in digits and not self.numbers.allow_float:
            raise DataError(
                f"The number {digits} is no whole number; set number_policy.allow_float: true in lexer.yaml."
            )
        sign = ""
        if self.numbers.attach_sign and tokens and tokens[-1] == "-" and _begins_number(tokens[:-1]):
            tokens.pop()
            sign = "-"
        size = self.numbers.digit_group
        if size and "." not in digits:
            first = len(digits) % size or size
            groups = [digits[:first], *(digits[i : i + size] for i in range(first, len(digits), size))]
        else:
            groups = [digits]
        tokens += [sign + groups[0], *groups[1:]]

    def to_token_text(self, text: str) -> str:
        """Return the tokens of a text with spaces between them."""
        return " ".join(self.tokenize(text))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text's tokens, without special ones."""
        places = {token: number for number, token in enumerate(self.vocabulary)}
        return [places[token] for token in self.tokenize(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the tokens of some ids with spaces between them, special ones left out."""
        return " ".join(token for token in (self.vocabulary[i] for i in ids) if token not in SPECIAL)

    def tokenizer(self) -> Any:
        """Return a tokenizer of transformers for texts of tokens: `<s> ... </s>`."""
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        ids = {token: number for number, token in enumerate(self.vocabulary)}
        inner = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        inner.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {EOS}", special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=inner,
            pad_token=PAD,
            bos_token=BOS,
            eos_token=EOS,
            cls_token=CLS,
            unk_token=UNKNOWN,
            sep_token=SEP if SEP in ids else None,
        )


def _begins_number(before: list[str]) -> bool:
    """Whether a sign after these tokens belongs to a number: at the start, after an operator, bracket or separator."""
    return not before or before[-1] in (*OPERATORS, *SEPARATORS, "(", "[", ",", "=")


def read_lexer(config: Mapping[str, Any], source: str) -> Lexer:
    """Return the lexer that a file describes.

    Args:
        config: the file's content.
        source: its name, for messages.

    Raises:
        ConfigError: a key that is not known, or a range that is none.
    """
    _check(config, ("vocab", "number_policy", "strict", "include_base_vocab"), source, "")
    vocab = dict(config.get("vocab") or {})
    _check(vocab, ("range", "misc", "special_tokens", "flags"), source, "vocab.")
    flags = dict(vocab.get("flags") or {})
    _check(flags, ("include_base_vocab", "include_base_special_tokens"), source, "vocab.flags.")
    policy = dict(config.get("number_policy") or {})
    _check(policy, ("attach_sign", "digit_group", "allow_float"), source, "number_policy.")
    tokens: list[str] = [SEP]
    if config.get("include_base_vocab", flags.get("include_base_vocab", True)):
        tokens += [*SEPARATORS, *OPERATORS, *BRACKETS]
    for name, given in (vocab.get("range") or {}).items():
        tokens += _range(given, f"{source}: vocab.range.{name}")
    tokens += [str(token) for token in vocab.get("misc") or []]
    extra = vocab.get("special_tokens") or []
    tokens += [str(token) for token in (extra.values() if isinstance(extra, Mapping) else extra)]
    group = policy.get("digit_group") or 0
    if not isinstance(group, int) or group < 0:
        raise ConfigError(f"{source}: number_policy.digit_group is {group!r}; a number of digits, or 0, is expected.")
    numbers = NumberPolicy(bool(policy.get("attach_sign", True)), group, bool(policy.get("allow_float", False)))
    return Lexer(list(dict.fromkeys([*SPECIAL, *tokens])), numbers, bool(config.get("strict", True)))


def _range(given: Any, where: str) -> list[str]:
    if not (isinstance(given, list | tuple) and len(given) == 3 and all(isinstance(one, int) for one in given[1:])):
        raise ConfigError(f"{where} is {given!r}; [prefix, least, greatest] is expected, such as ['C', -9, 9].")
    prefix, least, greatest = given
    if least > greatest:
        raise ConfigError(f"{where} is {given!r}: the least number is greater than the greatest.")
    return [f"{prefix}{number}" for number in range(least, greatest + 1)]


def _check(given: Mapping[str, Any], known: Sequence[str], source: str, prefix: str) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ConfigError(f"{source}: unknown key {prefix}{name}.{hint} Known: {', '.join(known)}.")
