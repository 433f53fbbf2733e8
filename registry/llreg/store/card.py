"""The dataset card: README.md of a registry, with the YAML that the Hub reads."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from llreg.store.layout import STORE, TABLE, TEXTS
from llreg_schemas import RowRecord, version_id
from llreg_schemas.records import RegistryInfo

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_EXAMPLE = "ORG/MODEL"
_PLACEHOLDER = "ORG/NAME"  # registry.json does not say where it is published, unless by its name

# Licences of data that the Hub knows by these words; any other is "other", with its name beside it.
_HUB_LICENCES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 epl-2.0 eupl-1.1 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-3.0 mit mpl-2.0 odbl odc-by openrail other
pddl unknown unlicense wtfpl zlib
"""

_CITATION = """\
@inproceedings{oyama-etal-2025-mapping,
  title     = {Mapping 1,000+ Language Models via the Log-Likelihood Vector},
  author    = {Oyama, Momose and Yamagiwa, Hiroaki and Takase, Yusuke and Shimodaira, Hidetoshi},
  booktitle = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics},
  year      = {2025},
  eprint    = {2502.16173},
}"""


_PAIRS = """
The texts are prompts with a response: `log_likelihood` is ln p(response | prompt), and `log_likelihood_response`
ln p(response) alone; their difference is the pointwise mutual information.
"""


def make_card(info: RegistryInfo, records: Sequence[RowRecord]) -> str:
    """The card's Markdown; every name in it is escaped, because rows come from strangers.

    Parameters
    ----------
    info : RegistryInfo
    records : sequence of RowRecord
        The accepted rows, in build order.
    """
    size = next((label for limit, label in _SIZES if len(records) < limit), "n>1M")
    models = sorted({record.identity.name for record in records}, key=str.lower)
    listed = "\n".join(f"- {html.escape(name)}" for name in models) or "- none yet"
    version = version_id(record.digest for record in records)
    return f"""---
pretty_name: {json.dumps(info.name)}
{_licence(info.licence)}
tags:
- llreg
- log-likelihood
- kl-divergence
- language-models
- model-comparison
- model-map
- zarr
size_categories:
- {size}
configs:
- config_name: models
  data_files:
  - split: train
    path: {TABLE}
  default: true
- config_name: texts
  data_files:
  - split: train
    path: {TEXTS}
---

# {html.escape(info.name)}

A registry of language models as log-likelihood vectors: {len(records):,} rows of {len(models):,} models on
{info.text_set.num_texts:,} texts. Version `{version[:12]}`. Made with llreg.

The squared distance between two rows estimates the KL divergence between two models:
KL(i, j) = Var over texts of (l_i - l_j) / 2, in nats per text; divided by (mean bytes x ln 2), in bits per byte.
{_PAIRS if info.has_pairs else ""}
{_facts(info)}
{_usage(info.name)}
## Models

{listed}

## Citation

```bibtex
{_CITATION}
```
"""


def _licence(licence: str) -> str:
    """The licence as YAML; the Hub's words are the SPDX ones in lower case."""
    word = licence.lower()
    # A JSON string is a YAML one, whatever is in it.
    return (
        f"license: {word}" if word in _HUB_LICENCES.split() else f"license: other\nlicense_name: {json.dumps(licence)}"
    )


def _facts(info: RegistryInfo) -> str:
    """A table of what all rows have in common."""
    texts, clip = info.text_set, info.view["clip"]
    prompts = {"chat-template": ", prompts through each model's chat template", "raw": ", prompts as they are"}
    rendering = prompts[info.rendering] if info.rendering else ""
    return f"""| | |
|---|---|
| text set | {html.escape(texts.name)}, id `{texts.id[:12]}`, {texts.mean_bytes:.1f} bytes a text |
| protocol | {html.escape(info["protocol"]["name"])}, id `{info.protocol_id[:12]}`{rendering} |
| clip threshold of the default view | {"none" if clip is None else f"{clip} nats"} |
| licence of the rows | {html.escape(info.licence)} |
| licence of the texts | {html.escape(texts.licence)} |
"""


def _usage(name: str) -> str:
    """How to load the registry, and how to add to it."""
    repo = name if "/" in name else _PLACEHOLDER
    note = "" if repo == name else f"\nHere and below, `{_PLACEHOLDER}` stands for the id of this repository.\n"
    return f"""## Load
{note}
```python
import llreg

registry = llreg.open("{repo}")           # reads what is asked for; revision="v1" for a named version
registry.kl(), registry.neighbors("{_EXAMPLE}"), registry.dataset()
```

Without llreg:

```python
import datasets, pandas as pd, xarray as xr

models = datasets.load_dataset("{repo}", split="train")    # one line a row, its vector in log_likelihood
texts = datasets.load_dataset("{repo}", "texts", split="train")
models = pd.read_parquet("hf://datasets/{repo}/{TABLE}")
ds = xr.open_zarr(                                        # dims (model, text), float32, nats; lazy
    "hf://datasets/{repo}/{STORE}", chunks=None, storage_options={{"block_size": 65536}}
)
```

Every row is also a file of its own under `rows/`, with its full record: which commit, which dtype, which tokens were
scored, on what, by whom.

## Contribute

```bash
pip install "llreg[extract]"
llreg pull {repo}                         # into the directory {repo.rpartition("/")[2]}
cd {repo.rpartition("/")[2]}
llreg add {_EXAMPLE}                      # computes the model's row
llreg push                                # opens a pull request with that one file
```

A row is one new file under `rows/`, so contributions never conflict. Please do not edit other files by hand: `{STORE}`,
`{TABLE}` and this card are made from the rows.
"""
