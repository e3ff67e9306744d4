"""What each command does: ``run(args) -> exit status``, one module per command, imported when it is run."""
