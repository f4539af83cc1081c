"""From a request to its results: decisions, dispatch of task calls, artifacts; chats, batches."""
