"""Verbs that add rows to a registry, withdraw and check them, and tell its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llreg.store.contents import Contents
from llreg_schemas import RowRecord

if TYPE_CHECKING:
    from llreg.add.plan import Plan
    from llreg.add.reporter import AddResult, Reporter
    from llreg.store.annotations import Annotations
    from llreg.store.validate import Problem
    from llreg.verify.comparison import Agreement

Progress = Callable[[int, int], None]


class RowVerbs(Contents):
    """What changes a registry on this machine, and what says how it stands."""

    def add(
        self,
        models: Sequence[str | Mapping[str, Any]],
        *,
        revision: str | None = None,
        name: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str = "auto",
        overwrite: Literal["never", "only-missing", "always"] = "only-missing",
        batch_tokens: int | None = None,
        trust_remote_code: bool = False,
        subfolder: str | None = None,
        base: str | None = None,
        quantize: Literal["int8", "int4"] | None = None,
        subset: str | Path | Mapping[str, Any] | None = None,
        order: Literal["size", "given"] = "size",
        evict: bool = False,
        workers: int | Literal["auto"] | None = None,
        cluster: str | None = None,
        reporter: Reporter | None = None,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> list[AddResult]:
        """Compute the rows of models and write them. An interrupted call goes on where it stopped when it is made again.

        Parameters
        ----------
        models : sequence of str or mapping
            Hub ids, directories, ``.gguf`` files or PEFT adapters; or mappings with a `model` and options of its own, as
            `llreg.add.runfile.read_run_file` gives them, which go before those for all.
        revision : str, optional
            Branch, tag or commit on the Hub, of one model; main by default.
        name : str, optional
            Name of one local model; by default its directory's or file's name.
        dtype : {"auto", "float32", "bfloat16", "float16"}
            Of the weights; "auto": float32 on a CPU, the checkpoint's own on a GPU.
        device : str
            "cpu", "cuda", "cuda:N", or "auto": the GPU if there is one.
        overwrite : {"never", "only-missing", "always"}
            What to do about a row that is there: leave it; score only the texts it lacks; score all again, as a
            replicate.
        batch_tokens : int, optional
            Tokens in a batch; by default as the device allows.
        trust_remote_code : bool
            Run Python code from the model's repository.
        subfolder : str, optional
            Folder inside the repository or directory that has the model's files.
        base : str, optional
            Base model of a PEFT adapter; by default the one that its adapter_config.json names.
        quantize : {"int8", "int4"}, optional
            Pack the weights with bitsandbytes when they are loaded.
        subset : str, path or mapping, optional
            Score only these texts: a subset's file, document (`subset`) or id.
        order : {"size", "given"}
            Which models are scored first: those with the fewest parameters, or those given first.
        evict : bool
            Delete a Hub model from the cache when it is done, unless it was there before.
        workers : int or "auto", optional
            Score in as many processes on this machine, each on a GPU of its own, or with its share of the cores where
            there is no GPU; "auto" is one a GPU. They are started as `multiprocessing` does it, so a script needs
            ``if __name__ == "__main__":``.
        cluster : str, optional
            Score on the workers of the Dask scheduler at this address that offer the resource GPU; "local" is
            ``workers="auto"``.
        reporter : Reporter, optional
            Is told of the progress.
        on_plan : callable, optional
            Plan all models first, as `plan` does, and call this with the plan: what it raises ends the run before anything
            is downloaded. Models with a problem fail with it, untried.

        Returns
        -------
        list of AddResult
            One a model, in the order given. A model that cannot be scored has status "failed" and does not stop the others.

        Raises
        ------
        InputError
            If the options do not fit together, or no scheduler answers.
        MissingExtraError
            If torch or transformers, or for workers distributed, is not installed.
        ClusterError
            If the cluster has no worker that fits, or is lost; rows that it has computed are written.
        StorageError
            If the registry cannot be written; what was scored is kept and resumed.

        Examples
        --------
        >>> [result] = reg.add(["./tiny"], name="ada/tiny", dtype="float32", device="cpu")  # a directory with a model
        >>> result.status, result.texts
        ('added', 123)
        >>> reg.add(["./tiny"], name="ada/tiny", dtype="float32", device="cpu")[0].status
        'present'
        >>> [result] = reg.add(["./tiny"], name="ada/part", subset=reg.subset(40), device="cpu")
        >>> result.status, result.texts
        ('added', 38)
        """
        from llreg.add.add import add

        return add(
            self,
            models,
            revision=revision,
            name=name,
            dtype=dtype,
            device=device,
            overwrite=overwrite,
            batch_tokens=batch_tokens,
            trust_remote_code=trust_remote_code,
            subfolder=subfolder,
            base=base,
            quantize=quantize,
            subset=subset,
            order=order,
            evict=evict,
            workers=workers,
            cluster=cluster,
            reporter=reporter,
            on_plan=on_plan,
        )

    def plan(
        self,
        models: Sequence[str | Mapping[str, Any]],
        *,
        revision: str | None = None,
        name: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str = "auto",
        overwrite: Literal["never", "only-missing", "always"] = "only-missing",
        batch_tokens: int | None = None,
        trust_remote_code: bool = False,
        subfolder: str | None = None,
        base: str | None = None,
        quantize: Literal["int8", "int4"] | None = None,
        subset: str | Path | Mapping[str, Any] | None = None,
        evict: bool = False,
        progress: Progress | None = None,
    ) -> Plan:
        """Find out what adding models will take, and what stands against it; nothing is loaded or written.

        Of a model on the Hub only its config, the index of its weights and some headers are fetched.

        Parameters
        ----------
        models : sequence of str or mapping
            As in `add`.
        revision, name, dtype, device, overwrite, batch_tokens, trust_remote_code, subfolder, base, quantize, subset, evict
            As in `add`.
        progress : callable, optional
            Called with the models done and their number.

        Returns
        -------
        Plan
            A model is a problem where it is missing, gated or unsupported, or asks for more memory than its device has, or
            for more disk than the models before it leave; with `evict`, than there is.

        Raises
        ------
        InputError
            If the options do not fit together.

        Examples
        --------
        >>> plan = reg.plan(["./tiny", "./no-such-model"], device="cpu")
        >>> [(model.model, model.state) for model in plan.models]
        [('./tiny', 'to do'), ('./no-such-model', 'problem')]
        >>> plan.good, plan.download_bytes
        (['./tiny'], 0)
        """
        from llreg.add.plan import plan

        return plan(
            self,
            models,
            revision=revision,
            name=name,
            dtype=dtype,
            device=device,
            overwrite=overwrite,
            batch_tokens=batch_tokens,
            trust_remote_code=trust_remote_code,
            subfolder=subfolder,
            base=base,
            quantize=quantize,
            subset=subset,
            evict=evict,
            progress=progress,
        )

    def verify(
        self,
        model: str,
        texts: int = 32,
        *,
        seed: int | None = None,
        path: str | Path | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> Agreement:
        """Score some of a row's texts again, and say whether the row is what its model gives.

        Parameters
        ----------
        model : str
            A row: a model name, a row id or the first digits of a digest.
        texts : int
            How many, drawn from those that the row has a value for.
        seed : int, optional
            Draws the same texts again; by default from the system's randomness, so that no contributor knows which.
        path : str or path, optional
            Where the model's files are, for a row of a local model; a directory, a ``.gguf`` file or a Hub id. By default
            the model that the row names, at its commit on the Hub.
        device : str
            "cpu", "cuda", "cuda:N", or "auto": the GPU if there is one.
        trust_remote_code : bool
            Run Python code from the model's repository, if the row was made so.

        Returns
        -------
        Agreement
            Its ``outcome`` is "match", "mismatch" or "inconclusive"; the last also where the model cannot be had or scored
            here; ``why`` says so in a sentence.

        Raises
        ------
        NotFoundError, InputError
            If `model` means no row or several, `texts` is not positive, or none of the row's texts is copied here.
        MissingExtraError
            If torch or transformers is not installed.

        Examples
        --------
        >>> [result] = reg.add(["./tiny"], name="ada/tiny", dtype="float32", device="cpu")
        >>> reg.verify("ada/tiny", texts=8, path="./tiny", device="cpu").outcome
        'match'
        >>> reg.verify("toy/owl-1b", texts=8, device="cpu").outcome  # there is no such model
        'inconclusive'
        """
        from llreg.verify.verify import verify

        return verify(self, model, texts, seed=seed, path=path, device=device, trust_remote_code=trust_remote_code)

    def annotate(self, source: Any, *, name: str | None = None) -> Annotations:
        """Keep a table of one's own columns beside the rows, under a name; one of that name is replaced.

        Parameters
        ----------
        source : path, mapping or DataFrame
            A CSV or Parquet file, or columns by name: a column `model` (names, row ids or digests) and others.
        name : str, optional
            By default the file's.

        Returns
        -------
        Annotations
            The table as it was kept; lines of models without a row are kept for later.

        Raises
        ------
        InputError
            If it is no table with a column of models, a model stands there twice, two names differ only in case, or one is
            the name of rows of different weights.
        StorageError
            If it cannot be written.

        Examples
        --------
        >>> reg.annotate("scores.csv").columns["arc"][:3]
        [33.0, 40.4, 32.4]
        >>> table = reg.annotate({"model": ["toy/owl-1b", "toy/yak-1b"], "wings": [2, 0]}, name="zoo")
        >>> table.unknown(reg.records())
        ['toy/yak-1b']
        """
        from llreg.store.annotations import annotate

        return annotate(self, source, name=name)

    def build(self) -> str:
        """Make ``store.zarr``, ``models.parquet`` and the card from the accepted rows, in the place of the old ones.

        Returns
        -------
        str
            The version id, 64 hex digits.

        Raises
        ------
        InvalidFileError
            If a row file is damaged; the old build stays.
        StorageError
            If the disk is full or read-only; the old build stays.

        Examples
        --------
        >>> reg.build() == reg.version
        True
        >>> import xarray
        >>> xarray.open_zarr(reg.path / "store.zarr").sizes["model"]
        29
        """
        from llreg.store.build import build

        return build(self)

    def check_build(self) -> list[str]:
        """Build anew beside the build and say what differs.

        Returns
        -------
        list of str
            Empty if the build is current.

        Examples
        --------
        >>> reg.check_build()
        []
        >>> record = reg.retract("toy/fox-3b", why="made by mistake")
        >>> reg.check_build()
        ['store.zarr differs from the rows', 'models.parquet differs from the rows', 'README.md differs from the rows']
        """
        from llreg.store.build import check_build

        return check_build(self)

    def tag(self, name: str) -> dict[str, Any]:
        """Name the present version: write ``versions/<name>.json``.

        Parameters
        ----------
        name : str
            As v1. A name never moves to another version.

        Returns
        -------
        dict
            ``tag``, ``version``, ``created`` and ``rows`` (digests).

        Raises
        ------
        InputError
            If the name is taken by another version, or is no usable file name.

        Examples
        --------
        >>> len(reg.tag("v1")["rows"])
        29
        >>> record = reg.retract("toy/fox-3b", why="made by mistake")
        >>> len(reg.records()), len(llreg.open(reg.path, revision="v1").records())
        (28, 29)
        """
        from llreg.store.versions import tag

        return tag(self, name)

    def retract(self, name: str, *, why: str) -> RowRecord:
        """Withdraw a row: lists, distances and builds leave it out; its file stays.

        Parameters
        ----------
        name : str
            A model name, a row id or the first digits of a digest.
        why : str
            The reason, one line; it is kept and shown.

        Returns
        -------
        RowRecord
            The record of the withdrawn row.

        Raises
        ------
        NotFoundError, InputError
            If `name` means no row or several, or `why` says nothing.

        Examples
        --------
        >>> reg.retract("toy/fox-3b", why="scored with the wrong tokenizer").row_id
        'toy/fox-3b@2ea11ec2'
        >>> reg.log()[0]["detail"]
        'scored with the wrong tokenizer'
        """
        from llreg.store.versions import retract

        return retract(self, name, why=why)

    def validate(self, paths: Sequence[Path] = (), *, progress: Progress | None = None) -> list[Problem]:
        """Check files: form, hashes, values, identity.

        Parameters
        ----------
        paths : sequence of Path
            Row files; by default every file of the registry.
        progress : callable, optional
            Called with (files checked, files in all).

        Returns
        -------
        list of Problem
            Empty if all is well. It raises nothing for a bad file.

        Examples
        --------
        >>> reg.validate()
        []
        >>> path = reg.row_files()[reg.find("toy/owl-1b").digest]
        >>> written = path.write_bytes(path.read_bytes()[:-40])
        >>> len(reg.validate([path]))
        1
        """
        from llreg.store.validate import validate

        return validate(self, paths, progress=progress)

    def summary(self, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A line a row, as `llreg ls` shows it.

        Parameters
        ----------
        columns : sequence of str
            Further columns, as ``column`` or ``table.column`` of tables that `annotate` keeps; None where a row has no value.

        Returns
        -------
        list of dict
            ``model``, ``row_id``, ``revision``, ``weights``, ``base``, ``num_parameters``, ``texts_scored``, ``subset`` (id
            of the sample of texts that it was scored on, or None), ``mean_log_likelihood`` (nats per text, over the
            scored texts), ``bits_per_byte`` (minus the sum of log-likelihoods, in bits, over the bytes of the scored
            texts), ``added_at``, ``contributor``, and those of `columns`.

        Examples
        --------
        >>> line = reg.summary()[-1]
        >>> line["model"], line["texts_scored"], round(line["bits_per_byte"], 3)
        ('toy/run-step4000', 128, 0.956)
        >>> table = reg.annotate("scores.csv")
        >>> max(reg.summary(["arc"]), key=lambda line: line["arc"] or 0)["model"]
        'toy/newt-3b'
        """
        from llreg.store.listings import summary

        return summary(self, columns)

    def accuracy(self, models: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Next-token accuracy: the share of the scored tokens that were the model's first choice.

        Tokens of other tokenizers are other tokens: compare models of one tokenizer.

        Parameters
        ----------
        models : sequence of str, optional
            Which rows, as in `find`; all by default.

        Returns
        -------
        list of dict
            ``row_id``; ``accuracy``, of all scored tokens, and ``subsets``, of those of each subset of the texts: None, and
            empty, in a row without segments, which does not know. Of pairs, tokens of the response given its prompt.

        Raises
        ------
        NotFoundError
            If a name means no row; InputError if it means several.

        Examples
        --------
        >>> [line] = reg.accuracy(["toy/newt-3b"])
        >>> line["accuracy"] is None  # scored before rows had segments
        True
        >>> line["subsets"]
        {}
        """
        from llreg.store.listings import accuracy

        return accuracy(self, models)

    def status(self) -> dict[str, Any]:
        """What is not built, not published or not finished, and which version this is.

        Returns
        -------
        dict
            ``registry``, ``path``, ``segments`` (into which the texts are cut; 0 in a registry of format 1), ``fine_rows``
            (rows that have them), ``version``, ``tags``, ``rows``, ``retracted``, ``has_build``, ``build_current``,
            ``not_built`` and ``to_leave_out`` (row ids), ``unfinished`` (runs of `add`), and ``remote``: None, or
            ``repo``, ``revision``, ``commit``, ``pull_request`` and ``unpublished`` (row ids).

        Examples
        --------
        >>> status = reg.status()
        >>> status["rows"], status["build_current"], status["remote"]
        (29, True, None)
        >>> record = reg.retract("toy/fox-3b", why="made by mistake")
        >>> reg.status()["to_leave_out"] == [record.row_id]
        True
        """
        from llreg.store.listings import status

        return status(self)

    def log(self) -> list[dict[str, Any]]:
        """What happened, newest first: rows added, rows retracted, versions named.

        Returns
        -------
        list of dict
            Keys ``at`` (UTC), ``what`` ("added", "retracted", "tagged"), ``id`` and ``detail``.

        Examples
        --------
        >>> manifest = reg.tag("v1")
        >>> [(event["what"], event["id"]) for event in reg.log()[:2]]
        [('tagged', 'v1'), ('added', 'toy/run-step4000@a6af5083')]
        >>> len(reg.log())
        30
        """
        from llreg.store.listings import log

        return log(self)

    def diff(self, old: str, new: str | None = None) -> dict[str, Any]:
        """Rows that one version has and another has not.

        Parameters
        ----------
        old : str
            Tag of a named version.
        new : str, optional
            Tag of another one; by default what is accepted now.

        Returns
        -------
        dict
            ``from`` and ``to`` (tag or None, version id), ``added`` and ``removed`` (lists of row_id, digest and, for
            removed ones that were retracted, why).

        Raises
        ------
        NotFoundError
            If there is no such version.

        Examples
        --------
        >>> manifest = reg.tag("v1")
        >>> record = reg.retract("toy/fox-3b", why="made by mistake")
        >>> diff = reg.diff("v1")
        >>> [(row["row_id"], row["why"]) for row in diff["removed"]], diff["added"]
        ([('toy/fox-3b@2ea11ec2', 'made by mistake')], [])
        >>> reg.diff("v1", "v1")["removed"]
        []
        """
        from llreg.store.listings import diff

        return diff(self, old, new)
