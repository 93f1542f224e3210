"""Small models and data that the tests share; every run takes milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VOCABULARY = 61


class Line(nn.Module):
    """A linear regression whose forward returns a dict."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        prediction = self.layer(x).squeeze(-1)
        outputs = {"logits": prediction}
        if labels is not None:
            outputs = {"loss": ((prediction - labels) ** 2).mean(), **outputs}
        return outputs


class Words(nn.Module):
    """A plain language model, exact in float64: it predicts each label from the token at its own position."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.head(torch.tanh(self.hidden(self.embedding(input_ids))))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def words(seed: int = 0) -> Words:
    torch.manual_seed(seed)
    return Words().double()


def line_rows(count: int = 40, width: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, width, generator=generator)
    y = x.sum(dim=1) + 0.1 * torch.randn(count, generator=generator)
    return [{"x": x[i], "labels": y[i]} for i in range(count)]


def new_line(seed: int = 0) -> Line:
    torch.manual_seed(seed)
    return Line()


def llama(seed: int = 0, dropout: float = 0.0, **changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "attention_dropout": dropout,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))


def gpt2(seed: int = 0, dropout: float = 0.0) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def gpt_neox(seed: int = 0, dropout: float = 0.0) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            hidden_dropout=dropout,
            attention_dropout=dropout,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def bert_config(**changes: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        **changes,
    )


def bert_classifier(seed: int = 0, num_labels: int = 3) -> Any:
    from transformers import BertForSequenceClassification

    torch.manual_seed(seed)
    return BertForSequenceClassification(bert_config(num_labels=num_labels))


def bert_tagger(seed: int = 0) -> Any:
    """Return a classifier of tokens."""
    from transformers import BertForTokenClassification

    torch.manual_seed(seed)
    return BertForTokenClassification(bert_config(num_labels=3))


def bert_reader(seed: int = 0) -> Any:
    """Return a model that marks where an answer begins and ends."""
    from transformers import BertForQuestionAnswering

    torch.manual_seed(seed)
    return BertForQuestionAnswering(bert_config())


def bert_masked(seed: int = 0) -> Any:
    """Return a masked language model."""
    from transformers import BertForMaskedLM

    torch.manual_seed(seed)
    return BertForMaskedLM(bert_config())


def t5(seed: int = 0) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=16,
            d_ff=48,
            num_layers=1,
            num_heads=2,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
    )


def tokens(rows: int = 48, length: int = 12, ragged: bool = False, seed: int = 3) -> list[dict[str, Any]]:
    """Rows for a causal model: input_ids and labels, a share of the labels masked; ragged ones are padded to length."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(rows):
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator)
        labels = ids.clone()
        if ragged:
            kept = int(torch.randint(2, length, (1,), generator=generator))
            labels[kept:] = -100
        made.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return made


def sentences(rows: int = 40, seed: int = 4) -> list[dict[str, Any]]:
    """Rows for a classifier with a padding collator: input_ids of different lengths, and a label."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(rows):
        length = int(torch.randint(3, 14, (1,), generator=generator))
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "attention_mask": [1] * length, "label": ids[0] % 3})
    return made


def tokenizer() -> Any:
    """Return a tokenizer of whole words w3, w4, ... with the specials that the tiny models expect."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCABULARY - 1)}, "<unk>": VOCABULARY - 1}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
