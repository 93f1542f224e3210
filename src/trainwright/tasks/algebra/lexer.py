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
_MOST_DIGITS = 4  # of a token: 11,110 tokens for all groups


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
        # a name goes on in digits: x10 is another one than x, and C123 than C12
        names = [re.escape(word) + (r"(?!\d)" if word[-1].isalnum() or word[-1] == "_" else "")
                 for word in words if not re.fullmatch(rf"-?{_NUMBER}", word)]  # fmt: skip
        self._pattern = re.compile("|".join([r"\s+", *names, _NUMBER, r"[^\W\d_]\w*", "."]))

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text.

        Raises:
            DataError: the lexer is strict, and the text holds what is not in the vocabulary; all of it. Or the digits
                of two numbers would run together.
        """
        tokens: list[str] = []
        before = ""  # the piece before, without space
        for piece in (match[0] for match in self._pattern.finditer(text)):
            if piece.isspace():
                continue
            if re.fullmatch(_NUMBER, piece):
                self._refuse_as_one(before, piece, text)
                self._add_number(tokens, piece)
            else:
                tokens.append(piece)
            before = piece
        unknown = sorted({token for token in tokens if token not in self._known})
        if unknown and self.strict:
            hints = "".join(did_you_mean(token, self._known) for token in unknown[:1])
            raise DataError(
                f"{text[:60]!r} holds {', '.join(map(repr, unknown[:10]))}, which the lexer's vocabulary has not."
                f"{hints} Add it to vocab in lexer.yaml, or set strict: false."
            )
        return [token if token in self._known else UNKNOWN for token in tokens]

    def _refuse_as_one(self, before: str, number: str, text: str) -> None:
        """Refuse a number whose tokens would be more digits of the number before it."""
        size = self.numbers.digit_group
        if size and before.isdecimal() and number.isdecimal() and len(number) % size == 0:
            raise DataError(
                f"{text[:60]!r} has {before} and {number} with nothing between them, which are the same tokens as "
                f"{before}{number} with number_policy.digit_group {size}. Write an operator or | between them."
            )

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


def join_digits(text: str, digit_group: int) -> str:
    """Return a text of tokens with the digits of each number together again.

    Args:
        text: tokens with spaces between them.
        digit_group: digits of a token, as the lexer counts them: of a number's tokens, only the first may have fewer.
    """
    if not digit_group:
        return text
    joined: list[str] = []
    open_number = False
    for token in text.split():
        digits = token.isdecimal() and len(token) <= digit_group
        if open_number and digits and len(token) == digit_group:
            joined[-1] += token
        else:
            joined.append(token)
            open_number = digits or (token[1:].isdecimal() and token[0] == "-" and len(token) <= digit_group + 1)
    return " ".join(joined)


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
    if not isinstance(group, int) or not 0 <= group <= _MOST_DIGITS:
        raise ConfigError(
            f"{source}: number_policy.digit_group is {group!r}; a number of digits up to {_MOST_DIGITS}, or 0, is "
            "expected."
        )
    numbers = NumberPolicy(bool(policy.get("attach_sign", True)), group, bool(policy.get("allow_float", False)))
    return Lexer(list(dict.fromkeys([*SPECIAL, *tokens, *_groups(numbers)])), numbers, bool(config.get("strict", True)))


def _range(given: Any, where: str) -> list[str]:
    if not (isinstance(given, list | tuple) and len(given) == 3 and all(isinstance(one, int) for one in given[1:])):
        raise ConfigError(f"{where} is {given!r}; [prefix, least, greatest] is expected, such as ['C', -9, 9].")
    prefix, least, greatest = given
    if least > greatest:
        raise ConfigError(f"{where} is {given!r}: the least number is greater than the greatest.")
    return [f"{prefix}{number}" for number in range(least, greatest + 1)]


def _groups(numbers: NumberPolicy) -> list[str]:
    """Return all groups of digits that a number may be written in: 0 to 9, 00 to 99, and so on; with a sign where it
    is attached, which only the first group of a number has."""
    size = numbers.digit_group
    found = [str(number).zfill(length) for length in range(1, size + 1) for number in range(10**length)]
    return found + [f"-{number}" for number in range(1, 10**size) if numbers.attach_sign]


def _check(given: Mapping[str, Any], known: Sequence[str], source: str, prefix: str) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ConfigError(f"{source}: unknown key {prefix}{name}.{hint} Known: {', '.join(known)}.")
