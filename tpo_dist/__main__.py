"""`python -m tpo_dist` is the `tpo-dist` command."""

from tpo_dist.cli.main import main

if __name__ == "__main__":
    main()
