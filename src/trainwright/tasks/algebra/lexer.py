"""Text of formulas as tokens of a small vocabulary, by a file with CALT's keys (lexer.yaml)."""

from __future__ import annotations

import itertools
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
_NUMBER = r"-?\d+(?:\.\d+)?"
_MOST_DIGITS = 4  # of a token: 11,110 tokens for all groups


@dataclass(frozen=True)
class NumberPolicy:
    """How numbers become tokens.

    Attributes:
        attach_sign: -3 is one token, unless a letter or digit stands right before the sign.
        digit_group: digits of a token; 0 keeps a number whole.
        allow_float: 1.5 is a number, of the tokens `1 . 5`; otherwise it is refused.
        grouping: where the groups of a number are counted from: left, as CALT does; or right, which keeps decimals
            whole too, as all runs did that were made before there was a choice.
    """

    attach_sign: bool = True
    digit_group: int = 0
    allow_float: bool = True
    grouping: str = "left"

    @property
    def pattern(self) -> str:
        """A regular expression of a number; a sign belongs to it unless a letter or digit stands right before it."""
        digits = r"\d+\.?\d*|\.\d+" if self.allow_float else r"\d+"
        return rf"(?<![A-Za-z0-9_])-?{digits}" if self.attach_sign else digits

    def split(self, number: str) -> list[str]:
        """Return the tokens of a number."""
        if self.grouping == "right" and "." in number:
            return [number]
        sign, digits = ("-", number[1:]) if number[0] == "-" else ("", number)
        whole, point, fraction = digits.partition(".")
        first, *rest = self._groups(whole or "0")
        return [sign + first, *rest, *point, *self._groups(fraction)]

    def _groups(self, digits: str) -> list[str]:
        size = self.digit_group or max(len(digits), 1)
        short = len(digits) % size if self.grouping == "right" else 0
        return [digits[:short]] * bool(short) + [digits[i : i + size] for i in range(short, len(digits), size)]


@dataclass
class Lexer:
    """Splits formulas into tokens of a vocabulary, as CALT's lexer does.

    Attributes:
        vocabulary: the tokens, special ones first, in the order of their ids.
        words: those of them that a text may hold where it holds no number; the longest one that fits is taken.
        numbers: how numbers become tokens.
        strict: an unknown token is an error; otherwise it becomes `<unk>`.
    """

    vocabulary: list[str]
    words: list[str]
    numbers: NumberPolicy = field(default_factory=NumberPolicy)
    strict: bool = True

    def __post_init__(self) -> None:
        self._known = set(self.vocabulary)
        words = map(self._word, sorted(self.words, key=len, reverse=True))
        number = f"(?P<number>{self.numbers.pattern})"
        grouped = self.numbers.digit_group and not self.numbers.attach_sign
        parts = [*words, number] if grouped else [number, *words]  # as CALT's: such a token may be longer than a group
        self._pattern = re.compile("|".join([r"\s+", *parts, r"[^\W\d]\w*", "."]))

    def _word(self, word: str) -> str:
        """Return a token as a regular expression. A name goes on in digits: x10 is another one than x, and C123 than
        C12; and so does a number that is never split."""
        if re.fullmatch(r"-?\d+", word):
            return re.escape(word) + ("" if self.numbers.digit_group else r"(?!\d)")
        return re.escape(word) + (r"(?!\d)" if word[-1].isalnum() or word[-1] == "_" else "")

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text.

        Raises:
            DataError: the lexer is strict, and the text holds what is not in the vocabulary; all of it. Or the digits
                of two numbers would run together.
        """
        if self.numbers.digit_group:
            self._refuse_as_one(text)
        tokens = self._pieces(text)
        unknown = sorted({token for token in tokens if token not in self._known})
        if unknown and self.strict:
            if "." in unknown and re.search(r"\d\.\d", text):
                raise DataError(
                    f"{text[:60]!r} holds a number that is no whole one; set number_policy.allow_float: true in "
                    "lexer.yaml."
                )
            hints = "".join(did_you_mean(token, self._known) for token in unknown[:1])
            raise DataError(
                f"{text[:60]!r} holds {', '.join(map(repr, unknown[:10]))}, which the lexer's vocabulary has not."
                f"{hints} Add what is missing under vocab in lexer.yaml, or set strict: false."
            )
        return [token if token in self._known else UNKNOWN for token in tokens]

    def _pieces(self, text: str) -> list[str]:
        """Return the tokens of a text, whether the vocabulary has them or not."""
        tokens: list[str] = []
        for match in self._pattern.finditer(text):
            if match["number"]:
                tokens += self.numbers.split(match[0])
            elif not match[0].isspace():
                tokens.append(match[0])
        return tokens

    def _refuse_as_one(self, text: str) -> None:
        """Refuse two numbers whose tokens would be those of one."""
        for match in re.finditer(r"(-?\d+)\s+(?=(\d+))", text):
            if self._pieces(match[1]) + self._pieces(match[2]) == self._pieces(match[1] + match[2]):
                raise DataError(
                    f"{text[:60]!r} has {match[1]} and {match[2]} with nothing between them, which are the same tokens "
                    f"as {match[1]}{match[2]} with number_policy.digit_group {self.numbers.digit_group}. Write an "
                    "operator or | between them."
                )

    def joined(self, text: str) -> str:
        """Return a text of tokens with the digits of each number together again."""
        found: list[str] = []
        run: list[str] = []  # the tokens of digits that the last one of `found` ends in
        for token, after in itertools.pairwise([*text.split(), ""]):
            if token == "." and run and after.isdecimal():
                found[-1] += token
                run = [""]
            elif token.isdecimal() and run and (run == [""] or self._are_one([*run, token])):
                found[-1] += token
                run = [*filter(None, run), token]
            else:
                found.append(token)
                run = [token] if token.removeprefix("-").isdecimal() else []
        return " ".join(found)

    def _are_one(self, digits: list[str]) -> bool:
        """Whether such tokens are those of one number."""
        return bool(self.numbers.digit_group) and self._pieces("".join(digits)) == digits

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
    _check(policy, ("attach_sign", "digit_group", "allow_float", "grouping"), source, "number_policy.")
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
    grouping = policy.get("grouping", "left")
    if grouping not in ("left", "right"):
        raise ConfigError(f"{source}: number_policy.grouping is {grouping!r}; left or right is expected.")
    attach_sign, allow_float = bool(policy.get("attach_sign", True)), bool(policy.get("allow_float", True))
    numbers = NumberPolicy(attach_sign, group, allow_float, grouping)
    words = dict.fromkeys([*tokens, *_groups(numbers)])
    if grouping == "right":
        words = {token: None for token in words if not re.fullmatch(_NUMBER, token)}
    vocabulary = dict.fromkeys([*SPECIAL, *tokens, *_groups(numbers), *_signed(numbers)])
    return Lexer(list(vocabulary), list(words), numbers, bool(config.get("strict", True)))


def _range(given: Any, where: str) -> list[str]:
    if not (isinstance(given, list | tuple) and len(given) == 3 and all(isinstance(one, int) for one in given[1:])):
        raise ConfigError(f"{where} is {given!r}; [prefix, least, greatest] is expected, such as ['C', -9, 9].")
    prefix, least, greatest = given
    if least > greatest:
        raise ConfigError(f"{where} is {given!r}: the least number is greater than the greatest.")
    return [f"{prefix}{number}" for number in range(least, greatest + 1)]


def _groups(numbers: NumberPolicy) -> list[str]:
    """Return all groups of digits that a number may be written in: 0 to 9, 00 to 99, and so on; and what decimals
    need."""
    lengths = range(1, numbers.digit_group + 1)
    found = [str(number).zfill(length) for length in lengths for number in range(10**length)]
    if numbers.allow_float and numbers.grouping == "left":
        found += [".", "-0"] if numbers.attach_sign else ["."]
    return found


def _signed(numbers: NumberPolicy) -> list[str]:
    """Return all first groups of a number with its sign."""
    return [f"-{number}" for number in range(1, 10**numbers.digit_group) if numbers.attach_sign]


def _check(given: Mapping[str, Any], known: Sequence[str], source: str, prefix: str) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ConfigError(f"{source}: unknown key {prefix}{name}.{hint} Known: {', '.join(known)}.")
