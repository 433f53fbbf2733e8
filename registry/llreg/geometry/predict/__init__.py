"""Benchmark scores predicted from rows."""
