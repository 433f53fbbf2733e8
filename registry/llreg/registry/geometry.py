"""Verbs of a registry that compare its rows: distances, neighbours, relatives, training runs, predictions, subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llreg.store.contents import Contents
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.kl.spans import Spans
    from llreg.geometry.lineage import Duplicates, Lineage
    from llreg.geometry.neighbors import Neighbors
    from llreg.geometry.predict.prediction import Prediction
    from llreg.geometry.view.view import AnyView, View
    from llreg.store.rowfile import Row


class GeometryVerbs(Contents):
    """What is computed from rows. Everything is seen through a view, and says through which."""

    @property
    def view(self) -> View:
        """The default view: its clip threshold is frozen, so that distances do not move when rows come.

        Examples
        --------
        >>> reg.view.describe()
        'segments, whole texts: no clipping'
        >>> from dataclasses import replace
        >>> replace(reg.view, clip=-300.0, without=("code",)).describe()
        'segments, whole texts: clipped at -300 nats, without code'
        """
        from llreg.geometry.view.view import View

        return View.from_json(self.view_document)

    def rows(self, models: Sequence[str] | None = None, *, view: AnyView = "default") -> Rows:
        """Rows as a view shows them, in memory: what all geometry is computed from.

        Parameters
        ----------
        models : sequence of str, optional
            Which rows: model names, row ids or the first digits of digests; all by default.
        view : View, mapping, path or "default"
            A view, its document, a JSON file that holds one, or the registry's own.

        Returns
        -------
        Rows
            With ``values``, float64 of shape (n_models, n_texts), nats; NaN where a text was not scored.

        Raises
        ------
        NotFoundError, InputError
            If a name means no row or several, or the view does not fit the text set.

        Examples
        --------
        >>> reg.rows().values.shape
        (29, 128)
        >>> rows = reg.rows(["toy/owl-1b", "toy/owl-3b"])
        >>> rows.labels, rows.values.mean(axis=1).round(1)
        (['toy/owl-1b', 'toy/owl-3b'], array([-217.9, -190.1]))
        """
        from llreg.geometry.kl.rows import load_rows
        from llreg.geometry.view.view import view_of

        return load_rows(self, models, view_of(self, view))

    def kl(
        self,
        models: Sequence[str] | None = None,
        others: Sequence[str] | None = None,
        *,
        clip: float | Literal["default"] | None = "default",
        view: AnyView = "default",
        se: bool = True,
        tail_share: bool | None = None,
    ) -> Dataset:
        """KL divergences between rows, with standard errors.

        Parameters
        ----------
        models : sequence of str, optional
            Which rows, as in `rows`; all by default.
        others : sequence of str, optional
            The rows to compare them with; `models` by default.
        clip : float, None or "default"
            Clip threshold instead of the view's, nats per text; None for none.
        view : View, mapping, path or "default"
            As in `rows`.
        se : bool
            Whether to compute standard errors.
        tail_share : bool, optional
            Whether to compute tail shares; by default up to 20,000 pairs.

        Returns
        -------
        xarray.Dataset
            Dims (model, other); float64 ``kl``, ``kl_se`` in nats per text, ``kl_bits_per_byte``,
            ``kl_bits_per_byte_se``, ``tail_share``, ``noise_floor``; int64 ``num_texts``; row ids and model names as
            coordinates; the version and the view in the attributes. Formulas in `llreg.geometry.kl.distance`.

        Raises
        ------
        NotFoundError, InputError
            As in `rows`; if `clip` is no number.

        Examples
        --------
        >>> kl = reg.kl(["toy/owl-1b", "toy/owl-3b", "toy/fox-1b"])
        >>> kl.kl_bits_per_byte.values.round(3)
        array([[0.   , 0.173, 0.312],
               [0.173, 0.   , 0.442],
               [0.312, 0.442, 0.   ]])
        >>> pair = reg.kl(["toy/owl-1b"], ["toy/fox-1b"], clip=-300)
        >>> print(f"{pair.kl.item():.1f} ± {pair.kl_se.item():.1f} nats per text")
        67.5 ± 9.0 nats per text
        """
        from llreg.geometry.kl.distance import kl_rows
        from llreg.geometry.view.view import view_of

        through = view_of(self, view)
        if clip != "default":
            if isinstance(clip, str):
                raise InputError(f"clip: expected a number, None or 'default'; got {clip!r}")
            through = replace(through, clip=clip)
        rows = self.rows(models, view=through)
        columns = None if others is None else self.rows(others, view=through)
        return kl_rows(rows, columns, se=se, tail_share=tail_share)

    def spans(self, models: Sequence[str], *, count: int = 20, view: AnyView = "default") -> Spans:
        """In which parts of their texts two rows differ, and most: whatever their tokenizers.

        Parameters
        ----------
        models : sequence of str
            Two rows, as in `rows`, with segments.
        count : int
            How many spans to name.
        view : View, mapping, path or "default"
            As in `rows`; its texts and weights count, and segments are not clipped.

        Returns
        -------
        Spans
            ``spans``, a dict for each, largest share of the KL first; the segments of all texts that both have; totals by
            subset. `llreg.maps.draw.diff.write_diff` makes a page of it.

        Raises
        ------
        NotFoundError, InputError
            As in `rows`; if these are not two rows with segments, or their files are not here.

        Examples
        --------
        >>> found = llreg.open("fine").spans(["toy/owl-3b", "toy/owl-3b-chat"], count=2)
        >>> for span in found.spans:
        ...     print(span["text"], span["start"], span["end"], round(span["difference"], 1), span["passage"].strip())
        93 104 154 -8.6 DTSTAMP:20250302T101500Z
        DTSTART:20250424T160000Z
        81 96 144 -5.8 tes":[[[14.2,45.6],[14.4,45.6],[14.3,45.7],[14.2
        >>> largest = max(found.subsets, key=lambda subset: subset["share"])
        >>> print(f"{largest['share']:.0%} of the KL in {largest['subset']}")
        33% of the KL in data
        >>> from llreg.maps.draw.diff import write_diff
        >>> write_diff(found, "diff.html")
        """
        from llreg.geometry.kl.spans import find_spans
        from llreg.geometry.view.view import view_of

        return find_spans(self, models, view=view_of(self, view), count=count)

    def neighbors(
        self,
        query: str | Path | Row | NDArray[np.floating],
        k: int = 10,
        *,
        view: AnyView = "default",
        where: Sequence[str] = (),
    ) -> Neighbors:
        """The rows nearest to a row or a vector.

        Parameters
        ----------
        query : str, Path, Row or float array of shape (n_texts,)
            A row, as in `rows`, or one that is not in the registry (`llreg.score.score_row`); or a ``.npy`` file or an array of
            raw log-likelihoods, nats, on the registry's texts, NaN where not scored. Of pairs it may have shape (2, n_texts):
            the responses given their prompts, and alone.
        k : int
            How many.
        view : View, mapping, path or "default"
            As in `rows`.
        where : sequence of str
            Conditions on metadata, all of which must hold, as "architecture=LlamaForCausalLM" or "num_parameters<2e9".

        Returns
        -------
        Neighbors
            ``nearest``, in bits per byte; and where the declared base models stand.

        Raises
        ------
        NotFoundError, InputError
            If the query is no row, or no vector of this text set; if a condition cannot be read.

        Examples
        --------
        >>> for neighbor in reg.neighbors("toy/owl-3b-chat", k=2).nearest:
        ...     print(neighbor.model, round(neighbor.kl, 3), neighbor.relation)
        toy/owl-3b 0.005 declared base
        toy/owl-1b 0.176
        >>> reg.neighbors("toy/owl-3b-chat", k=1, where=["num_parameters<2e9"]).nearest[0].model
        'toy/owl-1b'
        """
        from llreg.geometry.neighbors import neighbors
        from llreg.geometry.view.view import view_of

        return neighbors(self, query, k, view=view_of(self, view), where=where)

    def lineage(
        self,
        model: str,
        *,
        candidates: int = 10,
        level: float = 0.05,
        view: AnyView = "default",
        families: Mapping[str, str] | None = None,
    ) -> Lineage:
        """Test whether the nearest rows are relatives of a row: nearer than unrelated models of their kind are.

        Parameters
        ----------
        model : str
            A row, as in `rows`.
        candidates : int
            How many of the nearest rows to show; all rows count as tests.
        level : float
            False discovery rate up to which a row counts as related.
        view : View, mapping, path or "default"
            As in `rows`.
        families : mapping of str to str, optional
            Family of each model name, where it is known: models of one family count as related, as do declared ones.

        Returns
        -------
        Lineage
            ``relatives``, each with p, q and a finding; ``declared_bases`` and ``missing_bases``.

        Raises
        ------
        NotFoundError, InputError
            As `neighbors`.

        See Also
        --------
        llreg.geometry.lineage.lineage : the statistic, its null and what they assume.

        Examples
        --------
        >>> lineage = reg.lineage("toy/owl-3b-chat", level=0.1)
        >>> [(relative.neighbor.model, relative.finding) for relative in lineage.relatives[:2]]
        [('toy/owl-3b', 'related'), ('toy/owl-1b', '')]
        >>> families = {row.identity.name: row.identity.name.split("-")[0] for row in reg.records()}
        >>> nearest = reg.lineage("toy/owl-3b-chat", families=families).relatives[0]
        >>> print(f"p {nearest.p:.4f}, q {nearest.q:.2f}, from {nearest.null_pairs} unrelated pairs")
        p 0.0028, q 0.08, from 360 unrelated pairs
        """
        from llreg.geometry.lineage import lineage
        from llreg.geometry.view.view import view_of

        return lineage(self, model, candidates=candidates, level=level, view=view_of(self, view), families=families)

    def duplicates(self, *, view: AnyView = "default") -> list[Duplicates]:
        """Groups of rows of different models that are identical, or the same within noise.

        Parameters
        ----------
        view : View, mapping, path or "default"
            As in `rows`.

        Returns
        -------
        list of Duplicates
            Largest first. Replicates of one model are not duplicates.

        Examples
        --------
        >>> reg.duplicates()
        []
        >>> from dataclasses import replace
        >>> reg.duplicates(view=replace(reg.view, clip=-1.0))  # clipped to one value, rows are no duplicates for that
        []
        """
        from llreg.geometry.lineage import duplicates
        from llreg.geometry.view.view import view_of

        return duplicates(self, view=view_of(self, view))

    def trajectory(
        self,
        models: Sequence[str],
        *,
        view: AnyView = "default",
        order: Sequence[float] | None = None,
        by: Literal["step", "size"] = "step",
        since: float = 0.0,
    ) -> Dataset:
        """The path of a training run, or of a family's sizes: KL from checkpoint to checkpoint and from the first one.

        Parameters
        ----------
        models : sequence of str
            At least two rows, as in `rows`; they are sorted here.
        view : View, mapping, path or "default"
            As in `rows`.
        order : sequence of float, optional
            Training steps, tokens or another clock, one a row; by default as `by` says.
        by : {"step", "size"}
            Take the clock from steps or tokens in names and revisions, or from the declared numbers of parameters.
        since : float
            Checkpoints before this step start no exponent.

        Returns
        -------
        xarray.Dataset
            Dim ``checkpoint``; ``kl_step`` and ``kl_first``, nats per text, with standard errors and in bits per byte;
            ``exponent``. All variables: `llreg.geometry.trajectory.trajectory`.

        Raises
        ------
        InputError
            With fewer than two rows, a clock that lacks or repeats for some of them, or rows without common texts.

        Examples
        --------
        >>> run = reg.trajectory([f"toy/run-step{step}" for step in (1000, 2000, 3000, 4000)])
        >>> run.kl_first_bits_per_byte.values.round(4)
        array([   nan, 0.0084, 0.0246, 0.0365])
        >>> sizes = reg.trajectory(["toy/owl-3b", "toy/owl-1b"], by="size")
        >>> sizes.model_id.values.tolist(), sizes.order.values
        (['toy/owl-1b', 'toy/owl-3b'], array([1.e+09, 3.e+09]))
        """
        from llreg.geometry.kl.rows import load_rows
        from llreg.geometry.trajectory import trajectory
        from llreg.geometry.view.view import view_of

        rows = load_rows(self, models, view_of(self, view), common=True)
        return trajectory(rows, order=order, by=by, since=since)

    def predict(
        self,
        scores: Any,
        *,
        tasks: Sequence[str] | None = None,
        family: str | None = None,
        view: AnyView = "default",
        seeds: Sequence[int] = range(5),
        folds: int = 5,
        alphas: Sequence[float] | None = None,
        level: float = 0.9,
        strict: bool = False,
    ) -> Prediction:
        """Predict benchmark scores from rows, and say how well that works.

        Parameters
        ----------
        scores : path, str, mapping, DataFrame or pyarrow.Table
            A CSV or Parquet file, or the name of an annotation: a column of models, and of numbers for each benchmark.
            From Python also columns by name, or scores by model, ``{"org/name": {"arc": 58.6}}``.
        tasks : sequence of str, optional
            Columns to take; by default all that hold numbers.
        family : str, optional
            The column that groups models into families; by default the first of family, model_type, type, group.
        view : View, mapping, path or "default"
            As in `rows`.
        seeds : sequence of int
            One split into folds each.
        folds : int
            At least 2; fewer are made where there are fewer families.
        alphas : sequence of float, optional
            Penalties of the ridge regression to choose from, above 0; by default powers of ten.
        level : float
            Coverage of the intervals, between 0 and 1.
        strict : bool
            Whether a scored model without a row is an error.

        Returns
        -------
        Prediction
            How well each benchmark is predicted for unseen families, and predictions of rows without a score.

        Raises
        ------
        InputError
            If no benchmark has five scored models whose rows share texts, or an option is out of range.
        NotFoundError
            If no scored model has a row, or (strict) one has none.

        Notes
        -----
        Ridge regression as in Oyama et al. 2025 (arXiv 2502.16173); see `llreg.geometry.predict.predict.predict`.

        Examples
        --------
        >>> prediction = reg.predict("scores.csv")  # of all but the chat model and the run
        >>> task = prediction.tasks[0]
        >>> task.task, task.num_models, round(task.grouped.pearson, 2)
        ('arc', 24, 0.69)
        >>> k = prediction.models.index("toy/owl-3b-chat")
        >>> value, low, high = (array[k, 0] for array in (prediction.predicted, prediction.low, prediction.high))
        >>> print(f"{value:.0f} [{low:.0f}, {high:.0f}]")
        54 [44, 63]
        """
        from llreg.geometry.kl.rows import load_rows
        from llreg.geometry.predict.predict import predict
        from llreg.geometry.predict.ridge import ALPHAS
        from llreg.geometry.predict.scores import read_scores
        from llreg.geometry.view.view import view_of
        from llreg.store.annotations import table_file

        source = table_file(self, scores) if isinstance(scores, (str, Path)) else scores
        return predict(
            load_rows(self, None, view_of(self, view), common=True),
            read_scores(source, tasks=tasks, family=family),
            seeds=seeds,
            folds=folds,
            alphas=ALPHAS if alphas is None else alphas,
            level=level,
            strict=strict,
        )

    def subset(
        self,
        size: int | None = None,
        *,
        draws: int | None = None,
        method: Literal["ls", "kl", "uniform"] = "ls",
        floor: float | None = None,
        seed: int = 0,
        view: AnyView = "default",
    ) -> dict[str, Any]:
        """Draw a sample of the texts that new models may be scored on, at a fraction of the cost.

        Parameters
        ----------
        size : int, optional
            Texts of the sample, drawn without replacement; this or `draws`.
        draws : int, optional
            Draws with replacement, as Oyama et al. 2025b (arXiv 2505.15428) make them.
        method : {"ls", "kl", "uniform"}
            Which texts are likelier: those that tell the present models apart (ls, kl), or none.
        floor : float, optional
            Share of the draws that is uniform whatever the method; 0.5 by default.
        seed : int
            Another seed draws another sample.
        view : View, mapping, path or "default"
            As in `rows`; its texts are drawn from.

        Returns
        -------
        dict
            The document of a subset file (``subset.schema.json``), for ``add(..., subset=...)``.

        Raises
        ------
        InputError
            If the numbers do not fit, or the method needs rows that are not there.

        Examples
        --------
        >>> sample = reg.subset(40)
        >>> len(sample["texts"]), sample["method"], sample["replacement"]
        (40, 'ls', False)
        >>> drawn = reg.subset(draws=40, method="uniform", seed=1)
        >>> sum(drawn["counts"]), len(drawn["texts"])
        (40, 33)
        """
        from llreg.geometry.subset import make_subset
        from llreg.geometry.view.view import view_of

        view = view_of(self, view)
        return make_subset(self, size, draws=draws, method=method, floor=floor, seed=seed, view=view)
