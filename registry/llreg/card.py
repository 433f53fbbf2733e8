"""The dataset card: README.md of a registry, with the YAML that the Hub reads."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from llreg_schemas import RowRecord, version_id

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_CITATION = """\
@inproceedings{oyama-etal-2025-mapping,
  title     = {Mapping 1,000+ Language Models via the Log-Likelihood Vector},
  author    = {Oyama, Momose and Yamagiwa, Hiroaki and Takase, Yusuke and Shimodaira, Hidetoshi},
  booktitle = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics},
  year      = {2025},
  eprint    = {2502.16173},
}"""


def make_card(info: Mapping[str, Any], records: Sequence[RowRecord]) -> str:
    """The card's Markdown; every name in it is escaped, because rows come from strangers.

    Parameters
    ----------
    info : mapping
        registry.json.
    records : sequence of RowRecord
        The accepted rows, in build order.
    """
    return f"{_front_matter(info, records)}\n{_body(info, records)}"


def _front_matter(info: Mapping[str, Any], records: Sequence[RowRecord]) -> str:
    size = next((label for limit, label in _SIZES if len(records) < limit), "n>1M")
    return f"""---
pretty_name: {_yaml(info["name"])}
license: {_yaml(_hub_licence(info["licence"]))}
tags:
- llreg
- log-likelihood
- model-comparison
- zarr
size_categories:
- {size}
configs:
- config_name: models
  data_files: models.parquet
  default: true
- config_name: texts
  data_files: texts.parquet
---
"""


def _body(info: Mapping[str, Any], records: Sequence[RowRecord]) -> str:
    texts, protocol = info["text_set"], info["protocol"]
    models = sorted({record.identity.model for record in records}, key=str.lower)
    version = version_id(record.digest for record in records)
    listed = "\n".join(f"- {html.escape(name)}" for name in models) or "- none yet"
    return f"""# {html.escape(info["name"])}

A registry of language models as log-likelihood vectors: {len(records):,} rows of {len(models):,} models on
{texts["num_texts"]:,} texts. Version `{version[:12]}`. Made with llreg.

The squared distance between two rows estimates the KL divergence between two models:
KL(i, j) = Var over texts of (l_i - l_j) / 2, in nats per text; divided by (mean bytes x ln 2), in bits per byte.

| | |
|---|---|
| text set | {html.escape(texts["name"])}, id `{texts["id"][:12]}`, {texts["mean_bytes"]:.1f} bytes a text |
| protocol | {html.escape(protocol["name"])}, id `{protocol["id"][:12]}` |
| clip threshold of the default view | {"none" if info["view"]["clip"] is None else f"{info['view']['clip']} nats"} |
| licence of the rows | {html.escape(info["licence"])} |

## Load

```python
import xarray as xr

ds = xr.open_zarr("store.zarr")   # dims (model, text), float32, nats
```

`models.parquet` has one line a row, with the vector in `log_likelihood`; `texts.parquet` has the texts.
Every row is also a file of its own under `rows/`, with its full record.

## Contribute

`pip install "llreg[extract]"`, clone this registry, and run `llreg --registry DIR add MODEL`: it adds one file under
`rows/`, which never conflicts with another contribution.

## Models

{listed}

## Citation

```bibtex
{_CITATION}
```
"""


def _yaml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _hub_licence(licence: str) -> str:
    """The Hub's licence identifiers are the SPDX ones in lower case."""
    return licence.lower()
