"""``attar init``: a commented recipe for a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.copy import write_new
from attar.errors import AttarError, did_you_mean

TEXT = """\
task: text-classification

data:
  source: texts.csv             # a path (.csv .tsv .jsonl .parquet), hf:owner/name or pypi:package==1.0#path
  text: text                    # the column that holds the text
  label: label                  # the column that holds the gold label
  # labels: {negative: [1, 2], positive: [5]}   # name -> the values it stands for; other rows are left out
  # balance: true               # every class equally often
  # train: 2000                 # examples; a fraction of the data works too
  # validation: 300
  # test: 1000
  # gold: [validation, test]    # splits whose gold labels may be used; without train the teacher labels it

# A causal language model labels texts by a prompt; attar looks for the prompt.
teacher:
  model: HuggingFaceTB/SmolLM2-135M-Instruct
# Or a classifier that is trained first, on the gold labels:
#   model: sentence-transformers/all-MiniLM-L6-v2
#   train: {epochs: 3, learning_rate: 0.0001}

# prompt:
#   teacher:
#     template: "Review: {text}\\nSentiment:"    # your own prompt; the bank's are tried beside it
#     words: {negative: [negative, bad], positive: [positive, good]}

student:
  model: sentence-transformers/all-MiniLM-L6-v2
  # layers: 3                   # keep three of its layers, or name them: [0, 2, 5]

distill:
  objective: [{use: forward_kl, temperature: 2}]   # add {use: cross_entropy, weight: 0.1} for hard labels beside
  epochs: 3

compress: [vocabulary, dynamic_int8]               # in order; [] for none
"""

IMAGES = """\
task: image-classification

data:
  source: images                # a folder with one folder of images for each class, a table, or sklearn:digits
  # image: path                 # with a table: the column that holds the image or its path
  # label: label
  # image_size: 64              # images are scaled to this many pixels a side
  # channels: 3
  # validation: 0.1
  # test: 0.2

teacher:
  build: {net: cnn, widths: [32, 32, 64, 64], hidden: 128, dropout: 0.2}   # or model: timm:resnet18
  train: {epochs: 30, batch_size: 64, learning_rate: 0.003}

student:
  build: {net: cnn, widths: [8, 16]}

distill:
  objective: [{use: forward_kl, temperature: 4}]
  epochs: 30
  learning_rate: 0.01

compress: [static_int8]         # convolutions: scales found beforehand; [] for none
"""

WRITING = """\
task: text-generation

data:
  source: pairs.csv             # a path (.csv .tsv .jsonl .parquet), hf:owner/name or pypi:package==1.0#path
  text: text                    # the column that holds what is read
  target: title                 # the column that holds what shall be written
  # train: 6000
  # validation: 300
  # test: 1000

# A causal language model, tuned on the targets; without `train` it answers as it comes.
teacher:
  model: HuggingFaceTB/SmolLM2-135M-Instruct
  max_length: 128               # tokens of a text that are read
  train: {epochs: 1, batch_size: 16, learning_rate: 0.0001}

prompt:
  teacher: {template: "Text: {text}\\nTitle:"}   # chat: true puts it in the tokenizer's chat template
  max_new_tokens: 32            # tokens written at most

student:
  model: teacher                # starts from the tuned teacher's weights
  layers: {count: 10, by: damage}   # the layers whose absence hurts most; or a number, evenly spread, or a list
  max_length: 128

distill:
  objective: [{use: forward_kl, temperature: 1}, {use: cross_entropy, weight: 0.5}]
  # text: teacher               # learn from what the teacher writes, not from the targets
  # on_policy: {share: 0.5, start: 0.3}   # partly from what the student writes itself
  epochs: 2
  batch_size: 16
  learning_rate: 0.0003
"""

TEMPLATES = {"text-classification": TEXT, "image-classification": IMAGES, "text-generation": WRITING}


def init(
    task: Annotated[
        str, typer.Option("--task", "-t", help="text-classification, image-classification or text-generation.")
    ],
    to: Annotated[Path, typer.Argument(help="The file to write.")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe for a task, to be edited."""
    from attar.log import say

    if task not in TEMPLATES:
        raise AttarError(f"There is no task '{task}'.{did_you_mean(task, TEMPLATES)}")
    write_new(to, TEMPLATES[task])
    say(f"wrote {to}; edit it, then: attar check {to}")
