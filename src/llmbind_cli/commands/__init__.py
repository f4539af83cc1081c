"""The subcommands: flags in, one call down, result out.

A module here imports Typer and the standard library only; whatever is heavy is imported in the
function body, so that ``llmbind --help`` stays fast.
"""
