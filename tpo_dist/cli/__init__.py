"""The `tpo-dist` command, one small file for each subcommand."""
