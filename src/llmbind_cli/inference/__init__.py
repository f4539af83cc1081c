"""From a request to its results: sessions, batches, dispatch of task calls, artifacts."""
