"""Benchmark scores predicted from rows: ``scores`` in, ``ridge`` by ``predict``, ``prediction`` out, ``leak`` beside it."""
