"""Who scores texts in the benchmark of the engine, each in a process of its own that lives through all rounds."""

from __future__ import annotations

import io
import logging
import multiprocessing
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# What needs torch is imported in the processes.

Ids = list[int]


@dataclass(frozen=True)
class Setup:
    """What a contender gets.

    Attributes
    ----------
    model : str
        A ``.gguf`` file, a directory, or a shape of `llreg_extract.measure.shapes`.
    texts : sequence of str
    """

    model: str
    texts: Sequence[str]


class Round(NamedTuple):
    """One scoring of all texts, tokenisation included."""

    seconds: float
    cpu_seconds: float
    values: list[float]  # nats, one a text
    peak_bytes: int  # resident memory at most, since the process began


def load_plain(setup: Setup) -> tuple[Any, Any]:
    """Module and tokenizer as transformers gives them, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llreg_extract.libraries import quiet
    from llreg_extract.measure.shapes import SHAPES, make_module, make_tokenizer

    if setup.model in SHAPES:
        tokenizer = make_tokenizer(setup.texts, SHAPES[setup.model]["vocab_size"]).library
        return make_module(setup.model, "float32", "cpu"), tokenizer
    path = Path(setup.model)
    place, options = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
    with quiet(), redirect_stderr(io.StringIO()):  # the bar of the GGUF reader heeds no setting
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options).eval(), tokenizer


class Scorer:
    """What all have in common.

    Attributes
    ----------
    threads : int
        That it may use; torch is set to as many.
    """

    threads = 1

    def use_threads(self, threads: int) -> None:
        """Use so many from now on."""
        import torch

        torch.set_num_threads(threads)
        self.threads = threads


class Llreg(Scorer):
    """llreg's scorer, as `llreg add` calls it."""

    def __init__(self, setup: Setup) -> None:
        from llreg_extract import load
        from llreg_extract.find.resolve import resolve
        from llreg_extract.measure.shapes import SHAPES, random_model

        if setup.model in SHAPES:
            self.model = random_model(setup.model, setup.texts, dtype="float32", device="cpu")
        else:
            self.model = load(resolve(setup.model), dtype="float32", device="cpu")

    def sequences(self, texts: Sequence[str]) -> list[Ids]:
        """The tokens of each text; all but the first are scored."""
        from llreg_extract import tokenise

        return [ids.tolist() for ids in tokenise(self.model.tokenizer, texts).ids]

    def score(self, texts: Sequence[str]) -> list[float]:
        """Log-likelihoods, nats."""
        from llreg_extract import encode, iter_scores

        self.model.threads = self.threads
        values = [float("nan")] * len(texts)
        for batch in iter_scores(self.model, encode(self.model, texts)):
            for place, value in zip(batch.index.tolist(), batch.log_likelihood.tolist(), strict=True):
                values[place] = value
        return values

    def flops(self) -> Any:
        """Operations that the model needs; see `llreg_extract.measure.flops`."""
        from llreg_extract.measure.flops import count_flops

        return count_flops(self.model)


class Paper(Scorer):
    """The paper's algorithm: one text at a time, logits of all of it, a log-softmax, tokens picked one by one in Python.

    In float64 it is also the reference: nothing is shared with llreg but the module of transformers.
    """

    def __init__(self, setup: Setup, *, double: bool = False) -> None:
        self.module, self.tokenizer = load_plain(setup)
        if double:
            self.module = self.module.double()

    def sequences(self, texts: Sequence[str]) -> list[Ids]:
        """The tokens of each text; all but the first are scored."""
        return [self.tokenizer.encode(text) for text in texts]

    def score(self, texts: Sequence[str]) -> list[float]:
        """Log-likelihoods, nats."""
        return self.score_ids(self.sequences(texts))

    def score_ids(self, sequences: Sequence[Ids]) -> list[float]:
        """Log-likelihoods of token sequences, nats; the first token of each is given."""
        import torch

        values = []
        for ids in sequences:
            with torch.no_grad():
                logits = self.module(torch.tensor([ids])).logits
                log_probs = torch.log_softmax(logits, dim=-1)
            total = 0.0
            for t in range(len(ids) - 1):
                total += log_probs[0, t, ids[t + 1]].item()
            values.append(total)
        return values


class Harness(Scorer):
    """lm-evaluation-harness: `loglikelihood_rolling` of its Hugging Face model, given transformers' module."""

    def __init__(self, setup: Setup, *, batch_size: int) -> None:
        from lm_eval.models.huggingface import HFLM

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        module, tokenizer = load_plain(setup)
        self.model: Any = HFLM(pretrained=module, tokenizer=tokenizer, batch_size=batch_size, device="cpu")

    def sequences(self, texts: Sequence[str]) -> list[Ids]:
        """A token of its own (BOS, or else the end of text), then the text's, which are all scored."""
        return [[self.model.prefix_token_id, *self.model.tok_encode(text)] for text in texts]

    def score(self, texts: Sequence[str]) -> list[float]:
        """Log-likelihoods, nats."""
        from lm_eval.api.instance import Instance

        requests = [Instance("loglikelihood_rolling", {}, (text,), place) for place, text in enumerate(texts)]
        with redirect_stderr(io.StringIO()):  # some of its bars heed no setting
            return [float(value) for value in self.model.loglikelihood_rolling(requests, disable_tqdm=True)]


class Products(Scorer):
    """No contender but a bound: only the model's products with its weights, one text at a time, by llreg's library."""

    def __init__(self, setup: Setup) -> None:
        import torch

        module, self.tokenizer = load_plain(setup)
        self.weights = [part.weight for part in module.modules() if isinstance(part, torch.nn.Linear)]

    def sequences(self, texts: Sequence[str]) -> list[Ids]:
        """As llreg."""
        return [self.tokenizer(text)["input_ids"] for text in texts]

    def score(self, texts: Sequence[str]) -> list[float]:
        """Computes the products; there are no values."""
        from concurrent.futures import ThreadPoolExecutor

        import torch

        from llreg_extract.fast.kernels import fast_products

        lengths = [len(ids) - 1 for ids in self.sequences(texts)]
        with fast_products("cpu"), ThreadPoolExecutor(self.threads, "", torch.set_num_threads, (1,)) as executor:
            list(executor.map(self._products, lengths))
        return [float("nan")] * len(texts)

    def _products(self, length: int) -> None:
        import torch

        with torch.inference_mode():
            for weight in self.weights:
                torch.nn.functional.linear(torch.ones(length, weight.shape[1]), weight)


class Peak(Scorer):
    """No contender but a measure: what large matrix products reach."""

    def __init__(self, setup: Setup) -> None:
        pass

    def flops_per_second(self) -> float:
        """Operations a second in float32, on as many cores as there are threads."""
        from llreg_extract.measure.flops import matmul_peak

        return matmul_peak("float32", "cpu", threads=self.threads)


_MAKERS: dict[str, Any] = {"llreg": Llreg, "paper": Paper, "harness": Harness, "products": Products, "peak": Peak}


def has_harness() -> bool:
    """Whether lm-evaluation-harness is installed here."""
    return find_spec("lm_eval") is not None


class Child:
    """A contender in a process of its own, idle until it is asked for something.

    Parameters
    ----------
    kind : str
        A key of `_MAKERS`.
    setup : Setup
    **options
        Of that contender.
    """

    def __init__(self, kind: str, setup: Setup, **options: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kind, setup, options), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()  # it has loaded

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the contender there; "round" scores all texts and returns a `Round`."""
        self._pipe.send((method, args))
        return self._answer()

    def _answer(self) -> Any:
        try:
            failed, answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(f"a process died with exit code {self._process.exitcode}: was there memory?") from None
        if failed:
            raise SystemExit(answer)
        return answer

    def close(self) -> None:
        """End the process: it goes when the pipe is closed, unless it hangs."""
        self._pipe.close()
        self._process.join(10)
        self._process.kill()
        self._process.join()


def _serve(pipe: Any, kind: str, setup: Setup, options: dict[str, Any]) -> None:
    try:
        contender = _MAKERS[kind](setup, **options)
        pipe.send((False, None))
        while True:
            method, args = pipe.recv()
            pipe.send((False, _round(contender, *args) if method == "round" else getattr(contender, method)(*args)))
    except EOFError:
        return
    except BaseException:  # noqa: BLE001 - whatever it is, it is told where it can be seen
        pipe.send((True, traceback.format_exc()))


def _round(contender: Any, texts: Sequence[str]) -> Round:
    from llreg_extract.measure.speed import peak_resident

    started, cpu_started = time.perf_counter(), time.process_time()
    values = contender.score(texts)
    return Round(time.perf_counter() - started, time.process_time() - cpu_started, values, peak_resident())
